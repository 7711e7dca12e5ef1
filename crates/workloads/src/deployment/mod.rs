//! The Deployment controller: carries out what [`plan`] says.
//!
//! Invariants: decides nothing about numbers or conditions; those are in [`rolling`], [`revision`] and [`status`].

mod plan;
mod revision;
mod rolling;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kube::api::PropagationPolicy;
use serde_json::{Map, Value, json};

use self::plan::{Action, Snapshot};
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

const NAME: &str = "deployment-controller";

struct Deployments {
    caches: Arc<Caches>,
    writer: Writer,
    recorder: Recorder,
}

pub(crate) fn register(context: &Context<'_>) -> Controller {
    let queue = Arc::new(Queue::new());
    let caches = &context.caches;
    enqueue_self(&caches.deployments, &queue);
    enqueue_owner(&caches.replica_sets, "Deployment", &queue);
    enqueue_for_orphans(caches, &queue);
    enqueue_for_pods(caches, &queue);
    let ready = all_synced([caches.deployments.clone(), caches.replica_sets.clone(), caches.pods.clone()]);
    let reconcile =
        Deployments { caches: caches.clone(), writer: context.writer(NAME), recorder: context.recorder.clone() };
    context.controller(NAME, queue, ready, reconcile)
}

/// A ReplicaSet that nobody controls may match a Deployment.
fn enqueue_for_orphans(caches: &Arc<Caches>, queue: &Arc<Queue<Key>>) {
    let (queue, deployments) = (queue.clone(), caches.deployments.clone());
    caches.replica_sets.on_change(move |change| {
        let Some(set) = change.after else { return };
        if owners::controller(&set.metadata).is_some() {
            return;
        }
        for deployment in deployments.in_namespace(set.metadata.namespace.as_deref().unwrap_or("")) {
            let matches =
                deployment.spec.as_ref().is_some_and(|spec| Matcher::new(&spec.selector).matches(&set.metadata));
            if matches {
                queue.add(Key::of(&deployment.metadata));
            }
        }
    });
}

/// With Recreate the end of the last old Pod is what a rollout waits for.
fn enqueue_for_pods(caches: &Arc<Caches>, queue: &Arc<Queue<Key>>) {
    let (queue, sets, deployments) = (queue.clone(), caches.replica_sets.clone(), caches.deployments.clone());
    caches.pods.on_change(move |change| {
        let Some(pod) = change.latest() else { return };
        let over = change.after.is_none() || crate::pods::has_ended(pod);
        let Some(owner) = owners::controller(&pod.metadata).filter(|owner| over && owner.kind == "ReplicaSet") else {
            return;
        };
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let Some(set) = sets.get(&Key::new(namespace.as_str(), owner.name.as_str())) else { return };
        let Some(owner) = owners::controller(&set.metadata).filter(|owner| owner.kind == "Deployment") else { return };
        let key = Key::new(namespace, owner.name.as_str());
        let strategy =
            deployments.get(&key).and_then(|deployment| deployment.spec.as_ref()?.strategy.as_ref()?.type_.clone());
        if strategy.as_deref() == Some("Recreate") {
            queue.add(key);
        }
    });
}

impl Reconcile for Deployments {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Duration>, ReconcileError>> {
        async move {
            self.caches.deployments.fresh().await?;
            self.caches.replica_sets.fresh().await?;
            let Some(deployment) = self.caches.deployments.get(key) else { return Ok(None) };
            let all = self.caches.replica_sets.in_namespace(&key.namespace);
            let (sets, claimed) = self.claim(&deployment, &all).await?;
            if claimed {
                // The cache doesn't show it yet; its event brings the key back.
                return Ok(None);
            }
            let pods = self.caches.pods.in_namespace(&key.namespace);
            let now = clock::now();
            let snapshot = Snapshot { deployment: &deployment, pods: pods_of(&pods, &sets), sets, now };
            let plan = plan::plan(&snapshot);
            self.act(key, &deployment, plan.actions).await?;
            Ok(plan.again)
        }
        .boxed()
    }
}

fn pods_of<'a>(pods: &'a [Arc<Pod>], sets: &[&ReplicaSet]) -> Vec<&'a Pod> {
    let mine = |pod: &&'a Arc<Pod>| {
        let owner = owners::controller(&pod.metadata).map(|owner| owner.uid.as_str());
        owner.is_some() && sets.iter().any(|set| set.metadata.uid.as_deref() == owner)
    };
    pods.iter().filter(mine).map(|pod| &**pod).collect()
}

