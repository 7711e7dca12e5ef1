//! Incidents of Git syncing (docs/scenarios.md): what keeps a sync from going on is named in the Application's status, and a person
//! acts with every act recorded also while nothing syncs.

use serde_json::{Value, json};

use crate::harness::{Cluster, Repository, application, automated, config, good, healthy, map, put_back, worse};

/// Somebody's session of break-glass, as the command line keeps it.
fn session(ended: Value) -> Value {
    let mut session = json!({ "reason": "the site is down", "by": "ann@desk", "application": "shop", "since": "2026-01-01T00:00:00Z" });
    if !ended.is_null() {
        session["ended"] = ended;
    }
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "coracle-break-glass", "namespace": "kube-system" },
        "data": { "s1.session": session.to_string() } })
}

fn says(status: &Value, words: &[&str]) -> bool {
    let text = status.to_string();
    words.iter().all(|word| text.contains(word))
}

/// Scenario 29: the Application's own status says which of the three it is, and goes on by itself once that is mended.
#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_application_says_whether_finalizer_version_or_permission() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    let held = json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "held", "finalizers": ["example.com/hold"] }, "data": { "key": "one" } });
    repository.write("deploy/held.yaml", &held.to_string());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let first = repository.commit("First");
    cluster.apply(&automated("shop", &repository)).await;
    cluster.synced("shop", &first).await;

    // A finalizer that nobody serves holds what is pruned.
    std::fs::remove_file(repository.path().join("deploy/held.yaml")).expect("a file");
    let second = repository.commit("Without it");
    let words =
        ["ConfigMap held: finalizer: its deletion waits for example.com/hold", "start what serves that finalizer"];
    let stuck = |status: &Value| {
        let all = &status["conditions"];
        says(all, &words) && status["sync"]["status"] == "OutOfSync" && status["sync"]["revision"] == second.as_str()
    };
    cluster.application("shop", "held by a finalizer", stuck).await;
    let free = json!({ "metadata": { "finalizers": null } });
    cluster.api.merge(&config("held"), &free, "person").await.expect("it is there");
    let status = cluster.synced("shop", &second).await;
    assert!(!says(&status["conditions"], &["finalizer"]), "{status:#}");

    // A definition in another version.
    let definition = json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "widgets.example.com" }, "spec": { "group": "example.com", "scope": "Namespaced",
            "names": { "kind": "Widget", "plural": "widgets" }, "versions": [{ "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } } }] } });
    cluster.apply(&definition).await;
    let widget = |version: &str| {
        json!({ "apiVersion": format!("example.com/{version}"), "kind": "Widget", "metadata": { "name": "w" } })
            .to_string()
    };
    repository.write("deploy/widget.yaml", &widget("v2"));
    repository.commit("A version that is not served");
    let words = ["Widget.example.com w: missing kind", "example.com/v2", "it is served as example.com/v1"];
    cluster.application("shop", "without the version", |status| says(&status["conditions"], &words)).await;
    repository.write("deploy/widget.yaml", &widget("v1"));
    let served = repository.commit("A version that is served");
    cluster.synced("shop", &served).await;

    // A role that lacks a kind.
    let team = json!({ "apiVersion": "argoproj.io/v1alpha1", "kind": "AppProject",
        "metadata": { "name": "team", "namespace": "argocd" }, "spec": { "sourceRepos": ["*"],
            "destinations": [{ "server": "*", "namespace": "shop" }],
            "destinationServiceAccounts": [{ "server": "*", "namespace": "shop", "defaultServiceAccount": "deployer" }] } });
    cluster.apply(&team).await;
    let role = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": { "name": "deployer", "namespace": "shop" },
        "rules": [{ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"] }] });
    cluster.apply(&role).await;
    let binding = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": { "name": "deployer", "namespace": "shop" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "deployer" },
        "subjects": [{ "kind": "ServiceAccount", "namespace": "shop", "name": "deployer" }] });
    cluster.apply(&binding).await;
    let mut object = automated("shop", &repository);
    object["spec"]["project"] = "team".into();
    cluster.apply(&object).await;
    let changed = widget("v1").replace("\"metadata\"", "\"spec\":{\"size\":2},\"metadata\"");
    repository.write("deploy/widget.yaml", &changed);
    repository.commit("A change that it may not make");
    let words = [
        "permission:",
        "system:serviceaccount:shop:deployer",
        "widgets",
        "let the project or the ServiceAccount's role allow it",
    ];
    cluster.application("shop", "without permission", |status| says(&status["conditions"], &words)).await;
    cluster.stop().await;
}

/// Scenario 30: with the sync away, what was there goes on, a person begins and acts, and the sync that comes back holds still and
/// records the act.
#[tokio::test(flavor = "multi_thread")]
async fn acts_by_hand_while_nothing_syncs_are_recorded_too() {
    let (mut cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    repository.write("deploy/b.yaml", &map("b", "one", &json!({})));
    let first = repository.commit("First");
    cluster.apply(&automated("shop", &repository)).await;
    cluster.synced("shop", &first).await;
    cluster.end_sync().await;
    repository.write("deploy/b.yaml", &map("b", "two", &json!({})));
    repository.commit("What the sync fell over");
    cluster.apply(&session(Value::Null)).await;
    let hand = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a", "namespace": "shop" }, "data": { "key": "by hand" } });
    cluster.apply(&hand).await;
    cluster.config("b", "one").await;
    cluster.begin_sync();
    cluster.application("shop", "held", |status| says(&status["conditions"], &["the site is down"])).await;
    let recorded = |object: Option<&Value>| {
        let acts = object.map(|object| object["data"]["s1.acts"].as_str().unwrap_or_default().to_owned());
        acts.is_some_and(|acts| acts.contains("configmap/a in shop") && acts.contains("person"))
    };
    let record = cluster.until(delivery::sync::break_glass::PATH, "recorded", recorded).await.expect("it is there");
    assert!(!record["data"]["s1.acts"].to_string().contains("configmap/b"), "nobody touched that: {record:#}");
    cluster.config("a", "by hand").await;
    cluster.config("b", "one").await;
    cluster.apply(&session(json!("2026-01-01T01:00:00Z"))).await;
    cluster.config("a", "one").await;
    cluster.config("b", "two").await;
    cluster.stop().await;
}

/// Putting the last good revision back is our own doing: nobody is told of drift.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_back_has_not_drifted() {
    let (cluster, repository, ..) = good().await;
    worse(&repository);
    repository.commit("Bad");
    cluster.application("shop", "put back", put_back).await;
    healthy(&cluster).await;
    cluster.config("a", "one").await;
    // A refresh has been looked at, so that whatever was to be said is said.
    let refresh = json!({ "metadata": { "annotations": { "argocd.argoproj.io/refresh": "normal" } } });
    cluster.api.merge(&application("shop"), &refresh, "person").await.expect("asked");
    let taken = |object: Option<&Value>| {
        object.is_some_and(|o| o["metadata"]["annotations"]["argocd.argoproj.io/refresh"].is_null())
    };
    cluster.until(&application("shop"), "refreshed", taken).await;
    let events = cluster.api.list("/api/v1/namespaces/argocd/events", "").await.expect("a list");
    let drifted: Vec<&Value> = events.iter().filter(|event| event["reason"] == "Drifted").collect();
    assert!(drifted.is_empty(), "{drifted:#?}");
    cluster.stop().await;
}
