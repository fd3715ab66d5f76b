//! Policy at work between real containers, both address families.

use anyhow::{Result, ensure};
use lab::{Container, Engine, Hammer, Machine, Process, World, eventually};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::rc::Rc;
use std::time::Duration;

crate::on_each_engine!(the_readme_scene);

/// app1 serves 80 and 81; app2 and app3 are clients.
struct Apps {
    world: World,
    app1: Container,
    app2: Container,
    app3: Container,
    _server: lab::Server,
}

impl Apps {
    fn start(engine: &Engine) -> Result<Apps> {
        Apps::with_options(engine, &[])
    }

    fn with_options(engine: &Engine, options: &[&str]) -> Result<Apps> {
        let world = World::with_options(engine, options)?;
        world.network()?;
        let (app1, app2, app3) = (world.container("app1")?, world.container("app2")?, world.container("app3")?);
        let _server = world.serve(&app1, &["tcp:80", "tcp:81", "udp:53"])?;
        world.endpoints_ready(3)?;
        Ok(Apps { world, app1, app2, app3, _server })
    }

    fn expect(&self, from: &Container, port: u16, expected: bool) -> Result<()> {
        self.world.expect(from, &self.app1, "tcp", port, expected)
    }

    fn import(&self, rules: Value) -> Result<()> {
        self.world.agent.import(&rules).map(|_| ())
    }

    fn delete_all(&self) -> Result<()> {
        self.world.agent.cilium(&["policy", "delete", "--all"])?;
        let revision = self.world.agent.cilium_json(&["policy", "get"])?["revision"].to_string();
        self.world.agent.cilium(&["policy", "wait", &revision]).map(|_| ())
    }
}

fn select(id: &str) -> Value {
    json!({"matchLabels": {"id": id}})
}

fn tcp(port: u16) -> Value {
    json!([{"ports": [{"port": port.to_string(), "protocol": "TCP"}]}])
}

fn the_readme_scene(engine: &Engine) -> Result<()> {
    let apps = Apps::start(engine)?;
    apps.expect(&apps.app3, 81, true)?;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/policies/l3-l4.json");
    apps.world.agent.cilium(&["policy", "import", "--wait", file])?;
    apps.expect(&apps.app2, 80, true)?;
    apps.expect(&apps.app2, 81, false)?;
    apps.expect(&apps.app3, 80, false)?;
    apps.world.expect(&apps.app3, &apps.app1, "udp", 53, false)?;
    ensure!(apps.app3.run(&["ping", "-c1", "-W1", &apps.app1.ipv4]).is_err());
    ensure!(apps.app3.run(&["ping", "-c1", "-W1", &apps.app1.ipv6]).is_err());
    // Replies need no rule: app1 opens what it likes.
    let _server = apps.world.serve(&apps.app3, &["tcp:80"])?;
    apps.world.expect(&apps.app1, &apps.app3, "tcp", 80, true)?;
    apps.delete_all()?;
    apps.expect(&apps.app3, 80, true)
}

