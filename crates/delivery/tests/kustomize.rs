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

const CONFIG_MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n";

fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (path, text) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
    folder
}

#[test]
fn links_that_lead_out_of_the_tree_are_refused() {
    let folder = tree(&[
        ("in/kustomization.yaml", "resources: [link.yaml]\n"),
        ("deep/kustomization.yaml", "configMapGenerator: [{name: a, files: [folder/secret]}]\n"),
        ("outside/secret", "s"),
        ("x.yaml", CONFIG_MAP),
        ("fine/kustomization.yaml", "resources: [link.yaml]\n"),
        ("fine/own/x.yaml", CONFIG_MAP),
    ]);
    let link = |from: &str, to: &str| std::os::unix::fs::symlink(to, folder.path().join(from)).expect("a link");
    link("in/link.yaml", "../x.yaml");
    link("deep/folder", "../outside");
    link("fine/link.yaml", "own/x.yaml");
    for refused in ["in", "deep"] {
        let error = ours(&folder.path().join(refused)).expect_err(refused);
        assert!(error.contains("is outside"), "{error}");
    }
    assert!(ours(&folder.path().join("fine")).is_ok());
}

#[test]
fn a_document_that_explodes_is_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 10].join(", "));
    }
    let folder = tree(&[("kustomization.yaml", "resources: [x.yaml]\n"), ("x.yaml", &(CONFIG_MAP.to_owned() + &bomb))]);
    let error = ours(folder.path()).expect_err("a bomb");
    assert!(error.contains("aliases are expanded"), "{error}");
}

fn git(folder: &Path, arguments: &[&str]) {
    let identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"];
    let mut command = Command::new("git");
    // Whatever the one who runs this has set for git.
    command.env("HOME", folder).env("GIT_CONFIG_NOSYSTEM", "1");
    let status = command.args(identity).args(arguments).current_dir(folder).output().expect("git runs");
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
}

#[test]
fn bases_come_from_repositories() {
    let repository = tree(&[
        ("apps/base/kustomization.yaml", "resources: [x.yaml]\n"),
        ("apps/base/x.yaml", CONFIG_MAP),
        ("apps/leaves/kustomization.yaml", "resources: [../../../..]\n"),
    ]);
    git(repository.path(), &["init", "-q"]);
    git(repository.path(), &["add", "."]);
    git(repository.path(), &["commit", "-q", "-m", "one"]);
    git(repository.path(), &["tag", "v1"]);
    std::fs::write(repository.path().join("apps/base/x.yaml"), CONFIG_MAP.replace("name: x", "name: newer"))
        .expect("written");
    git(repository.path(), &["commit", "-q", "-a", "-m", "two"]);
    let address = format!("file://{}", repository.path().display());
    let build = |path: &str, offline: bool| {
        let folder = tree(&[("kustomization.yaml", &format!("namePrefix: p-\nresources: [\"{address}{path}\"]\n"))]);
        kustomize::build(folder.path(), &Options { offline }).map_err(|error| error.to_string())
    };
    let name = |built: Result<Vec<serde_json::Value>, String>| built.map(|all| all[0]["metadata"]["name"].clone());
    assert_eq!(name(build("//apps/base?ref=v1", false)), Ok("p-x".into()));
    assert_eq!(name(build("//apps/base", false)), Ok("p-newer".into()));
    for (path, offline, wanted) in [
        ("//apps/base?ref=nope", false, "git fetch"),
        ("//apps/nope", false, "there is no folder"),
        ("//apps/leaves", false, "outside the repository"),
        ("//apps/base", true, "on the network"),
    ] {
        let error = build(path, offline).expect_err(path);
        assert!(error.contains(wanted), "{path}: {error}");
    }
}
