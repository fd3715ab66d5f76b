use super::*;
use serde_json::json;

fn no_files(name: &str) -> Result<String, String> {
    Err(format!("no {name}"))
}

fn read(value: &Value) -> Result<Suite, Vec<String>> {
    Suite::read(&value.to_string(), &mut no_files).map_err(|errors| errors.0.iter().map(ToString::to_string).collect())
}

fn run(value: &Value) -> SuiteResult {
    read(value).unwrap_or_else(|faults| panic!("{}", faults.join("\n"))).run()
}

/// The issue of one case in a world.
fn one(world: &Value, case: Value) -> CaseResult {
    let mut world = world.clone();
    world["cases"] = json!([case]);
    run(&world).cases.remove(0)
}

fn answer(world: &Value, case: Value) -> Decision {
    let mut case = case;
    case["expect"] = json!("allowed");
    one(world, case).answer
}

use crate::trace::Decision::{self, Allowed, Denied, Redirected};

fn shop() -> Value {
    json!({
        "policies": [
            {"endpointSelector": {"matchLabels": {"id": "web"}}, "labels": ["name=front"],
             "ingress": [{"fromEndpoints": [{"matchLabels": {"id": "job"}}],
                          "toPorts": [{"ports": [{"port": "http", "protocol": "TCP"}],
                                       "rules": {"http": [{"method": "GET", "path": "/public"}]}}]},
                         {"fromEntities": ["host"]}]},
            {"endpointSelector": {"matchLabels": {"id": "job"}},
             "egress": [{"toEndpoints": [{"matchLabels": {"id": "web"}}]},
                        {"toFQDNs": [{"matchPattern": "*.example.test"}], "toPorts": [{"ports": [{"port": "443", "protocol": "TCP"}]}]},
                        {"toCIDRSet": [{"cidr": "198.51.100.0/24", "except": ["198.51.100.128/25"]}]},
                        {"toPorts": [{"ports": [{"port": "db"}]}]}]}],
        "endpoints": {
            "web": {"labels": ["container:id=web"], "ips": ["10.15.0.11"], "named-ports": {"http": {"port": 8080, "protocol": "TCP"}}},
            "job": {"labels": ["id=job"], "ips": ["10.15.0.12"]},
            "db": {"labels": ["id=db"], "named-ports": {"db": {"port": 5432, "protocol": "TCP"}}}},
        "fqdn-cache": {"api.example.test": ["192.0.2.7"], "example.test": ["192.0.2.8"], "web.example.test": ["10.15.0.11"]}})
}

#[test]
fn connections_and_requests_are_decided_at_both_ends() {
    let world = shop();
    let web = |more: Value| {
        let mut case = json!({"from": {"endpoint": "job"}, "to": {"endpoint": "web"}, "port": 8080, "protocol": "TCP"});
        case.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        answer(&world, case)
    };
    assert_eq!(web(json!({})), Redirected);
    assert_eq!(web(json!({"http": {"path": "/public"}})), Allowed);
    assert_eq!(web(json!({"http": {"method": "PUT", "path": "/public"}})), Denied);
    assert_eq!(web(json!({"http": {"path": "/public?a=1"}})), Denied);
    assert_eq!(web(json!({"dns": {"query": "x.test"}})), Denied, "another protocol than the parser's");
    assert_eq!(web(json!({"port": 80})), Denied, "the name is 8080 here");
    assert_eq!(web(json!({"protocol": "udp"})), Denied);
    assert_eq!(web(json!({"from": {"endpoint": "db"}})), Denied);
    assert_eq!(web(json!({"from": {"entity": "host"}})), Allowed);
    assert_eq!(web(json!({"from": {"labels": ["id=job"]}})), Redirected);
}

