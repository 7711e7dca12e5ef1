//! A real API server and store in this process, the controllers, and a node that only says what a node would say.

// Each test file uses its own part of this.
#![allow(dead_code)]

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use apiserver::{Dependencies, Handle, LogOptions, LogsError, PodLogs};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use store::{SqliteStore, StoreTask};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use workloads::{Settings, Workloads};

/// Longer than anything here takes; a test that waits so long has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// The images that the pretended node knows, by what becomes of their containers.
pub(crate) const SERVES: &str = "serves";
pub(crate) const STARTS: &str = "starts-but-is-never-ready";
pub(crate) const SUCCEEDS: &str = "succeeds";
pub(crate) const FAILS: &str = "fails";

struct NoLogs;

impl PodLogs for NoLogs {
    fn logs(
        &self,
        _: &str,
        _: &str,
        _: LogOptions,
    ) -> BoxFuture<'static, Result<BoxStream<'static, std::io::Result<Bytes>>, LogsError>> {
        Box::pin(async { Err(LogsError::NotFound) })
    }
}

pub(crate) struct Cluster {
    pub(crate) handle: Handle,
    pub(crate) client: Client,
    shutdown: CancellationToken,
    controllers: Option<(CancellationToken, JoinHandle<Result<(), workloads::Error>>)>,
    tasks: JoinSet<()>,
    store: Option<StoreTask>,
    _folder: tempfile::TempDir,
}

impl Cluster {
    /// With controllers and a node.
    pub(crate) async fn start() -> Cluster {
        let mut cluster = Cluster::bare().await;
        cluster.start_controllers();
        cluster.start_node().await;
        cluster
    }

    /// The API alone.
    pub(crate) async fn bare() -> Cluster {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, task) = SqliteStore::open(store::Settings::new(folder.path().join("state.db"))).expect("a store");
        let settings = apiserver::Settings::new(folder.path());
        let dependencies = Dependencies { logs: Arc::new(NoLogs), sessions: None, pages: None };
        let (server, handle) = apiserver::build(settings, Arc::new(store), dependencies).expect("a server");
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let token = shutdown.clone();
        tasks.spawn(async move { server.run(token).await.expect("the server runs") });
        let client = Client::new(handle.service_as("system:admin"), "default");
        let cluster =
            Cluster { handle, client, shutdown, controllers: None, tasks, store: Some(task), _folder: folder };
        cluster
            .until::<Namespace>(Api::all(cluster.client.clone()), "namespaces", |all| {
                all.iter().any(|namespace| namespace.metadata.name.as_deref() == Some("default"))
            })
            .await;
        cluster
    }

    fn workloads(&self, lag: Duration) -> Workloads {
        let settings = Settings { ca_pem: self.handle.ca_pem().to_owned(), ..Settings::default() };
        let handle = self.handle.clone();
        workloads::build(settings, move |name| {
            let service = handle.service_as(&format!("system:serviceaccount:kube-system:{name}"));
            if name == "workloads-cache" { lagging(service, lag) } else { Client::new(service, "default") }
        })
    }

    pub(crate) fn start_controllers(&mut self) {
        self.start_lagging_controllers(Duration::ZERO);
    }

    /// Controllers whose caches learn of everything late.
    pub(crate) fn start_lagging_controllers(&mut self, lag: Duration) {
        let token = CancellationToken::new();
        let running = tokio::spawn(self.workloads(lag).run(token.clone()));
        self.controllers = Some((token, running));
    }

    pub(crate) async fn stop_controllers(&mut self) {
        if let Some((token, running)) = self.controllers.take() {
            token.cancel();
            let ended = tokio::time::timeout(LIMIT, running).await.expect("controllers end in time");
            ended.expect("no panic").expect("no error");
        }
    }

    /// A ready node, and whoever pretends to run its Pods.
    pub(crate) async fn start_node(&mut self) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node =
            Node { metadata: ObjectMeta { name: Some("coracle".into()), ..ObjectMeta::default() }, ..Node::default() };
        nodes.create(&PostParams::default(), &node).await.expect("a node");
        let status =
            json!({ "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }] } });
        nodes.patch_status("coracle", &PatchParams::default(), &Patch::Merge(&status)).await.expect("a ready node");
        let client = self.client.clone();
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = pretend_to_run_pods(client) => {}
                () = shutdown.cancelled() => {}
            }
        });
    }

    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(crate) async fn create<K>(&self, namespace: &str, object: Value) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
    {
        let object: K = serde_json::from_value(object).expect("an object");
        self.api::<K>(namespace).create(&PostParams::default(), &object).await.expect("created")
    }

    pub(crate) async fn merge<K>(&self, namespace: &str, name: &str, patch: Value) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let params = PatchParams::default();
        self.api::<K>(namespace).patch(name, &params, &Patch::Merge(&patch)).await.expect("patched")
    }

    /// Waits until all objects of a kind are as wanted; returns them.
    pub(crate) async fn until<K>(&self, api: Api<K>, what: &str, wanted: impl Fn(&[Arc<K>]) -> bool) -> Vec<Arc<K>>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static,
    {
        let (reader, writer) = reflector::store::<K>();
        let mut stream = reflector(writer, watcher(api, watcher::Config::default())).default_backoff().boxed();
        let found = tokio::time::timeout(LIMIT, async {
            let mut listed = false;
            while let Some(event) = stream.next().await {
                listed |= matches!(event, Ok(watcher::Event::InitDone));
                let all = reader.state();
                if listed && wanted(&all) {
                    return all;
                }
            }
            panic!("the watch of {what} ended");
        })
        .await;
        match found {
            Ok(all) => all,
            Err(_) => {
                let all: Vec<String> = reader.state().iter().map(|one| shown(&**one)).collect();
                panic!("{what}: not within {LIMIT:?}; there is:\n{}", all.join("\n"))
            }
        }
    }

    pub(crate) async fn stop(mut self) {
        self.stop_controllers().await;
        self.shutdown.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no panic");
        }
        self.store.take().expect("a store").close().await.expect("closed");
    }
}

