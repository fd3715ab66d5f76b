//! Kafka rules: kinds of requests by name and number, roles, and which requests a list of rules lets pass.

use crate::rule::KafkaRule;

/// Names of requests, in the order of their numbers (Kafka protocol guide, "Api Keys", 0 to 33).
pub(crate) const API_KEYS: [&str; 34] = [
    "produce",
    "fetch",
    "offsets",
    "metadata",
    "leaderandisr",
    "stopreplica",
    "updatemetadata",
    "controlledshutdown",
    "offsetcommit",
    "offsetfetch",
    "findcoordinator",
    "joingroup",
    "heartbeat",
    "leavegroup",
    "syncgroup",
    "describegroups",
    "listgroups",
    "saslhandshake",
    "apiversions",
    "createtopics",
    "deletetopics",
    "deleterecords",
    "initproducerid",
    "offsetforleaderepoch",
    "addpartitionstotxn",
    "addoffsetstotxn",
    "endtxn",
    "writetxnmarkers",
    "txnoffsetcommit",
    "describeacls",
    "createacls",
    "deleteacls",
    "describeconfigs",
    "alterconfigs",
];

/// What whoever writes into topics needs: produce, metadata, apiversions.
const PRODUCE: [i16; 3] = [0, 3, 18];
/// What whoever reads from topics needs: fetch, offsets, metadata, the offsets of groups and their membership,
/// apiversions.
const CONSUME: [i16; 11] = [1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 18];
/// Kinds of requests that name topics; the last three are above the ones that rules can name (34 alterreplicalogdirs, 35
/// describelogdirs, 37 createpartitions).
const OF_TOPICS: [i16; 19] = [0, 1, 2, 3, 4, 5, 6, 8, 9, 19, 20, 21, 23, 24, 27, 28, 34, 35, 37];

/// The number of a kind of requests by its name, in any case.
pub fn api_key(name: &str) -> Option<i16> {
    API_KEYS.iter().position(|known| known.eq_ignore_ascii_case(name)).and_then(|place| i16::try_from(place).ok())
}

/// A request as rules look at it.
#[derive(Clone, Copy, Debug)]
pub struct KafkaRequest<'a> {
    pub api_key: i16,
    pub api_version: i16,
    pub client_id: &'a str,
    /// The topics that it names; kinds without topics name none.
    pub topics: &'a [String],
}

