//! The catalogue of checks that a rule has to pass, line by line: what Cilium refuses, what it lets pass although nobody
//! means it, and what it is that must not be refused.

use policy::{Errors, Fault, ReadOptions, parse_rules, read_documents, warnings};
use serde_json::{Value, json};

/// Faults of the text of one rule list.
fn faults(text: &str) -> Vec<Fault> {
    parse_rules(text).err().map_or(Vec::new(), |Errors(faults)| faults)
}

fn of_rule(rule: &Value) -> Vec<Fault> {
    faults(&json!([rule]).to_string())
}

/// A rule with one entry in a section.
fn entry(section: &str, entry: Value) -> Value {
    json!({"endpointSelector": {}, section: [entry]})
}

/// A rule with one element of `toPorts` on egress.
fn ports(element: Value) -> Value {
    entry("egress", json!({"toPorts": [element]}))
}

fn subject(selector: Value) -> Value {
    json!({"endpointSelector": selector, "ingress": [{}]})
}

fn l7(rules: Value) -> Value {
    ports(json!({"ports": [{"port": "80", "protocol": "TCP"}], "rules": rules}))
}

fn of_host(section: &str, port: &str, rules: Value) -> Value {
    json!({"nodeSelector": {}, section: [{"toPorts": [{"ports": [{"port": port, "protocol": "TCP"}], "rules": rules}]}]})
}

/// One line of the catalogue: a rule with exactly this fault.
struct Line {
    rule: Value,
    path: &'static str,
    message: &'static str,
}

fn line(rule: Value, path: &'static str, message: &'static str) -> Line {
    Line { rule, path, message }
}

#[track_caller]
fn assert_refused(lines: impl IntoIterator<Item = Line>) {
    for Line { rule, path, message } in lines {
        match &of_rule(&rule)[..] {
            [fault] => {
                assert_eq!(fault.path, format!("[0]{path}"), "{rule}: {fault}");
                assert!(fault.message.contains(message), "{rule}: {fault}");
            }
            other => panic!("{rule}: not one fault but {other:?}"),
        }
    }
}

#[track_caller]
fn assert_accepted(rules: impl IntoIterator<Item = Value>) {
    for rule in rules {
        assert_eq!(of_rule(&rule), [], "{rule}");
    }
}

#[test]
fn decoding() {
    assert_refused([
        line(ports(json!({"ports": [{"port": 80}]})), ".egress[0].toPorts[0].ports[0].port", "must be a string"),
        line(
            ports(json!({"ports": [{"port": "1", "endPort": "2"}]})),
            ".egress[0].toPorts[0].ports[0].endPort",
            "must be a number",
        ),
        line(entry("ingress", json!({"fromCIDR": [10]})), ".ingress[0].fromCIDR[0]", "must be a string"),
        line(
            json!({"endpointSelector": {}, "ingress": [{}], "enableDefaultDeny": {"ingress": "no"}}),
            ".enableDefaultDeny.ingress",
            "must be true or false",
        ),
        line(json!({"endpointSelector": {}, "ingress": {}, "egress": [{}]}), ".ingress", "must be a list"),
        line(
            entry("ingress", json!({"icmps": [{"fields": [{"type": "PacketTooBig"}]}]})),
            ".ingress[0].icmps[0].fields[0].type",
            "is no name of an ICMP type of IPv4",
        ),
        line(
            entry("ingress", json!({"icmps": [{"fields": [{"type": "Photuris", "family": "IPv6"}]}]})),
            ".ingress[0].icmps[0].fields[0].type",
            "is no name of an ICMP type of IPv6",
        ),
        line(
            json!({"endpointSelector": {}, "ingress": [{}], "labels": [{"value": "x"}]}),
            ".labels[0].key",
            "must have a key",
        ),
        line(json!({"endpointSelector": {}, "ingress": [{}], "labels": ["k8s:=x"]}), ".labels[0]", ""),
        line(json!({"endpointSelector": {}, "ingress": [{}], "labels": [""]}), ".labels[0]", ""),
    ]);
    for text in ["", "[", "[] 1", "[{]", "x"] {
        let found = faults(text);
        assert!(found.len() == 1 && found[0].message.starts_with("not JSON: "), "{text}: {found:?}");
        assert!(found[0].message.contains("line 1 column"), "{found:?}");
    }
    // A list of rules is the form; a rule by itself is another one, which files may have and requests may not.
    assert_eq!(faults("{}").len(), 1);
    assert!(read_documents("{\"endpointSelector\": {}, \"ingress\": [{}]}", &ReadOptions::default()).is_ok());
    // Requirements keep the meaning that they had, and are warned of.
    let rules = parse_rules(&json!([entry("ingress", json!({"fromRequires": [{}]}))]).to_string()).unwrap();
    assert!(warnings(&rules)[0].path.ends_with("fromRequires"));
}

