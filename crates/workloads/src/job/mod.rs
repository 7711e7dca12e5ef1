//! The Job controller: carries out what [`plan`] says.
//!
//! Invariants: the status is stored before the finalizers of the Pods it counts are removed; a Pod whose Job is gone is let go.
//!
//! Missing, and said so by an Event on the Job: `podFailurePolicy`, `successPolicy`, `backoffLimitPerIndex`.

mod indexes;
pub(crate) mod plan;
#[cfg(test)]
mod tests;
mod tracking;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use serde_json::json;

use self::plan::{Plan, Snapshot};
use self::tracking::{FINALIZER, INDEX};
use crate::controllers::{Caches, Context, enqueue_owner, enqueue_self};
use crate::error::{ReconcileError, WriteError};
use crate::machinery::clock;
use crate::machinery::key::Key;
use crate::machinery::queue::Queue;
use crate::machinery::recorder::{Note, Recorder};
use crate::machinery::runner::{Controller, Reconcile};
use crate::machinery::synced::all_synced;
use crate::machinery::writer::{Writer, status_patch};
use crate::owners::{self, Claim, Matcher};
use crate::pods;
use crate::replicaset::{delete_pods, pod_from, slow_start};

const NAME: &str = "job-controller";
const CONTROLLER_UID: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];
const JOB_NAME: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

struct Jobs {
    caches: Arc<Caches>,
    writer: Writer,
    recorder: Recorder,
}

pub(crate) fn register(context: &Context<'_>) -> Controller {
    let queue = Arc::new(Queue::new());
    let caches = &context.caches;
    enqueue_self(&caches.jobs, &queue);
    enqueue_owner(&caches.pods, "Job", &queue);
    enqueue_for_orphans(caches, &queue);
    let ready = all_synced([caches.jobs.clone(), caches.pods.clone()]);
    let reconcile = Jobs { caches: caches.clone(), writer: context.writer(NAME), recorder: context.recorder.clone() };
    context.controller(NAME, queue, ready, reconcile)
}

/// The Job that a Pod's labels name.
fn labelled(pod: &Pod) -> Option<Key> {
    let labels = pod.metadata.labels.as_ref()?;
    let name = JOB_NAME.iter().find_map(|label| labels.get(*label))?;
    Some(Key::new(pod.metadata.namespace.clone().unwrap_or_default(), name.as_str()))
}

/// A tracked Pod that nobody controls still belongs to the Job that its labels name, be it only to be let go.
fn enqueue_for_orphans(caches: &Arc<Caches>, queue: &Arc<Queue<Key>>) {
    let queue = queue.clone();
    caches.pods.on_change(move |change| {
        let Some(pod) = change.after else { return };
        if owners::controller(&pod.metadata).is_none()
            && let Some(key) = labelled(pod)
        {
            queue.add(key);
        }
    });
}

impl Reconcile for Jobs {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Duration>, ReconcileError>> {
        async move {
            self.caches.jobs.fresh().await?;
            self.caches.pods.fresh().await?;
            let all = self.caches.pods.in_namespace(&key.namespace);
            let job = self.caches.jobs.get(key);
            self.let_go(key, job.as_deref(), &all).await?;
            let Some(job) = job else { return Ok(None) };
            if job
                .spec
                .as_ref()
                .and_then(|spec| spec.managed_by.as_deref())
                .is_some_and(|by| by != "kubernetes.io/job-controller")
            {
                return Ok(None);
            }
            let (pods, claimed) = self.claim(&job, &all).await?;
            if claimed {
                // The cache doesn't show it yet; its event brings the key back.
                return Ok(None);
            }
            let snapshot = Snapshot { job: &job, pods, now: clock::now() };
            let plan = plan::plan(&snapshot);
            let again = plan.again;
            self.act(key, &job, &snapshot.pods, plan).await?;
            Ok(again)
        }
        .boxed()
    }
}

impl Jobs {
    /// Removes the tracking finalizer from Pods that name this Job but whose Job is another one or gone.
    async fn let_go(&self, key: &Key, job: Option<&Job>, all: &[Arc<Pod>]) -> Result<(), ReconcileError> {
        let uid = job.and_then(|job| job.metadata.uid.as_deref());
        for pod in all.iter().filter(|pod| tracking::is_tracked(pod)) {
            let stray = match owners::controller(&pod.metadata) {
                Some(owner) => owner.kind == "Job" && owner.name == key.name && uid != Some(owner.uid.as_str()),
                None => uid.is_none() && labelled(pod).as_ref() == Some(key),
            };
            if stray {
                self.release(pod).await?;
            }
        }
        Ok(())
    }

