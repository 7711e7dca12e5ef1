//! Creating, changing and deleting objects.

use crate::support::*;
use serde_json::{Value, json};

#[tokio::test]
async fn an_object_lives_its_life() {
    let server = Harness::start().await;
    let made = server.make(CONFIG_MAPS, config_map("a", json!({}))).await;
    let metadata = &made["metadata"];
    assert_eq!(metadata["namespace"], "default");
    assert!(
        metadata["uid"].is_string()
            && metadata["creationTimestamp"].is_string()
            && metadata["resourceVersion"].is_string()
    );
    assert_eq!(metadata["managedFields"][0]["manager"], "tester");
    let path = format!("{CONFIG_MAPS}/a");
    assert_eq!(server.get(&path).await, (200, made.clone()));

    let (code, again) = server.post(CONFIG_MAPS, config_map("a", json!({}))).await;
    assert_eq!((code, &again["reason"]), (409, &json!("AlreadyExists")));
    assert_eq!(again["message"], "configmaps \"a\" already exists");

    let mut changed = made.clone();
    changed["data"]["key"] = "other".into();
    let (code, new) = server.put(&path, changed.clone()).await;
    assert_eq!((code, &new["data"]["key"]), (200, &json!("other")));
    assert_ne!(new["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let (code, stale) = server.put(&path, changed).await;
    assert_eq!((code, &stale["reason"]), (409, &json!("Conflict")));
    assert!(stale["message"].as_str().is_some_and(|text| text.contains("the object has been modified")));

    let (code, status) = server.delete(&path, Value::Null).await;
    assert_eq!((code, &status["status"]), (200, &json!("Success")));
    assert_eq!(status["details"]["uid"], made["metadata"]["uid"]);
    let (code, gone) = server.get(&path).await;
    assert_eq!((code, &gone["reason"]), (404, &json!("NotFound")));
    assert_eq!(gone["message"], "configmaps \"a\" not found");
    assert_eq!(gone["details"], json!({ "name": "a", "kind": "configmaps" }));
    server.stop().await;
}

#[tokio::test]
async fn a_write_of_nothing_changes_nothing() {
    let server = Harness::start().await;
    let made = server.make(DEPLOYMENTS, deployment("a")).await;
    let path = format!("{DEPLOYMENTS}/a");
    let before = server.store.revision();
    assert_eq!(server.put(&path, made.clone()).await, (200, made.clone()));
    assert_eq!(server.put(&path, deployment("a")).await, (200, made.clone()));
    assert_eq!(server.merge(&path, json!({ "spec": { "replicas": 2 } })).await, (200, made.clone()));
    let strategic =
        json!({ "spec": { "template": { "spec": { "containers": [{ "name": "main", "image": "some/image" }] } } } });
    let (code, same) =
        server.typed(http::Method::PATCH, &path, "application/strategic-merge-patch+json", strategic.to_string()).await;
    assert_eq!((code, same), (200, made));
    assert_eq!(server.store.revision(), before);
    server.stop().await;
}

#[tokio::test]
async fn generations_count_changes_of_what_is_wanted() {
    let server = Harness::start().await;
    let path = format!("{DEPLOYMENTS}/a");
    assert_eq!(server.make(DEPLOYMENTS, deployment("a")).await["metadata"]["generation"], 1);
    let (_, labelled) = server.merge(&path, json!({ "metadata": { "labels": { "x": "y" } } })).await;
    assert_eq!(labelled["metadata"]["generation"], 1);
    let (_, scaled) = server.merge(&path, json!({ "spec": { "replicas": 5 }, "status": { "replicas": 9 } })).await;
    assert_eq!((&scaled["metadata"]["generation"], &scaled["status"]["replicas"]), (&json!(2), &Value::Null));
    let status = format!("{path}/status");
    let (code, said) = server
        .merge(&status, json!({ "spec": { "replicas": 1 }, "status": { "replicas": 4, "observedGeneration": 2 } }))
        .await;
    assert_eq!(code, 200, "{said}");
    assert_eq!(
        (&said["spec"]["replicas"], &said["status"]["replicas"], &said["metadata"]["generation"]),
        (&json!(5), &json!(4), &json!(2))
    );
    server.stop().await;
}

#[tokio::test]
async fn names_are_generated_and_dry_runs_leave_nothing() {
    let server = Harness::start().await;
    let body = json!({ "metadata": { "generateName": "job-" } });
    let first = server.make(CONFIG_MAPS, body.clone()).await;
    let second = server.make(CONFIG_MAPS, body).await;
    assert!(first["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("job-") && name.len() == 9));
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
    let before = server.store.revision();
    let (code, tried) = server.post(&format!("{CONFIG_MAPS}?dryRun=All"), config_map("tried", json!({}))).await;
    assert_eq!(code, 201);
    assert!(tried["metadata"]["uid"].is_string());
    assert_eq!(server.get(&format!("{CONFIG_MAPS}/tried")).await.0, 404);
    assert_eq!(server.post(&format!("{CONFIG_MAPS}?dryRun=Some"), config_map("x", json!({}))).await.0, 422);
    let (code, _) = server
        .delete(
            &format!("{CONFIG_MAPS}/{}?dryRun=All", first["metadata"]["name"].as_str().unwrap_or_default()),
            Value::Null,
        )
        .await;
    assert_eq!(code, 200);
    assert_eq!(server.store.revision(), before);
    server.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_its_schema_is_refused_or_said() {
    let server = Harness::start().await;
    let mut body = deployment("a");
    body["spec"]["replicaz"] = 3.into();
    let (code, refused) = server.post(&format!("{DEPLOYMENTS}?fieldValidation=Strict"), body.clone()).await;
    assert_eq!((code, &refused["reason"]), (400, &json!("BadRequest")));
    assert_eq!(
        refused["message"],
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.replicaz\""
    );
    let request =
        http::Request::post(DEPLOYMENTS).body(http_body_util::Full::from(body.to_string())).expect("a request");
    let response = server.send(request).await;
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["warning"], "299 - \"unknown field \\\"spec.replicaz\\\"\"");
    assert_eq!(server.get(&format!("{DEPLOYMENTS}/a")).await.1["spec"].get("replicaz"), None);

    let twice = r#"{"metadata":{"name":"b"},"data":{"x":"1"},"data":{"x":"2"}}"#;
    let (code, refused) = server
        .typed(http::Method::POST, &format!("{CONFIG_MAPS}?fieldValidation=Strict"), "application/json", twice)
        .await;
    assert_eq!(code, 400);
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("duplicate field \"data\"")), "{refused}");

    let mut mistyped = deployment("c");
    mistyped["spec"]["replicas"] = "3".into();
    assert_eq!(server.post(&format!("{DEPLOYMENTS}?fieldValidation=Ignore"), mistyped).await.0, 400);

    let mut invalid = deployment("d");
    invalid["spec"]["replicas"] = (-1).into();
    let (code, refused) = server.post(DEPLOYMENTS, invalid).await;
    assert_eq!((code, &refused["reason"]), (422, &json!("Invalid")));
    assert_eq!(refused["details"]["causes"][0]["field"], "spec.replicas");
    assert_eq!(refused["details"]["kind"], "Deployment");
    assert!(
        refused["message"]
            .as_str()
            .is_some_and(|text| text.starts_with("Deployment.apps \"d\" is invalid: spec.replicas: Invalid value: -1"))
    );
    server.stop().await;
}

#[tokio::test]
async fn bodies_and_methods_that_make_no_sense() {
    let server = Harness::start().await;
    let post = |media: &'static str, body: &'static str| server.typed(http::Method::POST, CONFIG_MAPS, media, body);
    assert_eq!(post("application/json", "{").await.0, 400);
    assert_eq!(post("application/json", "").await.0, 400);
    assert_eq!(post("text/csv", "a,b").await.0, 415);
    assert_eq!(post("application/yaml", "metadata: {name: from-yaml}\ndata: {a: b}\n").await.0, 201);
    assert_eq!(post("application/json", r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"x"}}"#).await.0, 400);
    assert_eq!(post("application/json", r#"{"metadata":{"name":"x","namespace":"other"}}"#).await.0, 400);
    let large = format!(r#"{{"metadata":{{"name":"x"}},"data":{{"k":"{}"}}}}"#, "a".repeat(3 * 1024 * 1024));
    let (code, status) = server.typed(http::Method::POST, CONFIG_MAPS, "application/json", large).await;
    assert_eq!((code, &status["reason"]), (413, &json!("RequestEntityTooLarge")));
    assert_eq!(server.call(http::Method::PUT, CONFIG_MAPS, &json!({})).await.0, 405);
    assert_eq!(server.call(http::Method::POST, "/api/v1/configmaps", &json!({})).await.0, 405);
    assert_eq!(server.get("/api/v1/namespaces/default/nothings").await.0, 404);
    assert_eq!(server.get("/apis/none.io/v1/things").await.0, 404);
    let request = http::Request::get("/api/v1/pods")
        .header("accept", "text/html")
        .body(http_body_util::Full::default())
        .expect("a request");
    assert_eq!(server.send(request).await.status(), 406);
    server.stop().await;
}

#[tokio::test]
async fn namespaces_bound_what_is_in_them() {
    let server = Harness::start().await;
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let (code, namespace) = server.get(&format!("/api/v1/namespaces/{name}")).await;
        assert_eq!((code, &namespace["status"]["phase"]), (200, &json!("Active")), "{name}");
    }
    let there = "/api/v1/namespaces/shop/configmaps";
    let (code, missing) = server.post(there, config_map("a", json!({}))).await;
    assert_eq!((code, &missing["message"]), (404, &json!("namespaces \"shop\" not found")));
    let made = server.make("/api/v1/namespaces", json!({ "metadata": { "name": "shop" } })).await;
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "shop");
    server.make(there, config_map("a", json!({}))).await;

    assert_eq!(server.delete("/api/v1/namespaces/default", Value::Null).await.0, 403);
    let (code, going) = server.delete("/api/v1/namespaces/shop", Value::Null).await;
    assert_eq!((code, &going["status"]["phase"]), (200, &json!("Terminating")));
    let (code, refused) = server.post(there, config_map("b", json!({}))).await;
    assert_eq!((code, &refused["reason"]), (403, &json!("Forbidden")));
    assert_eq!(refused["details"]["causes"][0]["reason"], "NamespaceTerminating");
    assert_eq!(server.get("/api/v1/namespaces/shop").await.0, 200, "it waits for its finalizer");
    let mut finalized = going.clone();
    finalized["spec"]["finalizers"] = json!([]);
    assert_eq!(server.put("/api/v1/namespaces/shop/finalize", finalized).await.0, 200);
    assert_eq!(server.get("/api/v1/namespaces/shop").await.0, 404);
    server.stop().await;
}

#[tokio::test]
async fn deletions_wait_for_finalizers_and_check_preconditions() {
    let server = Harness::start().await;
    let path = format!("{CONFIG_MAPS}/a");
    let mut body = config_map("a", json!({}));
    body["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let made = server.make(CONFIG_MAPS, body).await;
    let wrong = json!({ "preconditions": { "uid": "someone-else" } });
    assert_eq!(server.delete(&path, wrong).await.0, 409);
    let right = json!({ "preconditions": { "uid": made["metadata"]["uid"] } });
    let (code, marked) = server.delete(&path, right).await;
    assert_eq!(code, 200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let again = server.delete(&path, Value::Null).await.1;
    assert_eq!(again["metadata"]["resourceVersion"], marked["metadata"]["resourceVersion"]);
    assert_eq!(server.merge(&path, json!({ "metadata": { "finalizers": [] } })).await.0, 200);
    assert_eq!(server.get(&path).await.0, 404);

    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        server.make(CONFIG_MAPS, config_map("a", json!({}))).await;
        let (_, marked) = server.delete(&path, json!({ "propagationPolicy": policy })).await;
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]), "{marked}");
        server.merge(&path, json!({ "metadata": { "finalizers": null } })).await;
        assert_eq!(server.get(&path).await.0, 404);
    }
    assert_eq!(server.delete(&path, json!({ "propagationPolicy": "Sideways" })).await.0, 422);
    server.stop().await;
}

#[tokio::test]
async fn pods_get_their_grace_once_they_may_run() {
    let server = Harness::start().await;
    let path = format!("{PODS}/a");
    let made = server.make(PODS, pod("a")).await;
    assert_eq!((&made["status"]["phase"], &made["spec"]["serviceAccountName"]), (&json!("Pending"), &json!("default")));
    assert_eq!(server.delete(&path, Value::Null).await.0, 200);
    assert_eq!(server.get(&path).await.0, 404, "one without a node goes at once");

    server.make(PODS, pod("a")).await;
    let binding = json!({ "metadata": { "name": "a" }, "target": { "kind": "Node", "name": "coracle" } });
    assert_eq!(server.post(&format!("{path}/binding"), binding.clone()).await.0, 201);
    assert_eq!(server.post(&format!("{path}/binding"), binding).await.0, 409);
    let bound = server.get(&path).await.1;
    assert_eq!(bound["spec"]["nodeName"], "coracle");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let (_, marked) = server.delete(&path, json!({ "gracePeriodSeconds": 7 })).await;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 7);
    let (_, same) = server.delete(&path, json!({ "gracePeriodSeconds": 20 })).await;
    assert_eq!(same["metadata"]["deletionGracePeriodSeconds"], 7, "never longer");
    assert_eq!(server.delete(&path, json!({ "gracePeriodSeconds": 0 })).await.0, 200);
    assert_eq!(server.get(&path).await.0, 404);
    server.stop().await;
}

