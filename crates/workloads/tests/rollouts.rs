//! Deployments, ReplicaSets, Services and the scheduler against a real API server.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Endpoints, Event, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;
use support::{Cluster, SERVES, STARTS, deployment, name};

fn reason(deployment: &Deployment) -> Option<&str> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "Progressing")?.reason.as_deref()
}

fn is_settled(deployment: &Deployment, replicas: i32) -> bool {
    let status = deployment.status.clone().unwrap_or_default();
    let some = (replicas != 0).then_some(replicas);
    status.observed_generation == deployment.metadata.generation
        && status.updated_replicas == some
        && status.available_replicas == some
        && status.replicas == some
        && reason(deployment) == Some("NewReplicaSetAvailable")
}

async fn settled(cluster: &Cluster, replicas: i32) -> Arc<Deployment> {
    let api = cluster.api::<Deployment>("default");
    let all = cluster.until(api, "the rollout", |all| all.iter().all(|one| is_settled(one, replicas))).await;
    all[0].clone()
}

#[tokio::test]
async fn a_deployment_rolls_out_updates_scales_and_rolls_back() {
    let cluster = Cluster::start().await;
    cluster.create::<Deployment>("default", deployment("shop", 3, SERVES)).await;
    settled(&cluster, 3).await;
    let pods = cluster.api::<Pod>("default").list(&ListParams::default()).await.expect("pods").items;
    assert_eq!(pods.len(), 3, "exactly as many Pods as asked for");
    let first: BTreeSet<String> = pods.iter().map(name).collect();

    let image = |image: &str| json!({ "spec": { "template": support::template("shop", image) } });
    cluster.merge::<Deployment>("default", "shop", image("serves-too")).await;
    let updated = settled(&cluster, 3).await;
    let annotations = updated.metadata.annotations.clone().unwrap_or_default();
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "2");
    let pods = cluster
        .until(cluster.api::<Pod>("default"), "only new Pods", |pods| {
            pods.len() == 3 && pods.iter().all(|pod| !first.contains(&name(&**pod)))
        })
        .await;
    assert!(pods.iter().all(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())));

    cluster.merge::<Deployment>("default", "shop", json!({ "spec": { "replicas": 5 } })).await;
    settled(&cluster, 5).await;
    cluster.merge::<Deployment>("default", "shop", image(SERVES)).await;
    let back = settled(&cluster, 5).await;
    let annotations = back.metadata.annotations.clone().unwrap_or_default();
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "3");
    let sets = cluster.api::<ReplicaSet>("default").list(&ListParams::default()).await.expect("sets").items;
    assert_eq!(sets.len(), 2, "the old ReplicaSet is used again");

    let events = cluster
        .until(cluster.api::<Event>("default"), "events", |events| {
            let said = |reason: &str| events.iter().any(|event| event.reason.as_deref() == Some(reason));
            said("ScalingReplicaSet") && said("SuccessfulCreate") && said("SuccessfulDelete") && said("Scheduled")
        })
        .await;
    // The scheduler may have seen a Pod before it saw the node.
    let late = |event: &Event| event.reason.as_deref() == Some("FailedScheduling");
    assert!(events.iter().all(|event| event.type_.as_deref() == Some("Normal") || late(event)), "{events:#?}");
    cluster.stop().await;
}

fn is_of_shop(slice: &EndpointSlice) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get("kubernetes.io/service-name")).is_some_and(|name| name == "shop")
}

#[tokio::test]
async fn a_service_has_the_addresses_of_its_ready_pods() {
    let cluster = Cluster::start().await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "shop" },
        "spec": { "selector": { "app": "shop" }, "ports": [{ "name": "http", "port": 80, "targetPort": "web" }] },
    });
    cluster.create::<Service>("default", service).await;
    cluster.create::<Deployment>("default", deployment("shop", 2, SERVES)).await;
    let ready_ports = |slices: &[Arc<EndpointSlice>]| -> BTreeSet<i32> {
        let ours = slices.iter().filter(|slice| is_of_shop(slice));
        ours.filter(|slice| {
            slice.endpoints.iter().any(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(true))
        })
        .filter_map(|slice| slice.ports.as_ref()?.first()?.port)
        .collect()
    };
    let slices = cluster.api::<EndpointSlice>("default");
    let all = cluster.until(slices.clone(), "two ready endpoints", |all| ready_ports(all).len() == 2).await;
    assert!(ready_ports(&all).iter().all(|port| *port > 41000), "the ports that the node noted");
    let is_shop = |endpoints: &&Arc<Endpoints>| endpoints.metadata.name.as_deref() == Some("shop");
    cluster
        .until(cluster.api::<Endpoints>("default"), "Endpoints of the same", |all| {
            let subsets = all.iter().find(is_shop).and_then(|endpoints| endpoints.subsets.clone());
            subsets.is_some_and(|subsets| subsets.iter().filter(|subset| subset.addresses.is_some()).count() == 2)
        })
        .await;

    cluster.merge::<Deployment>("default", "shop", json!({ "spec": { "replicas": 0 } })).await;
    cluster
        .until(slices.clone(), "no endpoints", |all| {
            all.iter().all(|slice| !is_of_shop(slice) || slice.endpoints.is_empty())
        })
        .await;
    cluster.api::<Service>("default").delete("shop", &DeleteParams::default()).await.expect("deleted");
    cluster.until(slices, "no slices", |all| !all.iter().any(|slice| is_of_shop(slice))).await;
    cluster
        .until(cluster.api::<Endpoints>("default"), "no Endpoints", |all| !all.iter().any(|one| is_shop(&one)))
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_pod_without_a_fitting_node_says_so_until_there_is_one() {
    let mut cluster = Cluster::bare().await;
    cluster.start_controllers();
    cluster.create::<Deployment>("default", deployment("shop", 1, SERVES)).await;
    let scheduled = |pod: &Pod| {
        let conditions = pod.status.as_ref()?.conditions.clone()?;
        let found = conditions.into_iter().find(|condition| condition.type_ == "PodScheduled")?;
        Some((found.status, found.message.unwrap_or_default()))
    };
    let pods = cluster.api::<Pod>("default");
    cluster
        .until(pods.clone(), "an unschedulable Pod", |all| {
            let wanted = Some(("False".to_owned(), "no nodes available to schedule pods".to_owned()));
            all.iter().any(|pod| scheduled(pod) == wanted)
        })
        .await;
    cluster
        .until(cluster.api::<Event>("default"), "the event", |all| {
            all.iter().any(|event| event.reason.as_deref() == Some("FailedScheduling"))
        })
        .await;
    cluster.start_node().await;
    settled(&cluster, 1).await;
    cluster.stop().await;
}

