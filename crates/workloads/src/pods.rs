//! What a Pod's status says, as the controllers need it.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};

use crate::machinery::clock;

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

pub(crate) fn has_ended(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn is_going(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Counts towards a number of replicas: it has not ended and is not about to.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !has_ended(pod) && !is_going(pod)
}

/// Being deleted, but not over yet.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    !has_ended(pod) && is_going(pod)
}

pub(crate) fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Since when the Pod has been ready, when it is.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let condition = condition(pod, "Ready")?;
    (condition.status == "True").then(|| condition.last_transition_time.as_ref().map(|time| time.0))?
}

/// When a Pod counts as available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    Now,
    /// It has to stay ready until then.
    At(Timestamp),
    Not,
}

/// Available is ready for at least `min_ready_seconds`.
pub(crate) fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    if !is_ready(pod) {
        return Availability::Not;
    }
    if min_ready_seconds <= 0 {
        return Availability::Now;
    }
    match ready_since(pod) {
        Some(since) => {
            let at = clock::plus(since, i64::from(min_ready_seconds));
            if at <= now { Availability::Now } else { Availability::At(at) }
        }
        None => Availability::Not,
    }
}

/// The statuses of all containers, init containers included.
pub(crate) fn container_statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| {
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
    })
}

/// How often the containers were restarted, in the worst case of one and in total.
pub(crate) fn restarts(pod: &Pod) -> (i32, i32) {
    let counts = || container_statuses(pod).map(|status| status.restart_count);
    (counts().max().unwrap_or(0), counts().sum())
}

/// When a Pod ended: the last of its containers' ends, else when it was deleted or created.
pub(crate) fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let last = container_statuses(pod)
        .filter_map(|status| status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref())
        .map(|time| time.0)
        .max();
    last.or_else(|| condition(pod, "Ready")?.last_transition_time.as_ref().map(|time| time.0))
        .or_else(|| pod.metadata.deletion_timestamp.as_ref().map(|time| time.0))
        .or_else(|| created_at(pod))
}

pub(crate) fn created_at(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// A Pod's uid; empty for one that the API has not made.
pub(crate) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or("")
}

pub(crate) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or("")
}
