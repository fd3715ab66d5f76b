//! What a change costs among 10,000 rules, 10,000 identities and 100 endpoints here: by itself, to the snapshot, and to
//! the entries in the kernel; each beside making everything anew.
//!
//! Of every ten rules of an endpoint nine speak of some twenty identities and one of a tenth of all, so that each
//! identity concerns every endpoint.

use crate::Effort;
use crate::table::{Goal, Table, median, percentile};
use ::policy::{Engine, Options, Rule, parse_rules};
use anyhow::{Context, Result, ensure};
use model::desired::Datapath;
use model::{Identity, Label, Labels};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use state::{EndpointChange, EndpointCreate, EndpointRef, Input, Network, Source, State, Timestamp};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const RULES: usize = 10_000;
const IDENTITIES: u32 = 10_000;
const ENDPOINTS: usize = 100;
/// How many identities come and go under the clock.
const CHANGES: usize = 400;

pub fn measure(table: &mut Table, effort: Effort) -> Result<()> {
    let before = resident()?;
    let rules = rules()?;
    let mut engine = Engine::new(Options::default());
    let first = first_resolution(&mut engine, &rules, IDENTITIES);
    let name = "policy: first resolution, 10,000 rules and identities, 100 endpoints";
    table.figure(name, "s", first.as_secs_f64(), Goal::AtMost(2.0));
    table.figure("policy: memory of rules and engine", "MiB", resident()? - before, Goal::AtMost(300.0));
    let entries: usize = subjects().filter_map(|(subject, _)| engine.policy(subject)).map(|map| map.len()).sum();
    table.figure("policy: entries of all policies", "", entries as f64, Goal::None);

    let (added, removed) = comings_and_goings(&mut engine, IDENTITIES);
    let anew = (0..effort.rounds.min(3)).map(|_| {
        let mut engine = Engine::new(Options::default());
        micros(first_resolution(&mut engine, &rules, IDENTITIES))
    });
    let anew = ("everything anew", median(&anew.collect::<Vec<_>>()));
    table.ratio("policy: an identity added, median", "us", median(&added), anew, Goal::None);
    table.ratio("policy: an identity removed, median", "us", median(&removed), anew, Goal::None);
    rule_added(table, &mut engine, &rules, anew)?;
    drop(engine);

    let of_many = |identities| {
        let mut engine = Engine::new(Options::default());
        first_resolution(&mut engine, &rules, identities);
        median(&comings_and_goings(&mut engine, identities).0)
    };
    let (few, many) = (of_many(1000), of_many(64_000));
    table.ratio("policy: an identity added among 64,000", "us", many, ("among 1,000", few), Goal::AtMost(2.0));
    tests_of_policies(table, effort)?;
    std::thread::scope(|scope| scope.spawn(|| in_kernel(table)).join()).map_err(|_| anyhow::anyhow!("it panicked"))?
}

/// `cilium policy test` as a user runs it: 1,000 cases about 100 rules, a third of them with a request.
fn tests_of_policies(table: &mut Table, effort: Effort) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("world.json");
    std::fs::write(&file, world_of_cases().to_string())?;
    let mut millis = Vec::new();
    for _ in 0..effort.rounds {
        let start = Instant::now();
        let output = Command::new(lab::binary("cilium")?).args(["policy", "test"]).arg(&file).output()?;
        millis.push(micros(start.elapsed()) / 1000.0);
        ensure!(output.status.success(), "policy test: {}", String::from_utf8_lossy(&output.stdout));
    }
    table.figure("policy test: 1,000 cases, 100 rules, the whole command", "ms", median(&millis), Goal::AtMost(200.0));
    Ok(())
}