#[test]
#[ignore = "needs root: make test"]
fn documents_written_for_clusters_are_enforced() -> Result<()> {
    let world = World::start(&Engine::installed())?;
    world.network()?;
    let pod = |name: &str, namespace: &str| {
        let (app, namespace) = (format!("k8s:app={name}"), format!("k8s:io.kubernetes.pod.namespace={namespace}"));
        world.docker.run(name, &["--net", "net", "-l", &app, "-l", &namespace], &["sleep", "1000000"])
    };
    let (web, client, stranger) = (pod("web", "shop")?, pod("client", "shop")?, pod("stranger", "other")?);
    let _server = world.serve(&web, &["tcp:80", "tcp:81"])?;
    world.endpoints_ready(3)?;
    let folder = world.machine.dir().join("policies");
    std::fs::create_dir(&folder)?;
    let document = |port: u16| {
        format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: web, namespace: shop}}\nspec:\n  \
             endpointSelector: {{matchLabels: {{app: web}}}}\n  ingress:\n  - fromEndpoints: [{{}}]\n    toPorts:\n    \
             - ports: [{{port: '{port}', protocol: TCP}}]\n"
        )
    };
    let path = folder.display().to_string();
    for (port, other) in [(80, 81), (81, 80)] {
        std::fs::write(folder.join("web.yaml"), document(port))?;
        let told = world.agent.cilium(&["policy", "diff", &path])?;
        ensure!(told.contains("client "), "policy diff does not tell whom it concerns: {told}");
        // A document that is imported again takes the place of the rules that were made of it.
        world.agent.cilium(&["policy", "import", "--wait", &path])?;
        world.expect(&client, &web, "tcp", port, true)?;
        world.expect(&client, &web, "tcp", other, false)?;
        world.expect(&stranger, &web, "tcp", port, false)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: make test"]
fn denies_ranges_icmp_and_egress_are_enforced() -> Result<()> {
    let apps = Apps::start(&Engine::installed())?;
    // A range, with a hole that a deny cuts.
    apps.import(json!([{
        "endpointSelector": select("app1"),
        "ingress": [{"fromEndpoints": [select("app2")],
                     "toPorts": [{"ports": [{"port": "70", "endPort": 90, "protocol": "TCP"}]}]}],
        "ingressDeny": [{"fromEndpoints": [select("app2")], "toPorts": tcp(81)}],
    }]))?;
    apps.expect(&apps.app2, 80, true)?;
    apps.expect(&apps.app2, 81, false)?;
    apps.expect(&apps.app3, 80, false)?;
    apps.delete_all()?;

    // ICMP by type, per family.
    apps.import(json!([{
        "endpointSelector": select("app1"),
        "ingress": [{"fromEndpoints": [select("app2")], "icmps": [{"fields": [{"type": 8, "family": "IPv4"}]}]}],
    }]))?;
    apps.app2.run(&["ping", "-c1", "-W2", &apps.app1.ipv4])?;
    ensure!(apps.app2.run(&["ping", "-c1", "-W1", &apps.app1.ipv6]).is_err());
    apps.expect(&apps.app2, 80, false)?;
    apps.delete_all()?;

    // Egress: only port 80, and only to app1.
    apps.import(json!([{
        "endpointSelector": select("app2"),
        "egress": [{"toEndpoints": [select("app1")], "toPorts": tcp(80)}],
    }]))?;
    apps.expect(&apps.app2, 80, true)?;
    apps.expect(&apps.app2, 81, false)?;
    apps.expect(&apps.app3, 81, true)?;
    apps.delete_all()?;

    // fromRequires narrows what fromEndpoints allows.
    apps.import(json!([
        {"endpointSelector": select("app1"), "ingress": [{"fromEndpoints": [{}]}]},
        {"endpointSelector": select("app1"), "ingress": [{"fromRequires": [select("app2")]}]},
    ]))?;
    apps.expect(&apps.app2, 80, true)?;
    apps.expect(&apps.app3, 80, false)
}

#[test]
#[ignore = "needs root: make test"]
fn enforcement_modes_always_and_never() -> Result<()> {
    let apps = Apps::with_options(&Engine::installed(), &["--enable-policy", "always"])?;
    apps.expect(&apps.app2, 80, false)?;
    apps.world.agent.cilium(&["config", "policy-enforcement=never"])?;
    eventually(Duration::from_secs(30), "never to open everything", || apps.expect(&apps.app2, 80, true))?;
    apps.world.agent.cilium(&["config", "policy-enforcement=default"])?;
    apps.expect(&apps.app2, 80, true)
}

#[test]
#[ignore = "needs root: make test"]
fn a_revoked_policy_cuts_established_flows_both_ways() -> Result<()> {
    let apps = Apps::start(&Engine::installed())?;
    apps.import(json!([{"endpointSelector": select("app1"), "ingress": [{"fromEndpoints": [select("app2")]}]}]))?;
    for host in apps.app1.hosts() {
        let mut connection = Connection::open(&apps.world.machine, &apps.app2, &format!("{host}:80"))?;
        ensure!(connection.exchange()?, "an allowed connection does not work");
        apps.import(json!([{"endpointSelector": select("app1"), "labels": ["deny"],
                            "ingressDeny": [{"fromEndpoints": [select("app2")]}]}]))?;
        ensure!(!connection.exchange()?, "a revoked connection goes on over {host}");
        apps.world.agent.cilium(&["policy", "delete", "deny"])?;
        eventually(Duration::from_secs(30), "the connection to be let through again", || {
            ensure!(apps.world.reaches(&apps.app2.enter(), "tcp", &host, 80)?);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: make test"]
fn policy_changes_fail_no_request_that_is_always_allowed() -> Result<()> {
    let apps = Apps::start(&Engine::installed())?;
    let allow = json!({"endpointSelector": select("app1"), "ingress": [{"fromEndpoints": [select("app2")]}]});
    apps.import(json!([allow]))?;
    let hammers: Vec<Hammer> = apps
        .app1
        .hosts()
        .iter()
        .map(|host| Hammer::start(&apps.world.machine, &apps.app2.enter(), "connect", &format!("{host}:80")))
        .collect::<Result<_>>()?;
    for round in 0..20 {
        apps.import(json!([{"endpointSelector": select("app1"), "labels": [format!("round{round}")],
            "ingress": [{"fromCIDR": [format!("192.0.2.{round}/32")]}, {"fromEndpoints": [select("app2")], "toPorts": tcp(1000 + round)}]}]))?;
        // What is not allowed stays so all along.
        apps.expect(&apps.app3, 80, false)?;
        if round % 2 == 1 {
            apps.world.agent.cilium(&["policy", "delete", &format!("round{round}")])?;
        }
    }
    for hammer in hammers {
        let tally = hammer.finish()?;
        ensure!(tally.failed == 0 && tally.requests > 20 && tally.longest_ms < 900, "{tally:?}");
    }
    Ok(())
}

/// Twenty containers at once send their first packet the moment they run: each must have its identity by then, which the
/// policy (nobody but id=client) would show.
#[test]
#[ignore = "needs root: make test"]
fn a_hundred_starts_twenty_at_a_time_send_nothing_as_init() -> Result<()> {
    let apps = Apps::start(&Engine::installed())?;
    apps.import(json!([{"endpointSelector": select("app1"), "ingress": [{"fromEndpoints": [select("client")]}]}]))?;
    let url = format!("http://{}/", apps.app1.ipv4);
    apps.world.docker.docker(&["exec", "-d", "app1", "httpd", "-f", "-p", "8080", "-h", "/www"])?;
    let url = url.replace(&format!("{}/", apps.app1.ipv4), &format!("{}:8080/", apps.app1.ipv4));
    // A refused or lost SYN comes again after one second: who connects sooner had its first packet let through. The
    // answer itself may take the server longer on a busy machine.
    let script = format!(
        "set -e; for round in 1 2 3 4 5; do pids=; for n in $(seq 20); do
           docker run --rm --net net -l id=client lab curl -sS --connect-timeout 0.9 -m 20 -o /dev/null {url} & pids=\"$pids $!\"
         done; for pid in $pids; do wait $pid || failed=1; done; done; exit ${{failed:-0}}"
    );
    let result = apps.world.machine.run(&["sh", "-c", &script]);
    let metrics = apps.world.agent.cilium(&["bpf", "metrics", "list"])?;
    result?;
    let events = apps.world.agent.cilium_json(&["identity", "list"])?;
    ensure!(events.to_string().contains("container:id=client"), "{events}\n{metrics}");
    Ok(())
}

/// One open TCP connection out of a container.
struct Connection {
    _process: Process,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Connection {
    fn open(machine: &Rc<Machine>, from: &Container, target: &str) -> Result<Connection> {
        let mut command = machine.command("env");
        command.args(from.enter()).arg(lab::binary("lab-probe")?).args(["open", target]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let (_process, stdin, stdout) = Process::piped(command)?;
        let mut connection = Connection { _process, stdin, stdout: BufReader::new(stdout) };
        ensure!(connection.line()? == "open", "no connection to {target}");
        Ok(connection)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Whether one request on it is answered.
    fn exchange(&mut self) -> Result<bool> {
        self.stdin.write_all(b"\n")?;
        self.stdin.flush()?;
        Ok(self.line()? == "ok")
    }
}