#[test]
fn names_null_and_unknown_fields() {
    assert_accepted([
        json!({"ENDPOINTSELECTOR": {"MATCHLABELS": {}}, "Ingress": [{"FROMENTITIES": ["all"], "TOPORTS": null}]}),
        json!({"endpointSelector": null, "ingress": [{"fromEndpoints": [null]}], "egress": null, "labels": null}),
    ]);
    assert_refused([
        line(entry("egressDeny", json!({"toFQDNs": []})), ".egressDeny[0].toFQDNs", "unknown field"),
        line(
            entry("egressDeny", json!({"toPorts": [{"rules": {}}]})),
            ".egressDeny[0].toPorts[0].rules",
            "unknown field",
        ),
        line(
            entry("ingress", json!({"fromEndpoint": [], "toPorts": [{"ports": [{"port": "80"}]}]})),
            ".ingress[0].fromEndpoint",
            "unknown field",
        ),
        line(subject(json!({"matchLabel": {}})), ".endpointSelector.matchLabel", "unknown field"),
        line(subject(json!({"matchLabels": {"a": null}})), ".endpointSelector.matchLabels.a", "must be a string"),
    ]);
}

#[test]
fn subjects_directions_and_selectors() {
    let selector = |selector: Value| subject(selector);
    let expression = |expression: Value| subject(json!({"matchExpressions": [expression]}));
    assert_refused([
        line(
            json!({"endpointSelector": {}}),
            "",
            "a rule must have at least one of ingress, ingressDeny, egress, egressDeny",
        ),
        line(json!({"endpointSelector": {}, "ingress": [], "egress": []}), "", "a rule must have at least one of"),
        line(json!({"ingress": [{}]}), "", "a rule must have one of endpointSelector or nodeSelector"),
        line(json!({"endpointSelector": {}, "nodeSelector": {}, "ingress": [{}]}), "", "cannot have both"),
        line(
            expression(json!({"key": "a", "operator": "exists"})),
            ".endpointSelector.matchExpressions[0].operator",
            "is not a selector operator",
        ),
        line(
            expression(json!({"key": "a", "operator": "In"})),
            ".endpointSelector.matchExpressions[0].values",
            "must be given when the operator is In or NotIn",
        ),
        line(
            expression(json!({"key": "a", "operator": "NotIn", "values": []})),
            ".endpointSelector.matchExpressions[0].values",
            "must be given when the operator is In or NotIn",
        ),
        line(
            expression(json!({"key": "a", "operator": "DoesNotExist", "values": ["x"]})),
            ".endpointSelector.matchExpressions[0].values",
            "may not be given when the operator is Exists or DoesNotExist",
        ),
        line(
            expression(json!({"operator": "Exists"})),
            ".endpointSelector.matchExpressions[0].key",
            "a key must be given",
        ),
        line(
            expression(json!({"key": "a b", "operator": "Exists"})),
            ".endpointSelector.matchExpressions[0].key",
            "1 to 63 of",
        ),
        line(selector(json!({"matchLabels": {"a": "-x"}})), ".endpointSelector.matchLabels.a", "1 to 63 of"),
        line(selector(json!({"matchLabels": {"A.b/c": "x"}})), ".endpointSelector.matchLabels[\"A.b/c\"]", "DNS name"),
    ]);
    assert_accepted([
        json!({"endpointSelector": {}, "egressDeny": [{}]}),
        expression(json!({"key": "reserved:host", "operator": "Exists", "values": []})),
        selector(json!({"matchLabels": {"k8s:io.kubernetes.pod.namespace": "a", "example.com/x": ""}})),
    ]);
}