#[test]
fn ends_are_whoever_they_are_known_as() {
    let world = shop();
    let job_to = |to: Value, port: u16| answer(&world, json!({"from": {"endpoint": "job"}, "to": to, "port": port}));
    assert_eq!(job_to(json!({"fqdn": "api.example.test"}), 443), Allowed);
    assert_eq!(job_to(json!({"fqdn": "API.example.test."}), 443), Allowed);
    assert_eq!(job_to(json!({"fqdn": "api.example.test"}), 80), Denied);
    assert_eq!(job_to(json!({"fqdn": "example.test"}), 443), Denied);
    assert_eq!(job_to(json!({"fqdn": "other.example.test"}), 443), Denied, "no answer was seen");
    assert_eq!(job_to(json!({"cidr": "192.0.2.7"}), 443), Allowed, "the address was learnt for a name");
    assert_eq!(job_to(json!({"cidr": "192.0.2.9/32"}), 443), Denied);
    assert_eq!(job_to(json!({"cidr": "198.51.100.1"}), 9), Allowed);
    assert_eq!(job_to(json!({"cidr": "198.51.100.200"}), 9), Denied);
    assert_eq!(job_to(json!({"cidr": "10.15.0.11"}), 8080), Redirected, "an endpoint's own address");
    assert_eq!(job_to(json!({"fqdn": "web.example.test"}), 8080), Redirected);
    assert_eq!(job_to(json!({"entity": "world"}), 443), Denied);
    assert_eq!(job_to(json!({"entity": "world"}), 5432), Allowed, "a name on egress is anybody's");
    assert_eq!(answer(&world, json!({"from": {"endpoint": "job"}, "to": {"endpoint": "web"}})), Denied);
    assert_eq!(answer(&world, json!({"from": {"endpoint": "job"}, "to": {"endpoint": "db"}})), Denied);
    assert_eq!(answer(&world, json!({"from": {"entity": "init"}, "to": {"cidr": "192.0.2.9"}, "port": 1})), Allowed);
}

#[test]
fn protocols_have_names_and_numbers() {
    let world = json!({"policies": [{"endpointSelector": {}, "ingress": [
        {"icmps": [{"fields": [{"type": 0}, {"type": 128, "family": "IPv6"}]}]}, {"toPorts": [{"ports": [{"protocol": "VRRP"}]}]}]}],
        "endpoints": {"a": {"labels": ["x"]}}});
    let from = |protocol: Value, port: u16| {
        answer(
            &world,
            json!({"from": {"entity": "world"}, "to": {"endpoint": "a"}, "protocol": protocol, "port": port}),
        )
    };
    assert_eq!((from(json!("ICMP"), 0), from(json!("icmp"), 8)), (Allowed, Denied));
    assert_eq!((from(json!("ICMPv6"), 128), from(json!(58), 129)), (Allowed, Denied));
    assert_eq!((from(json!("VRRP"), 0), from(json!("112"), 0), from(json!("GRE"), 0)), (Allowed, Allowed, Denied));
}

#[test]
fn settings_are_obeyed() {
    let world = |enforcement: &str, localhost: &str, firewall: bool| {
        json!({"policies": [{"endpointSelector": {}, "ingress": [{}]},
                            {"nodeSelector": {"matchLabels": {"role": "edge"}}, "ingress": [{"toPorts": [{"ports": [{"port": "22"}]}]}]}],
               "enforcement": enforcement, "options": {"allow-localhost": localhost, "host-firewall": firewall},
               "endpoints": {"a": {"labels": []}, "node": {"labels": ["reserved:host", "k8s:role=edge"]}}})
    };
    let host = |world: &Value| answer(world, json!({"from": {"entity": "host"}, "to": {"endpoint": "a"}, "port": 80}));
    assert_eq!(host(&world("default", "policy", false)), Denied);
    assert_eq!(host(&world("default", "auto", false)), Denied);
    assert_eq!(host(&world("default", "always", false)), Allowed);
    assert_eq!(host(&world("never", "policy", false)), Allowed);
    let out = |mode: &str| {
        answer(
            &world(mode, "policy", false),
            json!({"from": {"endpoint": "a"}, "to": {"cidr": "192.0.2.1"}, "port": 1}),
        )
    };
    assert_eq!((out("default"), out("always")), (Allowed, Denied));
    let ssh = |firewall, from: Value, port: u16| {
        answer(&world("default", "policy", firewall), json!({"from": from, "to": {"entity": "host"}, "port": port}))
    };
    assert_eq!(ssh(false, json!({"cidr": "192.0.2.1"}), 23), Allowed);
    assert_eq!(ssh(true, json!({"cidr": "192.0.2.1"}), 23), Denied);
    assert_eq!(ssh(true, json!({"cidr": "192.0.2.1"}), 22), Allowed);
    assert_eq!(ssh(true, json!({"endpoint": "a"}), 23), Allowed, "that is judged at the endpoint");
}