#[tokio::test]
async fn services_get_addresses_that_nobody_else_has() {
    let server = Harness::start().await;
    let kubernetes = server.get(&format!("{SERVICES}/kubernetes")).await.1;
    assert_eq!(kubernetes["spec"]["clusterIP"], "127.96.0.1");
    let service = |name: &str, spec: Value| json!({ "metadata": { "name": name }, "spec": spec });
    let ports = json!([{ "port": 80 }]);
    let mut seen = std::collections::HashSet::new();
    let made = futures::future::join_all((0..20).map(|index| {
        let body = service(&format!("s{index}"), json!({ "ports": [{ "port": 80 }] }));
        server.post(SERVICES, body)
    }))
    .await;
    for (code, service) in made {
        assert_eq!(code, 201, "{service}");
        assert!(seen.insert(service["spec"]["clusterIP"].as_str().expect("an address").to_owned()));
    }
    let first = server.get(&format!("{SERVICES}/s0")).await.1;
    let taken = first["spec"]["clusterIP"].clone();
    let wanted = service("wants", json!({ "clusterIP": taken, "ports": ports }));
    assert_eq!(server.post(SERVICES, wanted.clone()).await.0, 422);
    let (_, kept) = server.put(&format!("{SERVICES}/s0"), service("s0", json!({ "ports": [{ "port": 81 }] }))).await;
    assert_eq!(kept["spec"]["clusterIP"], taken);
    server.delete(&format!("{SERVICES}/s0"), Value::Null).await;
    assert_eq!(server.post(SERVICES, wanted).await.0, 201, "it is free again");
    let headless = json!({ "clusterIP": "None", "ports": ports, "selector": { "app": "a" } });
    let headless = server.make(SERVICES, service("headless", headless)).await;
    assert_eq!(headless["spec"]["clusterIP"], "None");
    let by_hand = server.make(SERVICES, service("by-hand", json!({ "clusterIP": "None", "ports": ports }))).await;
    // As kube-apiserver 1.33 has it for one with a selector, and for one without.
    for (made, families, policy) in
        [(&headless, json!(["IPv4"]), "SingleStack"), (&by_hand, json!(["IPv4", "IPv6"]), "RequireDualStack")]
    {
        assert_eq!(made["spec"]["ipFamilies"], families);
        assert_eq!(made["spec"]["ipFamilyPolicy"], policy);
    }
    let open = server.make(SERVICES, service("open", json!({ "type": "NodePort", "ports": ports }))).await;
    assert!(open["spec"]["ports"][0]["nodePort"].as_u64().is_some_and(|port| (30000..=32767).contains(&port)));

    // What was given is known after a restart.
    let folder = server.stop().await;
    let server = Harness::with(folder, |_| {}, |_| {}).await;
    let clash = service("clash", json!({ "clusterIP": taken, "ports": ports }));
    assert_eq!(server.post(SERVICES, clash).await.0, 422);
    server.stop().await;
}

