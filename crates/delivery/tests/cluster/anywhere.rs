//! What the commands rely on, the same against our own API and against a kube-apiserver: `CORACLE_TEST_KUBECONFIG` names the
//! kubeconfig of one that may be written to (two namespaces come and go, and a definition).

use crate::harness::{Cluster, LIMIT};
use delivery::api::Api;
use delivery::applyset::Set;
use delivery::plan::{Action, Options, Plan};
use delivery::{apply, plan, protect};
use serde_json::{Value, json};

const NAMESPACE: &str = "coracle-anywhere";

#[tokio::test]
async fn our_own_api_is_planned_and_applied() {
    let cluster = Cluster::start().await;
    exercise(cluster.client.clone()).await;
    cluster.stop().await;
}

#[tokio::test]
#[ignore = "needs a kube-apiserver"]
async fn a_kube_apiserver_is_planned_and_applied() {
    let file = std::env::var("CORACLE_TEST_KUBECONFIG").expect("CORACLE_TEST_KUBECONFIG names a kubeconfig");
    let kubeconfig = kube::config::Kubeconfig::read_from(file).expect("a kubeconfig");
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a context");
    exercise(kube::Client::try_from(config).expect("a client")).await;
}

fn manifests(image: &str, label: &str) -> Vec<Value> {
    let template = json!({"metadata": {"labels": {"app": label}},
        "spec": {"containers": [{"name": "a", "image": image, "env": [{"name": "PASSWORD", "value": "hunter2"}],
            "resources": {"limits": {"cpu": 0.5, "memory": "1.5Gi"}}}]}});
    let mut job = template.clone();
    job["spec"]["restartPolicy"] = "Never".into();
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "gadgets.anywhere.coracle.dev"},
            "spec": {"group": "anywhere.coracle.dev", "scope": "Namespaced", "names": {"kind": "Gadget", "plural": "gadgets"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                    "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer", "default": 3}}}}}}}]}}),
        json!({"apiVersion": "anywhere.coracle.dev/v1", "kind": "Gadget", "metadata": {"name": "g", "namespace": NAMESPACE}, "spec": {}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": NAMESPACE}, "stringData": {"token": "hunter2"}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": NAMESPACE}, "data": {"a": "1"}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": NAMESPACE},
            "spec": {"selector": {"app": label}, "ports": [{"port": 80}]}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": NAMESPACE},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": label}}, "template": template}}),
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once", "namespace": NAMESPACE},
            "spec": {"suspend": true, "template": job}}),
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": NAMESPACE},
            "spec": {"replicas": 0, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "a", "image": "i",
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"},
                    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]}}),
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": NAMESPACE},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
    ]
}

async fn planned(client: &kube::Client, desired: &[Value], options: &Options) -> Plan {
    let set = Set::new("default", "coracle-anywhere");
    plan::plan(client.clone(), desired.to_vec(), &set, options).await.expect("a plan")
}

async fn applied(client: &kube::Client, plan: &Plan) {
    assert!(plan.problems.is_empty(), "{:?}", plan.problems);
    let options = apply::Options { wait: None, ..apply::Options::default() };
    let applying = apply::apply(client.clone(), plan, &options, &|_| {});
    tokio::time::timeout(LIMIT * 3, applying).await.expect("in time").expect("applied");
}

async fn exercise(client: kube::Client) {
    let api = Api::over(client.clone());
    let all = Options { ask_all: true, ..Options::default() };

    // A namespace, a definition and an object of its kind in one plan; then nothing is left to do, whoever is asked.
    let desired = manifests("nginx:1", "web");
    let plan = planned(&client, &desired, &Options::default()).await;
    assert!(plan.changes.iter().all(|change| change.action == Action::Create), "{plan:?}");
    applied(&client, &plan).await;
    for options in [&Options::default(), &all] {
        let plan = planned(&client, &desired, options).await;
        assert!(plan.is_empty() && plan.problems.is_empty(), "{plan:?}");
    }

    // What cannot be changed is replaced, and the refusal shows nothing of what the object holds.
    let desired = manifests("nginx:2", "web2");
    let plan = planned(&client, &desired, &Options::default()).await;
    let of = |kind: &str| plan.changes.iter().find(|change| change.object.kind == kind).expect("it changes");
    for kind in ["Deployment", "Job"] {
        assert_eq!(of(kind).action, Action::Replace);
        let note = of(kind).note.clone().unwrap_or_default();
        assert!(note.contains("field is immutable") && !note.contains('{') && !note.contains("hunter2"), "{note}");
    }
    assert_eq!(of("Service").action, Action::Change);
    applied(&client, &plan).await;
    assert!(planned(&client, &desired, &all).await.is_empty());

    // Volumes hold data: they are kept, and so is what holds them, until somebody confirms it.
    let one = vec![manifests("nginx:2", "web2").remove(0)];
    let plan = planned(&client, &one, &Options::default()).await;
    let kept: Vec<_> =
        plan.changes.iter().filter(|c| c.action == Action::Keep).map(|c| c.object.kind.as_str()).collect();
    // The claim, the StatefulSet with its own, and the definition, which has an object as yet.
    assert_eq!(kept.len(), 3, "{plan:?}");
    applied(&client, &plan).await;
    let kinds = api.kinds().await.expect("kinds");
    let namespace = api.get(&format!("/api/v1/namespaces/{NAMESPACE}")).await.expect("it stays");
    let why = protect::held::why(&api, &kinds, &namespace).await.expect("an answer").expect("it is held");
    assert!(why.contains("persistentvolumeclaim/data"), "{why}");
    let claim = api.get(&format!("/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/data")).await.expect("kept");
    assert!(protect::held::is_held(&claim));

    let confirmed = |object: &str| protect::Confirmation { object: object.into(), reason: "a test's end".into() };
    let options = Options {
        confirmed: ["persistentvolumeclaim/data", "statefulset/db"].map(confirmed).to_vec(),
        ..Options::default()
    };
    applied(&client, &planned(&client, &one, &options).await).await;
    let options = Options { allow_empty: true, ..Options::default() };
    applied(&client, &planned(&client, &[], &options).await).await;
}
