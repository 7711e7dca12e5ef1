//! Lists: pages, selectors, states, tables.

use crate::support::*;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().into_iter().flatten().filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

async fn fill(server: &Harness, count: usize) {
    for index in 0..count {
        let color = if index % 2 == 0 { "red" } else { "blue" };
        server.make(CONFIG_MAPS, config_map(&format!("m{index:02}"), json!({ "color": color }))).await;
    }
}

#[tokio::test]
async fn pages_are_one_consistent_list() {
    let server = Harness::start().await;
    fill(&server, 7).await;
    let first = server.get(&format!("{CONFIG_MAPS}?limit=3")).await.1;
    assert_eq!(names(&first), ["m00", "m01", "m02"]);
    assert_eq!((&first["kind"], &first["metadata"]["remainingItemCount"]), (&json!("ConfigMapList"), &json!(4)));
    server.make(CONFIG_MAPS, config_map("m03a", json!({}))).await;
    server.delete(&format!("{CONFIG_MAPS}/m05"), Value::Null).await;
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let second = server.get(&format!("{CONFIG_MAPS}?limit=3&continue={token}")).await.1;
    assert_eq!(names(&second), ["m03", "m04", "m05"], "as of the first page");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().expect("a token");
    let third = server.get(&format!("{CONFIG_MAPS}?limit=3&continue={token}")).await.1;
    assert_eq!(names(&third), ["m06"]);
    assert_eq!(third["metadata"].get("continue"), None);

    let exact = first["metadata"]["resourceVersion"].as_str().expect("a version");
    let then = server.get(&format!("{CONFIG_MAPS}?resourceVersion={exact}&resourceVersionMatch=Exact")).await.1;
    assert_eq!(names(&then).len(), 7);
    let now = server.get(&format!("{CONFIG_MAPS}?resourceVersion={exact}&resourceVersionMatch=NotOlderThan")).await.1;
    assert!(names(&now).contains(&"m03a"));
    server.stop().await;
}

#[tokio::test]
async fn selections_page_too() {
    let server = Harness::start().await;
    fill(&server, 7).await;
    let first = server.get(&format!("{CONFIG_MAPS}?limit=2&labelSelector=color%3Dred")).await.1;
    assert_eq!(names(&first), ["m00", "m02"]);
    assert_eq!(first["metadata"].get("remainingItemCount"), None);
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let second = server.get(&format!("{CONFIG_MAPS}?limit=2&labelSelector=color%3Dred&continue={token}")).await.1;
    assert_eq!(names(&second), ["m04", "m06"]);
    let one = server.get(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Dm04")).await.1;
    assert_eq!(names(&one), ["m04"]);
    let set = server.get(&format!("{CONFIG_MAPS}?labelSelector=color%20in%20(blue)")).await.1;
    assert_eq!(names(&set), ["m01", "m03", "m05"]);
    assert_eq!(server.get(&format!("{CONFIG_MAPS}?labelSelector=a%3D%3D%3Db")).await.0, 400);
    assert_eq!(server.get(&format!("{CONFIG_MAPS}?fieldSelector=spec.nothing%3Db")).await.0, 400);
    server.stop().await;
}

#[tokio::test]
async fn a_position_that_has_expired_gives_another() {
    let tune = |settings: &mut store::Settings| settings.history = 4;
    let server = Harness::with(tempfile::tempdir().expect("a folder"), |_| {}, tune).await;
    fill(&server, 4).await;
    let first = server.get(&format!("{CONFIG_MAPS}?limit=2")).await.1;
    for index in 0..8 {
        server.make(CONFIG_MAPS, config_map(&format!("z{index}"), json!({}))).await;
    }
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let (code, expired) = server.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await;
    assert_eq!((code, &expired["reason"]), (410, &json!("Expired")));
    let token = expired["metadata"]["continue"].as_str().expect("another token");
    let next = server.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await.1;
    assert_eq!(names(&next), ["m02", "m03"]);
    let (code, gone) = server.get(&format!("{CONFIG_MAPS}?resourceVersion=2&resourceVersionMatch=Exact")).await;
    assert_eq!((code, &gone["reason"]), (410, &json!("Expired")));
    server.stop().await;
}

#[tokio::test]
async fn a_state_that_is_not_there_yet() {
    let server = Harness::start().await;
    let (code, early) = server.get(&format!("{CONFIG_MAPS}?resourceVersion=999999")).await;
    assert_eq!((code, &early["reason"]), (504, &json!("Timeout")));
    assert_eq!(early["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert_eq!(early["details"]["retryAfterSeconds"], 1);
    assert_eq!(server.get(&format!("{CONFIG_MAPS}?continue=nonsense")).await.0, 400);
    server.stop().await;
}

#[tokio::test]
async fn tables_and_metadata_alone() {
    let server = Harness::start().await;
    fill(&server, 2).await;
    let ask = async |accept: &str, query: &str| -> Value {
        let request = Request::get(format!("{CONFIG_MAPS}{query}"))
            .header("accept", accept)
            .body(Full::default())
            .expect("a request");
        let body = server.send(request).await.into_body().collect().await.expect("a body").to_bytes();
        serde_json::from_slice(&body).expect("JSON")
    };
    let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
    let table = ask(kubectl, "").await;
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    let columns = table["columnDefinitions"].as_array().expect("columns");
    assert_eq!(columns[0]["name"], "Name");
    assert_eq!(table["rows"][0]["cells"][0], "m00");
    assert_eq!(table["rows"][0]["cells"].as_array().map(Vec::len), Some(columns.len()));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(ask(kubectl, "?includeObject=Object").await["rows"][0]["object"]["data"]["key"], "value");
    assert_eq!(ask(kubectl, "?includeObject=None").await["rows"][0]["object"], Value::Null);
    let partial = ask("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", "").await;
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert_eq!(partial["items"][0].get("data"), None);
    server.stop().await;
}
