use super::*;
use crate::parse_rules;
use crate::resolve::AllowLocalhost;
use serde_json::{Value, json};

fn repository(rules: Value) -> Repository {
    let mut repository = Repository::new();
    repository.add(parse_rules(&rules.to_string()).unwrap());
    repository
}

fn ask(rules: Value, options: Options, from: &str, to: &str, dports: &[&str]) -> Answer {
    let labels = |text: &str| parse_labels(text.split(',')).unwrap();
    let dports: Vec<Dport> = dports.iter().map(|text| text.parse().unwrap()).collect();
    let (from, to) = (labels(from), labels(to));
    trace(&repository(rules), options, Question { from: &from, to: &to, dports: &dports, request: None, verbose: true })
}

fn verdict(rules: &Value, from: &str, to: &str, dports: &[&str]) -> Decision {
    ask(rules.clone(), Options::default(), from, to, dports).verdict
}

fn foo_to_bar() -> Value {
    json!([
        {"endpointSelector": {"matchLabels": {"bar": ""}}, "ingress": [{"fromEndpoints": [{"matchLabels": {"baz": ""}}]}]},
        {"endpointSelector": {"matchLabels": {"bar": ""}}, "labels": ["name=r"],
         "ingress": [{"fromEndpoints": [{"matchLabels": {"foo": ""}}], "toPorts": [{"ports": [{"port": "80"}]}]}]}])
}

