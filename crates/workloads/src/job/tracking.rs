//! Counting the Pods of a Job exactly, although Pods may be deleted at any time.
//!
//! Each Pod carries the finalizer `batch.kubernetes.io/job-tracking`, so it can't vanish uncounted. A Pod that has ended is counted
//! in three steps, each of which may be repeated after a crash: its uid is written to `status.uncountedTerminatedPods`; its
//! finalizer is removed; its uid is taken off the list while the counter goes up.
//!
//! Invariants: a uid is never counted twice; a finalizer is removed only after the uid (or, for Indexed Jobs that succeed, the
//! index) is in the stored status.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{Job, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use super::indexes;
use crate::pods;

pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// The most uids put on the list at once, so that the status stays small.
const MOST_UNCOUNTED: usize = 500;

pub(crate) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|name| name == FINALIZER)
}

/// The completion index of a Pod of an Indexed Job.
pub(crate) fn index_of(pod: &Pod) -> Option<u32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

/// The number of completions when the Job is Indexed.
pub(crate) fn indexed(job: &Job) -> Option<u32> {
    let spec = job.spec.as_ref()?;
    if spec.completion_mode.as_deref() != Some("Indexed") {
        return None;
    }
    Some(u32::try_from(spec.completions.unwrap_or(0)).unwrap_or(0))
}

/// Whether Pods are replaced only once they have failed, not while they terminate.
pub(crate) fn replaces_only_failed(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.pod_replacement_policy.as_deref()) == Some("Failed")
}

/// A Pod that failed, or that was deleted before it could succeed.
pub(crate) fn has_failed(job: &Job, pod: &Pod) -> bool {
    match pods::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => pods::is_going(pod) && !replaces_only_failed(job),
    }
}

/// The counts of a Job, exact at any moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Counted for good.
    pub(crate) succeeded: i32,
    pub(crate) failed: i32,
    /// On the list: ended, not yet counted for good.
    pub(crate) pending_succeeded: BTreeSet<String>,
    pub(crate) pending_failed: BTreeSet<String>,
    pub(crate) completed_indexes: BTreeSet<u32>,
    /// Names of the Pods whose finalizers may go once this is stored.
    pub(crate) release: Vec<String>,
}

impl Counts {
    /// All successes, those on the list included.
    pub(crate) fn total_succeeded(&self) -> i32 {
        self.succeeded.saturating_add(i32::try_from(self.pending_succeeded.len()).unwrap_or(i32::MAX))
    }

    pub(crate) fn total_failed(&self) -> i32 {
        self.failed.saturating_add(i32::try_from(self.pending_failed.len()).unwrap_or(i32::MAX))
    }

    /// Whether every Pod that ended is counted for good.
    pub(crate) fn is_settled(&self) -> bool {
        self.pending_succeeded.is_empty() && self.pending_failed.is_empty() && self.release.is_empty()
    }

    pub(crate) fn list(&self) -> UncountedTerminatedPods {
        let texts = |set: &BTreeSet<String>| (!set.is_empty()).then(|| set.iter().cloned().collect::<Vec<_>>());
        UncountedTerminatedPods { succeeded: texts(&self.pending_succeeded), failed: texts(&self.pending_failed) }
    }
}

/// Takes the next step of counting.
pub(crate) fn count(job: &Job, all: &[&Pod]) -> Counts {
    let status = job.status.clone().unwrap_or_default();
    let listed = status.uncounted_terminated_pods.unwrap_or_default();
    let completions = indexed(job);
    let mut counts = Counts {
        succeeded: status.succeeded.unwrap_or(0),
        failed: status.failed.unwrap_or(0),
        completed_indexes: completions
            .map(|completions| indexes::parse(status.completed_indexes.as_deref().unwrap_or(""), completions))
            .unwrap_or_default(),
        ..Counts::default()
    };
    let still_tracked = |uid: &str| all.iter().any(|pod| pods::uid(pod) == uid && is_tracked(pod));
    for uid in listed.succeeded.into_iter().flatten() {
        if still_tracked(&uid) {
            counts.pending_succeeded.insert(uid);
        } else {
            counts.succeeded = counts.succeeded.saturating_add(1);
        }
    }
    for uid in listed.failed.into_iter().flatten() {
        if still_tracked(&uid) {
            counts.pending_failed.insert(uid);
        } else {
            counts.failed = counts.failed.saturating_add(1);
        }
    }
    for pod in all.iter().filter(|pod| is_tracked(pod)) {
        count_pod(job, pod, completions, &mut counts);
    }
    if completions.is_some() {
        counts.succeeded = i32::try_from(counts.completed_indexes.len()).unwrap_or(i32::MAX);
    }
    counts
}

fn count_pod(job: &Job, pod: &Pod, completions: Option<u32>, counts: &mut Counts) {
    let uid = pods::uid(pod).to_owned();
    let full = counts.pending_succeeded.len() + counts.pending_failed.len() >= MOST_UNCOUNTED;
    if pods::phase(pod) == "Succeeded" {
        match completions {
            Some(completions) => {
                counts.completed_indexes.extend(index_of(pod).filter(|index| *index < completions));
            }
            None if full && !counts.pending_succeeded.contains(&uid) => return,
            None => {
                counts.pending_succeeded.insert(uid);
            }
        }
    } else if has_failed(job, pod) {
        if full && !counts.pending_failed.contains(&uid) {
            return;
        }
        counts.pending_failed.insert(uid);
    } else {
        return;
    }
    counts.release.push(pods::name(pod).to_owned());
}
