//! How much the verifier has to go through, against a cap: growth is seen when it happens.

use bpf::abi;
use bpf::names::{knob, program};
use bpf::testing::{Node, Options};

#[test]
#[ignore = "needs root: make test"]
fn programs_stay_below_their_caps() {
    let caps = bpf::testing::verifier::caps().unwrap();
    for geneve in [abi::GENEVE_NONE, abi::GENEVE_DEVICE, abi::GENEVE_PROGRAMS] {
        let node = Node::new(&Options { knobs: vec![(knob::GENEVE, geneve)], ..Options::default() }).unwrap();
        for name in program::ALL {
            let count = bpf::testing::verifier::count(&node, name).unwrap();
            let cap = caps.get(name).copied().unwrap_or_else(|| panic!("verifier.toml has no cap for {name}"));
            println!("{name} = {count}, geneve {geneve}");
            assert!(count > 0 && count <= cap, "{name}: {count} instructions verified, cap {cap}, geneve {geneve}");
        }
    }
}
