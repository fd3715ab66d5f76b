use super::*;
use serde_json::json;

fn faults(document: Value) -> Vec<String> {
    match parse_rules(&document.to_string()) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.0.iter().map(ToString::to_string).collect(),
    }
}

fn written_back(document: &Value) -> Value {
    serde_json::to_value(parse_rules(&document.to_string()).unwrap()).unwrap()
}

#[test]
fn a_document_is_a_list_of_rules() {
    assert!(parse_rules("[]").unwrap().is_empty());
    assert_eq!(faults(json!({"endpointSelector": {}})), ["a policy is a list of rules: put the rule between [ and ]"]);
    assert_eq!(faults(json!("x")), ["must be a list, not a string"]);
    assert_eq!(faults(json!([1])), ["[0]: must be an object, not a number"]);
    for text in ["", "[", "[] []", "[{}],", "nonsense"] {
        let errors = parse_rules(text).unwrap_err();
        assert!(errors.to_string().starts_with("not JSON: "), "{errors}");
    }
}

#[test]
fn bounds_are_named() {
    let limits = Limits { document_bytes: 100, nesting: 5, values: 9, rules: 1, ..Limits::default() };
    let within =
        |text: &str| parse_rules_within(text, &limits).expect_err("a bound should have been passed").to_string();
    assert_eq!(within(&format!("[{}]", " ".repeat(100))), "too many bytes in one text: the limit is 100");
    assert_eq!(within("[[[[[[[]]]]]]]"), "too many levels of nesting: the limit is 5");
    assert_eq!(within("[1,2,3,4,5,6,7,8,9]"), "too many values in one text: the limit is 9");
    assert_eq!(within("[1,2]"), "too many rules: the limit is 1");
    let deep = "[".repeat(65) + &"]".repeat(65);
    assert_eq!(parse_rules(&deep).unwrap_err().to_string(), "too many levels of nesting: the limit is 64");
    let rule = json!({"endpointSelector": {}, "egress": [{"toCIDR": vec!["10.0.0.0/8"; 40_001]}]});
    assert_eq!(faults(json!([rule])), ["[0]: too many prefixes in one rule (40001): the limit is 40000"]);
    let rule = json!({"endpointSelector": {"matchExpressions": [
        {"key": "a", "operator": "In", "values": vec!["x"; 10_000]}]}, "ingress": [{}]});
    assert_eq!(faults(json!([rule])), ["[0]: too many label expressions in one rule (10001): the limit is 10000"]);
}

#[test]
fn every_fault_of_a_document_is_named_with_its_path() {
    let document = json!([
        {"endpointSelector": {}, "ingress": [
            {"fromEndpoint": [{}]},
            {"toPorts": [{"ports": [{"port": 80}, {"port": "1", "protocol": "XTP"}, {"port": "0120"}]}]}]},
        {"ingress": [{}], "labels": [{"value": "x"}, "=y", 3]},
        {"endpointSelector": {"matchLabels": {"a b": "c d"}}, "egress": [{"toCIDR": ["300.1.1.1/8"], "toEntities": ["word"]}]},
        {"endpointSelector": [], "egressDeny": "x"},
    ]);
    let paths: Vec<_> = parse_rules(&document.to_string()).unwrap_err().0.into_iter().map(|fault| fault.path).collect();
    assert_eq!(
        paths,
        [
            "[0].ingress[0].fromEndpoint",
            "[0].ingress[1].toPorts[0].ports[0].port",
            "[0].ingress[1].toPorts[0].ports[1].protocol",
            "[0].ingress[1].toPorts[0].ports[2].port",
            "[1].labels[0].key",
            "[1].labels[1]",
            "[1].labels[2]",
            "[1]",
            "[2].endpointSelector.matchLabels[\"a b\"]",
            "[2].endpointSelector.matchLabels[\"a b\"]",
            "[2].egress[0].toCIDR[0]",
            "[2].egress[0].toEntities[0]",
            "[3].endpointSelector",
            "[3].egressDeny",
        ]
    );
}

#[test]
fn errors_are_shown_a_line_each_and_serialised_as_a_list() {
    let errors =
        parse_rules(&json!([{"endpointSelector": {}, "ingress": [{"x": 1, "y": 2}]}]).to_string()).unwrap_err();
    assert_eq!(errors.to_string().lines().count(), 2);
    assert!(errors.to_string().starts_with("[0].ingress[0].x: unknown field; known here: fromEndpoints, "));
    let value = serde_json::to_value(&errors).unwrap();
    assert_eq!(value[1]["path"], "[0].ingress[0].y");
    assert!(value[1]["message"].is_string());
}

