//! Watches: order, selection, bookmarks, ends.

use std::time::Duration;

use crate::access::{RBAC, binding, role};
use crate::support::*;
use crate::wire;
use futures::StreamExt;
use serde_json::{Value, json};

fn is(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test]
async fn changes_come_in_order() {
    let server = Harness::start().await;
    server.make(CONFIG_MAPS, config_map("a", json!({}))).await;
    let list = server.get(CONFIG_MAPS).await.1;
    let version = list["metadata"]["resourceVersion"].as_str().expect("a version");
    let mut later = server.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={version}")).await;
    let mut state = server.watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    assert_eq!(state.seen().await, is("ADDED", "a"));
    server.make(CONFIG_MAPS, config_map("b", json!({}))).await;
    server.merge(&format!("{CONFIG_MAPS}/a"), json!({ "data": { "key": "new" } })).await;
    server.delete(&format!("{CONFIG_MAPS}/b"), Value::Null).await;
    server.make("/api/v1/namespaces/kube-system/configmaps", config_map("elsewhere", json!({}))).await;
    server.make(CONFIG_MAPS, config_map("c", json!({}))).await;
    for watch in [&mut later, &mut state] {
        assert_eq!(watch.seen().await, is("ADDED", "b"));
        assert_eq!(watch.seen().await, is("MODIFIED", "a"));
        let deleted = watch.next().await.expect("an event");
        assert_eq!((&deleted["type"], &deleted["object"]["metadata"]["name"]), (&json!("DELETED"), &json!("b")));
        assert_eq!(deleted["object"]["data"]["key"], "value", "the last state");
        assert_eq!(watch.seen().await, is("ADDED", "c"));
    }
    server.stop().await;
}

#[tokio::test]
async fn selected_objects_come_and_go() {
    let server = Harness::start().await;
    let mut reds = server.watch(&format!("{CONFIG_MAPS}?watch=true&labelSelector=color%3Dred")).await;
    let mut named = server.watch(&format!("{CONFIG_MAPS}?watch=true&fieldSelector=metadata.name%3Da")).await;
    let mut single = server.watch(&format!("{CONFIG_MAPS}/a?watch=true")).await;
    let paint = async |color: &str| {
        server.merge(&format!("{CONFIG_MAPS}/a"), json!({ "metadata": { "labels": { "color": color } } })).await.0
    };
    server.make(CONFIG_MAPS, config_map("a", json!({ "color": "blue" }))).await;
    server.make(CONFIG_MAPS, config_map("ab", json!({ "color": "blue" }))).await;
    assert_eq!(paint("red").await, 200);
    assert_eq!(paint("blue").await, 200);
    assert_eq!(reds.seen().await, is("ADDED", "a"));
    let left = reds.next().await.expect("an event");
    assert_eq!((&left["type"], &left["object"]["metadata"]["labels"]["color"]), (&json!("DELETED"), &json!("red")));
    for watch in [&mut named, &mut single] {
        assert_eq!(watch.seen().await, is("ADDED", "a"));
        assert_eq!(watch.seen().await, is("MODIFIED", "a"));
        assert_eq!(watch.seen().await, is("MODIFIED", "a"));
    }
    server.stop().await;
}

