//! Policy files: which files a path on the command line means, their rules in one list, and the way back from a rule's
//! place in that list to the file it came from. What a rule may say is `policy`'s business.

use crate::failure::Failure;
use crate::render::{YELLOW, escape};
use policy::{Place, ReadOptions, Reader, Rule};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Where the rules of a command are, and how they are read.
#[derive(Debug, clap::Args)]
pub struct Files {
    /// Files in JSON or YAML, folders (their *.json, *.yaml and *.yml files) or - for standard input
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Pass over unknown fields, with a warning for each, instead of refusing them
    #[arg(long)]
    ignore_unknown_fields: bool,
}

/// The rules of all files, in order.
pub struct RuleList {
    pub rules: Vec<Rule>,
    places: Vec<Place>,
    /// What was passed over or changed while the files were read.
    notes: Vec<String>,
    /// The names of the files.
    names: Vec<String>,
}

/// Why rules are not taken.
pub struct Faulty {
    /// The files with faults.
    pub names: Vec<String>,
    /// One line for each fault, with file and path.
    pub faults: Vec<String>,
}

impl Files {
    /// The rules under these paths, nothing passed over.
    pub fn new(paths: Vec<PathBuf>) -> Files {
        Files { paths, ignore_unknown_fields: false }
    }

    /// Rules that an agent takes: some, sound, and none that it could not enforce. Warns of what may surprise.
    pub fn read_for_agent(&self) -> Result<RuleList, Failure> {
        let list = self.read(cannot_parse)?;
        if list.rules.is_empty() {
            return Err(Failure::NoPolicy);
        }
        list.check_supported().map_err(cannot_parse)?;
        list.warn();
        warn(&list.namespaces());
        Ok(list)
    }

    /// Reads and checks everything; either every rule is sound, or all faults of all files are told, as `faulty` says.
    pub fn read(&self, faulty: fn(Faulty) -> Failure) -> Result<RuleList, Failure> {
        let options = ReadOptions { ignore_unknown_fields: self.ignore_unknown_fields, ..ReadOptions::default() };
        let mut reader = Reader::new(&options);
        let (mut names, mut failed, mut faults) = (Vec::new(), Vec::new(), Vec::new());
        for document in documents(&self.paths, options.limits.document_bytes)? {
            if let Err(errors) = reader.add_text(&document.text) {
                faults.extend(errors.0.iter().map(|fault| format!("{}: {fault}", document.name)));
                failed.push(document.name.clone());
            }
            names.push(document.name);
        }
        if !faults.is_empty() {
            return Err(faulty(Faulty { names: failed, faults }));
        }
        let reading = reader.finish().map_err(|errors| {
            let faults = errors.0.iter().map(ToString::to_string).collect();
            faulty(Faulty { names: names.clone(), faults })
        })?;
        let notes = reading.notes.iter();
        let notes = notes.map(|(text, note)| format!("{}: {note}", names.get(*text).map_or("", String::as_str)));
        Ok(RuleList { notes: notes.collect(), rules: reading.rules, places: reading.places, names })
    }
}

impl RuleList {
    /// Refuses, by name, what no agent of this build enforces.
    pub fn check_supported(&self) -> Result<(), Faulty> {
        let Err(errors) = policy::check_supported(&self.rules) else { return Ok(()) };
        let mut names: Vec<String> = Vec::new();
        for fault in &errors.0 {
            let name = self.place(&fault.path).and_then(|(place, _)| self.names.get(place.text));
            if let Some(name) = name.filter(|name| !names.contains(name)) {
                names.push(name.clone());
            }
        }
        Err(Faulty { names, faults: self.told(&errors.0) })
    }

    /// What is sound but rarely meant, and what was passed over, one line each, with file and path.
    pub fn warnings(&self) -> Vec<String> {
        let mut lines = self.notes.clone();
        lines.extend(self.told(&policy::warnings(&self.rules)));
        lines
    }

