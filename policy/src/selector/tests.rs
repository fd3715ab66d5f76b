use super::*;
use model::Label;

fn selector(value: Value) -> Selector {
    let mut decoder = Decoder::default();
    let selector = Selector::decode(&mut decoder, &value, &Path::ROOT);
    assert_eq!(decoder.faults.into_list(), []);
    selector.unwrap()
}

fn faults(value: Value) -> Vec<String> {
    let mut decoder = Decoder::default();
    let _ = Selector::decode(&mut decoder, &value, &Path::ROOT.field("s"));
    decoder.faults.into_list().iter().map(ToString::to_string).collect()
}

fn labels(texts: &[&str]) -> Labels {
    texts.iter().map(|text| text.parse::<Label>().unwrap()).collect()
}

fn matches(selector_text: Value, texts: &[&str]) -> bool {
    selector(selector_text).matches(&labels(texts))
}

#[test]
fn an_unqualified_key_matches_every_source() {
    assert!(matches(json!({"matchLabels": {"id": "a"}}), &["container:id=a"]));
    assert!(matches(json!({"matchLabels": {"any:id": "a"}}), &["k8s:id=a"]));
    assert!(matches(json!({"matchLabels": {"container:id": "a"}}), &["container:id=a"]));
    assert!(!matches(json!({"matchLabels": {"k8s:id": "a"}}), &["container:id=a"]));
}

#[test]
fn an_unqualified_key_matches_either_of_two_values() {
    for value in ["a", "b"] {
        assert!(matches(json!({"matchLabels": {"app": value}}), &["k8s:app=a", "container:app=b"]));
    }
}

#[test]
fn a_dot_is_part_of_the_key() {
    assert!(matches(json!({"matchLabels": {"k8s.app": "a"}}), &["container:k8s.app=a"]));
    assert!(!matches(json!({"matchLabels": {"k8s.app": "a"}}), &["k8s:app=a"]));
}

#[test]
fn an_empty_value_is_demanded_as_such() {
    assert!(matches(json!({"matchLabels": {"foo": ""}}), &["container:foo"]));
    assert!(!matches(json!({"matchLabels": {"foo": ""}}), &["container:foo=x"]));
}

#[test]
fn the_empty_selector_matches_everything() {
    for empty in [json!({}), json!(null), json!({"matchLabels": {}}), json!({"matchExpressions": []})] {
        assert!(selector(empty.clone()).is_empty());
        assert!(matches(empty.clone(), &["reserved:world"]) && matches(empty, &[]));
    }
}

#[test]
fn operators() {
    let env = |operator: &str, values: Value| json!({"matchExpressions": [{"key": "env", "operator": operator, "values": values}]});
    let cases = [
        ("In", json!(["prod", "test"]), [true, false, false]),
        ("NotIn", json!(["prod", "test"]), [false, true, true]),
        ("Exists", json!(null), [true, true, false]),
        ("DoesNotExist", json!([]), [false, false, true]),
    ];
    for (operator, values, expected) in cases {
        let found = [&["container:env=prod"][..], &["container:env=dev"], &["reserved:world"]]
            .map(|texts| matches(env(operator, values.clone()), texts));
        assert_eq!(found, expected, "{operator}");
    }
}

#[test]
fn all_parts_must_match() {
    let both = json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]});
    assert!(matches(both.clone(), &["container:a=1", "container:b=2"]));
    assert!(!matches(both.clone(), &["container:a=1"]));
    assert!(!matches(both, &["container:b=2"]));
}

#[test]
fn reserved_keys_select_entities() {
    assert!(matches(json!({"matchLabels": {"reserved:host": ""}}), &["reserved:host"]));
    assert!(matches(json!({"matchLabels": {"reserved:world": ""}}), &["cidr:10.0.0.0/8", "reserved:world"]));
    assert!(matches(json!({"matchLabels": {"reserved:world": ""}}), &["reserved:world-ipv6"]));
    assert!(matches(json!({"matchLabels": {"reserved:world-ipv4": ""}}), &["cidr:10.0.0.0/8", "reserved:world"]));
    assert!(!matches(json!({"matchLabels": {"reserved:world-ipv6": ""}}), &["cidr:10.0.0.0/8", "reserved:world"]));
    assert!(!matches(json!({"matchLabels": {"reserved:none": ""}}), &["reserved:world"]));
}