#[test]
fn what_was_expected_decides() {
    let world = shop();
    for (expected, met) in [("allowed", false), ("denied", false), ("redirected", true), ("admitted", true)] {
        let result = one(
            &world,
            json!({"from": {"endpoint": "job"}, "to": {"endpoint": "web"}, "port": 8080, "expect": expected}),
        );
        assert_eq!(result.passed, met, "{expected}");
    }
    let mut world = world;
    world["cases"] = json!([
        {"from": {"endpoint": "job"}, "to": {"endpoint": "web"}, "port": 8080, "expect": "admitted"},
        {"name": "no way", "from": {"endpoint": "db"}, "to": {"endpoint": "web"}, "port": 8080, "expect": "allowed"}]);
    let result = run(&world);
    assert_eq!((result.passed, result.failed), (1, 1));
    let names: Vec<&str> = result.cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names, ["case 1", "no way"]);
}

#[test]
fn results_say_which_rule_decided_and_why() {
    let world = shop();
    let refused = one(
        &world,
        json!({"from": {"endpoint": "job"}, "to": {"endpoint": "web"}, "port": 8080,
        "http": {"method": "PUT", "path": "/public", "host": "web"}, "expect": "allowed"}),
    );
    assert_eq!(refused.sides[0].why, "by policies[1] egress[0]");
    assert_eq!(
        refused.sides[1].why,
        "by policies[0] [unspec:name=front] ingress[0], to the parser http: PUT /public of web is refused: the one request rule does not match"
    );
    let value = serde_json::to_value(&refused).unwrap();
    assert_eq!(value["sides"][1]["parsed"]["parser"], "http");
    assert_eq!(
        value["sides"][1]["parsed"]["rules"],
        json!([r#"{"matchLabels":{"any:id":"job"}} on http/TCP: {"path":"/public","method":"GET"}"#])
    );
    let passes = one(
        &world,
        json!({"from": {"endpoint": "job"}, "to": {"endpoint": "web"}, "port": 8080,
        "http": {"path": "/public"}, "expect": "allowed"}),
    );
    assert!(
        passes.sides[1].why.ends_with("GET /public passes: request rule 0 of policies[0] ingress[0].toPorts[0]"),
        "{}",
        passes.sides[1].why
    );
    let unmatched =
        one(&world, json!({"from": {"endpoint": "db"}, "to": {"endpoint": "web"}, "port": 8080, "expect": "allowed"}));
    assert_eq!(unmatched.sides[0].why, "no rule for it speaks of this direction");
    assert_eq!(
        unmatched.sides[1].why,
        "no entry of the one rule for it matches: policies[0], and what is not allowed is refused"
    );
    let outside = one(
        &world,
        json!({"from": {"endpoint": "job"}, "to": {"fqdn": "api.example.test"}, "port": 443, "expect": "allowed"}),
    );
    assert_eq!(
        (outside.sides[1].of.as_str(), outside.sides[1].why.as_str()),
        ("api.example.test (192.0.2.7)", "nothing is enforced there")
    );
}

#[test]
fn a_policy_that_cannot_be_computed_lets_nothing_through() {
    let rule = |rules: Value| {
        json!({"endpointSelector": {"matchLabels": {"id": "a"}}, "ingress": [
        {"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": rules}]}]})
    };
    let world = json!({"policies": [rule(json!({"http": [{}]})), rule(json!({"kafka": [{}]}))],
        "endpoints": {"a": {"labels": ["id=a"]}, "b": {"labels": ["id=b"]}}});
    let result =
        one(&world, json!({"from": {"endpoint": "b"}, "to": {"endpoint": "a"}, "port": 80, "expect": "denied"}));
    assert!(result.passed);
    assert_eq!(
        result.sides[1].why,
        "its policy cannot be computed: conflicting L7 parsers (http/kafka) for everyone on 80/TCP: \
         policies[0] ingress[0].toPorts[0] and policies[1] ingress[0].toPorts[0]"
    );
    assert_eq!(answer(&world, json!({"from": {"endpoint": "a"}, "to": {"endpoint": "b"}, "port": 80})), Allowed);
}

