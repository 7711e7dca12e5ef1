//! Scale, eviction, logs, tokens, reviews.

use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::support::*;

#[tokio::test]
async fn scale_is_one_form_for_all() {
    let server = Harness::start().await;
    server.make(DEPLOYMENTS, deployment("a")).await;
    let path = format!("{DEPLOYMENTS}/a/scale");
    let (code, scale) = server.get(&path).await;
    assert_eq!((code, &scale["kind"], &scale["apiVersion"]), (200, &json!("Scale"), &json!("autoscaling/v1")));
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(2), &json!("app=a")));
    let (code, scaled) = server.merge(&path, json!({ "spec": { "replicas": 4 } })).await;
    assert_eq!((code, &scaled["spec"]["replicas"]), (200, &json!(4)));
    let object = server.get(&format!("{DEPLOYMENTS}/a")).await.1;
    assert_eq!((&object["spec"]["replicas"], &object["metadata"]["generation"]), (&json!(4), &json!(2)));
    assert_eq!(server.put(&path, scale.clone()).await.0, 409, "of an older version");
    let mut put = scaled.clone();
    put["spec"]["replicas"] = 0.into();
    assert_eq!(server.put(&path, put.clone()).await.1["spec"]["replicas"], 0);
    put["metadata"] = json!({ "name": "a" });
    put["spec"]["replicas"] = (-1).into();
    assert_eq!(server.put(&path, put).await.0, 422);
    server.stop().await;
}

#[tokio::test]
async fn evictions_ask_budgets() {
    let server = Harness::start().await;
    server.make(PODS, pod("a")).await;
    let ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
    assert_eq!(server.merge(&format!("{PODS}/a/status"), ready).await.0, 200);
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let selector = json!({ "matchLabels": { "app": "a" } });
    server
        .make(budgets, json!({ "metadata": { "name": "b" }, "spec": { "minAvailable": 1, "selector": selector } }))
        .await;
    let status =
        json!({ "status": { "disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1 } });
    assert_eq!(server.merge(&format!("{budgets}/b/status"), status).await.0, 200);
    let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": "a" } });
    let (code, held) = server.post(&format!("{PODS}/a/eviction"), eviction.clone()).await;
    assert_eq!((code, &held["reason"]), (429, &json!("TooManyRequests")));
    assert_eq!(held["details"]["causes"][0]["reason"], "DisruptionBudget");
    server.delete(&format!("{budgets}/b"), Value::Null).await;
    assert_eq!(server.post(&format!("{PODS}/a/eviction"), eviction).await.0, 201);
    assert_eq!(server.get(&format!("{PODS}/a")).await.0, 404);
    server.stop().await;
}

#[tokio::test]
async fn logs_come_from_who_keeps_them() {
    let server = Harness::start().await;
    server.make(PODS, pod("a")).await;
    let mut two = pod("b");
    two["spec"]["containers"] = json!([{ "name": "x", "image": "i" }, { "name": "y", "image": "i" }]);
    server.make(PODS, two).await;
    let log = async |rest: &str| server.text(Method::GET, &format!("{PODS}/{rest}")).await;
    assert_eq!(log("a/log?tailLines=3").await, (200, "default/a main Some(3)\n".into()));
    assert_eq!(log("b/log?container=y").await, (200, "default/b y None\n".into()));
    let (code, refused) = log("b/log").await;
    assert!(code == 400 && refused.contains("choose one of: [x y]"), "{refused}");
    let (code, refused) = log("a/log?previous=true").await;
    assert!(code == 400 && refused.contains("no previous run"), "{refused}");
    assert_eq!(log("none/log").await.0, 404);

    // A followed log ends with the server.
    let request = http::Request::get(format!("{PODS}/a/log?follow=true"))
        .body(http_body_util::Full::default())
        .expect("a request");
    let mut following = server.send(request).await.into_body();
    let line = following.frame().await.expect("a frame").expect("no error").into_data().expect("data");
    assert_eq!(line, "default/a main None\n");
    server.stop().await;
    assert!(following.collect().await.expect("a clean end").to_bytes().is_empty());
}

#[tokio::test]
async fn tokens_and_reviews() {
    let server = Harness::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    server.make(accounts, json!({ "metadata": { "name": "robot" } })).await;
    let ask = json!({ "spec": { "expirationSeconds": 600, "audiences": ["https://api", "https://kubernetes.default.svc.cluster.local"] } });
    let issued = server.make(&format!("{accounts}/robot/token"), ask).await;
    let token = issued["status"]["token"].clone();
    assert_eq!(
        server.post(&format!("{accounts}/robot/token"), json!({ "spec": { "expirationSeconds": 5 } })).await.0,
        422
    );
    assert_eq!(server.post(&format!("{accounts}/none/token"), json!({ "spec": {} })).await.0, 404);
    let review = "/apis/authentication.k8s.io/v1/tokenreviews";
    let known = server.make(review, json!({ "spec": { "token": token } })).await;
    assert_eq!(known["status"]["user"]["username"], "system:serviceaccount:default:robot");
    let ask = json!({ "spec": { "audiences": ["vault"] } });
    let vault = server.make(&format!("{accounts}/robot/token"), ask).await["status"]["token"].clone();
    let here = server.make(review, json!({ "spec": { "token": vault } })).await;
    assert_eq!(here["status"]["authenticated"], false, "it was made for somebody else");
    let elsewhere = server.make(review, json!({ "spec": { "token": token, "audiences": ["other"] } })).await;
    assert_eq!(elsewhere["status"]["authenticated"], false);
    server.delete(&format!("{accounts}/robot"), Value::Null).await;
    let gone = server.make(review, json!({ "spec": { "token": token } })).await;
    assert_eq!(gone["status"]["authenticated"], false);

    let me = server.make("/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({})).await;
    assert_eq!(me["status"]["userInfo"]["username"], "system:admin");
    let attributes = json!({ "spec": { "resourceAttributes": { "verb": "delete", "resource": "pods" } } });
    let may = server.make("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", attributes).await;
    assert_eq!(may["status"]["allowed"], true);
    let rules = server
        .make("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", json!({ "spec": { "namespace": "default" } }))
        .await;
    assert_eq!(rules["status"]["resourceRules"][0]["verbs"], json!(["*"]));
    assert_eq!(server.get("/apis/authentication.k8s.io/v1/selfsubjectreviews").await.0, 405);
    server.stop().await;
}

#[tokio::test]
async fn what_nothing_acts_on_is_said() {
    let server = Harness::start().await;
    let class = json!({ "metadata": { "name": "p" }, "value": 1 });
    let request = http::Request::post("/apis/scheduling.k8s.io/v1/priorityclasses")
        .body(http_body_util::Full::from(class.to_string()))
        .expect("a request");
    let response = server.send(request).await;
    assert_eq!(response.status(), 201);
    assert_eq!(
        response.headers()["warning"],
        "299 - \"PriorityClass is stored but nothing acts on it yet in this version\""
    );
    server.stop().await;
}
