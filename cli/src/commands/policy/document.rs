//! Policy files: which files a path on the command line means, their rules in one list, and the way back from a rule's
//! place in that list to the file it came from. What a rule may say is `policy`'s business.

use crate::failure::Failure;
use crate::render::{YELLOW, escape};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// One file's text.
struct Document {
    /// As shown to people.
    name: String,
    text: String,
}

/// The rules of all files, in order.
pub struct RuleList {
    pub rules: Vec<policy::Rule>,
    /// File name and number of rules of each document.
    sources: Vec<(String, usize)>,
}

impl RuleList {
    /// Reads and checks everything under `paths`; `-` is standard input, a folder stands for its `*.json` files. Either
    /// every rule is sound and enforceable, or all faults are told.
    pub fn read(paths: &[PathBuf]) -> Result<RuleList, Failure> {
        let mut list = RuleList { rules: Vec::new(), sources: Vec::new() };
        let mut failed = Vec::new();
        let mut faults = Vec::new();
        for document in documents(paths)? {
            match parse(&document.text) {
                Ok(rules) => {
                    list.sources.push((document.name, rules.len()));
                    list.rules.extend(rules);
                }
                Err(errors) => {
                    faults.extend(errors.0.iter().map(|fault| format!("{}: {fault}", document.name)));
                    failed.push(document.name);
                }
            }
        }
        if faults.is_empty() {
            Ok(list)
        } else {
            Err(Failure::Policy { title: format!("Cannot parse policy {}:", failed.join(", ")), faults })
        }
    }

    /// What is sound but rarely meant, one line each, with file and path.
    pub fn warnings(&self) -> Vec<String> {
        let faults = policy::warnings(&self.rules);
        faults.iter().map(|fault| format!("{}: {}", self.locate(&fault.path), fault.message)).collect()
    }

    /// Tells the warnings on standard error: the result stays as it is.
    pub fn warn(&self) {
        let mut stderr = anstream::stderr();
        for warning in self.warnings() {
            // Advice is lost when standard error is closed; the import goes on.
            let _ = writeln!(stderr, "{YELLOW}Warning:{YELLOW:#} {}", escape::line(&warning));
        }
    }

    /// The files, for messages.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.sources.iter().map(|(name, _)| name.as_str())
    }

    /// Turns a path into the whole list, such as `[3].ingress`, into one into a file, such as `b.json: [1].ingress`.
    pub fn locate(&self, path: &str) -> String {
        let split = path.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let Some((Ok(mut index), rest)) = split.map(|(index, rest)| (index.parse::<usize>(), rest)) else {
            return path.to_owned();
        };
        for (name, count) in &self.sources {
            if index < *count {
                return format!("{name}: [{index}]{rest}");
            }
            index -= count;
        }
        path.to_owned()
    }
}

fn parse(text: &str) -> Result<Vec<policy::Rule>, policy::Errors> {
    let rules = policy::parse_rules(text)?;
    policy::check_supported(&rules)?;
    Ok(rules)
}

fn documents(paths: &[PathBuf]) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            documents.push(read("standard input".to_owned(), |text| std::io::stdin().read_to_string(text))?);
            continue;
        }
        for file in files(path)? {
            let name = file.display().to_string();
            documents.push(read(name, |text| std::fs::File::open(&file)?.read_to_string(text))?);
        }
    }
    Ok(documents)
}

fn read(name: String, read: impl FnOnce(&mut String) -> std::io::Result<usize>) -> Result<Document, Failure> {
    let mut text = String::new();
    match read(&mut text) {
        Ok(_) => Ok(Document { name, text }),
        Err(source) => Err(Failure::Read { name, source }),
    }
}

/// The file itself, or the regular `*.json` files of a folder, sorted by name.
fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |source| Failure::Read { name: path.display().to_string(), source };
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let is_json = file.extension().is_some_and(|extension| extension == "json");
        if is_json && std::fs::metadata(&file).map_err(failed)?.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = r#"{"endpointSelector": {"matchLabels": {"id": "app1"}}, "ingress": [{}]}"#;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn a_folder_is_its_json_files_in_order() {
        let (one, two) = (format!("[{RULE}]"), format!("[{RULE}, {RULE}]"));
        let folder = folder(&[("b.json", &one), ("a.json", &two), ("readme.txt", "no rule")]);
        std::fs::create_dir(folder.path().join("c.json")).unwrap();
        let list = RuleList::read(&[folder.path().to_owned()]).unwrap();
        assert_eq!(list.rules.len(), 3);
        let names: Vec<_> = list.files().map(|name| name.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["a.json", "b.json"]);
    }

    #[test]
    fn places_are_found_again() {
        let list = RuleList { rules: Vec::new(), sources: vec![("a".into(), 2), ("b".into(), 0), ("c".into(), 2)] };
        assert_eq!(list.locate("[0].ingress[1]"), "a: [0].ingress[1]");
        assert_eq!(list.locate("[3].egress"), "c: [1].egress");
        for elsewhere in ["[4]", "", "labels", "[x]"] {
            assert_eq!(list.locate(elsewhere), elsewhere);
        }
    }

    #[test]
    fn all_faults_of_all_files_are_told() {
        let folder = folder(&[
            ("a.json", r#"[{"endpointSelector": {}, "ingres": []}]"#),
            ("b.json", &format!("[{RULE}]")),
            ("c.json", "{"),
        ]);
        let Err(failure) = RuleList::read(&[folder.path().to_owned()]) else { panic!("faults were expected") };
        let report = failure.report();
        let (a, c) = (folder.path().join("a.json"), folder.path().join("c.json"));
        assert!(report.starts_with(&format!("Cannot parse policy {}, {}:\n", a.display(), c.display())), "{report}");
        assert!(report.contains(&format!("  {}: [0].ingres: ", a.display())), "{report}");
        assert!(report.contains(&format!("  {}: ", c.display())), "{report}");
    }

    #[test]
    fn warnings_name_the_file() {
        let careless = r#"[{"endpointSelector": {}, "ingress": [{"toPorts": [{}]}]}]"#;
        let folder = folder(&[("a.json", &format!("[{RULE}]")), ("b.json", careless)]);
        let warnings = RuleList::read(&[folder.path().to_owned()]).unwrap().warnings();
        let place = format!("{}: [0].ingress[0].toPorts[0]: ", folder.path().join("b.json").display());
        assert!(warnings.len() == 1 && warnings[0].starts_with(&place), "{warnings:?}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let Err(failure) = RuleList::read(&["/nonexistent/x.json".into()]) else { panic!("a failure was expected") };
        assert!(failure.report().starts_with("Cannot read /nonexistent/x.json: "), "{}", failure.report());
    }
}
