//! kill -9 at every step of an apply, of a push and of a sync, with the real binary: the next run completes or says what is
//! left, nothing is half-owned, no lock has to be removed by hand. The steps are those of `delivery::fault`.

use crate::gitsync::{Work, application, remote};
use crate::harness::{Coracle, eventually};
use ::delivery::fault::STEPS;
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

fn map(name: &str, value: &str, annotations: &Value) -> String {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "annotations": annotations },
        "data": { "key": value } })
    .to_string()
}

fn write(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    std::fs::write(path, text).expect("a file");
}

fn value(coracle: &Coracle, name: &str) -> String {
    let output = coracle.run(&["get", &format!("configmap/{name}"), "-o", "json"]);
    let object: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    object["data"]["key"].as_str().unwrap_or_default().to_owned()
}

fn steps(of: &str) -> Vec<&'static str> {
    STEPS.into_iter().filter(|step| step.starts_with(of)).collect()
}

#[test]
fn an_apply_that_is_killed_anywhere_is_completed_by_the_next() {
    let coracle = Coracle::serve(&["--git-port", "0"]);
    for (index, step) in steps("apply.").into_iter().enumerate() {
        let (folder, set) = (tempfile::tempdir().expect("a folder"), format!("set-{index}"));
        let names = ["a", "b", "c"].map(|name| format!("{name}-{index}"));
        let path = folder.path().to_str().expect("UTF-8");
        let apply = ["apply", path, "--set", set.as_str(), "--yes"];
        for (wave, name) in names.iter().enumerate() {
            let waves = json!({ "argocd.argoproj.io/sync-wave": wave.to_string() });
            write(folder.path(), &format!("{name}.json"), &map(name, "one", &waves));
        }
        coracle.ok(&apply);
        // Now one changes, one comes, one goes.
        write(folder.path(), &format!("{}.json", names[0]), &map(&names[0], "two", &json!({})));
        let new = format!("d-{index}");
        write(folder.path(), "d.json", &map(&new, "two", &json!({})));
        std::fs::remove_file(folder.path().join(format!("{}.json", names[2]))).expect("a file");
        assert!(coracle.ended_at(step, &apply), "it never came to {step}");

        let output = coracle.run(&["plan", path, "--set", &set]);
        assert!(output.status.code() != Some(1), "{step}: {}", String::from_utf8_lossy(&output.stderr));
        let noted = String::from_utf8_lossy(&output.stderr).contains("was not applied to its end");
        assert_eq!(noted, !matches!(step, "apply.locked" | "apply.finished"), "{step} is told of");
        // At once: whoever is dead holds nothing.
        let output = coracle.run(&apply);
        assert!(output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!([value(&coracle, &names[0]), value(&coracle, &new)], ["two", "two"], "{step}");
        assert_eq!([value(&coracle, &names[1]), value(&coracle, &names[2])], ["one", ""], "{step}");
        assert_eq!(coracle.run(&["plan", path, "--set", &set]).status.code(), Some(0), "{step}");
        whole(&coracle, &set, step);
    }
}

/// The set is as its newest revision says, which is healthy, and nobody has to clean up.
fn whole(coracle: &Coracle, set: &str, step: &str) {
    let history: Value = serde_json::from_str(&coracle.ok(&["history", set, "-o", "json"])).expect("JSON");
    assert_eq!(history[0]["state"], "healthy", "{step}: {history}");
    assert_eq!(coracle.run(&["drift", set]).status.code(), Some(0), "{step}");
    // What the dead held ends by itself, and at once where somebody wants it.
    if !step.ends_with(".finished") {
        assert_eq!(coracle.ok(&["lock", "list"]).trim(), "nobody is applying anything", "{step}");
    }
}

#[test]
fn a_way_back_that_is_killed_anywhere_is_gone_to_its_end_by_the_next() {
    let coracle = Coracle::serve(&["--git-port", "0"]);
    for (index, step) in steps("apply.").into_iter().enumerate() {
        let (folder, set) = (tempfile::tempdir().expect("a folder"), format!("set-{index}"));
        let [a, b, c] = ["a", "b", "c"].map(|name| format!("{name}-{index}"));
        let path = folder.path().to_str().expect("UTF-8");
        let apply = ["apply", path, "--set", set.as_str(), "--yes"];
        write(folder.path(), "a.json", &map(&a, "one", &json!({ "argocd.argoproj.io/sync-wave": "1" })));
        write(folder.path(), "b.json", &map(&b, "one", &json!({})));
        coracle.ok(&apply);
        write(folder.path(), "a.json", &map(&a, "two", &json!({})));
        write(folder.path(), "c.json", &map(&c, "two", &json!({})));
        std::fs::remove_file(folder.path().join("b.json")).expect("a file");
        coracle.ok(&apply);
        let back = ["rollback", set.as_str(), "--yes"];
        assert!(coracle.ended_at(step, &back), "it never came to {step}");
        // At its very end all is done, and the way back from there leads to what was before.
        if step != "apply.finished" {
            let output = coracle.run(&back);
            assert!(output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stderr));
        }
        assert_eq!([value(&coracle, &a), value(&coracle, &b), value(&coracle, &c)], ["one", "one", ""], "{step}");
        whole(&coracle, &set, step);
    }
}