fn world_of_cases() -> Value {
    let rule = |n: usize| {
        let http = json!([{"method": "GET", "path": format!("/v{n}/[a-z]+")}]);
        let ports = json!([{"port": "80", "protocol": "TCP"}]);
        let to_ports = if n.is_multiple_of(3) {
            json!({"ports": ports, "rules": {"http": http}})
        } else {
            json!({"ports": ports})
        };
        json!({"endpointSelector": {"matchLabels": {"app": format!("s{n}")}},
               "ingress": [{"fromEndpoints": [{"matchLabels": {"app": format!("c{n}")}}], "toPorts": [to_ports]}]})
    };
    let endpoint = |name: String| (name.clone(), json!({"labels": [format!("container:app={name}")]}));
    let endpoints: serde_json::Map<_, _> =
        (0..100).flat_map(|n| [endpoint(format!("s{n}")), endpoint(format!("c{n}"))]).collect();
    let case = |n: usize| {
        let (server, client) = (n % 100, if n.is_multiple_of(2) { n % 100 } else { (n + 1) % 100 });
        let mut case = json!({"name": format!("case {n}"), "from": {"endpoint": format!("c{client}")},
            "to": {"endpoint": format!("s{server}")}, "port": 80, "protocol": "TCP",
            "expect": if client == server { "allowed" } else { "denied" }});
        if server.is_multiple_of(3) {
            case["http"] = json!({"method": "GET", "path": format!("/v{server}/page")});
        }
        case
    };
    json!({"policies": (0..100).map(rule).collect::<Vec<_>>(), "endpoints": endpoints,
           "cases": (0..1000).map(case).collect::<Vec<_>>()})
}

/// Rule n is one of endpoint n % 100.
fn rules() -> Result<Vec<Arc<Rule>>> {
    let parsed = parse_rules(&Value::Array((0..RULES).map(rule).collect()).to_string())?;
    Ok(parsed.into_iter().map(Arc::new).collect())
}

fn rule(n: usize) -> Value {
    let (endpoint, place) = (n % ENDPOINTS, n / ENDPOINTS);
    let (peers, port) = if place.is_multiple_of(10) {
        (json!({"tier": format!("t{}", place / 10 % 10)}), 443)
    } else {
        (json!({"app": format!("a{}", n * 7 % 500)}), 1000 + place)
    };
    json!({"endpointSelector": {"matchLabels": {"app": format!("local{endpoint}")}},
        "labels": [format!("rule={n}")],
        "ingress": [{"fromEndpoints": [{"matchLabels": peers}],
                     "toPorts": [{"ports": [{"port": port.to_string(), "protocol": "TCP"}]}]}]})
}

fn labels(of: &[(&str, String)]) -> Arc<Labels> {
    Arc::new(of.iter().map(|(key, value)| Label::new("container", *key, value.as_str())).collect())
}

/// A peer: one of 500 applications and of ten tiers.
fn peer(n: u32) -> Arc<Labels> {
    labels(&[("app", format!("a{}", n % 500)), ("tier", format!("t{}", n % 10)), ("id", format!("i{n}"))])
}

/// What the endpoints here are, after all peers.
fn subjects() -> impl Iterator<Item = (Identity, Arc<Labels>)> {
    (0..ENDPOINTS).map(|n| {
        let number = Identity::MAX_ALLOCATED - n as u32;
        (Identity(number), labels(&[("app", format!("local{n}"))]))
    })
}

fn number(n: u32) -> Identity {
    Identity(Identity::MIN_ALLOCATED + n)
}

fn first_resolution(engine: &mut Engine, rules: &[Arc<Rule>], identities: u32) -> Duration {
    let known: Vec<_> = (0..identities).map(|n| (number(n), peer(n))).collect();
    let start = Instant::now();
    known.iter().for_each(|(identity, labels)| engine.put_identity(*identity, labels));
    engine.set_rules(rules);
    subjects().for_each(|(identity, labels)| engine.put_subject(identity, &labels));
    start.elapsed()
}

