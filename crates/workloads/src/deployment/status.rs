//! The status of a Deployment: counts and the conditions Available, Progressing and ReplicaFailure, with Kubernetes' reasons.
//!
//! Invariants: `observedGeneration` is that of the object the status was worked out from; a condition's transition time changes
//! with its status alone.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};

use super::rolling::{Sized, Targets, available, present};
use crate::machinery::clock;

pub(crate) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
pub(crate) const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

pub(crate) fn condition<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

fn make(type_: &str, status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(clock::stamp(now)),
        last_transition_time: Some(clock::stamp(now)),
    }
}

fn remove(status: &mut DeploymentStatus, type_: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != type_);
    }
}

fn set(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    if let Some(known) = condition(status, &new.type_) {
        if known.status == new.status && known.reason == new.reason {
            return;
        }
        if known.status == new.status {
            new.last_transition_time.clone_from(&known.last_transition_time);
        }
    }
    remove(status, &new.type_);
    status.conditions.get_or_insert_default().push(new);
}

/// Sets the Progressing condition, as a step of a rollout does.
pub(crate) fn set_progress(status: &mut DeploymentStatus, value: &str, reason: &str, message: String, now: Timestamp) {
    set(status, make(PROGRESSING, value, reason, message, now));
}

/// The deadline for progress, if there is one.
pub(crate) fn deadline(deployment: &Deployment) -> Option<i32> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds?;
    (seconds != i32::MAX).then_some(seconds)
}

/// Says in the Progressing condition that the Deployment was paused or resumed.
pub(crate) fn note_pause(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    if deadline(deployment).is_none() {
        return;
    }
    let reason = condition(status, PROGRESSING).and_then(|condition| condition.reason.clone());
    if reason.as_deref() == Some(TIMED_OUT) {
        return;
    }
    let was_paused = reason.as_deref() == Some("DeploymentPaused");
    let paused = is_paused(deployment);
    if paused && !was_paused {
        set_progress(status, "Unknown", "DeploymentPaused", "Deployment is paused".to_owned(), now);
    } else if !paused && was_paused {
        set_progress(status, "Unknown", "DeploymentResumed", "Deployment is resumed".to_owned(), now);
    }
}

pub(crate) fn is_paused(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false)
}

/// What a status is worked out from.
pub(crate) struct Facts<'a> {
    pub(crate) deployment: &'a Deployment,
    pub(crate) targets: &'a Targets,
    pub(crate) all: &'a [Sized<'a>],
    pub(crate) new: Option<&'a ReplicaSet>,
    pub(crate) now: Timestamp,
}

fn count(value: i32) -> Option<i32> {
    (value != 0).then_some(value)
}

