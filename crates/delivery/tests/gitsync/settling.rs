//! A sync comes to rest: nothing is done again and again, what is bad is stopped, and what was put back is kept.

use serde_json::{Value, json};

use crate::harness::{
    Cluster, LIMIT, Repository, application, automated, brought_without_healing, config, deployment, good, healthy,
    look, map, put_back, worse,
};

fn hand(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": "shop" },
        "data": { "key": "by hand" } })
}

fn revision(status: &Value, commit: &str) -> bool {
    status["sync"]["revision"] == commit
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_pruned_is_no_reason_to_sync_for_ever() {
    let (cluster, repository, clock) = (Cluster::start().await, Repository::new(), Repository::new());
    let option = |text: &str| json!({ "argocd.argoproj.io/sync-options": text });
    repository.write("deploy/kept.yaml", &map("kept", "x", &option("Prune=false")));
    repository.write("deploy/asked.yaml", &map("asked", "x", &option("Prune=confirm")));
    repository.write(
        "deploy/s.yaml",
        &json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" },
        "stringData": { "key": "one" } })
        .to_string(),
    );
    let first = repository.commit("First");
    cluster.apply(&automated("shop", &repository)).await;
    cluster.synced("shop", &first).await;
    std::fs::remove_file(repository.path().join("deploy/kept.yaml")).expect("a file");
    std::fs::remove_file(repository.path().join("deploy/asked.yaml")).expect("a file");
    repository.write(
        "deploy/s.yaml",
        &json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" },
        "stringData": { "key": "two" } })
        .to_string(),
    );
    let second = repository.commit("Second");
    let through = |status: &Value| {
        let results = status["operationState"]["syncResult"]["resources"].to_string();
        results.matches("PruneSkipped").count() == 2
            && status["operationState"]["phase"] == "Succeeded"
            && status["coracle"]["good"]["content"]["revisions"][0] == second.as_str()
    };
    let before = cluster.application("shop", "through", through).await;
    // Of what is left, the inventory still tells where it is.
    let inventory = cluster.api.get("/api/v1/namespaces/argocd/secrets/application.shop").await.expect("an inventory");
    let kinds = inventory["metadata"]["annotations"]["applyset.kubernetes.io/contains-group-kinds"].clone();
    assert_eq!(kinds, "ConfigMap,Secret", "{inventory:#}");

    // Whoever is healed after this one was synced shows that the pause before healing is over.
    clock.write("deploy/clock.yaml", &map("clock", "one", &json!({})));
    let commit = clock.commit("Clock");
    cluster.apply(&automated("clock", &clock)).await;
    cluster.synced("clock", &commit).await;
    cluster.apply(&hand("clock")).await;
    cluster.config("clock", "one").await;
    look(&cluster, "shop").await;
    look(&cluster, "shop").await;
    let after = cluster.application("shop", "at rest", |status| status["operationState"]["phase"] != "Running").await;
    assert_eq!(after["history"], before["history"]);
    assert_eq!(after["operationState"], before["operationState"]);
    // The healing of the other one may be at its end still.
    let mut standings = cluster.sync.standings();
    let both =
        standings.wait_for(|all| all.values().filter(|one| one.stage == delivery::sync::Stage::Live).count() == 2);
    tokio::time::timeout(LIMIT, both).await.expect("both are live in time").expect("the sync runs");

    // Agreed to, it goes.
    let now = jiff::Timestamp::now().to_string();
    let agreed = json!({ "metadata": { "annotations": { "argocd.argoproj.io/deletion-approved": now } } });
    cluster.api.merge(&application("shop"), &agreed, "person").await.expect("agreed");
    cluster.until(&config("asked"), "gone", |object| object.is_none()).await;
    cluster.config("kept", "x").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn going_back_to_the_commit_before_stops_what_is_being_brought() {
    let (cluster, repository, _, first) = brought_without_healing().await;
    // The wave after the Deployment would wait for its health for minutes.
    repository.write("deploy/a.yaml", &map("a", "two", &json!({})));
    repository.write("deploy/web.yaml", &deployment("web:1"));
    repository.write("deploy/late.yaml", &map("late", "x", &json!({ "argocd.argoproj.io/sync-wave": "1" })));
    let bad = repository.commit("Bad");
    cluster.config("a", "two").await;
    let going = |status: &Value| revision(status, &bad) && status["operationState"]["phase"] == "Running";
    cluster.application("shop", "under way", going).await;
    repository.git(&["reset", "-q", "--hard", &first]);
    cluster.config("a", "one").await;
    cluster.synced("shop", &first).await;
    cluster.until("/apis/apps/v1/namespaces/shop/deployments/web", "gone", |object| object.is_none()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_back_is_watched_and_kept() {
    let (mut cluster, repository, mut object, _) = good().await;
    object["spec"]["syncPolicy"]["automated"]["selfHeal"] = false.into();
    cluster.apply(&object).await;
    worse(&repository);
    repository.commit("Bad");
    cluster.config("a", "two").await;
    cluster.application("shop", "put back", put_back).await;
    healthy(&cluster).await;
    cluster.config("a", "one").await;

    let drifted = |status: &Value| {
        let all = status["conditions"].as_array().cloned().unwrap_or_default();
        all.iter().any(|one| one["type"] == "Drifted" && one["message"].to_string().contains("configmap/a"))
    };
    cluster.apply(&hand("a")).await;
    let status = cluster.application("shop", "drifted", drifted).await;
    assert!(status["conditions"].to_string().contains("by hand"), "{status:#}");
    cluster.config("a", "by hand").await;
    // Also after a restart, which has rendered nothing of the good one.
    cluster.restart_sync().await;
    object["spec"]["syncPolicy"]["automated"]["selfHeal"] = true.into();
    cluster.apply(&object).await;
    cluster.config("a", "one").await;
    cluster.application("shop", "without drift", |status| !drifted(status)).await;
    let image = cluster.api.get("/apis/apps/v1/namespaces/shop/deployments/web").await.expect("it is there");
    assert_eq!(image["spec"]["template"]["spec"]["containers"][0]["image"], "web:1");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_changes_no_object_is_brought_all_the_same() {
    let (cluster, repository, _, _) = brought_without_healing().await;
    repository.write("README.md", "words");
    let second = repository.commit("Words");
    let good = |status: &Value| status["coracle"]["good"]["content"]["revisions"][0] == second.as_str();
    cluster.application("shop", "good", good).await;
    // What is changed now others have changed: it is said, and left.
    cluster.apply(&hand("a")).await;
    let drifted =
        |status: &Value| status["conditions"].as_array().into_iter().flatten().any(|one| one["type"] == "Drifted");
    cluster.application("shop", "drifted", drifted).await;
    cluster.config("a", "by hand").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marked_revision_that_is_asked_for_is_judged_again() {
    let (cluster, repository, mut object, _) = good().await;
    worse(&repository);
    let bad = repository.commit("Bad");
    cluster.application("shop", "put back", put_back).await;
    healthy(&cluster).await;
    // What it waited for is there now, and it has time.
    object["metadata"]["annotations"] = json!({ "coracle.dev/health-deadline": "5m" });
    cluster.apply(&object).await;
    let ask = json!({ "operation": { "sync": {} } });
    cluster.api.merge(&application("shop"), &ask, "person").await.expect("asked");
    let path = "/apis/apps/v1/namespaces/shop/deployments/web";
    let second = |object: &Value| object["spec"]["template"]["spec"]["containers"][0]["image"] == "web:2";
    cluster.until(path, "the second", |object| object.is_some_and(second)).await;
    healthy(&cluster).await;
    let now_good = |status: &Value| status["coracle"]["good"]["content"]["revisions"][0] == bad.as_str();
    cluster.application("shop", "good after all", now_good).await;
    assert!(second(&cluster.api.get(path).await.expect("it is there")));
    cluster.stop().await;
}

/// What ends again and again is healthy for moments: a start of the sync in one of them is no reason to call it good.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_brought_before_a_start_is_judged_like_everything() {
    let (mut cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/web.yaml", &deployment("web:1"));
    let commit = repository.commit("First");
    cluster.apply(&automated("shop", &repository)).await;
    let brought =
        |status: &Value| status["coracle"]["last"]["succeeded"] == true && status["coracle"]["good"].is_null();
    cluster.application("shop", "brought, and not judged", brought).await;
    cluster.end_sync().await;
    healthy(&cluster).await;
    // By the clock by which it is judged.
    let begun = jiff::Timestamp::now();
    cluster.begin_sync();
    let good = |status: &Value| status["coracle"]["good"]["content"]["revisions"][0] == commit.as_str();
    cluster.application("shop", "good", good).await;
    // No probe asks it, so it has to go on for a second, which no load makes shorter.
    let after = jiff::Timestamp::now().duration_since(begun);
    assert!(after >= jiff::SignedDuration::from_millis(900), "good after {after:?}");
    cluster.stop().await;
}