/// What it costs to add and to remove an identity, in microseconds. As in the agent, somebody holds the former policies.
fn comings_and_goings(engine: &mut Engine, identities: u32) -> (Vec<f64>, Vec<f64>) {
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    for n in 0..CHANGES as u32 {
        let (identity, labels) = (number(identities + n % 500), peer(identities + n));
        let held: Vec<_> = subjects().filter_map(|(subject, _)| engine.policy(subject).cloned()).collect();
        let start = Instant::now();
        engine.put_identity(identity, &labels);
        added.push(micros(start.elapsed()));
        drop(held);
        let held: Vec<_> = subjects().filter_map(|(subject, _)| engine.policy(subject).cloned()).collect();
        let start = Instant::now();
        engine.remove_identity(identity);
        removed.push(micros(start.elapsed()));
        drop(held);
    }
    (added, removed)
}

fn rule_added(table: &mut Table, engine: &mut Engine, rules: &[Arc<Rule>], anew: (&str, f64)) -> Result<()> {
    let mut more = rules.to_vec();
    more.extend(parse_rules(&json!([rule(RULES)]).to_string())?.into_iter().map(Arc::new));
    let (mut times, mut strangers) = (Vec::new(), 0);
    for _ in 0..20 {
        engine.take_changed();
        let start = Instant::now();
        engine.set_rules(&more);
        times.push(micros(start.elapsed()));
        // Rule 10,000 is one of the first endpoint.
        let selected = subjects().next().map(|(subject, _)| subject);
        strangers += engine.take_changed().into_iter().filter(|subject| Some(*subject) != selected).count();
        engine.set_rules(rules);
    }
    table.ratio("policy: a rule added, median", "us", median(&times), anew, Goal::None);
    let name = "policy: a rule added, policies touched that it does not select";
    table.figure(name, "", strangers as f64, Goal::AtMost(0.0));
    Ok(())
}

/// From the news of an identity, through the state, until its entries are in the kernel.
fn in_kernel(table: &mut Table) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("make namespaces: this needs root")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let directory = tempfile::tempdir()?;
    let bpffs = directory.path().join("bpf");
    let config = datapath::Config {
        bpffs: bpffs.clone(),
        conntrack_max_v4: 4096,
        conntrack_max_v6: 4096,
        policy_max: 4 << 20,
        ipcache_max: 4096,
        ..datapath::Config::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(follow(table, config));
    let _ = nix::mount::umount2(&bpffs, nix::mount::MntFlags::MNT_DETACH);
    result
}

