use super::*;
use serde_json::json;

fn read(text: &str) -> Vec<Value> {
    let rules = read_documents(text, &ReadOptions::default()).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    rules.iter().map(|rule| serde_json::to_value(rule).unwrap()).collect()
}

fn faults(text: &str) -> Vec<String> {
    let errors = read_documents(text, &ReadOptions::default()).expect_err("faults were expected");
    errors.0.iter().map(ToString::to_string).collect()
}

#[test]
fn rules_are_read_in_every_form() {
    let rule = json!({"endpointSelector": {"matchLabels": {"a": "b"}}, "ingress": [{}]});
    for text in [
        json!([rule]).to_string(),
        rule.to_string(),
        "endpointSelector: {matchLabels: {a: b}}\ningress: [{}]\n".to_owned(),
        "- endpointSelector:\n    matchLabels:\n      a: b\n  ingress:\n  - {}\n".to_owned(),
    ] {
        assert_eq!(Value::Array(read(&text)), json!([rule]), "{text}");
    }
    assert_eq!(read("[]"), [json!(null); 0]);
}

const WEB: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: front}}, {}]
";

#[test]
fn a_document_lives_in_its_namespace() {
    let ns = "k8s:io.kubernetes.pod.namespace";
    assert_eq!(
        read(WEB),
        [json!({"labels": [
                {"key": "io.cilium.k8s.policy.derived-from", "value": "CiliumNetworkPolicy", "source": "k8s"},
                {"key": "io.cilium.k8s.policy.name", "value": "web", "source": "k8s"},
                {"key": "io.cilium.k8s.policy.namespace", "value": "shop", "source": "k8s"}],
            "endpointSelector": {"matchLabels": {"app": "web", ns: "shop"}},
            "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "front", ns: "shop"}}, {"matchLabels": {ns: "shop"}}]}]})]
    );
}

#[test]
fn faults_of_a_document_have_its_paths_and_its_name() {
    let text = WEB.replace("fromEndpoints", "fromEndpoint");
    let found = faults(&text);
    assert!(found[0].starts_with("spec.ingress[0].fromEndpoint: unknown field; known here: "), "{found:?}");
    assert!(found[0].ends_with("(in CiliumNetworkPolicy shop/web)"), "{found:?}");
}

/// The rules of a document, without the labels that all of them have.
fn unsigned(text: &str) -> Vec<Value> {
    let mut rules = read(text);
    for rule in &mut rules {
        rule.as_object_mut().unwrap().shift_remove("labels");
    }
    rules
}

const NS: &str = "k8s:io.kubernetes.pod.namespace";

#[test]
fn peers_that_name_a_namespace_are_left_alone() {
    let peers = |peers: Value| {
        let document = json!({"kind": "CiliumNetworkPolicy", "metadata": {"name": "x"},
            "spec": {"endpointSelector": {}, "egress": [{"toEndpoints": peers}]}});
        unsigned(&document.to_string())[0]["egress"][0]["toEndpoints"].clone()
    };
    let alone = json!([
        {"matchLabels": {"k8s:io.kubernetes.pod.namespace": "kube-system", "k8s-app": "kube-dns"}},
        {"matchLabels": {"io.kubernetes.pod.namespace": "other"}},
        {"matchExpressions": [{"key": "any:io.kubernetes.pod.namespace", "operator": "Exists"}]},
        {"matchLabels": {"k8s:io.cilium.k8s.namespace.labels.team": "a"}},
        {"matchLabels": {"io.cilium.k8s.namespace.labels.team": "a"}},
        {"matchLabels": {"reserved:host": ""}},
        {"matchExpressions": [{"key": "reserved:init", "operator": "DoesNotExist"}]},
    ]);
    assert_eq!(peers(alone.clone()), alone);
    let pinned = json!([{"matchLabels": {"container:io.kubernetes.pod.namespace": "x", NS: "default"}}]);
    assert_eq!(peers(json!([{"matchLabels": {"container:io.kubernetes.pod.namespace": "x"}}])), pinned);
    assert_eq!(peers(json!([])), json!([]));
}

#[test]
fn everything_but_peers_by_label_stays_as_it_is() {
    let mut whole: Value = serde_json::from_str(include_str!("../tests/whole-language.json")).unwrap();
    for rule in whole.as_array_mut().unwrap() {
        let of_host = rule.get("nodeSelector").is_some();
        let (kind, title) = if of_host { (cilium::CLUSTERWIDE, "x") } else { (cilium::NAMESPACED, "default/x") };
        let document = json!({"kind": kind, "metadata": {"name": "x"}, "spec": rule}).to_string();
        let mut read = read(&document).remove(0);
        // The rule's own labels come after those of the document.
        let count = if of_host { 2 } else { 3 };
        let labels = read["labels"].as_array_mut().unwrap();
        labels.drain(..count);
        if labels.is_empty() {
            read.as_object_mut().unwrap().shift_remove("labels");
        }
        for rule in [&mut read, rule] {
            rule.as_object_mut().unwrap().shift_remove("endpointSelector");
            for section in ["ingress", "ingressDeny", "egress", "egressDeny"] {
                let entries = rule.get_mut(section).and_then(Value::as_array_mut);
                for entry in entries.into_iter().flatten() {
                    for field in ["fromEndpoints", "toEndpoints", "fromRequires", "toRequires", "fromNodes", "toNodes"]
                    {
                        entry.as_object_mut().unwrap().shift_remove(field);
                    }
                }
            }
        }
        assert_eq!(&read, rule, "{title}");
    }
}

#[test]
fn a_subject_is_of_the_documents_namespace_whatever_it_says() {
    let text = "
kind: CiliumNetworkPolicy
metadata: {name: x, namespace: shop}
spec: {endpointSelector: {matchLabels: {io.kubernetes.pod.namespace: other, a: b}}, ingress: [{}]}
";
    let options = ReadOptions::default();
    let mut reader = Reader::new(&options);
    reader.add_text(text).unwrap();
    let reading = reader.finish().unwrap();
    let subject = serde_json::to_value(&reading.rules[0].endpoint_selector).unwrap();
    assert_eq!(subject, json!({"matchLabels": {"a": "b", NS: "shop"}}));
    let notes: Vec<_> = reading.notes.iter().map(|(text, note)| format!("{text}: {note}")).collect();
    assert_eq!(
        notes,
        [
            "0: spec.endpointSelector.matchLabels: any:io.kubernetes.pod.namespace=other is overridden: the document is of \
          the namespace shop (in CiliumNetworkPolicy shop/x)"
        ]
    );
}

#[test]
fn clusterwide_peers_must_have_a_namespace() {
    let peers = |subject: Value, peers: Value| {
        let document = json!({"kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name": "x"},
            "spec": {"endpointSelector": subject, "ingress": [{"fromEndpoints": peers}], "egress": [{"toRequires": [{}]}]}});
        let rule = unsigned(&document.to_string()).remove(0);
        assert_eq!(rule["endpointSelector"], subject);
        [rule["ingress"][0]["fromEndpoints"].clone(), rule["egress"][0]["toRequires"].clone()]
    };
    let exists = json!({"key": NS, "operator": "Exists"});
    assert_eq!(
        peers(json!({}), json!([{}, {"matchLabels": {"reserved:host": ""}}, {"matchLabels": {NS: "a"}}])),
        [
            json!([{"matchExpressions": [exists]}, {"matchLabels": {"reserved:host": ""}}, {"matchLabels": {NS: "a"}}]),
            json!([{"matchExpressions": [exists]}])
        ]
    );
    let init = json!({"matchLabels": {"reserved:init": ""}});
    assert_eq!(peers(init, json!([{}])), [json!([{}]), json!([{}])]);
}

#[test]
fn nodes_are_other_nodes() {
    let document = json!({"kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name": "x"},
        "spec": {"nodeSelector": {}, "egress": [{"toNodes": [{"matchLabels": {"a": "b"}}]}]}});
    let expected = json!([{"matchLabels": {"a": "b"},
        "matchExpressions": [{"key": "reserved:remote-node", "operator": "Exists"}]}]);
    assert_eq!(unsigned(&document.to_string())[0]["egress"][0]["toNodes"], expected);
    let found = faults(&document.to_string().replace("Clusterwide", ""));
    assert!(found[0].starts_with("spec.nodeSelector: belongs in a CiliumClusterwideNetworkPolicy"), "{found:?}");
}

#[test]
fn labels_tell_the_document() {
    let document = json!({"kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name": "x", "uid": "1-2"},
        "specs": [{"endpointSelector": {}, "ingress": [{}], "labels": ["own=1"]}]});
    let rules = read_documents(&document.to_string(), &ReadOptions::default()).unwrap();
    let labels: Vec<_> = rules[0].rule_labels().map(|label| label.to_string()).collect();
    let policy = "k8s:io.cilium.k8s.policy";
    assert_eq!(
        labels,
        [
            format!("{policy}.derived-from=CiliumClusterwideNetworkPolicy"),
            format!("{policy}.name=x"),
            format!("{policy}.uid=1-2"),
            "unspec:own=1".to_owned()
        ]
    );
}

