//! Writing a rule as it was imported: what was absent stays absent, what was empty stays empty.

use super::{Entry, Rule, SECTIONS, section_name};
use model::Direction;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// Writes a member unless it is absent.
fn member<M: SerializeMap, T: Serialize>(map: &mut M, name: &str, value: Option<&T>) -> Result<(), M::Error> {
    value.map_or(Ok(()), |value| map.serialize_entry(name, value))
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        member(&mut map, "labels", self.labels.as_ref())?;
        member(&mut map, "description", self.description.as_ref())?;
        member(&mut map, "endpointSelector", self.endpoint_selector.as_ref())?;
        member(&mut map, "nodeSelector", self.node_selector.as_ref())?;
        for (direction, verdict) in SECTIONS {
            let entries = self.section(direction, verdict);
            let entries =
                entries.map(|list| list.iter().map(|entry| Directed { direction, entry }).collect::<Vec<_>>());
            member(&mut map, section_name(direction, verdict), entries.as_ref())?;
        }
        member(&mut map, "enableDefaultDeny", self.enable_default_deny.as_ref())?;
        member(&mut map, "log", self.log.as_ref())?;
        map.end()
    }
}

/// An entry with what its field names depend on.
struct Directed<'a> {
    direction: Direction,
    entry: &'a Entry,
}

impl Serialize for Directed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Directed { direction, entry } = self;
        let named = |from, to| if *direction == Direction::Ingress { from } else { to };
        let mut map = serializer.serialize_map(None)?;
        member(&mut map, named("fromEndpoints", "toEndpoints"), entry.endpoints.as_ref())?;
        member(&mut map, named("fromRequires", "toRequires"), entry.requires.as_ref())?;
        member(&mut map, named("fromCIDR", "toCIDR"), entry.cidr.as_ref())?;
        member(&mut map, named("fromCIDRSet", "toCIDRSet"), entry.cidr_set.as_ref())?;
        member(&mut map, named("fromEntities", "toEntities"), entry.entities.as_ref())?;
        member(&mut map, "toServices", entry.services.as_ref())?;
        member(&mut map, "toFQDNs", entry.fqdns.as_ref())?;
        member(&mut map, named("fromGroups", "toGroups"), entry.groups.as_ref())?;
        member(&mut map, named("fromNodes", "toNodes"), entry.nodes.as_ref())?;
        member(&mut map, "toPorts", entry.to_ports.as_ref())?;
        member(&mut map, "icmps", entry.icmps.as_ref())?;
        member(&mut map, "authentication", entry.authentication.as_ref())?;
        map.end()
    }
}
