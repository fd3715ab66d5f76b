//! The ways to set it up that the repository offers: the one-host deployment of `compose/`, played by the plain commands
//! that `docker compose` would give the engine (the file is read here, and what is in it that is not understood is an
//! error), and the scripts that the Vagrantfile needs.

use anyhow::{Context, Result, ensure};
use lab::{Docker, Engine, Machine, eventually};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[allow(dead_code, reason = "what the project is called changes nothing")]
    name: String,
    services: BTreeMap<String, Service>,
    #[allow(dead_code, reason = "made by the engine when it is first used")]
    volumes: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Service {
    image: String,
    build: Option<Build>,
    network_mode: String,
    pid: Option<String>,
    cgroup: Option<String>,
    command: Vec<String>,
    cap_drop: Vec<String>,
    cap_add: Vec<String>,
    security_opt: Vec<String>,
    volumes: Vec<String>,
    restart: String,
    depends_on: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Build {
    context: String,
    dockerfile: String,
}

impl Service {
    /// Arguments of the `docker run` that starts it.
    fn arguments(&self, name: &str) -> Vec<String> {
        let mut words = vec!["run".to_owned(), "--detach".to_owned(), format!("--name={name}")];
        words.push(format!("--network={}", self.network_mode));
        words.push(format!("--restart={}", self.restart));
        words.extend(self.pid.iter().map(|pid| format!("--pid={pid}")));
        words.extend(self.cgroup.iter().map(|cgroup| format!("--cgroupns={cgroup}")));
        let lists = [
            ("--cap-drop", &self.cap_drop),
            ("--cap-add", &self.cap_add),
            ("--security-opt", &self.security_opt),
            ("--volume", &self.volumes),
        ];
        for (flag, list) in lists {
            words.extend(list.iter().map(|value| format!("{flag}={value}")));
        }
        words.push(self.image.clone());
        words.extend(self.command.iter().cloned());
        words
    }
}

fn repository() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no repository")?.to_owned())
}

fn file() -> Result<File> {
    let text = std::fs::read_to_string(repository()?.join("compose/compose.yaml"))?;
    Ok(serde_saphyr::from_str(&text)?)
}

#[test]
fn the_image_is_built_of_what_is_there() -> Result<()> {
    let file = file()?;
    let agent = file.services.get("agent").context("no agent")?;
    ensure!(agent.depends_on == ["etcd"] && file.services.contains_key("etcd"));
    let build = agent.build.as_ref().context("the agent's image is not built")?;
    ensure!(build.context == "../target/dist" && build.dockerfile == "../../compose/Dockerfile");
    Ok(())
}

#[test]
#[ignore = "needs root: make test"]
fn one_host_is_served_from_containers() -> Result<()> {
    let machine = Rc::new(Machine::start()?);
    // A place of its own for what the file mounts; and mounts that are shared, as on a host that systemd booted.
    machine.run(&["mount", "-t", "tmpfs", "tmpfs", "/var/lib"])?;
    machine.run(&["mount", "--make-rshared", "/"])?;
    let docker = Docker::start(&machine, &Engine::installed(), &[])?;
    images(&machine, &docker)?;
    let file = file()?;
    for name in ["etcd", "agent"] {
        let words = file.services.get(name).context(name)?.arguments(name);
        docker.docker(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    let cilium = |words: &[&str]| docker.docker(&[&["exec", "agent", "/cilium/cilium"], words].concat());
    eventually(LIMIT, "the agent to be ready", || {
        cilium(&["status", "--brief"])
            .with_context(|| docker.docker(&["logs", "--tail", "30", "agent"]).unwrap_or_default())
    })?;
    docker.docker(&["network", "create", "--driver", "cilium", "--ipam-driver", "cilium", "--ipv6", "net"])?;
    let (a, b) = (docker.sleeper("aa", "net", "aa")?, docker.sleeper("bb", "net", "bb")?);
    for ip in [&b.ipv4, &b.ipv6] {
        a.run(&["ping", "-c1", "-W2", ip])?;
    }
    // To the world as well: the host's nft and iptables were found.
    a.run(&["ping", "-c1", "-W2", lab::WORLD4])?;
    let status = cilium(&["status"])?;
    ensure!(status.contains("has-quorum=true"), "{status}");
    docker.docker(&["rm", "-f", "aa", "bb"])?;
    docker.docker(&["rm", "-f", "agent", "etcd"]).map(|_| ())
}

#[test]
fn the_virtual_machines_find_their_scripts() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let root = repository()?;
    let file = std::fs::read_to_string(root.join("Vagrantfile"))?;
    let script = "contrib/vagrant-node.sh";
    ensure!(file.contains(&format!("path: \"{script}\"")), "{file}");
    let text = std::fs::read_to_string(root.join(script))?;
    for needed in [script, "contrib/setup.sh", "demo/image.sh"] {
        ensure!(needed == script || text.contains(needed), "{needed} is not in {script}");
        let mode = std::fs::metadata(root.join(needed))?.permissions().mode();
        ensure!(mode & 0o111 != 0, "{needed} cannot be run");
    }
    Ok(())
}

/// The agent's image as the file says, of the binaries under test; etcd's under its name, of the installed one.
fn images(machine: &Machine, docker: &Docker) -> Result<()> {
    let context = machine.dir().join("dist");
    std::fs::create_dir(&context)?;
    for name in ["cilium", "cilium-agent"] {
        std::fs::copy(lab::binary(name)?, context.join(name))?;
    }
    let dockerfile = repository()?.join("compose/Dockerfile");
    let (dockerfile, context) = (dockerfile.to_str().context("path")?, context.to_str().context("path")?);
    docker.docker(&["build", "--quiet", "--tag", "cilium", "--file", dockerfile, context])?;
    let etcd = machine.dir().join("etcd-image");
    let pack = "mkdir -p $1/usr/bin $1/tmp && cp $(command -v etcd) $1/usr/bin/ && \
        ldd $(command -v etcd) | awk '/=> \\//{print $3} /^\\t\\//{print $1}' | while read -r library; do \
        mkdir -p $1$(dirname $library) && cp -L $library $1$library; done";
    machine.run(&["sh", "-c", pack, "sh", etcd.to_str().context("path")?])?;
    let image = &file()?.services["etcd"].image;
    let import = format!("tar -C {} -c . | docker import - {image}", etcd.display());
    machine.run(&["sh", "-c", &import]).map(|_| ())
}
