use crate::parse_rules;
use serde_json::{Value, json};

/// The faults of one rule, without the `[0]` that their paths begin with.
fn faults(rule: Value) -> Vec<String> {
    let text = json!([rule]).to_string();
    let faults = parse_rules(&text).err().map_or(Vec::new(), |errors| errors.0);
    faults.iter().map(|fault| fault.to_string().trim_start_matches("[0]").trim_start_matches('.').to_owned()).collect()
}

fn in_entry(section: &str, entry: Value) -> Vec<String> {
    faults(json!({"endpointSelector": {}, section: [entry]}))
}

fn in_ports(element: Value) -> Vec<String> {
    in_entry("egress", json!({"toPorts": [element]}))
}

fn in_http(http: Value) -> Vec<String> {
    in_ports(json!({"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [http]}}))
}

fn in_kafka(kafka: Value) -> Vec<String> {
    in_ports(json!({"ports": [{"port": "9092", "protocol": "TCP"}], "rules": {"kafka": [kafka]}}))
}

/// Exactly one fault, which begins with the path and has the text in it.
#[track_caller]
fn assert_one(faults: Vec<String>, path: &str, text: &str) {
    let [fault] = &faults[..] else { panic!("{faults:?}") };
    assert!(fault.starts_with(&format!("{path}: ")), "{fault}");
    assert!(fault.contains(text), "{fault}");
}

#[test]
fn a_rule_has_one_subject_and_a_direction() {
    assert_one(faults(json!({"ingress": [{}]})), "", "one of endpointSelector or nodeSelector");
    assert_one(faults(json!({"endpointSelector": {}, "nodeSelector": {}, "ingress": [{}]})), "", "both");
    assert_one(faults(json!({"endpointSelector": {}})), "", "at least one of ingress, ingressDeny, egress, egressDeny");
    assert_one(faults(json!({"endpointSelector": {}, "ingress": [], "egressDeny": []})), "", "at least one of");
    assert_eq!(faults(json!({})).len(), 2);
    assert_eq!(faults(json!({"endpointSelector": {}, "egressDeny": [{}]})), [""; 0]);
}

#[test]
fn peer_fields_are_not_combined() {
    let found = in_entry("egress", json!({"toCIDR": ["10.0.0.0/8"], "toCIDRSet": [{"cidr": "10.0.0.0/8"}]}));
    assert_one(found, "egress[0]", "combining toCIDR and toCIDRSet");
    let found = in_entry("ingress", json!({"fromEndpoints": [{}], "fromEntities": ["all"]}));
    assert_one(found, "ingress[0]", "combining fromEndpoints and fromEntities");
    let found =
        in_entry("ingressDeny", json!({"fromEndpoints": [{}], "fromEntities": ["all"], "fromCIDR": ["10.0.0.0/8"]}));
    assert_eq!(found.len(), 2);
    assert_eq!(in_entry("ingress", json!({"fromEndpoints": [{}], "fromEntities": [], "fromRequires": [{}]})), [""; 0]);
}

#[test]
fn prefixes() {
    assert_one(in_entry("ingress", json!({"fromCIDR": [""]})), "ingress[0].fromCIDR[0]", "must be given");
    assert_one(in_entry("ingress", json!({"fromCIDR": ["NODE_IP/32"]})), "ingress[0].fromCIDR[0]", "not an IP address");
    let set = |set: Value| in_entry("egress", json!({"toCIDRSet": [set]}));
    let path = "egress[0].toCIDRSet[0]";
    assert_one(set(json!({})), path, "one of cidr, cidrGroupRef or cidrGroupSelector is required");
    assert_one(set(json!({"cidr": "10.0.0.0/8", "cidrGroupRef": "x"})), path, "only one of");
    assert_one(set(json!({"cidr": "10.0.0.0"})), &format!("{path}.cidr"), "no prefix length");
    assert_one(
        set(json!({"cidr": "10.0.0.0/8", "except": ["10.0.0.0"]})),
        &format!("{path}.except[0]"),
        "no prefix length",
    );
    for outside in ["11.0.0.0/16", "10.0.0.0/7", "::/0", "0.0.0.0/0"] {
        assert_one(
            set(json!({"cidr": "10.0.0.0/8", "except": [outside]})),
            &format!("{path}.except[0]"),
            "does not contain",
        );
    }
    assert_eq!(set(json!({"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8", "10.1.0.0/16"]})), [""; 0]);
}

#[test]
fn entities() {
    assert_one(
        in_entry("ingress", json!({"fromEntities": ["World"]})),
        "ingress[0].fromEntities[0]",
        "unsupported entity \"World\"",
    );
}

#[test]
fn icmps() {
    let icmps = json!([{"fields": [{"type": 8}]}]);
    let found = in_entry("ingress", json!({"icmps": icmps, "toPorts": [{"ports": [{"port": "80"}]}]}));
    assert_one(found, "ingress[0].icmps", "only be present without toPorts");
    assert_eq!(in_entry("ingress", json!({"icmps": icmps, "toPorts": []})), [""; 0]);
    let many = |count: usize| json!([{"fields": vec![json!({"type": 8}); count]}]);
    assert_eq!(in_entry("ingress", json!({"icmps": many(40)})), [""; 0]);
    assert_one(in_entry("ingress", json!({"icmps": many(41)})), "ingress[0].icmps[0].fields", "the max is 40");
}

#[test]
fn ports() {
    let many = |count: usize| json!({"ports": vec![json!({"port": "80"}); count]});
    assert_eq!(in_ports(many(40)), [""; 0]);
    assert_one(in_ports(many(41)), "egress[0].toPorts[0].ports", "too many ports, the max is 40");
    let port = |port: Value| in_ports(json!({"ports": [port]}));
    let path = "egress[0].toPorts[0].ports[0]";
    assert_one(port(json!({})), &format!("{path}.port"), "must be specified");
    assert_one(port(json!({"port": ""})), &format!("{path}.port"), "must be specified");
    assert_one(port(json!({"port": "65536"})), &format!("{path}.port"), "0 to 65535");
    assert_one(port(json!({"port": "0120"})), &format!("{path}.port"), "octal");
    assert_one(port(json!({"port": "8_0"})), &format!("{path}.port"), "neither a port number nor a service name");
    assert_one(port(json!({"port": "90", "endPort": 80})), &format!("{path}.endPort"), "end at 80");
    assert_one(port(json!({"port": "80", "endPort": 70000})), &format!("{path}.endPort"), "0 to 65535");
    assert_one(port(json!({"port": "80", "protocol": "GRE"})), &format!("{path}.protocol"), "invalid protocol \"GRE\"");
    assert_one(port(json!({"port": "80", "protocol": "VRRP"})), &format!("{path}.port"), "must be empty or 0");
    for fine in [
        json!({"protocol": "IGMP"}),
        json!({"port": "0", "protocol": "VRRP"}),
        json!({"port": "0", "endPort": 9}),
        json!({"port": "80", "endPort": 80}),
    ] {
        assert_eq!(port(fine), [""; 0]);
    }
}

#[test]
fn authentication_and_log() {
    let found = in_entry("ingress", json!({"fromEndpoints": [{}], "authentication": {"mode": "maybe"}}));
    assert_one(found, "ingress[0].authentication.mode", "unknown authentication mode");
    assert_one(in_entry("ingress", json!({"authentication": {}})), "ingress[0].authentication.mode", "must be given");
    let log = |text: &str| faults(json!({"endpointSelector": {}, "ingress": [{}], "log": {"value": text}}));
    assert_eq!(log(&"x".repeat(32)), [""; 0]);
    assert_one(log(&"x".repeat(33)), "log.value", "32");
    assert_one(log("a\nb"), "log.value", "printable");
}

#[test]
fn l7_rules_go_with_tcp_ports() {
    let http = |port: Value| in_ports(json!({"ports": [port], "rules": {"http": [{}]}}));
    let path = "egress[0].toPorts[0].ports[0]";
    assert_one(http(json!({"port": "80", "protocol": "UDP"})), &format!("{path}.protocol"), "TCP (not UDP)");
    assert_one(http(json!({"port": "80"})), &format!("{path}.protocol"), "TCP (not ANY)");
    assert_one(http(json!({"port": "0", "protocol": "TCP"})), &format!("{path}.port"), "port is 0");
    assert_eq!(http(json!({"port": "80", "protocol": "TCP"})), [""; 0]);
    let two = in_ports(
        json!({"ports": [{"port": "53", "protocol": "TCP"}], "rules": {"http": [], "dns": [{"matchPattern": "*"}]}}),
    );
    assert_one(two, "egress[0].toPorts[0].rules", "several kinds of L7 rules");
}

#[test]
fn dns_rules() {
    let dns = |ports: Value| in_ports(json!({"ports": ports, "rules": {"dns": [{"matchPattern": "*"}]}}));
    assert_eq!(dns(json!([{"port": "53"}, {"port": "5353", "protocol": "UDP"}])), [""; 0]);
    assert_one(dns(json!([])), "egress[0].toPorts[0].ports", "port 53 must be specified");
    assert_one(dns(json!([{"port": "53", "endPort": 54}])), "egress[0].toPorts[0].ports[0].endPort", "port ranges");
    assert_one(dns(json!([{"port": "53", "protocol": "SCTP"}])), "egress[0].toPorts[0].ports[0].protocol", "not SCTP");
    let ingress = in_entry(
        "ingress",
        json!({"toPorts": [{"ports": [{"port": "53"}], "rules": {"dns": [{"matchPattern": "*"}]}}]}),
    );
    assert_one(ingress, "ingress[0].toPorts[0].rules.dns", "not supported on ingress");
    let names = |rule: Value| in_ports(json!({"ports": [{"port": "53"}], "rules": {"dns": [rule]}}));
    assert_one(names(json!({"matchName": "a b"})), "egress[0].toPorts[0].rules.dns[0].matchName", "invalid characters");
    assert_one(
        names(json!({"matchPattern": "a?"})),
        "egress[0].toPorts[0].rules.dns[0].matchPattern",
        "invalid characters",
    );
    assert_one(
        names(json!({"matchPattern": "a".repeat(256)})),
        "egress[0].toPorts[0].rules.dns[0].matchPattern",
        "255",
    );
    assert_eq!(names(json!({"matchName": "a", "matchPattern": "*.b"})), [""; 0]);
}

#[test]
fn fqdns() {
    let fqdn = |name: Value| in_entry("egress", json!({"toFQDNs": [name]}));
    assert_one(fqdn(json!({"matchName": "a", "matchPattern": "b"})), "egress[0].toFQDNs[0]", "only one of");
    assert_one(fqdn(json!({})), "egress[0].toFQDNs[0]", "one of matchName and matchPattern is required");
    assert_one(fqdn(json!({"matchName": "*.x"})), "egress[0].toFQDNs[0].matchName", "invalid characters");
    assert_eq!(fqdn(json!({"matchPattern": "**.x"})), [""; 0]);
}

#[test]
fn l7_of_the_host() {
    let of_host = |section: &str, rules: Value, port: &str| {
        faults(
            json!({"nodeSelector": {}, section: [{"toPorts": [{"ports": [{"port": port, "protocol": "TCP"}], "rules": rules}]}]}),
        )
    };
    let http = json!({"http": [{}]});
    assert_one(of_host("ingress", http.clone(), "80"), "ingress[0].toPorts[0].rules", "host ingress");
    assert_one(of_host("egress", http, "80"), "egress[0].toPorts[0].rules.http", "host egress");
    assert_eq!(of_host("egress", json!({"dns": [{"matchPattern": "*"}]}), "53"), [""; 0]);
}

#[test]
fn http_rules() {
    let path = "egress[0].toPorts[0].rules.http[0]";
    for field in ["path", "method", "host"] {
        assert_one(in_http(json!({field: "("})), &format!("{path}.{field}"), "error parsing regexp");
        assert_eq!(in_http(json!({field: "/a.*|b"})), [""; 0]);
    }
    let header = |header: Value| in_http(json!({"headerMatches": [header]}));
    assert_one(header(json!({"value": "x"})), &format!("{path}.headerMatches[0].name"), "header name missing");
    assert_one(
        header(json!({"name": "X", "mismatch": "log"})),
        &format!("{path}.headerMatches[0].mismatch"),
        "invalid header action",
    );
    assert_one(
        header(json!({"name": "X", "secret": {}})),
        &format!("{path}.headerMatches[0].secret.name"),
        "secret name missing",
    );
}

#[test]
fn kafka_rules() {
    let path = "egress[0].toPorts[0].rules.kafka[0]";
    assert_one(in_kafka(json!({"role": "produce", "apiKey": "fetch"})), path, "cannot set both role");
    assert_one(in_kafka(json!({"role": "x"})), &format!("{path}.role"), "invalid Kafka role");
    assert_one(in_kafka(json!({"apiKey": "x"})), &format!("{path}.apiKey"), "invalid Kafka apiKey");
    for version in ["-1", "32768", "x", "+1"] {
        assert_one(in_kafka(json!({"apiVersion": version})), &format!("{path}.apiVersion"), "invalid Kafka apiVersion");
    }
    assert_one(in_kafka(json!({"topic": "a b"})), &format!("{path}.topic"), "invalid Kafka topic name");
    assert_one(in_kafka(json!({"topic": "a".repeat(256)})), &format!("{path}.topic"), "255");
    assert_eq!(in_kafka(json!({"role": "Consume", "topic": "a".repeat(255), "apiVersion": "32767"})), [""; 0]);
    assert_eq!(in_kafka(json!({"apiKey": "Produce"})), [""; 0]);
}

#[test]
fn plug_in_rules() {
    let l7 = |rules: Value| in_ports(json!({"ports": [{"port": "80", "protocol": "TCP"}], "rules": rules}));
    assert_one(l7(json!({"l7": [{"a": "b"}]})), "egress[0].toPorts[0].rules.l7", "together with l7proto");
    assert_one(l7(json!({"l7proto": "x", "l7": [{"": "b"}]})), "egress[0].toPorts[0].rules.l7[0]", "may not be empty");
    assert_eq!(l7(json!({"l7proto": "x", "l7": [{"a": ""}]})), [""; 0]);
}

#[test]
fn server_names_and_listeners() {
    let tcp = json!([{"port": "443", "protocol": "TCP"}]);
    let path = "egress[0].toPorts[0]";
    let found = in_ports(json!({"ports": tcp, "serverNames": ["x"], "rules": {"http": [{}]}}));
    assert_one(found, &format!("{path}.serverNames"), "without terminatingTLS");
    assert_eq!(
        in_ports(json!({"ports": tcp, "serverNames": ["x"], "rules": {"http": [{}]}, "terminatingTLS": {}})),
        [""; 0]
    );
    assert_one(
        in_ports(json!({"ports": tcp, "serverNames": [""]})),
        &format!("{path}.serverNames[0]"),
        "may not be empty",
    );
    let found = in_ports(json!({"ports": tcp, "listener": {"name": "l"}, "rules": {"http": [{}]}}));
    assert_one(found, &format!("{path}.listener"), "together with L7 rules");
    let found = in_entry("ingress", json!({"toPorts": [{"ports": tcp, "listener": {"name": "l"}}]}));
    assert_one(found, "ingress[0].toPorts[0].listener", "not allowed on ingress");
    let found = in_ports(json!({"ports": tcp, "listener": {"priority": 101}}));
    assert_one(found, &format!("{path}.listener.priority"), "0 to 100");
}
