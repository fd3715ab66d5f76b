//! What comes and goes leaves nothing behind.

use anyhow::{Result, ensure};
use lab::{Engine, World, eventually};
use std::time::Duration;

#[test]
#[ignore = "needs root: make test"]
fn two_hundred_runs_leave_nothing() -> Result<()> {
    let world = World::start(&Engine::installed())?;
    world.network()?;
    let peer = world.container("peer")?;
    world.endpoints_ready(1)?;
    let before = world.kernel_inventory()?;
    let script = format!(
        "set -e; for round in $(seq 50); do pids=; for n in 1 2 3 4; do
           docker run --rm --net net -l id=run$n lab ping -c1 -W2 {} >/dev/null & pids=\"$pids $!\"
         done; for pid in $pids; do wait $pid; done; done",
        peer.ipv4
    );
    world.machine.run(&["sh", "-c", &script])?;
    eventually(Duration::from_secs(60), "everything to be as before", || {
        let after = world.kernel_inventory()?;
        ensure!(after == before, "before:\n{before}\nafter:\n{after}");
        Ok(())
    })?;
    // Identities that nobody has any more are released.
    eventually(Duration::from_secs(60), "unused identities to go", || {
        let list = world.agent.cilium(&["identity", "list"])?;
        ensure!(!list.contains("id=run1"), "{list}");
        Ok(())
    })?;
    let keys = world.agent.cilium(&["kvstore", "get", "--recursive", "cilium/"])?;
    ensure!(!keys.contains("run1"), "{keys}");
    Ok(())
}

#[test]
#[ignore = "needs root: make test"]
fn a_refused_start_leaves_nothing() -> Result<()> {
    let world = World::start(&Engine::installed())?;
    world.network()?;
    let before = world.kernel_inventory()?;
    for _ in 0..3 {
        world.docker.refused(&["run", "--rm", "--net", "net", "lab", "/no/such/program"])?;
    }
    eventually(Duration::from_secs(30), "everything to be as before", || {
        let after = world.kernel_inventory()?;
        ensure!(after == before, "before:\n{before}\nafter:\n{after}");
        Ok(())
    })
}

#[test]
#[ignore = "needs root: make test"]
fn cleanup_takes_away_all_of_ours_and_nothing_else() -> Result<()> {
    let machine = std::rc::Rc::new(lab::Machine::start()?);
    let look = || -> Result<String> {
        machine.run(&["sh", "-c", "ip -br link | sort; ip rule; ip -6 rule; ip -4 route show table all | sort; ip -6 route show table all | grep -Ev 'anycast|fe80|multicast' | sort;
            ip neigh show nud permanent; nft list ruleset; iptables-save | grep -v '^#'; ip6tables-save | grep -v '^#'; find /sys/fs/bpf | sort"])
    };
    // A user's own things, which must stay.
    machine.run(&["sh", "-c", "nft add table inet mine; iptables -N MINE; iptables -A FORWARD -j MINE; ip link add mine0 type veth peer name mine1"])?;
    machine.run(&["iptables-save"])?;
    machine.run(&["ip6tables-save"])?;
    let before = look()?;
    {
        let mut agent = lab::Agent::start(&machine, &[])?;
        let docker = lab::Docker::start(&machine, &Engine::installed(), &["--bridge=none", "--iptables=false"])?;
        docker.docker(&["network", "create", "--driver", "cilium", "--ipam-driver", "cilium", "--ipv6", "net"])?;
        let a = docker.sleeper("aa", "net", "aa")?;
        let b = docker.sleeper("bb", "net", "bb")?;
        a.run(&["ping", "-c1", "-W2", &b.ipv4])?;
        a.run(&["ping", "-c1", "-W2", lab::WORLD4])?;
        docker.docker(&["rm", "-f", "aa", "bb"])?;
        agent.stop()?;
        let binary = lab::binary("cilium-agent")?;
        let lib = machine.dir().join("lib");
        machine.run(&[
            &binary.display().to_string(),
            "cleanup",
            "--all-state",
            "--force",
            "--lib-dir",
            &lib.display().to_string(),
        ])?;
        ensure!(!lib.exists() || std::fs::read_dir(&lib)?.next().is_none(), "state is left in {}", lib.display());
    }
    assert_eq!(look()?, before);
    Ok(())
}