#[test]
fn one_kind_of_peers_an_entry() {
    let fields = [
        ("Endpoints", json!([{}])),
        ("CIDR", json!(["10.0.0.0/8"])),
        ("CIDRSet", json!([{"cidr": "10.0.0.0/8"}])),
        ("Entities", json!(["all"])),
        ("Groups", json!([{"aws": {"region": "x"}}])),
        ("Nodes", json!([{}])),
    ];
    let egress =
        [("Services", json!([{"k8sService": {"serviceName": "x"}}])), ("FQDNs", json!([{"matchName": "x.test"}]))];
    for (section, way) in [("ingress", "from"), ("ingressDeny", "from"), ("egress", "to"), ("egressDeny", "to")] {
        let mut known = fields.to_vec();
        known.extend(
            egress.iter().filter(|(name, _)| way == "to" && (section == "egress" || *name != "FQDNs")).cloned(),
        );
        for (i, (a, first)) in known.iter().enumerate() {
            assert_accepted([entry(section, json!({format!("{way}{a}"): first}))]);
            for (b, second) in &known[i + 1..] {
                let both =
                    |second: &Value| entry(section, json!({format!("{way}{a}"): first, format!("{way}{b}"): second}));
                let found = of_rule(&both(second));
                let either = [(a, b), (b, a)].map(|(a, b)| format!("combining {way}{a} and {way}{b} in one entry"));
                let told = |fault: &Fault| either.iter().any(|message| fault.message.starts_with(message));
                assert!(found.len() == 1 && told(&found[0]), "{found:?}");
                assert_accepted([both(&json!([]))]);
            }
        }
    }
}

