//! A network and a mount namespace that live as long as the test, agents in them, and requests to those.
#![allow(clippy::unwrap_used)] // a test that cannot go on says where

use crate::{PATIENCE, Refused};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(20);

/// The built agent with these arguments and nothing of our environment that it would listen to.
pub fn agent(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cilium-agent"));
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CILIUM_") {
            command.env_remove(name);
        }
    }
    command
}

pub struct World {
    dir: tempfile::TempDir,
    /// Sleeps in the namespaces and so keeps them.
    holder: Child,
    agent: Option<Child>,
}

impl World {
    pub fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        for name in ["lib", "run", "plugins", "bpf"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let unshare = ["--net", "--mount", "--propagation", "private", "sleep", "infinity"];
        let holder = Command::new("unshare").args(unshare).spawn().unwrap();
        let world = World { dir, holder, agent: None };
        world.until("the namespaces are there", |world| {
            let own = std::fs::read_link("/proc/self/ns/net").unwrap();
            let comm = std::fs::read_to_string(format!("/proc/{}/comm", world.holder.id())).unwrap_or_default();
            comm.trim() == "sleep"
                && std::fs::read_link(format!("/proc/{}/ns/net", world.holder.id())).is_ok_and(|ns| ns != own)
        });
        world.shell("mount -t sysfs none /sys && ip link set lo up");
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command within the namespaces.
    fn inside(&self, program: &std::ffi::OsStr) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--net", "--mount", "--"]).arg(program);
        command.env("W", self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Runs a shell line within the namespaces and returns what it prints; `$W` is the world's folder.
    pub fn shell(&self, line: &str) -> String {
        let output = self.inside("sh".as_ref()).args(["-c", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn agent_command(&self, args: &[&str]) -> Command {
        let program = agent(&[]).get_program().to_owned();
        let mut command = self.inside(&program);
        for (flag, name) in
            [("--lib-dir", "lib"), ("--state-dir", "run"), ("--docker-plugins", "plugins"), ("--bpf-root", "bpf")]
        {
            command.arg(flag).arg(self.path(name));
        }
        let docker = format!("unix://{}", self.path("docker.sock").display());
        command.args(["--node-name", "n1", "--ipv4-range", "10.15.0.0/16", "--docker", &docker]).args(args);
        command
    }

    /// Starts an agent and waits until it has everything in the kernel.
    pub fn start(&mut self, args: &[&str]) {
        assert!(self.agent.is_none(), "one at a time");
        let log = File::options().create(true).append(true).open(self.path("agent.log")).unwrap();
        self.agent = Some(self.agent_command(args).stderr(log).spawn().unwrap());
        self.until("the agent is up", |world| {
            let answer = world.exchange("GET", "/v1/healthz", None);
            answer.is_ok_and(|answer| answer.is_ok_and(|health| !health["node-monitor"].is_null()))
        });
    }

    /// Runs another agent process until it ends by itself.
    pub fn run_to_end(&self, args: &[&str]) -> Output {
        self.agent_command(args).output().unwrap()
    }

    pub fn kill(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    pub fn terminate(&mut self) -> ExitStatus {
        let mut agent = self.agent.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(agent.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        agent.wait().unwrap()
    }

    pub fn has_device(&self, name: &str) -> bool {
        self.inside("ip".as_ref()).args(["link", "show", name]).output().unwrap().status.success()
    }

    /// What is pinned as programs and links, by name.
    pub fn programs(&self) -> Vec<String> {
        let found = self.shell("find $W/bpf/cilium/programs $W/bpf/cilium/links -type f 2>/dev/null | sort; true");
        found.lines().map(str::to_owned).collect()
    }

    pub fn get(&self, path: &str) -> Value {
        self.call("GET", path, None).unwrap_or_else(|(status, body)| panic!("GET {path}: {status} {body}"))
    }

    pub fn call(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, Refused> {
        let text = body.map(|body| body.to_string());
        self.exchange(method, path, text.as_deref()).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    pub fn call_raw(&self, method: &str, path: &str, body: &str) -> Result<Value, Refused> {
        self.exchange(method, path, Some(body)).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    pub fn text(&self, path: &str) -> String {
        self.send("GET", path, None).and_then(read_answer).unwrap_or_else(|error| panic!("GET {path}: {error}")).1
    }

    fn exchange(&self, method: &str, path: &str, body: Option<&str>) -> std::io::Result<Result<Value, Refused>> {
        let (status, text) = read_answer(self.send(method, path, body)?)?;
        let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(if status == 200 { Ok(value) } else { Err((status, value)) })
    }

    fn send(&self, method: &str, path: &str, body: Option<&str>) -> std::io::Result<BufReader<UnixStream>> {
        let mut stream = UnixStream::connect(self.path("run/cilium.sock"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let body = body.unwrap_or_default();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        Ok(BufReader::new(stream))
    }

    pub fn monitor(&self) -> Monitor {
        let mut reader = self.send("GET", "/v1/monitor", None).unwrap();
        let head = read_head(&mut reader).unwrap();
        assert!(head.0 == 200 && head.1.iter().any(|line| line.contains("chunked")), "{head:?}");
        Monitor { reader, rest: Vec::new() }
    }

    pub fn try_address(&self, pool: &str) -> Result<Value, Refused> {
        self.call("POST", "/v1/ipam/address", Some(json!({"pool": pool, "address": null, "owner": "test"})))
    }

    pub fn address(&self, pool: &str) -> String {
        self.try_address(pool).unwrap()["address"].as_str().unwrap().to_owned()
    }

    pub fn try_endpoint(&self, id: &str) -> Result<Value, Refused> {
        let (ipv4, ipv6) = (self.address("node-ipv4"), self.address("node-ipv6"));
        let body =
            json!({"docker-endpoint-id": id, "docker-network-id": "net", "ipv4": ipv4, "ipv6": ipv6, "mac": null});
        self.call("PUT", "/v1/endpoint", Some(body))
    }

    pub fn endpoint(&self, id: &str) -> Value {
        self.try_endpoint(id).unwrap_or_else(|(status, body)| panic!("{status} {body}"))
    }

    /// Waits until the kernel enforces an endpoint's policy under its labels.
    pub fn ready(&self, id: &str) -> Value {
        self.until_some("the endpoint is ready", |world| {
            let endpoint = world.get(&format!("/v1/endpoint/docker-endpoint:{id}"));
            (endpoint["state"] == json!("ready")).then_some(endpoint)
        })
    }

    /// Waits for a condition; says which one never came.
    pub fn until(&self, what: &str, condition: impl Fn(&World) -> bool) {
        self.until_some(what, |world| condition(world).then_some(()));
    }

    pub fn until_some<T>(&self, what: &str, condition: impl Fn(&World) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = condition(self) {
                return found;
            }
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(self.path("agent.log")).unwrap_or_default();
                panic!("never: {what}\n{log}");
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in self.agent.iter_mut().chain([&mut self.holder]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn read_head(reader: &mut impl BufRead) -> std::io::Result<(u16, Vec<String>)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_lowercase());
    }
    let status = lines.first().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    status.map(|status| (status, lines)).ok_or_else(|| std::io::Error::other("no status line"))
}

fn read_answer(mut reader: BufReader<UnixStream>) -> std::io::Result<(u16, String)> {
    let (status, _) = read_head(&mut reader)?;
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    Ok((status, text))
}

/// An open stream of records, in chunked transfer coding.
pub struct Monitor {
    reader: BufReader<UnixStream>,
    rest: Vec<u8>,
}

impl Monitor {
    pub fn next_record(&mut self) -> Value {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).unwrap();
            }
            let mut size = String::new();
            self.reader.read_line(&mut size).unwrap();
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            self.reader.read_exact(&mut chunk).unwrap();
            self.rest.extend_from_slice(&chunk[..size]);
        }
    }

    /// The first record that fits; the read time-out ends the wait.
    pub fn until(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        loop {
            let record = self.next_record();
            if fits(&record) {
                return record;
            }
        }
    }
}
