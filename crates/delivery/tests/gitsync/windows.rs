//! When and what somebody lets be synced: windows of a project, and revisions that are asked for.

use serde_json::{Value, json};

use crate::harness::{Cluster, Repository, application, automated, config, map};

fn condition(status: &Value, kind: &str) -> Option<String> {
    let all = status["conditions"].as_array()?;
    Some(all.iter().find(|one| one["type"] == kind)?["message"].as_str()?.to_owned())
}

fn project(windows: &Value) -> Value {
    json!({ "apiVersion": "argoproj.io/v1alpha1", "kind": "AppProject", "metadata": { "name": "default", "namespace": "argocd" },
        "spec": { "sourceRepos": ["*"], "destinations": [{ "server": "*", "namespace": "*" }],
            "clusterResourceWhitelist": [{ "group": "*", "kind": "*" }], "syncWindows": windows } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_window_holds_syncs_and_says_so() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let first = repository.commit("First");
    // Open at any time: the last minute's begin lasts an hour.
    let window = |manual: bool| {
        json!([{ "kind": "deny", "schedule": "* * * * *", "duration": "1h", "applications": ["*"], "manualSync": manual,
            "timeZone": "UTC" }])
    };
    cluster.apply(&project(&window(false))).await;
    cluster.apply(&automated("shop", &repository)).await;
    let closed = |status: &Value| condition(status, "SyncWindow").is_some() && status["sync"]["status"] == "OutOfSync";
    let status = cluster.application("shop", "closed", closed).await;
    let said = condition(&status, "SyncWindow").expect("a condition");
    assert!(said.contains("deny * * * * * UTC 1h") && said.contains("project default"), "{said}");
    assert_eq!(cluster.api.find(&config("a")).await.expect("an answer"), None);

    // By hand it is let through where the window says so.
    let ask = json!({ "operation": { "sync": {} } });
    cluster.api.merge(&application("shop"), &ask, "person").await.expect("asked");
    cluster.apply(&project(&window(true))).await;
    cluster.config("a", "one").await;
    cluster.synced("shop", &first).await;

    // Another commit waits until there is no window any more.
    repository.write("deploy/a.yaml", &map("a", "two", &json!({})));
    let second = repository.commit("Second");
    cluster.application("shop", "held", |status| closed(status) && status["sync"]["revision"] == second.as_str()).await;
    cluster.config("a", "one").await;
    cluster.apply(&project(&json!([]))).await;
    cluster.config("a", "two").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_revision_is_brought_where_somebody_asks_for_it() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let first = repository.commit("First");
    repository.git(&["tag", "v1"]);
    repository.write("deploy/a.yaml", &map("a", "two", &json!({})));
    let second = repository.commit("Second");
    let ask = |revision: &str| json!({ "operation": { "sync": { "revision": revision } } });

    // Where syncs happen by themselves it is refused, and why is said.
    cluster.apply(&automated("shop", &repository)).await;
    cluster.synced("shop", &second).await;
    cluster.api.merge(&application("shop"), &ask(&first), "person").await.expect("asked");
    let refused = |status: &Value| status["operationState"]["phase"] == "Error";
    let status = cluster.application("shop", "refused", refused).await;
    let said = status["operationState"]["message"].as_str().expect("a message").to_owned();
    assert!(said.contains("automated"), "{said}");
    cluster
        .until(&application("shop"), "taken away", |object| object.is_some_and(|one| one["operation"].is_null()))
        .await;
    cluster.config("a", "two").await;

    let mut object = automated("shop", &repository);
    object["spec"]["syncPolicy"]["automated"]["enabled"] = false.into();
    cluster.apply(&object).await;
    for (revision, value) in [(first.as_str(), "one"), ("main", "two"), ("v1", "one")] {
        cluster.api.merge(&application("shop"), &ask(revision), "person").await.expect("asked");
        cluster.config("a", value).await;
        let commit = if value == "one" { &first } else { &second };
        let done = |status: &Value| {
            let state = &status["operationState"];
            state["phase"] == "Succeeded" && state["syncResult"]["revision"] == commit.as_str()
        };
        let status = cluster.application("shop", revision, done).await;
        let last = status["history"].as_array().and_then(|all| all.last().cloned()).expect("a history");
        assert_eq!(last["revision"], commit.as_str());
        cluster
            .until(&application("shop"), "taken away", |object| object.is_some_and(|one| one["operation"].is_null()))
            .await;
    }
    cluster.api.merge(&application("shop"), &ask("nowhere"), "person").await.expect("asked");
    let status = cluster.application("shop", "refused", refused).await;
    assert!(status["operationState"]["message"].as_str().expect("a message").contains("nowhere"));
    cluster.config("a", "one").await;
    cluster.stop().await;
}
