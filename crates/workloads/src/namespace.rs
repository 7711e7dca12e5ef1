//! The Namespace controller: empties a namespace that is being deleted, then lets it go.
//!
//! Invariants: Pods go first, so that nothing they use is taken from under them. The `kubernetes` finalizer is removed only after a
//! list of every kind in the namespace came back empty. Waiting for what still ends (Pods, foreign finalizers) is woken by its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus};
use kube::Resource;
use kube::api::{DeleteParams, ListParams, ObjectList, PostParams};
use kube::core::Request;
use serde_json::Value;

use crate::controllers::{Caches, Context};
use crate::error::{ReconcileError, WriteError};
use crate::garbage::graph::{Graph, Meta, ResourceKind};
use crate::machinery::clock;
use crate::machinery::key::Key;
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Reconcile};
use crate::machinery::synced::all_synced;
use crate::machinery::writer::{Writer, status_patch};

const NAME: &str = "namespace-controller";
const FINALIZER: &str = "kubernetes";

struct Namespaces {
    caches: Arc<Caches>,
    graph: Arc<Graph>,
    writer: Writer,
}

pub(crate) fn register(context: &Context<'_>) -> Controller {
    let queue = Arc::new(Queue::new());
    let caches = &context.caches;
    let own = queue.clone();
    caches.namespaces.on_change(move |change| {
        if let Some(namespace) = change.after
            && namespace.metadata.deletion_timestamp.is_some()
        {
            own.add(Key::of(&namespace.metadata));
        }
    });
    let (wake, namespaces) = (queue.clone(), caches.namespaces.clone());
    context.graph.on_removed(move |namespace| {
        let key = Key::new("", namespace);
        if namespaces.get(&key).is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
            wake.add(key);
        }
    });
    let ready = all_synced([caches.namespaces.clone(), context.graph.clone()]);
    let reconcile = Namespaces { caches: caches.clone(), graph: context.graph.clone(), writer: context.writer(NAME) };
    context.controller(NAME, queue, ready, reconcile)
}

/// What is left in a namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Instances by kind, as `pods.` or `widgets.example.com`.
    pub(crate) kinds: BTreeMap<String, usize>,
    /// Instances by finalizer.
    pub(crate) finalizers: BTreeMap<String, usize>,
    /// What could not be deleted or listed.
    pub(crate) failures: Vec<String>,
}

fn sentence(parts: &BTreeMap<String, usize>, what: &str) -> String {
    let parts: Vec<String> =
        parts.iter().map(|(name, count)| format!("{name} {what} {count} resource instances")).collect();
    parts.join(", ")
}

