//! The name of a cluster as a mesh knows it: short, and fit for keys, files and labels alike.

use std::fmt;
use std::str::FromStr;

/// Longest name, in bytes: Cilium's.
const MAX: usize = 32;

/// The key of the label that tells the cluster of an endpoint, of source `k8s`.
pub const CLUSTER_LABEL: &str = "io.cilium.k8s.policy.cluster";

/// Lower-case letters, digits and hyphens, 32 at most, with a letter or digit at both ends. It has a fixed size, so that
/// it goes by value wherever settings go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName {
    /// The name, and zeros behind it.
    bytes: [u8; MAX],
    length: u8,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is no cluster name: up to 32 lower-case letters, digits and '-' are allowed, the first and the last no '-'"
)]
pub struct ClusterNameError(String);

impl ClusterName {
    /// The name of a cluster that was given none.
    pub const DEFAULT: &str = "default";

    pub fn new(name: &str) -> Result<ClusterName, ClusterNameError> {
        let refused = || ClusterNameError(name.chars().take(MAX * 2).collect());
        let fits = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !name.is_empty()
            && !name.starts_with('-')
            && !name.ends_with('-');
        let mut bytes = [0; MAX];
        let place = bytes.get_mut(..name.len()).filter(|_| fits).ok_or_else(refused)?;
        place.copy_from_slice(name.as_bytes());
        let length = u8::try_from(name.len()).map_err(|_| refused())?;
        Ok(ClusterName { bytes, length })
    }

    pub fn as_str(&self) -> &str {
        let name = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        // Only ASCII was taken in.
        std::str::from_utf8(name).unwrap_or_default()
    }
}

impl FromStr for ClusterName {
    type Err = ClusterNameError;

    fn from_str(name: &str) -> Result<ClusterName, ClusterNameError> {
        ClusterName::new(name)
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_ciliums() {
        for good in ["a", "0", "default", "east-1", "a--b", &"x".repeat(MAX)] {
            assert_eq!(ClusterName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-", "-a", "a-", "A", "a.b", "a_b", "a/b", "\u{e9}", &"x".repeat(MAX + 1)] {
            assert!(ClusterName::new(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_comes_back(text in ".{0,40}") {
            if let Ok(name) = ClusterName::new(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn names_are_in_the_order_of_their_texts(a in "[a-c]{1,4}", b in "[a-c]{1,4}") {
            let name = |text: &str| ClusterName::new(text).unwrap();
            prop_assert_eq!(name(&a).cmp(&name(&b)), a.cmp(&b));
        }
    }
}
