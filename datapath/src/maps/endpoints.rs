//! `cilium_lxc`: endpoint -> what the programs know of it.

use super::{MapError, Maps};
use crate::current::{PolicyId, Slot};
use bpf::{abi, names::map::LXC};
use model::{EndpointId, Identity, Mac};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Every slot that is in use.
pub fn read(maps: &Maps) -> Result<BTreeMap<EndpointId, Slot>, MapError> {
    let mut slots = BTreeMap::new();
    let visit = |slot: &u32, value: &abi::Endpoint| {
        if let (Ok(id), Some(slot)) = (u16::try_from(*slot), decode(value)) {
            slots.insert(EndpointId(id), slot);
        }
    };
    maps.lxc.for_each(visit).map_err(|source| MapError::Read { map: LXC, source })?;
    Ok(slots)
}

pub fn read_one(maps: &Maps, id: EndpointId) -> Result<Option<Slot>, MapError> {
    let value = maps.lxc.get(&u32::from(id.0)).map_err(|source| MapError::Read { map: LXC, source })?;
    Ok(value.as_ref().and_then(decode))
}

pub fn write(maps: &Maps, id: EndpointId, slot: &Slot) -> Result<(), MapError> {
    maps.lxc.put(&u32::from(id.0), &encode(slot)).map_err(|source| MapError::Write { map: LXC, source })
}

pub fn clear(maps: &Maps, id: EndpointId) -> Result<(), MapError> {
    let empty = abi::Endpoint::default();
    maps.lxc.put(&u32::from(id.0), &empty).map_err(|source| MapError::Write { map: LXC, source })
}

pub fn encode(slot: &Slot) -> abi::Endpoint {
    let internal = if slot.internal { abi::ENDPOINT_INTERNAL } else { 0 };
    abi::Endpoint {
        policy: slot.policy.0,
        identity: slot.identity.0,
        ipv4: slot.ipv4.unwrap_or(Ipv4Addr::UNSPECIFIED).into(),
        flags: (abi::ENDPOINT_VALID | internal) as u16,
        ipv6: slot.ipv6.unwrap_or(Ipv6Addr::UNSPECIFIED).octets(),
        mac: slot.mac.0,
        node_mac: slot.node_mac.0,
        ..abi::Endpoint::default()
    }
}

/// `None`: the slot is empty.
pub fn decode(value: &abi::Endpoint) -> Option<Slot> {
    let flags = u32::from(value.flags);
    (flags & abi::ENDPOINT_VALID != 0).then(|| Slot {
        policy: PolicyId(value.policy),
        identity: Identity(value.identity),
        internal: flags & abi::ENDPOINT_INTERNAL != 0,
        ipv4: Some(Ipv4Addr::from(value.ipv4)).filter(|ip| !ip.is_unspecified()),
        ipv6: Some(Ipv6Addr::from(value.ipv6)).filter(|ip| !ip.is_unspecified()),
        mac: Mac(value.mac),
        node_mac: Mac(value.node_mac),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            policy in 1u32.., identity: u32, internal: bool, v4: Option<u32>, v6: Option<u128>, mac: [u8; 6],
        ) {
            let slot = Slot {
                policy: PolicyId(policy),
                identity: Identity(identity),
                internal,
                ipv4: v4.map(|n| Ipv4Addr::from(n.max(1))),
                ipv6: v6.map(|n| Ipv6Addr::from(n.max(1))),
                mac: Mac(mac),
                node_mac: Mac::local(mac),
            };
            prop_assert_eq!(decode(&encode(&slot)), Some(slot));
        }
    }

    #[test]
    fn an_empty_slot_is_nobody() {
        assert_eq!(decode(&abi::Endpoint::default()), None);
    }
}
