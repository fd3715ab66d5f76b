//! The lines of `cilium monitor`, to the letter.

use super::*;
use crate::render::plain;
use api::event::ObservationPoint;

const FLOW: &str = "FLOW";

fn arguments() -> Args {
    Args { from: vec![], to: vec![], related_to: vec![], kinds: vec![], hex: false, json: false, verbose: false }
}

/// The printed text with the flow's number replaced.
fn text(args: &Args, named: NamedEvent) -> String {
    let flow = format!("{:#x}", packet::flow(&named.event));
    plain(args.page(&Record::Packet(Box::new(named)))).replace(&flow, FLOW)
}

#[test]
fn a_drop_names_both_sides_and_the_reason() {
    assert_eq!(
        text(&arguments(), sample::drop()),
        "xx drop (Policy denied) flow FLOW to endpoint 4521, identity 262 [container:id=app3 container:x] -> 261 \
         [container:id=app1]: 10.15.1.2:44382 -> 10.15.1.1:80 tcp SYN\n"
    );
    let mut outward = sample::drop();
    outward.event.destination_endpoint = None;
    assert!(text(&arguments(), outward.clone()).starts_with("xx drop (Policy denied) flow FLOW from endpoint 17, "));
    outward.event.source_endpoint = None;
    assert!(text(&arguments(), outward).starts_with("xx drop (Policy denied) flow FLOW, identity "));
}

#[test]
fn sides_without_labels() {
    let mut named = sample::drop();
    named.source_labels.clear();
    named.destination_labels.clear();
    named.event.destination_identity = api::Identity::UNKNOWN;
    let text = text(&arguments(), named);
    assert!(text.contains(", identity 262 [labels unknown] -> 0 [reserved:unknown]: "), "{text}");
}

#[test]
fn traces_tell_where_and_in_which_state() {
    let rest = "flow FLOW identity 262 [container:id=app3 container:x] -> 261 [container:id=app1] state new ifindex 9: \
                10.15.1.2:44382 -> 10.15.1.1:80 tcp SYN\n";
    for (point, arrow) in [
        (ObservationPoint::ToEndpoint, "-> endpoint 4521"),
        (ObservationPoint::FromEndpoint, "<- endpoint 17"),
        (ObservationPoint::ToHost, "-> host"),
        (ObservationPoint::FromHost, "<- host"),
        (ObservationPoint::ToStack, "-> stack"),
        (ObservationPoint::ToOverlay, "-> overlay"),
        (ObservationPoint::FromOverlay, "<- overlay"),
        (ObservationPoint::FromStack, "<- stack"),
    ] {
        assert_eq!(text(&arguments(), sample::trace(point)), format!("{arrow} {rest}"));
    }
}

#[test]
fn verdicts() {
    let rest = "identity 262 [container:id=app3 container:x] -> 261 [container:id=app1]: 10.15.1.2:44382 -> \
                10.15.1.1:80 tcp SYN\n";
    let head = "Policy verdict flow FLOW by endpoint 4521 (ingress)";
    assert_eq!(text(&arguments(), sample::verdict(true)), format!("{head}, allowed, {rest}"));
    assert_eq!(text(&arguments(), sample::verdict(false)), format!("{head}, denied, {rest}"));
}

#[test]
fn verbose_with_bytes() {
    let args = Args { verbose: true, hex: true, ..arguments() };
    let expected = "\
CPU 01: MARK FLOW FROM 17 DROP: 74 bytes, reason Policy denied, identity 262 [container:id=app3 container:x] -> 261 [container:id=app1], to endpoint 4521
  at 12.000000345 s since boot, ifindex 9, ingress by endpoint 4521
  Ethernet  02:42:0a:0f:01:02 -> 02:00:00:00:00:01 ethertype 0x0800
  IPv4      10.15.1.2 -> 10.15.1.1 protocol TCP
  TCP       44382 -> 80 SYN
00000000  02 00 00 00 00 01 02 42  0a 0f 01 02 08 00 45 00  |.......B......E.|
00000010  68 69 1b                                          |hi.|
";
    assert_eq!(text(&args, sample::drop()), expected);
}

#[test]
fn other_records() {
    let page = |record| plain(arguments().page(&record));
    assert_eq!(
        page(Record::Hello { cpus: 2, buffer: 4096 }),
        "Listening for events on 2 CPUs with 1x4096 of shared memory\nPress Ctrl-C to quit\n"
    );
    assert_eq!(page(Record::Lost { events: 3 }), "Lost 3 events\n");
    let agent = |subject: &str| Record::Agent { message: "Policy updated".into(), subject: subject.into() };
    assert_eq!(page(agent("revision 3")), ">> Policy updated: revision 3\n");
    assert_eq!(page(agent("")), ">> Policy updated\n");
}

#[test]
fn labels_cannot_forge_a_line() {
    let mut named = sample::drop();
    named.source_labels = vec!["container:id=x\nxx drop \x1b[2J".into()];
    let text = text(&arguments(), named);
    assert_eq!(text.lines().count(), 1);
    assert!(text.contains("container:id=x\\nxx drop \\x1b[2J"), "{text}");
}

#[test]
fn json_has_the_texts_too() {
    let named = sample::drop();
    let mut value = serde_json::to_value(Record::Packet(Box::new(named.clone()))).unwrap();
    add_texts(&mut value, &named);
    assert_eq!(value["record"], "packet");
    assert_eq!(value["reason"], 133);
    assert_eq!(value["reason_text"], "Policy denied");
    assert_eq!(value["summary"], "10.15.1.2:44382 -> 10.15.1.1:80 tcp SYN");
    assert_eq!(value["source_labels"][0], "container:id=app3");
    // What was added does not keep a reader of the agent's own form from reading it.
    assert_eq!(serde_json::from_value::<Record>(value).unwrap(), Record::Packet(Box::new(named)));
}