    /// Which endpoints the rules of documents with a namespace are for, one line for each namespace: containers have no
    /// such label unless somebody gives it to them.
    pub fn namespaces(&self) -> Vec<String> {
        let mut namespaces = BTreeMap::<&str, usize>::new();
        for namespace in self.places.iter().filter_map(|place| place.namespace.as_deref()) {
            *namespaces.entry(namespace).or_default() += 1;
        }
        let line = |(namespace, rules): (&str, usize)| {
            let label = format!("k8s:io.kubernetes.pod.namespace={namespace}");
            format!(
                "{rules} of the rules select only endpoints with the label {label}, as the documents they are of say"
            )
        };
        namespaces.into_iter().map(line).collect()
    }

    /// Tells the warnings on standard error: the result stays as it is.
    pub fn warn(&self) {
        warn(&self.warnings());
    }

    /// The files, for messages.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Turns a path into the whole list, such as `[3].ingress`, into one into a file, such as `b.json: [1].ingress` or
    /// `c.yaml: spec.ingress`.
    pub fn locate(&self, path: &str) -> String {
        let Some((place, rest)) = self.place(path) else { return path.to_owned() };
        let name = self.names.get(place.text).map_or("", String::as_str);
        let document = place.document.as_ref().map_or(String::new(), |document| format!("{document}, "));
        let rest = if place.path.is_empty() { rest.trim_start_matches('.') } else { rest };
        format!("{name}: {document}{}{rest}", place.path)
    }

    /// Where the rule is that a path into the whole list begins with, and the rest of the path.
    fn place<'p>(&self, path: &'p str) -> Option<(&Place, &'p str)> {
        let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
        Some((self.places.get(index.parse::<usize>().ok()?)?, rest))
    }

    fn told(&self, faults: &[policy::Fault]) -> Vec<String> {
        let located = |fault: &policy::Fault| policy::Fault { path: self.locate(&fault.path), ..fault.clone() };
        // As any path: left out where the whole is meant.
        faults.iter().map(|fault| located(fault).to_string()).collect()
    }
}

/// Tells each line on standard error.
pub fn warn(lines: &[String]) {
    let mut stderr = anstream::stderr();
    for line in lines {
        // Advice is lost when standard error is closed; the command goes on.
        let _ = writeln!(stderr, "{YELLOW}Warning:{YELLOW:#} {}", escape::line(line));
    }
}

/// One file's text.
pub(super) struct Document {
    /// As shown to people.
    pub(super) name: String,
    pub(super) text: String,
}

/// The texts of all files; of one that is longer than `limit` a little more than that, so that it is refused by name.
fn documents(paths: &[PathBuf], limit: usize) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    let limit = limit as u64 + 1;
    for path in paths {
        if path == Path::new("-") {
            documents.push(read("standard input".to_owned(), || Ok(std::io::stdin().take(limit)))?);
            continue;
        }
        for file in files(path)? {
            documents.push(read(file.display().to_string(), || Ok(std::fs::File::open(&file)?.take(limit)))?);
        }
    }
    Ok(documents)
}

pub(super) fn read<R: Read>(name: String, open: impl FnOnce() -> std::io::Result<R>) -> Result<Document, Failure> {
    let mut bytes = Vec::new();
    let read = open().and_then(|mut file| file.read_to_end(&mut bytes));
    // What was cut off in the middle of a character is too long in any case.
    let text = read.and_then(|_| match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) if error.utf8_error().error_len().is_none() => {
            Ok(String::from_utf8_lossy(error.as_bytes()).into_owned())
        }
        Err(_) => Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not UTF-8 text")),
    });
    text.map(|text| Document { name: name.clone(), text }).map_err(|source| Failure::Read { name, source })
}

/// What the names of policy files in folders end with.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

