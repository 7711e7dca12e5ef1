//! Puts the node together and runs it: the watches, one worker a Pod, the Node object.
//!
//! Invariant: every task that is started here ends here, in order: Pods first, then what they report through.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, reflector, watcher as watch_kind};
use kube::{Api, Resource};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{Dependencies, Settings};
use crate::container::Running;
use crate::context::Context;
use crate::error::{BuildError, Error};
use crate::events;
use crate::handle::Handle;
use crate::logs::Logs;
use crate::network::{self, PodNetwork};
use crate::owners::Owners;
use crate::pod::{Mail, Worker};
use crate::ports::Ports;
use crate::view::PodView;
use crate::{claims, leftovers, machine};

/// How often and how long the node tries to register, while the API may still be coming up.
const REGISTER_TRIES: u32 = 60;
const REGISTER_WAIT: Duration = Duration::from_millis(250);
/// What Pods get on top of the shutdown's limit before their workers are given up.
const SHUTDOWN_SLACK: Duration = Duration::from_secs(10);

/// A node that is ready to run.
pub struct Node {
    context: Arc<Context>,
    pods: Writer<Pod>,
    services: Writer<Service>,
    events: events::Writer,
    claims: claims::Controller,
    network: network::Keeper,
}

/// Puts a node together; nothing runs yet.
pub fn build(settings: Settings, dependencies: Dependencies) -> Result<(Node, Handle), BuildError> {
    let root = settings.data_dir.join("pods");
    let root = std::path::absolute(&root)
        .and_then(|root| std::fs::create_dir_all(&root).map(|()| root))
        // Secrets lie there, as files.
        .and_then(|root| std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o700)).map(|()| root))
        .map_err(|source| BuildError::DataDir { path: root, source })?;
    std::fs::metadata(&settings.shim).map_err(|source| BuildError::Shim { path: settings.shim.clone(), source })?;
    let (store, pods) = reflector::store::<Pod>();
    let (service_store, services) = reflector::store::<Service>();
    let root: Arc<std::path::Path> = Arc::from(root);
    let logs = Arc::new(Logs::new());
    let (recorder, events) = events::recorder(dependencies.client.clone(), settings.name.clone());
    let volumes: Arc<std::path::Path> = Arc::from(root.with_file_name("volumes"));
    let claim_users = Arc::new(Notify::new());
    let claims = claims::Controller::new(
        dependencies.client.clone(),
        recorder.clone(),
        store.clone(),
        Arc::clone(&claim_users),
        Arc::clone(&volumes),
    );
    let owners = Owners::new(store.clone());
    let (pod_network, keeper) = PodNetwork::new(settings.shim.clone(), settings.services, settings.pods);
    let view = PodView { pods: store, root: Arc::clone(&root) };
    let running = Running::default();
    let handle = Handle {
        pods: view,
        logs: Arc::clone(&logs),
        running: running.clone(),
        owners: owners.clone(),
        network: pod_network.clone(),
    };
    let context = Context {
        settings,
        client: dependencies.client,
        traffic: dependencies.traffic,
        logs,
        running,
        ports: Ports::default(),
        network: pod_network,
        owners,
        events: recorder,
        services: service_store,
        root,
        volumes,
        claim_users,
    };
    Ok((Node { context: Arc::new(context), pods, services, events, claims, network: keeper }, handle))
}

impl Node {
    /// Runs until `shutdown`; then ends all Pods' processes within their grace periods and keeps the objects.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Node { context, pods, services, events, claims, network } = self;
        let left = leftovers::kill_processes(&context.root).await;
        if left > 0 {
            tracing::warn!(left, "processes of an earlier life were still there and have been killed");
        }
        let registered = tokio::select! {
            registered = register(&context) => registered?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let ended = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(events.run(ended.clone()));
        tasks.spawn(network.run(ended.clone()));
        tasks.spawn(classes(context.client.clone(), ended.clone()));
        tasks.spawn(heartbeat(Arc::clone(&context), registered, ended.clone()));
        let keeping = CancellationToken::new();
        let mut keeper = JoinSet::new();
        keeper.spawn(claims.run(keeping.clone()));
        let mut pool =
            Pool { context: Arc::clone(&context), pods, mail: HashMap::new(), workers: JoinSet::new(), swept: false };
        let result = pool.run(services, &shutdown).await;
        keeping.cancel();
        while keeper.join_next().await.is_some() {}
        let now = Timestamp::now();
        let told = machine::report(&context.client, &context.settings.name, false, now, now);
        let _ = tokio::time::timeout(Duration::from_secs(2), told).await;
        ended.cancel();
        while tasks.join_next().await.is_some() {}
        result
    }
}

