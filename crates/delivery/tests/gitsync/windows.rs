//! When and what somebody lets be synced: windows of a project, and revisions that are asked for.

use serde_json::{Value, json};

use crate::harness::{Cluster, LIMIT, Repository, application, automated, config, map};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_closes_stops_a_sync_unless_it_may_overrun() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    // A hook that nobody here runs holds the sync.
    let hook = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "first",
        "annotations": { "argocd.argoproj.io/hook": "PreSync" } }, "spec": { "template": { "spec": {
            "restartPolicy": "Never", "containers": [{ "name": "c", "image": "i" }] } } } });
    repository.write("deploy/hook.json", &hook.to_string());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let first = repository.commit("First");
    cluster.apply(&automated("shop", &repository)).await;
    let job = "/apis/batch/v1/namespaces/shop/jobs/first";
    let begun = cluster.until(job, "there", |object| object.is_some()).await.expect("it is there");
    let window = |overrun: bool| json!([{ "kind": "deny", "schedule": "* * * * *", "duration": "1h", "applications": ["*"], "syncOverrun": overrun }]);
    let phase = |status: &Value, wanted: &str| status["operationState"]["phase"] == wanted;
    cluster.apply(&project(&window(true))).await;
    let goes_on = |status: &Value| condition(status, "SyncWindow").is_some() && phase(status, "Running");
    cluster.application("shop", "going on", goes_on).await;
    cluster.apply(&project(&window(false))).await;
    let stopped = |status: &Value| {
        let said = status["operationState"]["message"].as_str().unwrap_or_default();
        condition(status, "SyncWindow").is_some() && phase(status, "Error") && said.contains("syncOverrun")
    };
    cluster.application("shop", "stopped", stopped).await;
    let free = async {
        while !delivery::lock::list(cluster.client.clone(), None).await.expect("a list").is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, free).await.expect("its lock is given back");
    cluster.apply(&project(&json!([]))).await;
    cluster
        .until(job, "made anew", |object| object.is_some_and(|job| job["metadata"]["uid"] != begun["metadata"]["uid"]))
        .await;
    let (start, end) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z");
    let done = json!({ "status": { "succeeded": 1, "startTime": start, "completionTime": end, "uncountedTerminatedPods": {},
        "conditions": [{ "type": "SuccessCriteriaMet", "status": "True", "lastTransitionTime": end },
            { "type": "Complete", "status": "True", "lastTransitionTime": end }] } });
    cluster.api.merge(&format!("{job}/status"), &done, "person").await.expect("a status");
    cluster.synced("shop", &first).await;
    cluster.stop().await;
}
