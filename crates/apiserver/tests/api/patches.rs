//! The four sorts of patches.

use http::Method;
use serde_json::{Value, json};

use crate::support::*;

const PATH: &str = "/apis/apps/v1/namespaces/default/deployments/a";

#[tokio::test]
async fn json_merge_and_strategic() {
    let server = Harness::start().await;
    server.make(DEPLOYMENTS, deployment("a")).await;
    let json_patch =
        async |patch: Value| server.typed(Method::PATCH, PATH, "application/json-patch+json", patch.to_string()).await;
    let (code, new) = json_patch(json!([{ "op": "test", "path": "/spec/replicas", "value": 2 }, { "op": "replace", "path": "/spec/replicas", "value": 3 }])).await;
    assert_eq!((code, &new["spec"]["replicas"]), (200, &json!(3)));
    let (code, _) = json_patch(json!([{ "op": "test", "path": "/spec/replicas", "value": 9 }])).await;
    assert_eq!(code, 422);
    assert_eq!(json_patch(json!({ "not": "a list" })).await.0, 400);

    let strategic =
        json!({ "spec": { "template": { "spec": { "containers": [{ "name": "second", "image": "x" }] } } } });
    let (code, new) =
        server.typed(Method::PATCH, PATH, "application/strategic-merge-patch+json", strategic.to_string()).await;
    assert_eq!((code, new["spec"]["template"]["spec"]["containers"].as_array().map(Vec::len)), (200, Some(2)));
    let (code, new) =
        server.merge(PATH, json!({ "metadata": { "labels": { "a": "b" } }, "spec": { "paused": true } })).await;
    assert_eq!((code, &new["spec"]["paused"]), (200, &json!(true)));

    assert_eq!(server.typed(Method::PATCH, PATH, "application/json", "{}").await.0, 415);
    assert_eq!(server.merge(PATH, json!({ "metadata": { "name": "b" } })).await.0, 400);
    assert_eq!(server.merge(PATH, json!({ "metadata": { "resourceVersion": "1" } })).await.0, 409);
    assert_eq!(
        server.merge(PATH, json!({ "spec": { "selector": { "matchLabels": { "app": "other" } } } })).await.0,
        422
    );
    assert_eq!(
        server.merge(&format!("{PATH}?fieldValidation=Strict"), json!({ "spec": { "nonsense": 1 } })).await.0,
        400
    );
    assert_eq!(server.merge("/apis/apps/v1/namespaces/default/deployments/none", json!({})).await.0, 404);
    server.stop().await;
}

#[tokio::test]
async fn apply_owns_fields() {
    let server = Harness::start().await;
    let (code, made) = server.apply(PATH, "alice", deployment("a")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["strategy"]["type"], "RollingUpdate", "defaulted");
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "alice");
    assert_eq!(made["metadata"]["managedFields"][0]["operation"], "Apply");
    let (code, same) = server.apply(PATH, "alice", deployment("a")).await;
    assert_eq!((code, &same["metadata"]["resourceVersion"]), (200, &made["metadata"]["resourceVersion"]));

    let mut other = deployment("a");
    other["spec"]["replicas"] = 7.into();
    let (code, conflict) = server.apply(PATH, "bob", other.clone()).await;
    assert_eq!((code, &conflict["reason"]), (409, &json!("Conflict")));
    assert_eq!(conflict["details"]["causes"][0]["reason"], "FieldManagerConflict");
    assert_eq!(conflict["details"]["causes"][0]["field"], ".spec.replicas");
    assert!(
        conflict["message"]
            .as_str()
            .is_some_and(|text| text.starts_with("Apply failed with 1 conflict: conflict with \"alice\"")),
        "{conflict}"
    );
    let forced = format!("{PATH}?fieldManager=bob&force=true");
    let (code, new) = server.typed(Method::PATCH, &forced, "application/apply-patch+yaml", other.to_string()).await;
    assert_eq!((code, &new["spec"]["replicas"]), (200, &json!(7)));

    // What alice no longer applies and nobody else owns goes.
    let mut labelled = deployment("a");
    labelled["metadata"]["labels"] = json!({ "team": "a" });
    labelled["spec"]["replicas"].take();
    labelled["spec"].as_object_mut().expect("a map").remove("replicas");
    let (code, new) = server.apply(PATH, "alice", labelled.clone()).await;
    assert_eq!(
        (code, &new["metadata"]["labels"]["team"], &new["spec"]["replicas"]),
        (200, &json!("a"), &json!(7)),
        "{new}"
    );
    labelled["metadata"].as_object_mut().expect("a map").remove("labels");
    let (_, new) = server.apply(PATH, "alice", labelled).await;
    assert_eq!(new["metadata"].get("labels").and_then(|labels| labels.get("team")), None);

    let (code, refused) =
        server.typed(Method::PATCH, PATH, "application/apply-patch+yaml", deployment("a").to_string()).await;
    assert_eq!((code, &refused["reason"]), (422, &json!("Invalid")), "a manager is needed");
    let (code, _) =
        server.typed(Method::PATCH, &format!("{PATH}?fieldManager=x"), "application/apply-patch+yaml", "kind: [").await;
    assert_eq!(code, 400);
    server.stop().await;
}

