//! From text to values: JSON, or YAML of several documents, within the bounds on bytes, nesting, values and documents.
//! What the values mean is the parent's business.
//!
//! YAML becomes what JSON could have said: keys are texts, a plain `yes` or `80` is a boolean or a number and no text,
//! as it is for Kubernetes. Aliases and merges are expanded within the same bounds, so that a small text cannot stand
//! for a huge one.

use crate::limits::{Limits, exceeded};
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::budget::BudgetBreach;
use std::cell::Cell;
use std::fmt;

/// The documents of a text, in order; those that are empty are left out. The error is the whole text's.
///
/// A text that begins as JSON does is JSON and nothing else, unless `---` parts it into documents: one list, or objects
/// one after the other.
pub(crate) fn read(text: &str, limits: &Limits) -> Result<Vec<Value>, String> {
    check_bytes(text, limits)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let parted = text.lines().any(|line| line.starts_with("---"));
    if text.trim_start().starts_with(['[', '{']) && !parted { json(text, limits) } else { yaml(text, limits) }
}

/// The one value of a JSON text.
pub(crate) fn rule_list(text: &str, limits: &Limits) -> Result<Value, String> {
    check_bytes(text, limits)?;
    let mut documents = json(text, limits)?;
    match (documents.pop(), documents.is_empty()) {
        (Some(value), true) => Ok(value),
        _ => Err("not JSON: one list was expected".to_owned()),
    }
}

fn check_bytes(text: &str, limits: &Limits) -> Result<(), String> {
    if text.len() > limits.document_bytes { Err(exceeded("bytes in one text", limits.document_bytes)) } else { Ok(()) }
}

fn json(text: &str, limits: &Limits) -> Result<Vec<Value>, String> {
    let meter = Meter { values: Cell::new(0), passed: Cell::new(None), limits };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let mut documents = Vec::new();
    loop {
        let value = Node { meter: Some(&meter), depth: 0 }.deserialize(&mut deserializer);
        documents.push(value.map_err(|error| match meter.passed.take() {
            Some((what, limit)) => exceeded(what, limit),
            None => format!("not JSON: {error}"),
        })?);
        let ended = deserializer.end();
        let objects = documents.last().is_some_and(Value::is_object);
        match ended {
            Ok(()) if objects || documents.len() == 1 => return Ok(documents),
            Ok(()) => return Err("not JSON: only objects may follow each other".to_owned()),
            Err(error) if !objects => return Err(format!("not JSON: {error}")),
            Err(_) if documents.len() == limits.documents => {
                return Err(exceeded("documents in one text", limits.documents));
            }
            Err(_) => {}
        }
    }
}

fn yaml(text: &str, limits: &Limits) -> Result<Vec<Value>, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: limits.nesting,
            flow_nesting_limit: limits.nesting,
            max_documents: limits.documents,
            max_nodes: limits.values,
            // Every value has at most a beginning and an end, every document two more.
            max_events: limits.values.saturating_mul(2).saturating_add(limits.documents.saturating_mul(2)),
            max_total_scalar_bytes: limits.document_bytes.saturating_mul(2),
            max_recorded_anchor_events: MAX_ALIASED,
            max_recorded_anchor_bytes: limits.document_bytes.saturating_mul(2),
            max_anchors: MAX_ANCHORS,
            max_aliases: MAX_ALIASES,
            max_merge_keys: MAX_ALIASES,
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_ALIASED,
            max_replay_stack_depth: limits.nesting,
        },
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    let found = serde_saphyr::from_multiple_with_options::<Document>(text, options);
    found.map(|documents| documents.into_iter().map(|document| document.0).collect()).map_err(|e| describe(&e, limits))
}

const MAX_ANCHORS: usize = 10_000;
const MAX_ALIASES: usize = 50_000;
/// Beginnings and ends of values that anchors name or aliases stand for.
const MAX_ALIASED: usize = 100_000;

