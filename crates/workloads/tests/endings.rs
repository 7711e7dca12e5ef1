//! Jobs, deletion with each propagation, and namespaces, against a real API server.

mod support;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use support::{Cluster, FAILS, SERVES, SUCCEEDS, deployment, name};

fn job(name: &str, image: &str, more: Value) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
        "spec": { "template": { "spec": {
            "restartPolicy": "Never", "containers": [{ "name": "main", "image": image }],
        } } },
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        job["spec"][field] = value.clone();
    }
    job
}

fn has(job: &Job, type_: &str) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == type_ && condition.status == "True")
}

#[tokio::test]
async fn jobs_complete_and_fail_and_hold_no_pods() {
    let cluster = Cluster::start().await;
    let spec = json!({ "completions": 4, "parallelism": 2 });
    cluster.create::<Job>("default", job("good", SUCCEEDS, spec)).await;
    cluster.create::<Job>("default", job("bad", FAILS, json!({ "backoffLimit": 0 }))).await;
    let spec = json!({ "completions": 3, "parallelism": 3, "completionMode": "Indexed" });
    cluster.create::<Job>("default", job("indexed", SUCCEEDS, spec)).await;
    let jobs = cluster
        .until(cluster.api::<Job>("default"), "finished Jobs", |all| {
            all.iter().all(|job| has(job, "Complete") || has(job, "Failed"))
        })
        .await;
    let find = |wanted: &str| jobs.iter().find(|job| name(&***job) == wanted).expect("the Job");
    let good = find("good").status.clone().expect("a status");
    assert_eq!((good.succeeded, good.failed, good.active), (Some(4), None, None));
    assert!(good.completion_time.is_some());
    assert!(has(find("bad"), "FailureTarget") && has(find("bad"), "Failed"));
    assert_eq!(find("bad").status.as_ref().and_then(|status| status.failed), Some(1));
    let indexed = find("indexed").status.clone().expect("a status");
    assert_eq!((indexed.succeeded, indexed.completed_indexes.as_deref()), (Some(3), Some("0-2")));
    let pods = cluster
        .until(cluster.api::<Pod>("default"), "Pods let go", |pods| {
            pods.iter().all(|pod| pod.metadata.finalizers.iter().flatten().next().is_none())
        })
        .await;
    assert_eq!(pods.len(), 8);

    cluster.api::<Job>("default").delete("good", &DeleteParams::background()).await.expect("deleted");
    cluster.until(cluster.api::<Pod>("default"), "its Pods gone", |pods| pods.len() == 4).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_finished_job_goes_after_its_time_to_live() {
    let cluster = Cluster::start().await;
    cluster.create::<Job>("default", job("brief", SUCCEEDS, json!({ "ttlSecondsAfterFinished": 0 }))).await;
    cluster.until(cluster.api::<Job>("default"), "no Job", <[Arc<Job>]>::is_empty).await;
    cluster.until(cluster.api::<Pod>("default"), "no Pods", <[Arc<Pod>]>::is_empty).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_deleted_job_pod_that_ran_is_a_failure_and_is_replaced() {
    let cluster = Cluster::start().await;
    cluster.create::<Job>("default", job("steady", SERVES, json!({ "backoffLimit": 0 }))).await;
    let pods = cluster.api::<Pod>("default");
    let running = cluster
        .until(pods.clone(), "a Pod", |pods| {
            pods.iter().any(|pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running")))
        })
        .await;
    pods.delete(&name(&*running[0]), &DeleteParams::default()).await.expect("deleted");
    let jobs = cluster
        .until(cluster.api::<Job>("default"), "a failed Job", |all| all.iter().all(|job| has(job, "Failed")))
        .await;
    assert_eq!(jobs[0].status.as_ref().and_then(|status| status.failed), Some(1));
    cluster.until(pods, "no Pods", <[Arc<Pod>]>::is_empty).await;
    cluster.stop().await;
}

async fn rolled_out(cluster: &Cluster) {
    cluster.create::<Deployment>("default", deployment("shop", 2, SERVES)).await;
    cluster
        .until(cluster.api::<Deployment>("default"), "the rollout", |all| {
            all.iter().all(|one| one.status.as_ref().and_then(|status| status.available_replicas) == Some(2))
        })
        .await;
}

#[tokio::test]
async fn deletion_in_the_background_takes_everything_along() {
    let cluster = Cluster::start().await;
    rolled_out(&cluster).await;
    cluster.api::<Deployment>("default").delete("shop", &DeleteParams::background()).await.expect("deleted");
    cluster.until(cluster.api::<ReplicaSet>("default"), "no ReplicaSets", <[Arc<ReplicaSet>]>::is_empty).await;
    cluster.until(cluster.api::<Pod>("default"), "no Pods", <[Arc<Pod>]>::is_empty).await;
    cluster.stop().await;
}

#[tokio::test]
async fn deletion_in_the_foreground_ends_with_the_owner() {
    let cluster = Cluster::start().await;
    rolled_out(&cluster).await;
    let deployments = cluster.api::<Deployment>("default");
    deployments.delete("shop", &DeleteParams::foreground()).await.expect("deleted");
    cluster.until(deployments, "no Deployment", <[Arc<Deployment>]>::is_empty).await;
    let sets = cluster.api::<ReplicaSet>("default").list(&ListParams::default()).await.expect("sets");
    let pods = cluster.api::<Pod>("default").list(&ListParams::default()).await.expect("pods");
    assert_eq!((sets.items.len(), pods.items.len()), (0, 0), "gone before their owner");
    cluster.stop().await;
}

#[tokio::test]
async fn orphans_stay_and_are_adopted_again() {
    let cluster = Cluster::start().await;
    rolled_out(&cluster).await;
    let before = cluster.api::<Pod>("default").list(&ListParams::default()).await.expect("pods").items;
    let deployments = cluster.api::<Deployment>("default");
    deployments.delete("shop", &DeleteParams::orphan()).await.expect("deleted");
    cluster.until(deployments, "no Deployment", <[Arc<Deployment>]>::is_empty).await;
    let sets = cluster
        .until(cluster.api::<ReplicaSet>("default"), "a free ReplicaSet", |all| {
            all.iter().all(|set| set.metadata.owner_references.iter().flatten().next().is_none())
        })
        .await;
    assert_eq!(sets.len(), 1);
    rolled_out(&cluster).await;
    let after = cluster.api::<Pod>("default").list(&ListParams::default()).await.expect("pods").items;
    let names = |pods: &[Pod]| pods.iter().map(name).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(names(&before), names(&after), "the same Pods all along");
    cluster.stop().await;
}

#[tokio::test]
async fn owners_count_only_where_they_can_be() {
    let cluster = Cluster::start().await;
    let create = |namespace: &'static str, name: &'static str, owners: Value| {
        let object =
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "ownerReferences": owners } });
        cluster.create::<ConfigMap>(namespace, object)
    };
    let owner = create("default", "owner", json!([])).await;
    let uid = owner.metadata.uid.clone().unwrap_or_default();
    let reference = |uid: &str| json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid }]);
    create("default", "kept", reference(&uid)).await;
    create("default", "other-uid", reference("00000000-0000-0000-0000-000000000000")).await;
    create("kube-public", "elsewhere", reference(&uid)).await;
    let both = json!([reference(&uid)[0], reference("00000000-0000-0000-0000-000000000001")[0]]);
    create("default", "one-of-two", both).await;
    let own = |all: &[Arc<ConfigMap>]| {
        let mut names: Vec<String> =
            all.iter().map(|map| name(&**map)).filter(|name| name != "kube-root-ca.crt").collect();
        names.sort();
        names
    };
    cluster.until(cluster.api::<ConfigMap>("kube-public"), "nothing there", |all| own(all).is_empty()).await;
    let left = cluster
        .until(cluster.api::<ConfigMap>("default"), "what has owners", |all| {
            let trimmed = all.iter().all(|map| map.metadata.owner_references.iter().flatten().count() <= 1);
            trimmed && own(all) == ["kept", "one-of-two", "owner"]
        })
        .await;
    assert_eq!(own(&left).len(), 3);
    cluster.api::<ConfigMap>("default").delete("owner", &DeleteParams::background()).await.expect("deleted");
    cluster.until(cluster.api::<ConfigMap>("default"), "nothing", |all| own(all).is_empty()).await;
    cluster.stop().await;
}

