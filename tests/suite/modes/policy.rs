//! Rules that are imported on one node, and hold on all.

use super::{Lab, labelled, none_failed, only_the_client};
use anyhow::{Result, ensure};
use lab::{Hammer, eventually};
use serde_json::json;

/// Every protocol, with the port that the server has it on.
const ALL: [(&str, u16); 5] = [("tcp", 80), ("tcp", 81), ("udp", 53), ("sctp", 90), ("icmp", 0)];

pub(super) fn holds_on_all_nodes(lab: &mut Lab) -> Result<()> {
    let everything = |from, expected: &[bool]| -> Result<()> {
        let ports = ALL.iter().zip(expected).map(|((protocol, port), expected)| (*protocol, *port, *expected));
        lab.all_hold(from, &lab.server, &ports.collect::<Vec<_>>())
    };
    everything(&lab.client, &[true; 5])?;
    everything(&lab.stranger, &[true; 5])?;
    let ports = json!([{"ports": [
        {"port": "80", "protocol": "TCP"}, {"port": "53", "protocol": "UDP"}, {"port": "90", "protocol": "SCTP"},
    ]}]);
    // The receiver's node judges.
    lab.import(&json!([{"endpointSelector": labelled("server"),
        "ingress": [{"fromEndpoints": [labelled("client")], "toPorts": ports}]}]))?;
    everything(&lab.client, &[true, false, true, true, false])?;
    everything(&lab.stranger, &[false; 5])?;
    lab.holds(&lab.mate, &lab.server, "tcp", 80, false)?;
    // Pings alone.
    lab.forget()?;
    let pings = json!([{"fields": [{"type": 8, "family": "IPv4"}, {"type": 128, "family": "IPv6"}]}]);
    lab.import(&json!([{"endpointSelector": labelled("server"),
        "ingress": [{"fromEndpoints": [labelled("client")], "icmps": pings}]}]))?;
    everything(&lab.client, &[false, false, false, false, true])?;
    everything(&lab.stranger, &[false; 5])?;
    // The sender's node judges.
    lab.forget()?;
    lab.import(&json!([
        {"endpointSelector": labelled("client"), "egress": [{"toEndpoints": [labelled("server")], "toPorts": ports}]},
        {"endpointSelector": labelled("stranger"), "egress": [{"toEndpoints": [labelled("mate")]}]},
    ]))?;
    everything(&lab.client, &[true, false, true, true, false])?;
    everything(&lab.stranger, &[false; 5])?;
    lab.holds(&lab.stranger, &lab.mate, "icmp", 0, true)?;
    lab.holds(&lab.client, &lab.mate, "icmp", 0, false)?;
    // Both do.
    lab.forget()?;
    lab.import(&json!([
        {"endpointSelector": labelled("client"), "egress": [{"toEndpoints": [labelled("server")]}]},
        {"endpointSelector": labelled("server"), "ingress": [{"fromEndpoints": [labelled("client")],
            "toPorts": [{"ports": [{"port": "81", "protocol": "TCP"}]}]}]},
    ]))?;
    everything(&lab.client, &[false, true, false, false, false])?;
    everything(&lab.stranger, &[false; 5])
}

pub(super) fn denies(lab: &mut Lab) -> Result<()> {
    lab.import(&json!([
        {"endpointSelector": labelled("server"), "ingress": [{"fromEndpoints": [{}]}],
            "ingressDeny": [{"fromEndpoints": [labelled("stranger")]},
                {"fromEndpoints": [{}], "toPorts": [{"ports": [{"port": "81", "protocol": "TCP"}]}]}]},
    ]))?;
    lab.holds(&lab.client, &lab.server, "tcp", 80, true)?;
    lab.holds(&lab.client, &lab.server, "tcp", 81, false)?;
    lab.holds(&lab.stranger, &lab.server, "tcp", 80, false)?;
    lab.holds(&lab.stranger, &lab.server, "icmp", 0, false)?;
    lab.forget()?;
    lab.import(&json!([
        {"endpointSelector": labelled("client"), "egress": [{"toEntities": ["all"]}],
            "egressDeny": [{"toEndpoints": [labelled("server")],
                "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}]},
    ]))?;
    lab.holds(&lab.client, &lab.server, "tcp", 80, false)?;
    lab.holds(&lab.client, &lab.server, "udp", 53, true)?;
    lab.holds(&lab.stranger, &lab.server, "tcp", 80, true)
}

pub(super) fn under_traffic(lab: &mut Lab) -> Result<()> {
    lab.import(&only_the_client())?;
    let traffic = lab.traffic(true)?;
    // Rules about others, and others about these, come and go.
    for round in 0..4 {
        let more = json!([
            {"endpointSelector": labelled("server"), "labels": [format!("round={round}")],
                "ingress": [{"fromEndpoints": [labelled(&format!("nobody-{round}"))]}]},
            {"endpointSelector": labelled("client"), "labels": [format!("round={round}")],
                "egress": [{"toEndpoints": [labelled("server")]}, {"toEntities": ["host"]}]},
        ]);
        lab.import(&more)?;
        lab.two().agent.cilium(&["policy", "delete", &format!("round={round}")])?;
        lab.in_force()?;
    }
    none_failed(traffic)?;
    // What is not allowed any more ends, on both nodes, and with it the connections that are there.
    let kept: Vec<Hammer> = lab.traffic(false)?;
    lab.forget()?;
    lab.import(&json!([{"endpointSelector": labelled("server"), "ingress": [{"fromEndpoints": [labelled("mate")]}]}]))?;
    lab.holds(&lab.client, &lab.server, "tcp", 80, false)?;
    for hammer in kept {
        let tally = hammer.finish()?;
        ensure!(tally.failed > 0, "a connection outlived its permission: {tally:?}");
    }
    lab.forget()?;
    lab.import(&only_the_client())?;
    eventually(super::PATIENCE, "the client to be let in again", || {
        lab.holds(&lab.client, &lab.server, "tcp", 80, true)
    })
}
