//! Publishes the certificate authority of the API: ConfigMap `kube-root-ca.crt` in every namespace.
//!
//! Invariants: what the ConfigMap says is put right when it is changed, and the ConfigMap made again when it is deleted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ObjectMeta;
use serde_json::json;

use crate::controllers::{Caches, Context, ROOT_CA};
use crate::error::ReconcileError;
use crate::machinery::key::Key;
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Reconcile};
use crate::machinery::synced::all_synced;
use crate::machinery::writer::Writer;
use crate::service_account::is_open;

const NAME: &str = "root-ca-certificate-publisher";
const FILE: &str = "ca.crt";
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the API server when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
);

struct RootCa {
    caches: Arc<Caches>,
    writer: Writer,
    pem: String,
}

pub(crate) fn register(context: &Context<'_>) -> Controller {
    let queue = Arc::new(Queue::new());
    let caches = &context.caches;
    crate::controllers::enqueue_self(&caches.namespaces, &queue);
    let again = queue.clone();
    caches.config_maps.on_change(move |change| {
        if let Some(map) = change.latest() {
            again.add(Key::new("", map.metadata.namespace.clone().unwrap_or_default()));
        }
    });
    let ready = all_synced([caches.namespaces.clone(), caches.config_maps.clone()]);
    let reconcile =
        RootCa { caches: caches.clone(), writer: context.writer(NAME), pem: context.settings.ca_pem.clone() };
    context.controller(NAME, queue, ready, reconcile)
}

impl Reconcile for RootCa {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Duration>, ReconcileError>> {
        async move {
            let cache = &self.caches.config_maps;
            cache.fresh().await?;
            let open = self.caches.namespaces.get(key).is_some_and(|namespace| is_open(&namespace));
            if self.pem.is_empty() || !open {
                return Ok(None);
            }
            let data = BTreeMap::from([(FILE.to_owned(), self.pem.clone())]);
            let own = Key::new(key.name.as_str(), ROOT_CA);
            let outcome = match cache.get(&own) {
                Some(map) if map.data.as_ref() == Some(&data) => return Ok(None),
                Some(map) => {
                    let mut patch = json!({ "data": { FILE: self.pem } });
                    for name in map.data.iter().flatten().map(|(name, _)| name).filter(|name| *name != FILE) {
                        patch["data"][name] = serde_json::Value::Null;
                    }
                    self.writer.patch(cache, &own, &patch).await
                }
                None => {
                    let map = ConfigMap {
                        metadata: ObjectMeta {
                            name: Some(ROOT_CA.to_owned()),
                            namespace: Some(key.name.clone()),
                            annotations: Some(BTreeMap::from([(DESCRIPTION.0.to_owned(), DESCRIPTION.1.to_owned())])),
                            ..ObjectMeta::default()
                        },
                        data: Some(data),
                        ..ConfigMap::default()
                    };
                    self.writer.create(cache, &map).await
                }
            };
            match outcome {
                Err(error) if !error.is_namespace_terminating() && !error.is_not_found() => Err(error.into()),
                _ => Ok(None),
            }
        }
        .boxed()
    }
}
