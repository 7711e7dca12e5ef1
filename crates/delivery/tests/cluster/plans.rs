//! What a plan says, and that applying it does that and no more.

use crate::harness::{Cluster, claim, config, set, told};
use delivery::apply::ApplyError;
use delivery::plan::{Action, Options, PlanError};
use serde_json::json;

#[tokio::test]
async fn a_plan_is_applied_and_then_there_is_nothing_to_do() {
    let cluster = Cluster::start().await;
    let mut desired = vec![
        config("a", json!({"x": "1"})),
        config("b", json!({"x": "1"})),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "late"}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "late"},
            "spec": {"ports": [{"port": 80}], "selector": {"app": "s"}}}),
    ];
    let plan = cluster.bring(&desired).await;
    assert_eq!(told(&plan), "create namespace/late, create configmap/a, create configmap/b, create service/s");
    let plan = cluster.plan(&desired).await;
    assert_eq!((told(&plan).as_str(), plan.unchanged), ("", 4));
    let everything = Options { ask_all: true, ..Options::default() };
    let plan = cluster.plan_with(&desired, &everything).await;
    assert_eq!((told(&plan).as_str(), plan.unchanged), ("", 4), "the server says the same");

    desired[0]["data"]["x"] = "2".into();
    desired.remove(1);
    let plan = cluster.bring(&desired).await;
    assert_eq!(told(&plan), "change configmap/a, delete configmap/b");
    let field = &plan.changes[0].fields[0];
    assert_eq!((field.path.as_str(), &field.before, &field.after), (".data.x", &Some(json!("1")), &Some(json!("2"))));
    assert_eq!(field.owners[0].manager, "coracle");
    assert_eq!(told(&cluster.plan(&desired).await), "");
    cluster.stop().await;
}

#[tokio::test]
async fn nothing_is_deleted_by_an_empty_directory() {
    let cluster = Cluster::start().await;
    cluster.bring(&[config("a", json!({}))]).await;
    let refused = delivery::plan::plan(cluster.client.clone(), Vec::new(), &set(), &Options::default()).await;
    assert!(matches!(refused, Err(PlanError::Empty { members: 1 })));
    let options = Options { allow_empty: true, ..Options::default() };
    assert_eq!(told(&cluster.plan_with(&[], &options).await), "delete configmap/a");
    cluster.stop().await;
}

#[tokio::test]
async fn a_stale_plan_is_refused_and_says_what_moved() {
    let cluster = Cluster::start().await;
    cluster.bring(&[config("a", json!({"x": "1"}))]).await;
    let saved = cluster.plan(&[config("a", json!({"x": "2"})), config("b", json!({}))]).await;
    let saved = serde_json::from_str(&serde_json::to_string(&saved).unwrap()).expect("a plan can be kept");
    let path = "/api/v1/namespaces/default/configmaps/a";
    cluster.api.merge(path, &json!({"data": {"y": "by hand"}}), "hand").await.expect("patched");
    let refused = cluster.apply(&saved).await.unwrap_err();
    assert!(matches!(refused, ApplyError::Stale(_)));
    let said = refused.to_string();
    assert!(said.contains("configmap/a") && said.contains(".data.y was nothing and is \"by hand\" (by hand"), "{said}");
    assert!(cluster.get("/api/v1/namespaces/default/configmaps/b").await.is_none(), "nothing was changed");
    cluster.stop().await;
}

#[tokio::test]
async fn a_change_by_hand_is_shown_and_not_overwritten_unasked() {
    let cluster = Cluster::start().await;
    let desired = [config("a", json!({"x": "1"}))];
    cluster.bring(&desired).await;
    let path = "/api/v1/namespaces/default/configmaps/a";
    cluster.api.merge(path, &json!({"data": {"x": "by hand"}}), "kubectl-edit").await.expect("patched");
    let plan = cluster.plan(&desired).await;
    assert_eq!(told(&plan), "change configmap/a");
    let field = &plan.changes[0].fields[0];
    assert!(field.conflict && field.owners[0].manager == "kubectl-edit", "{field:?}");
    let refused = cluster.apply(&plan).await.unwrap_err().to_string();
    assert!(refused.contains(".data.x is kubectl-edit's"), "{refused}");
    let options = delivery::apply::Options { force_conflicts: true, ..Default::default() };
    delivery::apply::apply(cluster.client.clone(), &plan, &options, &|_| {}).await.expect("taken over");
    assert_eq!(told(&cluster.plan(&desired).await), "");
    cluster.stop().await;
}

