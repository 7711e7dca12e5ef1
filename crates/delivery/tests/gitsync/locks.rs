//! Syncs and people's applies take the same locks, so that neither tramples the other, and nobody waits for the dead.

use delivery::applyset::Set;
use delivery::lock::{self, Request};
use serde_json::{Value, json};

use crate::harness::{Cluster, Repository, application, automated, config, map};

fn set(name: &str) -> Set {
    Set::new("argocd", name)
}

/// Somebody on another machine.
fn ann() -> Request {
    Request { host: "elsewhere".into(), ..Request::of_this_process("ann".into(), "looking at it".into()) }
}

fn locked(status: &Value, words: &str) -> bool {
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.any(|one| one["type"] == "SyncLocked" && one["message"].as_str().unwrap_or_default().contains(words))
}

fn free(status: &Value) -> bool {
    !status["conditions"].to_string().contains("SyncLocked")
}

async fn held(cluster: &Cluster) -> Vec<lock::Held> {
    lock::list(cluster.client.clone(), None).await.expect("a list")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_waits_for_who_holds_its_lock_and_names_them() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let first = repository.commit("First");
    cluster.apply(&automated("shop", &repository)).await;
    let status = cluster.synced("shop", &first).await;
    assert!(free(&status), "{status}");
    assert_eq!(held(&cluster).await, [], "it is given back");

    let lock = lock::acquire(cluster.client.clone(), &set("application.shop"), &ann(), &|_| {}).await.expect("free");
    repository.write("deploy/a.yaml", &map("a", "two", &json!({})));
    let second = repository.commit("Second");
    let words = "waiting for the lock: ann on elsewhere";
    let status = cluster.application("shop", "waiting", |status| locked(status, words)).await;
    assert!(status["conditions"].to_string().contains("looking at it"), "{status}");
    cluster.config("a", "one").await;
    // What is newer waits in its place, and a restart changes nothing.
    repository.write("deploy/a.yaml", &map("a", "three", &json!({})));
    let third = repository.commit("Third");
    cluster
        .application("shop", "waiting with the third", |status| {
            locked(status, words) && status["operationState"]["syncResult"]["revision"] == third.as_str()
        })
        .await;
    cluster.config("a", "one").await;
    lock.release().await.expect("given back");
    let status = cluster.synced("shop", &third).await;
    cluster.config("a", "three").await;
    assert!(status["coracle"]["failed"].is_null(), "a lock says nothing about a commit: {status}");
    assert!(!status["history"].to_string().contains(&second), "{status}");
    cluster.application("shop", "free", free).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_the_dead_ends_by_itself() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let first = repository.commit("First");
    // As after a kill -9 of another machine's: nothing is renewed, nothing given back.
    let lock = lock::acquire(cluster.client.clone(), &set("application.shop"), &ann(), &|_| {}).await.expect("free");
    drop(lock);
    cluster.apply(&automated("shop", &repository)).await;
    cluster.application("shop", "waiting", |status| locked(status, "ann on elsewhere")).await;
    cluster.synced("shop", &first).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_goes_on_is_listed_and_ends_with_its_lock() {
    let (mut cluster, repository) = (Cluster::start().await, Repository::new());
    // A hook that nobody here runs holds the sync.
    let hook = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "first",
        "annotations": { "argocd.argoproj.io/hook": "PreSync" } }, "spec": { "template": { "spec": {
            "restartPolicy": "Never", "containers": [{ "name": "c", "image": "i" }] } } } });
    repository.write("deploy/hook.json", &hook.to_string());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    repository.commit("Slow");
    cluster.apply(&automated("shop", &repository)).await;
    let job = "/apis/batch/v1/namespaces/shop/jobs/first";
    cluster.until(job, "there", |object| object.is_some()).await;
    let listed = held(&cluster).await;
    assert_eq!((listed[0].set.as_str(), listed[0].holder.as_str()), ("application.shop", "git sync"));
    assert!(listed[0].reason.starts_with("syncing "), "{listed:?}");
    let person = lock::acquire(cluster.client.clone(), &set("application.shop"), &ann(), &|_| {}).await;
    assert!(person.err().expect("held").to_string().contains("git sync on"));

    // A newer commit takes the lock over at once, and so does the next life of the sync.
    repository.write("deploy/a.yaml", &map("a", "two", &json!({})));
    let second = repository.commit("Newer");
    cluster
        .application("shop", "at the second", |status| {
            status["operationState"]["syncResult"]["revision"] == second.as_str()
        })
        .await;
    assert_eq!(held(&cluster).await.len(), 1);
    let before = holder(&cluster.api.get(LEASE).await.expect("it is there"));
    cluster.restart_sync().await;
    // Ended by hand, the sync ends too; then it begins anew.
    cluster.application("shop", "running", |status| status["operationState"]["phase"] == "Running").await;
    let anew = |object: Option<&Value>| object.map(holder).is_some_and(|now| now.is_some() && now != before);
    cluster.until(LEASE, "held by the next life", anew).await;
    assert!(lock::release(cluster.client.clone(), &set("application.shop")).await.expect("an answer").is_some());
    cluster.application("shop", "told", |status| locked(status, "the lock was lost")).await;
    let ended = json!({ "status": { "succeeded": 1, "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:01Z",
        "uncountedTerminatedPods": {}, "conditions": [
        { "type": "SuccessCriteriaMet", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z" },
        { "type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z" }] } });
    // It is made anew at some time: whichever there is comes to a good end.
    let ends = async {
        loop {
            let _ = cluster.api.merge(&format!("{job}/status"), &ended, "person").await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        _ = cluster.synced("shop", &second) => {}
        never = ends => never,
    }
    assert_eq!(held(&cluster).await, []);
    cluster.stop().await;
}

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/argocd/leases/applyset-application.shop";

fn holder(lease: &Value) -> Option<String> {
    lease["spec"]["holderIdentity"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_set_took_meanwhile_is_left_to_it() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    // The second wave waits for a Deployment that nobody runs; meanwhile a person's set takes what it would bring.
    let web = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" }, "spec": { "replicas": 1,
        "selector": { "matchLabels": { "app": "web" } }, "template": { "metadata": { "labels": { "app": "web" } },
            "spec": { "containers": [{ "name": "web", "image": "i" }] } } } });
    repository.write("deploy/web.json", &web.to_string());
    repository.write("deploy/late.yaml", &map("late", "git", &json!({ "argocd.argoproj.io/sync-wave": "1" })));
    repository.commit("Slow");
    cluster.apply(&automated("shop", &repository)).await;
    let path = "/apis/apps/v1/namespaces/shop/deployments/web";
    let object = cluster.until(path, "there", |object| object.is_some()).await.expect("it is there");
    let theirs = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "late", "namespace": "shop" },
        "data": { "key": "theirs" } });
    let other = Set::new("shop", "mine");
    let how = delivery::plan::Options::default();
    let plan = delivery::plan::plan(cluster.client.clone(), vec![theirs], &other, &how).await.expect("a plan");
    let options = delivery::release::Options {
        apply: delivery::apply::Options { wait: None, ..delivery::apply::Options::default() },
        lock: ann(),
        provenance: delivery::history::Provenance::default(),
        keep: 3,
        rollback: false,
    };
    delivery::release::release(cluster.client.clone(), &plan, &options, &|_| {}).await.expect("applied");
    let status = json!({ "status": { "observedGeneration": object["metadata"]["generation"], "replicas": 1,
        "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1 } });
    cluster.api.merge(&format!("{path}/status"), &status, "person").await.expect("a status");
    cluster
        .application("shop", "refused", |status| status["conditions"].to_string().contains("belongs to another set"))
        .await;
    cluster.config("late", "theirs").await;
    let late = cluster.api.get(&config("late")).await.expect("it is there");
    assert_eq!(late["metadata"]["labels"]["applyset.kubernetes.io/part-of"], other.id());
    // And the record of a sync is no set of a person's.
    let refused = delivery::plan::plan(cluster.client.clone(), Vec::new(), &set("application.shop"), &how).await;
    let refused = refused.expect_err("it is the sync's").to_string();
    assert!(refused.contains("application shop in argocd keeps it"), "{refused}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_of_an_end_wait_too_and_the_lock_goes_with_the_application() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    repository.write("deploy/end.yaml", &map("end", "x", &json!({ "argocd.argoproj.io/hook": "PreDelete" })));
    let first = repository.commit("First");
    let mut object = automated("shop", &repository);
    object["metadata"]["finalizers"] = json!(["resources-finalizer.argocd.argoproj.io"]);
    cluster.apply(&object).await;
    cluster.synced("shop", &first).await;
    let lock = lock::acquire(cluster.client.clone(), &set("application.shop"), &ann(), &|_| {}).await.expect("free");
    cluster.api.delete(&application("shop"), "").await.expect("deleted");
    cluster
        .application("shop", "waiting", |status| status["conditions"].to_string().contains("ann on elsewhere"))
        .await;
    assert_eq!(cluster.api.find(&config("end")).await.expect("an answer"), None, "its hook has not begun");
    lock.release().await.expect("given back");
    cluster.until(&application("shop"), "gone", |object| object.is_none()).await;
    cluster.until(&config("end"), "made", |object| object.is_some()).await;
    assert_eq!(cluster.api.find(LEASE).await.expect("an answer"), None);
    cluster.stop().await;
}
