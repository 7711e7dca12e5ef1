//! Locks, history, protection: what stands around an apply.

use crate::harness::{Cluster, LIMIT, claim, config, set, told};
use delivery::history::{self, Provenance, State};
use delivery::lock::{self, LockError, Request};
use delivery::protect::Confirmation;
use delivery::release::{self, Options, ReleaseError};
use serde_json::{Value, json};
use std::time::Duration;

fn request(pid: u32) -> Request {
    Request {
        holder: "mia".into(),
        host: "here".into(),
        pid,
        reason: "a release".into(),
        wait: None,
        life: None,
        is_alive: |pid| pid != 666,
    }
}

fn options() -> Options {
    Options {
        // No controller here ever looks at a workload.
        apply: delivery::apply::Options { wait: None, ..delivery::apply::Options::default() },
        lock: request(1),
        provenance: Provenance { applied_by: "mia@here".into(), commit: "abc".into(), ..Provenance::default() },
        keep: 3,
        rollback: false,
    }
}

pub(crate) async fn released(cluster: &Cluster, desired: &[Value]) -> release::Released {
    let plan = cluster.plan(desired).await;
    release::release(cluster.client.clone(), &plan, &options(), &|_| {}).await.expect("released")
}

#[tokio::test]
async fn the_second_of_two_waits_or_fails_with_the_holders_name() {
    let cluster = Cluster::start().await;
    let held = lock::acquire(cluster.client.clone(), &set(), &request(1), &|_| {}).await.expect("free");
    let refused = lock::acquire(cluster.client.clone(), &set(), &request(2), &|_| {}).await.err().expect("held");
    assert!(matches!(refused, LockError::Held(_)));
    assert!(refused.to_string().contains("mia on here (process 1)"), "{refused}");
    let listed = lock::list(cluster.client.clone(), None).await.unwrap();
    assert_eq!((listed[0].set.as_str(), listed[0].reason.as_str()), ("shop", "a release"));

    let waiting = Request { wait: Some(LIMIT), ..request(2) };
    let client = cluster.client.clone();
    let second = tokio::spawn(async move { lock::acquire(client, &set(), &waiting, &|_| {}).await });
    held.release().await.expect("given back");
    let second = tokio::time::timeout(LIMIT, second).await.expect("in time").unwrap().expect("now it is free");
    assert!(lock::release(cluster.client.clone(), &set()).await.unwrap().is_some(), "ended by hand");
    let lost = second.lost();
    tokio::time::timeout(LIMIT, lost.cancelled()).await.expect("its holder is told");
    cluster.stop().await;
}

#[tokio::test]
async fn a_holder_that_died_here_holds_nobody_up() {
    let cluster = Cluster::start().await;
    let dead = lock::acquire(cluster.client.clone(), &set(), &request(666), &|_| {}).await.expect("free");
    // As after a kill -9: nothing is renewed, nothing given back.
    drop(dead);
    lock::acquire(cluster.client.clone(), &set(), &request(1), &|_| {}).await.expect("taken at once");
    cluster.stop().await;
}

#[tokio::test]
async fn every_revision_is_kept_and_can_be_put_back() {
    let cluster = Cluster::start().await;
    for number in 1..=5 {
        let set = [config("a", json!({"x": number.to_string()})), config(&format!("only-{number}"), json!({}))];
        assert_eq!(released(&cluster, &set).await.revision.expect("a revision").number, number);
    }
    assert!(
        released(&cluster, &[config("a", json!({"x": "5"})), config("only-5", json!({}))]).await.revision.is_none()
    );
    let all = history::list(cluster.client.clone(), &set()).await.unwrap();
    let numbers: Vec<u64> = all.iter().map(|revision| revision.number).collect();
    assert_eq!(numbers, [5, 4, 3], "bounded");
    assert!(all.iter().all(|revision| revision.state == State::Healthy && revision.provenance.commit == "abc"));

    let chosen = history::choose(&all, None).unwrap();
    assert_eq!(chosen.number, 4);
    let desired = release::manifests_of(cluster.client.clone(), &set(), chosen).await.unwrap();
    let plan = cluster.plan(&desired).await;
    assert_eq!(plan.count(delivery::plan::Action::Change), 1, "{}", told(&plan));
    release::release(cluster.client.clone(), &plan, &options(), &|_| {}).await.expect("put back");
    let live = cluster.get("/api/v1/namespaces/default/configmaps/a").await.unwrap();
    assert_eq!(live["data"]["x"], "4");
    assert!(cluster.get("/api/v1/namespaces/default/configmaps/only-5").await.is_none());
    assert!(cluster.get("/api/v1/namespaces/default/configmaps/only-4").await.is_some());
    cluster.stop().await;
}