#[tokio::test]
async fn racing_patches_all_land() {
    let server = Harness::start().await;
    server.make(CONFIG_MAPS, config_map("a", json!({}))).await;
    let path = format!("{CONFIG_MAPS}/a");
    let patches = (0..12).map(|index| server.merge(&path, json!({ "data": { format!("k{index}"): "x" } })));
    for (code, answer) in futures::future::join_all(patches).await {
        assert_eq!(code, 200, "{answer}");
    }
    assert_eq!(server.get(&path).await.1["data"].as_object().map(serde_json::Map::len), Some(13));
    server.stop().await;
}

fn owned(object: &Value) -> String {
    object["metadata"]["managedFields"].to_string()
}

#[tokio::test]
async fn what_the_server_adds_is_not_its_authors() {
    let server = Harness::start().await;
    let pods = server.make(PODS, pod("a")).await;
    assert_eq!(pods["spec"]["serviceAccountName"], "default");
    assert!(owned(&pods).contains("f:containers") && !owned(&pods).contains("f:serviceAccount"), "{}", owned(&pods));
    let service = json!({ "metadata": { "name": "a" }, "spec": { "ports": [{ "port": 80 }] } });
    let service = server.make(SERVICES, service).await;
    assert!(
        service["spec"]["clusterIP"].is_string() && !owned(&service).contains("f:clusterIP"),
        "{}",
        owned(&service)
    );
    let job = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "a" }, "spec": { "template": { "spec": {
        "restartPolicy": "Never", "containers": [{ "name": "main", "image": "x", "resources": { "limits": { "cpu": 1 } } }] } } } });
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let made = server.make(jobs, job.clone()).await;
    assert!(made["spec"]["selector"].is_object() && !owned(&made).contains("f:selector"), "{}", owned(&made));
    // The number is text from here on, as typed clients expect.
    assert_eq!(made["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"], "1");
    let (code, applied) = server.apply(&format!("{jobs}/a"), "tester", job).await;
    assert_eq!(code, 200, "{applied}");
    assert_eq!(applied["spec"]["selector"], made["spec"]["selector"]);
}

#[tokio::test]
async fn applying_again_writes_nothing() {
    let server = Harness::start().await;
    let job = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "a" }, "spec": { "template": { "spec": {
        "restartPolicy": "Never", "containers": [{ "name": "main", "image": "x", "resources": { "limits": { "cpu": 0.5 } } }] } } } });
    let secret =
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "a" }, "stringData": { "a": "b" } });
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "a" }, "spec": { "type": "NodePort",
        "ports": [{ "port": 80 }], "selector": { "app": "a" } } });
    let mut applied_pod = pod("a");
    applied_pod["spec"]["serviceAccountName"] = Value::Null;
    for (path, object) in [
        ("/api/v1/namespaces/a", json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "a" } })),
        ("/apis/batch/v1/namespaces/default/jobs/a", job),
        ("/api/v1/namespaces/default/secrets/a", secret),
        ("/api/v1/namespaces/default/services/a", service),
        ("/api/v1/namespaces/default/pods/a", applied_pod),
        ("/apis/apps/v1/namespaces/default/deployments/a", deployment("a")),
    ] {
        let (code, first) = server.apply(path, "tester", object.clone()).await;
        assert_eq!(code, 201, "{first}");
        let (code, second) = server.apply(path, "tester", object).await;
        assert_eq!(code, 200, "{second}");
        assert_eq!(first, second, "{path}");
    }
}
