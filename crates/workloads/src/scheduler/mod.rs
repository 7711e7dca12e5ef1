//! The scheduler: gives each Pod without a node one, and says why when there is none.
//!
//! Invariants: a Pod is bound at most once (the API refuses a second binding); a Pod that found no node is looked at again when
//! a node or the Pod changes, never on a timer.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod, PodCondition};
use kube::Resource;
use kube::api::{ObjectMeta, PostParams};
use kube::core::Request;
use serde_json::{Value, json};

use self::plan::{Decision, SCHEDULER};
use crate::controllers::{Caches, Context};
use crate::error::{ReconcileError, WriteError};
use crate::machinery::clock;
use crate::machinery::key::Key;
use crate::machinery::queue::Queue;
use crate::machinery::recorder::{Note, Recorder};
use crate::machinery::runner::{Controller, Reconcile};
use crate::machinery::synced::all_synced;
use crate::machinery::writer::Writer;
use crate::pods;

struct Scheduler {
    caches: Arc<Caches>,
    writer: Writer,
    recorder: Recorder,
}

pub(crate) fn register(context: &Context<'_>) -> Controller {
    let queue = Arc::new(Queue::new());
    let caches = &context.caches;
    let own = queue.clone();
    caches.pods.on_change(move |change| {
        if let Some(pod) = change.after
            && plan::waits(pod)
        {
            own.add(Key::of(&pod.metadata));
        }
    });
    let (wake, pods) = (queue.clone(), caches.pods.clone());
    caches.nodes.on_change(move |change| {
        // A heartbeat is not a reason to look at every Pod again.
        if !change.before.zip(change.after).is_some_and(|(before, after)| same_for_us(before, after)) {
            for pod in pods.all().iter().filter(|pod| plan::waits(pod)) {
                wake.add(Key::of(&pod.metadata));
            }
        }
    });
    let ready = all_synced([caches.pods.clone(), caches.nodes.clone()]);
    let reconcile =
        Scheduler { caches: caches.clone(), writer: context.writer(SCHEDULER), recorder: context.recorder.clone() };
    context.controller(SCHEDULER, queue, ready, reconcile)
}

fn same_for_us(before: &Node, after: &Node) -> bool {
    let ready = |node: &Node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    before.metadata.labels == after.metadata.labels && before.spec == after.spec && ready(before) == ready(after)
}

impl Reconcile for Scheduler {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Duration>, ReconcileError>> {
        async move {
            self.caches.pods.fresh().await?;
            let Some(pod) = self.caches.pods.get(key) else { return Ok(None) };
            let nodes = self.caches.nodes.all();
            let nodes: Vec<&Node> = nodes.iter().map(|node| &**node).collect();
            match plan::decide(&pod, &nodes) {
                Decision::Nothing => {}
                Decision::Bind { node } => self.bind(key, &pod, &node).await?,
                Decision::Unschedulable { message } => self.hold(key, &pod, "Unschedulable", message).await?,
                Decision::Gated { message } => self.hold(key, &pod, "SchedulingGated", message).await?,
            }
            Ok(None)
        }
        .boxed()
    }
}

impl Scheduler {
    async fn bind(&self, key: &Key, pod: &Pod, node: &str) -> Result<(), WriteError> {
        let binding = Binding {
            metadata: ObjectMeta {
                name: pod.metadata.name.clone(),
                namespace: pod.metadata.namespace.clone(),
                uid: pod.metadata.uid.clone(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let attempt = async {
            let body = serde_json::to_vec(&binding).map_err(kube::Error::SerdeError)?;
            let request = Request::new(Pod::url_path(&(), key.scope()))
                .create_subresource("binding", &key.name, &PostParams::default(), body)
                .map_err(kube::Error::BuildRequest)?;
            self.writer.client().request::<Value>(request).await
        };
        match attempt.await.map_err(|error| WriteError::new("bind", format!("Pod {key} to node {node}"), error)) {
            Ok(_) => {
                let message = format!("Successfully assigned {key} to {node}");
                self.recorder.say(SCHEDULER, pod, Note::normal("Scheduled", message));
                Ok(())
            }
            // Gone, or bound already: the watch will show which.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => {
                let message = format!("binding to {node} was refused: {}", error.message());
                self.recorder.say(SCHEDULER, pod, Note::warning("FailedScheduling", message));
                Err(error)
            }
        }
    }

    /// Says in the Pod's status why it has no node.
    async fn hold(&self, key: &Key, pod: &Pod, reason: &str, message: String) -> Result<(), WriteError> {
        let known = pods::condition(pod, "PodScheduled").is_some_and(|condition| {
            condition.status == "False"
                && condition.reason.as_deref() == Some(reason)
                && condition.message.as_deref() == Some(message.as_str())
        });
        if known {
            return Ok(());
        }
        let status = pod.status.clone().unwrap_or_default();
        let mut conditions = status.conditions.unwrap_or_default();
        conditions.retain(|condition| condition.type_ != "PodScheduled");
        conditions.push(PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "False".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.clone()),
            last_transition_time: Some(clock::stamp(clock::now())),
            ..PodCondition::default()
        });
        let patch = json!({
            "metadata": { "resourceVersion": pod.metadata.resource_version },
            "status": { "conditions": conditions },
        });
        self.writer.patch_status(&self.caches.pods, key, &patch).await?;
        if reason == "Unschedulable" {
            self.recorder.say(SCHEDULER, pod, Note::warning("FailedScheduling", message));
        }
        Ok(())
    }
}
