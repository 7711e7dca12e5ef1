//! Configuration that comes late, and that changes.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::bench::{Bench, shell};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_and_used_as_soon_as_it_is_there() {
    let bench = Bench::start().await;
    let mut container = shell("c", "echo level=$LEVEL; sleep 300");
    container["envFrom"] = json!([{"configMapRef": {"name": "late"}}]);
    bench.pod("a", json!({"containers": [container]})).await;
    let waiting = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    let pod = bench.until("a", "waiting", |p| waiting(p)["reason"] == "CreateContainerConfigError").await;
    assert_eq!(waiting(&pod)["message"], "configmap \"late\" not found");
    bench.config_map("late", json!({"LEVEL": "debug"})).await;
    let pod = bench.until_ready("a").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_map_reaches_the_file_without_a_restart() {
    let bench = Bench::start().await;
    bench.config_map("conf", json!({"level": "info"})).await;
    let at = bench.folder.path().display();
    let script = format!(
        "f=$VOLUME_CONF/level; cp $f {at}/before.new; mv {at}/before.new {at}/before; \
         while [ \"$(cat $f)\" = info ]; do sleep 0.01; done; cp $f {at}/after.new; mv {at}/after.new {at}/after; sleep 300"
    );
    let mut container = shell("c", &script);
    container["volumeMounts"] = json!([{"name": "conf", "mountPath": "/etc/coracle-test-conf"}]);
    bench
        .pod("a", json!({"volumes": [{"name": "conf", "configMap": {"name": "conf"}}], "containers": [container]}))
        .await;
    assert_eq!(bench.file("before").await, "info");
    let patch = Patch::Merge(json!({"data": {"level": "debug"}}));
    bench.maps().patch("conf", &PatchParams::default(), &patch).await.expect("patched");
    assert_eq!(bench.file("after").await, "debug");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_a_missing_map_is_told_and_tried_again() {
    let bench = Bench::start().await;
    let pod =
        json!({"volumes": [{"name": "conf", "configMap": {"name": "later"}}], "containers": [shell("c", "sleep 300")]});
    bench.pod("a", pod).await;
    let message = bench.event("a", "FailedMount").await;
    assert!(message.contains("configmap \"later\" not found"), "{message}");
    bench.config_map("later", json!({})).await;
    bench.until_ready("a").await;
    bench.end().await;
}
