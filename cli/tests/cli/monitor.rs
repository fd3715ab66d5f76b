//! `cilium monitor` on a stream of records.

use crate::agent::FakeAgent;
use serde_json::{Value, json};

fn drop(source: u16, destination: u16) -> Value {
    json!({
        "record": "packet", "timestamp": 1, "cpu": 0, "type": "drop", "reason": 133, "direction": "ingress",
        "source_endpoint": source, "destination_endpoint": destination, "source_identity": 262, "destination_identity": 261,
        "ifindex": 9, "length": 74, "capture": [1, 2],
        "packet": {"source": "10.15.1.2", "destination": "10.15.1.1", "protocol": 6, "source_port": 44382,
                   "destination_port": 80, "icmp": null, "tcp_flags": 2},
        "source_labels": ["container:id=app3"], "destination_labels": ["container:id=app1"],
    })
}

fn agent(records: &[Value]) -> FakeAgent {
    let agent = FakeAgent::start();
    let text: String = records.iter().map(|record| format!("{record}\n")).collect();
    agent.answer_raw("GET /v1/monitor", 200, &text);
    agent
}

fn hello() -> Value {
    json!({"record": "hello", "cpus": 2, "buffer": 4096})
}

#[test]
fn lines_until_the_agent_goes() {
    let agent = agent(&[hello(), drop(17, 4521), json!({"record": "lost", "events": 3})]);
    let ran = agent.cilium(&["monitor"]).failed_with(1);
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{ran:?}");
    assert_eq!(lines[0], "Listening for events on 2 CPUs with 1x4096 of shared memory");
    assert!(lines[2].starts_with("xx drop (Policy denied) flow 0x"), "{ran:?}");
    assert!(
        lines[2].ends_with(
            " to endpoint 4521, identity 262 [container:id=app3] -> 261 [container:id=app1]: 10.15.1.2:44382 -> \
             10.15.1.1:80 tcp SYN"
        ),
        "{ran:?}"
    );
    assert_eq!(lines[3], "Lost 3 events");
    assert_eq!(ran.stderr, "The agent closed the stream of events\n");
}

#[test]
fn filters_choose() {
    let doing = json!({"record": "agent", "message": "Policy updated", "subject": ""});
    let agent = agent(&[hello(), drop(1, 2), drop(3, 4), doing]);
    let shown = |arguments: &[&str]| {
        let arguments: Vec<_> = ["monitor"].into_iter().chain(arguments.iter().copied()).collect();
        agent.cilium(&arguments).stdout.lines().count() - 2
    };
    assert_eq!(shown(&[]), 3);
    assert_eq!(shown(&["--from", "1,3"]), 2);
    assert_eq!(shown(&["--to", "2"]), 1);
    assert_eq!(shown(&["--related-to", "4"]), 1);
    assert_eq!(shown(&["-t", "agent"]), 1);
    assert_eq!(shown(&["-t", "drop", "-t", "agent"]), 3);
    assert_eq!(shown(&["-t", "trace,policy-verdict"]), 0);
}

#[test]
fn one_line_of_json_each() {
    let agent = agent(&[hello(), drop(1, 2), drop(3, 4)]);
    for arguments in [&["monitor", "-j"][..], &["monitor", "-o", "json"]] {
        let ran = agent.cilium(arguments);
        let records: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(records.len(), 2, "{ran:?}");
        assert_eq!(records[1]["source_endpoint"], 3);
        assert_eq!(records[1]["reason_text"], "Policy denied");
    }
}

#[test]
fn a_refused_stream_is_told() {
    let agent = FakeAgent::start();
    agent.refuse("GET /v1/monitor", 503, "no ring buffer");
    let ran = agent.cilium(&["monitor"]).failed_with(1);
    assert_eq!(ran.stderr, "Cannot listen for events: no ring buffer\n");
}
