//! The ReplicaSet controller: keeps the number of Pods that a ReplicaSet asks for.
//!
//! Invariants: plans only on a cache that shows its own writes, so a slow watch never makes it create a Pod twice; creates in
//! batches that double while they succeed, so that a quota or a bad template costs one failure, not hundreds.

mod plan;
mod rank;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PropagationPolicy;

pub(crate) use self::plan::pod_from;
use self::plan::{Failure, Plan, Snapshot};
use crate::controllers::{Caches, Context, enqueue_owner, enqueue_self};
use crate::error::{ReconcileError, WriteError};
use crate::machinery::cache::Cache;
use crate::machinery::clock;
use crate::machinery::key::Key;
use crate::machinery::queue::Queue;
use crate::machinery::recorder::{Note, Recorder};
use crate::machinery::runner::{Controller, Reconcile};
use crate::machinery::synced::all_synced;
use crate::machinery::writer::{Writer, status_patch};
use crate::owners::{self, Claim, Matcher};

const NAME: &str = "replicaset-controller";

struct ReplicaSets {
    caches: Arc<Caches>,
    writer: Writer,
    recorder: Recorder,
}

pub(crate) fn register(context: &Context<'_>) -> Controller {
    let queue = Arc::new(Queue::new());
    let caches = &context.caches;
    enqueue_self(&caches.replica_sets, &queue);
    enqueue_owner(&caches.pods, "ReplicaSet", &queue);
    enqueue_for_orphans(caches, &queue);
    let ready = all_synced([caches.replica_sets.clone(), caches.pods.clone()]);
    let reconcile =
        ReplicaSets { caches: caches.clone(), writer: context.writer(NAME), recorder: context.recorder.clone() };
    context.controller(NAME, queue, ready, reconcile)
}

/// A Pod that nobody controls may match a ReplicaSet.
fn enqueue_for_orphans(caches: &Arc<Caches>, queue: &Arc<Queue<Key>>) {
    let (queue, sets) = (queue.clone(), caches.replica_sets.clone());
    caches.pods.on_change(move |change| {
        let Some(pod) = change.after else { return };
        if owners::controller(&pod.metadata).is_some() {
            return;
        }
        for set in sets.in_namespace(pod.metadata.namespace.as_deref().unwrap_or("")) {
            let matches = set.spec.as_ref().is_some_and(|spec| Matcher::new(&spec.selector).matches(&pod.metadata));
            if matches {
                queue.add(Key::of(&set.metadata));
            }
        }
    });
}