#[tokio::test]
async fn collections_are_deleted_by_selection() {
    let server = Harness::start().await;
    for (name, color) in [("a", "red"), ("b", "blue"), ("c", "red")] {
        server.make(CONFIG_MAPS, config_map(name, json!({ "color": color }))).await;
    }
    let (code, deleted) = server.delete(&format!("{CONFIG_MAPS}?labelSelector=color%3Dred"), Value::Null).await;
    assert_eq!((code, deleted["items"].as_array().map(Vec::len)), (200, Some(2)));
    let left = server.get(CONFIG_MAPS).await.1;
    assert_eq!(left["items"].as_array().map(Vec::len), Some(1));
    server.stop().await;
}

#[tokio::test]
async fn events_have_two_faces() {
    let server = Harness::start().await;
    let event = json!({ "metadata": { "name": "e", "namespace": "default" }, "action": "Go", "reason": "Went", "type": "Normal",
        "note": "it went", "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "example.com/c", "reportingInstance": "i",
        "regarding": { "kind": "Pod", "name": "p", "namespace": "default" } });
    server.make("/apis/events.k8s.io/v1/namespaces/default/events", event).await;
    let (code, core) = server.get("/api/v1/namespaces/default/events/e").await;
    assert_eq!((code, &core["message"], &core["involvedObject"]["name"]), (200, &json!("it went"), &json!("p")));
    let found = server.get("/api/v1/events?fieldSelector=involvedObject.name%3Dp,involvedObject.kind%3DPod").await.1;
    assert_eq!(found["items"].as_array().map(Vec::len), Some(1));
    let found = server.get("/api/v1/events?fieldSelector=involvedObject.name%3Dother").await.1;
    assert_eq!(found["items"].as_array().map(Vec::len), Some(0));
    server.stop().await;
}

