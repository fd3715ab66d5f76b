//! Several nodes as one cluster: what one of them tells, the others know.

use anyhow::{Context, Result, ensure};
use lab::{Engine, Nodes, World, eventually};
use std::time::Duration;

crate::on_each_engine!(nodes_tell_each_other_who_has_which_address);

/// Waits until the node knows the address by this label.
fn knows(world: &World, address: &str, label: &str) -> Result<()> {
    let prefix = format!("{address}/{}", if address.contains(':') { 128 } else { 32 });
    eventually(Duration::from_secs(20), "an address to be known", || {
        let list = world.agent.cilium_json(&["ip", "list"])?;
        let row = list.as_array().context("no list")?.iter().find(|row| row["ip"] == prefix.as_str());
        let row = row.with_context(|| format!("{prefix} is not in {list}"))?;
        ensure!(row["source"] == "kvstore" && row["labels"][0] == label, "{row}");
        Ok(())
    })
}

fn nodes_tell_each_other_who_has_which_address(engine: &Engine) -> Result<()> {
    let nodes = Nodes::start(engine, 2, &["--tunnel", "vxlan"])?;
    nodes.know_each_other()?;
    let [one, two] = nodes.worlds.as_slice() else { anyhow::bail!("two nodes are needed") };
    one.network()?;
    two.network()?;
    let (a, b) = (one.container("aa")?, two.container("bb")?);
    // Each out of its own part of the cluster's range.
    let part = |ip: &str| ip.rsplit_once('.').map(|(part, _)| part.to_owned());
    assert!(a.ipv4.starts_with("10.64.") && b.ipv4.starts_with("10.64."), "{} {}", a.ipv4, b.ipv4);
    assert_ne!(part(&a.ipv4), part(&b.ipv4));
    for ip in [&a.ipv4, &a.ipv6] {
        knows(two, ip, "container:id=aa")?;
    }
    for ip in [&b.ipv4, &b.ipv6] {
        knows(one, ip, "container:id=bb")?;
    }
    // The tunnel takes its bytes.
    assert!(a.run(&["ip", "link", "show", "cilium0"])?.contains("mtu 1450"));
    let keys = nodes.etcdctl(&["get", "--prefix", "--keys-only", "cilium/state/"])?;
    for key in ["nodes/v1/default/node1", "nodes/v1/default/node2", "blocks/v1/10.64.0.0%2F16/10.64.0.0%2F24"] {
        assert!(keys.contains(key), "{key} is not in\n{keys}");
    }
    // What goes on one node goes on the other.
    one.docker.docker(&["rm", "-f", "aa"])?;
    eventually(Duration::from_secs(20), "the address to go", || {
        let list = two.agent.cilium_json(&["ip", "list"])?.to_string();
        ensure!(!list.contains(&format!("\"{}/32\"", a.ipv4)), "{list}");
        Ok(())
    })
}
