//! What the kernel must have, tried out rather than looked up.

use crate::links;
use crate::netlink::Netlink;
use crate::netns::Namespace;
use crate::operation::{LinkSpec, TunnelKind, TunnelSpec};
use crate::syscall::{Instruction, create_map, knows_tcx, load_program, load_socket_program, test_run};
use crate::{GeneveBy, Tunnel, filters, links::ifindex};
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

const BPF_FUNC_SKB_GET_TUNNEL_KEY: i32 = 20;
const BPF_FUNC_SKB_SET_TUNNEL_KEY: i32 = 21;
const BPF_FUNC_SKB_ADJUST_ROOM: i32 = 50;
const BPF_FUNC_JIFFIES64: i32 = 118;
const BPF_FUNC_REDIRECT_PEER: i32 = 155;
const BPF_FUNC_SET_RETVAL: i32 = 187;

/// Hooks of cgroups (`enum bpf_attach_type`).
const CONNECT: u32 = 10;
const UDP_RECVMSG: u32 = 19;
const GETPEERNAME: u32 = 29;

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

/// Decides what is left to the kernel.
pub fn resolve(tunnel: Tunnel) -> Tunnel {
    let Tunnel::Geneve { port, by: GeneveBy::Auto } = tunnel else { return tunnel };
    let by = match geneve_device() {
        Ok(()) => GeneveBy::Device,
        Err(reason) => {
            tracing::info!(reason, "the packet programs speak Geneve by themselves");
            if !changes_family().unwrap_or(true) {
                tracing::warn!("IPv6 in Geneve over IPv4, and IPv4 over IPv6, will be dropped: that needs Linux 6.3");
            }
            GeneveBy::Programs
        }
    };
    Tunnel::Geneve { port, by }
}

/// Whether programs can take a packet of one family out of one of the other (Linux 6.3). Where not, what comes so is
/// dropped.
pub fn changes_family() -> io::Result<bool> {
    const BEHIND_ETHERNET: i32 = 1;
    const FIXED_AND_TO_IPV4: i32 = 1 | 1 << 7;
    let program = [
        Instruction::set(2, -14),
        Instruction::set(3, BEHIND_ETHERNET),
        Instruction::set(4, FIXED_AND_TO_IPV4),
        Instruction::set(5, 0),
        Instruction::call(BPF_FUNC_SKB_ADJUST_ROOM),
        Instruction::EXIT,
    ];
    // The packet of such a run is of neither family, which is found out after the flags.
    Ok(test_run(load_program(&program)?.as_fd())? as i32 != -libc::EINVAL)
}

/// Whether programs on a cgroup can say with which error a call fails (Linux 5.18); where not, it is EPERM.
pub fn tells_error() -> bool {
    let program = [
        Instruction::set(1, -libc::ECONNREFUSED),
        Instruction::call(BPF_FUNC_SET_RETVAL),
        Instruction::set(0, 0),
        Instruction::EXIT,
    ];
    load_socket_program(CONNECT, &program).is_ok()
}

/// What the kernel lacks of what sockets need to be served.
pub fn sockets() -> Vec<Missing> {
    let mut missing = Vec::new();
    let hooks = [
        (CONNECT, "programs on a cgroup (Linux 4.17)"),
        (UDP_RECVMSG, "programs on a cgroup that see what is received (Linux 5.2)"),
        (GETPEERNAME, "programs on a cgroup that see who is asked for (Linux 5.8)"),
    ];
    for (hook, what) in hooks {
        let program = [Instruction::set(0, 1), Instruction::EXIT];
        note(&mut missing, what, "CONFIG_CGROUP_BPF", load_socket_program(hook, &program).map(drop));
    }
    missing
}

/// Whether the kernel has a Geneve device that is of use, tried out in a namespace of its own; or why not.
pub fn geneve_device() -> Result<(), String> {
    if !tells_flags().map_err(|error| format!("try out tunnel keys: {error}"))? {
        return Err("the kernel does not tell programs of critical options (Linux 6.0)".to_owned());
    }
    tunnel_device(TunnelKind::Geneve { port: 6081 })
        .map_err(|refused| format!("the kernel has no Geneve device (CONFIG_GENEVE): {refused}"))
}

/// What a kernel lacks that cannot make the device of a VXLAN tunnel, tried out likewise.
pub fn lacks_vxlan() -> Option<Missing> {
    let error = tunnel_device(TunnelKind::Vxlan { port: 8472 }).err()?;
    let needs = "CONFIG_VXLAN; or --tunnel geneve on all nodes, which packet programs can do without a device";
    Some(Missing { what: "VXLAN devices, for --tunnel vxlan", needs, error })
}

fn tunnel_device(kind: TunnelKind) -> Result<(), String> {
    let spec = TunnelSpec { kind, mtu: 1400 };
    let namespace = Namespace::create().map_err(|error| crate::reconcile::chain(&error))?;
    let tried = namespace.run(|| {
        let mut netlink = Netlink::open().map_err(|error| error.to_string())?;
        let requests = links::create_tunnel(spec, [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])], false);
        netlink.execute(requests.into()).map_err(|error| error.to_string())
    });
    let answers = tried.map_err(|error| crate::reconcile::chain(&error))??;
    answers.into_iter().find_map(Result::err).map_or(Ok(()), |refused| Err(refused.to_string()))
}

/// Whether a program is told the flags of a tunnel's header: gives a packet a tunnel key, and asks for it with them.
fn tells_flags() -> io::Result<bool> {
    const KEY: i32 = 28;
    const ROOM: i16 = 32;
    const TUNINFO_FLAGS: i32 = 16;
    let key = [Instruction::copy(2, 10), Instruction::add(2, -i32::from(ROOM)), Instruction::set(3, KEY)];
    let mut program = vec![Instruction::copy(6, 1)];
    program.extend([-8, -16, -24, -ROOM].map(Instruction::clear));
    program.extend(key);
    program.extend([Instruction::set(4, 0), Instruction::call(BPF_FUNC_SKB_SET_TUNNEL_KEY)]);
    program.push(Instruction::copy(1, 6));
    program.extend(key);
    program.extend([Instruction::set(4, TUNINFO_FLAGS), Instruction::call(BPF_FUNC_SKB_GET_TUNNEL_KEY)]);
    program.push(Instruction::EXIT);
    Ok(test_run(load_program(&program)?.as_fd())? == 0)
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
        assert_eq!(lacks_vxlan(), None);
        assert_eq!(sockets(), Vec::new());
        assert!(tells_error());
    }
}
