//! Flux's Receivers over HTTP: the path that the status names, and who is let in.

use std::time::Duration;

use delivery::sync::http::{HttpSettings, listen};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::harness::{Cluster, LIMIT, Repository, config, map};

async fn post(address: std::net::SocketAddr, path: &str, headers: &str, body: &str) -> u16 {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\n{headers}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
}

fn receiver(kind: &str) -> Value {
    json!({ "apiVersion": "notification.toolkit.fluxcd.io/v1", "kind": "Receiver",
        "metadata": { "name": "shop", "namespace": "argocd" },
        "spec": { "type": kind, "events": ["Push Hook"], "secretRef": { "name": "hook-token" },
            "resources": [{ "kind": "GitRepository", "name": "shop" },
                { "apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "name": "*", "matchLabels": { "team": "a" } }] } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_to_the_receivers_path_makes_it_look() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    let home = tempfile::tempdir().expect("a folder");
    let settings = HttpSettings {
        bind: ([127, 0, 0, 1], 0).into(),
        repositories: home.path().join("git"),
        hook: None,
        wait: Duration::from_secs(5),
        limits: delivery::sync::git::Limits::default(),
    };
    let server = listen(settings, cluster.sync.clone()).await.expect("it listens");
    let (address, stop) = (server.address(), CancellationToken::new());
    let serving = tokio::spawn(server.run(stop.clone()));

    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    repository.commit("First");
    cluster
        .apply(&json!({ "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository",
            "metadata": { "name": "shop", "namespace": "argocd" },
            "spec": { "interval": "10h", "url": repository.url(), "ref": { "branch": "main" } } }))
        .await;
    cluster
        .apply(&json!({ "apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization",
            "metadata": { "name": "shop", "namespace": "argocd", "labels": { "team": "a" } },
            "spec": { "interval": "10h", "prune": true, "path": "deploy", "targetNamespace": "shop",
                "sourceRef": { "kind": "GitRepository", "name": "shop" } } }))
        .await;
    cluster.config("a", "one").await;

    let path = "/apis/notification.toolkit.fluxcd.io/v1/namespaces/argocd/receivers/shop";
    let ready = |object: Option<&Value>, status: &str| {
        object.is_some_and(|object| object["status"]["conditions"][0]["status"] == status)
    };
    // Without its Secret it is not ready, and says so.
    cluster.apply(&receiver("gitlab")).await;
    let seen = cluster.until(path, "not ready", |object| ready(object, "False")).await.expect("it is there");
    assert!(seen["status"]["conditions"][0]["message"].to_string().contains("hook-token"), "{seen}");
    let secret = |token: &str| {
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "hook-token", "namespace": "argocd" },
            "stringData": { "token": token } })
    };
    cluster.apply(&secret("first")).await;
    let seen = cluster.until(path, "ready", |object| ready(object, "True")).await.expect("it is there");
    let first = seen["status"]["webhookPath"].as_str().expect("a path").to_owned();

    // Another token is another path.
    cluster.apply(&secret("second")).await;
    let other = |object: Option<&Value>| {
        object.is_some_and(|object| object["status"]["webhookPath"].as_str().is_some_and(|path| path != first))
    };
    let seen = cluster.until(path, "another path", other).await.expect("it is there");
    let hook = seen["status"]["webhookPath"].as_str().expect("a path").to_owned();
    let good = "x-gitlab-event: Push Hook\r\nx-gitlab-token: second\r\n";
    assert_eq!(post(address, &first, good, "{}").await, 404);
    assert_eq!(post(address, &hook, "x-gitlab-event: Push Hook\r\nx-gitlab-token: guess\r\n", "{}").await, 400);
    assert_eq!(post(address, &hook, "x-gitlab-event: Note Hook\r\nx-gitlab-token: second\r\n", "{}").await, 400);
    assert_eq!(post(address, &hook, good, "{}").await, 200);
    for path in [
        "/apis/source.toolkit.fluxcd.io/v1/namespaces/argocd/gitrepositories/shop",
        "/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/argocd/kustomizations/shop",
    ] {
        let handled = |object: Option<&Value>| {
            let Some(object) = object else { return false };
            let asked = &object["metadata"]["annotations"]["reconcile.fluxcd.io/requestedAt"];
            asked.is_string() && object["status"]["lastHandledReconcileAt"] == *asked
        };
        cluster.until(path, "handled", handled).await;
    }
    cluster.api.merge(path, &json!({ "spec": { "suspend": true } }), "person").await.expect("suspended");
    tokio::time::timeout(LIMIT, async { while post(address, &hook, good, "{}").await != 503 {} })
        .await
        .expect("suspended");
    cluster.api.delete(path, "").await.expect("deleted");
    tokio::time::timeout(LIMIT, async { while post(address, &hook, good, "{}").await != 404 {} }).await.expect("gone");
    cluster.config("a", "one").await;
    cluster.api.find(&config("a")).await.expect("an answer");
    stop.cancel();
    serving.await.expect("no panic");
    cluster.stop().await;
}
