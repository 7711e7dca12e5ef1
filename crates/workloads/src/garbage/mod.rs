//! Garbage collection: deletes what nothing owns any more, in the background, in the foreground, or lets it go.
//!
//! Invariants: nothing is deleted on hearsay. That an owner is gone is asked of the API, unless the graph has seen the owner;
//! every deletion is bound to the uid and revision that the decision was made on.

pub(crate) mod graph;
pub(crate) mod monitor;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, GetParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::Request;
use serde_json::{Value, json};

use self::graph::{Graph, Meta, Node, ORPHAN};
use self::plan::{Action, Owner, Propagation};
use crate::controllers::Context;
use crate::error::{ReconcileError, WriteError};
use crate::machinery::key::Key;
use crate::machinery::runner::{Controller, Reconcile};
use crate::machinery::synced::all_synced;

const NAME: &str = "generic-garbage-collector";

struct Garbage {
    graph: Arc<Graph>,
    client: kube::Client,
}

pub(crate) fn register(context: &Context<'_>) -> Controller {
    let graph = context.graph.clone();
    let ready = all_synced([graph.clone()]);
    let reconcile = Garbage { graph: graph.clone(), client: (context.client)(NAME) };
    context.controller(NAME, graph.queue.clone(), ready, reconcile)
}

impl Reconcile for Garbage {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Duration>, ReconcileError>> {
        async move {
            let Some(node) = self.graph.read(|nodes| nodes.get(&key.name).cloned()) else { return Ok(None) };
            if node.going {
                let action = self.graph.read(|nodes| plan::going(&node, nodes));
                self.act(&node, action).await?;
                return Ok(None);
            }
            let mut owners = Vec::with_capacity(node.owners.len());
            for reference in &node.owners {
                owners.push(self.look_up(&node, reference).await?);
            }
            if owners.contains(&Owner::Unknown) {
                self.graph.puzzled(&node.uid);
            }
            let action = self.graph.read(|nodes| plan::standing(&node, &owners, nodes));
            self.act(&node, action).await?;
            Ok(None)
        }
        .boxed()
    }
}

impl Garbage {
    /// What is known of an owner, from the graph where it has been seen, else from the API.
    async fn look_up(&self, node: &Node, reference: &OwnerReference) -> Result<Owner, ReconcileError> {
        let seen = self.graph.read(|nodes| {
            let owner = nodes.get(&reference.uid)?;
            let state = if owner.is_foreground() { Owner::Waiting } else { Owner::Solid };
            graph::refers_to(node, reference, owner).then_some(state)
        });
        if let Some(seen) = seen {
            return Ok(seen);
        }
        let Some(kind) = self.graph.resolve(&reference.api_version, &reference.kind) else {
            return Ok(Owner::Unknown);
        };
        if kind.namespaced && node.namespace.is_empty() {
            // An object of no namespace can't be owned by one that has a namespace: the reference says nothing.
            tracing::warn!(object = %node.title(), owner = %reference.name, "owner reference to a namespaced kind ignored");
            return Ok(Owner::Unknown);
        }
        // An owner is looked for in the namespace of its dependent; anywhere else it counts as absent.
        let path = kind.path(Some(&node.namespace));
        let what = format!("{} {}", kind.kind, reference.name);
        let attempt = async {
            let request =
                Request::new(path).get(&reference.name, &GetParams::default()).map_err(kube::Error::BuildRequest)?;
            self.client.request::<Meta>(request).await
        };
        match attempt.await.map_err(|error| WriteError::new("read", what, error)) {
            Ok(owner) if owner.metadata.uid.as_deref() != Some(reference.uid.as_str()) => Ok(Owner::Absent),
            Ok(owner) => {
                let waits = owner.metadata.finalizers.iter().flatten().any(|name| name == graph::FOREGROUND);
                let going = owner.metadata.deletion_timestamp.is_some();
                Ok(if going && waits { Owner::Waiting } else { Owner::Solid })
            }
            Err(error) if error.is_not_found() => Ok(Owner::Absent),
            Err(error) => Err(error.into()),
        }
    }

