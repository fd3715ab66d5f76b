//! What applies to a subject before any rule is looked at: when policy is enforced, for whom, and whom a rule selects.
//! What follows from the rules is `engine`'s; the same question answered rule by rule is `trace`'s.

use crate::rule::Rule;
use model::{ClusterName, Identity, Label, Labels};
use std::fmt;
use std::str::FromStr;

/// When policy is enforced at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Enforcement {
    /// For each endpoint and direction as soon as a rule that selects the endpoint speaks of the direction.
    #[default]
    Default,
    /// For all endpoints; `enableDefaultDeny: false` has no effect.
    Always,
    /// Not at all, denies included.
    Never,
}

const ENFORCEMENTS: [(Enforcement, &str); 3] =
    [(Enforcement::Default, "default"), (Enforcement::Always, "always"), (Enforcement::Never, "never")];

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown enforcement mode {0:?}: use default, always or never")]
pub struct UnknownEnforcement(String);

impl FromStr for Enforcement {
    type Err = UnknownEnforcement;

    fn from_str(text: &str) -> Result<Enforcement, UnknownEnforcement> {
        let known = ENFORCEMENTS.iter().find(|(_, name)| *name == text).map(|(mode, _)| *mode);
        known.ok_or_else(|| UnknownEnforcement(text.to_owned()))
    }
}

impl fmt::Display for Enforcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ENFORCEMENTS.iter().find(|(mode, _)| mode == self).map_or("", |(_, name)| name))
    }
}

/// Whether the host may open connections to the endpoints of its own node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AllowLocalhost {
    /// Without a rule; an explicit deny still refuses it.
    Always,
    /// Only by a rule, like anybody.
    #[default]
    Policy,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    pub enforcement: Enforcement,
    pub allow_localhost: AllowLocalhost,
    /// The cluster that the policy is in force in, where there are several.
    pub cluster: Option<ClusterName>,
}

/// The labels of a reserved identity that nothing more is known of.
pub(crate) fn reserved_labels(identity: Identity) -> Labels {
    let mut labels = Labels::reserved(identity.reserved_name().unwrap_or("unknown"));
    if identity == Identity::KUBE_APISERVER {
        labels.0.insert(Label::reserved("remote-node"));
    }
    labels
}

/// Whether a rule applies to an endpoint with these labels and says anything.
pub(crate) fn selects(rule: &Rule, subject: &Labels) -> bool {
    !is_host(subject) && rule.endpoint_selector.as_ref().is_some_and(|selector| selector.matches(subject))
}

/// Rules for endpoints never apply to the host, and there are no others.
pub(crate) fn is_host(subject: &Labels) -> bool {
    subject.has_reserved("host")
}

/// An endpoint whose labels are not known yet is refused everything that no rule allows.
pub(crate) fn is_init(subject: &Labels) -> bool {
    subject.has_reserved("init")
}
