//! Bad commits, bad repositories, ends in the middle: nothing is ever worse than before.

use serde_json::{Value, json};

use crate::harness::{
    Cluster, Repository, application, automated, config, deployment, good, healthy, map, put_back, worse,
};

fn said(status: &Value, words: &str) -> bool {
    status["conditions"].to_string().contains(words)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_rehearsal_refuses_changes_nothing() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let first = repository.commit("First");
    cluster.apply(&automated("shop", &repository)).await;
    cluster.synced("shop", &first).await;
    let bomb: String = std::iter::once("a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned())
        .chain((1..12).map(|n| {
            let (name, before) = (char::from(b'a' + n), char::from(b'a' + n - 1));
            format!("{name}: &{name} [*{before},*{before},*{before},*{before},*{before},*{before},*{before},*{before},*{before}]\n")
        }))
        .collect();
    for (bad, words) in [
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ncolour: red\n".to_owned(), "colour"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: 'No Name'}\n".to_owned(), "No Name"),
        ("apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\n".to_owned(), "missing kind"),
        ("apiVersion: apps/v1beta1\nkind: Deployment\nmetadata: {name: w}\n".to_owned(), "it is served as apps/v1"),
        ("a: [1\n".to_owned(), "c.yaml"),
        (bomb, "bomb.yaml"),
    ] {
        // Named by what is said of it, or nobody could tell its refusal from the one before.
        let file = if words.ends_with(".yaml") { format!("deploy/{words}") } else { "deploy/other.yaml".to_owned() };
        repository.write("deploy/a.yaml", &map("a", "two", &json!({})));
        repository.write(&file, &bad);
        repository.commit("Bad");
        cluster.application("shop", &format!("refused for {words}"), |status| said(status, words)).await;
        cluster.config("a", "one").await;
        std::fs::remove_file(repository.path().join(file)).expect("a file");
    }
    let good = repository.commit("Good again");
    cluster.config("a", "two").await;
    cluster.synced("shop", &good).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_become_healthy_is_marked_and_the_last_good_one_put_back() {
    let (mut cluster, repository, _, good) = good().await;
    worse(&repository);
    repository.write("deploy/new.yaml", &map("new", "two", &json!({})));
    let bad = repository.commit("Bad");
    cluster.config("a", "two").await;
    let status = cluster.application("shop", "put back", |status| {
        status["coracle"]["failed"][0]["content"]["revisions"][0] == bad.as_str() && put_back(status)
    });
    let status = status.await;
    assert!(said(&status, "Deployment.apps web is Progressing") && said(&status, &good[..12]), "{status:#}");
    assert_eq!(status["sync"]["revision"], bad.as_str());
    assert_eq!(status["sync"]["status"], "OutOfSync");
    cluster.config("a", "one").await;
    cluster.until(&config("new"), "gone", |object| object.is_none()).await;
    let path = "/apis/apps/v1/namespaces/shop/deployments/web";
    let image = |object: &Value| object["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    assert_eq!(image(&cluster.api.get(path).await.expect("it is there")), "web:1");

    // Neither a restart nor another look tries it again.
    healthy(&cluster).await;
    cluster.restart_sync().await;
    let refresh = json!({ "metadata": { "annotations": { "argocd.argoproj.io/refresh": "normal" } } });
    cluster.api.merge(&application("shop"), &refresh, "person").await.expect("asked");
    let taken = |object: Option<&Value>| {
        object.is_some_and(|o| o["metadata"]["annotations"]["argocd.argoproj.io/refresh"].is_null())
    };
    cluster.until(&application("shop"), "refreshed", taken).await;
    cluster.application("shop", "still marked", |status| said(status, "is not tried again")).await;
    assert_eq!(image(&cluster.api.get(path).await.expect("it is there")), "web:1");

    // A revert is new content, and good.
    repository.git(&["revert", "--no-edit", "HEAD"]);
    let reverted = repository.git(&["rev-parse", "HEAD"]);
    cluster
        .application("shop", "good again", |status| {
            status["coracle"]["good"]["content"]["revisions"][0] == reverted.as_str()
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_commit_does_not_wait_for_an_old_one() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    // The wave after the Deployment would wait for its health for minutes.
    repository.write("deploy/web.yaml", &deployment("web:1"));
    repository.write("deploy/late.yaml", &map("late", "one", &json!({ "argocd.argoproj.io/sync-wave": "1" })));
    repository.commit("Slow");
    cluster.apply(&automated("shop", &repository)).await;
    cluster.application("shop", "running", |status| status["operationState"]["phase"] == "Running").await;
    repository.write("deploy/late.yaml", &map("late", "two", &json!({})));
    let second = repository.commit("Quick");
    cluster.config("late", "two").await;
    healthy(&cluster).await;
    cluster.synced("shop", &second).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_gone_or_rewritten_harms_nothing() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let first = repository.commit("First");
    cluster.apply(&automated("shop", &repository)).await;
    cluster.synced("shop", &first).await;
    std::fs::rename(repository.path(), repository.elsewhere()).expect("a move");
    cluster.sync.poke(|_| true);
    cluster.application("shop", "unreachable", |status| said(status, "does not appear to be a git repository")).await;
    // What was fetched goes on being held up.
    let hand = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a", "namespace": "shop" }, "data": { "key": "by hand" } });
    cluster.apply(&hand).await;
    cluster.config("a", "one").await;
    std::fs::rename(repository.elsewhere(), repository.path()).expect("a move");
    repository.git(&["checkout", "-q", "--orphan", "new"]);
    repository.write("deploy/a.yaml", &map("a", "rewritten", &json!({})));
    repository.commit("Rewritten");
    repository.git(&["branch", "-q", "-M", "new", "main"]);
    cluster.sync.poke(|_| true);
    cluster.config("a", "rewritten").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_ends_what_was_begun() {
    let (mut cluster, repository) = (Cluster::start().await, Repository::new());
    for name in ["a", "b", "c"] {
        let wave = json!({ "argocd.argoproj.io/sync-wave": if name == "c" { "1" } else { "0" } });
        repository.write(&format!("deploy/{name}.yaml"), &map(name, "one", &wave));
    }
    repository.write("deploy/web.yaml", &deployment("web:1"));
    let first = repository.commit("First");
    cluster.apply(&automated("shop", &repository)).await;
    cluster.config("a", "one").await;
    cluster.restart_sync().await;
    healthy(&cluster).await;
    cluster.config("c", "one").await;
    cluster.synced("shop", &first).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn break_glass_holds_the_sync_and_records_what_is_done() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let first = repository.commit("First");
    cluster.apply(&automated("shop", &repository)).await;
    cluster.synced("shop", &first).await;
    let session = |ended: Value| {
        let mut session = json!({ "reason": "the site is down", "by": "ann@desk", "application": "shop", "since": "2026-01-01T00:00:00Z" });
        if !ended.is_null() {
            session["ended"] = ended;
        }
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "coracle-break-glass", "namespace": "kube-system" },
            "data": { "s1.session": session.to_string() } })
    };
    cluster.apply(&session(Value::Null)).await;
    cluster.application("shop", "held", |status| said(status, "the site is down")).await;
    let hand = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a", "namespace": "shop" }, "data": { "key": "by hand" } });
    cluster.apply(&hand).await;
    let recorded = |object: Option<&Value>| {
        object.is_some_and(|o| o["data"]["s1.acts"].as_str().unwrap_or_default().contains("person"))
    };
    let record = cluster.until(delivery::sync::break_glass::PATH, "recorded", recorded).await.expect("it is there");
    assert!(record["data"]["s1.acts"].as_str().unwrap_or_default().contains("configmap/a in shop"));
    cluster.application("shop", "out of sync", |status| status["sync"]["status"] == "OutOfSync").await;
    cluster.config("a", "by hand").await;
    cluster.apply(&session(json!("2026-01-01T01:00:00Z"))).await;
    cluster.config("a", "one").await;
    cluster.stop().await;
}