/// Starts `count` attempts in batches of 1, 2, 4, ... and stops after the first batch with a failure.
///
/// Returns what succeeded and the first failure.
pub(crate) async fn slow_start<T, F>(count: usize, mut attempt: impl FnMut(usize) -> F) -> (Vec<T>, Option<WriteError>)
where
    F: Future<Output = Result<T, WriteError>>,
{
    let (mut made, mut failed, mut batch) = (Vec::new(), None, 1);
    let mut next = 0;
    while next < count && failed.is_none() {
        let size = batch.min(count - next);
        let mut running: FuturesUnordered<F> = (next..next + size).map(&mut attempt).collect();
        while let Some(outcome) = running.next().await {
            match outcome {
                Ok(one) => made.push(one),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        next += size;
        batch *= 2;
    }
    (made, failed)
}

/// Deletes Pods at the same time. Returns the names of those deleted and the first failure.
pub(crate) async fn delete_pods(
    writer: &Writer,
    cache: &Cache<Pod>,
    namespace: &str,
    pods: &[(String, String)],
) -> (Vec<String>, Option<WriteError>) {
    let running: FuturesUnordered<_> = pods
        .iter()
        .map(|(name, uid)| async move {
            let key = Key::new(namespace, name.as_str());
            writer.delete(cache, &key, uid, PropagationPolicy::Background).await.map(|()| name.clone())
        })
        .collect();
    let outcomes: Vec<Result<String, WriteError>> = running.collect().await;
    let (mut deleted, mut failed) = (Vec::new(), None);
    for outcome in outcomes {
        match outcome {
            Ok(name) => deleted.push(name),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    (deleted, failed)
}

impl Reconcile for ReplicaSets {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Duration>, ReconcileError>> {
        async move {
            self.caches.replica_sets.fresh().await?;
            self.caches.pods.fresh().await?;
            let Some(set) = self.caches.replica_sets.get(key) else { return Ok(None) };
            let all = self.caches.pods.in_namespace(&key.namespace);
            let (pods, claimed) = self.claim(&set, &all).await?;
            if claimed {
                // The cache doesn't show it yet; its event brings the key back.
                return Ok(None);
            }
            let snapshot = Snapshot { set: &set, related: self.related(&set, &all), pods, now: clock::now() };
            let plan = plan::plan(&snapshot);
            let failed = self.act(key, &set, &plan).await;
            if failed.is_none() && (plan.create > 0 || !plan.delete.is_empty()) {
                // The Pods' own events bring the key back with counts that are true by then.
                return Ok(plan.again);
            }
            let failure = failed.as_ref().filter(|(_, error)| !error.is_namespace_terminating());
            let failure = failure.map(|(reason, error)| Failure { reason, message: error.message() });
            let status = plan::status(&snapshot, failure.as_ref());
            let revision = set.metadata.resource_version.as_deref();
            if let Some(patch) = status_patch(set.status.as_ref(), &status, revision) {
                self.writer.patch_status(&self.caches.replica_sets, key, &patch).await?;
            }
            match failed {
                // Nothing can be made in a namespace that is going; its end is all there is to wait for.
                Some((_, error)) if !error.is_namespace_terminating() => Err(error.into()),
                _ => Ok(plan.again),
            }
        }
        .boxed()
    }
}

impl ReplicaSets {
    /// The Pods that are the ReplicaSet's, and whether any was adopted or given up just now.
    async fn claim<'a>(&self, set: &ReplicaSet, all: &'a [Arc<Pod>]) -> Result<(Vec<&'a Pod>, bool), ReconcileError> {
        let Some(spec) = &set.spec else { return Ok((Vec::new(), false)) };
        let matcher = Matcher::new(&spec.selector);
        let (mut ours, mut changed) = (Vec::new(), false);
        for pod in all {
            let patch = match owners::claim(&set.metadata, &matcher, &pod.metadata) {
                Claim::Ours => {
                    ours.push(&**pod);
                    continue;
                }
                Claim::Adopt if crate::pods::has_ended(pod) => continue,
                Claim::Ignore => continue,
                Claim::Adopt if !self.writer.may_adopt(set).await? => continue,
                Claim::Adopt => owners::adoption(&pod.metadata, &owners::reference(set)),
                Claim::Release => owners::release(&pod.metadata, &[set.metadata.uid.as_deref().unwrap_or("")]),
            };
            self.writer.patch(&self.caches.pods, &Key::of(&pod.metadata), &patch).await?;
            changed = true;
        }
        Ok((ours, changed))
    }

    /// The Pods of all ReplicaSets with the same controlling owner.
    fn related<'a>(&self, set: &ReplicaSet, all: &'a [Arc<Pod>]) -> Vec<&'a Pod> {
        let own = set.metadata.uid.as_deref();
        let owner = owners::controller(&set.metadata).map(|owner| owner.uid.as_str());
        let siblings = self.caches.replica_sets.in_namespace(set.metadata.namespace.as_deref().unwrap_or(""));
        let uids: Vec<&str> = siblings
            .iter()
            .filter(|sibling| {
                sibling.metadata.uid.as_deref() == own
                    || (owner.is_some()
                        && owners::controller(&sibling.metadata).map(|owner| owner.uid.as_str()) == owner)
            })
            .filter_map(|sibling| sibling.metadata.uid.as_deref())
            .collect();
        let related = |pod: &&'a Arc<Pod>| {
            owners::controller(&pod.metadata).is_some_and(|owner| uids.contains(&owner.uid.as_str()))
        };
        all.iter().filter(related).map(|pod| &**pod).collect()
    }

    /// Makes and deletes Pods. Returns what failed first.
    async fn act(&self, key: &Key, set: &ReplicaSet, plan: &Plan) -> Option<(&'static str, WriteError)> {
        let cache = &self.caches.pods;
        if plan.create > 0 {
            let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref())?;
            let pod = pod_from(set, template);
            let (made, failed) = slow_start(plan.create, |_| self.writer.create(cache, &pod)).await;
            for pod in &made {
                let message = format!("Created pod: {}", crate::pods::name(pod));
                self.recorder.say(NAME, set, Note::normal("SuccessfulCreate", message));
            }
            return self.say_failure(set, "FailedCreate", "creating", failed);
        }
        if !plan.delete.is_empty() {
            let (deleted, failed) = delete_pods(&self.writer, cache, &key.namespace, &plan.delete).await;
            for name in deleted {
                let message = format!("Deleted pod: {name}");
                self.recorder.say(NAME, set, Note::normal("SuccessfulDelete", message));
            }
            return self.say_failure(set, "FailedDelete", "deleting", failed);
        }
        None
    }

    fn say_failure(
        &self,
        set: &ReplicaSet,
        reason: &'static str,
        doing: &str,
        failed: Option<WriteError>,
    ) -> Option<(&'static str, WriteError)> {
        let error = failed?;
        if !error.is_namespace_terminating() {
            let message = format!("Error {doing}: {}", error.message());
            self.recorder.say(NAME, set, Note::warning(reason, message));
        }
        Some((reason, error))
    }
}
