//! What the kernel must have, tried out rather than looked up.

use crate::links;
use crate::netlink::Netlink;
use crate::netns::Namespace;
use crate::operation::LinkSpec;
use crate::syscall::{Instruction, create_map, knows_tcx, load_program};
use crate::{filters, links::ifindex};
use model::{EndpointId, Mac};
use std::io;
use std::os::fd::AsFd;

/// Something that the datapath cannot do without and the kernel does not have.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Missing {
    /// In words, with the first kernel that has it where that is the point.
    pub what: &'static str,
    /// The setting of the kernel's configuration, or the privilege, that brings it.
    pub needs: &'static str,
    /// What the kernel said.
    pub error: String,
}

const MAPS: [(u32, u32, u32, u32, &str, &str); 4] = [
    (6, 4, 8, 1, "per-CPU array maps", "CONFIG_BPF_SYSCALL"),
    (9, 4, 4, 1, "LRU hash maps", "CONFIG_BPF_SYSCALL"),
    (11, 8, 4, 1, "longest-prefix-match maps", "CONFIG_BPF_SYSCALL"),
    (27, 0, 0, 4096, "the BPF ring buffer (Linux 5.8)", "CONFIG_BPF_SYSCALL"),
];
const LPM_TRIE: u32 = 11;
const BPF_F_NO_PREALLOC: u32 = 1;

const BPF_FUNC_JIFFIES64: i32 = 118;
const BPF_FUNC_REDIRECT_PEER: i32 = 155;

/// Tries out everything that is needed. Leaves nothing behind. Empty: all is there.
pub fn probe() -> Vec<Missing> {
    let mut missing = Vec::new();
    // Without maps nothing else can be told apart.
    if let Err(error) = create_map(1, 4, 4, 1, 0) {
        let needs = match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => "root, or CAP_BPF and CAP_NET_ADMIN",
            _ => "CONFIG_BPF_SYSCALL",
        };
        return vec![Missing { what: "BPF maps", needs, error: error.to_string() }];
    }
    for (kind, key, value, entries, what, needs) in MAPS {
        let flags = if kind == LPM_TRIE { BPF_F_NO_PREALLOC } else { 0 };
        note(&mut missing, what, needs, create_map(kind, key, value, entries, flags).map(drop));
    }
    let what = "the BPF file system";
    note(&mut missing, what, "CONFIG_BPF_SYSCALL", has_bpffs());
    let classifier = load_program(&[Instruction::set(0, 0), Instruction::EXIT]);
    let what = "packet programs";
    note(&mut missing, what, "CONFIG_NET_CLS_ACT", classifier.as_ref().map(drop).map_err(copy));
    let helpers = [
        (BPF_FUNC_JIFFIES64, "the helper bpf_jiffies64 (Linux 5.6)", "CONFIG_BPF_SYSCALL"),
        (BPF_FUNC_REDIRECT_PEER, "the helper bpf_redirect_peer (Linux 5.10)", "CONFIG_NET_CLS_ACT"),
    ];
    for (helper, what, needs) in helpers {
        let program = [
            Instruction::set(1, 1),
            Instruction::set(2, 0),
            Instruction::call(helper),
            Instruction::set(0, 0),
            Instruction::EXIT,
        ];
        note(&mut missing, what, needs, load_program(&program).map(drop));
    }
    let tcx = classifier.is_ok_and(|program| knows_tcx(program.as_fd()));
    missing.extend(devices(tcx));
    missing
}

fn note(missing: &mut Vec<Missing>, what: &'static str, needs: &'static str, result: io::Result<()>) {
    if let Err(error) = result {
        missing.push(Missing { what, needs, error: error.to_string() });
    }
}

fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

fn has_bpffs() -> io::Result<()> {
    let known = std::fs::read_to_string("/proc/filesystems")?;
    let found = known.lines().any(|line| line.split_whitespace().last() == Some("bpf"));
    if found { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

/// Makes a pair of devices in a namespace of its own, which takes them with it.
fn devices(tcx: bool) -> Vec<Missing> {
    let spec = LinkSpec {
        name: "probe0".to_owned(),
        node_mac: Mac([2, 0, 0, 0, 0, 1]),
        peer_name: "probe1".to_owned(),
        mac: Mac([2, 0, 0, 0, 0, 2]),
        mtu: 1500,
    };
    let id = EndpointId(1);
    let tried = Namespace::create().and_then(|namespace| {
        namespace.run(|| {
            let mut netlink = Netlink::open().map_err(|error| error.to_string())?;
            let mut requests = links::create(id, &spec, false).to_vec();
            requests.push(filters::add_qdisc(ifindex(id)));
            netlink.execute(requests).map_err(|error| error.to_string())
        })
    });
    let answers = match tried {
        Ok(Ok(answers)) => answers,
        Ok(Err(error)) => return vec![Missing { what: "route netlink", needs: "CONFIG_NET", error }],
        Err(error) => {
            let error = crate::reconcile::chain(&error);
            return vec![Missing { what: "network namespaces", needs: "CONFIG_NET_NS", error }];
        }
    };
    let refusal = |at: usize| answers.get(at).and_then(|answer| answer.as_ref().err()).map(ToString::to_string);
    match (refusal(0), refusal(2)) {
        (Some(error), _) => vec![Missing { what: "veth devices", needs: "CONFIG_VETH", error }],
        (None, Some(error)) if !tcx => {
            let what = "a place on devices for packet programs (tcx of Linux 6.6, or clsact)";
            vec![Missing { what, needs: "CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF", error }]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs root: make test"]
    fn this_kernel_has_all() {
        assert_eq!(probe(), Vec::new());
    }
}