impl Facts<'_> {
    /// Counts and availability, on top of the conditions known so far.
    pub(crate) fn counted(&self, base: &DeploymentStatus) -> DeploymentStatus {
        let sum = |of: &dyn Fn(&ReplicaSet) -> i32| self.all.iter().map(|one| of(one.set)).sum::<i32>();
        let available_replicas = sum(&available);
        let total: i32 = self.all.iter().map(|one| one.replicas).sum();
        let ready = sum(&|set| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0));
        let mut status = DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: count(sum(&present)),
            updated_replicas: count(self.new.map_or(0, present)),
            ready_replicas: count(ready),
            available_replicas: count(available_replicas),
            unavailable_replicas: count((total - available_replicas).max(0)),
            collision_count: base.collision_count,
            conditions: base.conditions.clone(),
            terminating_replicas: None,
        };
        let enough = available_replicas >= self.targets.replicas - self.targets.unavailable;
        let available = if enough {
            ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        };
        set(&mut status, make(AVAILABLE, available.0, available.1, available.2.to_owned(), self.now));
        status
    }

    /// The status while rolling out: counts, and how the rollout goes.
    pub(crate) fn rollout(&self, base: &DeploymentStatus) -> DeploymentStatus {
        let mut status = self.counted(base);
        let current = condition(base, PROGRESSING).cloned();
        match deadline(self.deployment) {
            None => remove(&mut status, PROGRESSING),
            Some(seconds) => {
                let settled = status.replicas == status.updated_replicas
                    && current.as_ref().is_some_and(|c| c.reason.as_deref() == Some(NEW_SET_AVAILABLE));
                if !settled {
                    self.progress(base, current.as_ref(), seconds, &mut status);
                }
            }
        }
        match self.failure() {
            Some(failure) => set(&mut status, failure),
            None => remove(&mut status, REPLICA_FAILURE),
        }
        status
    }

    fn progress(
        &self,
        base: &DeploymentStatus,
        current: Option<&DeploymentCondition>,
        seconds: i32,
        status: &mut DeploymentStatus,
    ) {
        let who = match self.new {
            Some(set) => format!("ReplicaSet {:?}", set.metadata.name.as_deref().unwrap_or("")),
            None => format!("Deployment {:?}", self.deployment.metadata.name.as_deref().unwrap_or("")),
        };
        if is_complete(self.deployment, self.targets, status) {
            let message = format!("{who} has successfully progressed.");
            set_progress(status, "True", NEW_SET_AVAILABLE, message, self.now);
        } else if has_progressed(base, status) {
            let message = format!("{who} is progressing.");
            let mut new = make(PROGRESSING, "True", "ReplicaSetUpdated", message, self.now);
            if let Some(current) = current
                && current.status == "True"
            {
                new.last_transition_time.clone_from(&current.last_transition_time);
            }
            // Replaced even when it says the same: its update time is what the deadline counts from.
            remove(status, PROGRESSING);
            set(status, new);
        } else if has_timed_out(status, seconds, self.now) {
            let message = format!("{who} has timed out progressing.");
            set_progress(status, "False", TIMED_OUT, message, self.now);
        }
    }

    /// The failure of a ReplicaSet to make Pods, the new one's first.
    fn failure(&self) -> Option<DeploymentCondition> {
        let failed = |set: &ReplicaSet| {
            let conditions = set.status.as_ref()?.conditions.as_ref()?;
            conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE).cloned()
        };
        let found = self.new.and_then(failed).or_else(|| self.all.iter().find_map(|one| failed(one.set)))?;
        Some(DeploymentCondition {
            type_: REPLICA_FAILURE.to_owned(),
            status: found.status,
            reason: found.reason,
            message: found.message,
            last_transition_time: found.last_transition_time.clone(),
            last_update_time: found.last_transition_time,
        })
    }

    /// When to look again because the deadline for progress passes.
    pub(crate) fn look_again(&self, status: &DeploymentStatus) -> Option<Duration> {
        let seconds = deadline(self.deployment)?;
        let current = condition(status, PROGRESSING)?;
        let reason = current.reason.as_deref();
        if is_paused(self.deployment)
            || reason == Some(TIMED_OUT)
            || reason == Some(NEW_SET_AVAILABLE)
            || is_complete(self.deployment, self.targets, status)
        {
            return None;
        }
        let from = current.last_update_time.as_ref().map_or(self.now, |time| time.0);
        // A second more, because times are kept in whole seconds.
        Some(clock::until(clock::plus(from, i64::from(seconds) + 1), self.now).max(Duration::from_millis(1)))
    }
}

/// Whether the rollout is over: all Pods are new and available, and the status is about this very spec.
pub(crate) fn is_complete(deployment: &Deployment, targets: &Targets, status: &DeploymentStatus) -> bool {
    let wanted = targets.replicas;
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0)
}

fn has_progressed(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let number = |value: Option<i32>| value.unwrap_or(0);
    let old = |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    number(after.updated_replicas) > number(before.updated_replicas)
        || old(after) < old(before)
        || number(after.ready_replicas) > number(before.ready_replicas)
        || number(after.available_replicas) > number(before.available_replicas)
}

fn has_timed_out(status: &DeploymentStatus, seconds: i32, now: Timestamp) -> bool {
    let Some(current) = condition(status, PROGRESSING) else { return false };
    match current.reason.as_deref() {
        Some(NEW_SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => current.last_update_time.as_ref().is_some_and(|from| clock::plus(from.0, i64::from(seconds)) < now),
    }
}