fn network_policy(spec: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "x"}, "spec": spec})
}

#[test]
fn a_network_policy_becomes_a_rule() {
    let rule = unsigned(
        &network_policy(json!({
            "podSelector": {"matchLabels": {"app": "db"}, "matchExpressions": [{"key": "tier", "operator": "In", "values": ["1"]}]},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{
                "from": [
                    {"podSelector": {"matchLabels": {"app": "web"}}},
                    {"namespaceSelector": {"matchLabels": {"team": "a"}}},
                    {"namespaceSelector": {}, "podSelector": {"matchExpressions": [{"key": "x", "operator": "Exists"}]}},
                    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
                "ports": [{"port": 5432}, {"port": "metrics", "protocol": "UDP"}, {"protocol": "SCTP"},
                          {"port": 8000, "endPort": 8080}]}],
        }))
        .to_string(),
    );
    let ports = json!([
        {"ports": [{"port": "5432", "protocol": "TCP"}]},
        {"ports": [{"port": "metrics", "protocol": "UDP"}]},
        {"ports": [{"port": "0", "protocol": "SCTP"}]},
        {"ports": [{"port": "8000", "endPort": 8080, "protocol": "TCP"}]}]);
    assert_eq!(
        rule,
        [json!({
            "endpointSelector": {"matchLabels": {NS: "default", "k8s:app": "db"},
                "matchExpressions": [{"key": "k8s:tier", "operator": "In", "values": ["1"]}]},
            "ingress": [
                {"fromEndpoints": [
                    {"matchLabels": {NS: "default", "k8s:app": "web"}},
                    {"matchLabels": {"k8s:io.cilium.k8s.namespace.labels.team": "a"}},
                    {"matchExpressions": [{"key": "k8s:x", "operator": "Exists"}, {"key": NS, "operator": "Exists"}]}],
                 "toPorts": ports},
                {"fromCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}], "toPorts": ports}],
            "egress": [{}],
        })]
    );
}

#[test]
fn what_a_network_policy_leaves_out() {
    let sections = |spec: Value| {
        let rule = unsigned(&network_policy(spec).to_string()).remove(0);
        [rule["ingress"].clone(), rule["egress"].clone()]
    };
    let (closed, open, absent) = (json!([{}]), json!([{"fromEndpoints": [{}]}]), Value::Null);
    assert_eq!(sections(json!({})), [closed.clone(), absent.clone()]);
    assert_eq!(sections(json!({"podSelector": {}, "policyTypes": ["Egress"]})), [absent.clone(), closed.clone()]);
    assert_eq!(sections(json!({"policyTypes": ["Ingress", "Egress"]})), [closed.clone(), closed.clone()]);
    // The opposite of what the same text means in a rule.
    for everyone in [json!([{}]), json!([{"from": []}]), json!([{"from": null, "ports": []}])] {
        assert_eq!(sections(json!({"ingress": everyone})), [open.clone(), absent.clone()]);
    }
    let to_everyone = json!([{"toEndpoints": [{}], "toPorts": [{"ports": [{"port": "53", "protocol": "UDP"}]}]}]);
    assert_eq!(
        sections(json!({"egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}], "policyTypes": ["Egress"]})),
        [absent, to_everyone]
    );
}

#[test]
fn faults_of_a_network_policy_have_its_own_paths() {
    let found = faults(
        &network_policy(json!({
            "podSelector": {"matchLabels": {"k8s:app": "x"}},
            "policyTypes": ["ingress"],
            "ingress": [
                {"from": [{}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}, "podSelector": {}}],
                 "ports": [{"port": 70000}, {"port": "0120"}, {"protocol": "ICMP"}, {"port": 90, "endPort": 80},
                           {"endPort": 80}, {"port": "http", "endPort": 80}]},
                {"from": [{"ipBlock": {}}, {"ipBlock": {"cidr": "10.0.0.0"}}], "form": []}],
            "egress": [{"from": []}],
        }))
        .to_string(),
    );
    let paths: Vec<_> = found.iter().map(|fault| fault.split_once(": ").unwrap().0).collect();
    assert_eq!(
        paths,
        [
            "spec.podSelector.matchLabels.app",
            "spec.ingress[0].from[0]",
            "spec.ingress[0].from[1].ipBlock.except[0]",
            "spec.ingress[0].from[1]",
            "spec.ingress[0].ports[0].port",
            "spec.ingress[0].ports[1].port",
            "spec.ingress[0].ports[2].protocol",
            "spec.ingress[0].ports[3].endPort",
            "spec.ingress[0].ports[4]",
            "spec.ingress[0].ports[5].endPort",
            "spec.ingress[1].form",
            "spec.ingress[1].from[0].ipBlock.cidr",
            "spec.ingress[1].from[1].ipBlock.cidr",
            "spec.egress[0].from",
            "spec.policyTypes[0]",
        ]
    );
}

fn group(name: &str, labels: Value, prefixes: Value) -> Value {
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup", "metadata": {"name": name, "labels": labels},
           "spec": {"externalCIDRs": prefixes}})
}

#[test]
fn groups_are_filled_in_wherever_they_stand() {
    let sets = |set: Value| {
        let rule = json!({"endpointSelector": {}, "egressDeny": [{"toCIDRSet": [set, {"cidr": "192.0.2.0/24"}]}]});
        let text = json!([
            rule,
            group("a", json!({"site": "x"}), json!(["10.0.0.0/8", "2001:db8::/32"])),
            group("b", json!({"site": "y"}), json!(["10.1.0.0/16"])),
            group("none", json!({}), json!([])),
        ]);
        let mut found = unsigned(&text.to_string()).remove(0)["egressDeny"][0]["toCIDRSet"].take();
        assert_eq!(found.as_array_mut().unwrap().pop(), Some(json!({"cidr": "192.0.2.0/24"})));
        found
    };
    let (a, b) = ([json!({"cidr": "10.0.0.0/8"}), json!({"cidr": "2001:db8::/32"})], json!({"cidr": "10.1.0.0/16"}));
    assert_eq!(sets(json!({"cidrGroupRef": "a"})), json!(a));
    assert_eq!(sets(json!({"cidrGroupRef": "none"})), json!([]));
    assert_eq!(sets(json!({"cidrGroupSelector": {"matchLabels": {"site": "y"}}})), json!([b]));
    let both = json!({"matchExpressions": [{"key": "site", "operator": "Exists"}]});
    assert_eq!(sets(json!({"cidrGroupSelector": both})), json!([a[0], a[1], b]));
    let named =
        json!({"matchExpressions": [{"key": "cidrgroup:io.cilium.policy.cidrgroupname/b", "operator": "Exists"}]});
    assert_eq!(sets(json!({"cidrGroupSelector": named})), json!([b]));
    assert_eq!(
        sets(json!({"cidrGroupRef": "a", "except": ["10.1.0.0/16", "2001::/16", "192.168.0.0/16"]})),
        json!([{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}])
    );
    for unknown in [json!({"cidrGroupRef": "c"}), json!({"cidrGroupSelector": {"matchLabels": {"site": "z"}}})] {
        assert_eq!(sets(unknown.clone()), json!([unknown]));
    }
}

#[test]
fn faults_of_a_group() {
    let found = faults(&group("", json!({}), json!(["10.0.0.0", 7])).to_string());
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("metadata: a document must have a name"), "{found:?}");
    assert!(found[1].starts_with("spec.externalCIDRs[0]: \"10.0.0.0\" has no prefix length"), "{found:?}");
    let none = json!({"kind": "CiliumCIDRGroup", "metadata": {"name": "x"}}).to_string();
    assert_eq!(faults(&none), ["spec: a group must have a spec (in CiliumCIDRGroup x)"]);
}

