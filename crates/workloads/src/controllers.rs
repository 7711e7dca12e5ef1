//! The list of controllers, and what they share.
//!
//! Invariants: one cache a kind; a controller registers itself by one function, and nothing else knows it.

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::garbage::graph::Graph;
use crate::machinery::cache::{Cache, Cached};
use crate::machinery::key::Key;
use crate::machinery::queue::Queue;
use crate::machinery::recorder::Recorder;
use crate::machinery::runner::{Controller, Reconcile};
use crate::machinery::writer::Writer;

/// The name of the ConfigMap that carries the API's certificate authority into each namespace.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";

/// Every controller.
const ALL: &[fn(&Context) -> Controller] = &[
    crate::deployment::register,
    crate::replicaset::register,
    crate::job::register,
    crate::scheduler::register,
    crate::endpoints::slices::register,
    crate::endpoints::legacy::register,
    crate::namespace::register,
    crate::service_account::register,
    crate::root_ca::register,
    crate::garbage::register,
    crate::pod_cleanup::register,
    crate::ttl::register,
];

/// The shared caches.
pub(crate) struct Caches {
    pub(crate) config_maps: Arc<Cache<ConfigMap>>,
    pub(crate) deployments: Arc<Cache<Deployment>>,
    pub(crate) endpoints: Arc<Cache<Endpoints>>,
    pub(crate) jobs: Arc<Cache<Job>>,
    pub(crate) namespaces: Arc<Cache<Namespace>>,
    pub(crate) nodes: Arc<Cache<Node>>,
    pub(crate) pods: Arc<Cache<Pod>>,
    pub(crate) replica_sets: Arc<Cache<ReplicaSet>>,
    pub(crate) service_accounts: Arc<Cache<ServiceAccount>>,
    pub(crate) services: Arc<Cache<Service>>,
    pub(crate) slices: Arc<Cache<EndpointSlice>>,
}

impl Caches {
    fn new() -> Caches {
        Caches {
            config_maps: Cache::selected(Some(&format!("metadata.name={ROOT_CA}"))),
            deployments: Cache::new(),
            endpoints: Cache::new(),
            jobs: Cache::new(),
            namespaces: Cache::new(),
            nodes: Cache::new(),
            pods: Cache::new(),
            replica_sets: Cache::new(),
            service_accounts: Cache::new(),
            services: Cache::new(),
            slices: Cache::new(),
        }
    }

    /// Starts the watch of every cache.
    pub(crate) fn spawn(&self, tasks: &mut JoinSet<()>, client: &kube::Client, shutdown: &CancellationToken) {
        fn one<K: Cached>(
            tasks: &mut JoinSet<()>,
            cache: &Arc<Cache<K>>,
            client: &kube::Client,
            shutdown: &CancellationToken,
        ) {
            let (cache, client, shutdown) = (cache.clone(), client.clone(), shutdown.clone());
            tasks.spawn(async move { cache.run(client, shutdown).await });
        }
        one(tasks, &self.config_maps, client, shutdown);
        one(tasks, &self.deployments, client, shutdown);
        one(tasks, &self.endpoints, client, shutdown);
        one(tasks, &self.jobs, client, shutdown);
        one(tasks, &self.namespaces, client, shutdown);
        one(tasks, &self.nodes, client, shutdown);
        one(tasks, &self.pods, client, shutdown);
        one(tasks, &self.replica_sets, client, shutdown);
        one(tasks, &self.service_accounts, client, shutdown);
        one(tasks, &self.services, client, shutdown);
        one(tasks, &self.slices, client, shutdown);
    }
}

/// What a controller is made from.
pub(crate) struct Context<'a> {
    pub(crate) settings: Settings,
    pub(crate) caches: Arc<Caches>,
    pub(crate) graph: Arc<Graph>,
    pub(crate) recorder: Recorder,
    pub(crate) client: &'a dyn Fn(&str) -> kube::Client,
}

impl<'a> Context<'a> {
    pub(crate) fn new(settings: Settings, recorder: Recorder, client: &'a dyn Fn(&str) -> kube::Client) -> Context<'a> {
        Context { settings, caches: Arc::new(Caches::new()), graph: Graph::new(), recorder, client }
    }

    /// Registers every controller.
    pub(crate) fn controllers(&self) -> Vec<Controller> {
        ALL.iter().map(|register| register(self)).collect()
    }

    pub(crate) fn writer(&self, name: &'static str) -> Writer {
        Writer::new((self.client)(name), name)
    }

    /// A controller of `concurrency` workers that starts when `ready` ends.
    pub(crate) fn controller(
        &self,
        name: &'static str,
        queue: Arc<Queue<Key>>,
        ready: BoxFuture<'static, ()>,
        reconcile: impl Reconcile,
    ) -> Controller {
        Controller { name, queue, workers: self.settings.concurrency, ready, reconcile: Arc::new(reconcile) }
    }
}

/// Puts the keys of a kind's own objects on a queue whenever they change.
pub(crate) fn enqueue_self<K: Cached>(cache: &Cache<K>, queue: &Arc<Queue<Key>>) {
    let queue = queue.clone();
    cache.on_change(move |change| {
        if let Some(object) = change.latest() {
            queue.add(Key::of(object.meta()));
        }
    });
}

/// Puts the keys of the controlling owners of that kind on a queue whenever an object changes.
pub(crate) fn enqueue_owner<K: Cached>(cache: &Cache<K>, owner_kind: &'static str, queue: &Arc<Queue<Key>>) {
    let queue = queue.clone();
    cache.on_change(move |change| {
        for object in [change.before, change.after].into_iter().flatten() {
            let meta = object.meta();
            if let Some(owner) = crate::owners::controller(meta)
                && owner.kind == owner_kind
            {
                queue.add(Key::new(meta.namespace.clone().unwrap_or_default(), owner.name.clone()));
            }
        }
    });
}
