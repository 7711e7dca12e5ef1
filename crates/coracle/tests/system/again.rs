//! Starting again on the same data, and what commands must not do.

use crate::harness::{Coracle, get, manifests};
use crate::probes::application;
use nix::sys::signal::Signal;
use std::process::Output;

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

#[test]
fn starting_again_and_again_waits_each_time_until_all_is_ready() {
    let slow =
        "          readinessProbe: {httpGet: {path: /readyz, port: http}, initialDelaySeconds: 1, timeoutSeconds: 60}";
    let directory = manifests(&[("app.yaml", &application("again", 2, slow))]);
    let data = tempfile::tempdir().expect("a temporary directory");
    for (round, signal) in
        [Signal::SIGINT, Signal::SIGINT, Signal::SIGKILL, Signal::SIGINT, Signal::SIGTERM].into_iter().enumerate()
    {
        let mut coracle =
            Coracle::up_on(directory.path(), data.path(), &[]).unwrap_or_else(|e| panic!("round {round}: {e}"));
        for _ in 0..10 {
            assert_eq!(get(coracle.gateway(), "/").expect("an answer").status, 200, "round {round}: ready means ready");
        }
        assert_eq!(coracle.end(signal), (signal != Signal::SIGKILL).then_some(0), "round {round}");
    }
}

#[test]
fn what_failed_starts_once_its_manifest_is_mended() {
    let broken = application("mended", 1, "          args: [exit, '3']");
    let directory = manifests(&[("app.yaml", &broken)]);
    let data = tempfile::tempdir().expect("a temporary directory");
    let refusal = Coracle::up_on(directory.path(), data.path(), &[]).err().expect("it fails");
    assert!(refusal.contains("exit code 3"), "{refusal}");
    std::fs::write(directory.path().join("app.yaml"), application("mended", 1, "")).expect("writable");
    let coracle = Coracle::up_on(directory.path(), data.path(), &[]).unwrap_or_else(|e| panic!("mended: {e}"));
    assert_eq!(get(coracle.gateway(), "/").expect("an answer").status, 200);
}

#[test]
fn a_pod_alone_is_enough() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: alone}\nspec: {containers: [{name: c, image: fixture, ports: [{containerPort: 8080}]}]}\n";
    let directory = manifests(&[("pod.yaml", pod)]);
    let coracle = Coracle::up(directory.path());
    assert!(coracle.ok(&["get", "pods"]).contains("Running"));
    assert!(coracle.ready["gateway"].is_null());
}

#[test]
fn commands_refuse_what_is_wrong_and_change_nothing() {
    let coracle = Coracle::serve(&[]);
    let file = coracle.data().join("input.yaml");
    let input = file.to_str().expect("UTF-8");
    let run = |command: &str, text: &str| {
        std::fs::write(&file, text).expect("writable");
        coracle.run(&[command, "-f", input])
    };
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kept}\n";
    assert!(run("apply", config).status.success());
    let cases = [
        ("delete", "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: k-}\n".to_owned(), "metadata.name"),
        ("delete", "apiVersion: x.io/v1\nkind: Odd\nmetadata: {name: a}\n".to_owned(), "no kind Odd"),
        ("apply", format!("{config}data: {{a: '1'}}\ndata: {{b: '2'}}\n"), "duplicate"),
        (
            "apply",
            format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: half}}\n---\n{config}data: {{a: 1}}\n"),
            "nothing was changed",
        ),
        ("apply", "apiVersion: x.io/v1\nkind: Odd\nmetadata: {name: a}\n".to_owned(), "no kind Odd"),
    ];
    for (command, text, part) in cases {
        let output = run(command, &text);
        assert!(words(&output).contains(part), "{command} of {text} said {}", words(&output));
        assert_eq!(output.status.code(), Some(2), "{}", words(&output));
    }
    assert!(coracle.ok(&["get", "configmaps"]).contains("kept"), "nothing was deleted");
    assert!(!coracle.ok(&["get", "namespaces"]).contains("half"), "nothing was half applied");
    let set =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: alone}\nspec: {podSelector: {}}\n";
    assert!(words(&run("apply", set)).contains("nothing acts on it yet"));
}
