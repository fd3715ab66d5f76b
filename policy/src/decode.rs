//! Reading JSON values into Rust ones while collecting every fault: the steps that all parts of a rule are read with.
//! Which fields a part has is said where the part is defined.

use crate::fault::{Faults, Path};
use crate::limits::Limits;
use serde_json::Value;

/// A field name that is known in some object.
pub(crate) type Name = &'static str;

/// The faults found so far, and the ways of reading a value. Each reader returns `None` after noting a fault.
#[derive(Default)]
pub(crate) struct Decoder {
    pub(crate) faults: Faults,
    pub(crate) limits: Limits,
    /// Members that nothing is known of are passed over, and noted in `ignored`.
    pub(crate) ignore_unknown_fields: bool,
    pub(crate) ignored: Faults,
}

impl Decoder {
    pub(crate) fn text(&mut self, value: &Value, path: &Path<'_>) -> Option<String> {
        let text = value.as_str().map(str::to_owned);
        self.typed(text, "a string", value, path)
    }

    pub(crate) fn boolean(&mut self, value: &Value, path: &Path<'_>) -> Option<bool> {
        self.typed(value.as_bool(), "true or false", value, path)
    }

    /// A whole number in `0..=max`.
    pub(crate) fn number(&mut self, value: &Value, path: &Path<'_>, max: u64) -> Option<u64> {
        let Value::Number(number) = value else {
            return self.typed(None, "a number", value, path);
        };
        let fitting = number.as_u64().filter(|n| *n <= max);
        if fitting.is_none() {
            self.faults.add(path, format!("{number} is not a whole number from 0 to {max}"));
        }
        fitting
    }

    pub(crate) fn list<T>(
        &mut self,
        value: &Value,
        path: &Path<'_>,
        mut element: impl FnMut(&mut Decoder, &Value, &Path<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let values = value.as_array();
        let values = self.typed(values, "a list", value, path)?;
        Some(values.iter().enumerate().filter_map(|(i, value)| element(self, value, &path.index(i))).collect())
    }

    pub(crate) fn texts(&mut self, value: &Value, path: &Path<'_>) -> Option<Vec<String>> {
        self.list(value, path, Decoder::text)
    }

    /// The members of an object with free names, in order.
    pub(crate) fn members<'v>(&mut self, value: &'v Value, path: &Path<'_>) -> Option<Vec<(&'v String, &'v Value)>> {
        let members = value.as_object();
        self.typed(members, "an object", value, path).map(|members| members.iter().collect())
    }

    /// Members with free names and string values; the names keep their case.
    pub(crate) fn map(&mut self, value: &Value, path: &Path<'_>) -> Option<Vec<(String, String)>> {
        let members = value.as_object();
        let members = self.typed(members, "an object", value, path)?;
        let read = members.iter().filter_map(|(key, value)| {
            let text = self.text(value, &path.field(key))?;
            Some((key.clone(), text))
        });
        Some(read.collect())
    }

    /// An object whose members are all named in `known`, in whatever case; of two spellings the later one counts.
    pub(crate) fn object<'v>(
        &mut self,
        value: &'v Value,
        path: &Path<'_>,
        known: &'static [Name],
    ) -> Option<Fields<'v>> {
        let members = value.as_object();
        let members = self.typed(members, "an object", value, path)?;
        let mut values = Vec::with_capacity(members.len());
        for (written, value) in members {
            match known.iter().find(|name| name.eq_ignore_ascii_case(written)) {
                Some(name) => {
                    values.retain(|(n, _)| n != name);
                    values.push((*name, value));
                }
                None if self.ignore_unknown_fields => {
                    self.ignored.add(&path.field(written), "unknown field, ignored");
                }
                None => {
                    self.faults.add(&path.field(written), format!("unknown field; known here: {}", known.join(", ")));
                }
            }
        }
        Some(Fields { values })
    }

    fn typed<T>(&mut self, found: Option<T>, wanted: &str, value: &Value, path: &Path<'_>) -> Option<T> {
        if found.is_none() {
            let kind = match value {
                Value::Null => "null",
                Value::Bool(_) => "a boolean",
                Value::Number(_) => "a number",
                Value::String(_) => "a string",
                Value::Array(_) => "a list",
                Value::Object(_) => "an object",
            };
            self.faults.add(path, format!("must be {wanted}, not {kind}"));
        }
        found
    }
}

/// The members of one object, by their proper names.
pub(crate) struct Fields<'v> {
    values: Vec<(Name, &'v Value)>,
}

impl<'v> Fields<'v> {
    /// The member as written, `null` included.
    pub(crate) fn raw(&self, name: Name) -> Option<&'v Value> {
        self.values.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
    }

    /// Reads a member; `null` is as good as absent.
    pub(crate) fn read<T>(
        &self,
        decoder: &mut Decoder,
        path: &Path<'_>,
        name: Name,
        read: impl FnOnce(&mut Decoder, &Value, &Path<'_>) -> Option<T>,
    ) -> Option<T> {
        let value = self.raw(name).filter(|value| !value.is_null())?;
        read(decoder, value, &path.field(name))
    }

    /// Reads a member that is a list.
    pub(crate) fn read_list<T>(
        &self,
        decoder: &mut Decoder,
        path: &Path<'_>,
        name: Name,
        element: impl FnMut(&mut Decoder, &Value, &Path<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.read(decoder, path, name, |decoder, value, path| decoder.list(value, path, element))
    }
}

/// A value together with the text it was written as, so that it can be given back unchanged.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Written<T> {
    pub text: String,
    pub value: T,
}

impl<T> serde::Serialize for Written<T> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn faults_of<T>(read: impl FnOnce(&mut Decoder) -> Option<T>) -> Vec<String> {
        let mut decoder = Decoder::default();
        read(&mut decoder);
        decoder.faults.into_list().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_are_known_in_any_case_and_the_later_one_counts() {
        let value = json!({"HTTP": 1, "http": 2});
        let mut decoder = Decoder::default();
        let fields = decoder.object(&value, &Path::ROOT, &["http"]).unwrap();
        assert_eq!(fields.raw("http"), Some(&json!(2)));
    }

    #[test]
    fn unknown_members_are_named() {
        let value = json!({"fromEndpoint": []});
        let faults = faults_of(|d| d.object(&value, &Path::ROOT.index(0), &["fromEndpoints"]));
        assert_eq!(faults, ["[0].fromEndpoint: unknown field; known here: fromEndpoints"]);
    }

    #[test]
    fn every_element_of_a_list_is_looked_at() {
        let faults = faults_of(|d| d.texts(&json!(["a", 1, null]), &Path::ROOT.field("x")));
        assert_eq!(faults, ["x[1]: must be a string, not a number", "x[2]: must be a string, not null"]);
    }

    #[test]
    fn numbers_are_bounded() {
        for value in [json!(-1), json!(1.5), json!(65536)] {
            assert_eq!(faults_of(|d| d.number(&value, &Path::ROOT, 65535)).len(), 1, "{value}");
        }
        assert!(faults_of(|d| d.number(&json!(65535), &Path::ROOT, 65535)).is_empty());
    }
}
