//! Drift, import and export, and the exercise of a bucket and what uses it.

use crate::harness::{Cluster, claim, config, set, told};
use crate::releases::released;
use delivery::drift::{self, What};
use delivery::history::Provenance;
use delivery::{export, import};
use serde_json::{Value, json};

fn web() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "replicas": 0, "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "web:1", "ports": [{"containerPort": 80}]}]}}}})
}

#[tokio::test]
async fn drift_names_field_manager_and_time() {
    let cluster = Cluster::start().await;
    released(&cluster, &[config("a", json!({"x": "1"})), config("b", json!({}))]).await;
    assert_eq!(drift::drift(cluster.client.clone(), &set(), "coracle").await.unwrap(), []);
    let path = "/api/v1/namespaces/default/configmaps";
    cluster.api.merge(&format!("{path}/a"), &json!({"data": {"x": "by hand"}}), "kubectl-edit").await.unwrap();
    cluster.api.delete(&format!("{path}/b"), "").await.unwrap();
    let found = drift::drift(cluster.client.clone(), &set(), "coracle").await.unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    let changed = found.iter().find(|one| one.what == What::Changed).expect("a is changed");
    assert_eq!((changed.field.as_str(), changed.manager.as_str()), (".data.x", "kubectl-edit"));
    assert_eq!((&changed.applied, &changed.live), (&Some(json!("1")), &Some(json!("by hand"))));
    assert!(changed.time.is_some());
    assert!(found.iter().any(|one| one.what == What::Missing && one.object.name == "b"));
    assert_eq!(drift::summary(&found).3, 2);
    cluster.stop().await;
}

#[tokio::test]
async fn what_is_imported_needs_no_change() {
    let cluster = Cluster::start().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    cluster.api.create(path, &web(), "kubectl-create").await.expect("made by hand");
    released(&cluster, &[config("a", json!({"x": "1"}))]).await;
    let manifest =
        import::manifest(cluster.client.clone(), &set(), "deploy", "default", "web").await.expect("a manifest");
    let mut wanted = web();
    wanted["metadata"]["namespace"] = "default".into();
    assert_eq!(manifest, wanted, "as somebody wrote it");
    let provenance = Provenance::default();
    import::adopt(cluster.client.clone(), &set(), &manifest, "coracle", &provenance).await.expect("adopted");
    let plan = cluster.plan(&[config("a", json!({"x": "1"})), manifest]).await;
    assert_eq!((told(&plan).as_str(), plan.unchanged), ("", 2));
    assert_eq!(drift::drift(cluster.client.clone(), &set(), "coracle").await.unwrap(), []);
    let other = delivery::applyset::Set::new("default", "other");
    let taken = import::manifest(cluster.client.clone(), &other, "deploy", "default", "web").await.unwrap_err();
    assert!(taken.to_string().contains("another set"), "{taken}");
    cluster.stop().await;
}

#[tokio::test]
async fn what_lives_can_be_made_again_elsewhere() {
    let cluster = Cluster::start().await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    // Put together by hand, months ago.
    for (path, object) in [
        ("/apis/apps/v1/namespaces/default/deployments", web()),
        ("/api/v1/namespaces/default/services", service),
        ("/api/v1/namespaces/default/configmaps", config("settings", json!({"x": "1"}))),
    ] {
        cluster.api.create(path, &object, "hand").await.expect("created");
    }
    let mut exported = Vec::new();
    for path in [
        "/apis/apps/v1/namespaces/default/deployments",
        "/api/v1/namespaces/default/services",
        "/api/v1/namespaces/default/configmaps",
    ] {
        let live = cluster.api.list(path, "").await.expect("listed");
        exported.extend(live.iter().filter(|object| export::is_wanted(object)).map(export::clean));
    }
    assert_eq!(exported.len(), 3, "{exported:?}");
    let elsewhere = Cluster::start().await;
    let plan = elsewhere.bring(&exported).await;
    assert_eq!(told(&plan), "create configmap/settings, create service/web, create deployment/web");
    assert_eq!(told(&elsewhere.plan(&exported).await), "");
    elsewhere.stop().await;
    cluster.stop().await;
}

/// Provision a bucket and what uses it; rename it behind the tool; the plan says so and destroys nothing; import adopts.
#[tokio::test]
async fn exercise_state_and_drift() {
    let cluster = Cluster::start().await;
    let bucket = |name: &str| claim(name);
    let user = |bucket: &str| {
        let mut web = web();
        web["spec"]["template"]["spec"]["volumes"] =
            json!([{"name": "b", "persistentVolumeClaim": {"claimName": bucket}}]);
        web
    };
    released(&cluster, &[bucket("bucket"), user("bucket")]).await;
    // Renamed behind the tool: another claim is there, released from nobody, and the old one is gone for good.
    cluster.api.create("/api/v1/namespaces/default/persistentvolumeclaims", &bucket("bucket-2"), "hand").await.unwrap();
    let path = "/api/v1/namespaces/default/persistentvolumeclaims/bucket";
    let confirm = json!({"metadata": {"annotations": {"coracle.dev/confirm-delete": "bucket", "coracle.dev/delete-reason": "renamed"}}});
    cluster.api.merge(path, &confirm, "hand").await.unwrap();
    cluster.api.delete(path, "").await.unwrap();
    let plan = cluster.plan(&[bucket("bucket"), user("bucket")]).await;
    assert_eq!(told(&plan), "create persistentvolumeclaim/bucket");
    let drifted = drift::drift(cluster.client.clone(), &set(), "coracle").await.unwrap();
    assert!(drifted.iter().any(|one| one.what == What::Missing && one.object.name == "bucket"), "{drifted:?}");

    // In the manifests as well: adopted, and nothing destroyed.
    let plan = cluster.plan(&[bucket("bucket-2"), user("bucket-2")]).await;
    assert_eq!(told(&plan), "adopt persistentvolumeclaim/bucket-2, change deployment/web");
    let manifest =
        import::manifest(cluster.client.clone(), &set(), "pvc", "default", "bucket-2").await.expect("a manifest");
    import::adopt(cluster.client.clone(), &set(), &manifest, "coracle", &Provenance::default()).await.expect("adopted");
    released(&cluster, &[manifest.clone(), user("bucket-2")]).await;
    assert_eq!(told(&cluster.plan(&[manifest, user("bucket-2")]).await), "");
    cluster.stop().await;
}
