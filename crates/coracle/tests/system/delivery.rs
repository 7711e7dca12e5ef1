//! Plan, apply, rollback, drift, import and config with the real binary.

use crate::harness::{Coracle, eventually, manifests};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

/// What a command told scripts: one document, and nothing else.
fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", words(output)))
}

fn write(directory: &Path, name: &str, text: &str) {
    std::fs::write(directory.join(name), text).expect("writable");
}

fn config(level: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata: {{LOG_LEVEL: {level}}}\n")
}

fn deployment(command: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  replicas: 1\n  selector: {{matchLabels: \
         {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    spec:\n      containers:\n      - name: c\n        \
         image: coracle.dev/host\n        command: [sh, -c, {command:?}]\n        envFrom: [{{configMapRef: {{name: settings}}}}]\n"
    )
}

#[test]
fn a_directory_is_planned_applied_broken_and_put_back() {
    let coracle = Coracle::serve(&[]);
    let directory = manifests(&[("config.yaml", &config("info")), ("web.yaml", &deployment("exec sleep 1000"))]);
    let path = directory.path().to_str().expect("UTF-8");
    let shop = ["--set", "shop"];
    let run = |arguments: &[&str]| coracle.run(&[arguments, &shop].concat());
    let planned = run(&["plan", path]);
    assert_eq!(planned.status.code(), Some(2), "{}", words(&planned));
    assert!(words(&planned).contains("2 to create"));
    let unasked = run(&["apply", path]);
    assert!(!unasked.status.success() && words(&unasked).contains("nobody to ask"), "{}", words(&unasked));
    let applied = run(&["apply", path, "--yes"]);
    assert!(applied.status.success(), "{}", words(&applied));
    assert_eq!(run(&["plan", path]).status.code(), Some(0));

    // A saved plan is applied exactly, and only once.
    write(directory.path(), "config.yaml", &config("debug"));
    let file = coracle.data().join("plan.json");
    let file = file.to_str().expect("UTF-8");
    let json = run(&["plan", path, "-o", "json", "--out", file]);
    let shown: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(shown["summary"]["change"], 1);
    assert_eq!(shown["changes"][0]["fields"][0]["path"], ".data.LOG_LEVEL");
    assert!(coracle.run(&["apply", "--plan", file]).status.success());
    let stale = coracle.run(&["apply", "--plan", file]);
    assert!(words(&stale).contains("stale") && words(&stale).contains("LOG_LEVEL"), "{}", words(&stale));

    // What breaks says why in its own words, and the last good one comes back.
    write(directory.path(), "web.yaml", &deployment("echo no database; exit 3"));
    let broken = run(&["apply", path, "--yes", "--rollback", "-o", "json"]);
    let said = words(&broken);
    let told = document(&broken);
    assert_eq!((&told["state"], &told["restored"]), (&"failed".into(), &2.into()), "{said}");
    assert!(told["cause"].as_str().expect("a cause").contains("exit code 3"), "{said}");
    assert_eq!(broken.status.code(), Some(1), "{said}");
    for part in ["exit code 3", "its last words: no database", "revision 2 is back"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    let web = coracle.get(&["deployment/web"]);
    assert!(web.to_string().contains("sleep 1000"));
    let history: Value = serde_json::from_str(&coracle.ok(&["history", "shop", "-o", "json"])).expect("JSON");
    assert_eq!((&history[0]["state"], &history[1]["state"]), (&"healthy".into(), &"failed".into()));

    // Who changed what by hand, and what is it?
    let by_hand = manifests(&[("c.yaml", &config("trace"))]);
    let hand = by_hand.path().to_str().expect("UTF-8");
    assert!(coracle.run(&["apply", "-f", hand, "--force-conflicts"]).status.success());
    let drifted = coracle.run(&["drift", "shop"]);
    assert_eq!(drifted.status.code(), Some(2), "{}", words(&drifted));
    assert!(
        words(&drifted).contains(".data.LOG_LEVEL was applied as \"debug\" and is \"trace\""),
        "{}",
        words(&drifted)
    );
    let told = coracle.ok(&["config", "LOG_LEVEL"]);
    assert!(
        told.contains("default  deployment/web  \"trace\"  from configmap/settings in default key LOG_LEVEL"),
        "{told}"
    );
    let back = coracle.run(&["rollback", "shop", "1", "--yes", "--force-conflicts", "-o", "json"]);
    assert!(back.status.success(), "{}", words(&back));
    assert_eq!(document(&back)["state"], "applied", "{}", words(&back));
    let told = coracle.ok(&["config", "LOG_LEVEL"]);
    assert!(told.contains("\"info\"") && told.contains("revision"), "{told}");
}

#[test]
fn commands_that_write_tell_scripts_what_became_of_it() {
    let coracle = Coracle::serve(&[]);
    let directory = manifests(&[("config.yaml", &config("info"))]);
    let path = directory.path().to_str().expect("UTF-8");
    let json = |arguments: &[&str]| {
        let output = coracle.run(&[arguments, &["-o", "json"]].concat());
        (document(&output), output.status.code())
    };
    let file = directory.path().join("config.yaml");
    let file = file.to_str().expect("UTF-8");
    for result in ["created", "unchanged"] {
        let wanted = serde_json::json!({ "objects": [{ "apiVersion": "v1", "kind": "ConfigMap", "namespace": "default",
            "name": "settings", "result": result }] });
        assert_eq!(json(&["apply", "-f", file]), (wanted, Some(0)));
    }
    let (told, code) = json(&["apply", path, "--set", "shop", "--yes"]);
    assert_eq!((&told["format"], &told["state"], code), (&"coracle.dev/release/v1".into(), &"applied".into(), Some(0)));
    assert_eq!((&told["revision"], &told["plan"]["summary"]["adopt"]), (&1.into(), &1.into()), "{told:#}");
    assert_eq!(told["objects"][0]["action"], "adopt", "{told:#}");
    assert_eq!(told["objects"][0]["object"]["name"], "settings", "{told:#}");
    let (told, code) = json(&["apply", path, "--set", "shop", "--yes"]);
    assert_eq!((&told["state"], code), (&"unchanged".into(), Some(0)), "{told:#}");
    write(
        directory.path(),
        "odd.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: odd}\nspec: {ports: [{port: 0}]}\n",
    );
    let (told, code) = json(&["apply", path, "--set", "shop", "--yes"]);
    assert_eq!((&told["state"], code), (&"refused".into(), Some(2)), "{told:#}");
    assert_eq!(told["plan"]["problems"][0]["object"]["name"], "odd", "{told:#}");

    coracle.ok(&["apply", "-f", file, "--force-conflicts"]);
    let taken = tempfile::tempdir().expect("a folder");
    let to = taken.path().to_str().expect("UTF-8");
    coracle.ok(&["delete", "configmap/settings"]);
    coracle.ok(&["apply", "-f", file]);
    let (told, code) = json(&["import", "configmap/settings", "--to", to, "--set", "other"]);
    assert_eq!((&told["object"]["name"], &told["set"]["name"], code), (&"settings".into(), &"other".into(), Some(0)));
    assert!(Path::new(told["manifest"].as_str().expect("a path")).is_file(), "{told}");

    let (told, code) = json(&["delete", "configmaps", "settings", "nothing"]);
    let results = [&told["objects"][0]["result"], &told["objects"][1]["result"]];
    assert_eq!((results, code), ([&"deleted".into(), &"missing".into()], Some(1)), "{told}");
    // One that cannot be deleted ends it, and what was done is told.
    coracle.ok(&["apply", "-f", file]);
    let (told, code) = json(&["delete", "configmaps", "settings", "%zz"]);
    assert_eq!((&told["objects"][0]["result"], code), (&"deleted".into(), Some(1)), "{told}");
}

/// Refused by the API before anything is done, and stdout that nobody reads or that takes nothing: scripts are told, by the document or by the code.
#[test]
fn what_is_refused_or_cannot_be_told_is_no_success() {
    let coracle = Coracle::serve(&[]);
    let wrong = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: wrong, namespace: nowhere}\ndata: {a: x}\n";
    let directory = manifests(&[("wrong.yaml", wrong)]);
    let path = directory.path().to_str().expect("UTF-8");
    let output = coracle.run(&["apply", "-f", path, "-o", "json"]);
    let told = document(&output);
    assert_eq!((&told["objects"], output.status.code()), (&serde_json::json!([]), Some(2)), "{}", words(&output));
    assert!(told["error"].as_str().expect("an error").contains("nothing was changed"), "{told}");

    let into = |arguments: &[&str], stdout: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
        command.args(arguments).arg("--data").arg(coracle.data()).stdin(Stdio::null()).stdout(stdout);
        command.output().expect("it runs")
    };
    let full = || Stdio::from(std::fs::File::create("/dev/full").expect("it is there"));
    let gone = || Stdio::from(std::io::pipe().expect("a pipe").1);
    let apply = ["apply", path, "--set", "shop", "--yes", "-o", "json"];
    for stdout in [full(), gone()] {
        let output = into(&apply, stdout);
        assert_eq!(output.status.code(), Some(2), "{}", words(&output));
    }
    write(directory.path(), "wrong.yaml", &config("info"));
    for (stdout, code) in [(full(), 1), (gone(), 0)] {
        let output = into(&apply, stdout);
        assert_eq!(output.status.code(), Some(code), "{}", words(&output));
    }
    // What is told line by line is done to its end.
    let delete = ["delete", "configmaps", "settings", "nothing"];
    assert_eq!(into(&delete, gone()).status.code(), Some(1));
    assert!(!coracle.run(&["get", "configmap/settings"]).status.success());
}

#[test]
fn an_apply_that_is_killed_is_seen_and_completed() {
    let coracle = Coracle::serve(&[]);
    // Never healthy, so that it is killed in the middle.
    let waiting = deployment("exec sleep 1000")
        .replace("        envFrom", "        readinessProbe: {exec: {command: ['false']}}\n        envFrom");
    let directory = manifests(&[("config.yaml", &config("info")), ("web.yaml", &waiting)]);
    let path = directory.path().to_str().expect("UTF-8");
    let mut killed = Command::new(env!("CARGO_BIN_EXE_coracle"));
    killed.args(["apply", path, "--set", "shop", "--yes", "--data"]).arg(coracle.data());
    let mut killed = killed.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    eventually("it holds the lock and has written", || {
        let held = coracle.ok(&["lock", "list"]);
        let there = coracle.run(&["get", "deployment/web"]).status.success();
        if held.contains("shop") && there { Ok(()) } else { Err(held) }
    });
    let second = coracle.run(&["apply", path, "--set", "shop", "--yes"]);
    // There is nothing left to write, so it may be that nothing is to be done; while it is held, nothing is.
    assert!(!second.status.success() && words(&second).contains("is applying the set shop"), "{}", words(&second));
    killed.kill().expect("killed");
    killed.wait().expect("ended");
    write(directory.path(), "web.yaml", &deployment("exec sleep 1000"));
    let planned = coracle.run(&["plan", path, "--set", "shop"]);
    assert!(words(&planned).contains("was not applied to its end"), "{}", words(&planned));
    let completed = coracle.run(&["apply", path, "--set", "shop", "--yes"]);
    assert!(completed.status.success(), "{}", words(&completed));
    assert_eq!(coracle.run(&["plan", path, "--set", "shop"]).status.code(), Some(0));
}

#[test]
fn what_is_protected_is_held_against_everyone() {
    let coracle = Coracle::serve(&[]);
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec: {accessModes: [ReadWriteOnce], \
                 resources: {requests: {storage: 1Mi}}}\n";
    let directory = manifests(&[("claim.yaml", claim), ("config.yaml", &config("info"))]);
    let path = directory.path().to_str().expect("UTF-8");
    let apply = || coracle.run(&["apply", path, "--set", "shop", "--yes"]);
    assert!(apply().status.success());
    write(directory.path(), "claim.yaml", &claim.replace("name: data", "name: renamed"));
    let moved = apply();
    assert!(
        words(&moved).contains("move persistentvolumeclaim/renamed in default from persistentvolumeclaim/data"),
        "{}",
        words(&moved)
    );
    let refused = coracle.run(&["delete", "pvc/data", "--grace-period", "0"]);
    assert!(words(&refused).contains("it is protected"), "{}", words(&refused));
    let confirmed = ["delete", "pvc/data", "--confirm-delete", "data", "--reason", "it was copied", "--no-wait"];
    assert!(coracle.run(&confirmed).status.success());
}

#[test]
fn environments_are_compared_before_anything_is_applied() {
    let coracle = Coracle::serve(&[]);
    let dev = manifests(&[("c.yaml", &config("debug")), ("w.yaml", &deployment("true"))]);
    let prod = manifests(&[
        ("c.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {URL: ' http://x'}\n"),
        ("w.yaml", &deployment("true")),
    ]);
    let (dev, prod) = (dev.path().to_str().expect("UTF-8"), prod.path().to_str().expect("UTF-8"));
    let checked = coracle.run(&["config", "check", dev, prod]);
    assert_eq!(checked.status.code(), Some(2), "{}", words(&checked));
    for part in ["LOG_LEVEL", "missing", "suspicious", "white space"] {
        assert!(words(&checked).contains(part), "{part} is not in {}", words(&checked));
    }
}

#[test]
#[ignore = "needs kubectl"]
fn kubectl_takes_our_set_for_its_own_and_we_take_its() {
    let coracle = Coracle::serve(&[]);
    let two = format!("{}---\n{}", config("info"), config("info").replace("settings", "second"));
    let directory = manifests(&[("config.yaml", &two)]);
    let path = directory.path().to_str().expect("UTF-8");
    assert!(coracle.run(&["apply", path, "--set", "shop", "--yes"]).status.success());
    let kubectl = |directory: &Path| {
        let mut command = Command::new("kubectl");
        let path = directory.join("config.yaml");
        command.args([
            "apply",
            "--server-side",
            "--force-conflicts",
            "--prune",
            "--applyset=shop",
            "-n",
            "default",
            "-f",
        ]);
        command.arg(path);
        command.env("KUBECONFIG", coracle.kubeconfig()).env("KUBECTL_APPLYSET", "true").env("HOME", coracle.data());
        command.stdin(Stdio::null()).output().expect("kubectl starts; is it installed?")
    };
    // One manifest less: kubectl prunes what we applied.
    let one = manifests(&[("config.yaml", &config("debug"))]);
    let pruned = kubectl(one.path());
    assert!(pruned.status.success() && words(&pruned).contains("configmap/second pruned"), "{}", words(&pruned));
    // And the reverse: we prune what kubectl applied.
    let three = manifests(&[("config.yaml", &two.replace("second", "third"))]);
    let added = kubectl(three.path());
    assert!(added.status.success(), "{}", words(&added));
    let planned = coracle.run(&["plan", path, "--set", "shop"]);
    assert!(words(&planned).contains("configmap/third") && !words(&planned).contains("adopt"), "{}", words(&planned));
    let applied = coracle.run(&["apply", path, "--set", "shop", "--yes", "--force-conflicts"]);
    assert!(applied.status.success(), "{}", words(&applied));
    assert!(!coracle.run(&["get", "configmap/third"]).status.success(), "it is pruned or moved");
}
