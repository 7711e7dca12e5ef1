//! Kustomizations beside what `kubectl kustomize` makes of them.
//!
//! Every folder below `tests/kustomize` with an `expected.yaml` builds to exactly that, which kubectl wrote; every one with a
//! `refused.txt` is refused, by kubectl too, and ours says what stands there (`ROOT` is the folder).
//!
//! `cargo test -p delivery --test kustomize -- --ignored` asks kubectl again and compares also what is made at random.

use delivery::kustomize::{self, Options};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kustomize")
}

fn folders(with: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, with: &str, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                walk(&path, with, found);
            } else if path.file_name().is_some_and(|name| name == with) {
                found.push(folder.to_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), with, &mut found);
    found.sort();
    found
}

fn ours(folder: &Path) -> Result<String, String> {
    let objects = kustomize::build(folder, &Options::default()).map_err(|error| error.to_string())?;
    Ok(kustomize::to_yaml(&objects))
}

fn kubectl(folder: &Path) -> Result<String, String> {
    let output = Command::new("kubectl").arg("kustomize").arg(folder).output().expect("kubectl runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("kubectl writes UTF-8");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn name(folder: &Path) -> String {
    folder.strip_prefix(root()).expect("below the root").display().to_string()
}

/// The first line where two texts part, for messages.
fn parting(ours: &str, wanted: &str) -> String {
    let mut lines = ours.lines().zip(wanted.lines()).enumerate();
    match lines.find(|(_, (ours, wanted))| ours != wanted) {
        Some((at, (ours, wanted))) => format!("line {}: ours `{ours}`, wanted `{wanted}`", at + 1),
        None => "one is longer than the other".to_owned(),
    }
}

#[test]
fn builds_are_equal_to_kubectls_byte_for_byte() {
    let folders = folders("expected.yaml");
    assert!(folders.len() >= 150, "only {} cases are there", folders.len());
    let mut wrong = Vec::new();
    for folder in &folders {
        let wanted = std::fs::read_to_string(folder.join("expected.yaml")).expect("readable");
        match ours(folder) {
            Ok(built) if built == wanted => {}
            Ok(built) => wrong.push(format!("{}: {}", name(folder), parting(&built, &wanted))),
            Err(error) => wrong.push(format!("{}: refused: {error}", name(folder))),
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), folders.len(), wrong.join("\n"));
}

#[test]
fn what_is_wrong_is_refused_with_its_place() {
    let folders = folders("refused.txt");
    assert!(folders.len() >= 40, "only {} cases are there", folders.len());
    for folder in &folders {
        let wanted = std::fs::read_to_string(folder.join("refused.txt")).expect("readable");
        let error = ours(folder).expect_err(&name(folder));
        let canonical = folder.canonicalize().expect("the folder is there").display().to_string();
        let plain = error.replace(&canonical, "ROOT").replace(&folder.display().to_string(), "ROOT");
        assert_eq!(plain.trim(), wanted.trim(), "{}", name(folder));
    }
}

#[test]
#[ignore = "needs kubectl"]
fn kubectl_still_says_the_same() {
    for folder in folders("expected.yaml") {
        let wanted = std::fs::read_to_string(folder.join("expected.yaml")).expect("readable");
        let theirs = kubectl(&folder).unwrap_or_else(|error| panic!("{}: {error}", name(&folder)));
        assert!(theirs == wanted, "{}: {}", name(&folder), parting(&theirs, &wanted));
    }
    for folder in folders("refused.txt") {
        assert!(kubectl(&folder).is_err(), "{} is not refused by kubectl", name(&folder));
    }
}
