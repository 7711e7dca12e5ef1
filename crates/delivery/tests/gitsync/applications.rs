//! Applications of Argo CD, from the first commit to their end.

use serde_json::{Value, json};

use crate::harness::{Cluster, Repository, application, automated, brought_without_healing, config, map};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_live_and_a_revert_undoes_it() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    repository.write("deploy/b.yaml", &map("b", "one", &json!({})));
    let first = repository.commit("First");
    cluster.apply(&automated("shop", &repository)).await;
    let status = cluster.synced("shop", &first).await;
    assert_eq!(status["sourceType"], "Directory");
    assert_eq!(status["resources"].as_array().map(Vec::len), Some(2));
    assert_eq!(status["resources"][0]["health"]["status"], "Healthy");
    assert_eq!(status["operationState"]["phase"], "Succeeded");
    assert_eq!(status["history"][0]["revision"], first.as_str());

    repository.write("deploy/a.yaml", &map("a", "two", &json!({})));
    std::fs::remove_file(repository.path().join("deploy/b.yaml")).expect("a file");
    let second = repository.commit("Second");
    cluster.config("a", "two").await;
    cluster.until(&config("b"), "gone", |object| object.is_none()).await;
    let status = cluster.synced("shop", &second).await;
    assert_eq!(status["history"].as_array().map(Vec::len), Some(2));
    assert_eq!(status["coracle"]["good"]["content"]["revisions"][0], second.as_str());

    repository.git(&["revert", "--no-edit", "HEAD"]);
    cluster.config("a", "one").await;
    cluster.config("b", "one").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_by_hand_are_shown_and_undone_where_asked() {
    let (cluster, _repository, mut object, first) = brought_without_healing().await;
    let hand = |value: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a", "namespace": "shop" }, "data": { "key": value } });
    cluster.apply(&hand("by hand")).await;
    let status = cluster.application("shop", "out of sync", |status| status["sync"]["status"] == "OutOfSync").await;
    assert_eq!(status["resources"][0]["status"], "OutOfSync");
    cluster.config("a", "by hand").await;
    object["spec"]["syncPolicy"]["automated"]["selfHeal"] = true.into();
    cluster.apply(&object).await;
    cluster.config("a", "one").await;
    cluster.synced("shop", &first).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_synced_unasked_and_asking_is_enough() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let first = repository.commit("First");
    let mut object = automated("shop", &repository);
    object["spec"]["syncPolicy"] = json!({ "syncOptions": ["CreateNamespace=true"] });
    object["spec"]["destination"]["namespace"] = "fresh".into();
    cluster.apply(&object).await;
    cluster.application("shop", "compared", |status| status["sync"]["status"] == "OutOfSync").await;
    let path = "/api/v1/namespaces/fresh/configmaps/a";
    assert_eq!(cluster.api.find(path).await.expect("an answer"), None);
    let ask = json!({ "operation": { "initiatedBy": { "username": "ann" }, "sync": {} } });
    cluster.api.merge(&application("shop"), &ask, "person").await.expect("asked");
    let status = cluster.synced("shop", &first).await;
    assert_eq!(status["operationState"]["operation"]["initiatedBy"]["username"], "ann");
    cluster.until(path, "there", |object| object.is_some()).await;
    let object = cluster.api.get(&application("shop")).await.expect("it is there");
    assert_eq!(object["operation"], Value::Null);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_and_waves_run_in_their_order() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    let hook = |phase: &str, more: &str| json!({ "argocd.argoproj.io/hook": phase, "argocd.argoproj.io/hook-delete-policy": more });
    repository.write("deploy/before.yaml", &map("before", "x", &hook("PreSync", "BeforeHookCreation")));
    repository.write("deploy/after.yaml", &map("after", "x", &hook("PostSync", "HookSucceeded")));
    repository.write("deploy/first.yaml", &map("first", "x", &json!({ "argocd.argoproj.io/sync-wave": "-1" })));
    repository.write("deploy/second.yaml", &map("second", "x", &json!({})));
    let commit = repository.commit("First");
    cluster.apply(&automated("shop", &repository)).await;
    let status = cluster.synced("shop", &commit).await;
    let results = status["operationState"]["syncResult"]["resources"].as_array().expect("results").clone();
    let names: Vec<&str> = results.iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names, ["before", "first", "second", "after"]);
    assert_eq!((&results[0]["hookPhase"], &results[0]["syncPhase"]), (&json!("Succeeded"), &json!("PreSync")));
    let version =
        |object: Value| object["metadata"]["resourceVersion"].as_str().expect("text").parse::<u64>().expect("a number");
    let first = version(cluster.api.get(&config("first")).await.expect("it is there"));
    let second = version(cluster.api.get(&config("second")).await.expect("it is there"));
    assert!(first < second);
    assert_eq!(cluster.api.find(&config("after")).await.expect("an answer"), None, "it is deleted once it succeeded");
    let shown: Vec<&str> =
        status["resources"].as_array().expect("a list").iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(shown, ["first", "second"], "hooks are not members");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_so_is_kept_and_everything_goes_only_when_told() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/a.yaml", &map("a", "x", &json!({ "argocd.argoproj.io/sync-options": "Prune=false" })));
    repository.write("deploy/b.yaml", &map("b", "x", &json!({ "argocd.argoproj.io/sync-options": "Prune=confirm" })));
    repository.write("deploy/c.yaml", &map("c", "x", &json!({})));
    let first = repository.commit("First");
    cluster.apply(&automated("shop", &repository)).await;
    cluster.synced("shop", &first).await;

    std::fs::remove_dir_all(repository.path().join("deploy")).expect("a folder");
    repository.write("deploy/.keep", "");
    repository.commit("Nothing");
    let said = |status: &Value, words: &str| status["conditions"].to_string().contains(words);
    cluster.application("shop", "refused", |status| said(status, "allowEmpty")).await;
    cluster.config("c", "x").await;

    repository.write("deploy/d.yaml", &map("d", "x", &json!({})));
    repository.commit("One");
    cluster.until(&config("c"), "gone", |object| object.is_none()).await;
    let skipped = |status: &Value| {
        let results = status["operationState"]["syncResult"]["resources"].to_string();
        results.matches("PruneSkipped").count() == 2 && status["operationState"]["phase"] == "Succeeded"
    };
    cluster.application("shop", "two skipped", skipped).await;
    cluster.config("a", "x").await;
    cluster.config("b", "x").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_stays_within_its_project() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    let project = |namespaces: Value| {
        json!({ "apiVersion": "argoproj.io/v1alpha1", "kind": "AppProject",
        "metadata": { "name": "team", "namespace": "argocd" }, "spec": { "sourceRepos": ["*"], "destinations": namespaces } })
    };
    cluster.apply(&project(json!([{ "server": "*", "namespace": "other" }]))).await;
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    repository.commit("First");
    let mut object = automated("shop", &repository);
    object["spec"]["project"] = "team".into();
    cluster.apply(&object).await;
    let said = |status: &Value, words: &str| status["conditions"].to_string().contains(words);
    cluster.application("shop", "refused", |status| said(status, "does not allow the namespace shop")).await;

    // Allowed into its own namespace, it cannot reach out of it by what a manifest says.
    cluster.apply(&project(json!([{ "server": "*", "namespace": "shop" }]))).await;
    cluster.config("a", "one").await;
    let mut stray: Value = serde_json::from_str(&map("stray", "x", &json!({}))).expect("JSON");
    stray["metadata"]["namespace"] = "kube-system".into();
    repository.write("deploy/stray.yaml", &stray.to_string());
    repository.write("deploy/a.yaml", &map("a", "two", &json!({})));
    repository.commit("Stray");
    cluster
        .application("shop", "refused", |status| {
            said(status, "permission: project team does not allow the namespace kube-system")
        })
        .await;
    assert_eq!(cluster.api.find("/api/v1/namespaces/kube-system/configmaps/stray").await.expect("an answer"), None);
    cluster.config("a", "one").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_application_takes_its_objects_along_where_asked() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    repository.write("deploy/b.yaml", &map("b", "one", &json!({ "argocd.argoproj.io/sync-options": "Delete=false" })));
    let first = repository.commit("First");
    let mut object = automated("shop", &repository);
    object["metadata"]["finalizers"] = json!(["resources-finalizer.argocd.argoproj.io"]);
    cluster.apply(&object).await;
    cluster.synced("shop", &first).await;
    cluster.api.delete(&application("shop"), "").await.expect("deleted");
    cluster.until(&application("shop"), "gone", |object| object.is_none()).await;
    cluster.until(&config("a"), "gone", |object| object.is_none()).await;
    cluster.config("b", "one").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_before_the_end_that_fails_holds_the_application_and_its_objects() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    let hook = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "backup",
        "annotations": { "argocd.argoproj.io/hook": "PreDelete" } }, "spec": { "template": { "spec": {
            "restartPolicy": "Never", "containers": [{ "name": "c", "image": "i" }] } } } });
    repository.write("deploy/hook.json", &hook.to_string());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let first = repository.commit("First");
    let mut object = automated("shop", &repository);
    object["metadata"]["finalizers"] = json!(["resources-finalizer.argocd.argoproj.io"]);
    cluster.apply(&object).await;
    cluster.synced("shop", &first).await;
    let held = |object: Option<&Value>| {
        object.is_some_and(|one| one["metadata"]["finalizers"].to_string().contains("pre-delete-finalizer"))
    };
    cluster.until(&application("shop"), "held", held).await;
    cluster.api.delete(&application("shop"), "").await.expect("deleted");
    let job = "/apis/batch/v1/namespaces/shop/jobs/backup";
    let begun = cluster.until(job, "there", |object| object.is_some()).await.expect("it is there");
    let (start, end) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z");
    let failed = json!({ "status": { "failed": 1, "startTime": start, "uncountedTerminatedPods": {}, "conditions": [
        { "type": "FailureTarget", "status": "True", "lastTransitionTime": end, "message": "the disk is full" },
        { "type": "Failed", "status": "True", "lastTransitionTime": end, "message": "the disk is full" }] } });
    cluster.api.merge(&format!("{job}/status"), &failed, "person").await.expect("a status");
    let named = |status: &Value| {
        let mut all = status["conditions"].as_array().into_iter().flatten();
        all.any(|one| {
            let said = one["message"].as_str().unwrap_or_default();
            one["type"] == "DeletionError"
                && said.contains("PreDelete hook Job backup failed: the disk is full")
                && said.contains("argocd.argoproj.io/refresh")
        })
    };
    cluster.application("shop", "held by its hook", named).await;
    cluster.config("a", "one").await;

    // Asked again, it is run again.
    let refresh = json!({ "metadata": { "annotations": { "argocd.argoproj.io/refresh": "normal" } } });
    cluster.api.merge(&application("shop"), &refresh, "person").await.expect("asked");
    cluster
        .until(job, "made anew", |object| object.is_some_and(|job| job["metadata"]["uid"] != begun["metadata"]["uid"]))
        .await;
    let done = json!({ "status": { "succeeded": 1, "startTime": start, "completionTime": end, "uncountedTerminatedPods": {},
        "conditions": [{ "type": "SuccessCriteriaMet", "status": "True", "lastTransitionTime": end },
            { "type": "Complete", "status": "True", "lastTransitionTime": end }] } });
    cluster.api.merge(&format!("{job}/status"), &done, "person").await.expect("a status");
    cluster.until(&application("shop"), "gone", |object| object.is_none()).await;
    cluster.until(&config("a"), "gone", |object| object.is_none()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_is_refused_by_name() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    let mut object = automated("shop", &repository);
    object["spec"]["source"] =
        json!({ "repoURL": "https://charts.example.com", "chart": "redis", "targetRevision": "1.0" });
    cluster.apply(&object).await;
    let status = cluster
        .application("shop", "refused", |status| status["conditions"].to_string().contains("Helm charts are not built"))
        .await;
    assert_eq!(status["conditions"][0]["type"], "InvalidSpecError");
    cluster.stop().await;
}