    async fn act(&self, node: &Node, action: Action) -> Result<(), WriteError> {
        match action {
            Action::Nothing => Ok(()),
            Action::Delete(propagation) => self.delete(node, propagation).await,
            Action::Disown(uids) => self.disown(node, &uids).await,
            Action::Finish(finalizer) => self.finish(node, finalizer).await,
            Action::LetGo(dependents) => {
                for uid in dependents {
                    if let Some(dependent) = self.graph.read(|nodes| nodes.get(&uid).cloned()) {
                        self.disown(&dependent, &[node.uid.to_string()]).await?;
                    }
                }
                self.finish(node, ORPHAN).await
            }
            Action::Untangle(waiting) => {
                self.unblock(node, &waiting).await?;
                self.delete(node, Propagation::Foreground).await
            }
        }
    }

    async fn delete(&self, node: &Node, propagation: Propagation) -> Result<(), WriteError> {
        let params = DeleteParams {
            propagation_policy: Some(match propagation {
                Propagation::Background => PropagationPolicy::Background,
                Propagation::Foreground => PropagationPolicy::Foreground,
                Propagation::Orphan => PropagationPolicy::Orphan,
            }),
            preconditions: Some(Preconditions {
                uid: Some(node.uid.to_string()),
                // A foreign change since means that the decision may be wrong. An unblocked object has changed by our own hand.
                resource_version: (propagation == Propagation::Background).then(|| node.revision.clone()),
            }),
            ..DeleteParams::default()
        };
        let attempt = async {
            let request = Request::new(node.kind.path(Some(&node.namespace)))
                .delete(&node.name, &params)
                .map_err(kube::Error::BuildRequest)?;
            self.client.request::<Value>(request).await
        };
        tracing::debug!(object = %node.title(), ?propagation, "deleting what nothing owns");
        forgiving(attempt.await.map(drop).map_err(|error| WriteError::new("delete", node.title(), error)))
    }

    /// Changes an object's metadata, bound to what was seen of it.
    async fn patch(&self, node: &Node, mut metadata: Value) -> Result<(), WriteError> {
        metadata["uid"] = json!(&*node.uid);
        metadata["resourceVersion"] = json!(node.revision);
        let params = PatchParams { field_manager: Some(NAME.to_owned()), ..PatchParams::default() };
        let attempt = async {
            let patch = json!({ "metadata": metadata });
            let request = Request::new(node.kind.path(Some(&node.namespace)))
                .patch(&node.name, &params, &Patch::Merge(&patch))
                .map_err(kube::Error::BuildRequest)?;
            self.client.request::<Value>(request).await
        };
        forgiving(attempt.await.map(drop).map_err(|error| WriteError::new("change", node.title(), error)))
    }

    async fn disown(&self, node: &Node, uids: &[String]) -> Result<(), WriteError> {
        let rest: Vec<&OwnerReference> = node.owners.iter().filter(|owner| !uids.contains(&owner.uid)).collect();
        if rest.len() == node.owners.len() {
            return Ok(());
        }
        self.patch(node, json!({ "ownerReferences": rest })).await
    }

    async fn unblock(&self, node: &Node, waiting: &[String]) -> Result<(), WriteError> {
        let mut owners = node.owners.clone();
        for owner in owners.iter_mut().filter(|owner| waiting.contains(&owner.uid)) {
            owner.block_owner_deletion = Some(false);
        }
        self.patch(node, json!({ "ownerReferences": owners })).await
    }

    async fn finish(&self, node: &Node, finalizer: &str) -> Result<(), WriteError> {
        let rest: Vec<&String> = node.finalizers.iter().filter(|name| *name != finalizer).collect();
        self.patch(node, json!({ "finalizers": rest })).await
    }
}

/// What is gone already needs nothing done.
fn forgiving(outcome: Result<(), WriteError>) -> Result<(), WriteError> {
    match outcome {
        Err(error) if error.is_not_found() => Ok(()),
        outcome => outcome,
    }
}
