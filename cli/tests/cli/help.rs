//! Help, completion and wrong use of the command line.

use crate::program::{CILIUM, cilium, program, run};

/// Every command, as the user would type it.
const COMMANDS: [&str; 58] = [
    "",
    "status",
    "endpoint",
    "endpoint list",
    "endpoint get",
    "endpoint labels",
    "endpoint health",
    "endpoint log",
    "identity",
    "identity list",
    "identity get",
    "policy",
    "policy import",
    "policy get",
    "policy delete",
    "policy diff",
    "policy test",
    "policy trace",
    "policy validate",
    "policy wait",
    "service",
    "service list",
    "service get",
    "service update",
    "service delete",
    "service import",
    "bpf",
    "bpf endpoint list",
    "bpf policy list",
    "bpf ct list",
    "bpf ct flush",
    "bpf ipcache list",
    "bpf lb list",
    "bpf nat list",
    "bpf tunnel list",
    "bpf metrics list",
    "map",
    "map list",
    "map get",
    "metrics",
    "metrics list",
    "monitor",
    "node",
    "node list",
    "ip",
    "ip list",
    "health",
    "health status",
    "kvstore",
    "kvstore get",
    "kvstore set",
    "kvstore delete",
    "config",
    "debuginfo",
    "cleanup",
    "completion",
    "version",
    "bpf ct",
];

#[test]
fn every_command_has_help() {
    for command in COMMANDS {
        let mut arguments: Vec<_> = command.split_whitespace().collect();
        arguments.push("--help");
        let ran = cilium(&arguments).succeeded();
        let usage = format!("Usage: cilium {command}");
        assert!(ran.stdout.contains(usage.trim_end()), "{command}: {}", ran.stdout);
        let about = ran.stdout.lines().next().unwrap();
        assert!(
            !about.is_empty() && !about.starts_with("Usage"),
            "{command} does not say what it does: {}",
            ran.stdout
        );
    }
}

#[test]
fn the_list_of_commands_is_whole() {
    for command in COMMANDS {
        let arguments: Vec<_> = command.split_whitespace().chain(["--help"]).collect();
        let help = cilium(&arguments).stdout;
        let children = help.split("Commands:\n").nth(1).unwrap_or("").split("\n\n").next().unwrap();
        // Descriptions that go on in a second line stand further right.
        let lines = children.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
        let names = lines.filter_map(|line| line.split_whitespace().next());
        for name in names.filter(|name| *name != "help") {
            let child = format!("{command} {name}");
            let child = child.trim();
            let known = COMMANDS.iter().any(|known| *known == child || known.starts_with(&format!("{child} ")));
            assert!(known, "{child} is not tried by these tests");
        }
    }
}

#[test]
fn wrong_use_ends_with_two() {
    for arguments in [
        &["nonsense"][..],
        &[],
        &["endpoint", "get"],
        &["endpoint", "list", "--nonsense"],
        &["identity", "get", "abc"],
        &["policy", "delete"],
        &["policy", "delete", "--all", "name=x"],
        &["policy", "trace", "-s", "id=a"],
        &["policy", "import"],
        &["monitor", "-t", "nonsense"],
        &["monitor", "-j", "--hex"],
        &["monitor", "-o", "json", "-v"],
        &["status", "-o", "yaml"],
        &["status", "-o", "junit"],
        &["policy", "trace", "-s", "id=a", "-d", "id=b", "--http", "GET /"],
        &["policy", "trace", "--policy", "x.json", "-s", "id=a", "-d", "id=b", "--http", "GET"],
        &["policy", "trace", "--policy", "x.json", "-s", "id=a", "--dst-endpoint", "3"],
        &["-H", "tcp://127.0.0.1:80", "status"],
        &["config", "Debug=true"],
        &["cleanup", "-f"],
        &["kvstore", "set", "key"],
        &["kvstore", "set", "--key", "key"],
        &["completion", "csh"],
    ] {
        let ran = run(program(CILIUM).args(arguments), "").failed_with(2);
        assert_eq!(ran.stdout, "", "{arguments:?}");
    }
}

#[test]
fn no_agent_ends_with_one() {
    for arguments in [
        &["status"][..],
        &["endpoint", "list"],
        &["endpoint", "get", "1"],
        &["identity", "list"],
        &["policy", "get"],
        &["bpf", "ct", "list"],
        &["map", "list"],
        &["monitor"],
        &["node", "list"],
        &["ip", "list"],
        &["kvstore", "get", "x"],
        &["config"],
        &["debuginfo"],
    ] {
        let ran = cilium(arguments).failed_with(1);
        assert_eq!(ran.stdout, "", "{arguments:?}");
        assert!(
            ran.stderr.contains("/nonexistent/cilium.sock: is cilium-agent running?"),
            "{arguments:?}: {}",
            ran.stderr
        );
    }
    assert_eq!(cilium(&["status", "--brief"]).failed_with(1).stderr, "cilium: daemon unreachable\n");
}

#[test]
fn completion_scripts_know_the_commands() {
    for (shell, mark) in [("bash", "complete -F"), ("zsh", "#compdef cilium"), ("fish", "complete -c cilium")] {
        let ran = cilium(&["completion", shell]).succeeded();
        for part in [mark, "endpoint", "related-to", "ipcache"] {
            assert!(ran.stdout.contains(part), "{shell}: {part}");
        }
        let json = cilium(&["completion", shell, "-o", "json"]).succeeded().json();
        assert_eq!(json["script"], ran.stdout);
    }
}

#[test]
fn bash_accepts_its_script() {
    let script = cilium(&["completion", "bash"]).succeeded().stdout;
    let words = "COMP_WORDS=(cilium endpoint l) COMP_CWORD=2\n_cilium cilium l endpoint\necho \"${COMPREPLY[@]}\"\n";
    let ran = run(std::process::Command::new("bash").arg("-s"), &format!("{script}\n{words}")).succeeded();
    assert_eq!(ran.stdout.trim(), "list labels log", "{ran:?}");
}

#[test]
fn versions() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(cilium(&["--version"]).succeeded().stdout, format!("cilium {version}\n"));
    assert_eq!(cilium(&["version", "--client"]).succeeded().stdout, format!("Client: {version}\n"));
    let ran = cilium(&["version"]).failed_with(1);
    assert_eq!(ran.stdout, format!("Client: {version}\n"));
}
