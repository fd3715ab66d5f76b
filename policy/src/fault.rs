//! What is wrong with a document and where: faults with their JSON paths, and the set of them that a document is
//! refused with. What counts as a fault is decided where the document is decoded, validated or checked for support.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Bound;

/// Faults told of one text; of the others only the number is told.
const MAX_FAULTS: usize = 1000;
/// Characters of a path and of a message; what is longer is cut.
const MAX_TEXT: usize = 1000;

/// One thing that is wrong, and where.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
pub struct Fault {
    /// JSON path such as `[0].ingress[1].toPorts[0].ports[0].port`; empty when the document as a whole is meant.
    pub path: String,
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

/// Everything that is wrong with a document; never empty. Shown one fault a line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, serde::Serialize)]
#[serde(transparent)]
#[error("{}", Lines(.0))]
pub struct Errors(pub Vec<Fault>);

struct Lines<'a>(&'a [Fault]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            write!(f, "{}{fault}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// Faults found so far.
#[derive(Default, Debug)]
pub(crate) struct Faults {
    list: Vec<Fault>,
    /// The paths of the list, so that asking what is at fault below a place does not go through all of it.
    places: BTreeSet<String>,
    left_out: usize,
}

impl Faults {
    pub(crate) fn add(&mut self, path: &Path<'_>, message: impl Into<String>) {
        self.add_at(path.to_string(), message);
    }

    /// Notes a fault whose path has been written out already.
    pub(crate) fn add_at(&mut self, path: String, message: impl Into<String>) {
        if self.list.len() == MAX_FAULTS {
            self.left_out += 1;
            return;
        }
        let path = shortened(path);
        self.places.insert(path.clone());
        self.list.push(Fault { path, message: shortened(message.into()) });
    }

    /// Notes that something is missing at `path`, unless what is there is already known to be at fault: a part that
    /// could not be read is not absent.
    pub(crate) fn add_missing(&mut self, path: &Path<'_>, message: impl Into<String>) {
        if !self.has_below(path) {
            self.add(path, message);
        }
    }

    /// Notes that one of the members `names` should be there, unless one of them could not be read.
    pub(crate) fn add_missing_member(&mut self, path: &Path<'_>, names: &[&str], message: impl Into<String>) {
        if !names.iter().any(|name| self.has_below(&path.field(name))) {
            self.add(path, message);
        }
    }

    /// Whether something is wrong at `path` or inside of it.
    pub(crate) fn has_below(&self, path: &Path<'_>) -> bool {
        let here = path.to_string();
        let begins = |start: String| {
            let from = (Bound::Included(start.as_str()), Bound::Unbounded);
            self.places.range::<str, _>(from).next().is_some_and(|place| place.starts_with(&start))
        };
        self.places.contains(&here) || begins(format!("{here}.")) || begins(format!("{here}["))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds what another reader found, each fault as `told` puts it.
    pub(crate) fn take_in(&mut self, other: Faults, told: impl Fn(Fault) -> Fault) {
        for fault in other.list {
            let Fault { path, message } = told(fault);
            self.add_at(path, message);
        }
        self.left_out += other.left_out;
    }

    /// `Ok` when nothing is wrong.
    pub(crate) fn into_result(self) -> Result<(), Errors> {
        if self.is_empty() { Ok(()) } else { Err(Errors(self.into_list())) }
    }

    pub(crate) fn into_list(self) -> Vec<Fault> {
        let mut list = self.list;
        if self.left_out > 0 {
            let message = format!("{} more faults are not shown: the limit is {MAX_FAULTS} faults", self.left_out);
            list.push(Fault { path: String::new(), message });
        }
        list
    }
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A place in a JSON document: a chain of steps back to the root, written out only when a fault is found there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    pub(crate) const ROOT: Path<'static> = Path { parent: None, step: Step::Root };

    pub(crate) fn field(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Field(name) }
    }

    pub(crate) fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Index(i) => write!(f, "[{i}]"),
            Step::Field(name) if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => {
                let at_root = self.parent.is_some_and(|p| matches!(p.step, Step::Root));
                write!(f, "{}{name}", if at_root { "" } else { "." })
            }
            Step::Field(name) => write!(f, "[{name:?}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_like_json() {
        let rule = Path::ROOT.index(0);
        let ingress = rule.field("ingress");
        let entry = ingress.index(1);
        assert_eq!(entry.field("toPorts").to_string(), "[0].ingress[1].toPorts");
        assert_eq!(rule.field("a:b").to_string(), "[0][\"a:b\"]");
        assert_eq!(Path::ROOT.field("rules").index(2).to_string(), "rules[2]");
    }

    #[test]
    fn neither_many_nor_long_faults_fill_the_memory() {
        let mut faults = Faults::default();
        let long = "ä".repeat(5_000);
        for i in 0..MAX_FAULTS + 7 {
            faults.add(&Path::ROOT.index(i).field(&long), long.as_str());
        }
        let list = faults.into_list();
        assert_eq!(list.len(), MAX_FAULTS + 1);
        assert!(list.iter().all(|fault| fault.path.len() + fault.message.len() < 5 * MAX_TEXT));
        assert_eq!(list[MAX_FAULTS].message, "7 more faults are not shown: the limit is 1000 faults");
    }

    #[test]
    fn what_could_not_be_read_is_not_missing() {
        let mut faults = Faults::default();
        let rule = Path::ROOT.index(1);
        faults.add(&rule.field("endpointSelector"), "must be an object");
        faults.add_missing_member(&rule, &["endpointSelector", "nodeSelector"], "needs a subject");
        faults.add_missing_member(&rule, &["endpoint"], "needs an endpoint");
        faults.add_missing(&rule.field("endpointSelector"), "must be there");
        faults.add_missing(&Path::ROOT.index(10), "needs a subject");
        let paths: Vec<_> = faults.into_list().into_iter().map(|f| f.path).collect();
        assert_eq!(paths, ["[1].endpointSelector", "[1]", "[10]"]);
    }
}