#[test]
fn lists_hold_documents() {
    let item = network_policy(json!({}));
    for kind in ["List", "NetworkPolicyList"] {
        let list =
            json!({"apiVersion": "v1", "kind": kind, "metadata": {"resourceVersion": ""}, "items": [item, item]});
        assert_eq!(read(&list.to_string()).len(), 2);
        let nested = json!({"kind": "List", "items": [list]});
        assert_eq!(read(&nested.to_string()).len(), 2);
    }
    assert_eq!(faults(&json!({"kind": "List", "items": {}}).to_string()), ["items: must be a list"]);
    let bare = json!({"kind": "List", "items": [{}, {"kind": "NetworkPolicy", "metadata": {"name": "y"}}]});
    assert_eq!(
        faults(&bare.to_string()),
        [
            "items[1].spec: empty policy: a spec is required (in NetworkPolicy default/y)",
            "items[0]: must be a document with a kind"
        ]
    );
}

#[test]
fn other_kinds_are_passed_over_unless_they_are_policies() {
    let options = ReadOptions::default();
    let mut reader = Reader::new(&options);
    reader.add_text("kind: Pod\n---\nkind: Service\nspec: 7\n").unwrap();
    let reading = reader.finish().unwrap();
    assert!(reading.rules.is_empty());
    let notes: Vec<_> = reading.notes.iter().map(|(_, note)| note.to_string()).collect();
    assert_eq!(
        notes,
        [
            "Pod is no policy and is passed over (in document 1)",
            "Service is no policy and is passed over (in document 2)"
        ]
    );
    for kind in ["AdminNetworkPolicy", "ciliumnetworkpolicy", "CiliumCidrGroup"] {
        let found = faults(&json!({"kind": kind}).to_string());
        assert!(found[0].starts_with(&format!("kind: {kind} cannot be read; known kinds: CiliumNetworkPolicy, ")));
    }
    let calico = json!({"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy"}).to_string();
    assert_eq!(
        faults(&calico),
        [
            "apiVersion: the NetworkPolicy of \"projectcalico.org\" cannot be read, only that of networking.k8s.io, extensions"
        ]
    );
}