#[tokio::test]
async fn what_holds_data_is_kept_and_a_rename_is_a_move() {
    let cluster = Cluster::start().await;
    cluster.bring(&[claim("data"), config("a", json!({"x": "1"}))]).await;
    let path = "/api/v1/namespaces/default/persistentvolumeclaims/data";
    let live = cluster.get(path).await.expect("it is there");
    assert_eq!(live["metadata"]["annotations"]["coracle.dev/protect"], "true", "the live object carries it");

    let plan = cluster.plan(&[config("a", json!({"x": "1"}))]).await;
    assert_eq!(told(&plan), "keep persistentvolumeclaim/data");
    assert!(plan.is_empty());

    let plan = cluster.bring(&[claim("renamed"), config("renamed", json!({"x": "1"}))]).await;
    assert_eq!(told(&plan), "move configmap/renamed, move persistentvolumeclaim/renamed");
    let old = cluster.get(path).await.expect("a move destroys nothing");
    assert_eq!(old["metadata"]["annotations"]["coracle.dev/moved-to"], "renamed");
    assert_eq!(old["metadata"]["labels"], json!(null), "it was released");
    assert!(cluster.get("/api/v1/namespaces/default/configmaps/a").await.is_none());
    assert_eq!(told(&cluster.plan(&[claim("renamed"), config("renamed", json!({"x": "1"}))]).await), "");
    cluster.stop().await;
}

#[tokio::test]
async fn objects_that_are_there_are_adopted_and_those_of_others_are_not() {
    let cluster = Cluster::start().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let object = config("a", json!({"x": "1"}));
    cluster.api.create(path, &object, "kubectl-create").await.expect("created");
    let plan = cluster.bring(std::slice::from_ref(&object)).await;
    assert_eq!(told(&plan), "adopt configmap/a");
    assert!(plan.changes[0].fields.is_empty());
    let other = delivery::applyset::Set::new("default", "other");
    let plan =
        delivery::plan::plan(cluster.client.clone(), vec![object.clone()], &other, &Options::default()).await.unwrap();
    assert!(plan.problems[0].message.contains("the set shop in default"), "{:?}", plan.problems);
    assert!(matches!(cluster.apply(&plan).await, Err(ApplyError::Problems(_))));
    cluster.stop().await;
}

#[tokio::test]
async fn kinds_and_their_objects_come_together() {
    let cluster = Cluster::start().await;
    let desired = [
        json!({"apiVersion": "x.io/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 1}}),
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.x.io"},
            "spec": {"group": "x.io", "scope": "Namespaced", "names": {"kind": "Widget", "plural": "widgets"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                    {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}}),
    ];
    let plan = cluster.bring(&desired).await;
    assert_eq!(plan.count(Action::Create), 2);
    assert_eq!(told(&cluster.plan(&desired).await), "");
    let refused = cluster.plan(&[json!({"apiVersion": "y.io/v1", "kind": "Odd", "metadata": {"name": "o"}})]).await;
    assert!(refused.problems[0].message.contains("no kind Odd"));
    // Its definition would take the Widget along.
    assert_eq!(told(&cluster.plan(&desired[..1]).await), "keep customresourcedefinition/widgets.x.io");
    cluster.stop().await;
}

#[tokio::test]
async fn the_policy_for_other_clusters_is_understood() {
    let cluster = Cluster::start().await;
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/policies/protect.yaml");
    let policy = delivery::render(&file).expect("manifests");
    let plan = cluster.bring(&policy).await;
    assert_eq!((plan.count(Action::Create), plan.problems.len()), (2, 0));
    // It lets through what it is not about.
    cluster.bring(&[policy[0].clone(), policy[1].clone(), config("a", json!({"x": "1"}))]).await;
    cluster.bring(&[policy[0].clone(), policy[1].clone(), config("a", json!({"x": "2"}))]).await;
    cluster.stop().await;
}
