//! Custom resources.

use http::Method;
use serde_json::{Value, json};

use crate::support::*;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn definition() -> Value {
    let schema = json!({ "type": "object", "properties": {
        "spec": { "type": "object", "required": ["size"], "properties": {
            "size": { "type": "integer", "minimum": 1 }, "color": { "type": "string", "default": "red" },
            "replicas": { "type": "integer" } } },
        "status": { "type": "object", "properties": { "replicas": { "type": "integer" }, "selector": { "type": "string" } } } } });
    let version = |name: &str, storage: bool| {
        json!({ "name": name, "served": true, "storage": storage,
        "schema": { "openAPIV3Schema": schema },
        "additionalPrinterColumns": [{ "name": "Size", "type": "integer", "jsonPath": ".spec.size" }],
        "subresources": { "status": {}, "scale": { "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector" } } })
    };
    json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": "widgets.example.com" },
        "spec": { "group": "example.com", "scope": "Namespaced", "names": { "plural": "widgets", "kind": "Widget", "shortNames": ["wd"] },
            "versions": [version("v1", true), version("v1beta1", false)] } })
}

fn widget(name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "example.com/v1", "kind": "Widget", "metadata": { "name": name }, "spec": spec })
}

async fn index(server: &Harness) -> Value {
    server.get("/openapi/v3").await.1["paths"].clone()
}

#[tokio::test]
async fn a_definition_is_served_as_soon_as_it_is_made() {
    let server = Harness::start().await;
    assert_eq!(server.get(WIDGETS).await.0, 404);
    let made = server.make(DEFINITIONS, definition()).await;
    let conditions: Vec<(&str, &str)> = made["status"]["conditions"]
        .as_array()
        .expect("conditions")
        .iter()
        .filter_map(|one| Some((one["type"].as_str()?, one["status"].as_str()?)))
        .collect();
    assert!(
        conditions.contains(&("Established", "True")) && conditions.contains(&("NamesAccepted", "True")),
        "{conditions:?}"
    );

    let made = server.make(WIDGETS, widget("a", json!({ "size": 2, "extra": 1 }))).await;
    assert_eq!(made["spec"], json!({ "size": 2, "color": "red" }), "defaulted and pruned");
    assert_eq!(made["metadata"]["generation"], 1);
    let (code, refused) = server.post(WIDGETS, widget("b", json!({ "size": 0 }))).await;
    assert_eq!((code, &refused["details"]["causes"][0]["field"]), (422, &json!("spec.size")));
    assert_eq!(server.post(WIDGETS, widget("b", json!({}))).await.0, 422);
    assert_eq!(server.post(WIDGETS, widget("b", json!({ "size": "2" }))).await.0, 422);
    let strict = format!("{WIDGETS}?fieldValidation=Strict");
    assert_eq!(server.post(&strict, widget("b", json!({ "size": 2, "extra": 1 }))).await.0, 400);

    let other = server.get("/apis/example.com/v1beta1/namespaces/default/widgets/a").await.1;
    assert_eq!(other["apiVersion"], "example.com/v1beta1");
    let group = server.get("/apis/example.com").await.1;
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let (code, refused) = server.put(&format!("{WIDGETS}/a"), widget("a", json!({ "size": 3 }))).await;
    assert_eq!((code, &refused["details"]["causes"][0]["field"]), (422, &json!("metadata.resourceVersion")));
    let strategic =
        server.typed(Method::PATCH, &format!("{WIDGETS}/a"), "application/strategic-merge-patch+json", "{}").await;
    assert_eq!(strategic.0, 415);
    let applied = server.apply(&format!("{WIDGETS}/c"), "me", widget("c", json!({ "size": 1 }))).await;
    assert_eq!(applied.0, 201, "{}", applied.1);
    server.stop().await;
}

#[tokio::test]
async fn subresources_and_tables_of_custom_resources() {
    let server = Harness::start().await;
    server.make(DEFINITIONS, definition()).await;
    server.make(WIDGETS, widget("a", json!({ "size": 2, "replicas": 1 }))).await;
    let (code, said) =
        server.merge(&format!("{WIDGETS}/a/status"), json!({ "status": { "replicas": 1, "selector": "app=a" } })).await;
    assert_eq!((code, &said["status"]["replicas"], &said["metadata"]["generation"]), (200, &json!(1), &json!(1)));
    let (code, scale) = server.merge(&format!("{WIDGETS}/a/scale"), json!({ "spec": { "replicas": 5 } })).await;
    assert_eq!((code, &scale["kind"], &scale["spec"]["replicas"]), (200, &json!("Scale"), &json!(5)), "{scale}");
    assert_eq!(scale["status"], json!({ "replicas": 1, "selector": "app=a" }));
    assert_eq!(server.get(&format!("{WIDGETS}/a")).await.1["spec"]["replicas"], 5);
    let request = http::Request::get(WIDGETS)
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(http_body_util::Full::default())
        .expect("a request");
    let body =
        http_body_util::BodyExt::collect(server.send(request).await.into_body()).await.expect("a body").to_bytes();
    let table: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(table["columnDefinitions"][1]["name"], "Size");
    assert_eq!(table["rows"][0]["cells"][1], 2);
    server.stop().await;
}

