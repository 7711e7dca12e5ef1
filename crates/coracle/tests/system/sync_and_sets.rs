//! The commands for sets tell of what Git keeps: its history, the way back, and whose an object is.

use crate::gitsync::{Work, application};
use crate::harness::{Coracle, eventually};
use serde_json::{Value, json};

const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: green}\n";
/// Which never runs.
const JOB: &str = "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: paint}\nspec:\n  suspend: true\n  schedule: '0 0 1 1 *'\n  jobTemplate: \
    {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i, env: [{name: COLOUR, valueFrom: \
    {configMapKeyRef: {name: settings, key: colour}}}]}]}}}}\n";

fn colour(coracle: &Coracle) -> Value {
    coracle.get(&["configmaps/settings"])["data"]["colour"].clone()
}

fn is(coracle: &Coracle, wanted: &str) {
    eventually(wanted, || if colour(coracle) == wanted { Ok(()) } else { Err(colour(coracle).to_string()) });
}

#[test]
fn what_git_keeps_is_told_and_left_to_git() {
    let (coracle, work) = (Coracle::serve(&["--git-port", "0"]), Work::new());
    let path = work.path();
    let added = coracle.ok(&["git", "add-remote", "shop", "-o", "json", "--repository", path.to_str().expect("UTF-8")]);
    let added: Value = serde_json::from_str(&added).expect("JSON");
    assert_eq!(added["remote"], "coracle");
    assert!(added["url"].as_str().expect("a URL").ends_with("/git/shop.git"), "{added}");
    work.write("deploy/map.yaml", MAP);
    work.write("deploy/job.yaml", JOB);
    let first = work.commit("Green it is");
    assert!(work.push().contains("live application/shop"));
    // What a variable is, and who set it.
    let told: Value = serde_json::from_str(&coracle.ok(&["config", "COLOUR", "-o", "json"])).expect("JSON");
    let origin = &told[0]["origin"];
    assert_eq!((&origin["manager"], &origin["commit"]), (&"coracle-sync".into(), &first.as_str().into()), "{told:#}");
    assert_eq!(origin["author"], "Ann <ann@example.com>");
    assert!(coracle.ok(&["config", "COLOUR"]).contains(&format!("commit {first}  author Ann")));

    work.write("deploy/map.yaml", &MAP.replace("green", "blue"));
    let second = work.commit("Blue it is");
    assert!(work.push().contains("live application/shop"));

    for name in ["application/shop", "shop"] {
        let told = coracle.ok(&["history", name]);
        let lines: Vec<&str> = told.lines().skip(1).collect();
        assert_eq!(lines.len(), 2, "{told}");
        assert!(lines[0].contains(&second[..12]) && lines[0].contains("Blue it is"), "{told}");
        assert!(
            lines[1].contains(&first[..12]) && lines[1].contains("healthy") && lines[1].contains("git sync"),
            "{told}"
        );
    }
    assert_eq!(coracle.run(&["history", "application/nobody"]).status.code(), Some(2));

    // Somebody's own set does not take what Git keeps, and says whose it is.
    let own = tempfile::tempdir().expect("a folder");
    std::fs::write(own.path().join("map.yaml"), MAP.replace("green", "black")).expect("a file");
    let path = own.path().to_str().expect("UTF-8");
    for more in [&[][..], &["--take-over"]] {
        let output = coracle.run(&[&["plan", path, "--set", "mine"], more].concat());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("application shop in argocd keeps it"), "{said}");
    }
    let file = own.path().join("map.yaml");
    let output = coracle.run(&["apply", "-f", file.to_str().expect("UTF-8"), "--force-conflicts"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("application shop in argocd keeps it"), "{said}");
    is(&coracle, "blue");

    // Where Git is followed, the way back is in Git.
    let output = coracle.run(&["rollback", "application/shop"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("git revert"), "{said}");
    let output = coracle.run(&["rollback", "application/shop", "-o", "json"]);
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&told["state"], output.status.code()), (&"refused".into(), Some(2)), "{told}");
    assert!(told["cause"].as_str().expect("a cause").contains("git revert"), "{told}");
    let mut held = json!({ "apiVersion": "argoproj.io/v1alpha1", "kind": "Application",
        "metadata": { "name": "shop", "namespace": "argocd" }, "spec": application(&coracle)["spec"] });
    held["spec"]["syncPolicy"]["automated"]["enabled"] = false.into();
    work.write("held.json", &held.to_string());
    let file = work.path().join("held.json");
    coracle.ok(&["apply", "-f", file.to_str().expect("UTF-8"), "--force-conflicts"]);
    let back: Value = serde_json::from_str(&coracle.ok(&["rollback", "application/shop", "-o", "json"])).expect("JSON");
    assert_eq!((&back["state"], &back["commit"]), (&"applied".into(), &first.as_str().into()), "{back}");
    assert_eq!(back["application"]["name"], "shop");
    assert_eq!(colour(&coracle), "green");
    let told = coracle.ok(&["history", "application/shop", "-o", "json"]);
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told[0]["commit"], first.as_str());
    assert!(told[0]["appliedBy"].as_str().expect("somebody").contains('@'), "{told}");
    assert_eq!(coracle.ok(&["lock", "list"]).trim(), "nobody is applying anything");
}