/// One Kafka rule, ready to be matched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KafkaMatcher {
    keys: Keys,
    version: Option<i16>,
    client_id: Option<String>,
    topic: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Keys {
    Any,
    Of(&'static [i16]),
    One(i16),
    /// A name that nothing has.
    None,
}

impl KafkaMatcher {
    pub fn new(rule: &KafkaRule) -> KafkaMatcher {
        // A field that is there and empty is as good as absent.
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let keys = match (filled(&rule.role), filled(&rule.api_key)) {
            (Some(role), _) if role.eq_ignore_ascii_case("produce") => Keys::Of(&PRODUCE),
            (Some(role), _) if role.eq_ignore_ascii_case("consume") => Keys::Of(&CONSUME),
            (Some(_), _) => Keys::None,
            (None, Some(name)) => api_key(&name).map_or(Keys::None, Keys::One),
            (None, None) => Keys::Any,
        };
        KafkaMatcher {
            keys,
            version: filled(&rule.api_version).map(|version| version.parse().unwrap_or(-1)),
            client_id: filled(&rule.client_id),
            topic: filled(&rule.topic),
        }
    }

    /// Kind, version and client; what of the topics is `evaluate`'s.
    fn fits(&self, request: &KafkaRequest<'_>) -> bool {
        let key = match self.keys {
            Keys::Any => true,
            Keys::Of(keys) => keys.contains(&request.api_key),
            Keys::One(key) => key == request.api_key,
            Keys::None => false,
        };
        key && self.version.is_none_or(|version| version == request.api_version)
            && self.client_id.as_ref().is_none_or(|client| client == request.client_id)
    }
}

/// Whether a list of rules lets a request pass: a rule without a topic does by itself, rules with topics when together
/// they account for every topic of the request.
pub fn evaluate<'m>(rules: impl IntoIterator<Item = &'m KafkaMatcher> + Clone, request: &KafkaRequest<'_>) -> bool {
    let names_topics = OF_TOPICS.contains(&request.api_key);
    let fitting = || rules.clone().into_iter().filter(|rule| rule.fits(request));
    let whole = fitting().any(|rule| rule.topic.is_none() || !names_topics);
    let accounted = |topic: &String| fitting().any(|rule| rule.topic.as_ref() == Some(topic));
    whole || names_topics && !request.topics.is_empty() && request.topics.iter().all(accounted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rules(rules: Value) -> Vec<KafkaMatcher> {
        let field = |rule: &Value, name: &str| rule[name].as_str().map(str::to_owned);
        let rule = |rule: &Value| {
            KafkaMatcher::new(&KafkaRule {
                role: field(rule, "role"),
                api_key: field(rule, "apiKey"),
                api_version: field(rule, "apiVersion"),
                client_id: field(rule, "clientID"),
                topic: field(rule, "topic"),
            })
        };
        rules.as_array().unwrap().iter().map(rule).collect()
    }

    fn passes(list: Value, kind: &str, topics: &[&str]) -> bool {
        let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        let request = KafkaRequest { api_key: api_key(kind).unwrap(), api_version: 2, client_id: "c", topics: &topics };
        evaluate(&rules(list), &request)
    }

    #[test]
    fn kinds_have_numbers() {
        assert_eq!(
            (api_key("produce"), api_key("ApiVersions"), api_key("alterconfigs")),
            (Some(0), Some(18), Some(33))
        );
        assert_eq!(api_key("nonsense"), None);
    }

    #[test]
    fn a_rule_without_a_topic_lets_all_topics_pass() {
        assert!(passes(json!([{"apiKey": "PRODUCE"}]), "produce", &["a", "b"]));
        assert!(!passes(json!([{"apiKey": "produce"}]), "fetch", &["a"]));
        assert!(passes(json!([{}]), "deleteacls", &[]));
        assert!(!passes(json!([]), "produce", &["a"]));
    }

    #[test]
    fn every_topic_must_be_accounted_for_perhaps_by_several_rules() {
        let one = json!([{"topic": "a"}]);
        assert!(passes(one.clone(), "fetch", &["a"]));
        assert!(!passes(one.clone(), "fetch", &["a", "b"]) && !passes(one, "fetch", &["b"]));
        assert!(passes(json!([{"topic": "a"}, {"topic": "b", "apiKey": "fetch"}]), "fetch", &["a", "b"]));
        assert!(!passes(json!([{"topic": "a"}, {"topic": "b", "apiKey": "fetch"}]), "produce", &["a", "b"]));
    }

    #[test]
    fn kinds_without_topics_do_not_care_for_topics() {
        assert!(passes(json!([{"topic": "a"}]), "heartbeat", &[]));
        assert!(!passes(json!([{"topic": "a"}]), "metadata", &[]), "it could name topics, and names none");
        assert!(passes(json!([{"role": "consume"}]), "metadata", &[]));
    }

    #[test]
    fn roles_are_sets_of_kinds() {
        for (role, kinds, others) in [
            ("produce", &["produce", "metadata", "apiversions"][..], &["fetch", "joingroup"][..]),
            (
                "Consume",
                &["fetch", "offsets", "metadata", "heartbeat", "syncgroup", "apiversions"],
                &["produce", "createtopics"],
            ),
        ] {
            for kind in kinds {
                assert!(passes(json!([{"role": role, "topic": "a"}]), kind, &["a"]), "{role} {kind}");
            }
            for kind in others {
                assert!(!passes(json!([{"role": role, "topic": "a"}]), kind, &["a"]), "{role} {kind}");
            }
        }
    }

    #[test]
    fn version_and_client_must_match_where_they_are_given() {
        assert!(passes(json!([{"apiVersion": "2", "clientID": "c"}]), "fetch", &["a"]));
        assert!(!passes(json!([{"apiVersion": "1"}]), "fetch", &["a"]));
        assert!(
            !passes(json!([{"clientID": "d"}]), "fetch", &["a"])
                && !passes(json!([{"clientID": "d"}]), "heartbeat", &[])
        );
        assert!(passes(json!([{"apiVersion": "", "clientID": "", "topic": ""}]), "fetch", &["a"]));
    }
}