#[test]
fn cidr_keys_match_prefixes_inside() {
    let v4 = json!({"matchLabels": {"cidr:10.0.0.0/8": ""}});
    assert!(matches(v4.clone(), &["cidr:10.1.0.0/16", "reserved:world"]));
    assert!(!matches(v4.clone(), &["cidr:11.0.0.0/8", "reserved:world"]));
    assert!(!matches(v4, &["reserved:world"]));
    let v6 = json!({"matchExpressions": [{"key": "cidr:2001-db8--0/32", "operator": "Exists"}]});
    assert!(matches(v6, &["cidr:2001-db8-1--0/48", "reserved:world"]));
}

#[test]
fn the_canonical_text_qualifies_keys() {
    let written = json!({"matchExpressions": [{"key": "k8s:b", "operator": "NotIn", "values": ["x"]}], "matchLabels": {"id": "app1"}});
    let canonical =
        r#"{"matchLabels":{"any:id":"app1"},"matchExpressions":[{"key":"k8s:b","operator":"NotIn","values":["x"]}]}"#;
    assert_eq!(selector(written).to_string(), canonical);
    assert_eq!(selector(json!({"matchLabels": {}})).to_string(), "{}");
}

#[test]
fn what_was_written_is_given_back() {
    for written in [
        json!({}),
        json!({"matchLabels": {}}),
        json!({"matchLabels": {"id": "a", "k8s:b": ""}}),
        json!({"matchExpressions": [{"key": "e", "operator": "Exists", "values": []}, {"key": "i", "operator": "In", "values": ["v"]}]}),
    ] {
        assert_eq!(serde_json::to_value(selector(written.clone())).unwrap(), written);
    }
}

#[test]
fn expressions_are_checked() {
    let with = |expression: Value| faults(json!({"matchExpressions": [expression]}));
    let path = "s.matchExpressions[0]";
    assert_eq!(
        with(json!({"key": "a", "operator": "in", "values": ["x"]})),
        [format!("{path}.operator: \"in\" is not a selector operator: use one of In, NotIn, Exists, DoesNotExist")]
    );
    for values in [json!([]), json!(null)] {
        assert_eq!(
            with(json!({"key": "a", "operator": "In", "values": values})),
            [format!("{path}.values: must be given when the operator is In or NotIn")]
        );
    }
    assert_eq!(
        with(json!({"key": "a", "operator": "Exists", "values": ["x"]})),
        [format!("{path}.values: may not be given when the operator is Exists or DoesNotExist")]
    );
    assert_eq!(
        with(json!({})),
        [format!("{path}.key: a key must be given"), format!("{path}.operator: an operator must be given")]
    );
}

#[test]
fn keys_and_values_follow_kubernetes() {
    let long = "a".repeat(64);
    for key in ["", "container:", "-a", "a-", "a b", "UPPER.Case/x", "/x", "x/", "a/b/c", long.as_str()] {
        assert_eq!(faults(json!({"matchLabels": {key: ""}})).len(), 1, "{key}");
    }
    for key in [
        "a",
        "k8s:io.kubernetes.pod.namespace",
        "com.docker.compose.project",
        "example.com/role",
        "A_b-C.d",
        &long[1..],
    ] {
        assert_eq!(faults(json!({"matchLabels": {key: ""}})), [""; 0], "{key}");
    }
    for value in ["-", "a b", "ü", "x:y", long.as_str()] {
        assert_eq!(faults(json!({"matchLabels": {"a": value}})).len(), 1, "{value}");
    }
    assert_eq!(faults(json!({"matchLabels": {"a": 1}})), ["s.matchLabels.a: must be a string, not a number"]);
}