fn describe(error: &serde_saphyr::Error, limits: &Limits) -> String {
    use serde_saphyr::Error;
    let (what, limit) = match error.without_snippet() {
        Error::AliasError { error, .. } => return describe(error, limits),
        Error::Budget { breach, .. } => match breach {
            BudgetBreach::Depth { .. } => ("levels of nesting", limits.nesting),
            BudgetBreach::Documents { .. } => ("documents in one text", limits.documents),
            BudgetBreach::Anchors { .. } => ("anchors in one text", MAX_ANCHORS),
            BudgetBreach::Aliases { .. } | BudgetBreach::MergeKeys { .. } => ("aliases in one text", MAX_ALIASES),
            BudgetBreach::RecordedAnchorEvents { .. } => ("values that anchors name in one text", MAX_ALIASED),
            BudgetBreach::ScalarBytes { .. } | BudgetBreach::RecordedAnchorBytes { .. } => {
                ("bytes in one text", limits.document_bytes)
            }
            _ => ("values in one text", limits.values),
        },
        Error::AliasReplayLimitExceeded { .. } | Error::AliasReplayCounterOverflow { .. } => {
            ("values that aliases stand for in one text", MAX_ALIASED)
        }
        Error::AliasReplayStackDepthExceeded { .. } => ("aliases within each other", limits.nesting),
        error => return format!("not YAML: {error}"),
    };
    exceeded(what, limit)
}

/// Counts the values of one JSON text.
struct Meter<'l> {
    values: Cell<usize>,
    /// The bound that was passed.
    passed: Cell<Option<(&'static str, usize)>>,
    limits: &'l Limits,
}

impl Meter<'_> {
    fn count<E: de::Error>(&self) -> Result<(), E> {
        let values = self.values.get() + 1;
        self.values.set(values);
        if values > self.limits.values { self.pass("values in one text", self.limits.values) } else { Ok(()) }
    }

    /// A list or object with `depth` others around it.
    fn enter<E: de::Error>(&self, depth: usize) -> Result<(), E> {
        if depth >= self.limits.nesting { self.pass("levels of nesting", self.limits.nesting) } else { Ok(()) }
    }

    fn pass<E: de::Error>(&self, what: &'static str, limit: usize) -> Result<(), E> {
        self.passed.set(Some((what, limit)));
        Err(E::custom("a limit was passed"))
    }
}

/// A YAML document; its reader keeps to the bounds by itself.
struct Document(Value);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Document, D::Error> {
        Node { meter: None, depth: 0 }.deserialize(deserializer).map(Document)
    }
}

/// Where a value is read.
#[derive(Clone, Copy)]
struct Node<'m> {
    meter: Option<&'m Meter<'m>>,
    /// Lists and objects around it.
    depth: usize,
}