fn widgets() -> CustomResourceDefinition {
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "widgets.example.com" },
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": { "plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList" },
            "versions": [{ "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } } }],
        },
    });
    serde_json::from_value(definition).expect("a definition")
}

#[tokio::test]
async fn namespaces_are_furnished_and_emptied_custom_kinds_included() {
    let cluster = Cluster::start().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    definitions.create(&PostParams::default(), &widgets()).await.expect("a definition");
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": "shop" } })).expect("a namespace");
    namespaces.create(&PostParams::default(), &namespace).await.expect("a namespace");
    cluster
        .until(cluster.api::<ServiceAccount>("shop"), "the account", |all| {
            all.iter().any(|one| name(&**one) == "default")
        })
        .await;
    let maps = cluster.until(cluster.api::<ConfigMap>("shop"), "the certificate", |all| !all.is_empty()).await;
    assert_eq!(name(&*maps[0]), "kube-root-ca.crt");
    assert_eq!(
        maps[0].data.as_ref().and_then(|data| data.get("ca.crt")).map(String::as_str),
        Some(cluster.handle.ca_pem())
    );
    cluster.api::<ConfigMap>("shop").delete("kube-root-ca.crt", &DeleteParams::default()).await.expect("deleted");
    cluster.until(cluster.api::<ConfigMap>("shop"), "the certificate again", |all| !all.is_empty()).await;

    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Widget"));
    let widgets: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), "shop", &kind);
    let mut widget = DynamicObject::new("held", &kind);
    widget.metadata.finalizers = Some(vec!["example.com/hold".into()]);
    widgets.create(&PostParams::default(), &widget).await.expect("a widget");
    cluster.create::<Deployment>("shop", deployment("shop", 2, SERVES)).await;
    cluster.until(cluster.api::<Pod>("shop"), "Pods", |pods| pods.len() == 2).await;

    namespaces.delete("shop", &DeleteParams::default()).await.expect("deleted");
    let waiting = |all: &[Arc<Namespace>]| {
        let shop = all.iter().find(|one| name(&***one) == "shop");
        let conditions = shop.and_then(|shop| shop.status.as_ref()?.conditions.clone()).unwrap_or_default();
        conditions.iter().any(|condition| {
            condition.type_ == "NamespaceFinalizersRemaining"
                && condition.message.as_deref().is_some_and(|message| message.contains("example.com/hold in 1"))
        })
    };
    cluster.until(namespaces.clone(), "the namespace says what it waits for", waiting).await;
    cluster.until(cluster.api::<Pod>("shop"), "no Pods", <[Arc<Pod>]>::is_empty).await;
    let free = json!({ "metadata": { "finalizers": [] } });
    widgets.patch("held", &PatchParams::default(), &Patch::Merge(&free)).await.expect("let go");
    cluster.until(namespaces, "no namespace", |all| all.iter().all(|one| name(&**one) != "shop")).await;
    cluster.stop().await;
}

#[tokio::test]
async fn custom_kinds_made_later_are_collected_as_well() {
    let cluster = Cluster::start().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    definitions.create(&PostParams::default(), &widgets()).await.expect("a definition");
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Widget"));
    let widgets: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), "default", &kind);
    let widget = widgets.create(&PostParams::default(), &DynamicObject::new("w", &kind)).await.expect("a widget");
    let uid = widget.metadata.uid.clone().unwrap_or_default();
    let owned = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "owned", "ownerReferences": [
        { "apiVersion": "example.com/v1", "kind": "Widget", "name": "w", "uid": uid },
    ] } });
    cluster.create::<ConfigMap>("default", owned).await;
    widgets.delete("w", &DeleteParams::background()).await.expect("deleted");
    cluster
        .until(cluster.api::<ConfigMap>("default"), "the owned one gone", |all| {
            all.iter().all(|map| name(&**map) != "owned")
        })
        .await;
    cluster.stop().await;
}
