//! The L7 part of an entry: request rules, TLS contexts and listeners, in shape only. Nothing here is enforced yet
//! (`support` refuses it by name); it is read so that it can be refused, checked and given back.

use crate::decode::{Decoder, Name};
use crate::fault::Path;
use serde_json::Value;
use std::collections::BTreeMap;

/// `rules`: at most one kind.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct L7Rules {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Vec<HttpRule>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<Vec<KafkaRule>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Vec<DnsRule>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l7proto: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l7: Option<Vec<BTreeMap<String, String>>>,
}

const L7_RULES: &[Name] = &["http", "kafka", "dns", "l7proto", "l7"];

impl L7Rules {
    pub(super) fn decode(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<L7Rules> {
        let fields = decoder.object(value, path, L7_RULES)?;
        Some(L7Rules {
            http: fields.read_list(decoder, path, "http", HttpRule::decode),
            kafka: fields.read_list(decoder, path, "kafka", KafkaRule::decode),
            dns: fields.read_list(decoder, path, "dns", DnsRule::decode),
            l7proto: fields.read(decoder, path, "l7proto", Decoder::text),
            l7: fields.read_list(decoder, path, "l7", |decoder, value, path| {
                decoder.map(value, path).map(|members| members.into_iter().collect())
            }),
        })
    }

    /// The kinds that are written, empty lists included.
    pub(crate) fn kinds(&self) -> Vec<Name> {
        let l7proto = self.l7proto.as_ref().is_some_and(|name| !name.is_empty());
        [
            ("http", self.http.is_some()),
            ("kafka", self.kafka.is_some()),
            ("dns", self.dns.is_some()),
            ("l7proto", l7proto),
        ]
        .into_iter()
        .filter_map(|(name, there)| there.then_some(name))
        .collect()
    }

    /// The kind that restricts requests: an empty list restricts nothing.
    pub(crate) fn effective_kind(&self) -> Option<Name> {
        fn filled<T>(list: Option<&Vec<T>>) -> bool {
            list.is_some_and(|list| !list.is_empty())
        }
        if filled(self.http.as_ref()) {
            Some("http")
        } else if filled(self.kafka.as_ref()) {
            Some("kafka")
        } else if filled(self.dns.as_ref()) {
            Some("dns")
        } else if self.l7proto.as_ref().is_some_and(|name| !name.is_empty()) {
            Some("l7proto")
        } else if filled(self.l7.as_ref()) {
            Some("l7")
        } else {
            None
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRule {
    /// Regular expression over the whole path, query string included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Regular expression over the whole method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Regular expression over the whole host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `Name: value`, or `Name` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_matches: Option<Vec<HeaderMatch>>,
}

impl HttpRule {
    fn decode(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<HttpRule> {
        let fields = decoder.object(value, path, &["path", "method", "host", "headers", "headerMatches"])?;
        Some(HttpRule {
            path: fields.read(decoder, path, "path", Decoder::text),
            method: fields.read(decoder, path, "method", Decoder::text),
            host: fields.read(decoder, path, "host", Decoder::text),
            headers: fields.read(decoder, path, "headers", Decoder::texts),
            header_matches: fields.read_list(decoder, path, "headerMatches", HeaderMatch::decode),
        })
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct HeaderMatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mismatch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

impl HeaderMatch {
    fn decode(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<HeaderMatch> {
        let fields = decoder.object(value, path, &["mismatch", "name", "secret", "value"])?;
        Some(HeaderMatch {
            mismatch: fields.read(decoder, path, "mismatch", Decoder::text),
            name: fields.read(decoder, path, "name", Decoder::text),
            secret: fields.read(decoder, path, "secret", SecretName::decode),
            value: fields.read(decoder, path, "value", Decoder::text),
        })
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct SecretName {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl SecretName {
    fn decode(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<SecretName> {
        let fields = decoder.object(value, path, &["namespace", "name"])?;
        Some(SecretName {
            namespace: fields.read(decoder, path, "namespace", Decoder::text),
            name: fields.read(decoder, path, "name", Decoder::text),
        })
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KafkaRule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    #[serde(rename = "clientID", skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}

impl KafkaRule {
    fn decode(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<KafkaRule> {
        let fields = decoder.object(value, path, &["role", "apiKey", "apiVersion", "clientID", "topic"])?;
        Some(KafkaRule {
            role: fields.read(decoder, path, "role", Decoder::text),
            api_key: fields.read(decoder, path, "apiKey", Decoder::text),
            api_version: fields.read(decoder, path, "apiVersion", Decoder::text),
            client_id: fields.read(decoder, path, "clientID", Decoder::text),
            topic: fields.read(decoder, path, "topic", Decoder::text),
        })
    }
}

/// An element of `toFQDNs` or of `rules.dns`.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsRule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_pattern: Option<String>,
}

impl DnsRule {
    pub(super) fn decode(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<DnsRule> {
        let fields = decoder.object(value, path, &["matchName", "matchPattern"])?;
        Some(DnsRule {
            match_name: fields.read(decoder, path, "matchName", Decoder::text),
            match_pattern: fields.read(decoder, path, "matchPattern", Decoder::text),
        })
    }
}

/// `terminatingTLS` and `originatingTLS`.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsContext {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretName>,
    #[serde(rename = "trustedCA", skip_serializing_if = "Option::is_none")]
    pub trusted_ca: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
}

impl TlsContext {
    pub(super) fn decode(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<TlsContext> {
        let fields = decoder.object(value, path, &["secret", "trustedCA", "certificate", "privateKey"])?;
        Some(TlsContext {
            secret: fields.read(decoder, path, "secret", SecretName::decode),
            trusted_ca: fields.read(decoder, path, "trustedCA", Decoder::text),
            certificate: fields.read(decoder, path, "certificate", Decoder::text),
            private_key: fields.read(decoder, path, "privateKey", Decoder::text),
        })
    }
}

/// A proxy listener that traffic is sent to.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envoy_config: Option<ListenerConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// 1 (first) to 100; 0 is as good as absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct ListenerConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Listener {
    /// The last of the priorities that a listener can ask for.
    const MAX_PRIORITY: u64 = 100;

    pub(super) fn decode(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<Listener> {
        let fields = decoder.object(value, path, &["envoyConfig", "name", "priority"])?;
        Some(Listener {
            envoy_config: fields.read(decoder, path, "envoyConfig", |decoder, value, path| {
                let fields = decoder.object(value, path, &["kind", "name"])?;
                Some(ListenerConfig {
                    kind: fields.read(decoder, path, "kind", Decoder::text),
                    name: fields.read(decoder, path, "name", Decoder::text),
                })
            }),
            name: fields.read(decoder, path, "name", Decoder::text),
            priority: fields.read(decoder, path, "priority", |decoder, value, path| {
                decoder.number(value, path, Listener::MAX_PRIORITY)
            }),
        })
    }
}
