//! The EndpointSlice controller: carries out what [`super::pack`] says.
//!
//! Invariants: touches only slices labelled as its own; all changes of one Service are sent at once.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::PropagationPolicy;
use resources::names::SERVICE_NAME_LABEL;
use serde_json::{Value, json};

use super::pack::{self, Change, MANAGED_BY, MANAGER};
use super::{enqueue_for_pods, selector, targets};
use crate::controllers::{Caches, Context, enqueue_self};
use crate::error::{ReconcileError, WriteError};
use crate::machinery::key::Key;
use crate::machinery::queue::Queue;
use crate::machinery::recorder::{Note, Recorder};
use crate::machinery::runner::{Controller, Reconcile};
use crate::machinery::synced::all_synced;
use crate::machinery::writer::{Writer, difference};

const NAME: &str = "endpointslice-controller";

struct Slices {
    caches: Arc<Caches>,
    writer: Writer,
    recorder: Recorder,
}

pub(crate) fn register(context: &Context<'_>) -> Controller {
    let queue = Arc::new(Queue::new());
    let caches = &context.caches;
    enqueue_self(&caches.services, &queue);
    enqueue_for_pods(caches, &queue);
    let repair = queue.clone();
    caches.slices.on_change(move |change| {
        if let Some(slice) = change.latest()
            && let Some(service) = service_of(slice)
        {
            repair.add(service);
        }
    });
    let ready = all_synced([caches.services.clone(), caches.pods.clone(), caches.slices.clone()]);
    let reconcile = Slices { caches: caches.clone(), writer: context.writer(NAME), recorder: context.recorder.clone() };
    context.controller(NAME, queue, ready, reconcile)
}

/// The Service of a slice that is ours.
fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    if labels.get(MANAGED_BY).map(String::as_str) != Some(MANAGER) {
        return None;
    }
    let name = labels.get(SERVICE_NAME_LABEL)?;
    Some(Key::new(slice.metadata.namespace.clone().unwrap_or_default(), name.as_str()))
}

impl Reconcile for Slices {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Duration>, ReconcileError>> {
        async move {
            self.caches.slices.fresh().await?;
            let Some(service) = self.caches.services.get(key) else { return Ok(None) };
            if selector(&service).is_none() || service.metadata.deletion_timestamp.is_some() {
                return Ok(None);
            }
            let all = self.caches.pods.in_namespace(&key.namespace);
            let pods: Vec<&Pod> = all.iter().map(|pod| &**pod).collect();
            let slices = self.caches.slices.in_namespace(&key.namespace);
            let ours: Vec<&EndpointSlice> =
                slices.iter().map(|slice| &**slice).filter(|slice| service_of(slice).as_ref() == Some(key)).collect();
            let changes = pack::pack(&service, &targets::targets(&service, &pods), &ours);
            match self.act(key, changes).await {
                Some(error) if error.is_namespace_terminating() => Ok(None),
                Some(error) => {
                    self.say(&service, &error);
                    Err(error.into())
                }
                None => Ok(None),
            }
        }
        .boxed()
    }
}

impl Slices {
    async fn act(&self, key: &Key, changes: Vec<Change>) -> Option<WriteError> {
        let running: FuturesUnordered<_> = changes.into_iter().map(|change| self.one(key, change)).collect();
        let outcomes: Vec<Result<(), WriteError>> = running.collect().await;
        outcomes.into_iter().find_map(Result::err)
    }

    async fn one(&self, key: &Key, change: Change) -> Result<(), WriteError> {
        let cache = &self.caches.slices;
        match change {
            Change::Create(slice) => self.writer.create(cache, &*slice).await.map(drop),
            Change::Update(old, new) => {
                let value = |slice: &EndpointSlice| serde_json::to_value(slice).unwrap_or(Value::Null);
                let mut patch = difference(&value(&old), &value(&new));
                patch["metadata"]["resourceVersion"] = json!(old.metadata.resource_version);
                self.writer.patch(cache, &Key::of(&old.metadata), &patch).await.map(drop)
            }
            Change::Delete { name, uid } => {
                let slice = Key::new(key.namespace.as_str(), name);
                self.writer.delete(cache, &slice, &uid, PropagationPolicy::Background).await
            }
        }
    }

    fn say(&self, service: &Service, error: &WriteError) {
        if error.is_conflict() || error.is_not_found() {
            return;
        }
        let name = service.metadata.name.as_deref().unwrap_or("");
        let namespace = service.metadata.namespace.as_deref().unwrap_or("");
        let message = format!("Error updating Endpoint Slices for Service {namespace}/{name}: {}", error.message());
        self.recorder.say(NAME, service, Note::warning("FailedToUpdateEndpointSlices", message));
    }
}
