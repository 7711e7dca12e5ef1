//! Probes and what follows from them.

use serde_json::json;

use crate::bench::{Bench, is, shell};

#[tokio::test(flavor = "multi_thread")]
async fn no_traffic_before_the_startup_probe_has_passed() {
    let bench = Bench::start().await;
    let file = bench.path("up");
    let mut container = shell("c", "sleep 300");
    container["startupProbe"] = json!({"exec": {"command": ["test", "-e", file]}, "failureThreshold": 300, "periodSeconds": 1, "timeoutSeconds": 20});
    container["livenessProbe"] = json!({"exec": {"command": ["true"]}, "timeoutSeconds": 20});
    bench.pod("a", json!({"containers": [container]})).await;
    let pod =
        bench.until("a", "running", |p| p["status"]["containerStatuses"][0]["state"]["running"].is_object()).await;
    assert!(is(&pod, "Ready", "False") && pod["status"]["containerStatuses"][0]["started"] == false);
    std::fs::write(&file, "").expect("written");
    let pod = bench.until_ready("a").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["started"], true);
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hang_is_ended_by_a_restart() {
    let bench = Bench::start().await;
    // Nothing listens there, and nobody else takes it.
    let held = tokio::net::TcpSocket::new_v4().expect("a socket");
    held.bind((std::net::Ipv4Addr::LOCALHOST, 0).into()).expect("bound");
    let port = held.local_addr().expect("an address").port();
    let up = bench.path("up");
    let mut container = shell("c", &format!("trap '' TERM; echo > {}; while :; do sleep 0.05; done", up.display()));
    // No probe asks before the program has got so far.
    let wait = format!("until [ -e {} ]; do sleep 0.01; done", up.display());
    container["lifecycle"] = json!({"postStart": {"exec": {"command": ["sh", "-c", wait]}}});
    container["livenessProbe"] = json!({"httpGet": {"port": port, "path": "/live"}, "periodSeconds": 1, "failureThreshold": 2,
        "terminationGracePeriodSeconds": 1});
    bench.pod("a", json!({"terminationGracePeriodSeconds": 1, "containers": [container]})).await;
    let pod = bench.until("a", "restarted", |p| p["status"]["containerStatuses"][0]["restartCount"] == 1).await;
    let last = bench
        .until("a", "told of its last run", |p| {
            p["status"]["containerStatuses"][0]["lastState"]["terminated"].is_object()
        })
        .await;
    assert_eq!(last["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 137);
    assert_eq!(pod["metadata"]["uid"], last["metadata"]["uid"]);
    assert!(bench.event("a", "Unhealthy").await.starts_with("Liveness probe failed: Get \"http://127.0.0.1:"));
    assert_eq!(bench.event("a", "Killing").await, "Container c failed liveness probe, will be restarted");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_takes_out_of_rotation_and_back_without_a_restart() {
    let bench = Bench::start().await;
    let file = bench.path("ready");
    std::fs::write(&file, "").expect("written");
    let mut container = shell("c", "sleep 300");
    container["readinessProbe"] = json!({"exec": {"command": ["test", "-e", file]}, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 20});
    bench.pod("a", json!({"containers": [container]})).await;
    bench.until_ready("a").await;
    std::fs::remove_file(&file).expect("removed");
    let pod = bench.until("a", "not ready", |p| is(p, "Ready", "False")).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    std::fs::write(&file, "").expect("written");
    let pod = bench.until_ready("a").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    bench.end().await;
}