#[test]
fn policies_come_from_files_and_documents_too() {
    let text = "policies:\n- file: web.json\n- file: all.yaml\n- kind: CiliumNetworkPolicy\n  metadata: {name: x}\n  spec:\n    endpointSelector: {}\n    ingress:\n    - fromEndpoints:\n      - {}\nendpoints:\n  web: {labels: [\"id=web\"]}\n  pod: {labels: [\"k8s:io.kubernetes.pod.namespace=default\"]}\ncases:\n- {from: {entity: world}, to: {endpoint: web}, port: 80, protocol: TCP, expect: denied}\n- {from: {entity: host}, to: {endpoint: web}, port: 80, expect: allowed}\n- {from: {endpoint: pod}, to: {endpoint: pod}, port: 80, expect: allowed}\n- {from: {endpoint: web}, to: {endpoint: pod}, port: 80, expect: denied}\n";
    let mut asked = Vec::new();
    let mut files = |name: &str| {
        asked.push(name.to_owned());
        let endpoint = json!({"matchLabels": {"id": "web"}});
        Ok(match name {
            "web.json" => json!([{"endpointSelector": endpoint, "ingress": [{}]}]).to_string(),
            _ => json!({"endpointSelector": endpoint, "ingress": [{"fromEntities": ["host"]}]}).to_string(),
        })
    };
    let suite = Suite::read(text, &mut files).unwrap();
    let result = suite.run();
    assert_eq!((result.passed, result.failed), (4, 0), "{result:#?}");
    assert_eq!(result.cases[1].sides[1].by.as_deref(), Some("all.yaml ingress[0]"));
    assert_eq!(asked, ["web.json", "all.yaml"]);
}

