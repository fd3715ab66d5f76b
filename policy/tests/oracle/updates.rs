//! For random changes of rules, identities, subjects and modes, in any order: the engine that followed them all has the
//! policies of one that is made anew, and each answers what the rules say when they are looked up one by one.

use crate::arbitrary::{PORTS, container_labels, options, rule};
use crate::map::{PROTOCOLS, import};
use model::{Direction, Identity, Labels, PolicyMap, Protocol};
use policy::trace::{Ask, Decision, decide};
use policy::{Engine, Options, Peer, Repository, Resolver, Rule, cidr_labels};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How many containers there can be.
const CONTAINERS: u32 = 6;

/// Something that happens to a node.
#[derive(Clone, Debug)]
enum Step {
    /// These of the rules are in force from now on.
    Rules(Vec<Index>),
    /// The container's identity appears, or stands for other labels.
    Appears(u32, Labels),
    Goes(u32),
    /// All prefixes that the rules in force mention have identities, and no others.
    Prefixes,
    /// Endpoints have the container's identity, or no longer.
    Subject(u32, bool),
    Options(Options),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => vec(any::<Index>(), 0..6).prop_map(Step::Rules),
        5 => (0..CONTAINERS, container_labels()).prop_map(|(container, labels)| Step::Appears(container, labels)),
        2 => (0..CONTAINERS).prop_map(Step::Goes),
        2 => Just(Step::Prefixes),
        3 => (0..CONTAINERS, prop::bool::weighted(0.8)).prop_map(|(container, there)| Step::Subject(container, there)),
        1 => options().prop_map(Step::Options),
    ]
}

/// A packet between a subject and somebody.
type Probe = (Index, Index, Protocol, u16, Direction);

fn probe() -> impl Strategy<Value = Probe> {
    let port = prop_oneof![4 => select(&PORTS[..]), 1 => any::<u16>()];
    (any::<Index>(), any::<Index>(), select(&PROTOCOLS[..]), port, select(&Direction::BOTH[..]))
}

/// What the engine was told, as it stands.
struct World {
    pool: Vec<Arc<Rule>>,
    in_force: Vec<Arc<Rule>>,
    identities: BTreeMap<Identity, Labels>,
    subjects: BTreeSet<Identity>,
    options: Options,
    engine: Engine,
}

fn container(number: u32) -> Identity {
    Identity(Identity::MIN_ALLOCATED + number)
}

