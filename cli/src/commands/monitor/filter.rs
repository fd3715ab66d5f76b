//! Which records of the stream are shown.

use api::event::EventKind;
use api::monitor::Record;
use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// Packets that were dropped, and why
    Drop,
    /// Packets on their way
    Trace,
    /// The decision on a flow's first packet
    PolicyVerdict,
    /// What the agent does
    Agent,
}

/// All conditions must hold; an empty one holds always.
pub struct Filter {
    from: BTreeSet<u16>,
    to: BTreeSet<u16>,
    related: BTreeSet<u16>,
    kinds: BTreeSet<Kind>,
}

impl Filter {
    pub fn new(from: &[u16], to: &[u16], related: &[u16], kinds: &[Kind]) -> Filter {
        let set = |ids: &[u16]| ids.iter().copied().collect();
        Filter { from: set(from), to: set(to), related: set(related), kinds: kinds.iter().copied().collect() }
    }

    /// What the agent does is no packet: with endpoints asked for, it is shown only if its kind was asked for, too.
    pub fn admits(&self, record: &Record) -> bool {
        match record {
            Record::Hello { .. } | Record::Lost { .. } => true,
            Record::Agent { .. } => match self.kinds.is_empty() {
                true => self.from.is_empty() && self.to.is_empty() && self.related.is_empty(),
                false => self.kinds.contains(&Kind::Agent),
            },
            Record::Packet(named) => {
                let source = named.event.source_endpoint.map(|id| id.0);
                let destination = named.event.destination_endpoint.map(|id| id.0);
                let among = |set: &BTreeSet<u16>, ids: &[Option<u16>]| {
                    set.is_empty() || ids.iter().flatten().any(|id| set.contains(id))
                };
                let kind = match named.event.kind {
                    EventKind::Drop { .. } => Kind::Drop,
                    EventKind::Trace { .. } => Kind::Trace,
                    EventKind::PolicyVerdict { .. } => Kind::PolicyVerdict,
                };
                (self.kinds.is_empty() || self.kinds.contains(&kind))
                    && among(&self.from, &[source])
                    && among(&self.to, &[destination])
                    && among(&self.related, &[source, destination])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use api::EndpointId;

    fn packet(source: u16, destination: u16) -> Record {
        let mut named = sample::drop();
        named.event.source_endpoint = Some(EndpointId(source));
        named.event.destination_endpoint = Some(EndpointId(destination));
        Record::Packet(Box::new(named))
    }

    #[test]
    fn endpoints_are_told_apart_by_side() {
        let record = packet(1, 2);
        assert!(Filter::new(&[1, 7], &[], &[], &[]).admits(&record));
        assert!(!Filter::new(&[2], &[], &[], &[]).admits(&record));
        assert!(Filter::new(&[], &[2], &[], &[]).admits(&record));
        assert!(!Filter::new(&[], &[1], &[], &[]).admits(&record));
        assert!(Filter::new(&[], &[], &[2], &[]).admits(&record));
        assert!(!Filter::new(&[], &[], &[3], &[]).admits(&record));
        assert!(!Filter::new(&[1], &[3], &[], &[]).admits(&record));
    }

    #[test]
    fn kinds() {
        let record = packet(1, 2);
        assert!(Filter::new(&[], &[], &[], &[Kind::Trace, Kind::Drop]).admits(&record));
        assert!(!Filter::new(&[], &[], &[], &[Kind::Trace]).admits(&record));
        assert!(!Filter::new(&[], &[], &[], &[Kind::Agent]).admits(&record));
    }

    #[test]
    fn the_agents_doings_are_no_packets() {
        let agent = Record::Agent { message: "Policy updated".into(), subject: String::new() };
        assert!(Filter::new(&[], &[], &[], &[]).admits(&agent));
        assert!(!Filter::new(&[1], &[], &[], &[]).admits(&agent));
        assert!(!Filter::new(&[], &[], &[], &[Kind::Drop]).admits(&agent));
        assert!(Filter::new(&[1], &[], &[], &[Kind::Agent]).admits(&agent));
    }

    #[test]
    fn losses_are_never_hidden() {
        assert!(Filter::new(&[9], &[], &[], &[Kind::Trace]).admits(&Record::Lost { events: 1 }));
    }
}