#[tokio::test]
async fn bookmarks_and_the_end_of_the_initial_state() {
    let tune = |settings: &mut apiserver::Settings| settings.limits.bookmark_period = Duration::from_millis(20);
    let server = Harness::with(tempfile::tempdir().expect("a folder"), tune, |_| {}).await;
    server.make(CONFIG_MAPS, config_map("a", json!({}))).await;
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = server.watch(&format!("{CONFIG_MAPS}?{query}")).await;
    assert_eq!(watch.seen().await, is("ADDED", "a"));
    let end = watch.next().await.expect("a bookmark");
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(end["object"]["kind"], "ConfigMap");
    let version = |event: &Value| {
        event["object"]["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse::<u64>().ok())
    };
    // Others' writes move the bookmark on.
    server.make("/api/v1/namespaces", json!({ "metadata": { "name": "other" } })).await;
    let later = loop {
        let event = watch.next().await.expect("a bookmark");
        assert_eq!(event["type"], "BOOKMARK");
        if version(&event) > version(&end) {
            break event;
        }
    };
    assert_eq!(later["object"]["metadata"].get("annotations"), None);
    server.stop().await;
}

#[tokio::test]
async fn a_history_that_is_gone_is_an_error_event() {
    let tune = |settings: &mut store::Settings| settings.history = 4;
    let server = Harness::with(tempfile::tempdir().expect("a folder"), |_| {}, tune).await;
    for index in 0..8 {
        server.make(CONFIG_MAPS, config_map(&format!("m{index}"), json!({}))).await;
    }
    let mut watch = server.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion=1")).await;
    let event = watch.next().await.expect("an event");
    assert_eq!(
        (&event["type"], &event["object"]["code"], &event["object"]["reason"]),
        (&json!("ERROR"), &json!(410), &json!("Expired"))
    );
    assert_eq!(watch.next().await, None);
    server.stop().await;
}

#[tokio::test]
async fn a_watch_ends_in_time_and_with_the_server() {
    let server = Harness::start().await;
    let mut short = server.watch(&format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=1")).await;
    assert_eq!(short.next().await, None);
    let mut long = server.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion=999999")).await;
    server.stop().await;
    assert_eq!(long.next().await, None);
}

#[tokio::test]
async fn what_a_watch_can_not_be() {
    let server = Harness::start().await;
    for query in ["sendInitialEvents=true", "resourceVersionMatch=Exact&resourceVersion=1", "resourceVersion=x"] {
        let (code, _) = server.get(&format!("{CONFIG_MAPS}?watch=true&{query}")).await;
        assert!(matches!(code, 400 | 422), "{query}: {code}");
    }
    let ahead = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=999999";
    assert_eq!(server.get(&format!("{CONFIG_MAPS}?{ahead}")).await.0, 504);
    server.stop().await;
}

#[tokio::test]
async fn there_is_a_limit_to_open_watches() {
    let tune = |settings: &mut apiserver::Settings| settings.limits.streams = 1;
    let server = Harness::with(tempfile::tempdir().expect("a folder"), tune, |_| {}).await;
    let first = server.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    let (code, status) = server.get(&format!("{CONFIG_MAPS}?watch=true")).await;
    assert_eq!((code, &status["reason"]), (429, &json!("TooManyRequests")));
    drop(first);
    server.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    server.stop().await;
}

#[tokio::test]
async fn a_watch_of_tables_names_its_columns_once() {
    let server = Harness::start().await;
    server.make(CONFIG_MAPS, config_map("a", json!({}))).await;
    server.make(CONFIG_MAPS, config_map("b", json!({}))).await;
    let request = http::Request::get(format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=1"))
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
        .body(http_body_util::Full::default())
        .expect("a request");
    let response = server.send(request).await;
    let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body").to_bytes();
    let events: Vec<Value> =
        serde_json::Deserializer::from_slice(&body).into_iter().map(|event| event.expect("JSON")).collect();
    assert_eq!(events.len(), 2);
    assert_eq!((&events[0]["type"], &events[0]["object"]["kind"]), (&json!("ADDED"), &json!("Table")));
    assert!(events[0]["object"]["columnDefinitions"].is_array());
    assert!(events[1]["object"]["columnDefinitions"].is_null());
    assert_eq!(events[1]["object"]["rows"][0]["cells"][0], "b");
    server.stop().await;
}

/// Somebody who may watch ConfigMaps, and how that ends: what is written after it is not seen.
#[tokio::test]
async fn a_watch_ends_with_the_right_to_it() {
    let server = Harness::start().await;
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let maps = || role("maps", &["configmaps"], &["watch"]);
    let allow = || binding("maps", "Role", "maps", "ann");
    server.make(&roles, maps()).await;
    server.make(&bindings, allow()).await;
    let watch = format!("{CONFIG_MAPS}?watch=true");
    for (number, away) in ["binding", "role", "verb", "elsewhere"].into_iter().enumerate() {
        let mut ann = server.watch_as("ann", &watch).await;
        let mut admin = server.watch(&watch).await;
        for before in 0..number {
            assert_eq!(ann.seen().await, is("ADDED", &format!("secret-{before}")));
            admin.seen().await;
        }
        // Changes of roles that leave the right to it are no end.
        server.make(&roles, role(&format!("other-{number}"), &["pods"], &["get"])).await;
        match away {
            "binding" => server.delete(&format!("{bindings}/maps"), Value::Null).await,
            "role" => server.delete(&format!("{roles}/maps"), Value::Null).await,
            "verb" => server.put(&format!("{roles}/maps"), role("maps", &["configmaps"], &["get"])).await,
            _ => server.put(&format!("{roles}/maps"), role("maps", &["pods"], &["watch"])).await,
        };
        let name = format!("secret-{number}");
        server.make(CONFIG_MAPS, config_map(&name, json!({}))).await;
        let end = ann.next().await.expect("an end that says why");
        assert_eq!((&end["type"], &end["object"]["code"]), (&json!("ERROR"), &json!(403)), "{away}: {end}");
        assert_eq!(ann.next().await, None, "{away}");
        assert_eq!(admin.seen().await, is("ADDED", &name), "others go on");
        server.put(&format!("{roles}/maps"), maps()).await;
        server.post(&bindings, allow()).await;
    }
    server.stop().await;
}

/// Streams that have nothing to show end as well, and not only when something happens.
#[tokio::test]
async fn an_idle_stream_ends_with_the_right_to_it() {
    let server = Harness::start().await;
    let (roles, bindings) =
        (format!("{RBAC}/namespaces/default/roles"), format!("{RBAC}/namespaces/default/rolebindings"));
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    server.make(PODS, pod("a")).await;
    server.make(&roles, role("maps", &["configmaps"], &["watch"])).await;
    server.make(&roles, role("logs", &["pods/log"], &["get"])).await;
    for (name, who) in [("maps", "ann"), ("logs", "ann"), ("others", "bob")] {
        let role = if name == "others" { "maps" } else { name };
        server.make(&bindings, binding(name, "Role", role, who)).await;
    }
    let watch = format!("{CONFIG_MAPS}?watch=true");
    let (mut ann, mut bob) = (server.watch_as("ann", &watch).await, server.watch_as("bob", &watch).await);
    let mut log = server.body_as("ann", &format!("{PODS}/a/log?follow=true")).await;
    assert!(log.next().await.is_some(), "the first line");
    server.delete(&format!("{bindings}/maps"), Value::Null).await;
    let end = ann.next().await.expect("an end that says why");
    assert_eq!((&end["type"], &end["object"]["code"]), (&json!("ERROR"), &json!(403)), "{end}");
    server.delete(&format!("{bindings}/logs"), Value::Null).await;
    let rest = async { while log.next().await.is_some() {} };
    tokio::time::timeout(LIMIT, rest).await.expect("the log ends");
    // The account of a token.
    server.make(accounts, json!({ "metadata": { "name": "robot" } })).await;
    let mut view = binding("robot", "ClusterRole", "view", "x");
    view["subjects"] = json!([{ "kind": "ServiceAccount", "name": "robot", "namespace": "default" }]);
    server.make(&bindings, view).await;
    let token = server.make(&format!("{accounts}/robot/token"), json!({})).await["status"]["token"].clone();
    let mut robot = wire::watch(&server, &watch, token.as_str().expect("a token")).await;
    server.delete(&format!("{accounts}/robot"), Value::Null).await;
    let end = robot.next().await.expect("an end that says why");
    assert_eq!(end["object"]["code"], 401, "{end}");
    drop(robot);
    server.make(CONFIG_MAPS, config_map("a", json!({}))).await;
    assert_eq!(bob.seen().await, is("ADDED", "a"), "others go on");
    server.stop().await;
}

#[tokio::test]
async fn a_watch_goes_on_while_its_right_does() {
    let server = Harness::start().await;
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    server.make(&roles, role("maps", &["configmaps"], &["watch"])).await;
    server.make(&bindings, binding("one", "Role", "maps", "ann")).await;
    server.make(&bindings, binding("two", "Role", "maps", "ann")).await;
    let mut named = role("named", &["namespaces"], &["watch"]);
    named["rules"][0]["resourceNames"] = json!(["default"]);
    server.make(&roles, named).await;
    server.make(&bindings, binding("named", "Role", "named", "ann")).await;
    let mut all = server.watch_as("ann", &format!("{CONFIG_MAPS}?watch=true")).await;
    // A role in a namespace allows to watch the namespace itself, by its name.
    let mut space = server.watch_as("ann", "/api/v1/namespaces/default?watch=true").await;
    assert_eq!(space.seen().await, is("ADDED", "default"));
    server.delete(&format!("{bindings}/one"), Value::Null).await;
    server.make(CONFIG_MAPS, config_map("a", json!({}))).await;
    assert_eq!(all.seen().await, is("ADDED", "a"));
    server.merge("/api/v1/namespaces/default", json!({ "metadata": { "labels": { "a": "b" } } })).await;
    assert_eq!(space.seen().await, is("MODIFIED", "default"));
    server.stop().await;
}

#[tokio::test]
async fn a_watch_ends_with_the_account_of_its_token() {
    let server = Harness::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    server.make(accounts, json!({ "metadata": { "name": "robot" } })).await;
    let mut view = binding("robot", "ClusterRole", "view", "x");
    view["subjects"] = json!([{ "kind": "ServiceAccount", "name": "robot", "namespace": "default" }]);
    server.make(&bindings, view).await;
    let token = server.make(&format!("{accounts}/robot/token"), json!({})).await["status"]["token"].clone();
    let token = token.as_str().expect("a token");
    let mut watch = wire::watch(&server, &format!("{CONFIG_MAPS}?watch=true"), token).await;
    // A change of the account is no end; another of the same name is not the one that the token is for.
    server.merge(&format!("{accounts}/robot"), json!({ "metadata": { "labels": { "a": "b" } } })).await;
    server.make(CONFIG_MAPS, config_map("a", json!({}))).await;
    assert_eq!(watch.seen().await, is("ADDED", "a"));
    server.delete(&format!("{accounts}/robot"), Value::Null).await;
    server.make(accounts, json!({ "metadata": { "name": "robot" } })).await;
    server.make(CONFIG_MAPS, config_map("b", json!({}))).await;
    let end = watch.next().await.expect("an end that says why");
    assert_eq!((&end["type"], &end["object"]["code"]), (&json!("ERROR"), &json!(401)), "{end}");
    drop(watch);
    server.stop().await;
}

#[tokio::test]
async fn a_log_that_is_followed_ends_with_the_right_to_it() {
    let server = Harness::start().await;
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    server.make(PODS, pod("a")).await;
    server.make(&format!("{RBAC}/namespaces/default/roles"), role("logs", &["pods/log"], &["get"])).await;
    server.make(&bindings, binding("logs", "Role", "logs", "ann")).await;
    let mut log = server.body_as("ann", &format!("{PODS}/a/log?follow=true&timestamps=true")).await;
    for _ in 0..10 {
        assert!(log.next().await.is_some(), "it goes on");
    }
    server.delete(&format!("{bindings}/logs"), Value::Null).await;
    let rest = async { while log.next().await.is_some() {} };
    tokio::time::timeout(LIMIT, rest).await.expect("an end");
    server.stop().await;
}
