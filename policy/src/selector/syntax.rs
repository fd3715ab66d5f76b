//! The syntax of label keys and values in selectors: Kubernetes' rules, which Cilium keeps to for every source.

use super::Key;
use crate::decode::Decoder;
use crate::fault::Path;

/// Bytes in the name part of a key, and in a value (Kubernetes: `LabelValueMaxLength`).
const MAX_NAME: usize = 63;
/// Bytes in the part of a key before the `/` (RFC 1123 subdomain).
const MAX_PREFIX: usize = 253;

pub(crate) fn check_key(key: &Key, decoder: &mut Decoder, path: &Path<'_>) {
    let (prefix, name) = match key.name.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key.name.as_str()),
    };
    if prefix.is_some_and(|prefix| !is_subdomain(prefix)) {
        decoder.faults.add(path, format!("what stands before the / of key {:?} must be a DNS name", key.name));
    }
    if name.is_empty() || !is_name(name) {
        decoder.faults.add(path, format!("key {:?} must be {NAME_RULE}", key.name));
    }
}

pub(crate) fn check_value(value: &str, decoder: &mut Decoder, path: &Path<'_>) {
    if !value.is_empty() && !is_name(value) {
        decoder.faults.add(path, format!("value {value:?} must be empty or {NAME_RULE}"));
    }
}

const NAME_RULE: &str = "1 to 63 of A-Z a-z 0-9 . _ - with a letter or digit at both ends";

fn is_name(text: &str) -> bool {
    let ends = [text.as_bytes().first(), text.as_bytes().last()];
    text.len() <= MAX_NAME
        && ends.iter().all(|byte| byte.is_some_and(u8::is_ascii_alphanumeric))
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn is_subdomain(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    text.len() <= MAX_PREFIX && text.split('.').all(is_label)
}
