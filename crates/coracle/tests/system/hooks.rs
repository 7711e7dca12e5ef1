//! Jobs as hooks of a sync, run by the real controllers and the real node: they gate, mourn, and go when they say.

use crate::gitsync::{Work, application, remote};
use crate::harness::{Coracle, eventually};
use serde_json::{Value, json};
use std::path::Path;

fn job(name: &str, annotations: Value, script: &str) -> String {
    json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name, "annotations": annotations },
        "spec": { "backoffLimit": 0, "template": { "spec": { "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "c", "image": "coracle.dev/host", "command": ["sh", "-c", script] }] } } } })
    .to_string()
}

fn hook(phase: &str, policy: &str) -> Value {
    json!({ "argocd.argoproj.io/hook": phase, "argocd.argoproj.io/hook-delete-policy": policy })
}

fn map(colour: &str) -> String {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings" }, "data": { "colour": colour } })
        .to_string()
}

fn colour(coracle: &Coracle) -> Value {
    let output = coracle.run(&["get", "configmap/settings", "-o", "json"]);
    serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default()["data"]["colour"].clone()
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn there(coracle: &Coracle, what: &str) -> bool {
    coracle.run(&["get", what]).status.success()
}

fn gone(coracle: &Coracle, what: &str) {
    eventually("it is gone", || if there(coracle, what) { Err(format!("{what} is there")) } else { Ok(()) });
}

#[test]
fn a_job_gates_the_sync_and_each_goes_when_it_says() {
    let (coracle, work) = (Coracle::serve(&["--git-port", "0"]), Work::new());
    remote(&coracle, &work);
    let log = work.path().with_file_name("log");
    let say = |word: &str, then: &str| format!("echo {word} >> {}; {then}", log.display());
    work.write("deploy/map.json", &map("green"));
    // The Job sees what is there before the sync: nothing.
    work.write("deploy/pre.json", &job("migrate", hook("PreSync", "HookSucceeded"), &say("migrated", "exit 0")));
    work.write("deploy/post.json", &job("smoke", hook("PostSync", "BeforeHookCreation"), &say("smoke", "exit 0")));
    work.write("deploy/fail.json", &job("mourn", hook("SyncFail", "HookSucceeded"), &say("mourned", "exit 0")));
    work.commit("First");
    let said = work.push();
    assert!(said.contains("live application/shop"), "{said}");
    assert_eq!(colour(&coracle), "green");
    assert_eq!(lines(&log), ["migrated", "smoke"]);
    gone(&coracle, "job/migrate");
    assert!(there(&coracle, "job/smoke"), "it stays until the next of its name");

    // A migration that fails keeps everything as it was; the hook for that runs, the later ones do not.
    work.write("deploy/map.json", &map("blue"));
    work.write("deploy/pre.json", &job("migrate", hook("PreSync", "BeforeHookCreation"), &say("broken", "exit 3")));
    work.commit("A migration that fails");
    let said = work.push();
    assert!(said.contains("FAILED application/shop") && said.contains("PreSync hook Job migrate failed"), "{said}");
    assert_eq!(colour(&coracle), "green");
    eventually("the hook for failures has run", || match lines(&log) {
        said if said[2..] == ["broken", "mourned"] => Ok(()),
        said => Err(format!("{said:?}")),
    });
    assert!(there(&coracle, "job/migrate"), "one that failed stays to be looked at");
    gone(&coracle, "job/mourn");
    eventually("the hook's end is told", || {
        let state = application(&coracle)["status"]["operationState"].clone();
        let results = state["syncResult"]["resources"].as_array().cloned().unwrap_or_default();
        let of = results.iter().find(|one| one["name"] == "migrate").cloned().unwrap_or_default();
        if of["hookPhase"] == "Failed" && of["hookType"] == "PreSync" { Ok(()) } else { Err(state.to_string()) }
    });

    work.write("deploy/pre.json", &job("migrate", hook("PreSync", "HookFailed"), &say("again", "exit 4")));
    work.commit("It fails again");
    assert!(work.push().contains("FAILED application/shop"));
    gone(&coracle, "job/migrate");

    // Mended, it goes on.
    work.write(
        "deploy/pre.json",
        &job("migrate", hook("PreSync", "HookSucceeded,HookFailed"), &say("mended", "exit 0")),
    );
    work.commit("Mended");
    let said = work.push();
    assert!(said.contains("live application/shop"), "{said}");
    assert_eq!(colour(&coracle), "blue");
    let smokes = lines(&log).iter().filter(|line| *line == "smoke").count();
    assert_eq!(smokes, 2, "{:?}", lines(&log));
}

#[test]
fn hooks_run_around_the_end_of_an_application() {
    let (coracle, work) = (Coracle::serve(&["--git-port", "0"]), Work::new());
    remote(&coracle, &work);
    let (log, go) = (work.path().with_file_name("log"), work.path().with_file_name("go"));
    let wait = format!("while ! [ -e {} ]; do sleep 0.1; done; echo before >> {}", go.display(), log.display());
    work.write("deploy/map.json", &map("green"));
    work.write("deploy/pre.json", &job("backup", hook("PreDelete", "HookSucceeded"), &wait));
    let after = format!("echo after >> {}", log.display());
    work.write("deploy/post.json", &job("goodbye", hook("PostDelete", "HookSucceeded"), &after));
    work.commit("First");
    let said = work.push();
    assert!(said.contains("live application/shop"), "{said}");
    assert!(!there(&coracle, "job/backup") && lines(&log).is_empty(), "a sync does not run them");
    eventually("it is held", || {
        let held = application(&coracle)["metadata"]["finalizers"].to_string();
        if held.contains("pre-delete-") && held.contains("post-delete-") { Ok(()) } else { Err(held) }
    });
    // As a user writes it, so that the objects go along.
    let mut object = json!({ "apiVersion": "argoproj.io/v1alpha1", "kind": "Application",
        "metadata": { "name": "shop", "namespace": "argocd", "finalizers": ["resources-finalizer.argocd.argoproj.io"] } });
    object["spec"] = application(&coracle)["spec"].clone();
    work.write("application.json", &object.to_string());
    let file = work.path().join("application.json");
    coracle.ok(&["apply", "-f", file.to_str().expect("UTF-8"), "--force-conflicts"]);

    let output = coracle.run(&["delete", "applications/shop", "-n", "argocd", "--no-wait"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    eventually("the hook before", || if there(&coracle, "job/backup") { Ok(()) } else { Err("no job".into()) });
    assert_eq!(colour(&coracle), "green", "the objects wait for it");
    let conditions = application(&coracle)["status"]["conditions"].to_string();
    assert!(!application(&coracle)["metadata"]["deletionTimestamp"].is_null(), "{conditions}");
    std::fs::write(&go, "").expect("a file");
    gone(&coracle, "configmap/settings");
    eventually("the application is gone", || {
        let output = coracle.run(&["get", "applications/shop", "-n", "argocd", "-o", "json"]);
        if output.status.success() { Err(String::from_utf8_lossy(&output.stdout).into_owned()) } else { Ok(()) }
    });
    assert_eq!(lines(&log), ["before", "after"]);
    gone(&coracle, "job/backup");
    gone(&coracle, "job/goodbye");
}
