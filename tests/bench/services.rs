//! What services cost the agent before the kernel hears of them: one added among many, tables of Maglev's kind, and how
//! much of those changes hands when a backend leaves.

use crate::Effort;
use crate::table::{Goal, Table, median};
use anyhow::{Context, Result, ensure};
use model::service::{Algorithm, ServiceType};
use model::{L4Address, LoadBalancer, Protocol, ServiceId};
use state::services::Options;
use state::services::definition::{Backend, BackendState, Frontend, Service, ServiceName};
use state::{Input, Outputs, Source, State, Timestamp};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

const FEW: u32 = 10;
const MANY: u32 = 100_000;
/// Services with a table of Maglev's kind, and the backends of each.
const BALANCED: u32 = 1000;
const BACKENDS: u32 = 100;

pub fn measure(table: &mut Table, effort: Effort) -> Result<()> {
    let rounds = effort.rounds.max(3);
    let (few, many) = (one_added(FEW, rounds)?, one_added(MANY, rounds)?);
    let name = "services: one added among 100,000, to the snapshot, median";
    table.ratio(name, "us", many, ("among 10", few), Goal::None);
    table.figure("services: the same", "ms", many / 1000.0, Goal::AtMost(5.0));
    balanced(table, rounds)
}

fn one_added(among: u32, rounds: usize) -> Result<f64> {
    let mut state = filled(Algorithm::Random)?;
    for n in 0..among {
        state.apply(Input::ServiceKnown(service(n, ServiceType::ClusterIp, 2)), Timestamp(0))?;
    }
    state.outputs();
    let mut micros = Vec::new();
    for n in 0..u32::try_from(rounds)? * 20 {
        let added = service(among + n, ServiceType::ClusterIp, 2);
        let start = Instant::now();
        state.apply(Input::ServiceKnown(added), Timestamp(0))?;
        let outputs = state.outputs();
        micros.push(start.elapsed().as_secs_f64() * 1e6);
        // Each, and its address as a whole.
        ensure!(frontends(&outputs)? == 2 * (among + n + 1) as usize, "a service is missing");
    }
    Ok(median(&micros))
}

fn balanced(table: &mut Table, rounds: usize) -> Result<()> {
    let mut state = filled(Algorithm::Maglev)?;
    for n in 0..BALANCED {
        state.apply(Input::ServiceKnown(service(n, ServiceType::LoadBalancer, BACKENDS)), Timestamp(0))?;
    }
    let start = Instant::now();
    let outputs = state.outputs();
    let name = "services: Maglev tables of 1,000 services, 100 backends each, one core";
    table.figure(name, "s", start.elapsed().as_secs_f64(), Goal::AtMost(3.0));
    let (mut millis, mut moved) = (Vec::new(), Vec::new());
    for n in 0..u32::try_from(rounds)? * 3 {
        let whole = service(n, ServiceType::LoadBalancer, BACKENDS);
        let before = balancer(&outputs, &whole)?;
        let mut less = whole.clone();
        let gone = less.backends.remove((n * 7 % BACKENDS) as usize).address;
        let start = Instant::now();
        state.apply(Input::ServiceKnown(less), Timestamp(0))?;
        let after = state.outputs();
        millis.push(start.elapsed().as_secs_f64() * 1e3);
        moved.push(changed_hands(&before, &*balancer(&after, &whole)?, gone) * 100.0);
    }
    table.figure(
        "services: one backend of 100 leaves, Maglev, to the snapshot",
        "ms",
        median(&millis),
        Goal::AtMost(10.0),
    );
    let most = moved.iter().copied().fold(0.0, f64::max);
    table.figure("services: flows to surviving backends that move then, worst", "%", most, Goal::AtMost(1.0));
    Ok(())
}

/// The part of the places of those who stay that are another's afterwards.
fn changed_hands(before: &LoadBalancer, after: &LoadBalancer, gone: L4Address) -> f64 {
    let named = |balancer: &LoadBalancer, place: u16| balancer.backends.get(usize::from(place)).copied();
    let places = before.external.places.iter().zip(&*after.external.places);
    let pairs = places.map(|(before_at, after_at)| (named(before, *before_at), named(after, *after_at)));
    let staying: Vec<_> = pairs.filter(|(held, _)| *held != Some(gone)).collect();
    staying.iter().filter(|(held, holds)| held != holds).count() as f64 / staying.len() as f64
}

fn frontends(outputs: &Outputs) -> Result<usize> {
    Ok(outputs.datapath.as_ref().context("the state publishes nothing")?.services.len())
}

fn balancer(outputs: &Outputs, service: &Service) -> Result<Arc<LoadBalancer>> {
    let datapath = outputs.datapath.as_ref().context("the state publishes nothing")?;
    let frontend = service.frontends.first().context("a service has a frontend")?;
    datapath.services.get(&frontend.address).cloned().context("the service is not answered")
}

fn service(n: u32, kind: ServiceType, backends: u32) -> Service {
    let at = |ip: u32, port| L4Address { ip: Ipv4Addr::from(ip).into(), port, protocol: Protocol::TCP };
    let backend = |of: u32| Backend {
        address: at(0x0a40_0000 + (n * 7 + of) % 0x000f_ffff, 8080),
        port: String::new(),
        weight: 100,
        state: BackendState::Active,
        node: None,
    };
    Service::new(
        ServiceName { cluster: "default".to_owned(), space: "bench".to_owned(), name: format!("s{n}") },
        vec![Frontend { id: ServiceId(n + 1), kind, address: at(0x0a60_0000 + n, 80), port: String::new() }],
        (0..backends).map(backend).collect(),
    )
}

fn filled(algorithm: Algorithm) -> Result<State> {
    let config =
        state::Config { services: Options { algorithm, ..Options::default() }, ..crate::policy::node_config()? };
    let mut state = State::new(config)?;
    state.apply(Input::Restore(BTreeMap::new()), Timestamp(0))?;
    state.apply(Input::PolicyListed { revision: 1, rules: "[]".into() }, Timestamp(0))?;
    state.apply(Input::Synced(Source::Identities), Timestamp(0))?;
    state.outputs();
    Ok(state)
}
