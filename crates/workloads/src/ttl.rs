//! Deletes finished Jobs once their `ttlSecondsAfterFinished` has passed.
//!
//! Invariants: a Job without that field stays; one that isn't finished stays; the time counts from when it finished.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::api::PropagationPolicy;

use crate::controllers::{Caches, Context, enqueue_self};
use crate::error::ReconcileError;
use crate::job::plan::finished_at;
use crate::machinery::clock;
use crate::machinery::key::Key;
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Reconcile};
use crate::machinery::synced::all_synced;
use crate::machinery::writer::Writer;

const NAME: &str = "ttl-after-finished-controller";

struct Ttl {
    caches: Arc<Caches>,
    writer: Writer,
}

pub(crate) fn register(context: &Context<'_>) -> Controller {
    let queue = Arc::new(Queue::new());
    let caches = &context.caches;
    enqueue_self(&caches.jobs, &queue);
    let ready = all_synced([caches.jobs.clone()]);
    let reconcile = Ttl { caches: caches.clone(), writer: context.writer(NAME) };
    context.controller(NAME, queue, ready, reconcile)
}

/// How long a Job still stays; `None` when it stays for good.
pub(crate) fn stays(job: &Job, now: Timestamp) -> Option<Duration> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let finished = finished_at(job)?;
    Some(clock::until(clock::plus(finished, i64::from(seconds)), now))
}

impl Reconcile for Ttl {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Duration>, ReconcileError>> {
        async move {
            self.caches.jobs.fresh().await?;
            let Some(job) = self.caches.jobs.get(key) else { return Ok(None) };
            match stays(&job, clock::now()) {
                None => Ok(None),
                Some(left) if !left.is_zero() => Ok(Some(left)),
                Some(_) => {
                    let uid = job.metadata.uid.as_deref().unwrap_or("");
                    let foreground = PropagationPolicy::Foreground;
                    self.writer.delete(&self.caches.jobs, key, uid, foreground).await?;
                    Ok(None)
                }
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::batch::v1::{JobCondition, JobSpec, JobStatus};

    use super::*;

    #[test]
    fn only_finished_jobs_with_a_time_to_live_go() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let job = |ttl: Option<i32>, finished: Option<i64>| Job {
            spec: Some(JobSpec { ttl_seconds_after_finished: ttl, ..JobSpec::default() }),
            status: Some(JobStatus {
                conditions: finished.map(|second| {
                    vec![JobCondition {
                        type_: "Failed".into(),
                        status: "True".into(),
                        last_transition_time: Some(clock::stamp(at(second))),
                        ..JobCondition::default()
                    }]
                }),
                ..JobStatus::default()
            }),
            ..Job::default()
        };
        assert_eq!(stays(&job(None, Some(0)), at(100)), None);
        assert_eq!(stays(&job(Some(10), None), at(100)), None);
        assert_eq!(stays(&job(Some(10), Some(95)), at(100)), Some(Duration::from_secs(5)));
        assert_eq!(stays(&job(Some(10), Some(80)), at(100)), Some(Duration::ZERO));
    }
}
