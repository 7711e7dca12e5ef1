//! From a declaration to a running, ready Pod.

use serde_json::{Value, json};

use crate::bench::{Bench, shell};

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_and_says_so() {
    let bench = Bench::with("images:\n  shop/a:\n    command: [sh, -c, 'echo \"$GREETING from $0 on $PORT\"; sleep 300']\n    env: {GREETING: hello}\n").await;
    bench
        .pod(
            "a",
            json!({"containers": [{"name": "c", "image": "shop/a:1", "args": ["$(MY_NAME)"],
            "env": [{"name": "MY_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "ports": [{"containerPort": 8080, "name": "http"}]}]}),
        )
        .await;
    let pod = bench.until_ready("a").await;
    let ports: Value =
        serde_json::from_str(pod["metadata"]["annotations"]["coracle.dev/ports"].as_str().expect("told"))
            .expect("JSON");
    let status = &pod["status"];
    for (what, expected) in [
        ("phase", json!("Running")),
        ("podIP", json!("127.0.0.1")),
        ("hostIP", json!("127.0.0.1")),
        ("qosClass", json!("BestEffort")),
    ] {
        assert_eq!(status[what], expected, "{what}");
    }
    let container = &status["containerStatuses"][0];
    assert_eq!(container["imageID"], "recipe://shop/a");
    assert!(
        container["state"]["running"]["startedAt"].is_string()
            && container["ready"] == true
            && container["started"] == true
    );
    let expected = format!("hello from a on {}\n", ports["8080"]);
    let query = node::LogQuery { follow: true, limit_bytes: Some(expected.len() as u64), ..node::LogQuery::default() };
    assert_eq!(bench.logs("a", query).await.expect("a log"), expected);
    for reason in ["Pulled", "Created", "Started"] {
        bench.event("a", reason).await;
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_ignores_no_signal_that_coracle_was_started_to_ignore() {
    let folder = tempfile::tempdir().expect("a folder");
    let shim = folder.path().join("shim");
    // As shells do with what they start in the background, and nohup.
    let script = format!("#!/bin/sh\ntrap '' HUP INT QUIT\nexec '{}' \"$@\"\n", env!("CARGO_BIN_EXE_container-shim"));
    // By another process: what this one writes cannot be run as long as a child of another test's has it open as well.
    let write = "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"";
    let written = std::process::Command::new("sh").args(["-c", write, "sh", &script]).arg(&shim).status();
    assert!(written.expect("a shell").success());
    let bench = Bench::under("", node::Block::PODS, shim).await;
    let at = bench.path("status");
    let script = format!("cat /proc/self/status > {0}.new; mv {0}.new {0}; sleep 300", at.display());
    bench.pod("a", json!({"containers": [shell("c", &script)]})).await;
    let status = bench.file("status").await;
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).expect("a mask");
    let ignored = u64::from_str_radix(ignored, 16).expect("a mask");
    assert_eq!(ignored & 0x7fff_ffff, 0, "{ignored:x}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_run_in_order_and_sidecars_stay() {
    let bench = Bench::start().await;
    let at = bench.folder.path().display();
    let mut side = shell("side", &format!("echo side >> {at}/order; trap 'exit 0' TERM; while :; do sleep 0.01; done"));
    side["restartPolicy"] = json!("Always");
    bench
        .pod("a", json!({
            "restartPolicy": "Never",
            "initContainers": [shell("first", &format!("sleep 0.1; echo first >> {at}/order")), side, shell("second", &format!("echo second >> {at}/order"))],
            "containers": [shell("main", &format!("echo main >> {at}/order"))]
        }))
        .await;
    let pod = bench.until_phase("a", "Succeeded").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    let order = std::fs::read_to_string(bench.path("order")).expect("written");
    assert_eq!(order.lines().filter(|l| *l != "side").collect::<Vec<_>>(), ["first", "second", "main"]);
    assert!(order.starts_with("first\n"), "{order}");
    bench
        .until("a", "ended with its sidecar", |p| {
            p["status"]["initContainerStatuses"][1]["state"]["terminated"].is_object()
        })
        .await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_recipe_names_both_ways_out() {
    let bench = Bench::start().await;
    bench.pod("a", json!({"containers": [{"name": "c", "image": "shop/none:2"}]})).await;
    let reason =
        |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].as_str().map(str::to_owned);
    bench.until("a", "waiting for its image", |p| reason(p).as_deref() == Some("ImagePullBackOff")).await;
    let message = bench.event("a", "Failed").await;
    for part in ["shop/none:2", "images:", "coracle.yaml", "coracle.dev/host"] {
        assert!(message.contains(part), "{message}");
    }
    bench.delete("a").await;
    bench.until_gone("a").await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_job_pod_is_failed() {
    let bench = Bench::start().await;
    bench.pod("a", json!({"restartPolicy": "Never", "containers": [shell("c", "echo last words >&2; exit 7")]})).await;
    let pod = bench.until_phase("a", "Failed").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 7);
    bench
        .pod(
            "b",
            json!({"restartPolicy": "Never", "activeDeadlineSeconds": 1, "containers": [shell("c", "sleep 300")]}),
        )
        .await;
    let pod = bench.until_phase("b", "Failed").await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    bench.end().await;
}