impl Node<'_> {
    /// The place inside of this value, which is a list or an object.
    fn inside<E: de::Error>(self) -> Result<Self, E> {
        self.meter.map_or(Ok(()), |meter| meter.enter(self.depth))?;
        Ok(Node { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.meter.map_or(Ok(()), Meter::count)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        Number::from_i128(value).map(Value::Number).ok_or_else(|| E::custom(format!("the number {value} is too big")))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        Number::from_u128(value).map(Value::Number).ok_or_else(|| E::custom(format!("the number {value} is too big")))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut list = Vec::new();
        while let Some(value) = elements.next_element_seed(inside)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(inside)?;
            // Of two equal names the later one counts.
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(text: &str) -> Result<Vec<Value>, String> {
        read(text, &Limits::default())
    }

    fn within(text: &str, limits: Limits) -> String {
        read(text, &limits).expect_err("a bound should have been passed")
    }

    #[test]
    fn json_and_yaml_say_the_same() {
        assert_eq!(of("[{\"a\": [1, 2.5, null, true, \"x\"]}]"), Ok(vec![json!([{"a": [1, 2.5, null, true, "x"]}])]));
        assert_eq!(of("- a: [1, 2.5, null, true, x]"), Ok(vec![json!([{"a": [1, 2.5, null, true, "x"]}])]));
        assert_eq!(of("\u{feff}# rules\n- a: ~\n"), Ok(vec![json!([{"a": null}])]));
        assert_eq!(of(""), Ok(Vec::new()));
    }

    #[test]
    fn documents_are_parted_by_dashes() {
        assert_eq!(of("---\na: 1\n---\n---\nb: 2\n...\n"), Ok(vec![json!({"a": 1}), json!({"b": 2})]));
        for text in ["{\"a\": 1}\n---\n{\"b\": 2}\n", "{\"a\": 1}\n{\"b\": 2}\n"] {
            assert_eq!(of(text), Ok(vec![json!({"a": 1}), json!({"b": 2})]));
        }
    }

    #[test]
    fn plain_scalars_are_what_kubernetes_takes_them_for() {
        let of_value = |text: &str| of(&format!("v: {text}")).map(|mut found| found.remove(0)["v"].take());
        for text in ["yes", "On", "true"] {
            assert_eq!(of_value(text), Ok(json!(true)), "{text}");
        }
        assert_eq!(of_value("80"), Ok(json!(80)));
        for text in ["\"yes\"", "'80'", "2018-01-01T00:00:00Z", "10.0.0.0/8", "1.19.4"] {
            assert!(of_value(text).is_ok_and(|value| value.is_string()), "{text}");
        }
        assert!(of_value(".nan").is_err() && of_value("1e999").is_err());
    }

    #[test]
    fn what_is_neither_is_refused_with_its_place() {
        for text in ["[", "[] []", "{\"a\": }", "[{}],", "{} [] {}", "{} []", "{} x"] {
            assert!(of(text).is_err_and(|error| error.starts_with("not JSON: ")), "{text}");
        }
        for text in ["a: [", "a: 1\na: 2", "a: *b", "a: !<tag:x> 1", "a: \"\\x\"", "a: b: c"] {
            assert!(of(text).is_err_and(|error| error.starts_with("not YAML: ")), "{text}: {:?}", of(text));
        }
    }

    #[test]
    fn of_two_equal_json_names_the_later_one_counts() {
        assert_eq!(
            of("{\"a\": 1, \"b\": 2, \"a\": 3}").map(|found| found[0].to_string()),
            Ok("{\"a\":3,\"b\":2}".into())
        );
    }

    #[test]
    fn every_bound_is_named() {
        let limits = Limits::default();
        let small = |bytes, nesting, values, documents| Limits {
            document_bytes: bytes,
            nesting,
            values,
            documents,
            ..Limits::default()
        };
        assert_eq!(within("[1, 2, 3]", small(4, 9, 9, 9)), "too many bytes in one text: the limit is 4");
        for deep in ["[[]]", "- - x", "{\"a\": {\"b\": 1}}", "a:\n b: 1\n", "a: []"] {
            assert!(read(deep, &small(99, 2, 9, 9)).is_ok(), "{deep}");
        }
        for deep in ["[[[]]]", "- - - x", "{\"a\": {\"b\": {}}}", "a:\n b:\n  c: 1\n", "a: [{}]"] {
            assert_eq!(within(deep, small(99, 2, 9, 9)), "too many levels of nesting: the limit is 2", "{deep}");
        }
        for wide in ["[1, 2, 3, 4]", "- 1\n- 2\n- 3\n- 4\n"] {
            assert_eq!(within(wide, small(99, 9, 4, 9)), "too many values in one text: the limit is 4", "{wide}");
        }
        for many in ["a\n---\nb\n---\nc", "{} {} {}"] {
            assert_eq!(within(many, small(99, 9, 9, 2)), "too many documents in one text: the limit is 2");
        }
        for (open, close) in [("[", "]"), ("{\"a\":", "1}"), ("- ", "x")] {
            let deep = open.repeat(100_000) + &close.repeat(if open == "- " { 1 } else { 100_000 });
            assert!(within(&deep, limits).starts_with("too many levels of nesting: "), "{open}");
        }
    }

    #[test]
    fn aliases_count_as_what_they_stand_for() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..10 {
            let inner = vec![format!("*a{}", i - 1); 10].join(", ");
            bomb.push_str(&format!("a{i}: &a{i} [{inner}]\n"));
        }
        let error = within(&bomb, Limits::default());
        assert_eq!(error, "too many values that anchors name in one text: the limit is 100000");
        let many = format!("a: &a [{}]\nb:\n{}", "x, ".repeat(1000), "- *a\n".repeat(1000));
        let error = within(&many, Limits::default());
        assert_eq!(error, "too many values that aliases stand for in one text: the limit is 100000");
        let fine = "a: &a {x: 1}\nb: *a\nc:\n  <<: *a\n  y: 2\n";
        assert_eq!(of(fine), Ok(vec![json!({"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}})]));
    }
}