/// The file itself, or the policy files of a folder, sorted by name, and then those of the folders in it. What is
/// hidden is left out, and so are folders that are links.
pub(super) fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |path: &Path, source| Failure::Read { name: path.display().to_string(), source };
    if !std::fs::metadata(path).map_err(|source| failed(path, source))?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let (mut files, mut folders) = (Vec::new(), vec![path.to_owned()]);
    while let Some(folder) = folders.pop() {
        let (mut here, mut inside) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&folder).map_err(|source| failed(&folder, source))? {
            let entry = entry.map_err(|source| failed(&folder, source))?;
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if entry.file_type().map_err(|source| failed(&path, source))?.is_dir() {
                inside.push(path);
            } else if path.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known))
                && std::fs::metadata(&path).map_err(|source| failed(&path, source))?.is_file()
            {
                here.push(path);
            }
        }
        here.sort();
        files.extend(here);
        // The last is taken up next.
        inside.sort_by(|a, b| b.cmp(a));
        folders.extend(inside);
    }
    Ok(files)
}

fn cannot_parse(Faulty { names, faults }: Faulty) -> Failure {
    Failure::Policy { title: format!("Cannot parse policy {}:", names.join(", ")), faults }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = r#"{"endpointSelector": {"matchLabels": {"id": "app1"}}, "ingress": [{}]}"#;
    const DOCUMENT: &str = "
kind: CiliumNetworkPolicy
metadata: {name: web}
specs:
- {endpointSelector: {}, ingress: [{}]}
- {endpointSelector: {}, ingress: [{toPorts: [{}]}]}
";

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        folder
    }

    fn read(paths: &[&Path], ignore_unknown_fields: bool) -> Result<RuleList, Vec<String>> {
        let files = Files { paths: paths.iter().map(|path| path.to_path_buf()).collect(), ignore_unknown_fields };
        files.read(|faulty| Failure::Policy { title: faulty.names.join(", "), faults: faulty.faults }).map_err(
            |failure| match failure {
                Failure::Policy { title, faults } => [title].into_iter().chain(faults).collect(),
                other => vec![other.report()],
            },
        )
    }

    #[test]
    fn a_folder_is_its_policy_files_in_order() {
        let (one, two) = (format!("[{RULE}]"), format!("[{RULE}, {RULE}]"));
        let folder = folder(&[
            ("b.json", &one),
            ("a.json", &two),
            ("readme.txt", "no rule"),
            ("c.yml", DOCUMENT),
            ("deep/a.yaml", DOCUMENT),
            ("deeper/x/z.json", &one),
            (".git/a.json", "no rule"),
            (".a.yaml.swp.json", "no rule"),
        ]);
        std::fs::create_dir(folder.path().join("d.json")).unwrap();
        let list = read(&[folder.path()], false).unwrap_or_else(|faults| panic!("{faults:?}"));
        assert_eq!(list.rules.len(), 8);
        let names: Vec<_> =
            list.files().map(|name| name.strip_prefix(folder.path().to_str().unwrap()).unwrap()).collect();
        assert_eq!(names, ["/a.json", "/b.json", "/c.yml", "/deep/a.yaml", "/deeper/x/z.json"]);
    }

    #[test]
    fn places_are_found_again() {
        let place = |text, path: &str, document: Option<&str>| Place {
            text,
            path: path.to_owned(),
            document: document.map(str::to_owned),
            namespace: None,
        };
        let list = RuleList {
            rules: Vec::new(),
            places: vec![
                place(0, "[0]", None),
                place(0, "[1]", None),
                place(2, "spec", Some("CiliumNetworkPolicy default/web")),
                place(3, "", None),
            ],
            notes: Vec::new(),
            names: ["a", "b", "c", "d"].map(str::to_owned).into(),
        };
        assert_eq!(list.locate("[1].ingress[1]"), "a: [1].ingress[1]");
        assert_eq!(list.locate("[2].egress[0]"), "c: CiliumNetworkPolicy default/web, spec.egress[0]");
        assert_eq!(list.locate("[3].egress[0]"), "d: egress[0]");
        for elsewhere in ["[4]", "", "labels", "[x]"] {
            assert_eq!(list.locate(elsewhere), elsewhere);
        }
    }

    #[test]
    fn all_faults_of_all_files_are_told() {
        let folder = folder(&[
            ("a.json", r#"[{"endpointSelector": {}, "ingress": [{}], "ingres": []}]"#),
            ("b.json", &format!("[{RULE}]")),
            ("c.json", "{"),
            ("d.yaml", &DOCUMENT.replace("toPorts", "toPort")),
        ]);
        let Err(faults) = read(&[folder.path()], false) else { panic!("faults were expected") };
        let [a, c, d] = ["a.json", "c.json", "d.yaml"].map(|name| folder.path().join(name).display().to_string());
        assert_eq!(faults[0], format!("{a}, {c}, {d}"));
        assert!(faults[1].starts_with(&format!("{a}: [0].ingres: unknown field")), "{faults:?}");
        assert!(faults[2].starts_with(&format!("{c}: not JSON: ")), "{faults:?}");
        assert!(faults[3].starts_with(&format!("{d}: specs[1].ingress[0].toPort: unknown field")), "{faults:?}");
        assert!(faults[3].ends_with("(in CiliumNetworkPolicy default/web)"), "{faults:?}");
        assert_eq!(faults.len(), 4);
    }

    #[test]
    fn unknown_fields_are_passed_over_when_asked_for() {
        let folder = folder(&[("a.json", r#"[{"endpointSelector": {}, "ingress": [{}], "ingres": []}]"#)]);
        let list = read(&[folder.path()], true).unwrap_or_else(|faults| panic!("{faults:?}"));
        let note = format!("{}: [0].ingres: unknown field, ignored", folder.path().join("a.json").display());
        assert_eq!((list.rules.len(), list.warnings()), (1, vec![note]));
    }

    #[test]
    fn groups_of_one_file_are_known_in_another() {
        let group = "{kind: CiliumCIDRGroup, metadata: {name: office}, spec: {externalCIDRs: [192.0.2.0/24]}}";
        let rule = r#"[{"endpointSelector": {}, "egress": [{"toCIDRSet": [{"cidrGroupRef": "office"}]}]}]"#;
        let folder = folder(&[("a.json", rule), ("b.yaml", &format!("---\n{group}"))]);
        let list = read(&[folder.path()], false).unwrap_or_else(|faults| panic!("{faults:?}"));
        assert!(serde_json::to_string(&list.rules).unwrap().contains(r#""toCIDRSet":[{"cidr":"192.0.2.0/24"}]"#));
        let alone = read(&[&folder.path().join("a.json")], false).unwrap_or_else(|faults| panic!("{faults:?}"));
        let Err(faulty) = alone.check_supported() else { panic!("the group is not known") };
        assert!(faulty.faults[0].contains("cidrGroupRef cannot be enforced"), "{:?}", faulty.faults);
        assert_eq!(faulty.names, [folder.path().join("a.json").display().to_string()]);
    }

    #[test]
    fn warnings_name_the_file() {
        let careless = r#"[{"endpointSelector": {}, "ingress": [{"toPorts": [{}]}]}]"#;
        let folder = folder(&[("a.json", &format!("[{RULE}]")), ("b.json", careless)]);
        let warnings = read(&[folder.path()], false).unwrap_or_else(|faults| panic!("{faults:?}")).warnings();
        let place = format!("{}: [0].ingress[0].toPorts[0]: ", folder.path().join("b.json").display());
        assert!(warnings.len() == 1 && warnings[0].starts_with(&place), "{warnings:?}");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let Err(faults) = read(&[Path::new("/nonexistent/x.json")], false) else { panic!("a failure was expected") };
        assert!(faults[0].starts_with("Cannot read /nonexistent/x.json: "), "{faults:?}");
        let folder = folder(&[]);
        let (long, binary) = (folder.path().join("long.yaml"), folder.path().join("binary.json"));
        std::fs::write(&long, "ä".repeat((16 << 19) + 7)).unwrap();
        std::fs::write(&binary, b"[\xff]").unwrap();
        let Err(faults) = read(&[&long], false) else { panic!("a failure was expected") };
        assert!(faults[1].ends_with("long.yaml: too many bytes in one text: the limit is 16777216"), "{faults:?}");
        let Err(faults) = read(&[&binary], false) else { panic!("a failure was expected") };
        assert!(faults[0].contains("it is not UTF-8 text"), "{faults:?}");
    }
}