#[test]
fn a_rule_with_a_kind_is_not_passed_over() {
    let found = faults(&json!([{"endpointSelector": {}, "ingress": [{}], "kind": "Rule"}]).to_string());
    assert!(found.len() == 1 && found[0].starts_with("[0].kind: unknown field"), "{found:?}");
}

#[test]
fn faults_of_many_documents_are_counted_together() {
    let many: String =
        (0..700).map(|i| format!("---\nkind: NetworkPolicy\nmetadata: {{name: n{i}}}\na: 1\n")).collect();
    let found = faults(&many);
    assert_eq!(found.len(), 1001);
    assert_eq!(found[1000], "400 more faults are not shown: the limit is 1000 faults");
}

#[test]
fn every_document_of_a_text_tells_all_its_faults() {
    let text = "
kind: CiliumNetworkPolicy
metadata: {name: a, namespace: A b}
spec: {ingress: [{}]}
---
- {ingress: [{}]}
- 7
---
kind: CiliumNetworkPolicy
spec: {ingress: [{}], specs: []}
---
kind: CiliumNetworkPolicy
metadata: {name: c, labels: {x: 1}}
---
text
";
    let paths: Vec<_> = faults(text)
        .iter()
        .map(|fault| (fault.split(": ").next().unwrap().to_owned(), fault.rsplit(" (in ").next().unwrap().to_owned()))
        .collect();
    let expected = [
        ("metadata.namespace", "CiliumNetworkPolicy A b/a)"),
        ("spec", "CiliumNetworkPolicy A b/a)"),
        ("[0]", "document 2)"),
        ("[1]", "document 2)"),
        ("metadata", "CiliumNetworkPolicy, document 3)"),
        ("spec.specs", "CiliumNetworkPolicy, document 3)"),
        ("spec", "CiliumNetworkPolicy, document 3)"),
        ("metadata.labels.x", "CiliumNetworkPolicy default/c)"),
        ("empty policy", "CiliumNetworkPolicy default/c)"),
        ("must be a list of rules, a rule, or a document with a kind (in document 5)", "document 5)"),
    ];
    assert_eq!(paths, expected.map(|(path, document)| (path.to_owned(), document.to_owned())));
}