#[test]
fn taking_a_failed_apply_back_may_be_killed_anywhere() {
    let coracle = Coracle::serve(&["--git-port", "0"]);
    for (index, step) in steps("back.").into_iter().enumerate() {
        let (folder, set) = (tempfile::tempdir().expect("a folder"), format!("set-{index}"));
        let (a, web) = (format!("a-{index}"), format!("web-{index}"));
        let path = folder.path().to_str().expect("UTF-8");
        write(folder.path(), "a.json", &map(&a, "one", &json!({})));
        coracle.ok(&["apply", path, "--set", &set, "--yes"]);
        write(folder.path(), "a.json", &map(&a, "two", &json!({})));
        let broken = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": web }, "spec": {
            "selector": { "matchLabels": { "app": web } }, "template": { "metadata": { "labels": { "app": web } },
                "spec": { "containers": [{ "name": "c", "image": "no/such" }] } } } });
        write(folder.path(), "web.json", &broken.to_string());
        let apply = ["apply", path, "--set", set.as_str(), "--yes", "--rollback", "--timeout", "5"];
        assert!(coracle.ended_at(step, &apply), "it never came to {step}");
        if step != "back.finished" {
            let output = coracle.run(&["rollback", &set, "--yes"]);
            assert!(output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stderr));
        }
        assert_eq!(value(&coracle, &a), "one", "{step}");
        assert!(!coracle.run(&["get", &format!("deployment/{web}")]).status.success(), "{step}");
        whole(&coracle, &set, step);
    }
}

/// A commit with a program, a hook and two waves.
fn commit(work: &Work, word: &str) -> String {
    let hook = json!({ "argocd.argoproj.io/hook": "PostSync" });
    work.write("deploy/a.json", &map("a", word, &json!({})));
    work.write("deploy/b.json", &map("b", word, &json!({ "argocd.argoproj.io/sync-wave": "1" })));
    work.write("deploy/hook.json", &map("hook", word, &hook));
    work.write("src/word", word);
    work.write(
        "coracle.yaml",
        "images:\n  made/here:\n    build: cp src/word made\n    command: [cat, made]\n    inputs: [src]\n",
    );
    let idle = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "idle" }, "spec": { "replicas": 0,
        "selector": { "matchLabels": { "app": "idle" } }, "template": { "metadata": { "labels": { "app": "idle" } },
            "spec": { "containers": [{ "name": "c", "image": "made/here" }] } } } });
    work.write("deploy/idle.json", &idle.to_string());
    work.commit(word)
}

struct Place {
    empty: TempDir,
    data: TempDir,
}

impl Place {
    fn new() -> Self {
        let this = Self { empty: tempfile::tempdir().expect("a folder"), data: tempfile::tempdir().expect("a folder") };
        let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
        std::fs::write(this.empty.path().join("n.yaml"), namespace).expect("a file");
        this
    }

    fn up(&self) -> Coracle {
        let started = Coracle::up_on(self.empty.path(), self.data.path(), &["--git-port", "0"]);
        started.unwrap_or_else(|error| panic!("{error}"))
    }

