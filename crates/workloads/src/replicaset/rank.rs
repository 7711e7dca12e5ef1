//! Which Pods of a ReplicaSet are given up first.
//!
//! Invariants: a total order, so that the same Pods are chosen from the same state. Upstream's criteria in upstream's order: without a node
//! before with one, Pending before Unknown before Running, not ready before ready, lower deletion cost first, crowded nodes first,
//! ready for less long first, more restarts first, younger first. Ages are compared by their magnitude, so that of Pods about equally old any may go.

use std::cmp::Ordering;
use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::pods;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The `count` Pods to give up. `related` are the Pods that count for how crowded a node is.
pub(crate) fn to_delete<'a>(active: &[&'a Pod], related: &[&Pod], count: usize, now: Timestamp) -> Vec<&'a Pod> {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| pods::is_active(pod)) {
        *on_node.entry(node(pod)).or_default() += 1;
    }
    let crowd = |pod: &Pod| on_node.get(node(pod)).copied().unwrap_or(0);
    let mut sorted = active.to_vec();
    sorted.sort_by(|a, b| compare(a, b, crowd(a), crowd(b), now));
    sorted.truncate(count);
    sorted
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("")
}

fn stage(pod: &Pod) -> u8 {
    match pods::phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

fn cost(pod: &Pod) -> i32 {
    let text = pod.metadata.annotations.as_ref().and_then(|all| all.get(DELETION_COST));
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The order of magnitude of an age: Pods of about the same age are equal.
fn magnitude(since: Timestamp, now: Timestamp) -> u32 {
    let age = now.as_nanosecond().saturating_sub(since.as_nanosecond());
    u128::try_from(age).ok().and_then(u128::checked_ilog2).unwrap_or(0)
}

/// Younger first; what has no time at all before everything.
fn younger_first(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(a), Some(b)) => magnitude(a, now).cmp(&magnitude(b, now)),
    }
}

fn compare(a: &Pod, b: &Pod, crowd_a: usize, crowd_b: usize, now: Timestamp) -> Ordering {
    node(b)
        .is_empty()
        .cmp(&node(a).is_empty())
        .then_with(|| stage(a).cmp(&stage(b)))
        .then_with(|| pods::is_ready(a).cmp(&pods::is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| crowd_b.cmp(&crowd_a))
        .then_with(|| {
            if pods::is_ready(a) && pods::is_ready(b) {
                younger_first(pods::ready_since(a), pods::ready_since(b), now)
            } else {
                Ordering::Equal
            }
        })
        .then_with(|| pods::restarts(b).0.cmp(&pods::restarts(a).0))
        .then_with(|| younger_first(pods::created_at(a), pods::created_at(b), now))
        .then_with(|| pods::uid(a).cmp(pods::uid(b)))
}
