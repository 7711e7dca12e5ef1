//! Which Pods are made and given up, in tables.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodSpec, PodStatus, PodTemplateSpec};
use kube::api::ObjectMeta;

use super::plan::{Failure, Snapshot, plan, status};
use super::{rank, slow_start};
use crate::error::WriteError;
use crate::machinery::clock::stamp;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).expect("a time in range")
}

fn set(replicas: i32, min_ready_seconds: i32) -> ReplicaSet {
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some("set".into()),
            namespace: Some("ns".into()),
            uid: Some("set".into()),
            generation: Some(3),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: Some(min_ready_seconds),
            template: Some(PodTemplateSpec::default()),
            ..ReplicaSetSpec::default()
        }),
        status: None,
    }
}

/// A running, ready Pod that became ready at that second; changed by the tables below.
fn pod(name: &str, ready_at: i64) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some(name.into()),
            uid: Some(name.into()),
            creation_timestamp: Some(stamp(at(ready_at - 1))),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec { node_name: Some("coracle".into()), ..PodSpec::default() }),
        status: Some(PodStatus {
            phase: Some("Running".into()),
            conditions: Some(vec![PodCondition {
                type_: "Ready".into(),
                status: "True".into(),
                last_transition_time: Some(stamp(at(ready_at))),
                ..PodCondition::default()
            }]),
            ..PodStatus::default()
        }),
    }
}

fn with(mut pod: Pod, change: impl FnOnce(&mut Pod)) -> Pod {
    change(&mut pod);
    pod
}

fn snapshot<'a>(set: &'a ReplicaSet, pods: &'a [Pod], second: i64) -> Snapshot<'a> {
    Snapshot { set, pods: pods.iter().collect(), related: pods.iter().collect(), now: at(second) }
}

fn phase(pod: &mut Pod, phase: &str) {
    pod.status.as_mut().expect("a status").phase = Some(phase.into());
}

fn going(pod: &mut Pod) {
    pod.metadata.deletion_timestamp = Some(stamp(at(0)));
}

#[test]
fn numbers() {
    let running = pod("a", 0);
    let failed = with(pod("f", 0), |pod| phase(pod, "Failed"));
    let leaving = with(pod("g", 0), going);
    let table = [
        ("nothing yet", 3, vec![], (3, 0)),
        ("enough", 1, vec![running.clone()], (0, 0)),
        ("ended Pods don't count", 1, vec![failed.clone()], (1, 0)),
        ("leaving Pods don't count", 1, vec![leaving.clone()], (1, 0)),
        ("too many", 0, vec![running.clone(), failed, leaving], (0, 1)),
        ("a burst is bounded", 5000, vec![], (500, 0)),
    ];
    for (what, replicas, pods, expected) in table {
        let set = set(replicas, 0);
        let plan = plan(&snapshot(&set, &pods, 10));
        assert_eq!((plan.create, plan.delete.len()), expected, "{what}");
    }
    let mut gone = set(3, 0);
    gone.metadata.deletion_timestamp = Some(stamp(at(0)));
    assert_eq!(plan(&snapshot(&gone, &[], 0)).create, 0, "a set being deleted makes no Pods");
}

#[test]
fn who_goes_first() {
    let steady = || pod("z-steady", 0);
    let table = [
        ("without a node", with(pod("a", 0), |pod| pod.spec.as_mut().expect("a spec").node_name = None)),
        ("pending", with(pod("a", 0), |pod| phase(pod, "Pending"))),
        ("unknown", with(pod("a", 0), |pod| phase(pod, "Unknown"))),
        (
            "not ready",
            with(pod("a", 0), |pod| {
                pod.status.as_mut().expect("a status").conditions = None;
            }),
        ),
        (
            "cheaper",
            with(pod("a", 0), |pod| {
                let cost = "controller.kubernetes.io/pod-deletion-cost";
                pod.metadata.annotations.get_or_insert_default().insert(cost.into(), "-5".into());
            }),
        ),
        ("ready for less long", pod("a", 900)),
        (
            "restarted more",
            with(pod("a", 0), |pod| {
                pod.status.as_mut().expect("a status").container_statuses =
                    Some(vec![ContainerStatus { restart_count: 3, ..ContainerStatus::default() }]);
            }),
        ),
        ("younger", with(pod("a", 0), |pod| pod.metadata.creation_timestamp = Some(stamp(at(900))))),
        ("a tie is broken by uid", pod("a", 0)),
    ];
    for (what, victim) in table {
        let pods = [steady(), victim];
        let all: Vec<&Pod> = pods.iter().collect();
        let chosen = rank::to_delete(&all, &all, 1, at(1000));
        assert_eq!(chosen[0].metadata.name.as_deref(), Some("a"), "{what}");
    }
}

#[test]
fn crowded_nodes_are_relieved_first() {
    let on = |name: &str, node: &str| {
        with(pod(name, 0), |pod| pod.spec.as_mut().expect("a spec").node_name = Some(node.into()))
    };
    let pods = [on("a", "quiet"), on("b", "busy"), on("c", "busy")];
    let all: Vec<&Pod> = pods.iter().collect();
    let chosen = rank::to_delete(&all, &all, 1, at(1000));
    assert_eq!(chosen[0].metadata.name.as_deref(), Some("b"));
}

#[test]
fn ready_becomes_available_by_staying_ready() {
    let set = set(1, 30);
    let pods = [pod("a", 0)];
    let early = snapshot(&set, &pods, 10);
    assert_eq!(status(&early, None).available_replicas, None);
    assert_eq!(status(&early, None).ready_replicas, Some(1));
    assert_eq!(plan(&early).again, Some(Duration::from_secs(20)));
    let late = snapshot(&set, &pods, 30);
    assert_eq!(status(&late, None).available_replicas, Some(1));
    assert_eq!(plan(&late).again, None);
}

#[test]
fn the_status_counts_and_remembers_failure() {
    let mut set = set(2, 0);
    let pods = [pod("a", 0), with(pod("b", 0), going), with(pod("c", 0), |pod| phase(pod, "Succeeded"))];
    let failure = Failure { reason: "FailedCreate", message: "quota".into() };
    let first = status(&snapshot(&set, &pods, 5), Some(&failure));
    assert_eq!((first.replicas, first.terminating_replicas, first.observed_generation), (1, Some(1), Some(3)));
    let condition = &first.conditions.as_ref().expect("conditions")[0];
    assert_eq!((condition.type_.as_str(), condition.reason.as_deref()), ("ReplicaFailure", Some("FailedCreate")));
    set.status = Some(first.clone());
    let again = status(&snapshot(&set, &pods, 9), Some(&failure));
    assert_eq!(again, first, "the same failure changes nothing");
    assert_eq!(status(&snapshot(&set, &pods, 9), None).conditions, None);
}

#[tokio::test]
async fn slow_start_doubles_and_stops_at_the_first_failing_batch() {
    let fail_from = |limit: usize| {
        move |at: usize| async move {
            if at < limit {
                Ok(at)
            } else {
                let error = kube::Error::LinesCodecMaxLineLengthExceeded;
                Err(WriteError::new("create", "Pod".into(), error))
            }
        }
    };
    let (made, failed) = slow_start(10, fail_from(100)).await;
    assert_eq!((made.len(), failed.is_some()), (10, false));
    // Batches of 1, 2 and 4: the third has the first failures, nothing follows it.
    let (made, failed) = slow_start(100, fail_from(5)).await;
    assert_eq!((made.len(), failed.is_some()), (5, true));
    let (made, failed) = slow_start(100, fail_from(0)).await;
    assert_eq!((made.len(), failed.is_some()), (0, true));
}