    /// The Pods that are the Job's, and whether any was adopted or given up just now.
    async fn claim<'a>(&self, job: &Job, all: &'a [Arc<Pod>]) -> Result<(Vec<&'a Pod>, bool), ReconcileError> {
        let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let uid = job.metadata.uid.as_deref().unwrap_or("");
        let (mut ours, mut changed) = (Vec::new(), false);
        for pod in all {
            let claim = match selector {
                Some(selector) => owners::claim(&job.metadata, &Matcher::new(selector), &pod.metadata),
                None if owners::is_controlled_by(&pod.metadata, uid) => Claim::Ours,
                None => Claim::Ignore,
            };
            let (mut patch, tracked) = match claim {
                Claim::Ours => {
                    ours.push(&**pod);
                    continue;
                }
                Claim::Ignore => continue,
                Claim::Adopt if pods::has_ended(pod) || plan::is_finished(job) => continue,
                Claim::Adopt if !self.writer.may_adopt(job).await? => continue,
                Claim::Adopt => (owners::adoption(&pod.metadata, &owners::reference(job)), true),
                Claim::Release => (owners::release(&pod.metadata, &[uid]), false),
            };
            patch["metadata"]["finalizers"] = json!(finalizers(pod, tracked));
            self.writer.patch(&self.caches.pods, &Key::of(&pod.metadata), &patch).await?;
            changed = true;
        }
        Ok((ours, changed))
    }

    async fn release(&self, pod: &Pod) -> Result<(), WriteError> {
        let patch = json!({ "metadata": {
            "uid": pod.metadata.uid,
            "resourceVersion": pod.metadata.resource_version,
            "finalizers": finalizers(pod, false),
        }});
        let key = Key::of(&pod.metadata);
        match self.writer.patch(&self.caches.pods, &key, &patch).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn act(&self, key: &Key, job: &Job, all: &[&Pod], plan: Plan) -> Result<(), ReconcileError> {
        let revision = job.metadata.resource_version.as_deref();
        if let Some(patch) = status_patch(job.status.as_ref(), &plan.status, revision) {
            self.writer.patch_status(&self.caches.jobs, key, &patch).await?;
        }
        for note in plan.notes {
            self.recorder.say(NAME, job, note);
        }
        for pod in all.iter().filter(|pod| plan.release.iter().any(|name| name == pods::name(pod))) {
            self.release(pod).await?;
        }
        let cache = &self.caches.pods;
        if !plan.delete.is_empty() {
            let (deleted, failed) = delete_pods(&self.writer, cache, &key.namespace, &plan.delete).await;
            for name in deleted {
                let message = format!("Deleted pod: {name}");
                self.recorder.say(NAME, job, Note::normal("SuccessfulDelete", message));
            }
            self.say_failure(job, "FailedDelete", "deleting", failed)?;
        }
        if !plan.create.is_empty() {
            let new: Vec<Pod> = plan.create.iter().filter_map(|index| new_pod(job, *index)).collect();
            let (made, failed) = slow_start(new.len(), |at| self.writer.create(cache, &new[at])).await;
            for pod in &made {
                let message = format!("Created pod: {}", pods::name(pod));
                self.recorder.say(NAME, job, Note::normal("SuccessfulCreate", message));
            }
            self.say_failure(job, "FailedCreate", "creating", failed)?;
        }
        Ok(())
    }

    fn say_failure(
        &self,
        job: &Job,
        reason: &str,
        doing: &str,
        failed: Option<WriteError>,
    ) -> Result<(), ReconcileError> {
        match failed {
            None => Ok(()),
            // Nothing can be made in a namespace that is going; its end is all there is to wait for.
            Some(error) if error.is_namespace_terminating() => Ok(()),
            Some(error) => {
                let message = format!("Error {doing}: {}", error.message());
                self.recorder.say(NAME, job, Note::warning(reason, message));
                Err(error.into())
            }
        }
    }
}

fn finalizers(pod: &Pod, tracked: bool) -> Vec<&str> {
    let others = pod.metadata.finalizers.iter().flatten().map(String::as_str).filter(|name| *name != FINALIZER);
    others.chain(tracked.then_some(FINALIZER)).collect()
}

/// A new Pod of a Job, for an index when the Job is Indexed.
fn new_pod(job: &Job, index: Option<u32>) -> Option<Pod> {
    let template = &job.spec.as_ref()?.template;
    let mut pod = pod_from(job, template);
    let name = job.metadata.name.clone().unwrap_or_default();
    let uid = job.metadata.uid.clone().unwrap_or_default();
    pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
    let labels = pod.metadata.labels.get_or_insert_default();
    let manual = job.spec.as_ref()?.manual_selector.unwrap_or(false);
    if !manual {
        for label in CONTROLLER_UID {
            labels.insert(label.to_owned(), uid.clone());
        }
    }
    for label in JOB_NAME {
        labels.insert(label.to_owned(), name.clone());
    }
    if let Some(index) = index {
        labels.insert(INDEX.to_owned(), index.to_string());
        pod.metadata.annotations.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
        pod.metadata.generate_name = Some(format!("{name}-{index}-"));
        let spec = pod.spec.as_mut()?;
        spec.hostname.get_or_insert_with(|| format!("{name}-{index}"));
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            add_index_variable(container);
        }
    }
    Some(pod)
}

fn add_index_variable(container: &mut Container) {
    const VARIABLE: &str = "JOB_COMPLETION_INDEX";
    let env = container.env.get_or_insert_default();
    if env.iter().any(|variable| variable.name == VARIABLE) {
        return;
    }
    env.push(EnvVar {
        name: VARIABLE.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: format!("metadata.annotations['{INDEX}']"),
            }),
            ..EnvVarSource::default()
        }),
    });
}
