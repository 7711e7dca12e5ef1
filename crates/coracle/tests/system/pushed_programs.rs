//! Recipes are built from what is pushed: Pods run the program of the pushed commit, a failed build changes nothing.

use crate::gitsync::{Work, application, remote};
use crate::harness::{Coracle, eventually};
use serde_json::Value;

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: web, image: "shop/web:dev"}]
"#;

/// The build makes the program out of its source; the cache outlives commits.
fn recipe(work: &Work, build: &str) {
    let text = format!(
        "images:\n  shop/web:\n    command: [./bin/web]\n    build: |\n      {build}\n    inputs: [src]\n  not/used:\n    build: exit 9\n"
    );
    work.write("coracle.yaml", &text);
}

const GOOD: &str = "mkdir -p bin; { echo '#!/bin/sh'; cat src/web; } > bin/web; chmod +x bin/web; \
     echo x >> $CORACLE_CACHE_DIR/count; echo compiled $(cat src/word) of $CORACLE_COMMIT build $(wc -l < $CORACLE_CACHE_DIR/count)";

fn source(work: &Work, word: &str) {
    work.write("src/word", word);
    work.write("src/web", &format!("echo this is {word}; trap 'exit 0' TERM; while :; do sleep 1; done\n"));
}

/// What the Pods of the Deployment that are not ending say.
fn words(coracle: &Coracle) -> String {
    let pods = coracle.get(&["pods"]);
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    let living = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let say = |pod: &Value| {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        String::from_utf8_lossy(&coracle.run(&["logs", name]).stdout).into_owned()
    };
    living.map(say).collect()
}

fn image(coracle: &Coracle) -> String {
    let web = coracle.get(&["deployments/web"]);
    web["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned()
}

fn says(coracle: &Coracle, wanted: &str) {
    eventually(wanted, || {
        let said = words(coracle);
        if said.contains(wanted) { Ok(()) } else { Err(said) }
    });
}

#[test]
fn pods_run_the_program_of_the_pushed_commit() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let empty = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(empty.path().join("n.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n")
        .expect("a file");
    let work = Work::new();
    let mut coracle = Coracle::up_on(empty.path(), data.path(), &["--git-port", "0"]).unwrap_or_else(|e| panic!("{e}"));
    remote(&coracle, &work);
    work.write("deploy/web.yaml", WEB);
    recipe(&work, GOOD);
    source(&work, "one");
    let first = work.commit("First");
    let said = work.push();
    for part in
        [&format!("compiled one of {first} build 1"), "building shop/web", "built shop/web", "live application/shop"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    says(&coracle, "this is one");
    let one = image(&coracle);
    assert!(one.starts_with("shop/web:dev@sha256:"), "{one}");

    // A new program rolls out though no manifest changed.
    source(&work, "two");
    work.commit("Second");
    let said = work.push();
    assert!(said.contains("build 2") && said.contains("live application/shop"), "{said}");
    says(&coracle, "this is two");
    let two = image(&coracle);
    assert_ne!(one, two);

    // A manifest alone builds nothing and leaves the Pods alone.
    work.write("deploy/map.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: b}\n");
    work.commit("A manifest");
    let said = work.push();
    assert!(!said.contains("building shop/web:") && said.contains("live application/shop"), "{said}");
    assert_eq!(image(&coracle), two);

    // A build that fails is told with its words, and nothing has changed.
    recipe(&work, "echo no such header; exit 7");
    work.write("deploy/map.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: c}\n");
    let broken = work.commit("Broken");
    let said = work.push();
    assert!(said.contains("FAILED application/shop") && said.contains("no such header"), "{said}");
    assert!(said.contains("exit status: 7"), "{said}");
    assert_eq!(image(&coracle), two);
    assert_eq!(coracle.get(&["configmaps/settings"])["data"]["a"], "b", "not the good half of a commit either");
    let conditions = application(&coracle)["status"]["conditions"].to_string();
    assert!(conditions.contains(&broken[..12]) && conditions.contains("exit status: 7"), "{conditions}");

    // After a kill -9 the same program runs.
    coracle.end(nix::sys::signal::Signal::SIGKILL);
    let again = Coracle::up_on(empty.path(), data.path(), &["--git-port", "0"]).unwrap_or_else(|e| panic!("{e}"));
    says(&again, "this is two");
    assert_eq!(image(&again), two);
}
