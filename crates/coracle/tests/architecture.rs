//! The direction of dependencies between crates, and the shape of the code, held as tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What each crate may depend on among ours. A new edge is a decision: write down why, then add it here.
const ALLOWED: &[(&str, &[&str])] = &[
    ("resources", &[]),
    ("proxy", &[]),
    ("store", &[]),
    ("telemetry", &[]),
    ("rules", &["resources"]),
    ("apiserver", &["rules", "resources", "store"]),
    ("workloads", &["resources"]),
    ("node", &["resources", "rules"]),
    ("mesh", &["proxy", "resources"]),
    ("delivery", &["resources", "rules"]),
    (
        "coracle",
        &["apiserver", "delivery", "mesh", "node", "proxy", "resources", "rules", "store", "telemetry", "workloads"],
    ),
    ("shop", &[]),
];

/// Crates outside ours that some of ours must stay free of, with the reason.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("proxy", "kube", "the data plane knows no Kubernetes"),
    ("proxy", "k8s-openapi", "the data plane knows no Kubernetes"),
    ("store", "serde_json", "values are opaque bytes"),
    ("store", "k8s-openapi", "the store knows no kinds"),
    ("rules", "tokio", "rules do no IO"),
    ("resources", "tokio", "resources are plain data"),
    ("apiserver", "rusqlite", "the API server knows the store by its contract"),
    ("workloads", "hyper", "controllers talk to the API through kube::Client alone"),
];

/// Module names that say nothing about what is in them.
const EMPTY_NAMES: &[&str] = &["common", "util", "utils", "helpers", "types", "misc"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace is two folders up")
}

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// Crate name -> names of its dependencies outside tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("a list of packages");
    let of = |package: &serde_json::Value| {
        let list = package["dependencies"].as_array().expect("a list of dependencies").iter();
        let normal = list.filter(|d| d["kind"] != "dev");
        normal.filter_map(|d| d["name"].as_str().map(str::to_owned)).collect()
    };
    packages.iter().map(|p| (p["name"].as_str().expect("a name").to_owned(), of(p))).collect()
}

#[test]
fn crates_depend_on_each_other_only_as_the_design_allows() {
    let dependencies = dependencies();
    let ours: BTreeSet<&str> = dependencies.keys().map(String::as_str).collect();
    let listed: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    assert_eq!(ours, listed, "every crate of the workspace is listed here, and no other");
    for (name, allowed) in ALLOWED {
        let edges: Vec<&String> = dependencies[*name].iter().filter(|d| ours.contains(d.as_str())).collect();
        for edge in edges {
            assert!(
                allowed.contains(&edge.as_str()),
                "{name} depends on {edge}, which the design does not allow; roles meet in `coracle` through a trait of the consumer's"
            );
        }
    }
}

#[test]
fn crates_stay_free_of_what_they_must_not_know() {
    let dependencies = dependencies();
    for (name, forbidden, reason) in FORBIDDEN {
        assert!(!dependencies[*name].contains(*forbidden), "{name} depends on {forbidden}, but {reason}");
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() && path.file_name().is_some_and(|n| n != "target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn our_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["crates", "examples"] {
        sources(&root().join(folder), &mut found);
    }
    found.sort();
    found
}

#[test]
fn every_module_says_what_it_is() {
    let bare: Vec<PathBuf> = our_sources()
        .into_iter()
        // A module's tests stand in the module, whose header is theirs.
        .filter(|path| !path.ends_with("tests.rs"))
        .filter(|path| !std::fs::read_to_string(path).expect("readable").trim_start().starts_with("//!"))
        .collect();
    assert!(bare.is_empty(), "these files have no header (`//! …`): {bare:#?}");
}

#[test]
fn names_say_what_is_inside() {
    let vague: Vec<PathBuf> = our_sources()
        .into_iter()
        .filter(|path| {
            let parts = path.components().map(|c| c.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned());
            parts.into_iter().any(|part| EMPTY_NAMES.contains(&part.as_str()))
        })
        .collect();
    assert!(vague.is_empty(), "give these modules the name of what they hold: {vague:#?}");
}

/// The module that may call C functions.
const UNSAFE: &str = "crates/coracle/src/memory.rs";

#[test]
fn one_module_alone_has_unsafe_code() {
    let word = concat!("uns", "afe {");
    let found: Vec<PathBuf> = our_sources()
        .into_iter()
        .filter(|path| std::fs::read_to_string(path).expect("readable").contains(word) && !path.ends_with(UNSAFE))
        .collect();
    assert!(found.is_empty(), "unsafe code belongs in {UNSAFE}, or nowhere: {found:#?}");
}

/// Lines of a file that are not tests.
fn length(path: &Path) -> usize {
    let text = std::fs::read_to_string(path).expect("readable");
    text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count()
}

/// The longest a file may be, in lines, tests not counted.
const FILE_LIMIT: usize = 600;

#[test]
fn files_stay_small() {
    let tests = |path: &Path| path.components().any(|c| c.as_os_str() == "tests") || path.ends_with("tests.rs");
    let long: Vec<(usize, PathBuf)> = our_sources()
        .into_iter()
        .filter(|path| !tests(path) && length(path) > FILE_LIMIT)
        .map(|path| (length(&path), path))
        .collect();
    assert!(long.is_empty(), "split these files by what they hold (at most {FILE_LIMIT} lines): {long:#?}");
}

/// Every test that docs/scenarios.md names in the row of an incident is there, by its file and its name.
#[test]
fn the_tests_of_incidents_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let table = std::fs::read_to_string(root.join("docs/scenarios.md")).expect("the table");
    let mut found = 0;
    for row in table.lines().filter(|line| line.contains("| `crates/")) {
        let cell = row.trim_end_matches([' ', '|']).rsplit("| ").next().unwrap_or_default();
        let mut words = cell.split('`').skip(1).step_by(2);
        let file = words.next().expect("a file");
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        for test in words {
            assert!(text.contains(&format!("fn {test}()")), "{file} has no test {test}");
            found += 1;
        }
    }
    assert!(found >= 20, "{found} tests are named");
}
