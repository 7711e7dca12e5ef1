//! Whoever asks: projects, rehearsals and other sets' objects bound a sync by hand and a way back as they bound one by itself.

use serde_json::{Value, json};

use crate::harness::{Cluster, Repository, application, automated, config, map};

fn by_hand(name: &str, repository: &Repository) -> Value {
    let mut object = automated(name, repository);
    object["spec"]["syncPolicy"] = json!({});
    object
}

async fn ask(cluster: &Cluster, name: &str, sync: Value) {
    let ask = json!({ "operation": { "initiatedBy": { "username": "ann" }, "sync": sync } });
    cluster.api.merge(&application(name), &ask, "person").await.expect("asked");
}

/// Asks, and waits until the request is refused with these words.
async fn refused(cluster: &Cluster, name: &str, sync: Value, words: &str) {
    ask(cluster, name, sync).await;
    let done = |object: &Value| {
        let state = &object["status"]["operationState"];
        object["operation"].is_null() && matches!(state["phase"].as_str(), Some("Error" | "Failed" | "Succeeded"))
    };
    // An answer to an earlier request is gone with what it says.
    let said = |object: &Value| object["status"]["operationState"]["message"].to_string().contains(words);
    let what = format!("refused with {words:?}");
    let wanted = |object: Option<&Value>| object.is_some_and(|object| done(object) && said(object));
    let object = cluster.until(&application(name), &what, wanted).await.expect("it is there");
    assert_ne!(object["status"]["operationState"]["phase"], "Succeeded", "{object:#}");
}

fn project(repositories: &[&str]) -> Value {
    json!({ "apiVersion": "argoproj.io/v1alpha1", "kind": "AppProject",
        "metadata": { "name": "team", "namespace": "argocd" },
        "spec": { "sourceRepos": repositories, "destinations": [{ "server": "*", "namespace": "shop" }] } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_bounds_what_is_asked_for_by_its_repositories() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let first = repository.commit("First");
    repository.write("deploy/a.yaml", &map("a", "two", &json!({})));
    let second = repository.commit("Second");
    let (allowed, other) = (repository.url(), "https://example.com/team/*");
    let words = "does not allow the repository";
    let said = |status: &Value| status["conditions"].to_string().contains(words);

    cluster.apply(&project(&[other])).await;
    let mut object = by_hand("shop", &repository);
    object["spec"]["project"] = "team".into();
    cluster.apply(&object).await;
    cluster.application("shop", "refused", said).await;
    refused(&cluster, "shop", json!({ "revision": first }), words).await;
    refused(&cluster, "shop", json!({}), words).await;
    assert_eq!(cluster.api.find(&config("a")).await.expect("an answer"), None);

    cluster.apply(&project(&[other, &allowed])).await;
    cluster.application("shop", "compared", |status| status["sync"]["status"] == "OutOfSync").await;
    ask(&cluster, "shop", json!({ "revision": first })).await;
    cluster.config("a", "one").await;
    let brought = |status: &Value| status["operationState"]["phase"] == "Succeeded";
    cluster.application("shop", "brought", brought).await;

    // What was rendered while it was allowed does not count either.
    cluster.apply(&project(&[other])).await;
    cluster.application("shop", "refused again", said).await;
    refused(&cluster, "shop", json!({}), words).await;
    refused(&cluster, "shop", json!({ "revision": second }), words).await;
    cluster.config("a", "one").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_rehearsal_refuses_is_not_brought_by_hand_either() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let first = repository.commit("First");
    cluster.apply(&by_hand("shop", &repository)).await;
    cluster.application("shop", "compared", |status| status["sync"]["status"] == "OutOfSync").await;
    ask(&cluster, "shop", json!({})).await;
    cluster.synced("shop", &first).await;

    repository.write("deploy/a.yaml", &map("a", "two", &json!({})));
    repository.write("deploy/c.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ncolour: red\n");
    let bad = repository.commit("Bad");
    let revision = |status: &Value, commit: &str| status["sync"]["revision"] == commit;
    cluster.application("shop", "at the bad one", |status| revision(status, &bad)).await;
    refused(&cluster, "shop", json!({}), "colour").await;
    cluster.config("a", "one").await;

    repository.write("deploy/c.yaml", &map("c", "three", &json!({})));
    let third = repository.commit("Third");
    cluster.application("shop", "at the third", |status| revision(status, &third)).await;
    refused(&cluster, "shop", json!({ "revision": bad }), "colour").await;
    cluster.config("a", "one").await;
    assert_eq!(cluster.api.find(&config("c")).await.expect("an answer"), None);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_another_set_are_never_taken() {
    let (cluster, ours, theirs) = (Cluster::start().await, Repository::new(), Repository::new());
    ours.write("deploy/shared.yaml", &map("shared", "ours", &json!({})));
    let commit = ours.commit("Ours");
    cluster.apply(&automated("ours", &ours)).await;
    cluster.synced("ours", &commit).await;
    let part_of = |object: &Value| object["metadata"]["labels"]["applyset.kubernetes.io/part-of"].clone();
    let before = cluster.api.get(&config("shared")).await.expect("it is there");

    theirs.write("deploy/own.yaml", &map("own", "theirs", &json!({})));
    let own = theirs.commit("Own");
    theirs.write("deploy/shared.yaml", &map("shared", "theirs", &json!({})));
    let both = theirs.commit("Both");
    cluster.apply(&by_hand("theirs", &theirs)).await;
    cluster.application("theirs", "at both", |status| status["sync"]["revision"] == both.as_str()).await;
    refused(&cluster, "theirs", json!({}), "it belongs to another set").await;

    theirs.git(&["rm", "-q", "deploy/shared.yaml"]);
    let back = theirs.commit("Without it");
    cluster.application("theirs", "at its own", |status| status["sync"]["revision"] == back.as_str()).await;
    refused(&cluster, "theirs", json!({ "revision": both }), "it belongs to another set").await;
    let after = cluster.api.get(&config("shared")).await.expect("it is there");
    assert_eq!((part_of(&after), &after["data"]["key"]), (part_of(&before), &json!("ours")));
    assert_eq!(cluster.api.find(&config("own")).await.expect("an answer"), None);
    ask(&cluster, "theirs", json!({ "revision": own })).await;
    cluster.config("own", "theirs").await;
    cluster.stop().await;
}
