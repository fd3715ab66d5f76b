//! Peers that are described by something outside of labels, prefixes and entities: prefix sets, services, groups of a
//! cloud provider; and the authentication that an entry asks for.

use crate::cidr::{self, Length};
use crate::decode::{Decoder, Name, Written};
use crate::fault::Path;
use crate::selector::Selector;
use ipnetwork::IpNetwork;
use serde_json::Value;
use std::collections::BTreeMap;

/// An element of `fromCIDRSet` or `toCIDRSet`; exactly one of the three ways to name prefixes is there.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CidrRule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidr: Option<Written<IpNetwork>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidr_group_ref: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidr_group_selector: Option<Selector>,
    /// Prefixes that are not meant; a part of this element, not a deny.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub except: Option<Vec<Written<IpNetwork>>>,
}

const CIDR_RULE: &[Name] = &["cidr", "cidrGroupRef", "cidrGroupSelector", "except"];

impl CidrRule {
    pub(super) fn decode(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<CidrRule> {
        let fields = decoder.object(value, path, CIDR_RULE)?;
        let with_length = |d: &mut Decoder, v: &Value, p: &Path<'_>| decode_cidr(d, v, p, Length::Required);
        Some(CidrRule {
            cidr: fields.read(decoder, path, "cidr", with_length),
            cidr_group_ref: fields.read(decoder, path, "cidrGroupRef", Decoder::text),
            cidr_group_selector: fields.read(decoder, path, "cidrGroupSelector", Selector::decode),
            except: fields.read_list(decoder, path, "except", with_length),
        })
    }
}

pub(super) fn decode_cidr(
    decoder: &mut Decoder,
    value: &Value,
    path: &Path<'_>,
    length: Length,
) -> Option<Written<IpNetwork>> {
    let text = decoder.text(value, path)?;
    match cidr::parse(&text, length) {
        Ok(value) => Some(Written { text, value }),
        Err(message) => {
            decoder.faults.add(path, message);
            None
        }
    }
}

/// An element of `toServices`.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k8s_service: Option<K8sService>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k8s_service_selector: Option<K8sServiceSelector>,
}

#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct K8sService {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct K8sServiceSelector {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl ServiceRule {
    pub(super) fn decode(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<ServiceRule> {
        let fields = decoder.object(value, path, &["k8sService", "k8sServiceSelector"])?;
        Some(ServiceRule {
            k8s_service: fields.read(decoder, path, "k8sService", |decoder, value, path| {
                let fields = decoder.object(value, path, &["serviceName", "namespace"])?;
                Some(K8sService {
                    service_name: fields.read(decoder, path, "serviceName", Decoder::text),
                    namespace: fields.read(decoder, path, "namespace", Decoder::text),
                })
            }),
            k8s_service_selector: fields.read(decoder, path, "k8sServiceSelector", |decoder, value, path| {
                let fields = decoder.object(value, path, &["selector", "namespace"])?;
                Some(K8sServiceSelector {
                    selector: fields.read(decoder, path, "selector", Selector::decode),
                    namespace: fields.read(decoder, path, "namespace", Decoder::text),
                })
            }),
        })
    }
}

/// An element of `toGroups` or `fromGroups`.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Group {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws: Option<AwsGroup>,
}

#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AwsGroup {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_groups_ids: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_groups_names: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

const AWS_GROUP: &[Name] = &["labels", "securityGroupsIds", "securityGroupsNames", "region"];

impl Group {
    pub(super) fn decode(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<Group> {
        let fields = decoder.object(value, path, &["aws"])?;
        let aws = fields.read(decoder, path, "aws", |decoder, value, path| {
            let fields = decoder.object(value, path, AWS_GROUP)?;
            let labels = fields.read(decoder, path, "labels", Decoder::map);
            Some(AwsGroup {
                labels: labels.map(|labels| labels.into_iter().collect()),
                security_groups_ids: fields.read(decoder, path, "securityGroupsIds", Decoder::texts),
                security_groups_names: fields.read(decoder, path, "securityGroupsNames", Decoder::texts),
                region: fields.read(decoder, path, "region", Decoder::text),
            })
        });
        Some(Group { aws })
    }
}

/// How peers must have proved who they are.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Authentication {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

impl Authentication {
    pub(super) fn decode(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<Authentication> {
        let fields = decoder.object(value, path, &["mode"])?;
        Some(Authentication { mode: fields.read(decoder, path, "mode", Decoder::text) })
    }
}
