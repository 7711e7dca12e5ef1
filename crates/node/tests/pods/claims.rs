//! Claims: from a declaration to a directory, and to its end.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use serde_json::{Value, json};

use crate::bench::{Bench, LIMIT, shell};

fn claims(bench: &Bench) -> Api<PersistentVolumeClaim> {
    Api::default_namespaced(bench.client.clone())
}

fn volumes(bench: &Bench) -> Api<PersistentVolume> {
    Api::all(bench.client.clone())
}

async fn make(bench: &Bench, name: &str, change: Value) -> String {
    let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    for (key, value) in change.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    let claim = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("a claim");
    let made = claims(bench).create(&PostParams::default(), &claim).await.expect("made");
    made.metadata.uid.expect("it has one")
}

async fn until_phase(bench: &Bench, name: &str, phase: &str) -> Value {
    let wanted = |claim: Option<&PersistentVolumeClaim>| {
        claim.and_then(|claim| claim.status.as_ref()?.phase.as_deref()).is_some_and(|now| now == phase)
    };
    let waited = tokio::time::timeout(LIMIT, await_condition(claims(bench), name, wanted)).await;
    serde_json::to_value(waited.expect("in time").expect("watched")).expect("JSON")
}

async fn until_volume_gone(bench: &Bench, name: &str, uid: &str) {
    let gone = await_condition(volumes(bench), name, conditions::is_deleted(uid));
    tokio::time::timeout(LIMIT, gone).await.expect("in time").expect("watched");
}

fn pod(claim: &str, script: &str, read_only: bool) -> Value {
    let mut container = shell("c", script);
    container["volumeMounts"] = json!([{"name": "data", "mountPath": "/srv/coracle-test-claim"}]);
    let volume = json!({"name": "data", "persistentVolumeClaim": {"claimName": claim, "readOnly": read_only}});
    json!({"restartPolicy": "Never", "volumes": [volume], "containers": [container]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claims_data_outlives_pods_and_crashes_and_ends_with_the_claim() {
    let mut bench = Bench::start().await;
    // The Pod comes first: it waits for its claim, and says so.
    bench.pod("writer", pod("data", "echo kept > $VOLUME_DATA/file; sleep 300", false)).await;
    let message = bench.event("writer", "FailedMount").await;
    assert!(message.ends_with("persistentvolumeclaim \"data\" not found"), "{message}");
    let uid = make(&bench, "data", json!({})).await;
    bench.until_ready("writer").await;

    let name = format!("pvc-{uid}");
    let claim = until_phase(&bench, "data", "Bound").await;
    assert_eq!(claim["spec"]["volumeName"], json!(name));
    assert_eq!(claim["spec"]["storageClassName"], "coracle");
    assert_eq!(claim["status"]["capacity"]["storage"], "1Gi");
    assert_eq!(claim["status"]["accessModes"], json!(["ReadWriteOnce"]));
    let is_bound = |volume: Option<&PersistentVolume>| {
        volume.and_then(|volume| volume.status.as_ref()?.phase.as_deref()) == Some("Bound")
    };
    let bound = tokio::time::timeout(LIMIT, await_condition(volumes(&bench), &name, is_bound)).await;
    let volume = bound.expect("in time").expect("watched").expect("there");
    let directory = volume.spec.and_then(|spec| spec.host_path).expect("a directory").path;
    assert_eq!(directory, bench.path(&format!("volumes/default_data_{uid}")).display().to_string());
    let class: Api<StorageClass> = Api::all(bench.client.clone());
    assert_eq!(class.get("coracle").await.expect("made").provisioner, "coracle.dev/directory");
    let file = format!("volumes/default_data_{uid}/file");
    assert_eq!(bench.file(&file).await, "kept\n");

    // The claim stays as long as a Pod uses it, over a crash as well.
    claims(&bench).delete("data", &DeleteParams::default()).await.expect("accepted");
    bench.crash_node().await;
    bench.start_node();
    bench.pod("late", pod("data", "sleep 300", false)).await;
    let message = bench.event("late", "FailedMount").await;
    assert!(message.ends_with("persistentvolumeclaim \"data\" is being deleted"), "{message}");
    let waiting = claims(&bench).get("data").await.expect("still there");
    assert!(waiting.metadata.deletion_timestamp.is_some());
    assert_eq!(bench.file(&file).await, "kept\n");

    bench.delete("late").await;
    bench.delete("writer").await;
    bench.until_gone("writer").await;
    until_volume_gone(&bench, &name, volume.metadata.uid.as_deref().expect("it has one")).await;
    assert!(claims(&bench).get_opt("data").await.expect("asked").is_none());
    assert!(!bench.path(&format!("volumes/default_data_{uid}")).exists());
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_was_made_before_is_bound_and_kept() {
    let bench = Bench::start().await;
    let place = bench.path("place");
    std::fs::create_dir(&place).expect("made");
    std::fs::write(place.join("before"), "x").expect("written");
    let volume = json!({"metadata": {"name": "disk"}, "spec": {
        "capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "fast",
        "persistentVolumeReclaimPolicy": "Delete", "local": {"path": place},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": ["coracle"]}]}]}}
    }});
    let volume = serde_json::from_value(volume).expect("a volume");
    // Nobody provisions this class: the claim waits, and says what it waits for.
    make(&bench, "data", json!({"storageClassName": "fast"})).await;
    let message = bench.event("data", "ProvisioningFailed").await;
    assert!(message.contains("storageclass.storage.k8s.io \"fast\" not found"), "{message}");
    volumes(&bench).create(&PostParams::default(), &volume).await.expect("made");
    let claim = until_phase(&bench, "data", "Bound").await;
    assert_eq!(claim["spec"]["volumeName"], "disk");
    assert_eq!(claim["status"]["capacity"]["storage"], "5Gi");
    // As the program sees it: the file is there, and nothing can be added where volumes are mounted.
    let script = "cd /srv/coracle-test-claim 2>/dev/null || exec cat $VOLUME_DATA/before; cat before && ! touch after 2>/dev/null";
    bench.pod("reader", pod("data", script, true)).await;
    bench.until_phase("reader", "Succeeded").await;
    assert!(!place.join("after").exists());

    claims(&bench).delete("data", &DeleteParams::default()).await.expect("accepted");
    let is_released = |volume: Option<&PersistentVolume>| {
        volume.and_then(|volume| volume.status.as_ref()?.phase.as_deref()) == Some("Released")
    };
    let released = tokio::time::timeout(LIMIT, await_condition(volumes(&bench), "disk", is_released)).await;
    released.expect("in time").expect("watched");
    assert!(place.join("before").exists(), "a directory that was not made here is not removed");
    bench.end().await;
}