#[test]
fn unknown_fields_are_passed_over_when_asked_for() {
    let text = WEB.replace("fromEndpoints", "fromEndpoint");
    let options = ReadOptions { ignore_unknown_fields: true, ..ReadOptions::default() };
    let mut reader = Reader::new(&options);
    reader.add_text(&text).unwrap();
    let reading = reader.finish().unwrap();
    assert_eq!(serde_json::to_value(&reading.rules[0]).unwrap()["ingress"], json!([{}]));
    assert_eq!(
        reading.notes,
        [(
            0,
            Fault {
                path: "spec.ingress[0].fromEndpoint".to_owned(),
                message: "unknown field, ignored (in CiliumNetworkPolicy shop/web)".to_owned()
            }
        )]
    );
}

#[test]
fn places_are_of_their_text() {
    let options = ReadOptions { namespace: "shop".to_owned(), ..ReadOptions::default() };
    let mut reader = Reader::new(&options);
    reader.add_text("[]").unwrap();
    let both = json!({"kind": "CiliumNetworkPolicy", "metadata": {"name": "x"},
        "spec": {"endpointSelector": {}, "ingress": [{}]}, "specs": [{"endpointSelector": {}, "egress": [{}]}]});
    reader.add_text(&format!("{both}\n---\n{}", json!([{"endpointSelector": {}, "ingress": [{}]}]))).unwrap();
    reader.add_text("{\"endpointSelector\": {}, \"ingress\": [{}]}").unwrap();
    let places: Vec<_> = reader.finish().unwrap().places;
    let place = |text, path: &str, document: Option<&str>| Place {
        text,
        path: path.to_owned(),
        document: document.map(str::to_owned),
        namespace: document.map(|_| "shop".to_owned()),
    };
    let title = Some("CiliumNetworkPolicy shop/x");
    assert_eq!(
        places,
        [place(1, "spec", title), place(1, "specs[0]", title), place(1, "[0]", None), place(2, "", None)]
    );
}

