//! `cilium policy diff`: what an import would change, before it is one. The agent tells who there is, what is in force
//! and which flows it saw lately; the answer is worked out here.

use super::super::Session;
use super::document::{Files, RuleList};
use crate::agent::{Agent, Route};
use crate::failure::Failure;
use crate::render::{Cell, Layout, Page, Table};
use api::config::Configuration;
use api::datapath::CtRow;
use api::endpoint::Endpoint;
use api::identity::Identity;
use api::policy::Policy;
use policy::diff::{self, Change, Diff, Party};
use policy::trace::Decision;
use policy::{AllowLocalhost, ClusterName, Options, Repository};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Show what an import would change: whose connections, at which ports, and which flows seen lately
///
/// Nothing is imported. Both ends of a connection are counted, egress of the one and ingress of the other; ends outside
/// are the prefixes that rules mention, and the world that is in none.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cilium policy diff new.json\n  cilium policy diff --replace policies/ -o json")]
pub struct Args {
    #[command(flatten)]
    files: Files,
    /// As if the rules that carry all labels of a new one were deleted first
    #[arg(long)]
    replace: bool,
    /// Leave out the flows
    #[arg(long)]
    no_flows: bool,
}

/// What the agent tells.
struct Node {
    endpoints: Vec<Endpoint>,
    identities: BTreeMap<u32, Identity>,
    flows: Vec<CtRow>,
    options: Options,
    rules: Repository,
}

#[derive(Serialize)]
struct Report {
    /// Revision of the rules in force.
    revision: u64,
    changes: Vec<Change>,
    flows: Vec<FlowChange>,
}

/// A flow that would be decided otherwise.
#[derive(Serialize)]
struct FlowChange {
    protocol: String,
    source: String,
    destination: String,
    from: String,
    to: String,
    before: Decision,
    after: Decision,
}

impl Args {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let list = self.files.read_for_agent()?;
        let node = Node::ask(&session.agent, !self.no_flows).await?;
        let report = node.report(list, self.replace)?;
        session.out.show(&report, page)
    }
}

impl Node {
    async fn ask(agent: &Agent, with_flows: bool) -> Result<Node, Failure> {
        let endpoints = agent.get("list endpoints", Route::new(api::routes::ENDPOINT)).await?;
        let identities: Vec<Identity> = agent.get("list identities", Route::new(api::routes::IDENTITY)).await?;
        let config: Configuration = agent.get("get the configuration", Route::new(api::routes::CONFIG)).await?;
        let policy: Policy = agent.get("get policy", Route::new(api::routes::POLICY)).await?;
        let flows = if with_flows {
            agent.get("list the kernel's flows", Route::new(api::routes::BPF).part("ct")).await?
        } else {
            Vec::new()
        };
        let enforcement = config.policy_enforcement.parse().map_err(strange)?;
        let always = config.options.get("allow-localhost").is_some_and(|value| value == "always");
        let allow_localhost = if always { AllowLocalhost::Always } else { AllowLocalhost::Policy };
        // Without an id there are no others, and every endpoint is of the cluster.
        let option = |name: &str| config.options.get(name).map_or("", |value| value.as_str());
        let in_mesh = !matches!(option("cluster-id"), "" | "0");
        let cluster = ClusterName::new(option("cluster-name")).ok().filter(|_| in_mesh);
        let rules = policy::rules_from_value(&policy.rules).map_err(strange)?;
        Ok(Node {
            endpoints,
            identities: identities.into_iter().map(|identity| (identity.id, identity)).collect(),
            flows,
            options: Options { enforcement, allow_localhost, cluster },
            rules: Repository::from_rules(rules.into_iter().map(Arc::new), policy.revision),
        })
    }

    fn report(&self, list: RuleList, replace: bool) -> Result<Report, Failure> {
        let mut after = self.rules.clone();
        if replace {
            after.replace(list.rules)
        } else {
            after.add(list.rules)
        };
        let mut parties = self.parties()?;
        parties.extend(diff::outside(&self.rules, &after));
        let flows = self.flow_ends()?;
        let mut all = parties.clone();
        all.extend(flows.iter().flat_map(|(_, from, to)| [from.clone(), to.clone()]));
        let diff = Diff::new(&self.rules, &after, self.options, &all);
        let changes = diff.changes(&parties);
        let flows = flows.into_iter().filter_map(|(row, from, to)| flow_change(&diff, row, &from, &to)).collect();
        Ok(Report { revision: self.rules.revision(), changes, flows })
    }