async fn register(context: &Context) -> Result<Timestamp, Error> {
    let name = &context.settings.name;
    let mut tried = 0;
    loop {
        let now = Timestamp::now();
        match machine::register(&context.client, name, now).await {
            Ok(()) => return Ok(now),
            Err(source) if tried == REGISTER_TRIES => {
                return Err(Error::Register { name: name.clone(), source: Box::new(source) });
            }
            Err(error) => tracing::debug!(%error, "the node could not be registered yet"),
        }
        tried += 1;
        tokio::time::sleep(REGISTER_WAIT).await;
    }
}

async fn classes(client: kube::Client, ended: CancellationToken) {
    tokio::select! {
        made = machine::make_classes(&client) => if let Err(error) = made {
            tracing::warn!(%error, "the RuntimeClasses of this node could not be made");
        },
        () = ended.cancelled() => {}
    }
}

async fn heartbeat(context: Arc<Context>, since: Timestamp, ended: CancellationToken) {
    let mut beat = tokio::time::interval(machine::HEARTBEAT);
    let mut first = true;
    loop {
        tokio::select! {
            _ = beat.tick() => {}
            () = ended.cancelled() => return,
        }
        let (client, name, now) = (&context.client, &context.settings.name, Timestamp::now());
        let renewed = machine::renew(client, name, now).await;
        let told = if first { Ok(()) } else { machine::report(client, name, true, since, now).await };
        if let Err(error) = renewed.and(told) {
            tracing::debug!(%error, "the node's heartbeat could not be written");
        }
        first = false;
    }
}

/// What the watches tell.
enum Seen {
    Pod(Box<Event<Pod>>),
    Service(Box<Event<Service>>),
    /// A ConfigMap, Secret or PersistentVolumeClaim of this namespace.
    Config(Option<String>),
}

/// All Pods of the node.
struct Pool {
    context: Arc<Context>,
    pods: Writer<Pod>,
    mail: HashMap<String, (String, Mail)>,
    workers: JoinSet<String>,
    /// Directories of Pods that are gone have been removed.
    swept: bool,
}

impl Pool {
    async fn run(&mut self, mut services: Writer<Service>, shutdown: &CancellationToken) -> Result<(), Error> {
        let mut seen = self.watches();
        let mut listed = BTreeSet::new();
        let stop = CancellationToken::new();
        let mut limit = None;
        loop {
            if stop.is_cancelled() && self.workers.is_empty() {
                return Ok(());
            }
            tokio::select! {
                () = shutdown.cancelled(), if !stop.is_cancelled() => {
                    stop.cancel();
                    limit = Some(tokio::time::Instant::now() + self.context.settings.shutdown_limit + SHUTDOWN_SLACK);
                }
                () = until(limit) => {
                    tracing::warn!(pods = self.workers.len(), "Pods did not end in time and are given up");
                    self.workers.shutdown().await;
                    return Ok(());
                }
                Some(ended) = self.workers.join_next() => self.worker_ended(ended),
                next = seen.next() => match next {
                    Some(Seen::Pod(event)) => {
                        self.pods.apply_watcher_event(&event);
                        if claims::concerns(&event) {
                            self.context.claim_users.notify_one();
                        }
                        self.pod(*event, &mut listed, &stop);
                    }
                    Some(Seen::Service(event)) => {
                        services.apply_watcher_event(&event);
                        if !matches!(*event, Event::Init | Event::InitApply(_)) {
                            self.changed(None);
                        }
                    }
                    Some(Seen::Config(namespace)) => self.changed(namespace.as_deref()),
                    None => return Err(Error::WatchEnded { what: "Pods" }),
                },
            }
        }
    }