#[test]
fn the_log_has_ciliums_form() {
    let answer = ask(foo_to_bar(), Options::default(), "foo", "bar", &["80"]);
    let expected = "\
----------------------------------------------------------------
Tracing From: [container:foo] => To: [container:bar] Ports: [80/ANY]

Resolving egress policy for [container:foo]
  Rule {\"matchLabels\":{\"any:bar\":\"\"}}: did not select
  Rule {\"matchLabels\":{\"any:bar\":\"\"}}: did not select
0/2 rules selected
Egress verdict: allowed

Resolving ingress policy for [container:bar]
* Rule {\"matchLabels\":{\"any:bar\":\"\"}}: selected
    Allows from labels {\"matchLabels\":{\"any:baz\":\"\"}}
      No label match for [container:foo]
* Rule {\"matchLabels\":{\"any:bar\":\"\"}}: selected
    Allows from labels {\"matchLabels\":{\"any:foo\":\"\"}}
      Found all required labels
      Allows port [{80 ANY}]
2/2 rules selected
Found allow rule
Found no deny rule
Decided by rule 1 [unspec:name=r], ingress[0]
Ingress verdict: allowed

Final verdict: ALLOWED
";
    assert_eq!(answer.log, expected);
    let by =
        Origin { rule: 1, entry: "ingress[0]".to_owned(), labels: ["name=r".parse().unwrap()].into_iter().collect() };
    assert_eq!(answer.decided[1].by, Some(by));
    let value = serde_json::to_value(&answer).unwrap();
    assert_eq!(value["verdict"], "allowed");
    assert_eq!(value["decided"][1]["by"]["entry"], "ingress[0]");
}

#[test]
fn several_ports_must_all_be_allowed_and_any_is_tcp_or_udp() {
    let rules = json!([{"endpointSelector": {"matchLabels": {"bar": ""}}, "ingress": [{"toPorts": [{"ports": [
        {"port": "80", "protocol": "TCP"}, {"port": "53", "protocol": "UDP"}]}]}]}]);
    for (dports, expected) in [
        (&["80"][..], Decision::Allowed),
        (&["80/TCP"], Decision::Allowed),
        (&["80/udp"], Decision::Denied),
        (&["53"], Decision::Allowed),
        (&["http"], Decision::Allowed),
        (&["80/TCP", "53/UDP"], Decision::Allowed),
        (&["80/TCP", "81/TCP"], Decision::Denied),
        (&["80/SCTP"], Decision::Denied),
    ] {
        assert_eq!(verdict(&rules, "foo", "bar", dports), expected, "{dports:?}");
    }
}

#[test]
fn without_a_port_only_entries_without_ports_count() {
    assert_eq!(verdict(&foo_to_bar(), "foo", "bar", &[]), Decision::Denied);
    assert_eq!(verdict(&foo_to_bar(), "baz", "bar", &[]), Decision::Allowed);
}

#[test]
fn both_sides_must_allow() {
    let rules = json!([
        {"endpointSelector": {"matchLabels": {"foo": ""}}, "egress": [{"toEndpoints": [{"matchLabels": {"bar": ""}}]}]},
        {"endpointSelector": {"matchLabels": {"bar": ""}}, "ingress": [{"fromEndpoints": [{"matchLabels": {"foo": ""}}]}]},
        {"endpointSelector": {"matchLabels": {"qux": ""}}, "ingress": [{"fromEndpoints": [{"matchLabels": {"foo": ""}}]}]}]);
    assert_eq!(verdict(&rules, "foo", "bar", &["80"]), Decision::Allowed);
    assert_eq!(verdict(&rules, "foo", "qux", &["80"]), Decision::Denied);
    assert_eq!(verdict(&rules, "other", "bar", &["80"]), Decision::Denied);
    assert_eq!(verdict(&rules, "other", "another", &["80"]), Decision::Allowed);
}

#[test]
fn a_deny_is_named_as_what_decided() {
    let rules = json!([{"endpointSelector": {"matchLabels": {"bar": ""}}, "ingress": [{"fromEndpoints": [{}]}],
        "ingressDeny": [{"toPorts": [{"ports": [{"port": "22"}]}]}, {"fromEndpoints": [{"matchLabels": {"foo": ""}}], "toPorts": [{"ports": [{"port": "80", "endPort": 90, "protocol": "TCP"}]}]}]}]);
    let answer = ask(rules, Options::default(), "foo", "bar", &["85/TCP"]);
    assert_eq!(answer.verdict, Decision::Denied);
    assert_eq!(answer.decided[1].by.as_ref().unwrap().entry, "ingressDeny[1]");
    for line in [
        "    Denies from anyone\n      Denies port [{22 ANY}]\n        No port match found\n",
        "      Denies port [{80-90 TCP}]\n",
        "Found allow rule\nFound deny rule\n",
        "Ingress verdict: denied\n\nFinal verdict: DENIED\n",
    ] {
        assert!(answer.log.contains(line), "{line}\n{}", answer.log);
    }
}

#[test]
fn requirements_are_shown() {
    let rules = json!([{"endpointSelector": {"matchLabels": {"bar": ""}}, "ingress": [
        {"fromRequires": [{"matchLabels": {"env": "prod"}}]}, {"fromEndpoints": [{"matchLabels": {"foo": ""}}]}]}]);
    assert_eq!(verdict(&rules, "foo,env=prod", "bar", &["80"]), Decision::Allowed);
    let answer = ask(rules, Options::default(), "foo", "bar", &["80"]);
    assert_eq!(answer.verdict, Decision::Denied);
    assert!(
        answer.log.contains("    Enforcing requirements [{\"matchLabels\":{\"any:env\":\"prod\"}}]\n"),
        "{}",
        answer.log
    );
    assert!(answer.log.contains("Found unsatisfied requirement for [container:foo]\n"), "{}", answer.log);
}

#[test]
fn peers_outside_enforce_nothing() {
    let rules = json!([{"endpointSelector": {}, "egress": [{"toCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}]}], "ingress": [{"fromEntities": ["world"]}]}]);
    for (from, to, expected) in [
        ("foo", "cidr:10.2.0.0/16,reserved:world", Decision::Allowed),
        ("foo", "cidr:10.1.2.0/24,reserved:world", Decision::Denied),
        ("reserved:world", "foo", Decision::Allowed),
        ("reserved:host", "foo", Decision::Denied),
        ("reserved:host", "reserved:world", Decision::Allowed),
    ] {
        assert_eq!(verdict(&rules, from, to, &["80"]), expected, "{from} {to}");
    }
    let log = ask(rules, Options::default(), "foo", "reserved:world", &["80"]).log;
    assert!(
        log.contains("    Allows to IP 10.0.0.0/8 except 10.1.0.0/16\n      No address match for [reserved:world]\n"),
        "{log}"
    );
    assert!(log.contains("Not an endpoint: nothing is enforced there\nIngress verdict: allowed\n"), "{log}");
}

#[test]
fn modes_and_the_host() {
    let never = Options { enforcement: Enforcement::Never, ..Options::default() };
    let answer = ask(json!([{"endpointSelector": {}, "ingress": [{}]}]), never, "foo", "bar", &["80"]);
    assert!(
        answer.verdict == Decision::Allowed && answer.log.contains("Policy enforcement is disabled for the daemon.\n")
    );
    let answer = ask(json!([]), Options::default(), "foo", "bar", &["80"]);
    assert!(
        answer.verdict == Decision::Allowed
            && answer.log.contains("no rules in the policy repository match any endpoint selector")
    );
    let always = Options { enforcement: Enforcement::Always, ..Options::default() };
    assert_eq!(ask(json!([]), always, "foo", "bar", &["80"]).verdict, Decision::Denied);
    assert_eq!(ask(json!([]), Options::default(), "reserved:init", "bar", &["80"]).verdict, Decision::Denied);
    let host = |allow_localhost| {
        let options = Options { allow_localhost, ..Options::default() };
        ask(json!([{"endpointSelector": {}, "ingress": [{}]}]), options, "reserved:host", "bar", &["80"]).verdict
    };
    assert_eq!((host(AllowLocalhost::Always), host(AllowLocalhost::Policy)), (Decision::Allowed, Decision::Denied));
}

#[test]
fn ports_are_read_and_written() {
    for (text, shown) in [
        ("80", "80/ANY"),
        ("80/tcp", "80/TCP"),
        ("https/TCP", "443/TCP"),
        ("8/ICMP", "8/ICMP"),
        ("128/icmpv6", "128/ICMPv6"),
        ("0", "0/ANY"),
    ] {
        assert_eq!(text.parse::<Dport>().unwrap().to_string(), shown);
    }
    for text in ["", "/", "80/", "80/GRE", "65536", "x", "80/TCP/UDP", "-1"] {
        assert!(text.parse::<Dport>().is_err(), "{text}");
    }
}
