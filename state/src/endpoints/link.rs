//! Names and MAC addresses of an endpoint's network device: made of a digest, so that they differ from endpoint to
//! endpoint and from one life of a container to the next, and yet need no source of randomness.

use crate::outputs::Timestamp;
use model::{EndpointId, Mac};
use sha2::{Digest, Sha256};

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    /// Host-side device: `lxc` and 12 hexadecimal digits, the longest name that the kernel takes (15 bytes).
    pub(crate) ifname: String,
    /// Container's end until Docker renames it.
    pub(crate) peer_ifname: String,
    pub(crate) mac: Mac,
    pub(crate) node_mac: Mac,
}

impl Link {
    /// `attempt` gives another link for the same endpoint, should a name be taken.
    pub(crate) fn new(docker_endpoint_id: &str, id: EndpointId, created: Timestamp, attempt: u32) -> Link {
        let mut hash = Sha256::new();
        hash.update(docker_endpoint_id.as_bytes());
        hash.update(id.0.to_be_bytes());
        hash.update(created.0.to_be_bytes());
        hash.update(attempt.to_be_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let [a, b, c, d, e, f, rest @ ..] = digest;
        let digits: String = [a, b, c, d, e, f].iter().map(|byte| format!("{byte:02x}")).collect();
        let [g, h, i, j, k, l, m, n, o, p, q, r, ..] = rest;
        Link {
            ifname: format!("lxc{digits}"),
            peer_ifname: format!("tmp{digits}"),
            mac: Mac::local([g, h, i, j, k, l]),
            node_mac: Mac::local([m, n, o, p, q, r]),
        }
    }
}

/// Whether a container's device can have the address.
pub(crate) fn is_unicast(mac: Mac) -> bool {
    mac.0[0] & 1 == 0 && mac != Mac::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_life_has_names_and_addresses_of_its_own() {
        let link = |id, created, attempt| Link::new("e1", EndpointId(id), Timestamp(created), attempt);
        let first = link(1, 5, 0);
        for other in [link(2, 5, 0), link(1, 6, 0), link(1, 5, 1)] {
            assert_ne!(first.ifname, other.ifname);
            assert_ne!(first.mac, other.mac);
            assert_ne!(first.node_mac, other.node_mac);
        }
        assert_ne!(first.mac, first.node_mac);
        assert_eq!(first, link(1, 5, 0));
    }

    #[test]
    fn names_fit_the_kernel_and_addresses_are_unicast() {
        let link = Link::new("e1", EndpointId(65_535), Timestamp(u64::MAX), 0);
        assert_eq!((link.ifname.len(), link.peer_ifname.len()), (15, 15));
        assert!(is_unicast(link.mac) && is_unicast(link.node_mac));
    }
}
