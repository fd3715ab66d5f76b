//! A little machine: its own network, mount, process, host-name and cgroup namespaces, with a bpffs and a `/run` of its
//! own, and one host of the outside world behind its uplink `eth0`.
//!
//! Nothing of it has a name outside: when its first process dies, which happens at the latest when the test process
//! does, the kernel takes away every process, mount, device and BPF object in it.
//!
//! | | IPv4 | IPv6 |
//! |---|---|---|
//! | the machine | 172.31.77.2 | fd77::2 |
//! | the world | 172.31.77.1 | fd77::1 |

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub const MACHINE4: &str = "172.31.77.2";
pub const MACHINE6: &str = "fd77::2";
pub const WORLD4: &str = "172.31.77.1";
pub const WORLD6: &str = "fd77::1";

static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct Machine {
    dir: tempfile::TempDir,
    cgroup: PathBuf,
    unshare: Child,
    /// The first process of the machine, as the outside sees it.
    init: i32,
}

impl Machine {
    pub fn start() -> Result<Machine> {
        Machine::with_uplink("world")
    }

    /// One without an uplink.
    pub fn bare() -> Result<Machine> {
        Machine::with_uplink("bare")
    }

    fn with_uplink(uplink: &str) -> Result<Machine> {
        ensure!(nix::unistd::geteuid().is_root(), "a machine of its own needs root");
        let name = format!("cilium-lab-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new().prefix(&name).tempdir()?;
        let script = dir.path().join("init.sh");
        fs::write(&script, include_str!("machine-init.sh"))?;
        let cgroup = cgroup2()?.join(&name);
        fs::create_dir(&cgroup).with_context(|| format!("make the cgroup {}", cgroup.display()))?;
        let log = fs::File::create(dir.path().join("init.log"))?;
        let mut command = Command::new("sh");
        // The cgroup must be joined before the namespace is made: it becomes the root that the machine sees.
        command
            .args(["-c", "echo $$ > \"$1/cgroup.procs\" && shift && exec \"$@\"", "sh"])
            .arg(&cgroup)
            .args(["unshare", "--net", "--mount", "--uts", "--ipc", "--cgroup", "--pid", "--fork"])
            .args(["--kill-child=SIGKILL", "sh"])
            .arg(&script)
            .arg(dir.path())
            .arg(&name)
            .arg(uplink)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let unshare = command.spawn().context("start the machine's first process")?;
        let mut machine = Machine { dir, cgroup, unshare, init: 0 };
        crate::eventually(Duration::from_secs(20), "the machine's start", || {
            ensure!(machine.dir.path().join("ready").exists(), machine.log("init.log"));
            Ok(())
        })?;
        let parent = machine.unshare.id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        machine.init = children.split_whitespace().next().context("the machine has no first process")?.parse()?;
        // Only leaves of a cgroup2 tree may hold processes once controllers are handed down.
        let outer = machine.cgroup.join("outer");
        fs::create_dir(&outer)?;
        let _ = fs::write(outer.join("cgroup.procs"), parent.to_string());
        Ok(machine)
    }

    /// The first process of the machine, as the outside sees it.
    pub fn init(&self) -> i32 {
        self.init
    }

    /// Who writes 0 there is one of the machine's processes for who looks at those by their cgroup, as services' sockets
    /// are.
    pub fn processes(&self) -> PathBuf {
        self.cgroup.join("init/cgroup.procs")
    }

    /// Joins the two machines by a pair of devices, each named by the one it is in.
    pub fn join(&self, device: &str, other: &Machine, other_device: &str) -> Result<()> {
        // The mount and process namespaces stay ours: the other machine is named by its process as we see it.
        let status = Command::new("nsenter")
            .args(["-t", &self.init.to_string(), "--net", "ip", "link", "add", device, "type", "veth"])
            .args(["peer", "name", other_device, "netns", &other.init.to_string()])
            .status()?;
        ensure!(status.success(), "join {device} and {other_device}: {status}");
        Ok(())
    }

    /// A folder on a real disk, for stores and logs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn log(&self, name: &str) -> String {
        let text = fs::read_to_string(self.dir().join(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// A command inside the machine.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init.to_string(), "--net", "--mount", "--uts", "--ipc", "--pid", "--cgroup"]);
        command.arg(format!("--wdns={}", self.dir().display())).arg(program);
        command.stdin(Stdio::null());
        let processes = self.processes();
        let processes = std::ffi::CString::new(processes.as_os_str().as_encoded_bytes()).unwrap_or_default();
        // What a test starts ends with the test, also when it is killed.
        // SAFETY: prctl, open, write and close are async-signal-safe, and nothing of the parent is touched.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                let file = libc::open(processes.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                if file < 0 || libc::write(file, c"0".as_ptr().cast(), 1) != 1 {
                    return Err(std::io::Error::last_os_error());
                }
                libc::close(file);
                Ok(())
            });
        }
        command
    }

    /// Runs a command to its end and gives its standard output; an error that shows both outputs when it fails.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        let output = self.output(argv)?;
        if !output.status.success() {
            bail!("{argv:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
        }
        Ok(text(&output.stdout))
    }

    pub fn output(&self, argv: &[&str]) -> Result<Output> {
        let [program, args @ ..] = argv else { bail!("no command") };
        self.command(program).args(args).output().with_context(|| format!("run {argv:?}"))
    }

    /// Runs a command in the world behind the uplink.
    pub fn world(&self, argv: &[&str]) -> Result<String> {
        self.run(&[&["nsenter", "--net=/run/netns/world"], argv].concat())
    }

    /// Starts something that goes on; its output goes to the log of that name.
    pub fn spawn(&self, log: &str, mut command: Command) -> Result<Process> {
        let file = fs::File::options().create(true).append(true).open(self.dir().join(log))?;
        let child =
            command.stdout(file.try_clone()?).stderr(file).spawn().with_context(|| format!("start {command:?}"))?;
        Ok(Process { child })
    }

    /// The network device names of the machine, sorted.
    pub fn links(&self) -> Result<Vec<String>> {
        let json: serde_json::Value = serde_json::from_str(&self.run(&["ip", "-j", "link", "show"])?)?;
        let names = json.as_array().context("ip gave no list")?.iter();
        let mut names: Vec<String> = names.filter_map(|link| Some(link["ifname"].as_str()?.to_owned())).collect();
        names.sort();
        Ok(names)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.init != 0 {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.init), nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let _ = crate::eventually(Duration::from_secs(30), "the machine's cgroups to empty", || {
            remove_cgroup(&self.cgroup)
        });
    }
}