/// The conditions of a namespace that is being deleted: type, value, reason, message.
fn rows(left: &Left) -> [(&'static str, bool, &'static str, String); 5] {
    let deleted = left.failures.is_empty();
    [
        (
            "NamespaceDeletionDiscoveryFailure",
            false,
            "ResourcesDiscovered",
            "All resources successfully discovered".to_owned(),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
        if deleted {
            let message = "All content successfully deleted, may be waiting on finalization";
            ("NamespaceDeletionContentFailure", false, "ContentDeleted", message.to_owned())
        } else {
            let message = format!(
                "Failed to delete all resource types, {} remaining: {}",
                left.failures.len(),
                left.failures.join(", ")
            );
            ("NamespaceDeletionContentFailure", true, "ContentDeletionFailed", message)
        },
        if left.kinds.is_empty() {
            ("NamespaceContentRemaining", false, "ContentRemoved", "All content successfully removed".to_owned())
        } else {
            let message = format!("Some resources are remaining: {}", sentence(&left.kinds, "has"));
            ("NamespaceContentRemaining", true, "SomeResourcesRemain", message)
        },
        if left.finalizers.is_empty() {
            (
                "NamespaceFinalizersRemaining",
                false,
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished".to_owned(),
            )
        } else {
            let message =
                format!("Some content in the namespace has finalizers remaining: {}", sentence(&left.finalizers, "in"));
            ("NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", message)
        },
    ]
}

/// The status of a namespace that is being deleted, with upstream's conditions.
pub(crate) fn status(before: Option<&NamespaceStatus>, left: &Left, now: jiff::Timestamp) -> NamespaceStatus {
    let mut status = before.cloned().unwrap_or_default();
    status.phase = Some("Terminating".to_owned());
    let conditions = status.conditions.get_or_insert_default();
    for (type_, value, reason, message) in rows(left) {
        let value = if value { "True" } else { "False" };
        let known = conditions.iter_mut().find(|condition| condition.type_ == type_);
        match known {
            Some(known) => {
                if known.status != value {
                    known.last_transition_time = Some(clock::stamp(now));
                }
                known.status = value.to_owned();
                known.reason = Some(reason.to_owned());
                known.message = Some(message);
            }
            None => conditions.push(NamespaceCondition {
                type_: type_.to_owned(),
                status: value.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: Some(clock::stamp(now)),
            }),
        }
    }
    status
}

/// The finalizers of a namespace's spec.
fn finalizers(namespace: &Namespace) -> Vec<String> {
    namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default()
}

impl Reconcile for Namespaces {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Duration>, ReconcileError>> {
        async move {
            self.caches.namespaces.fresh().await?;
            let Some(namespace) = self.caches.namespaces.get(key) else { return Ok(None) };
            if namespace.metadata.deletion_timestamp.is_none()
                || !finalizers(&namespace).iter().any(|name| name == FINALIZER)
            {
                return Ok(None);
            }
            let left = self.empty(&key.name).await;
            let over = left.kinds.is_empty() && left.failures.is_empty();
            if !over {
                let status = status(namespace.status.as_ref(), &left, clock::now());
                let revision = namespace.metadata.resource_version.as_deref();
                if let Some(patch) = status_patch(namespace.status.as_ref(), &status, revision) {
                    self.writer.patch_status(&self.caches.namespaces, key, &patch).await?;
                }
                if !left.failures.is_empty() {
                    let what = left.failures.join("; ");
                    return Err(ReconcileError::Waiting { object: format!("Namespace {key}"), what });
                }
                if self.anything_unseen(&key.name, &left) {
                    // Kinds whose ends aren't watched have to be looked at again.
                    return Ok(Some(Duration::from_secs(1)));
                }
                return Ok(None);
            }
            self.finalize(&namespace).await?;
            Ok(None)
        }
        .boxed()
    }
}

impl Namespaces {
    /// Deletes what is in the namespace: Pods first, the rest once there are none. Returns what is left.
    async fn empty(&self, namespace: &str) -> Left {
        let mut left = Left::default();
        let kinds = self.graph.namespaced();
        let (pods, others): (Vec<_>, Vec<_>) =
            kinds.into_iter().partition(|kind| kind.group.is_empty() && kind.plural == "pods");
        for kinds in [pods, others] {
            for kind in kinds {
                if let Err(error) = self.empty_kind(namespace, &kind, &mut left).await {
                    left.failures.push(error.to_string());
                }
            }
            if !left.kinds.is_empty() || !left.failures.is_empty() {
                break;
            }
        }
        left
    }

    async fn empty_kind(&self, namespace: &str, kind: &ResourceKind, left: &mut Left) -> Result<(), WriteError> {
        let path = kind.path(Some(namespace));
        let mut items = self.list(&path).await?;
        if items.is_empty() {
            return Ok(());
        }
        let standing = items.iter().any(|item| item.metadata.deletion_timestamp.is_none());
        if standing {
            self.delete_all(&path, kind, &items).await?;
            items = self.list(&path).await?;
        }
        if !items.is_empty() {
            left.kinds.insert(kind.qualified_name(), items.len());
        }
        for finalizer in items.iter().flat_map(|item| item.metadata.finalizers.iter().flatten()) {
            *left.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
        Ok(())
    }

    async fn list(&self, path: &str) -> Result<Vec<Meta>, WriteError> {
        let attempt = async {
            let request = Request::new(path).list(&ListParams::default()).map_err(kube::Error::BuildRequest)?;
            self.writer.client().request::<ObjectList<Meta>>(request).await
        };
        match attempt.await.map_err(|error| WriteError::new("list", path.to_owned(), error)) {
            Ok(list) => Ok(list.items),
            // The kind is gone, and all of its objects with it.
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn delete_all(&self, path: &str, kind: &ResourceKind, items: &[Meta]) -> Result<(), WriteError> {
        let params = DeleteParams::background();
        if kind.deletes_collections {
            let attempt = async {
                let request = Request::new(path)
                    .delete_collection(&params, &ListParams::default())
                    .map_err(kube::Error::BuildRequest)?;
                self.writer.client().request::<Value>(request).await
            };
            return attempt.await.map(drop).map_err(|error| WriteError::new("delete all of", path.to_owned(), error));
        }
        for item in items.iter().filter(|item| item.metadata.deletion_timestamp.is_none()) {
            let name = item.metadata.name.as_deref().unwrap_or("");
            let attempt = async {
                let request = Request::new(path).delete(name, &params).map_err(kube::Error::BuildRequest)?;
                self.writer.client().request::<Value>(request).await
            };
            let outcome = attempt.await.map_err(|error| WriteError::new("delete", format!("{path}/{name}"), error));
            if let Err(error) = outcome
                && !error.is_not_found()
            {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether something is left whose end the graph will not tell of.
    fn anything_unseen(&self, namespace: &str, left: &Left) -> bool {
        let seen = self.graph.count_in(namespace);
        left.kinds.iter().any(|(kind, _)| !seen.contains_key(kind))
    }

    async fn finalize(&self, namespace: &Namespace) -> Result<(), WriteError> {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let mut new = namespace.clone();
        let rest: Vec<String> = finalizers(namespace).into_iter().filter(|name| name != FINALIZER).collect();
        new.spec.get_or_insert_default().finalizers = Some(rest);
        let attempt = async {
            let body = serde_json::to_vec(&new).map_err(kube::Error::SerdeError)?;
            let request = Request::new(Namespace::url_path(&(), None))
                .replace_subresource("finalize", &name, &PostParams::default(), body)
                .map_err(kube::Error::BuildRequest)?;
            self.writer.client().request::<Namespace>(request).await
        };
        match attempt.await.map_err(|error| WriteError::new("finalize", format!("Namespace {name}"), error)) {
            Ok(done) => {
                self.caches.namespaces.wrote(&done);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_say_what_is_left() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let mut left = Left::default();
        left.kinds.insert("pods.".into(), 2);
        left.finalizers.insert("example.com/hold".into(), 1);
        let first = status(None, &left, now);
        let find = |status: &NamespaceStatus, type_: &str| {
            let all = status.conditions.clone().unwrap_or_default();
            let found = all.into_iter().find(|condition| condition.type_ == type_).expect("the condition");
            (found.status, found.message.unwrap_or_default())
        };
        assert_eq!(first.phase.as_deref(), Some("Terminating"));
        assert_eq!(
            find(&first, "NamespaceContentRemaining"),
            ("True".into(), "Some resources are remaining: pods. has 2 resource instances".into())
        );
        assert_eq!(
            find(&first, "NamespaceFinalizersRemaining").1,
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        );
        let later = status(Some(&first), &Left::default(), jiff::Timestamp::from_second(9).expect("a time"));
        assert_eq!(find(&later, "NamespaceContentRemaining").0, "False");
        assert_eq!(later.conditions.as_ref().map(Vec::len), first.conditions.as_ref().map(Vec::len));
        assert_eq!(status(Some(&later), &Left::default(), now), later, "nothing new, nothing written");
    }
}