/// A client that gets each piece of an answer late.
fn lagging(service: apiserver::InProcess, lag: Duration) -> Client {
    let late = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let service = service.clone();
        async move {
            let answer = service.oneshot(request).await?;
            Ok::<_, std::convert::Infallible>(answer.map(|body| {
                StreamBody::new(body.into_data_stream().then(move |piece| async move {
                    if !lag.is_zero() {
                        tokio::time::sleep(lag).await;
                    }
                    piece.map(Frame::data)
                }))
            }))
        }
    });
    Client::new(late, "default")
}

async fn pretend_to_run_pods(client: Client) {
    let pods: Api<Pod> = Api::all(client.clone());
    let mut port = 41000;
    let mut stream = watcher(pods, watcher::Config::default()).default_backoff().applied_objects().boxed();
    while let Some(event) = stream.next().await {
        let Ok(pod) = event else { continue };
        let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some("coracle");
        if bound {
            port += 1;
            tend(&client, &pod, port).await;
        }
    }
}

/// Brings one Pod to where its image says. Errors mean that the Pod changed meanwhile, which brings it here again.
async fn tend(client: &Client, pod: &Pod, port: u16) {
    let api: Api<Pod> = Api::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap_or(""));
    let name = pod.metadata.name.as_deref().unwrap_or("");
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    let ended = phase == "Succeeded" || phase == "Failed";
    if pod.metadata.deletion_timestamp.is_some() {
        if !ended {
            let _ = api.patch_status(name, &PatchParams::default(), &Patch::Merge(&outcome("Failed"))).await;
        }
        let _ = api.delete(name, &DeleteParams::default().grace_period(0)).await;
        return;
    }
    if ended || phase == "Running" {
        return;
    }
    let noted = json!({ "metadata": { "annotations": { "coracle.dev/ports": format!("{{\"8080\":{port}}}") } } });
    let _ = api.patch(name, &PatchParams::default(), &Patch::Merge(&noted)).await;
    let image = pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone()).unwrap_or_default();
    let status = match image.as_str() {
        SUCCEEDS => outcome("Succeeded"),
        FAILS => outcome("Failed"),
        STARTS => running(false),
        _ => running(true),
    };
    let _ = api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await;
}

fn running(ready: bool) -> Value {
    json!({ "status": {
        "phase": "Running", "podIP": "127.0.0.1", "podIPs": [{ "ip": "127.0.0.1" }], "hostIP": "127.0.0.1",
        "conditions": [{
            "type": "Ready", "status": if ready { "True" } else { "False" },
            "lastTransitionTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }],
    }})
}

fn outcome(phase: &str) -> Value {
    json!({ "status": { "phase": phase, "conditions": [{ "type": "Ready", "status": "False" }] } })
}

/// An object in one line, without who wrote what.
fn shown<K: Serialize>(object: &K) -> String {
    let mut value = serde_json::to_value(object).unwrap_or(Value::Null);
    value["metadata"]["managedFields"] = Value::Null;
    value.to_string()
}

pub(crate) fn name<K: Resource>(object: &K) -> String {
    object.meta().name.clone().unwrap_or_default()
}

/// A Deployment's manifest.
pub(crate) fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": template(name, image),
        },
    })
}

pub(crate) fn template(app: &str, image: &str) -> Value {
    json!({
        "metadata": { "labels": { "app": app } },
        "spec": { "containers": [{ "name": "main", "image": image, "ports": [{ "name": "web", "containerPort": 8080 }] }] },
    })
}
