//! Programs that end, and a Coracle that does.

use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::bench::{Bench, alive, gone, shell, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_restarted_at_once_and_then_not_so_soon() {
    let bench = Bench::start().await;
    bench.pod("a", json!({"containers": [shell("c", "echo run; exit 3")]})).await;
    let pod = bench
        .until("a", "backing off", |p| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
        .await;
    let container = &pod["status"]["containerStatuses"][0];
    assert_eq!((&container["restartCount"], &container["lastState"]["terminated"]["exitCode"]), (&json!(1), &json!(3)));
    let message = container["state"]["waiting"]["message"].as_str().expect("a message");
    assert!(message.starts_with("back-off 10s restarting failed container=c pod=a_default("), "{message}");
    bench.event("a", "BackOff").await;
    let previous = node::LogQuery { previous: true, ..node::LogQuery::default() };
    assert_eq!(bench.logs("a", previous).await.expect("a log"), "run\n");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_of_coracle_the_same_pod_runs_again_and_nothing_else_does() {
    let mut bench = Bench::start().await;
    let at = bench.folder.path().display().to_string();
    let script = format!("echo $$$$ > {at}/pid.new; mv {at}/pid.new {at}/pid; setsid sleep 300 & wait");
    let made = bench.pod("a", json!({"containers": [shell("c", &script)]})).await;
    bench.until_ready("a").await;
    let first = bench.file("pid").await;
    bench.pod("b", json!({"containers": [shell("c", "sleep 300")]})).await;
    bench.until_ready("b").await;
    bench.crash_node().await;
    std::fs::remove_file(bench.path("pid")).expect("removed");
    let forced = kube::api::DeleteParams::default().grace_period(0);
    bench.pods().delete("b", &forced).await.expect("deleted");
    bench.start_node();
    let pod = bench.until("a", "restarted", |p| p["status"]["containerStatuses"][0]["restartCount"] == 1).await;
    assert_eq!(pod["metadata"]["uid"].as_str(), made.metadata.uid.as_deref());
    let second = bench.file("pid").await;
    gone(&first).await;
    assert!(alive(&second), "it runs again");
    until("what is left of a Pod that is gone goes", || bench.directories() == 1).await;
    bench.end().await;
    gone(&second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announced_end_is_graceful_and_keeps_what_is_declared() {
    let mut bench = Bench::start().await;
    let at = bench.folder.path().display().to_string();
    let script = format!("trap 'echo clean > {at}/clean; exit 0' TERM; echo up; while :; do sleep 0.01; done");
    bench.pod("a", json!({"containers": [shell("c", &script)]})).await;
    bench.until_ready("a").await;
    let up = node::LogQuery { follow: true, limit_bytes: Some(3), ..node::LogQuery::default() };
    assert_eq!(bench.logs("a", up).await.expect("a log"), "up\n");
    bench.stop_node().await;
    assert_eq!(bench.file("clean").await, "clean\n");
    let pod = bench.pods().get("a").await.expect("kept");
    assert_eq!(pod.status.and_then(|s| s.phase).as_deref(), Some("Running"));
    bench.start_node();
    let pod = bench.until("a", "restarted", |p| p["status"]["containerStatuses"][0]["restartCount"] == 1).await;
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&json!(0), &json!("Completed")), "how it ended is remembered");
    bench.until_ready("a").await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_shutdown_interrupts_has_not_completed() {
    let mut bench = Bench::start().await;
    let script = format!("trap 'exit 0' TERM; echo up > {}; while :; do sleep 0.01; done", bench.path("up").display());
    bench.pod("a", json!({"restartPolicy": "OnFailure", "containers": [shell("c", &script)]})).await;
    bench.until_ready("a").await;
    bench.file("up").await;
    bench.stop_node().await;
    let pod = bench.pods().get("a").await.expect("kept");
    assert_eq!(pod.status.and_then(|s| s.phase).as_deref(), Some("Running"), "though it ended with code 0");
    bench.start_node();
    bench.until("a", "run again", |p| p["status"]["containerStatuses"][0]["restartCount"] == 1).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_leaves_nothing_and_its_container_starts_again() {
    let bench = Bench::start().await;
    let at = bench.folder.path().display().to_string();
    let script = format!(
        "setsid sh -c 'echo $$$$ > {at}/away.new; mv {at}/away.new {at}/away; while :; do sleep 0.05; done' & \
         echo $PPID > {at}/shim.new; mv {at}/shim.new {at}/shim; wait"
    );
    bench.pod("a", json!({"terminationGracePeriodSeconds": 1, "containers": [shell("c", &script)]})).await;
    let (shim, away) = (bench.file("shim").await, bench.file("away").await);
    let shim = nix::unistd::Pid::from_raw(shim.trim().parse().expect("a number"));
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).expect("killed");
    bench.until("a", "restarted", |p| p["status"]["containerStatuses"][0]["restartCount"] == 1).await;
    gone(&away).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_another_image_starts_anew_whatever_the_policy() {
    let bench = Bench::with("images:\n  one: {command: [sleep, '300']}\n  two: {command: [sleep, '301']}\n").await;
    bench.pod("a", json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "one"}]})).await;
    bench.until_ready("a").await;
    let patch = Patch::Strategic(json!({"spec": {"containers": [{"name": "c", "image": "two"}]}}));
    bench.pods().patch("a", &PatchParams::default(), &patch).await.expect("patched");
    let new = |p: &serde_json::Value| {
        let status = &p["status"]["containerStatuses"][0];
        status["imageID"] == "recipe://two" && status["state"]["running"].is_object()
    };
    let pod = bench.until("a", "running the new image", new).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 1);
    assert_eq!(bench.event("a", "Killing").await, "Container c definition changed, will be restarted");
    bench.end().await;
}
