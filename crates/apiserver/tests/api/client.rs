//! `kube::Client` over the in-process service, as our own controllers use it.

use std::pin::pin;

use futures::{AsyncReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{from_value, json};

use crate::support::*;

#[tokio::test]
async fn objects_through_the_client() {
    let server = Harness::start().await;
    let api: Api<Deployment> = Api::default_namespaced(server.client());
    let made =
        api.create(&PostParams::default(), &from_value(deployment("a")).expect("a deployment")).await.expect("made");
    assert_eq!(made.spec.as_ref().and_then(|spec| spec.replicas), Some(2));
    let patch = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "spec": { "replicas": 3 } });
    let applied = api.patch("a", &PatchParams::apply("ctl").force(), &Patch::Apply(patch)).await.expect("applied");
    assert_eq!(applied.spec.and_then(|spec| spec.replicas), Some(3));
    let status = json!({ "status": { "replicas": 3, "observedGeneration": 2 } });
    let said = api.patch_status("a", &PatchParams::default(), &Patch::Merge(status)).await.expect("said");
    assert_eq!(said.status.and_then(|status| status.replicas), Some(3));
    let scale = api.get_scale("a").await.expect("a scale");
    assert_eq!(scale.spec.and_then(|spec| spec.replicas), Some(3));
    assert_eq!(api.list(&ListParams::default()).await.expect("a list").items.len(), 1);
    assert!(api.get_opt("none").await.expect("an answer").is_none());
    let twice = api.create(&PostParams::default(), &from_value(deployment("a")).expect("a deployment")).await;
    assert!(matches!(twice, Err(kube::Error::Api(status)) if status.code == 409));
    api.delete("a", &DeleteParams::foreground()).await.expect("marked").left().expect("the object");
    server.stop().await;
}

#[tokio::test]
async fn watchers_see_everything() {
    let server = Harness::start().await;
    let api: Api<ConfigMap> = Api::all(server.client());
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    let make = async |name: &str| {
        maps.create(&PostParams::default(), &from_value(config_map(name, json!({}))).expect("a map"))
            .await
            .expect("made");
    };
    make("a").await;
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
        watcher::Config::default().page_size(1),
    ] {
        let mut seen = pin!(watcher(api.clone(), config).applied_objects());
        let mut next = async || {
            let object = tokio::time::timeout(LIMIT, seen.try_next())
                .await
                .expect("in time")
                .expect("no error")
                .expect("an object");
            object.metadata.name.unwrap_or_default()
        };
        assert_eq!(next().await, "a");
        make("b").await;
        assert_eq!(next().await, "b");
        maps.delete("b", &DeleteParams::default()).await.expect("deleted");
        make("c").await;
        assert_eq!(next().await, "c");
        maps.delete("c", &DeleteParams::default()).await.expect("deleted");
    }
    server.stop().await;
}

#[tokio::test]
async fn logs_and_events_through_the_client() {
    let server = Harness::start().await;
    let pods: Api<Pod> = Api::default_namespaced(server.client());
    let made = pods.create(&PostParams::default(), &from_value(pod("a")).expect("a pod")).await.expect("made");
    assert_eq!(pods.logs("a", &kube::api::LogParams::default()).await.expect("a log"), "default/a main None\n");
    let reporter = kube::runtime::events::Reporter { controller: "test".into(), instance: None };
    let recorder = kube::runtime::events::Recorder::new(server.client(), reporter);
    let event = kube::runtime::events::Event {
        type_: kube::runtime::events::EventType::Normal,
        reason: "Tried".into(),
        note: Some("it was tried".into()),
        action: "Trying".into(),
        secondary: None,
    };
    let about = kube::Resource::object_ref(&made, &());
    recorder.publish(&event, &about).await.expect("published");
    recorder.publish(&event, &about).await.expect("published again");
    let events: Api<Event> = Api::default_namespaced(server.client());
    let found = events
        .list(&ListParams::default().fields("involvedObject.name=a,involvedObject.kind=Pod"))
        .await
        .expect("a list");
    assert_eq!(found.items.len(), 1);
    assert_eq!(found.items[0].message.as_deref(), Some("it was tried"));
    let mut stream = pin!(pods.log_stream("a", &kube::api::LogParams::default()).await.expect("a stream"));
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("text");
    assert_eq!(text, "default/a main None\n");
    server.stop().await;
}

#[tokio::test]
async fn many_clients_at_once() {
    let server = Harness::start().await;
    let names = futures::stream::iter(0..200).map(|index| {
        let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
        async move {
            let body = from_value(config_map(&format!("m{index}"), json!({}))).expect("a map");
            maps.create(&PostParams::default(), &body).await.expect("made").metadata.name
        }
    });
    let made: Vec<_> = names.buffer_unordered(50).collect().await;
    assert_eq!(made.len(), 200);
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    assert_eq!(maps.list(&ListParams::default()).await.expect("a list").items.len(), 200);
    server.stop().await;
}
