//! Where a Service's traffic may go: EndpointSlices, and the Endpoints objects that older clients read.
//!
//! Invariants: a Service without a selector is left alone: its endpoints are someone else's. A Pod is ready here only when it is Ready and not
//! being deleted (or the Service says that this doesn't matter).

pub(crate) mod legacy;
pub(crate) mod pack;
pub(crate) mod slices;
pub(crate) mod targets;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};

use crate::controllers::Caches;
use crate::machinery::key::Key;
use crate::machinery::queue::Queue;

pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// The selector of a Service whose endpoints are ours to keep.
pub(crate) fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

pub(crate) fn selects(selector: &BTreeMap<String, String>, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    selector.iter().all(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value))
}

pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

pub(crate) fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
}

/// Puts the Services that pick a changed Pod, or picked it before, on a queue.
fn enqueue_for_pods(caches: &Arc<Caches>, queue: &Arc<Queue<Key>>) {
    let (queue, services) = (queue.clone(), caches.services.clone());
    caches.pods.on_change(move |change| {
        let Some(pod) = change.latest() else { return };
        let states = [change.before, change.after];
        for service in services.in_namespace(pod.metadata.namespace.as_deref().unwrap_or("")) {
            let concerned =
                selector(&service).is_some_and(|wanted| states.iter().flatten().any(|pod| selects(wanted, pod)));
            if concerned {
                queue.add(Key::of(&service.metadata));
            }
        }
    });
}
