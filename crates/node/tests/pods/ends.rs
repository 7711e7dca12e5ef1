//! A Pod's end.

use serde_json::json;

use crate::bench::{Bench, alive, shell};

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_pod_drains_runs_its_hook_and_ends_before_its_object() {
    let bench = Bench::start().await;
    let at = bench.folder.path().display().to_string();
    let script = format!(
        "trap 'echo term >> {at}/order; exit 0' TERM; echo $$$$ > {at}/pid.new; mv {at}/pid.new {at}/pid; while :; do sleep 0.01; done"
    );
    let mut container = shell("c", &script);
    container["ports"] = json!([{"containerPort": 80}]);
    container["lifecycle"] =
        json!({"preStop": {"exec": {"command": ["sh", "-c", format!("echo hook >> {at}/order")]}}});
    bench.pod("a", json!({"containers": [container]})).await;
    bench.until_ready("a").await;
    let pid = bench.file("pid").await;
    bench.delete("a").await;
    bench.until_gone("a").await;
    assert!(!alive(&pid), "the object goes last");
    assert_eq!(bench.file("order").await, "hook\nterm\n");
    assert_eq!(bench.traffic.0.lock().expect("not poisoned").len(), 1);
    assert_eq!(bench.event("a", "Killing").await, "Stopping container c");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_in_its_grace_period_is_killed() {
    let bench = Bench::start().await;
    let at = bench.folder.path().display().to_string();
    let script =
        format!("trap '' TERM; echo $$$$ > {at}/pid.new; mv {at}/pid.new {at}/pid; while :; do sleep 0.05; done");
    bench.pod("a", json!({"terminationGracePeriodSeconds": 1, "containers": [shell("c", &script)]})).await;
    bench.until_ready("a").await;
    let pid = bench.file("pid").await;
    bench.delete("a").await;
    bench.until_gone("a").await;
    assert!(!alive(&pid));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_shuts_down_waits_for_what_is_being_deleted_and_no_longer() {
    let mut bench = Bench::start().await;
    let go = bench.path("go");
    let wait = format!("trap 'while [ ! -e {} ]; do sleep 0.01; done; exit 0' TERM", go.display());
    let script = format!("{wait}; echo up > {}; while :; do sleep 0.01; done", bench.path("up").display());
    bench.pod("a", json!({"containers": [shell("c", &script)]})).await;
    bench.until_ready("a").await;
    bench.file("up").await;
    bench.delete("a").await;
    assert_eq!(bench.event("a", "Killing").await, "Stopping container c");
    let ended = async { std::fs::write(go, "").expect("written") };
    tokio::join!(bench.stop_node(), ended);
    bench.start_node();
    bench.until_gone("a").await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_followed_ends_with_the_container() {
    let bench = Bench::start().await;
    let at = bench.folder.path().display().to_string();
    let script = format!("echo one; while [ ! -e {at}/go ]; do sleep 0.01; done; echo two");
    bench.pod("a", json!({"restartPolicy": "Never", "containers": [shell("c", &script)]})).await;
    bench.until("a", "running", |p| p["status"]["containerStatuses"][0]["state"]["running"].is_object()).await;
    let mut lines = bench.node.lines();
    let follow = bench.logs("a", node::LogQuery { follow: true, ..node::LogQuery::default() });
    let go = async { std::fs::write(bench.path("go"), "").expect("written") };
    let (text, ()) = tokio::join!(follow, go);
    assert_eq!(text.expect("a log"), "one\ntwo\n");
    let line = lines.next().await.expect("open").expect("a line");
    assert_eq!((&*line.pod, &*line.container), ("a", "c"));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_takes_all_the_time_does_not_take_the_programs_chance_to_end() {
    let bench = Bench::start().await;
    let at = bench.folder.path().display().to_string();
    let script = format!("trap 'echo term > {at}/order; exit 0' TERM; echo up > {at}/up; while :; do sleep 0.01; done");
    let mut container = shell("c", &script);
    container["lifecycle"] = json!({"preStop": {"exec": {"command": ["sleep", "300"]}}});
    bench.pod("a", json!({"terminationGracePeriodSeconds": 1, "containers": [container]})).await;
    bench.until_ready("a").await;
    bench.file("up").await;
    bench.delete("a").await;
    bench.until_gone("a").await;
    assert_eq!(bench.file("order").await, "term\n");
    let told = bench.event("a", "FailedPreStopHook").await;
    assert_eq!(told, "PreStopHook failed: it did not end within the grace period");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_over_only_when_its_sidecars_are() {
    let bench = Bench::start().await;
    let at = bench.folder.path().display().to_string();
    let wait = "trap 'while [ ! -e go ]; do sleep 0.01; done; exit 0' TERM; echo up > up; while :; do sleep 0.01; done";
    let mut side = shell("s", &format!("cd {at} && {wait}"));
    side["restartPolicy"] = json!("Always");
    // The others begin, and so end, once it heeds its end.
    side["startupProbe"] = json!({"exec": {"command": ["test", "-e", bench.path("up")]}, "periodSeconds": 1,
        "failureThreshold": 300, "timeoutSeconds": 20});
    let spec = json!({"restartPolicy": "Never", "initContainers": [side], "containers": [shell("c", "true")]});
    bench.pod("a", spec).await;
    let ended = |p: &serde_json::Value| p["status"]["containerStatuses"][0]["state"]["terminated"].is_object();
    let pod = bench.until("a", "done but for its sidecar", ended).await;
    assert_eq!(pod["status"]["phase"], "Running");
    std::fs::write(bench.path("go"), "").expect("written");
    let pod = bench.until_phase("a", "Succeeded").await;
    assert!(pod["status"]["initContainerStatuses"][0]["state"]["terminated"].is_object());
    bench.end().await;
}