#[test]
fn bounds_on_rules_are_named() {
    let small = Limits { rules: 2, cidrs_per_rule: 3, expressions_per_rule: 4, ..Limits::default() };
    let options = ReadOptions { limits: small, ..ReadOptions::default() };
    let refused = |value: Value| {
        let errors = read_documents(&value.to_string(), &options).expect_err("a bound should have been passed");
        errors.to_string()
    };
    let rule = json!({"endpointSelector": {}, "ingress": [{}]});
    assert_eq!(refused(json!([rule, rule, rule])), "too many rules: the limit is 2");
    let cidrs = json!({"endpointSelector": {}, "egress": [{"toCIDR": ["10.0.0.0/8", "11.0.0.0/8"]}],
        "egressDeny": [{"toCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}]}]});
    assert_eq!(refused(json!([rule, cidrs])), "[1]: too many prefixes in one rule (4): the limit is 3");
    let expressions = json!({"endpointSelector": {"matchLabels": {"a": "", "b": ""}}, "ingress": [
        {"fromEndpoints": [{"matchExpressions": [{"key": "c", "operator": "In", "values": ["x", "y"]}]}]}]});
    assert_eq!(refused(json!([expressions])), "[0]: too many label expressions in one rule (5): the limit is 4");
    let many = group("g", json!({}), json!(["10.0.0.0/8", "11.0.0.0/8"]));
    let user =
        json!({"endpointSelector": {}, "egress": [{"toCIDRSet": [{"cidrGroupRef": "g"}, {"cidrGroupRef": "g"}]}]});
    assert_eq!(refused(json!([many, user])), "too many prefixes of groups in one rule: the limit is 3");
    let choosy = json!({"endpointSelector": {}, "egress": [{"toCIDRSet": vec![json!({"cidrGroupSelector": {}}); 3]}]});
    let few = ReadOptions { limits: Limits { values: 20, ..Limits::default() }, ..ReadOptions::default() };
    let mut reader = Reader::new(&few);
    let empty = (0..7).map(|i| group(&format!("g{i}"), json!({}), json!([])));
    for value in empty.chain([choosy]) {
        reader.add_text(&value.to_string()).unwrap();
    }
    let error = reader.finish().unwrap_err().to_string();
    assert_eq!(error, "too many comparisons of cidrGroupSelectors with groups: the limit is 20");
    let selectors = network_policy(json!({"podSelector": {"matchLabels": {"a": "", "b": "", "c": "", "d": ""}}}));
    assert!(refused(selectors).starts_with("spec: too many label expressions in one rule (5): the limit is 4"));
}
