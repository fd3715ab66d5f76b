//! How much the verifier has to go through, against a cap: growth is seen when it happens. And what it says of stacks.

use bpf::abi;
use bpf::names::{knob, program};
use bpf::testing::{Node, Options, stack};

#[test]
#[ignore = "needs root: make test"]
fn programs_stay_below_their_caps() {
    let caps = bpf::testing::verifier::caps().unwrap();
    let geneve = [abi::GENEVE_NONE, abi::GENEVE_DEVICE, abi::GENEVE_PROGRAMS].map(|by| (knob::GENEVE, by));
    for mode in geneve.into_iter().chain([(knob::NATIVE_ROUTING, 1)]) {
        let node = Node::new(&Options { knobs: vec![mode], ..Options::default() }).unwrap();
        for name in program::ALL {
            let count = bpf::testing::verifier::count(&node, name).unwrap();
            let cap = caps.get(name).copied().unwrap_or_else(|| panic!("verifier.toml has no cap for {name}"));
            // Older verifiers see less often that they have been somewhere.
            let cap = if release() >= (6, 9) { cap } else { 2 * cap };
            println!("{name} = {count}, {mode:?}");
            assert!(count > 0 && count <= cap, "{name}: {count} instructions verified, cap {cap}, {mode:?}");
        }
    }
}

/// The rule by which the programs' stacks are measured is the kernel's.
#[test]
#[ignore = "needs root: make test"]
fn what_the_stacks_rule_takes_every_kernel_takes() {
    let depth = |chain: &[u32]| chain.iter().map(|bytes| stack::counted(*bytes)).sum::<u32>();
    for chain in [&[480, 32][..], &[224, 32, 192, 64], &[8, 8, 448], &[480, 0], &[0; stack::FRAMES]] {
        assert!(depth(chain) <= stack::LIMIT, "{chain:?}");
        assert!(stack::is_taken_here(chain).unwrap(), "{chain:?}");
    }
    for chain in [&[496, 32][..], &[256, 264], &[0; stack::FRAMES + 1]] {
        assert!(depth(chain) > stack::LIMIT || chain.len() > stack::FRAMES, "{chain:?}");
        assert!(!stack::is_taken_here(chain).unwrap(), "{chain:?}");
    }
    // Where kernels differ the rule is the older one's.
    for chain in [&[488, 8][..], &[512, 0]] {
        assert!(depth(chain) > stack::LIMIT);
        assert_eq!(stack::is_taken_here(chain).unwrap(), release() >= (6, 9), "{chain:?}");
    }
}

/// The first two numbers of this kernel's release.
fn release() -> (u32, u32) {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = text.split('.').map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}