#[tokio::test]
async fn a_definition_goes_with_its_instances() {
    let server = Harness::start().await;
    let before = index(&server).await;
    server.make(DEFINITIONS, definition()).await;
    let with = index(&server).await;
    assert!(before.get("apis/example.com/v1").is_none() && with.get("apis/example.com/v1").is_some());
    server.make(WIDGETS, widget("a", json!({ "size": 2 }))).await;
    let mut held = widget("b", json!({ "size": 2 }));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.make(WIDGETS, held).await;
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let mut watch = server.watch(&format!("{WIDGETS}?watch=true")).await;
    assert_eq!((watch.seen().await.1, watch.seen().await.1), ("a".into(), "b".into()));
    assert_eq!(server.delete(&path, Value::Null).await.0, 200);
    let left = server.get(WIDGETS).await.1;
    assert_eq!(left["items"].as_array().map(Vec::len), Some(1), "{left}");
    assert_eq!(server.get(&path).await.0, 200, "it waits for the last instance");
    assert_eq!(server.post(WIDGETS, widget("c", json!({ "size": 2 }))).await.0, 405);
    assert_eq!(server.merge(&format!("{WIDGETS}/b"), json!({ "metadata": { "finalizers": null } })).await.0, 200);
    assert_eq!(server.get(&path).await.0, 404);
    assert_eq!(server.get(WIDGETS).await.0, 404);
    assert_eq!(watch.seen().await, ("DELETED".into(), "a".into()));
    assert_eq!(watch.seen().await, ("MODIFIED".into(), "b".into()));
    assert_eq!(watch.seen().await, ("DELETED".into(), "b".into()));
    assert_eq!(watch.next().await, None, "there is nothing left to watch");
    assert_eq!(index(&server).await, before);
    server.stop().await;
}

#[tokio::test]
async fn definitions_and_hashes_survive_and_change() {
    let server = Harness::start().await;
    let made = server.make(DEFINITIONS, definition()).await;
    server.make(WIDGETS, widget("a", json!({ "size": 2 }))).await;
    let hash = index(&server).await["apis/example.com/v1"].clone();
    let core = index(&server).await["api/v1"].clone();
    let mut wider = made.clone();
    wider["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["extra"] =
        json!({ "type": "integer" });
    let (code, answer) = server.put(&format!("{DEFINITIONS}/widgets.example.com"), wider).await;
    assert_eq!(code, 200, "{answer}");
    let after = index(&server).await;
    assert_ne!(after["apis/example.com/v1"], hash);
    assert_eq!(after["api/v1"], core);
    let made = server.make(WIDGETS, widget("b", json!({ "size": 2, "extra": 3 }))).await;
    assert_eq!(made["spec"]["extra"], 3);
    let address = after["apis/example.com/v1"]["serverRelativeURL"].as_str().expect("an address").to_owned();
    let document = server.get(&address).await.1;
    assert!(document["components"]["schemas"]["com.example.v1.Widget"].is_object());

    let folder = server.stop().await;
    let server = Harness::with(folder, |_| {}, |_| {}).await;
    assert_eq!(server.get(&format!("{WIDGETS}/b")).await.1["spec"]["extra"], 3);
    server.stop().await;
}

#[tokio::test]
async fn definitions_that_can_not_be_served() {
    let server = Harness::start().await;
    let mut wrong = definition();
    wrong["metadata"]["name"] = "other.example.com".into();
    assert_eq!(server.post(DEFINITIONS, wrong).await.0, 422);
    let mut wrong = definition();
    wrong["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = json!({ "type": "nonsense" });
    let (code, refused) = server.post(DEFINITIONS, wrong).await;
    assert_eq!(code, 422, "{refused}");
    server.stop().await;
}

#[tokio::test]
async fn nothing_is_stored_that_can_not_be_read_again() {
    let server = Harness::start().await;
    let mut free = definition();
    for version in free["spec"]["versions"].as_array_mut().expect("versions") {
        version["schema"]["openAPIV3Schema"] = json!({ "type": "object", "properties": { "spec": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } } });
    }
    server.make(DEFINITIONS, free).await;
    server.make(WIDGETS, widget("a", json!({ "replicas": 1 }))).await;
    let nested = |levels: usize| (0..levels).fold(json!({}), |inner, _| json!({ "a": inner }));
    let (code, refused) = server.post(WIDGETS, widget("deep", nested(120))).await;
    assert_eq!(code, 400, "{refused}");
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("100 levels")), "{refused}");
    let digging: Vec<Value> = (1..110)
        .map(|level| json!({ "op": "add", "path": format!("/spec{}", "/a".repeat(level)), "value": {} }))
        .collect();
    let path = format!("{WIDGETS}/a");
    let media = "application/json-patch+json";
    let (code, refused) = server.typed(Method::PATCH, &path, media, Value::from(digging).to_string()).await;
    assert_eq!(code, 422, "{refused}");
    // What is as deep as may be can be read, and changed by every kind of patch.
    server.make(WIDGETS, widget("b", nested(97))).await;
    assert_eq!(server.merge(&path, json!({ "spec": nested(97) })).await.0, 200);
    assert_eq!(server.apply(&path, "me", widget("a", nested(97))).await.0, 200);
    let (code, list) = server.get(WIDGETS).await;
    assert_eq!((code, list["items"].as_array().map(Vec::len)), (200, Some(2)));
    server.stop().await;
}
