//! Flux's kinds over the same engine.

use serde_json::{Value, json};

use crate::harness::{Cluster, Repository, config, map};

fn source(repository: &Repository) -> Value {
    json!({ "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository",
        "metadata": { "name": "shop", "namespace": "argocd" },
        "spec": { "interval": "1m", "url": repository.url(), "ref": { "branch": "main" } } })
}

fn kustomization(name: &str, spec: Value) -> Value {
    let mut object = json!({ "apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization",
        "metadata": { "name": name, "namespace": "argocd" },
        "spec": { "interval": "10m", "prune": true, "path": "./deploy", "targetNamespace": "shop",
            "sourceRef": { "kind": "GitRepository", "name": "shop" } } });
    for (field, value) in spec.as_object().into_iter().flatten() {
        object["spec"][field] = value.clone();
    }
    object
}

fn path(name: &str) -> String {
    format!("/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/argocd/kustomizations/{name}")
}

fn ready(object: Option<&Value>, status: &str, words: &str) -> bool {
    let conditions = object.and_then(|object| object["status"]["conditions"].as_array()).cloned().unwrap_or_default();
    let mut conditions = conditions.iter();
    conditions.any(|one| {
        one["type"] == "Ready" && one["status"] == status && one["message"].as_str().unwrap_or_default().contains(words)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kustomization_follows_its_repository_and_takes_its_objects_along() {
    let (mut cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let first = repository.commit("First");
    cluster.apply(&source(&repository)).await;
    cluster.apply(&kustomization("shop", json!({}))).await;
    cluster.config("a", "one").await;
    let seen =
        cluster.until(&path("shop"), "ready", |object| ready(object, "True", &first)).await.expect("it is there");
    assert_eq!(seen["status"]["lastAppliedRevision"], format!("main@sha1:{first}"));
    assert_eq!(seen["status"]["inventory"]["entries"][0]["id"], "shop_a__ConfigMap");
    let of_source = "/apis/source.toolkit.fluxcd.io/v1/namespaces/argocd/gitrepositories/shop";
    let of_source =
        cluster.until(of_source, "ready", |object| ready(object, "True", &first)).await.expect("it is there");
    assert_eq!(of_source["status"]["artifact"]["revision"], format!("main@sha1:{first}"));

    repository.write("deploy/a.yaml", &map("a", "two", &json!({})));
    let second = repository.commit("Second");
    cluster.config("a", "two").await;
    cluster.until(&path("shop"), "ready", |object| ready(object, "True", &second)).await;

    // Who brought what outlives a restart.
    cluster.restart_sync().await;
    repository.write("deploy/a.yaml", &map("a", "three", &json!({})));
    let third = repository.commit("Third");
    let all = [&third, &second, &first];
    let kept = |object: Option<&Value>| {
        let history = object.and_then(|object| object["status"]["history"].as_array()).cloned().unwrap_or_default();
        let is = |(one, wanted): (&Value, &&String)| {
            one["metadata"]["revision"] == wanted.as_str() && one["metadata"]["author"].is_string()
        };
        history.len() == all.len() && history.iter().zip(&all).all(is)
    };
    cluster.until(&path("shop"), "its history", kept).await;
    cluster.api.delete(&path("shop"), "").await.expect("deleted");
    cluster.until(&config("a"), "gone", |object| object.is_none()).await;
    cluster.until(&path("shop"), "gone", |object| object.is_none()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_depends_on_another_waits_for_it() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("base/a.yaml", &map("base", "one", &json!({})));
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    repository.commit("First");
    cluster.apply(&source(&repository)).await;
    cluster.apply(&kustomization("shop", json!({ "dependsOn": [{ "name": "base" }] }))).await;
    cluster.until(&path("shop"), "waiting", |object| ready(object, "False", "dependency argocd/base")).await;
    assert_eq!(cluster.api.find(&config("a")).await.expect("an answer"), None);
    cluster.apply(&kustomization("base", json!({ "path": "./base" }))).await;
    cluster.config("a", "one").await;
    cluster.until(&path("shop"), "ready", |object| ready(object, "True", "Applied")).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn suspended_ones_rest_and_wrong_ones_say_why() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    repository.commit("First");
    cluster.apply(&source(&repository)).await;
    cluster.apply(&kustomization("shop", json!({ "suspend": true }))).await;
    cluster.until(&path("shop"), "suspended", |object| ready(object, "Unknown", "suspended")).await;
    assert_eq!(cluster.api.find(&config("a")).await.expect("an answer"), None);
    cluster.apply(&kustomization("shop", json!({ "suspend": false }))).await;
    cluster.config("a", "one").await;
    cluster.apply(&kustomization("odd", json!({ "decryption": { "provider": "sops" } }))).await;
    cluster.until(&path("odd"), "refused", |object| ready(object, "False", "not decrypted")).await;
    cluster.stop().await;
}