/// A Deployment that no controller here ever looks at does not become healthy.
fn stuck() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "stuck"}, "spec": {
        "selector": {"matchLabels": {"app": "s"}}, "template": {"metadata": {"labels": {"app": "s"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

/// Of what was cut short, or failed, all is waited for by the next one, which writes none of it.
#[tokio::test]
async fn what_nobody_has_seen_work_makes_no_revision_healthy() {
    let cluster = Cluster::start().await;
    released(&cluster, &[config("a", json!({"x": "1"}))]).await;
    cut_short(&cluster, &[config("a", json!({"x": "2"})), stuck()], 2).await;
    for value in ["2", "3"] {
        let plan = cluster.plan(&[config("a", json!({"x": value})), stuck()]).await;
        assert_eq!(plan.is_empty(), value == "2", "{}", told(&plan));
        let mut options = options();
        options.apply.wait = Some(Duration::from_millis(300));
        let error = release::release(cluster.client.clone(), &plan, &options, &|_| {}).await.unwrap_err();
        assert!(error.to_string().contains("deployment.apps/stuck in default: not healthy after"), "{error}");
        let all = history::list(cluster.client.clone(), &set()).await.unwrap();
        assert_eq!(all[0].state, State::Failed, "x: {value}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_failure_is_noted_with_its_cause_and_the_last_good_one_put_back() {
    let cluster = Cluster::start().await;
    released(&cluster, &[config("a", json!({"x": "1"}))]).await;
    let plan = cluster.plan(&[config("a", json!({"x": "2"})), stuck()]).await;
    let mut options = options();
    options.apply.wait = Some(Duration::from_millis(300));
    options.rollback = true;
    let error = release::release(cluster.client.clone(), &plan, &options, &|_| {}).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains("deployment.apps/stuck in default: not healthy after"), "{said}");
    assert!(said.contains("revision 1 is back"), "{said}");
    let live = cluster.get("/api/v1/namespaces/default/configmaps/a").await.unwrap();
    assert_eq!(live["data"]["x"], "1");
    assert!(cluster.get("/apis/apps/v1/namespaces/default/deployments/stuck").await.is_none());
    let all = history::list(cluster.client.clone(), &set()).await.unwrap();
    assert_eq!((all[0].state, all[1].state), (State::Healthy, State::Failed));
    assert!(all[1].cause.contains("not healthy"));
    cluster.stop().await;
}

/// Releases, and ends in the middle after so many objects, as a kill -9 would.
async fn cut_short(cluster: &Cluster, desired: &[Value], after: usize) {
    loop {
        let plan = cluster.plan(desired).await;
        let stop = tokio_util::sync::CancellationToken::new();
        let seen = std::sync::atomic::AtomicUsize::new(0);
        let progress = |_| {
            if seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1 >= after {
                stop.cancel();
            }
        };
        let options = Options { lock: request(666), ..options() };
        let result = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            result = release::release(cluster.client.clone(), &plan, &options, &progress) => result,
        };
        match result {
            Ok(_) => return,
            // Writes that were under way when it was cut arrived after this plan was made.
            Err(ReleaseError::Apply { cause: delivery::apply::ApplyError::Stale(_), .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_run_that_was_cut_short_is_seen_and_completed() {
    let cluster = Cluster::start().await;
    let desired: Vec<Value> = (0..150).map(|n| config(&format!("c-{n}"), json!({"x": "1"}))).collect();
    for cut in [1, 5, 20] {
        cut_short(&cluster, &desired, cut).await;
        let all = history::list(cluster.client.clone(), &set()).await.unwrap();
        assert!(history::interrupted(&all).is_some(), "cut after {cut}: {all:?}");
    }
    cut_short(&cluster, &desired, usize::MAX).await;
    assert_eq!(told(&cluster.plan(&desired).await), "");
    assert!(history::interrupted(&history::list(cluster.client.clone(), &set()).await.unwrap()).is_none());
    assert_eq!(told(&cluster.plan(&desired[..149]).await), "delete configmap/c-149", "every one is a member");
    cluster.stop().await;
}

#[tokio::test]
async fn what_is_protected_is_deleted_only_when_confirmed_whoever_asks() {
    let cluster = Cluster::start().await;
    released(&cluster, &[claim("data"), config("a", json!({}))]).await;
    let path = "/api/v1/namespaces/default/persistentvolumeclaims/data";
    let refused = cluster.api.delete(path, "").await.unwrap_err();
    assert_eq!(refused.code, Some(403));
    assert!(refused.message.contains("it is protected") && refused.message.contains("confirm-delete"), "{refused}");
    // Taking the protection off is no way round.
    let off = json!({"metadata": {"annotations": {"coracle.dev/protect": null}}});
    let kept = cluster.api.merge(path, &off, "hand").await.expect("answered");
    assert_eq!(kept["metadata"]["annotations"]["coracle.dev/protect"], "true");
    let mut bare = kept.clone();
    bare["metadata"].as_object_mut().unwrap().remove("annotations");
    let kept = cluster.api.replace(path, &bare, "hand").await.expect("answered");
    assert_eq!(kept["metadata"]["annotations"]["coracle.dev/protect"], "true");
    assert_eq!(cluster.api.delete(path, "").await.unwrap_err().code, Some(403));

    let how = delivery::plan::Options {
        confirmed: vec![Confirmation { object: "persistentvolumeclaim/data".into(), reason: "it moved".into() }],
        ..Default::default()
    };
    let plan = cluster.plan_with(&[config("a", json!({}))], &how).await;
    assert_eq!(told(&plan), "delete persistentvolumeclaim/data");
    release::release(cluster.client.clone(), &plan, &options(), &|_| {}).await.expect("released");
    assert!(cluster.get(path).await.is_none_or(|left| !left["metadata"]["deletionTimestamp"].is_null()));
    cluster.stop().await;
}

#[tokio::test]
async fn a_namespace_with_what_is_protected_is_protected() {
    let cluster = Cluster::start().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "held"}});
    let mut inside = claim("data");
    inside["metadata"]["namespace"] = "held".into();
    released(&cluster, &[namespace, inside.clone(), config("a", json!({}))]).await;
    let refused = cluster.api.delete("/api/v1/namespaces/held", "").await.unwrap_err();
    assert!(refused.message.contains("it contains persistentvolumeclaim/data"), "{refused}");
    let plan = cluster.plan(&[config("a", json!({}))]).await;
    assert_eq!(told(&plan), "keep persistentvolumeclaim/data, keep namespace/held");
    cluster.stop().await;
}

#[tokio::test]
async fn a_refused_plan_is_no_revision() {
    let cluster = Cluster::start().await;
    released(&cluster, &[config("a", json!({"x": "1"}))]).await;
    let plan = cluster.plan(&[config("a", json!({"x": "2"}))]).await;
    let path = "/api/v1/namespaces/default/configmaps/a";
    cluster.api.merge(path, &json!({"data": {"y": "by hand"}}), "hand").await.expect("patched");
    let error = release::release(cluster.client.clone(), &plan, &options(), &|_| {}).await.unwrap_err();
    assert!(matches!(error, ReleaseError::Apply { .. }) && error.to_string().contains("stale"), "{error}");
    assert_eq!(history::list(cluster.client.clone(), &set()).await.unwrap().len(), 1);
    assert!(lock::list(cluster.client.clone(), None).await.unwrap().is_empty(), "the lock was given back");
    cluster.stop().await;
}

#[tokio::test]
async fn who_takes_objects_from_another_set_locks_that_too() {
    let cluster = Cluster::start().await;
    let other = delivery::applyset::Set::new("default", "another");
    let how = delivery::plan::Options { take_over: true, ..delivery::plan::Options::default() };
    let plan = |set: delivery::applyset::Set, value: &str| {
        let (client, how, object) = (cluster.client.clone(), how.clone(), config("a", json!({ "x": value })));
        async move { delivery::plan::plan(client, vec![object], &set, &how).await.expect("a plan") }
    };
    release::release(cluster.client.clone(), &plan(other.clone(), "1").await, &options(), &|_| {}).await.expect("free");
    // Somebody applies the other set; nobody takes from it meanwhile.
    let held = lock::acquire(cluster.client.clone(), &other, &request(2), &|_| {}).await.expect("free");
    let taking = plan(set(), "2").await;
    assert!(taking.problems.is_empty(), "{}", told(&taking));
    let refused = release::release(cluster.client.clone(), &taking, &options(), &|_| {}).await.unwrap_err();
    assert!(refused.to_string().contains("is applying the set another"), "{refused}");
    assert_eq!(lock::list(cluster.client.clone(), None).await.unwrap().len(), 1, "its own was given back");
    let waiting = Options { lock: Request { wait: Some(LIMIT), ..request(1) }, ..options() };
    let (told, mut hears) = tokio::sync::mpsc::channel(8);
    let tell = |event| {
        if let delivery::apply::Event::Waits { held } = event {
            let _ = told.try_send(held);
        }
    };
    let released = async {
        let released = release::release(cluster.client.clone(), &taking, &waiting, &tell);
        tokio::time::timeout(LIMIT, released).await.expect("in time").expect("taken")
    };
    let lets_go = async {
        let said = tokio::time::timeout(LIMIT, hears.recv()).await.expect("in time").expect("it is said for whom");
        assert!(said.contains("mia on here (process 2) is applying the set another"), "{said}");
        held.release().await.expect("given back");
    };
    tokio::join!(released, lets_go);
    assert_eq!(lock::list(cluster.client.clone(), None).await.unwrap(), []);
    cluster.stop().await;
}
