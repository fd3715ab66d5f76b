//! Why a packet was dropped: Cilium's numbers and texts.

/// A reason code as it stands in the metrics map and in drop events. The numbers are Cilium's (`pkg/monitor/api`), the
/// kernel half is `enum drop_reason` in `bpf/abi.h`; a test holds the two together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct DropReason(pub u8);

/// The first code that means a drop; below it stand the reasons of forwarding.
pub const FIRST_DROP: u8 = 130;

const TEXTS: [(u8, &str); 52] = [
    (0, "Success"),
    (2, "Invalid packet"),
    (3, "Interface"),
    (9, "Fragmented packet"),
    (10, "Fragment entry update failed"),
    (130, "Invalid source mac"),
    (131, "Invalid destination mac"),
    (132, "Invalid source ip"),
    (133, "Policy denied"),
    (134, "Invalid packet"),
    (135, "CT: Truncated or invalid header"),
    (136, "Fragmentation needed"),
    (137, "CT: Unknown L4 protocol"),
    (138, "CT: Can't create entry from packet"),
    (139, "Unsupported L3 protocol"),
    (140, "Missed tail call"),
    (141, "Error writing to packet"),
    (142, "Unknown L4 protocol"),
    (143, "Unknown ICMPv4 code"),
    (144, "Unknown ICMPv4 type"),
    (145, "Unknown ICMPv6 code"),
    (146, "Unknown ICMPv6 type"),
    (147, "Error retrieving tunnel key"),
    (150, "Unknown L3 target address"),
    (151, "Stale or unroutable IP"),
    (152, "No matching local container found"),
    (153, "Error while correcting L3 checksum"),
    (154, "Error while correcting L4 checksum"),
    (155, "CT: Map insertion failed"),
    (156, "Invalid IPv6 extension header"),
    (157, "IP fragmentation not supported"),
    (158, "Service backend not found"),
    (161, "No mapping for NAT masquerade"),
    (163, "Unknown connection tracking state"),
    (164, "Local host is unreachable"),
    (165, "No configuration available to perform policy decision"),
    (166, "Unsupported L2 protocol"),
    (169, "FIB lookup failed"),
    (170, "Encapsulation traffic is prohibited"),
    (171, "Invalid identity"),
    (172, "Unknown sender"),
    (174, "Is a ClusterIP"),
    (175, "First logical datagram fragment not found"),
    (176, "Forbidden ICMPv6 message"),
    (177, "Denied by LB src range check"),
    (180, "Proxy redirection not supported for protocol"),
    (181, "Policy denied by denylist"),
    (184, "Failed to update or lookup TC buffer"),
    (190, "No CT map"),
    (196, "TTL exceeded"),
    (198, "Rate limited"),
    (203, "Endpoint policy program not available"),
];

impl DropReason {
    pub const SUCCESS: DropReason = DropReason(0);
    pub const POLICY_DENIED: DropReason = DropReason(133);
    pub const POLICY_DENIED_BY_DENYLIST: DropReason = DropReason(181);

    pub fn is_drop(self) -> bool {
        self.0 >= FIRST_DROP
    }

    /// Cilium's text, or `None` for a number nobody has named.
    pub fn text(self) -> Option<&'static str> {
        TEXTS.iter().find(|(code, _)| *code == self.0).map(|(_, text)| *text)
    }
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.text() {
            Some(text) => f.pad(text),
            None => write!(f, "reason {}", self.0),
        }
    }
}