    fn up_until(&self, fault: &str) -> Coracle {
        let started = Coracle::up_until(self.empty.path(), self.data.path(), &["--git-port", "0"], fault);
        started.unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Everything is as the commit says, and nobody has to clean up.
fn settled(coracle: &Coracle, work: &Work, commit: &str, word: &str, step: &str) {
    remote(coracle, work);
    // What was not taken before is taken now; what was, is there.
    work.push();
    eventually(step, || {
        let status = application(coracle)["status"].clone();
        let synced = status["sync"]["status"] == "Synced" && status["sync"]["revision"] == commit;
        let settled =
            synced && status["health"]["status"] == "Healthy" && status["operationState"]["phase"] != "Running";
        if settled { Ok(()) } else { Err(status.to_string()) }
    });
    let values = ["a", "b", "hook", "gone"].map(|name| value(coracle, name));
    assert_eq!(values, [word, word, word, ""], "{step}");
    let status = application(coracle)["status"].clone();
    assert!(status["coracle"]["failed"].is_null(), "{step}: {status}");
    eventually("the record has the kinds that there are", || {
        let record = coracle.get(&["secrets/application.shop", "-n", "argocd"]);
        let kinds = record["metadata"]["annotations"]["applyset.kubernetes.io/contains-group-kinds"].clone();
        if kinds == "ConfigMap,Deployment.apps" { Ok(()) } else { Err(format!("{step}: {kinds}")) }
    });
    eventually("nothing is held", || {
        // Of those that work on, too.
        let all = walk(&coracle.data().join("git")).into_iter();
        let leftovers: Vec<_> = all.filter(|name| name.ends_with(".lock")).collect();
        let locks = coracle.ok(&["lock", "list"]);
        let nobody = leftovers.is_empty() && locks.trim() == "nobody is applying anything";
        if nobody { Ok(()) } else { Err(format!("{step}: {leftovers:?} {locks}")) }
    });
}

fn walk(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()))
        } else {
            found.push(entry.path().display().to_string())
        }
    }
    found
}

#[test]
fn a_push_that_is_killed_anywhere_is_live_after_the_next_start() {
    for step in steps("push.") {
        let (place, work) = (Place::new(), Work::new());
        let first = commit(&work, "one");
        let mut dying = place.up_until(step);
        remote(&dying, &work);
        let _ = work.try_git(&["push", "-q", "coracle", "HEAD:main"]);
        dying.wait_for_end();
        settled(&place.up(), &work, &first, "one", step);
    }
}

#[test]
fn a_sync_that_is_killed_anywhere_is_completed_after_the_next_start() {
    for step in steps("sync.") {
        let (place, work) = (Place::new(), Work::new());
        work.write("deploy/gone.json", &map("gone", "one", &json!({})));
        commit(&work, "one");
        let mut before = place.up();
        remote(&before, &work);
        assert!(work.push().contains("live application/shop"));
        before.end(nix::sys::signal::Signal::SIGTERM);
        drop(before);
        std::fs::remove_file(work.path().join("deploy/gone.json")).expect("a file");
        let second = commit(&work, "two");
        let mut dying = place.up_until(step);
        remote(&dying, &work);
        let _ = work.try_git(&["push", "-q", "coracle", "HEAD:main"]);
        dying.wait_for_end();
        drop(dying);
        settled(&place.up(), &work, &second, "two", step);
    }
}

#[test]
fn a_build_that_takes_coracle_with_it_is_begun_again() {
    let (place, work) = (Place::new(), Work::new());
    commit(&work, "one");
    let killer = "images:\n  made/here:\n    build: '[ -e ../../killed ] || { touch ../../killed; kill -9 $PPID; }; cp src/word made'\n    inputs: [src]\n";
    work.write("coracle.yaml", killer);
    let first = work.commit("A build that kills");
    let mut dying = place.up();
    remote(&dying, &work);
    let _ = work.try_git(&["push", "-q", "coracle", "HEAD:main"]);
    dying.wait_for_end();
    drop(dying);
    let trees = || {
        let all = std::fs::read_dir(place.data.path().join("programs/trees")).expect("a folder").flatten();
        all.filter(|entry| entry.path().is_dir()).count()
    };
    assert_eq!(trees(), 1, "what it left");
    let next = place.up();
    settled(&next, &work, &first, "one", "a build");
    assert_eq!(trees(), 1, "the left one is gone, and a good one is there");
}
