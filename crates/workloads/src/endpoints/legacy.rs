//! The Endpoints controller: one core/v1 Endpoints object a Service, for clients that don't read EndpointSlices.
//!
//! Invariants: has the Service's name; an object that no Service with a selector stands behind is deleted only when it was made here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use kube::api::{ObjectMeta, PropagationPolicy};
use serde_json::{Value, json};

use super::targets::{self, Port, Target};
use super::{enqueue_for_pods, publishes_not_ready, selector};
use crate::controllers::{Caches, Context, enqueue_self};
use crate::error::ReconcileError;
use crate::machinery::key::Key;
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Reconcile};
use crate::machinery::synced::all_synced;
use crate::machinery::writer::{Writer, difference};

const NAME: &str = "endpoint-controller";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MOST_ADDRESSES: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

struct Legacy {
    caches: Arc<Caches>,
    writer: Writer,
}

pub(crate) fn register(context: &Context<'_>) -> Controller {
    let queue = Arc::new(Queue::new());
    let caches = &context.caches;
    enqueue_self(&caches.services, &queue);
    enqueue_self(&caches.endpoints, &queue);
    enqueue_for_pods(caches, &queue);
    let ready = all_synced([caches.services.clone(), caches.pods.clone(), caches.endpoints.clone()]);
    let reconcile = Legacy { caches: caches.clone(), writer: context.writer(NAME) };
    context.controller(NAME, queue, ready, reconcile)
}

fn address(service: &Service, target: &Target<'_>) -> EndpointAddress {
    let meta = &target.pod.metadata;
    EndpointAddress {
        ip: target.address.clone(),
        hostname: targets::hostname(service, target.pod),
        node_name: target.pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            ..ObjectReference::default()
        }),
    }
}

fn port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: (!port.name.is_empty()).then(|| port.name.clone()),
        protocol: Some(port.protocol.clone()),
        port: port.port,
        app_protocol: port.app_protocol.clone(),
    }
}

/// The subsets of a Service's Endpoints, and whether some addresses were left out because there are too many.
pub(crate) fn subsets(service: &Service, all: &[Target<'_>]) -> (Vec<EndpointSubset>, bool) {
    let publish = publishes_not_ready(service);
    // This object has one address family: the Service's first.
    let family = targets::families(service).first().copied();
    let mut groups: BTreeMap<&[Port], (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    let mut left_out = false;
    let wanted = |target: &&Target<'_>| Some(target.family) == family && (publish || !target.terminating);
    for (count, target) in all.iter().filter(wanted).enumerate() {
        if count >= MOST_ADDRESSES {
            left_out = true;
            break;
        }
        let (ready, not_ready) = groups.entry(&target.ports).or_default();
        if target.ready { ready } else { not_ready }.push(address(service, target));
    }
    let some = |list: Vec<EndpointAddress>| (!list.is_empty()).then_some(list);
    let subsets = groups
        .into_iter()
        .map(|(ports, (ready, not_ready))| EndpointSubset {
            addresses: some(ready),
            not_ready_addresses: some(not_ready),
            ports: (!ports.is_empty()).then(|| ports.iter().map(port).collect()),
        })
        .collect();
    (subsets, left_out)
}

/// The Endpoints object that a Service should have, on top of the one it has.
pub(crate) fn desired(service: &Service, all: &[Target<'_>], existing: Option<&Endpoints>) -> Endpoints {
    let (subsets, left_out) = subsets(service, all);
    let mut meta = existing.map_or_else(
        || ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        |existing| existing.metadata.clone(),
    );
    let mut labels = targets::labels(service);
    labels.insert(MANAGED_BY.to_owned(), NAME.to_owned());
    meta.labels = Some(labels);
    if left_out {
        meta.annotations.get_or_insert_default().insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else if let Some(annotations) = &mut meta.annotations {
        annotations.remove(OVER_CAPACITY);
    }
    Endpoints { metadata: meta, subsets: (!subsets.is_empty()).then_some(subsets) }
}

impl Reconcile for Legacy {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Duration>, ReconcileError>> {
        async move {
            self.caches.endpoints.fresh().await?;
            let existing = self.caches.endpoints.get(key);
            let service = self.caches.services.get(key).filter(|service| service.metadata.deletion_timestamp.is_none());
            match service {
                Some(service) if selector(&service).is_some() => self.keep(key, &service, existing.as_deref()).await,
                // Its endpoints are someone else's.
                Some(_) => Ok(()),
                None => self.clean_up(key, existing.as_deref()).await,
            }?;
            Ok(None)
        }
        .boxed()
    }
}

impl Legacy {
    async fn keep(&self, key: &Key, service: &Service, existing: Option<&Endpoints>) -> Result<(), ReconcileError> {
        let all = self.caches.pods.in_namespace(&key.namespace);
        let pods: Vec<&Pod> = all.iter().map(|pod| &**pod).collect();
        let desired = desired(service, &targets::targets(service, &pods), existing);
        let cache = &self.caches.endpoints;
        let outcome = match existing {
            None => self.writer.create(cache, &desired).await,
            Some(existing) if *existing == desired => return Ok(()),
            Some(existing) => {
                let value = |endpoints: &Endpoints| serde_json::to_value(endpoints).unwrap_or(Value::Null);
                let mut patch = difference(&value(existing), &value(&desired));
                patch["metadata"]["resourceVersion"] = json!(existing.metadata.resource_version);
                self.writer.patch(cache, key, &patch).await
            }
        };
        match outcome {
            Err(error) if !error.is_namespace_terminating() => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn clean_up(&self, key: &Key, existing: Option<&Endpoints>) -> Result<(), ReconcileError> {
        let Some(existing) = existing else { return Ok(()) };
        let labels = existing.metadata.labels.as_ref();
        let ours = labels.and_then(|labels| labels.get(MANAGED_BY)).map(String::as_str) == Some(NAME);
        if ours {
            let uid = existing.metadata.uid.as_deref().unwrap_or("");
            self.writer.delete(&self.caches.endpoints, key, uid, PropagationPolicy::Background).await?;
        }
        Ok(())
    }
}
