//! A real Docker engine in a machine, and its client.

use crate::{Machine, Process};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// The image that every engine gets: busybox and curl out of this machine, made by `demo/image.sh`.
pub const IMAGE: &str = "lab";

/// Which engine: the installed one, or another one unpacked beside it.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    root: Option<PathBuf>,
}

impl Engine {
    /// Debian's docker.io (or whatever `dockerd` is installed).
    pub fn installed() -> Engine {
        Engine::default()
    }

    /// A newer engine out of a newer Debian suite, unpacked once under `target/`; an error where apt cannot fetch it.
    pub fn newer() -> Result<Engine> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no repository")?;
        let root = repository.join("target/docker-newer");
        let status = std::process::Command::new(repository.join("contrib/docker-newer.sh")).arg(&root).status()?;
        ensure!(status.success(), "contrib/docker-newer.sh: {status}");
        Ok(Engine { root: Some(root.join("root")) })
    }

    fn path(&self) -> String {
        let path = std::env::var("PATH").unwrap_or_default();
        match &self.root {
            Some(root) => format!("{0}/usr/sbin:{0}/usr/bin:/usr/sbin:{path}", root.display()),
            None => format!("/usr/sbin:/usr/bin:{path}"),
        }
    }
}

pub struct Docker {
    machine: Rc<Machine>,
    engine: Engine,
    options: Vec<String>,
    process: Process,
}

impl Docker {
    /// Starts dockerd in the machine, waits until it answers and gives it the image.
    pub fn start(machine: &Rc<Machine>, engine: &Engine, options: &[&str]) -> Result<Docker> {
        let mut docker = Docker::launch(machine, engine, options)?;
        docker.finish_start()?;
        Ok(docker)
    }

    /// Starts dockerd in the machine; does not wait.
    pub fn launch(machine: &Rc<Machine>, engine: &Engine, options: &[&str]) -> Result<Docker> {
        let options = options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>();
        let process = launch(machine, engine, &options)?;
        Ok(Docker { machine: machine.clone(), engine: engine.clone(), options, process })
    }

    /// Waits until it answers and gives it the image.
    pub fn finish_start(&mut self) -> Result<()> {
        // dockerd gives its containerd some seconds and then ends, which a busy machine exceeds.
        for _ in 0..2 {
            if self.wait_ready().is_err() && !self.process.running() {
                self.relaunch()?;
            }
        }
        self.wait_ready()?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/image.sh");
        self.machine.run(&["env", &self.env(), script.to_str().context("path")?, IMAGE]).map(|_| ())
    }

    fn env(&self) -> String {
        format!("PATH={}", self.engine.path())
    }

    pub fn wait_ready(&mut self) -> Result<()> {
        crate::eventually(Duration::from_secs(90), "dockerd to answer or to end", || {
            if self.process.running() { self.docker(&["version"]).map(|_| ()) } else { Ok(()) }
        })?;
        ensure!(self.process.running(), "dockerd ended:\n{}", self.log());
        Ok(())
    }

    pub fn log(&self) -> String {
        self.machine.log("dockerd.log")
    }

    /// Runs `docker ARGS…` and gives its standard output without the last line's end.
    pub fn docker(&self, args: &[&str]) -> Result<String> {
        let env = self.env();
        Ok(self.machine.run(&[&["env", &env, "docker"], args].concat())?.trim_end().to_owned())
    }

    /// Runs a docker command that must fail, and gives what it said.
    pub fn refused(&self, args: &[&str]) -> Result<String> {
        let env = self.env();
        let output = self.machine.output(&[&["env", &env, "docker"], args].concat())?;
        ensure!(
            !output.status.success(),
            "docker {args:?} should have failed, and printed {}",
            crate::text(&output.stdout)
        );
        Ok(crate::text(&output.stderr))
    }

    pub fn inspect(&self, name: &str) -> Result<serde_json::Value> {
        let list: serde_json::Value = serde_json::from_str(&self.docker(&["inspect", name])?)?;
        Ok(list[0].clone())
    }