    fn watches(&self) -> BoxStream<'static, Seen> {
        let client = &self.context.client;
        let mine = watcher::Config::default().fields(&format!("spec.nodeName={}", self.context.settings.name));
        let pods = events_of(Api::<Pod>::all(client.clone()), mine, "Pods").map(|e| Seen::Pod(Box::new(e)));
        let services = events_of(Api::<Service>::all(client.clone()), watcher::Config::default(), "Services")
            .map(|e| Seen::Service(Box::new(e)));
        let maps = changes(Api::<ConfigMap>::all(client.clone()), "ConfigMaps");
        let secrets = changes(Api::<Secret>::all(client.clone()), "Secrets");
        let claims = changes(Api::<PersistentVolumeClaim>::all(client.clone()), "PersistentVolumeClaims");
        stream::select_all([pods.boxed(), services.boxed(), maps.boxed(), secrets.boxed(), claims.boxed()]).boxed()
    }

    fn pod(&mut self, event: Event<Pod>, listed: &mut BTreeSet<String>, stop: &CancellationToken) {
        let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(pod) => {
                listed.insert(uid(&pod));
                self.deliver(pod, stop);
            }
            Event::InitDone => {
                for (_, (_, mail)) in self.mail.iter().filter(|(uid, _)| !listed.contains(*uid)) {
                    mail.pod.send_replace(None);
                }
                if !std::mem::replace(&mut self.swept, true) {
                    leftovers::remove_directories(&self.context.root, listed);
                }
            }
            Event::Apply(pod) => self.deliver(pod, stop),
            Event::Delete(pod) => {
                if let Some((_, mail)) = self.mail.get(&uid(&pod)) {
                    mail.pod.send_replace(None);
                }
            }
        }
    }

    fn deliver(&mut self, pod: Pod, stop: &CancellationToken) {
        let mine = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(&self.context.settings.name);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let pod = Arc::new(pod);
        if let Some((_, mail)) = self.mail.get(&uid) {
            mail.pod.send_replace(Some(pod));
            return;
        }
        if !mine || stop.is_cancelled() {
            return;
        }
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let (sender, receiver) = watch::channel(Some(Arc::clone(&pod)));
        let changed = Arc::new(Notify::new());
        let (worker, news) = Worker::new(Arc::clone(&self.context), pod);
        let run = worker.run(news, receiver, Arc::clone(&changed), stop.clone());
        self.mail.insert(uid.clone(), (namespace, Mail { pod: sender, changed }));
        self.workers.spawn(async move {
            Box::pin(run).await;
            uid
        });
    }

    fn changed(&self, namespace: Option<&str>) {
        for (own, mail) in self.mail.values() {
            if namespace.is_none_or(|n| n == own) {
                mail.changed.notify_one();
            }
        }
    }

    fn worker_ended(&mut self, ended: Result<String, tokio::task::JoinError>) {
        match ended {
            Ok(uid) => {
                self.mail.remove(&uid);
            }
            Err(error) => tracing::error!(%error, "the worker of a Pod has failed; its processes are gone"),
        }
    }
}

/// A watch whose failures are logged and tried again.
pub(crate) fn events_of<K>(
    api: Api<K>,
    config: watcher::Config,
    what: &'static str,
) -> impl Stream<Item = Event<K>> + Send + 'static
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    watch_kind(api, config).default_backoff().filter_map(move |event| async move {
        event.inspect_err(|error| tracing::warn!(%error, "the watch of {what} was interrupted; it goes on")).ok()
    })
}

/// The namespaces in which something changed.
fn changes<K>(api: Api<K>, what: &'static str) -> impl Stream<Item = Seen> + Send + 'static
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    events_of(api, watcher::Config::default(), what).filter_map(|event| async move {
        match event {
            Event::Apply(object) | Event::Delete(object) => Some(Seen::Config(object.meta().namespace.clone())),
            // What was missed while a watch was interrupted may be anywhere.
            Event::InitDone => Some(Seen::Config(None)),
            Event::Init | Event::InitApply(_) => None,
        }
    })
}

pub(crate) async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