impl World {
    fn new(pool: Vec<Arc<Rule>>) -> World {
        let reserved = Identity::RESERVED.iter().filter(|(identity, _)| *identity != Identity::UNKNOWN);
        let identities = reserved.map(|(identity, name)| (*identity, Labels::reserved(name)));
        let identities: BTreeMap<Identity, Labels> = identities.collect();
        let mut engine = Engine::new(Options::default());
        identities.iter().for_each(|(identity, labels)| engine.put_identity(*identity, &Arc::new(labels.clone())));
        let init = identities[&Identity::INIT].clone();
        engine.put_subject(Identity::INIT, &Arc::new(init));
        let subjects = BTreeSet::from([Identity::INIT]);
        World { pool, in_force: Vec::new(), identities, subjects, options: Options::default(), engine }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Rules(chosen) => {
                self.in_force = chosen.iter().map(|index| index.get(&self.pool).clone()).collect();
                self.engine.set_rules(&self.in_force);
            }
            Step::Appears(number, labels) => {
                self.put(container(*number), labels.clone());
                if self.subjects.contains(&container(*number)) {
                    self.engine.put_subject(container(*number), &Arc::new(labels.clone()));
                }
            }
            Step::Goes(number) => {
                self.engine.remove_subject(container(*number));
                self.subjects.remove(&container(*number));
                self.remove(container(*number));
            }
            Step::Prefixes => self.follow_prefixes(),
            Step::Subject(number, there) => self.subject(container(*number), *there),
            Step::Options(options) => {
                self.options = *options;
                self.engine.set_options(*options);
            }
        }
    }

    fn put(&mut self, identity: Identity, labels: Labels) {
        self.engine.put_identity(identity, &Arc::new(labels.clone()));
        self.identities.insert(identity, labels);
    }

    fn remove(&mut self, identity: Identity) {
        self.engine.remove_identity(identity);
        self.identities.remove(&identity);
    }

    /// A prefix has the number of its place among all that any rule of the pool mentions.
    fn follow_prefixes(&mut self) {
        let all = Repository::from_rules(self.pool.iter().cloned(), 1).mentioned_prefixes();
        let wanted = self.repository().mentioned_prefixes();
        for (prefix, number) in all.iter().zip(Identity::FIRST_LOCAL..) {
            if wanted.contains(prefix) {
                self.put(Identity(number), cidr_labels(*prefix));
            } else {
                self.remove(Identity(number));
            }
        }
    }

    fn subject(&mut self, identity: Identity, there: bool) {
        match self.identities.get(&identity) {
            Some(labels) if there => {
                self.engine.put_subject(identity, &Arc::new(labels.clone()));
                self.subjects.insert(identity);
            }
            _ => {
                self.engine.remove_subject(identity);
                self.subjects.remove(&identity);
            }
        }
    }

    fn repository(&self) -> Repository {
        Repository::from_rules(self.in_force.iter().cloned(), 1)
    }

    /// The answer of the subject's policy is the one of the rules.
    fn check_probe(&self, (subject, peer, protocol, port, direction): &Probe) -> Result<(), TestCaseError> {
        let subjects: Vec<_> = self.subjects.iter().copied().collect();
        let identities: Vec<_> = self.identities.iter().collect();
        let (subject, (peer, labels)) = (subject.get(&subjects), peer.get(&identities));
        let map = self.engine.policy(*subject).cloned().unwrap_or_default();
        let found = map.lookup(*direction, **peer, *protocol, *port).is_some_and(|entry| !entry.deny);
        let ask = Ask::Port(*protocol, *port);
        let peer = Peer::new(**peer, labels);
        let repository = self.repository();
        let said = decide(&repository, self.options, *direction, &self.identities[subject], &peer, ask);
        let rules = serde_json::to_string(repository.rules()).unwrap();
        prop_assert_eq!(
            found,
            said == Decision::Allowed,
            "{} {:?} of {} {}, peer {:?}, {}/{}\n{}",
            direction,
            self.options,
            subject,
            &self.identities[subject],
            peer,
            port,
            protocol,
            rules
        );
        Ok(())
    }

    /// Every policy is that of an engine that saw nothing before.
    fn check_all(&self) -> Result<(), TestCaseError> {
        let mut fresh = Resolver::new(&self.repository(), &self.identities, self.options);
        for subject in &self.subjects {
            let map = self.engine.policy(*subject).cloned().unwrap_or_default();
            prop_assert_eq!(&*map, &*fresh.resolve(&self.identities[subject]));
            let counted = map.iter().collect::<PolicyMap>().enforcing(map.enforced_ingress, map.enforced_egress);
            for direction in Direction::BOTH {
                for any_peer in [false, true] {
                    prop_assert_eq!(map.classes(direction, any_peer), counted.classes(direction, any_peer));
                }
            }
        }
        prop_assert_eq!(self.engine.subjects().collect::<BTreeSet<_>>(), self.subjects.clone());
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, max_shrink_iters: 4096, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_follows_every_change(
        pool in vec(rule(), 1..6),
        containers in vec(container_labels(), 3),
        steps in vec((step(), vec(probe(), 4)), 1..7),
    ) {
        let mut world = World::new(import(&pool)?.rules().to_vec());
        for (number, labels) in containers.into_iter().enumerate() {
            world.take(&Step::Appears(number as u32, labels));
            world.take(&Step::Subject(number as u32, true));
        }
        for (step, probes) in &steps {
            let before: BTreeMap<_, _> = world.subjects.iter().map(|s| (*s, world.engine.policy(*s).cloned())).collect();
            world.engine.take_changed();
            world.take(step);
            let changed = world.engine.take_changed();
            for subject in world.subjects.iter().filter(|subject| !changed.contains(subject)) {
                prop_assert_eq!(before.get(subject), Some(&world.engine.policy(*subject).cloned()), "not said to change");
            }
            for probe in probes {
                world.check_probe(probe)?;
            }
        }
        world.check_all()?;
        // Nothing is left of what nobody uses.
        world.engine.set_rules(&[]);
        prop_assert_eq!(world.engine.selectors(), 0);
    }
}