#[tokio::test]
async fn old_events_go() {
    let tune = |settings: &mut apiserver::Settings| settings.event_limit = 2;
    let server = Harness::with(tempfile::tempdir().expect("a folder"), tune, |_| {}).await;
    let mut watch = server.watch("/api/v1/namespaces/default/events?watch=true&resourceVersion=1").await;
    for name in ["first", "second", "third"] {
        let event = json!({ "metadata": { "name": name }, "involvedObject": { "namespace": "default" }, "reason": "r", "type": "Normal" });
        server.make("/api/v1/namespaces/default/events", event).await;
    }
    let mut seen = Vec::new();
    while seen.len() < 4 {
        seen.push(watch.seen().await);
    }
    assert!(seen.contains(&("DELETED".into(), "first".into())), "{seen:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_full_store_refuses_and_recovers() {
    let tune = |settings: &mut store::Settings| settings.max_bytes = Some(512 * 1024);
    let server = Harness::with(tempfile::tempdir().expect("a folder"), |_| {}, tune).await;
    let mut body = config_map("big", json!({}));
    body["data"]["key"] = "x".repeat(600 * 1024).into();
    let (code, refused) = server.post(CONFIG_MAPS, body).await;
    assert_eq!((code, &refused["reason"]), (507, &json!("InternalError")));
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("no space left")), "{refused}");
    assert_eq!(server.get(&format!("{CONFIG_MAPS}/big")).await.0, 404);
    server.make(CONFIG_MAPS, config_map("small", json!({}))).await;
    server.stop().await;
}

#[tokio::test]
async fn a_pods_runtime_class_must_exist() {
    let server = Harness::start().await;
    let of = |name: &str, class: &str| {
        let mut pod = pod(name);
        pod["spec"]["runtimeClassName"] = class.into();
        pod
    };
    let (code, refused) = server.post(PODS, of("a", "sandboxed")).await;
    assert_eq!((code, &refused["reason"]), (403, &json!("Forbidden")), "{refused}");
    let message = refused["message"].as_str().expect("a message");
    assert!(
        message.starts_with(r#"pods "a" is forbidden: pod rejected: RuntimeClass "sandboxed" not found"#),
        "{message}"
    );
    server
        .make("/apis/node.k8s.io/v1/runtimeclasses", json!({"metadata": {"name": "sandboxed"}, "handler": "isolated"}))
        .await;
    for (name, class) in [("a", "sandboxed"), ("b", "isolated"), ("c", "plain")] {
        server.make(PODS, of(name, class)).await;
    }
    server.stop().await;
}