#[tokio::test]
async fn controllers_that_start_anew_go_on_where_they_were() {
    let mut cluster = Cluster::start().await;
    cluster.create::<Deployment>("default", deployment("shop", 3, SERVES)).await;
    settled(&cluster, 3).await;
    cluster
        .merge::<Deployment>("default", "shop", json!({ "spec": { "template": support::template("shop", STARTS) } }))
        .await;
    cluster.until(cluster.api::<ReplicaSet>("default"), "a second ReplicaSet", |all| all.len() == 2).await;
    cluster.stop_controllers().await;
    cluster
        .merge::<Deployment>(
            "default",
            "shop",
            json!({ "spec": { "replicas": 4, "template": support::template("shop", "other") } }),
        )
        .await;
    cluster.start_controllers();
    settled(&cluster, 4).await;
    cluster.until(cluster.api::<Pod>("default"), "four Pods", |pods| pods.len() == 4).await;
    cluster.stop().await;
}

#[tokio::test]
async fn late_caches_never_lead_to_pods_too_many() {
    let mut cluster = Cluster::bare().await;
    cluster.start_node().await;
    cluster.start_lagging_controllers(Duration::from_millis(40));
    cluster.create::<Deployment>("default", deployment("shop", 4, SERVES)).await;
    settled(&cluster, 4).await;
    let other = json!({ "spec": { "template": support::template("shop", "serves-too") } });
    cluster.merge::<Deployment>("default", "shop", other).await;
    settled(&cluster, 4).await;
    cluster.until(cluster.api::<Pod>("default"), "the old Pods gone", |pods| pods.len() == 4).await;
    let counts = |events: &mut dyn Iterator<Item = &Event>| {
        let (mut made, mut given_up) = (0, 0);
        for event in events {
            made += usize::from(event.reason.as_deref() == Some("SuccessfulCreate"));
            given_up += usize::from(event.reason.as_deref() == Some("SuccessfulDelete"));
        }
        (made, given_up)
    };
    let events = cluster.api::<Event>("default");
    // Events are written after what they tell of.
    cluster
        .until(events.clone(), "what was done told", |all| {
            let (made, given_up) = counts(&mut all.iter().map(|event| &**event));
            made >= 8 && given_up >= 4
        })
        .await;
    cluster.stop_controllers().await;
    let all = events.list(&ListParams::default()).await.expect("events").items;
    assert_eq!(counts(&mut all.iter()), (8, 4), "each Pod was made and given up once");
    cluster.stop().await;
}

#[tokio::test]
async fn pods_are_adopted_and_given_up_by_their_labels() {
    let cluster = Cluster::start().await;
    let lone = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "lone", "labels": { "app": "set" } },
        "spec": { "containers": [{ "name": "main", "image": SERVES }] } });
    cluster.create::<Pod>("default", lone).await;
    let set = json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": { "name": "set" },
        "spec": { "replicas": 2, "selector": { "matchLabels": { "app": "set" } }, "template": support::template("set", SERVES) } });
    cluster.create::<ReplicaSet>("default", set).await;
    let owned = |pod: &Pod| pod.metadata.owner_references.iter().flatten().any(|owner| owner.name == "set");
    let pods = cluster.api::<Pod>("default");
    cluster
        .until(pods.clone(), "the lone Pod adopted", |all| {
            all.len() == 2 && all.iter().all(|pod| owned(pod)) && all.iter().any(|pod| name(&**pod) == "lone")
        })
        .await;
    cluster.merge::<Pod>("default", "lone", json!({ "metadata": { "labels": { "app": "other" } } })).await;
    cluster
        .until(pods, "the lone Pod given up and replaced", |all| {
            all.len() == 3 && all.iter().all(|pod| owned(pod) != (name(&**pod) == "lone"))
        })
        .await;
    cluster.stop().await;
}