/// A process that a test started inside a machine; ended by dropping it.
pub struct Process {
    child: Child,
}

impl Process {
    /// A process that reads what the caller writes.
    pub(crate) fn with_stdin(mut command: Command) -> Result<(Process, std::process::ChildStdin)> {
        let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let stdin = child.stdin.take().context("no standard input")?;
        Ok((Process { child }, stdin))
    }

    /// A process that the caller talks with.
    pub fn piped(command: Command) -> Result<(Process, std::process::ChildStdin, std::process::ChildStdout)> {
        let (mut process, stdin) = Process::with_stdin(command)?;
        let stdout = process.child.stdout.take().context("no standard output")?;
        Ok((process, stdin, stdout))
    }

    /// The process as the outside sees it (`nsenter` replaces itself by it or is its parent).
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) -> Result<()> {
        // With a pid namespace nsenter forks: the signal is for the program, its only child.
        let parent = self.child.id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        let target = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).unwrap_or(parent as i32);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(target), signal).context("signal a process")
    }

    pub fn wait(&mut self, limit: Duration) -> Result<std::process::ExitStatus> {
        let mut status = None;
        crate::eventually(limit, "a process to end", || {
            status = self.child.try_wait()?;
            ensure!(status.is_some(), "it runs on");
            Ok(())
        })?;
        status.context("no exit status")
    }

    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn kill(&mut self) -> Result<()> {
        let _ = self.signal(nix::sys::signal::Signal::SIGKILL);
        self.wait(Duration::from_secs(60)).map(|_| ())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.running() {
            let _ = self.signal(nix::sys::signal::Signal::SIGKILL);
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Where the cgroup2 tree is mounted: at `/sys/fs/cgroup`, or beside the version-1 trees on a hybrid host.
fn cgroup2() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    Ok(mount.and_then(|line| line.split(' ').nth(1)).context("no cgroup2 is mounted")?.into())
}

fn remove_cgroup(path: &Path) -> Result<()> {
    if let Ok(entries) = fs::read_dir(path) {
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            remove_cgroup(&entry.path())?;
        }
        fs::remove_dir(path)?;
    }
    Ok(())
}