    /// `docker run -d ARGS… IMAGE COMMAND…`.
    pub fn run(&self, name: &str, args: &[&str], command: &[&str]) -> Result<Container> {
        self.docker(&[&["run", "-d", "--name", name], args, &[IMAGE], command].concat())?;
        self.container(name)
    }

    /// A container that only sleeps on the network, with one label `id`.
    pub fn sleeper(&self, name: &str, network: &str, id: &str) -> Result<Container> {
        let label = format!("id={id}");
        self.run(name, &["--net", network, "-l", &label], &["sleep", "1000000"])
    }

    pub fn container(&self, name: &str) -> Result<Container> {
        let info = self.inspect(name)?;
        let pid = info["State"]["Pid"].as_u64().context("no pid")?;
        let networks = info["NetworkSettings"]["Networks"].as_object().context("no networks")?;
        let first = networks.values().next().context("no network")?;
        let text = |key: &str| first[key].as_str().unwrap_or_default().to_owned();
        Ok(Container {
            machine: self.machine.clone(),
            name: name.to_owned(),
            pid: pid as i32,
            ipv4: text("IPAddress"),
            ipv6: text("GlobalIPv6Address"),
        })
    }

    /// Gives the running engine other settings, of those that it can change as it runs, and waits until it has them.
    pub fn configure(&self, settings: &serde_json::Value) -> Result<()> {
        std::fs::write(self.machine.dir().join("daemon.json"), settings.to_string())?;
        self.process.signal(nix::sys::signal::Signal::SIGHUP)?;
        crate::eventually(Duration::from_secs(20), "dockerd to take its settings", || {
            ensure!(self.log().contains("Reloaded configuration"), "{}", self.log());
            Ok(())
        })
    }

    pub fn terminate(&mut self) -> Result<()> {
        self.process.signal(nix::sys::signal::Signal::SIGTERM)?;
        self.process.wait(Duration::from_secs(60)).map(|_| ())
    }

    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again after `terminate` or `kill`, without waiting for it.
    pub fn relaunch(&mut self) -> Result<()> {
        let _ = self.machine.run(&["rm", "-f", "/run/docker.pid"]);
        self.process = launch(&self.machine, &self.engine, &self.options)?;
        Ok(())
    }
}

fn launch(machine: &Rc<Machine>, engine: &Engine, options: &[String]) -> Result<Process> {
    let config = machine.dir().join("daemon.json");
    if !config.exists() {
        std::fs::write(&config, "{}\n")?;
    }
    let mut command = machine.command("env");
    command.arg(format!("PATH={}", engine.path())).arg("dockerd").arg("--config-file").arg(&config);
    command.arg("--data-root").arg(machine.dir().join("docker"));
    command.args(["--exec-root", "/run/docker", "--pidfile", "/run/docker.pid", "-H", "unix:///run/docker.sock"]);
    command.args(options);
    machine.spawn("dockerd.log", command)
}

/// A running container, seen from its network namespace: programs of this machine run in it.
#[derive(Clone)]
pub struct Container {
    machine: Rc<Machine>,
    pub name: String,
    /// In the machine's own process namespace.
    pub pid: i32,
    pub ipv4: String,
    pub ipv6: String,
}

impl Container {
    /// Arguments that run what follows in the container's network.
    pub fn enter(&self) -> Vec<String> {
        vec!["nsenter".into(), "-t".into(), self.pid.to_string(), "-n".into()]
    }

    pub fn run(&self, argv: &[&str]) -> Result<String> {
        let enter = self.enter();
        let enter: Vec<&str> = enter.iter().map(String::as_str).collect();
        self.machine.run(&[&enter[..], argv].concat())
    }

    pub fn machine(&self) -> &Rc<Machine> {
        &self.machine
    }

    /// Both addresses, as they stand in a URL: `10.15.0.3` and `[f00d::1]`.
    pub fn hosts(&self) -> Vec<String> {
        let v6 = (!self.ipv6.is_empty()).then(|| format!("[{}]", self.ipv6));
        [self.ipv4.clone()].into_iter().filter(|ip| !ip.is_empty()).chain(v6).collect()
    }
}