    /// The identities of the endpoints here, the host, and the identities of endpoints elsewhere.
    fn parties(&self) -> Result<Vec<Party>, Failure> {
        let mut here: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for endpoint in &self.endpoints {
            here.entry(endpoint.identity.id.0).or_default().push(name_of(endpoint));
        }
        let mut parties = Vec::new();
        for (id, names) in &here {
            let labels = self.endpoints.iter().find(|endpoint| endpoint.identity.id.0 == *id);
            let labels = labels.map(|endpoint| endpoint.identity.labels.as_slice()).unwrap_or_default();
            parties.push(Party::endpoint(several(names), labels).map_err(strange)?);
        }
        let elsewhere = self.identities.values().filter(|identity| !here.contains_key(&identity.id));
        for identity in elsewhere.filter(|identity| identity.id == HOST || is_allocated(identity.id)) {
            parties.push(self.other(identity.id)?);
        }
        Ok(parties)
    }

    fn other(&self, id: u32) -> Result<Party, Failure> {
        let labels = self.identities.get(&id).map(|identity| identity.labels.as_slice()).unwrap_or_default();
        let name = if id == HOST { "host".to_owned() } else { format!("identity {id} ({})", labels.join(",")) };
        Party::other(name, labels).map_err(strange)
    }

    /// The flows with their ends.
    fn flow_ends(&self) -> Result<Vec<(&CtRow, Party, Party)>, Failure> {
        let mut ends = Vec::new();
        for row in &self.flows {
            let from = self.end(row.source_endpoint, row.source_identity, &row.source)?;
            let to = self.end(row.destination_endpoint, row.destination_identity, &row.destination)?;
            if let (Some(from), Some(to)) = (from, to) {
                ends.push((row, from, to));
            }
        }
        Ok(ends)
    }

    /// `None`: its endpoint is gone, or its address cannot be read.
    fn end(&self, endpoint: u16, identity: u32, address: &str) -> Result<Option<Party>, Failure> {
        if endpoint != 0 {
            let found = self.endpoints.iter().find(|held| held.id == endpoint);
            let party = found.map(|held| Party::endpoint(name_of(held), &held.identity.labels));
            return party.transpose().map_err(strange);
        }
        if identity == HOST || is_allocated(identity) && self.identities.contains_key(&identity) {
            return self.other(identity).map(Some);
        }
        Ok(ip_of(address).map(|ip| Party::address(address, ip)))
    }
}

const HOST: u32 = 1;

/// Whether an identity was allocated for labels.
fn is_allocated(identity: u32) -> bool {
    identity < 1 << 24 && identity & 0xffff >= 256
}

fn flow_change(diff: &Diff, row: &CtRow, from: &Party, to: &Party) -> Option<FlowChange> {
    let protocol = diff::protocol(&row.protocol)?;
    let port = diff::opening_port(protocol, row.destination.parse().map_or(0, |address: SocketAddr| address.port()));
    let (before, after) = diff.decide(from, to, protocol, port);
    (before != after).then(|| FlowChange {
        protocol: row.protocol.clone(),
        source: row.source.clone(),
        destination: row.destination.clone(),
        from: from.name.clone(),
        to: to.name.clone(),
        before,
        after,
    })
}

/// `10.0.0.1:80`, `[2001:db8::1]:80`, or an address alone.
fn ip_of(text: &str) -> Option<IpAddr> {
    text.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_| text.parse()).ok()
}

fn name_of(endpoint: &Endpoint) -> String {
    endpoint.container_name.clone().unwrap_or_else(|| format!("endpoint {}", endpoint.id))
}

/// The names of endpoints with one identity.
fn several(names: &[String]) -> String {
    const MOST: usize = 3;
    let shown = names.iter().take(MOST).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > MOST { format!("{shown} and {} more", names.len() - MOST) } else { shown }
}

fn page(report: &Report) -> Page {
    let mut page = Page::default();
    if report.changes.is_empty() {
        page.line("No verdict between these endpoints and the outside would change.");
    } else {
        let mut table = Table::with_header(Layout::WIDE, ["FROM", "TO", "PORTS", "BEFORE", "AFTER"]);
        for change in &report.changes {
            let Change { from, to, ports, before, after } = change;
            table.row([from, to, ports, &before.to_string(), &after.to_string()].map(Cell::from));
        }
        page.table(table);
    }
    if !report.flows.is_empty() {
        page.line("");
        page.line("Flows seen lately that would be decided otherwise:");
        for flow in &report.flows {
            let FlowChange { protocol, source, destination, from, to, before, after } = flow;
            page.line(format!("  {protocol} {source} -> {destination} ({from} -> {to}): {before} -> {after}"));
        }
    }
    page
}

/// The agent says something that this program does not understand.
fn strange(error: impl std::fmt::Display) -> Failure {
    Failure::Usage(format!("The agent's answer is not understood: {error}"))
}
