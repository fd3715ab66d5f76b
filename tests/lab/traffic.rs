//! Real traffic, made by `lab-probe` (this crate's own program) inside a container, a machine or the world.

use crate::{Machine, Process, binary};
use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::process::{ChildStdin, Stdio};
use std::rc::Rc;
use std::time::Duration;

/// Answers on TCP and UDP ports: each connection or datagram gets its bytes back.
pub struct Server {
    _process: Process,
}

impl Server {
    /// `place`: arguments that enter a namespace (`Container::enter`), or nothing for the machine itself.
    pub fn start(machine: &Rc<Machine>, place: &[String], ports: &[&str]) -> Result<Server> {
        let log = format!("server-{}-{}.log", place.join("-").replace('/', "_"), ports.join("-").replace(':', "_"));
        // What a former one has said is not this one's word.
        let _ = std::fs::remove_file(machine.dir().join(&log));
        let mut command = machine.command("env");
        command.args(place).arg(binary("lab-probe")?).arg("serve").args(ports);
        let process = machine.spawn(&log, command)?;
        crate::eventually(Duration::from_secs(30), "the server to listen", || {
            ensure!(machine.log(&log).contains("listening"), "{}", machine.log(&log));
            Ok(())
        })?;
        Ok(Server { _process: process })
    }
}

/// One request; many can be under way at once. An answer that is expected is awaited for long, as the machine may do much
/// else; one that is not, for half a second, a ping's for a second.
pub struct Ask {
    expected: bool,
    child: std::process::Child,
}

impl Ask {
    /// `protocol`: `tcp`, `udp`, `sctp`, `http`, or `icmp`, which has no port.
    pub fn start(
        machine: &Machine,
        place: &[String],
        protocol: &str,
        ip: &str,
        port: u16,
        expected: bool,
    ) -> Result<Ask> {
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let mut command = machine.command("env");
        command.args(place);
        match protocol {
            "icmp" => command.args(["ping", "-c1", if expected { "-W5" } else { "-W1" }, ip]),
            "http" => command.arg(binary("lab-probe")?).args(["http", &format!("{host}:{port}")]),
            _ => command.arg(binary("lab-probe")?).args([
                "ask",
                protocol,
                &format!("{host}:{port}"),
                if expected { "5000" } else { "500" },
            ]),
        };
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start a request")?;
        Ok(Ask { expected, child })
    }

    /// Whether it went otherwise than expected.
    pub fn is_wrong(mut self) -> Result<bool> {
        Ok(self.child.wait()?.success() != self.expected)
    }
}

/// Hears datagrams on a UDP port, and says no word.
pub struct Sink {
    machine: Rc<Machine>,
    log: String,
    _process: Process,
}

impl Sink {
    pub fn start(machine: &Rc<Machine>, place: &[String], port: u16) -> Result<Sink> {
        let log = format!("sink-{}-{port}.log", place.join("-").replace('/', "_"));
        let _ = std::fs::remove_file(machine.dir().join(&log));
        let mut command = machine.command("env");
        command.args(place).arg(binary("lab-probe")?).args(["sink", &port.to_string()]);
        let sink = Sink { machine: machine.clone(), _process: machine.spawn(&log, command)?, log };
        crate::eventually(Duration::from_secs(30), "the sink to listen", || {
            ensure!(sink.heard()?.iter().any(|line| line == "listening"));
            Ok(())
        })?;
        Ok(sink)
    }

    /// The text of every datagram so far, in the order in which they came.
    pub fn heard(&self) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(self.machine.dir().join(&self.log))?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

/// Requests that go on until stopped, each counted.
pub struct Hammer {
    machine: Rc<Machine>,
    log: String,
    process: Process,
    stdin: Option<ChildStdin>,
}

/// What a hammer counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub struct Tally {
    pub requests: u64,
    pub failed: u64,
    /// The first failures, in words.
    pub errors: Vec<String>,
    /// The longest request, milliseconds.
    pub longest_ms: u64,
}

impl Hammer {
    /// `mode`: `keep` (one connection, request after request), `connect` (a connection for each request) or `denied`
    /// (likewise, and a request that is let through is a failed one).
    pub fn start(machine: &Rc<Machine>, place: &[String], mode: &str, target: &str) -> Result<Hammer> {
        let log = format!("hammer-{mode}-{}-{target}.log", place.join("-")).replace(['[', ']', ':', '/'], "_");
        let _ = std::fs::remove_file(machine.dir().join(&log));
        let file = std::fs::File::create(machine.dir().join(&log))?;
        let mut command = machine.command("env");
        command.args(place).arg(binary("lab-probe")?).args(["hammer", mode, target]);
        command.stdin(Stdio::piped()).stdout(file.try_clone()?).stderr(file);
        let (process, stdin) = Process::with_stdin(command)?;
        Ok(Hammer { machine: machine.clone(), log, process, stdin: Some(stdin) })
    }

    /// Ends it (by closing its standard input) and reads its tally.
    pub fn finish(mut self) -> Result<Tally> {
        if let Some(mut stdin) = self.stdin.take() {
            let _ = stdin.flush();
        }
        self.process.wait(Duration::from_secs(60))?;
        let text = std::fs::read_to_string(self.machine.dir().join(&self.log))?;
        let line = text.lines().last().context("the hammer said nothing")?;
        serde_json::from_str(line).with_context(|| format!("the hammer said {text}"))
    }
}
