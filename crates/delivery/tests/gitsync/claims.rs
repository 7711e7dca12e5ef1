//! Claims that a protected StatefulSet makes by itself carry its mark, and cannot be deleted by a slip.

use serde_json::{Value, json};

use crate::harness::Cluster;

fn claim(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": name, "namespace": "shop" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Mi" } } } })
}

fn path(name: &str) -> String {
    format!("/api/v1/namespaces/shop/persistentvolumeclaims/{name}")
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_a_protected_set_are_marked_whenever_they_come() {
    let cluster = Cluster::start().await;
    // Before the set is protected nothing is marked; afterwards both the old and the new.
    cluster.apply(&claim("data-db-0")).await;
    cluster.apply(&claim("data-other-0")).await;
    let mut set = json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "db", "namespace": "shop" },
        "spec": { "serviceName": "db", "replicas": 0, "selector": { "matchLabels": { "app": "db" } },
            "template": { "metadata": { "labels": { "app": "db" } }, "spec": { "containers": [{ "name": "c", "image": "db" }] } },
            "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": claim("x")["spec"] }] } });
    cluster.apply(&set).await;
    set["metadata"]["annotations"] = json!({ "coracle.dev/protect": "true" });
    cluster.apply(&set).await;
    let marked = |object: Option<&Value>| {
        object.is_some_and(|object| object["metadata"]["annotations"]["coracle.dev/protect"] == "true")
    };
    cluster.until(&path("data-db-0"), "marked", marked).await;
    cluster.apply(&claim("data-db-1")).await;
    cluster.until(&path("data-db-1"), "marked", marked).await;
    let refused = cluster.api.delete(&path("data-db-1"), "").await.expect_err("it is protected");
    assert!(refused.to_string().contains("protected"), "{refused}");
    let other = cluster.api.get(&path("data-other-0")).await.expect("it is there");
    assert!(other["metadata"]["annotations"]["coracle.dev/protect"].is_null(), "{other}");
    cluster.stop().await;
}
