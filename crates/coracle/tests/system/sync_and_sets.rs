//! The commands for sets tell of what Git keeps: its history, the way back, and whose an object is.

use crate::gitsync::{Work, application, remote};
use crate::harness::{Coracle, eventually};
use serde_json::{Value, json};

const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: green}\n";

fn colour(coracle: &Coracle) -> Value {
    coracle.get(&["configmaps/settings"])["data"]["colour"].clone()
}

fn is(coracle: &Coracle, wanted: &str) {
    eventually(wanted, || if colour(coracle) == wanted { Ok(()) } else { Err(colour(coracle).to_string()) });
}

#[test]
fn what_git_keeps_is_told_and_left_to_git() {
    let (coracle, work) = (Coracle::serve(&["--git-port", "0"]), Work::new());
    remote(&coracle, &work);
    work.write("deploy/map.yaml", MAP);
    let first = work.commit("Green it is");
    assert!(work.push().contains("live application/shop"));
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
    let mut held = json!({ "apiVersion": "argoproj.io/v1alpha1", "kind": "Application",
        "metadata": { "name": "shop", "namespace": "argocd" }, "spec": application(&coracle)["spec"] });
    held["spec"]["syncPolicy"]["automated"]["enabled"] = false.into();
    work.write("held.json", &held.to_string());
    let file = work.path().join("held.json");
    coracle.ok(&["apply", "-f", file.to_str().expect("UTF-8"), "--force-conflicts"]);
    let said = coracle.ok(&["rollback", "application/shop"]);
    assert!(said.contains(&first), "{said}");
    assert_eq!(colour(&coracle), "green");
    let told = coracle.ok(&["history", "application/shop", "-o", "json"]);
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told[0]["commit"], first.as_str());
    assert!(told[0]["appliedBy"].as_str().expect("somebody").contains('@'), "{told}");
    assert_eq!(coracle.ok(&["lock", "list"]).trim(), "nobody is applying anything");
}
