//! Nodes, their health endpoints and the world, as rules name them.

use super::tables::{all_reached, health_of, paths};
use super::{Lab, PATIENCE, all_as_expected, labelled};
use anyhow::{Context, Result, ensure};
use lab::{Ask, Container, Server, eventually};
use serde_json::{Value, json};

/// Ports on which node 1, node 2 and the hub (which is the world) answer. A host with several addresses answers datagrams
/// by any of them, so only the hub is asked by UDP.
const PORTS: [&str; 2] = ["tcp:8000", "udp:8053"];

/// Who a container may want to reach; the addresses are of both families, as far as there are any.
struct Place {
    entity: &'static str,
    targets: Vec<(&'static str, String, u16)>,
}

pub(super) fn of_egress(lab: &mut Lab) -> Result<()> {
    all_reached(lab, lab.one())?;
    let machines = [&lab.one().machine, &lab.two().machine, &lab.nodes.hub];
    let _servers: Vec<Server> =
        machines.into_iter().map(|machine| Server::start(machine, &[], &PORTS)).collect::<Result<_>>()?;
    let node2 = health_of(lab.one(), "node2")?;
    let ends = paths(&node2).into_iter().filter(|(end, _)| *end == "health-endpoint");
    let ends: Vec<String> = ends.filter_map(|(_, path)| Some(path["ip"].as_str()?.to_owned())).collect();
    let ends = ends.into_iter().filter(|ip| lab.families().contains(&!ip.contains(':')));
    let on = |last: &str| -> Vec<_> {
        let ips = lab.underlay_ips(last);
        let udp = ips.clone().into_iter().filter(|_| last == "1").map(|ip| ("udp", ip, 8053));
        ips.into_iter().map(|ip| ("tcp", ip, 8000)).chain(udp).collect()
    };
    let health = Place { entity: "health", targets: ends.map(|ip| ("http", ip, 4240)).collect() };
    ensure!(!health.targets.is_empty(), "{node2:#}");
    let places = [
        Place { entity: "host", targets: on("11") },
        Place { entity: "remote-node", targets: on("12") },
        Place { entity: "world", targets: on("1") },
        health,
    ];
    let reach = |what: &str, reachable: &[&str], pod: bool| -> Result<()> {
        eventually(PATIENCE, what, || {
            let mut asks = Vec::new();
            for place in &places {
                for (protocol, ip, port) in &place.targets {
                    let expected = reachable.contains(&place.entity);
                    let ask = Ask::start(&lab.one().machine, &lab.mate.enter(), protocol, ip, *port, expected)?;
                    asks.push((format!("mate -> {} {protocol} {ip} {port}: {expected}", place.entity), ask));
                }
            }
            all_as_expected(asks)?;
            lab.holds(&lab.mate, &lab.client, "icmp", 0, pod)
        })
    };
    reach("without rules", &["host", "remote-node", "world", "health"], true)?;
    let only = |entities: &[&str]| -> Result<()> {
        lab.forget()?;
        lab.import(&json!([{"endpointSelector": labelled("mate"), "egress": [{"toEntities": entities}]}]))
    };
    only(&["init"])?;
    reach("nothing allowed", &[], false)?;
    if lab.tunnel.is_some() {
        // The other node by the address that it has inside the tunnel.
        let inside = lab.client.ipv4.rsplit_once('.').map(|(part, _)| format!("{part}.1")).context("no address")?;
        ensure!(lab.mate.run(&["ping", "-c1", "-W1", &inside]).is_err(), "{inside}");
    }
    for entity in ["host", "remote-node", "world", "health"] {
        only(&[entity])?;
        reach(entity, &[entity], false)?;
    }
    only(&["cluster"])?;
    reach("cluster", &["host", "remote-node", "health"], true)
}

pub(super) fn of_ingress(lab: &mut Lab) -> Result<()> {
    // The world has a way to the server by its own node alone.
    for ip in lab.ips(&lab.server) {
        let gateway = lab.underlay_ips("11").into_iter().find(|via| via.contains(':') == ip.contains(':'));
        if let Some(gateway) = gateway {
            lab.nodes.hub.run(&["ip", "route", "replace", ip, "via", &gateway])?;
        }
    }
    let outcome = ingress(lab);
    for ip in lab.ips(&lab.server) {
        let _ = lab.nodes.hub.run(&["ip", if ip.contains(':') { "-6" } else { "-4" }, "route", "del", ip]);
    }
    outcome
}

fn ingress(lab: &Lab) -> Result<()> {
    let reach = |rules: &Value, reaching: &[&str]| -> Result<()> {
        lab.forget()?;
        if !rules.is_null() {
            lab.import(rules)?;
        }
        let mut asks = Vec::new();
        for (entity, machine) in
            [("host", &lab.one().machine), ("remote-node", &lab.two().machine), ("world", &lab.nodes.hub)]
        {
            for (protocol, port) in [("tcp", 80), ("udp", 53), ("sctp", 90), ("icmp", 0)] {
                // The world has no way of a family that the underlay does not have.
                for ip in lab.ips(&lab.server) {
                    if entity == "world"
                        && lab.underlay_ips("1").iter().all(|own| own.contains(':') != ip.contains(':'))
                    {
                        continue;
                    }
                    let expected = reaching.contains(&entity);
                    let ask = Ask::start(machine, &[], protocol, ip, port, expected)?;
                    asks.push((format!("{entity} -> {ip} {protocol}: {expected}"), ask));
                }
            }
        }
        all_as_expected(asks).with_context(|| rules.to_string())?;
        reaches_pods(lab, &lab.client, reaching.contains(&"pods")).with_context(|| rules.to_string())
    };
    let only =
        |entities: &[&str]| json!([{"endpointSelector": labelled("server"), "ingress": [{"fromEntities": entities}]}]);
    reach(&Value::Null, &["host", "remote-node", "world", "pods"])?;
    reach(&only(&["host"]), &["host"])?;
    reach(&only(&["remote-node"]), &["remote-node"])?;
    reach(&only(&["world"]), &["world"])?;
    reach(&only(&["cluster"]), &["host", "remote-node", "pods"])?;
    reach(&only(&["init"]), &[])
}

fn reaches_pods(lab: &Lab, from: &Container, expected: bool) -> Result<()> {
    lab.holds(from, &lab.server, "udp", 53, expected)
}