impl Deployments {
    /// The ReplicaSets that are the Deployment's, and whether any was adopted or given up just now.
    async fn claim<'a>(
        &self,
        deployment: &Deployment,
        all: &'a [Arc<ReplicaSet>],
    ) -> Result<(Vec<&'a ReplicaSet>, bool), ReconcileError> {
        let Some(spec) = &deployment.spec else { return Ok((Vec::new(), false)) };
        let matcher = Matcher::new(&spec.selector);
        let (mut ours, mut changed) = (Vec::new(), false);
        for set in all {
            let patch = match owners::claim(&deployment.metadata, &matcher, &set.metadata) {
                Claim::Ours => {
                    ours.push(&**set);
                    continue;
                }
                Claim::Ignore => continue,
                Claim::Adopt if !self.writer.may_adopt(deployment).await? => continue,
                Claim::Adopt => owners::adoption(&set.metadata, &owners::reference(deployment)),
                Claim::Release => owners::release(&set.metadata, &[deployment.metadata.uid.as_deref().unwrap_or("")]),
            };
            self.writer.patch(&self.caches.replica_sets, &Key::of(&set.metadata), &patch).await?;
            changed = true;
        }
        Ok((ours, changed))
    }

    async fn act(&self, key: &Key, deployment: &Deployment, actions: Vec<Action>) -> Result<(), ReconcileError> {
        for action in actions {
            match action {
                Action::Create(set) => self.create(key, deployment, &set).await?,
                Action::Change { name, replicas, annotations, min_ready_seconds } => {
                    let mut spec = Map::new();
                    spec.extend(replicas.map(|value| ("replicas".to_owned(), Value::from(value))));
                    spec.extend(min_ready_seconds.map(|value| ("minReadySeconds".to_owned(), Value::from(value))));
                    let patch = json!({ "metadata": { "annotations": annotations }, "spec": spec });
                    let set = Key::new(key.namespace.as_str(), name);
                    self.writer.patch(&self.caches.replica_sets, &set, &patch).await?;
                }
                Action::Delete { name, uid } => {
                    let set = Key::new(key.namespace.as_str(), name);
                    let background = PropagationPolicy::Background;
                    self.writer.delete(&self.caches.replica_sets, &set, &uid, background).await?;
                }
                Action::Status(status) => self.write_status(key, deployment, &status).await?,
                Action::Revision(revision) => {
                    let patch = json!({ "metadata": {
                        "uid": deployment.metadata.uid,
                        "annotations": { revision::REVISION: revision },
                    }});
                    self.writer.patch(&self.caches.deployments, key, &patch).await?;
                }
                Action::Say(note) => self.recorder.say(NAME, deployment, note),
            }
        }
        Ok(())
    }

    async fn write_status(
        &self,
        key: &Key,
        deployment: &Deployment,
        status: &DeploymentStatus,
    ) -> Result<(), WriteError> {
        let revision = deployment.metadata.resource_version.as_deref();
        if let Some(patch) = status_patch(deployment.status.as_ref(), status, revision) {
            self.writer.patch_status(&self.caches.deployments, key, &patch).await?;
        }
        Ok(())
    }

    async fn create(&self, key: &Key, deployment: &Deployment, set: &ReplicaSet) -> Result<(), ReconcileError> {
        let Err(error) = self.writer.create(&self.caches.replica_sets, set).await else { return Ok(()) };
        let name = set.metadata.name.as_deref().unwrap_or("");
        if error.is_namespace_terminating() {
            return Err(error.into());
        }
        let mut status = deployment.status.clone().unwrap_or_default();
        if error.is_already_exists() {
            if self.is_our_own(deployment, name).await? {
                return Ok(());
            }
            // Another ReplicaSet has the name: the next hash is made with another count.
            status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
            self.write_status(key, deployment, &status).await?;
            return Err(error.into());
        }
        let message = format!("Failed to create new replica set {name:?}: {}", error.message());
        if status::deadline(deployment).is_some() {
            status::set_progress(&mut status, "False", "ReplicaSetCreateError", message.clone(), clock::now());
            self.write_status(key, deployment, &status).await?;
        }
        self.recorder.say(NAME, deployment, Note::warning("ReplicaSetCreateError", message));
        Err(error.into())
    }

    /// Whether the ReplicaSet of that name is this Deployment's and made from its present template.
    async fn is_our_own(&self, deployment: &Deployment, name: &str) -> Result<bool, ReconcileError> {
        let namespace = deployment.metadata.namespace.as_deref();
        let attempt = async {
            let request = kube::core::Request::new(ReplicaSet::url_path(&(), namespace))
                .get(name, &kube::api::GetParams::default())
                .map_err(kube::Error::BuildRequest)?;
            self.writer.client().request::<ReplicaSet>(request).await
        };
        let set = attempt.await.map_err(|error| WriteError::new("read", format!("ReplicaSet {name}"), error))?;
        let uid = deployment.metadata.uid.as_deref().unwrap_or("");
        let template = deployment.spec.as_ref().map(|spec| &spec.template);
        Ok(owners::is_controlled_by(&set.metadata, uid)
            && template.is_some_and(|template| revision::has_template(&set, template)))
    }
}
