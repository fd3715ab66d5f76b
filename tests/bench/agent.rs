//! The agent itself: memory, size, and how quickly a policy is everywhere.

use crate::Effort;
use crate::table::{Goal, Table, median};
use anyhow::{Context, Result, ensure};
use lab::{Engine, World};

pub fn measure(table: &mut Table, effort: Effort) -> Result<()> {
    for name in ["cilium-agent", "cilium"] {
        let size = std::fs::metadata(lab::binary(name)?)?.len() as f64 / (1 << 20) as f64;
        table.figure(&format!("static binary: {name}"), "MiB", size, Goal::None);
    }
    let world = World::start(&Engine::installed())?;
    world.network()?;
    containers(&world, 1, 50)?;
    world.endpoints_ready(50)?;
    table.figure(
        "agent's resident memory, 50 endpoints",
        "MiB",
        world.agent.resident()? as f64 / 1024.0,
        Goal::AtMost(40.0),
    );
    containers(&world, 51, 100)?;
    world.endpoints_ready(100)?;

    let path = world.machine.dir().join("rules.json");
    let mut millis = Vec::new();
    for round in 0..effort.rounds * 3 {
        let rules = serde_json::json!([{"labels": ["bench"], "endpointSelector": {"matchExpressions": [{"key": "id", "operator": "Exists"}]},
            "ingress": [{"fromEndpoints": [{"matchLabels": {"id": format!("c{}", round + 1)}}],
                         "toPorts": [{"ports": [{"port": (1000 + round).to_string(), "protocol": "TCP"}]}]}]}]);
        std::fs::write(&path, rules.to_string())?;
        let answer = world.machine.run(&[
            "curl",
            "-s",
            "-w",
            "\n%{http_code} %{time_total}",
            "--unix-socket",
            "/run/cilium/cilium.sock",
            "-X",
            "PUT",
            "--data-binary",
            &format!("@{}", path.display()),
            "http://localhost/v1/policy?replace=true&wait=true",
        ])?;
        let last = answer.lines().last().context("no answer")?;
        let (code, seconds) = last.split_once(' ').context("no time")?;
        ensure!(code == "200", "{answer}");
        millis.push(seconds.parse::<f64>()? * 1000.0);
    }
    table.figure(
        "policy import to enforced everywhere, 100 endpoints, median",
        "ms",
        median(&millis),
        Goal::AtMost(50.0),
    );
    Ok(())
}

fn containers(world: &World, from: usize, to: usize) -> Result<()> {
    let script = format!(
        "set -e; for first in $(seq {from} 5 {to}); do pids=; for n in $(seq $first $((first + 4))); do
           [ $n -le {to} ] || continue
           docker run -d --net net -l id=c$n --name c$n lab sleep 1000000 >/dev/null & pids=\"$pids $!\"
         done; for pid in $pids; do wait $pid; done; done"
    );
    world.machine.run(&["sh", "-c", &script]).map(|_| ())
}