#[test]
fn prefixes_and_entities() {
    let set = |set: Value| entry("ingress", json!({"fromCIDRSet": [set]}));
    let at = ".ingress[0].fromCIDRSet[0]";
    assert_refused([
        line(entry("ingress", json!({"fromCIDR": [""]})), ".ingress[0].fromCIDR[0]", "an address prefix must be given"),
        line(entry("ingress", json!({"fromCIDR": ["10.0.0/8"]})), ".ingress[0].fromCIDR[0]", "is not an IP address"),
        line(entry("ingress", json!({"fromCIDR": ["10.0.0.0/33"]})), ".ingress[0].fromCIDR[0]", "is not from 0 to 32"),
        line(set(json!({})), at, "one of cidr, cidrGroupRef or cidrGroupSelector is required"),
        line(
            set(json!({"cidrGroupRef": "x", "cidrGroupSelector": {}})),
            at,
            "only one of cidr, cidrGroupRef and cidrGroupSelector may be set",
        ),
        line(set(json!({"cidr": "10.0.0.1"})), ".ingress[0].fromCIDRSet[0].cidr", "has no prefix length"),
        line(
            set(json!({"cidr": "10.0.0.0/8", "except": ["x"]})),
            ".ingress[0].fromCIDRSet[0].except[0]",
            "has no prefix length",
        ),
        line(
            set(json!({"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]})),
            ".ingress[0].fromCIDRSet[0].except[0]",
            "does not contain the excepted prefix",
        ),
        line(
            set(json!({"cidr": "10.0.0.0/8", "except": ["::/16"]})),
            ".ingress[0].fromCIDRSet[0].except[0]",
            "does not contain the excepted prefix",
        ),
        // Not checked by Cilium up to 1.19.
        line(
            set(json!({"cidr": "10.1.0.0/16", "except": ["10.0.0.0/8"]})),
            ".ingress[0].fromCIDRSet[0].except[0]",
            "does not contain the excepted prefix",
        ),
        line(entry("ingress", json!({"fromEntities": ["World"]})), ".ingress[0].fromEntities[0]", "unsupported entity"),
    ]);
    assert_accepted([
        entry("ingress", json!({"fromCIDR": ["10.1.2.3/8", "10.1.2.3", "2001:db8::1", "0.0.0.0/0"]})),
        set(json!({"cidrGroupRef": "x", "except": ["10.0.0.0/8"]})),
        set(json!({"cidrGroupSelector": {"matchLabels": {"a": "b"}}})),
    ]);
}

#[test]
fn icmp() {
    let icmps = |fields: Value| entry("ingress", json!({"icmps": [{"fields": fields}]}));
    assert_refused([
        line(
            entry("ingress", json!({"icmps": [{}], "toPorts": [{}]})),
            ".ingress[0].icmps",
            "may only be present without toPorts",
        ),
        line(
            icmps(json!(vec![json!({"type": 8}); 41])),
            ".ingress[0].icmps[0].fields",
            "too many types, the max is 40",
        ),
        line(icmps(json!([{"type": 8, "family": "ipv6"}])), ".ingress[0].icmps[0].fields[0].family", "wrong family"),
        line(icmps(json!([{"type": 256}])), ".ingress[0].icmps[0].fields[0].type", "from 0 to 255"),
        line(icmps(json!([{"family": "IPv4"}])), ".ingress[0].icmps[0].fields[0].type", "must be given"),
    ]);
    assert_accepted([
        icmps(json!(vec![json!({"type": 0}); 40])),
        entry("ingress", json!({"icmps": [], "toPorts": [{}]})),
    ]);
}

#[test]
fn ports_and_protocols() {
    let port = |port: Value| ports(json!({"ports": [port]}));
    let at = ".egress[0].toPorts[0].ports[0].port";
    assert_refused([
        line(
            ports(json!({"ports": vec![json!({"port": "80"}); 41]})),
            ".egress[0].toPorts[0].ports",
            "too many ports, the max is 40",
        ),
        line(port(json!({"protocol": "TCP"})), at, "a port must be specified"),
        line(port(json!({"port": ""})), at, "a port must be specified"),
        line(port(json!({"port": "65536"})), at, "is not from 0 to 65535"),
        line(port(json!({"port": "a--b"})), at, "neither a port number nor a service name"),
        line(port(json!({"port": "80", "protocol": "VRRP"})), at, "must be empty or 0"),
        line(port(json!({"port": "http", "protocol": "igmp"})), at, "must be empty or 0"),
        line(
            port(json!({"port": "80", "protocol": "ICMP"})),
            ".egress[0].toPorts[0].ports[0].protocol",
            "invalid protocol \"ICMP\"",
        ),
        // What Cilium reads as octal, cuts to 16 bits, or takes for a single port.
        line(port(json!({"port": "0120"})), at, "octal"),
        line(port(json!({"port": "8_0"})), at, "neither a port number nor a service name"),
        line(
            port(json!({"port": "80", "endPort": 65536})),
            ".egress[0].toPorts[0].ports[0].endPort",
            "from 0 to 65535",
        ),
        line(port(json!({"port": "80", "endPort": 79})), ".egress[0].toPorts[0].ports[0].endPort", "end at 79"),
    ]);
    assert_accepted([
        ports(json!({"ports": vec![json!({"port": "80"}); 40]})),
        port(json!({"port": "0"})),
        port(json!({"port": "0x50"})),
        port(json!({"port": "dns-tcp", "endPort": 7, "protocol": "sctp"})),
        port(json!({"port": "0", "endPort": 65535})),
        port(json!({"protocol": "VRRP"})),
        port(json!({"port": "80", "protocol": ""})),
    ]);
}

#[test]
fn where_l7_rules_may_stand() {
    let (http, dns) = (json!({"http": [{}]}), json!({"dns": [{"matchPattern": "*"}]}));
    let with = |ports_: Value, rules: &Value| ports(json!({"ports": ports_, "rules": rules}));
    assert_refused([
        line(of_host("ingress", "80", http.clone()), ".ingress[0].toPorts[0].rules", "host ingress"),
        line(of_host("egress", "80", http.clone()), ".egress[0].toPorts[0].rules.http", "not supported on host egress"),
        line(
            of_host("egress", "80", json!({"kafka": [{}]})),
            ".egress[0].toPorts[0].rules.kafka",
            "not supported on host egress",
        ),
        line(
            entry("ingress", json!({"toPorts": [{"ports": [{"port": "53"}], "rules": dns}]})),
            ".ingress[0].toPorts[0].rules.dns",
            "not supported on ingress",
        ),
        line(
            with(json!([{"port": "53", "endPort": 54}]), &dns),
            ".egress[0].toPorts[0].ports[0].endPort",
            "do not support port ranges",
        ),
        line(
            with(json!([{"port": "80"}]), &http),
            ".egress[0].toPorts[0].ports[0].protocol",
            "can only apply to TCP (not ANY)",
        ),
        line(
            with(json!([{"port": "80", "protocol": "udp"}]), &http),
            ".egress[0].toPorts[0].ports[0].protocol",
            "can only apply to TCP (not UDP)",
        ),
        line(
            with(json!([{"port": "53", "protocol": "SCTP"}]), &dns),
            ".egress[0].toPorts[0].ports[0].protocol",
            "can only apply to TCP (not SCTP)",
        ),
        line(
            with(json!([{"port": "0", "protocol": "TCP"}]), &http),
            ".egress[0].toPorts[0].ports[0].port",
            "cannot be used when the port is 0",
        ),
        line(ports(json!({"rules": dns})), ".egress[0].toPorts[0].ports", "port 53 must be specified"),
        line(l7(json!({"http": [{}], "kafka": [{}]})), ".egress[0].toPorts[0].rules", "several kinds of L7 rules"),
        // An empty list that is present counts as a kind beside another one, although alone it says nothing.
        line(
            with(json!([{"port": "53"}]), &json!({"http": [], "dns": [{"matchPattern": "*"}]})),
            ".egress[0].toPorts[0].rules",
            "several kinds of L7 rules",
        ),
    ]);
    assert_accepted([
        of_host("egress", "53", dns.clone()),
        with(json!([{"port": "8053"}, {"port": "53", "protocol": "UDP"}, {"port": "dns", "protocol": "TCP"}]), &dns),
        with(json!([{"port": "80"}]), &json!({"http": []})),
        with(json!([{"port": "80", "endPort": 90, "protocol": "TCP"}]), &http),
        entry("ingress", json!({"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": http}]})),
    ]);
}

#[test]
fn l7_rules() {
    let http = |rule: Value| l7(json!({"http": [rule]}));
    let header = |header: Value| http(json!({"headerMatches": [header]}));
    let kafka = |rule: Value| l7(json!({"kafka": [rule]}));
    let dns = |rule: Value| ports(json!({"ports": [{"port": "53"}], "rules": {"dns": [rule]}}));
    let fqdn = |name: Value| entry("egress", json!({"toFQDNs": [name]}));
    assert_refused([
        line(http(json!({"path": "("})), ".egress[0].toPorts[0].rules.http[0].path", "error parsing regexp"),
        line(http(json!({"method": "GET|("})), ".egress[0].toPorts[0].rules.http[0].method", "error parsing regexp"),
        // Not looked at by Cilium before a proxy does.
        line(http(json!({"host": "*.x"})), ".egress[0].toPorts[0].rules.http[0].host", "error parsing regexp"),
        line(
            header(json!({"value": "x"})),
            ".egress[0].toPorts[0].rules.http[0].headerMatches[0].name",
            "header name missing",
        ),
        line(
            header(json!({"name": "X", "mismatch": "DROP"})),
            ".egress[0].toPorts[0].rules.http[0].headerMatches[0].mismatch",
            "invalid header action",
        ),
        line(
            header(json!({"name": "X", "secret": {"namespace": "x"}})),
            ".egress[0].toPorts[0].rules.http[0].headerMatches[0].secret.name",
            "secret name missing",
        ),
        line(
            kafka(json!({"role": "produce", "apiKey": "fetch"})),
            ".egress[0].toPorts[0].rules.kafka[0]",
            "cannot set both role \"produce\" and apiKey \"fetch\"",
        ),
        line(kafka(json!({"role": "x"})), ".egress[0].toPorts[0].rules.kafka[0].role", "invalid Kafka role"),
        line(kafka(json!({"apiKey": "x"})), ".egress[0].toPorts[0].rules.kafka[0].apiKey", "invalid Kafka apiKey"),
        line(
            kafka(json!({"apiVersion": "32768"})),
            ".egress[0].toPorts[0].rules.kafka[0].apiVersion",
            "invalid Kafka apiVersion",
        ),
        line(kafka(json!({"topic": "a".repeat(256)})), ".egress[0].toPorts[0].rules.kafka[0].topic", "maximum of 255"),
        line(kafka(json!({"topic": "a b"})), ".egress[0].toPorts[0].rules.kafka[0].topic", "invalid Kafka topic name"),
        line(dns(json!({"matchName": "a*"})), ".egress[0].toPorts[0].rules.dns[0].matchName", "invalid characters"),
        line(
            dns(json!({"matchPattern": "a?"})),
            ".egress[0].toPorts[0].rules.dns[0].matchPattern",
            "invalid characters",
        ),
        line(
            dns(json!({"matchPattern": "a".repeat(256)})),
            ".egress[0].toPorts[0].rules.dns[0].matchPattern",
            "at most 255",
        ),
        line(fqdn(json!({"matchName": "a b"})), ".egress[0].toFQDNs[0].matchName", "invalid characters"),
        line(
            fqdn(json!({"matchName": "a", "matchPattern": "b"})),
            ".egress[0].toFQDNs[0]",
            "only one of matchName and matchPattern",
        ),
        // Selects nothing in Cilium.
        line(fqdn(json!({})), ".egress[0].toFQDNs[0]", "one of matchName and matchPattern is required"),
        line(l7(json!({"l7": [{"a": "b"}]})), ".egress[0].toPorts[0].rules.l7", "together with l7proto"),
        line(
            l7(json!({"l7proto": "x", "l7": [{"": "b"}]})),
            ".egress[0].toPorts[0].rules.l7[0]",
            "a key may not be empty",
        ),
    ]);
    assert_accepted([
        http(json!({"path": "/a/[0-9]+", "method": "GET|PUT", "host": ".*", "headers": ["X-A: b", "X-B"]})),
        header(json!({"name": "X", "mismatch": "REPLACE", "value": "x", "secret": {"name": "s"}})),
        kafka(json!({"role": "Produce", "topic": "a".repeat(255), "apiVersion": "0", "clientID": "x"})),
        kafka(json!({"apiKey": "FETCH"})),
        dns(json!({"matchName": "a.b.", "matchPattern": "**.c"})),
        l7(json!({"l7proto": "x"})),
    ]);
}

#[test]
fn tls_and_listeners() {
    let tcp = json!([{"port": "443", "protocol": "TCP"}]);
    let http = json!({"http": [{}]});
    let listener = json!({"envoyConfig": {"kind": "CiliumEnvoyConfig", "name": "x"}, "name": "l"});
    assert_refused([
        line(
            ports(json!({"ports": tcp, "serverNames": ["x"], "rules": http})),
            ".egress[0].toPorts[0].serverNames",
            "not allowed with L7 rules without terminatingTLS",
        ),
        line(
            ports(json!({"ports": tcp, "serverNames": ["x", ""]})),
            ".egress[0].toPorts[0].serverNames[1]",
            "may not be empty",
        ),
        line(
            entry("ingress", json!({"toPorts": [{"ports": tcp, "listener": listener}]})),
            ".ingress[0].toPorts[0].listener",
            "not allowed on ingress",
        ),
        line(
            ports(json!({"ports": tcp, "listener": listener, "rules": http})),
            ".egress[0].toPorts[0].listener",
            "not allowed together with L7 rules",
        ),
    ]);
    assert_accepted([
        ports(json!({"ports": tcp, "serverNames": ["x", "*.y"]})),
        ports(json!({"ports": tcp, "serverNames": ["x"], "rules": http, "terminatingTLS": {"secret": {"name": "s"}}})),
        ports(json!({"ports": tcp, "listener": listener})),
    ]);
}

#[test]
fn what_cilium_does_not_check() {
    assert_refused([
        line(
            entry("ingress", json!({"authentication": {"mode": "maybe"}})),
            ".ingress[0].authentication.mode",
            "unknown authentication mode",
        ),
        line(
            json!({"endpointSelector": {}, "ingress": [{}], "log": {"value": "x".repeat(33)}}),
            ".log.value",
            "at most 32",
        ),
    ]);
    let warned = |section: &str, written: Value| {
        let rules = parse_rules(&json!([entry(section, written)]).to_string()).unwrap();
        warnings(&rules).into_iter().map(|fault| fault.path).collect::<Vec<_>>()
    };
    assert_eq!(warned("ingress", json!({"toPorts": [{}]})), ["[0].ingress[0].toPorts[0]"]);
    let none = json!({"fromEntities": ["none"], "toPorts": [{"ports": [{"port": "80"}]}]});
    assert_eq!(warned("ingress", none), ["[0].ingress[0].fromEntities"]);
}
