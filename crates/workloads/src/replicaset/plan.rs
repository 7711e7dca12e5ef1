//! What to do about a ReplicaSet, as a function of what is there.
//!
//! Invariants: synchronous and deterministic; never more Pods are asked for than `spec.replicas` lacks, never more given up than there are too many.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::Resource;
use kube::api::ObjectMeta;

use super::rank;
use crate::machinery::clock;
use crate::owners;
use crate::pods::{self, Availability};

/// The most Pods made or given up in one step.
const BURST: usize = 500;

/// All a plan is made from.
pub(crate) struct Snapshot<'a> {
    pub(crate) set: &'a ReplicaSet,
    /// The Pods that belong to it.
    pub(crate) pods: Vec<&'a Pod>,
    /// The Pods of all ReplicaSets of the same owner.
    pub(crate) related: Vec<&'a Pod>,
    pub(crate) now: Timestamp,
}

/// What to do about the number of Pods.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) create: usize,
    /// Names and uids.
    pub(crate) delete: Vec<(String, String)>,
    pub(crate) again: Option<Duration>,
}

pub(crate) fn plan(snapshot: &Snapshot<'_>) -> Plan {
    let set = snapshot.set;
    let active: Vec<&Pod> = snapshot.pods.iter().copied().filter(|pod| pods::is_active(pod)).collect();
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let wanted = usize::try_from(wanted).unwrap_or(0);
    let mut plan = Plan { again: next_available(snapshot, &active), ..Plan::default() };
    if set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    plan.create = wanted.saturating_sub(active.len()).min(BURST);
    let excess = active.len().saturating_sub(wanted).min(BURST);
    if excess > 0 {
        plan.delete = rank::to_delete(&active, &snapshot.related, excess, snapshot.now)
            .into_iter()
            .map(|pod| (pods::name(pod).to_owned(), pods::uid(pod).to_owned()))
            .collect();
    }
    plan
}

fn min_ready_seconds(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
}

/// When the next ready Pod becomes available by staying ready.
fn next_available(snapshot: &Snapshot<'_>, active: &[&Pod]) -> Option<Duration> {
    let seconds = min_ready_seconds(snapshot.set);
    active
        .iter()
        .filter_map(|pod| match pods::availability(pod, seconds, snapshot.now) {
            Availability::At(at) => Some(clock::until(at, snapshot.now).max(Duration::from_millis(1))),
            Availability::Now | Availability::Not => None,
        })
        .min()
}

/// Why Pods could not be made or given up.
pub(crate) struct Failure {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The status that the snapshot shows.
pub(crate) fn status(snapshot: &Snapshot<'_>, failure: Option<&Failure>) -> ReplicaSetStatus {
    let set = snapshot.set;
    let active: Vec<&Pod> = snapshot.pods.iter().copied().filter(|pod| pods::is_active(pod)).collect();
    let seconds = min_ready_seconds(set);
    let labels = set
        .spec
        .as_ref()
        .and_then(|spec| spec.template.as_ref()?.metadata.as_ref()?.labels.clone())
        .unwrap_or_default();
    let number = |matches: &dyn Fn(&Pod) -> bool| {
        i32::try_from(active.iter().filter(|pod| matches(pod)).count()).unwrap_or(i32::MAX)
    };
    let some = |count: i32| (count != 0).then_some(count);
    let terminating = snapshot.pods.iter().filter(|pod| pods::is_terminating(pod)).count();
    let before = set.status.clone().unwrap_or_default();
    ReplicaSetStatus {
        replicas: number(&|_| true),
        fully_labeled_replicas: some(number(&|pod| has_labels(pod, &labels))),
        ready_replicas: some(number(&pods::is_ready)),
        available_replicas: some(number(&|pod| pods::availability(pod, seconds, snapshot.now) == Availability::Now)),
        terminating_replicas: some(i32::try_from(terminating).unwrap_or(i32::MAX)),
        observed_generation: set.metadata.generation,
        conditions: conditions(before.conditions, failure, snapshot.now),
    }
}

fn has_labels(pod: &Pod, wanted: &BTreeMap<String, String>) -> bool {
    let labels = pod.metadata.labels.as_ref();
    wanted.iter().all(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value))
}

fn conditions(
    before: Option<Vec<ReplicaSetCondition>>,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = before.unwrap_or_default();
    match failure {
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
        Some(failure) => {
            let known = conditions.iter().any(|condition| {
                condition.type_ == "ReplicaFailure" && condition.reason.as_deref() == Some(failure.reason)
            });
            if !known {
                conditions.retain(|condition| condition.type_ != "ReplicaFailure");
                conditions.push(ReplicaSetCondition {
                    type_: "ReplicaFailure".to_owned(),
                    status: "True".to_owned(),
                    reason: Some(failure.reason.to_owned()),
                    message: Some(failure.message.clone()),
                    last_transition_time: Some(clock::stamp(now)),
                });
            }
        }
    }
    (!conditions.is_empty()).then_some(conditions)
}

/// A new Pod of `owner` from a template.
pub(crate) fn pod_from<K: Resource<DynamicType = ()>>(owner: &K, template: &PodTemplateSpec) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.meta().name.as_deref().unwrap_or(""))),
            namespace: owner.meta().namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owners::reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}