#[test]
fn everything_that_is_wrong_is_told_with_its_path() {
    let faults = |value: Value| read(&value).err().unwrap_or_default();
    assert_eq!(faults(json!([])), ["must be an object, not a list"]);
    assert_eq!(
        faults(
            json!({"policies": [{"endpointSelector": {}, "ingres": []}, {"file": "x.json"}, 3], "casses": [], "enforcement": "some",
            "options": {"allow-localhost": "no", "hostFirewall": true}})
        ),
        [
            "casses: unknown field; known here: description, policies, enforcement, options, endpoints, fqdn-cache, cases",
            "policies[0].ingres: unknown field; known here: endpointSelector, nodeSelector, ingress, ingressDeny, egress, egressDeny, enableDefaultDeny, labels, description, log",
            "policies[0]: a rule must have at least one of ingress, ingressDeny, egress, egressDeny",
            "policies[1].file: x.json: no x.json",
            "policies[2]: must be a list of rules, a rule, or a document with a kind",
            "enforcement: unknown enforcement mode \"some\": use default, always or never",
            "options.hostFirewall: unknown field; known here: allow-localhost, host-firewall",
            "options[\"allow-localhost\"]: \"no\" is not known: use auto, always or policy",
        ]
    );
    assert_eq!(
        faults(
            json!({"endpoints": {"a": {"labels": ["=x", 1], "ips": ["10.0.0.1", "10.0.0.0/8"], "named-ports": {"h": {"protocol": "TCP"}, "i": {"port": 70000}}},
                                    "b": {"ips": ["10.0.0.1"], "names": []}},
                      "fqdn-cache": {"a.test": "192.0.2.1"}})
        ),
        [
            "endpoints.a.labels[0]: label \"=x\" has no key: the form is [source:]key[=value]",
            "endpoints.a.labels[1]: must be a string, not a number",
            "endpoints.a.ips[1]: \"10.0.0.0/8\" is not one IP address",
            "endpoints.a[\"named-ports\"].h.port: a port must be given",
            "endpoints.a[\"named-ports\"].i.port: 70000 is not a whole number from 0 to 65535",
            "endpoints.b.names: unknown field; known here: labels, ips, named-ports",
            "endpoints.b.ips[0]: 10.0.0.1 is an address of a too",
            "[\"fqdn-cache\"][\"a.test\"]: must be a list, not a string",
        ]
    );
    let case = |more: Value| {
        let mut case = json!({"from": {"entity": "world"}, "to": {"entity": "host"}, "port": 80, "expect": "allowed"});
        case.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        faults(json!({"cases": [case]}))
    };
    for (more, fault) in [
        (json!({"to": {"endpoint": "x"}}), "cases[0].to.endpoint: there is no endpoint \"x\""),
        (json!({"to": {}}), "cases[0].to: exactly one of endpoint, cidr, entity, labels, fqdn must be given"),
        (
            json!({"to": {"entity": "host", "fqdn": "x.test"}}),
            "cases[0].to: exactly one of endpoint, cidr, entity, labels, fqdn must be given",
        ),
        (json!({"from": null}), "cases[0].from: must be given"),
        (
            json!({"from": {"entity": "all"}}),
            "cases[0].from.entity: \"all\" is no reserved identity: use one of host, world, unmanaged, health, init, remote-node, kube-apiserver, ingress, world-ipv4, world-ipv6",
        ),
        (json!({"port": "80"}), "cases[0].port: must be a number, not a string"),
        (json!({"port": null, "protocol": "TCP"}), "cases[0].port: a port must be given"),
        (
            json!({"protocol": "XTP"}),
            "cases[0].protocol: unknown protocol \"XTP\": use one of ICMP, IGMP, IPIP, TCP, UDP, IPv6, GRE, ESP, AH, ICMPv6, VRRP, SCTP, or a number",
        ),
        (
            json!({"expect": "maybe"}),
            "cases[0].expect: \"maybe\" cannot be expected: use one of allowed, denied, redirected, admitted",
        ),
        (json!({"expect": null}), "cases[0].expect: must be given"),
        (
            json!({"http": {"verb": "GET"}}),
            "cases[0].http.verb: unknown field; known here: method, path, host, headers",
        ),
        (json!({"http": {"headers": {"X": 1}}}), "cases[0].http.headers.X: must be a string, not a number"),
        (json!({"http": {}, "dns": {"query": "x"}}), "cases[0]: http and dns cannot both be asked for"),
        (json!({"sni": "x", "dns": {"query": "x"}}), "cases[0].sni: cannot be given together with dns"),
        (json!({"dns": {}}), "cases[0].dns.query: a name must be given"),
        (json!({"kafka": {"topics": []}}), "cases[0].kafka.apiKey: an apiKey must be given"),
        (json!({"kafka": {"apiKey": "x"}}), "cases[0].kafka.apiKey: unknown Kafka apiKey \"x\""),
        (
            json!({"kafka": {"apiKey": 0, "apiVersion": "-1"}}),
            "cases[0].kafka.apiVersion: \"-1\" is not from 0 to 32767",
        ),
        (
            json!({"colour": 1}),
            "cases[0].colour: unknown field; known here: name, description, from, to, port, protocol, http, dns, kafka, sni, expect",
        ),
    ] {
        assert_eq!(case(more.clone()), [fault], "{more}");
    }
    assert_eq!(faults(json!("x")), ["must be an object, not a string"]);
    let two = Suite::read("a: 1\n---\nb: 2\n", &mut no_files).unwrap_err();
    assert_eq!(two.to_string(), "must be one document, not 2");
}

#[test]
fn policies_are_told_from_worlds() {
    for text in ["[]", "{\"endpointSelector\": {}}", "kind: CiliumNetworkPolicy", "kind: A\n---\nkind: B\n"] {
        assert!(Suite::is_policy(text), "{text}");
    }
    for text in ["", "{}", "cases: []", "casess: []", "["] {
        assert!(!Suite::is_policy(text), "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn reading_never_panics(text in "\\PC{0,60}") {
        let _ = Suite::read(&text, &mut no_files);
    }
}