#[test]
fn fields_that_would_vanish_in_silence_are_refused() {
    let of = |section: &str, entry: Value| {
        let faults = parse_rules(&json!([{"endpointSelector": {}, section: [entry]}]).to_string()).unwrap_err().0;
        faults.into_iter().map(|fault| fault.path).collect::<Vec<_>>()
    };
    assert_eq!(of("egressDeny", json!({"toFQDNs": []})), ["[0].egressDeny[0].toFQDNs"]);
    assert_eq!(of("egressDeny", json!({"authentication": {}})), ["[0].egressDeny[0].authentication"]);
    assert_eq!(of("ingressDeny", json!({"authentication": {}})), ["[0].ingressDeny[0].authentication"]);
    assert_eq!(
        of("ingressDeny", json!({"toPorts": [{"ports": [], "rules": {}}]})),
        ["[0].ingressDeny[0].toPorts[0].rules"]
    );
    assert_eq!(of("ingress", json!({"toEndpoints": []})), ["[0].ingress[0].toEndpoints"]);
    assert_eq!(of("ingress", json!({"toServices": []})), ["[0].ingress[0].toServices"]);
    assert_eq!(of("egress", json!({"fromCIDR": []})), ["[0].egress[0].fromCIDR"]);
}

#[test]
fn field_names_are_known_in_any_case_but_map_keys_are_not_touched() {
    let odd = json!([{"ENDPOINTSELECTOR": {"MatchLabels": {"ID": "a"}}, "Ingress": [{"FromEndpoints": [{}], "toports": [{"Ports": [{"PORT": "80"}]}]}]}]);
    let plain = json!([{"endpointSelector": {"matchLabels": {"ID": "a"}}, "ingress": [{"fromEndpoints": [{}], "toPorts": [{"ports": [{"port": "80"}]}]}]}]);
    assert_eq!(written_back(&odd), plain);
    let http = json!([{"endpointSelector": {}, "ingress": [{"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"HTTP": [{"path": "/x"}]}}]}]}]);
    assert!(check_supported(&parse_rules(&http.to_string()).unwrap()).is_err());
}

#[test]
fn null_is_as_good_as_absent() {
    let document = json!([{"endpointSelector": {"matchLabels": null}, "ingress": [{"fromEndpoints": null, "toPorts": null, "icmps": null}],
        "egress": null, "labels": null, "description": null, "enableDefaultDeny": {"ingress": null}}]);
    assert_eq!(written_back(&document), json!([{"endpointSelector": {}, "ingress": [{}], "enableDefaultDeny": {}}]));
}

#[test]
fn a_selector_that_is_null_selects_everything() {
    let document = json!([{"endpointSelector": null, "ingress": [{"fromEndpoints": [null]}]}]);
    assert_eq!(written_back(&document), json!([{"endpointSelector": {}, "ingress": [{"fromEndpoints": [{}]}]}]));
}

/// Every field of the language, with every value in a form of its own.
fn whole_language() -> Value {
    serde_json::from_str(include_str!("tests/whole-language.json")).unwrap()
}

#[test]
fn every_field_is_given_back_as_it_was_imported() {
    let document = whole_language();
    assert_eq!(written_back(&document), document);
}

#[test]
fn absent_and_empty_lists_stay_apart() {
    let document = json!([{"endpointSelector": {}, "egress": [], "ingress": [{}, {"fromEndpoints": []}, {"fromEndpoints": [{}]}, {"toPorts": []},
        {"toPorts": [{}]}, {"toPorts": [{"ports": []}]}, {"icmps": []}, {"fromRequires": []}]}]);
    assert_eq!(written_back(&document), document);
}

/// Changes every string, number and list somewhere in the document, and asks for errors rather than panics.
#[test]
fn no_damage_to_a_document_makes_it_panic() {
    fn places(value: &Value, at: String, found: &mut Vec<String>) {
        found.push(at.clone());
        match value {
            Value::Array(list) => list.iter().enumerate().for_each(|(i, v)| places(v, format!("{at}/{i}"), found)),
            Value::Object(map) => {
                map.iter().for_each(|(k, v)| places(v, format!("{at}/{}", k.replace('/', "~1")), found))
            }
            _ => {}
        }
    }
    let document = whole_language();
    let mut found = Vec::new();
    places(&document, String::new(), &mut found);
    let mut refused = 0;
    for place in &found {
        for damage in
            [json!(null), json!(true), json!(-1), json!("\u{0}x"), json!([]), json!([[]]), json!({}), json!({"x": 1})]
        {
            let mut damaged = document.clone();
            if let Some(target) = damaged.pointer_mut(place) {
                *target = damage;
            }
            match rules_from_value(&damaged) {
                Ok(rules) => assert!(serde_json::to_value(rules).is_ok()),
                Err(errors) => {
                    assert!(!errors.0.is_empty());
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > found.len() * 4, "{refused} of {} documents refused", found.len() * 8);
}
