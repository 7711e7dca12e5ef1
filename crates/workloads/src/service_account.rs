//! The ServiceAccount controller: every namespace has a ServiceAccount `default`.
//!
//! Invariants: made again when it is deleted; never changed once it is there; none in a namespace that is being deleted.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::ObjectMeta;

use crate::controllers::{Caches, Context};
use crate::error::ReconcileError;
use crate::machinery::key::Key;
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Reconcile};
use crate::machinery::synced::all_synced;
use crate::machinery::writer::Writer;

const NAME: &str = "service-account-controller";
const DEFAULT: &str = "default";

struct ServiceAccounts {
    caches: Arc<Caches>,
    writer: Writer,
}

pub(crate) fn register(context: &Context<'_>) -> Controller {
    let queue = Arc::new(Queue::new());
    let caches = &context.caches;
    crate::controllers::enqueue_self(&caches.namespaces, &queue);
    let again = queue.clone();
    caches.service_accounts.on_change(move |change| {
        if let (Some(gone), None) = (change.before, change.after)
            && gone.metadata.name.as_deref() == Some(DEFAULT)
        {
            again.add(Key::new("", gone.metadata.namespace.clone().unwrap_or_default()));
        }
    });
    let ready = all_synced([caches.namespaces.clone(), caches.service_accounts.clone()]);
    let reconcile = ServiceAccounts { caches: caches.clone(), writer: context.writer(NAME) };
    context.controller(NAME, queue, ready, reconcile)
}

/// Whether things may be made in a namespace.
pub(crate) fn is_open(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}

impl Reconcile for ServiceAccounts {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Duration>, ReconcileError>> {
        async move {
            let cache = &self.caches.service_accounts;
            cache.fresh().await?;
            let open = self.caches.namespaces.get(key).is_some_and(|namespace| is_open(&namespace));
            if !open || cache.get(&Key::new(key.name.as_str(), DEFAULT)).is_some() {
                return Ok(None);
            }
            let account = ServiceAccount {
                metadata: ObjectMeta {
                    name: Some(DEFAULT.to_owned()),
                    namespace: Some(key.name.clone()),
                    ..ObjectMeta::default()
                },
                ..ServiceAccount::default()
            };
            match self.writer.create(cache, &account).await {
                Err(error)
                    if !error.is_already_exists() && !error.is_namespace_terminating() && !error.is_not_found() =>
                {
                    Err(error.into())
                }
                _ => Ok(None),
            }
        }
        .boxed()
    }
}