async fn follow(table: &mut Table, config: datapath::Config) -> Result<()> {
    let mut state = filled_state()?;
    let start = Instant::now();
    let outputs = state.outputs();
    let snapshot = snapshot(&outputs)?;
    table.figure("policy: first resolution, to the snapshot", "s", start.elapsed().as_secs_f64(), Goal::AtMost(2.0));
    let (desired, receiver) = watch::channel(snapshot);
    let start = Instant::now();
    let mut handle = datapath::start(config, receiver, CancellationToken::new()).await?;
    let wanted = desired.borrow().revision;
    realised(&mut handle, wanted).await?;
    table.figure("policy: first writing of all entries", "s", start.elapsed().as_secs_f64(), Goal::None);
    let (mut to_snapshot, mut added, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..CHANGES as u32 {
        let identity = number(IDENTITIES + n % 500);
        let labels = Labels::clone(&peer(IDENTITIES + n));
        let start = Instant::now();
        state.apply(Input::IdentityKnown { identity, labels }, Timestamp(u64::from(n)))?;
        let outputs = state.outputs();
        to_snapshot.push(millis(start.elapsed()));
        publish(&desired, &mut handle, &outputs).await?;
        added.push(millis(start.elapsed()));
        let start = Instant::now();
        state.apply(Input::IdentityGone { identity }, Timestamp(u64::from(n)))?;
        let outputs = state.outputs();
        publish(&desired, &mut handle, &outputs).await?;
        removed.push(millis(start.elapsed()));
    }
    let p99 = |values: &[f64]| percentile(values, 99);
    table.figure("policy: an identity added, to the snapshot, p99", "ms", p99(&to_snapshot), Goal::None);
    table.figure("policy: an identity added, to the map writes, median", "ms", median(&added), Goal::None);
    table.figure("policy: an identity added, to the map writes, p99", "ms", p99(&added), Goal::AtMost(1.0));
    table.figure("policy: an identity removed, to the map writes, p99", "ms", p99(&removed), Goal::AtMost(1.0));
    Ok(())
}

/// The policies of a snapshot: what else is in it costs nothing when identities come and go.
fn snapshot(outputs: &state::Outputs) -> Result<Arc<Datapath>> {
    let datapath = outputs.datapath.as_deref().context("the state publishes nothing")?;
    let (revision, policies) = (datapath.revision, datapath.policies.clone());
    Ok(Arc::new(Datapath { revision, settled: true, policies, ..Datapath::default() }))
}

async fn publish(
    desired: &watch::Sender<Arc<Datapath>>,
    handle: &mut datapath::Handle,
    outputs: &state::Outputs,
) -> Result<()> {
    let next = snapshot(outputs)?;
    let revision = next.revision;
    ensure!(desired.borrow().revision < revision, "the identity changed no policy");
    desired.send_replace(next);
    realised(handle, revision).await
}

async fn realised(handle: &mut datapath::Handle, revision: u64) -> Result<()> {
    let status = handle.status.wait_for(|status| status.realised >= revision).await?;
    let of_policies = |object: &model::desired::Object| matches!(object, model::desired::Object::Policy(_));
    ensure!(!status.failing.keys().any(of_policies), "{:?}", status.failing);
    Ok(())
}

/// A node of its own, with addresses for containers.
pub fn node_config() -> Result<state::Config> {
    Ok(state::Config {
        node: "node".to_owned(),
        cluster: "default".to_owned(),
        cluster_id: 0,
        node_ipv4: None,
        node_ipv6: None,
        ipv4_range: Some("10.15.0.0/16".parse()?),
        ipv6_range: None,
        mtu: None,
        kvstore: std::collections::BTreeSet::new(),
        tunnel_overhead: None,
        direct_routes: false,
        label_filter: model::label_filter::LabelFilter::default(),
        policy: Options::default(),
        shares_subnets: false,
        services: state::services::Options::default(),
        quarantine: 0,
        docker_grace: 0,
    })
}

/// A node with the endpoints, the rules and the peers, none of which was looked at yet.
fn filled_state() -> Result<State> {
    let config = node_config()?;
    let mut state = State::new(config)?;
    let rules: Vec<Value> = (0..RULES).map(rule).collect();
    let network = Network { id: "net".to_owned(), ipv4: None, ipv6: None, internal: false, mtu: None };
    let mut inputs = vec![
        Input::Restore(BTreeMap::new()),
        Input::PolicyListed { revision: 1, rules: Value::Array(rules).to_string().into() },
        Input::Synced(Source::Identities),
        Input::NetworkPut(network),
    ];
    let known = (0..IDENTITIES).map(|n| (number(n), peer(n))).chain(subjects());
    inputs.extend(known.map(|(identity, labels)| Input::IdentityKnown { identity, labels: Labels::clone(&labels) }));
    for n in 0..ENDPOINTS {
        let docker = format!("endpoint{n}");
        inputs.push(Input::EndpointCreate(EndpointCreate {
            docker_endpoint_id: docker.clone(),
            docker_network_id: "net".to_owned(),
            ipv4: Some(Ipv4Addr::new(10, 15, 1, n as u8 + 1)),
            ipv6: None,
            mac: None,
        }));
        let container_labels = Some(BTreeMap::from([("app".to_owned(), format!("local{n}"))]));
        let change = EndpointChange { container_labels, ..EndpointChange::default() };
        inputs.push(Input::EndpointChange { endpoint: EndpointRef::Docker(docker), change });
    }
    for input in inputs {
        state.apply(input, Timestamp(0))?;
    }
    Ok(state)
}

/// Resident memory of this process, in MiB.
fn resident() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
