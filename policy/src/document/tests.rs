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
