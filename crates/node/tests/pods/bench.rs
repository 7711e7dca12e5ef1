//! An API server and a node in a temporary folder, and short ways to talk to them.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::wait::await_condition;
use node::recipe::Recipes;
use serde_json::{Value, json};
use store::{SqliteStore, Store, StoreTask};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes; a test that waits so long has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);
/// How long a Pod has to end where a test does not say: what is asked to end does so, however busy the machine is.
const GRACE: u64 = 120;

/// Logs are read from the node's handle in these tests, not through the API.
struct NoLogs;

impl apiserver::PodLogs for NoLogs {
    fn logs(
        &self,
        _: &str,
        _: &str,
        _: apiserver::LogOptions,
    ) -> BoxFuture<'static, Result<BoxStream<'static, std::io::Result<bytes::Bytes>>, apiserver::LogsError>> {
        futures::future::ready(Err(apiserver::LogsError::NotFound)).boxed()
    }
}

/// A data plane that only notes what it is asked, and whether it is not in the pod network yet.
#[derive(Default)]
pub(crate) struct Notes(pub(crate) Mutex<Vec<SocketAddr>>, pub(crate) tokio::sync::watch::Sender<bool>);

impl node::Traffic for Notes {
    fn drained(&self, address: SocketAddr, _: Duration) -> BoxFuture<'static, ()> {
        self.0.lock().expect("not poisoned").push(address);
        futures::future::ready(()).boxed()
    }

    fn service_port(&self, _: IpAddr, _: u16) -> Option<u16> {
        None
    }

    fn nameserver(&self) -> Option<IpAddr> {
        None
    }

    fn pod_nameserver(&self) -> Option<IpAddr> {
        None
    }

    fn serves_pod_network(&self) -> BoxFuture<'static, ()> {
        let mut deaf = self.1.subscribe();
        async move {
            let _ = deaf.wait_for(|deaf| !deaf).await;
        }
        .boxed()
    }
}

/// The node, while it runs.
struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), node::Error>>,
}

pub(crate) struct Bench {
    /// As the administrator, who makes what the node runs.
    pub(crate) client: kube::Client,
    node_client: kube::Client,
    pub(crate) node: node::Handle,
    pub(crate) traffic: Arc<Notes>,
    pub(crate) folder: tempfile::TempDir,
    running: Option<Running>,
    recipes: Recipes,
    pods_block: node::Block,
    shim: PathBuf,
    server: Running0,
}

struct Running0 {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), apiserver::RunError>>,
    store: StoreTask,
}

impl Bench {
    pub(crate) async fn start() -> Bench {
        Bench::with("").await
    }

    /// With these recipes.
    pub(crate) async fn with(recipes: &str) -> Bench {
        Bench::on(recipes, node::Block::PODS).await
    }

    /// With these recipes, and these addresses for isolated Pods.
    pub(crate) async fn on(recipes: &str, pods_block: node::Block) -> Bench {
        Bench::under(recipes, pods_block, PathBuf::from(env!("CARGO_BIN_EXE_container-shim"))).await
    }

    /// With this program for a shim, too.
    pub(crate) async fn under(recipes: &str, pods_block: node::Block, shim: PathBuf) -> Bench {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, store_task) =
            SqliteStore::open(store::Settings::new(folder.path().join("state.db"))).expect("a store");
        let store: Arc<dyn Store> = Arc::new(store);
        let settings = apiserver::Settings::new(folder.path());
        let dependencies = apiserver::Dependencies { logs: Arc::new(NoLogs), sessions: None, pages: None };
        let (server, handle) = apiserver::build(settings, store, dependencies).expect("a server");
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(server.run(shutdown.clone()));
        let client = |user: &str| kube::Client::new(handle.service_as(user), "default");
        let (client, node_client) = (client("system:admin"), client("system:node:coracle"));
        let recipes = Recipes::parse(recipes, &folder.path().join("coracle.yaml")).expect("valid");
        let traffic = Arc::new(Notes::default());
        let (running, node) = run_node(&node_client, &folder, &recipes, &traffic, (pods_block, &shim));
        let server = Running0 { shutdown, task, store: store_task };
        let bench = Bench {
            client,
            node_client,
            node,
            traffic,
            folder,
            running: Some(running),
            recipes,
            pods_block,
            shim,
            server,
        };
        let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(bench.client.clone());
        let ready = await_condition(nodes, "coracle", |n: Option<&k8s_openapi::api::core::v1::Node>| {
            let conditions = n.and_then(|n| n.status.as_ref()?.conditions.as_ref());
            conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
        });
        tokio::time::timeout(LIMIT, ready).await.expect("the node is ready in time").expect("watched");
        bench
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    pub(crate) fn maps(&self) -> Api<ConfigMap> {
        Api::default_namespaced(self.client.clone())
    }

    /// Makes a Pod that is bound to the node already.
    pub(crate) async fn pod(&self, name: &str, spec: Value) -> Pod {
        let mut spec = spec;
        spec["nodeName"] = json!("coracle");
        if spec["terminationGracePeriodSeconds"].is_null() {
            spec["terminationGracePeriodSeconds"] = json!(GRACE);
        }
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        let pod = serde_json::from_value(pod).expect("a pod");
        self.pods().create(&PostParams::default(), &pod).await.expect("made")
    }

    pub(crate) async fn config_map(&self, name: &str, data: Value) {
        let map = serde_json::from_value(json!({"metadata": {"name": name}, "data": data})).expect("a map");
        self.maps().create(&PostParams::default(), &map).await.expect("made");
    }

    /// Waits until a Pod is as wanted, seen as JSON.
    pub(crate) async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool + Send) -> Value {
        let seen = Mutex::new(Value::Null);
        let condition = |pod: Option<&Pod>| {
            let now = pod.map_or(Value::Null, |p| serde_json::to_value(p).expect("JSON"));
            let good = wanted(&now);
            *seen.lock().expect("not poisoned") = now;
            good
        };
        let waited = tokio::time::timeout(LIMIT, await_condition(self.pods(), name, condition)).await;
        let seen = seen.into_inner().expect("not poisoned");
        match waited {
            Ok(result) => drop(result.expect("watched")),
            Err(_) => panic!("{name}: not {what} in time: {:#}", seen["status"]),
        }
        seen
    }

    pub(crate) async fn until_ready(&self, name: &str) -> Value {
        self.until(name, "ready", |pod| is(pod, "Ready", "True")).await
    }

    pub(crate) async fn until_gone(&self, name: &str) {
        self.until(name, "gone", Value::is_null).await;
    }

    pub(crate) async fn until_phase(&self, name: &str, phase: &str) -> Value {
        self.until(name, phase, |pod| pod["status"]["phase"] == phase).await
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.pods().delete(name, &DeleteParams::default()).await.expect("deleted");
    }

    pub(crate) async fn logs(&self, name: &str, query: node::LogQuery) -> Result<String, node::LogError> {
        let parts: Vec<_> = self.node.logs("default", name, query).await?.try_collect().await.expect("readable");
        Ok(String::from_utf8(parts.concat()).expect("text"))
    }

    /// Waits until there is an Event of this reason about a Pod, and gives its message.
    pub(crate) async fn event(&self, pod: &str, reason: &str) -> String {
        self.events(pod, reason, 1).await
    }

    /// Waits until so many Events of this reason about a Pod were counted, and gives the message of the first.
    pub(crate) async fn events(&self, pod: &str, reason: &str, count: i32) -> String {
        let events: Api<Event> = Api::default_namespaced(self.client.clone());
        let began = std::time::Instant::now();
        loop {
            let all = events.list(&ListParams::default()).await.expect("listed").items;
            let is = |e: &&Event| e.involved_object.name.as_deref() == Some(pod) && e.reason.as_deref() == Some(reason);
            let found: Vec<_> = all.iter().filter(is).collect();
            if found.iter().map(|event| event.count.unwrap_or(1)).sum::<i32>() >= count {
                return found[0].message.clone().unwrap_or_default();
            }
            assert!(
                began.elapsed() < LIMIT,
                "not {count} Events {reason} about {pod}, but {:?}",
                all.iter().map(|e| (&e.reason, e.count)).collect::<Vec<_>>()
            );
            pause().await;
        }
    }

    /// Waits for a file that a program writes, and for what it writes into it: both are not one. Gives its text.
    pub(crate) async fn file(&self, name: &str) -> String {
        let (path, text) = (self.path(name), Mutex::new(String::new()));
        let read = || {
            // One that is written anew is empty for a moment.
            let now = std::fs::read_to_string(&path).unwrap_or_default();
            let written = !now.is_empty();
            *text.lock().expect("not poisoned") = now;
            written
        };
        until(&format!("{name} is written"), read).await;
        text.into_inner().expect("not poisoned")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// How many directories of Pods there are.
    pub(crate) fn directories(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("pods")).expect("read").count()
    }

    /// Ends the node as announced.
    pub(crate) async fn stop_node(&mut self) {
        let running = self.running.take().expect("it runs");
        running.shutdown.cancel();
        tokio::time::timeout(LIMIT, running.task).await.expect("in time").expect("no panic").expect("no error");
    }

    /// Ends the node in the middle of what it does, as a crash would.
    pub(crate) async fn crash_node(&mut self) {
        let running = self.running.take().expect("it runs");
        running.task.abort();
        let _ = running.task.await;
    }

    pub(crate) fn start_node(&mut self) {
        let own = (self.pods_block, &*self.shim);
        let (running, node) = run_node(&self.node_client, &self.folder, &self.recipes, &self.traffic, own);
        (self.running, self.node) = (Some(running), node);
    }

    pub(crate) async fn end(mut self) {
        if self.running.is_some() {
            self.stop_node().await;
        }
        self.server.shutdown.cancel();
        tokio::time::timeout(LIMIT, self.server.task).await.expect("in time").expect("no panic").expect("no error");
        self.server.store.close().await.expect("closed");
    }
}

fn run_node(
    client: &kube::Client,
    folder: &tempfile::TempDir,
    recipes: &Recipes,
    traffic: &Arc<Notes>,
    (pods_block, shim): (node::Block, &Path),
) -> (Running, node::Handle) {
    let mut settings = node::Settings::new(folder.path().to_owned(), recipes.clone());
    settings.pods = pods_block;
    settings.shutdown_limit = Duration::from_secs(GRACE);
    settings.after_hook = Duration::from_secs(20);
    shim.clone_into(&mut settings.shim);
    let dependencies =
        node::Dependencies { client: client.clone(), traffic: Arc::clone(traffic) as Arc<dyn node::Traffic> };
    let (node, handle) = node::build(settings, dependencies).expect("a node");
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(node.run(shutdown.clone()));
    (Running { shutdown, task }, handle)
}

/// Waits until something is so that nothing tells of.
pub(crate) async fn until(what: &str, is: impl Fn() -> bool) {
    let waiting = async {
        while !is() {
            pause().await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Between two looks at what nothing tells of.
pub(crate) async fn pause() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// Waits until a process is gone.
pub(crate) async fn gone(pid: &str) {
    until(&format!("process {pid} is gone"), || !alive(pid)).await;
}

/// A container of the host's shell. A `$$` in the script reaches the shell as `$`, as in Kubernetes.
pub(crate) fn shell(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "coracle.dev/host", "command": ["sh", "-c", script]})
}

/// Whether a Pod's condition has this status.
pub(crate) fn is(pod: &Value, condition: &str, status: &str) -> bool {
    let all = pod["status"]["conditions"].as_array();
    all.is_some_and(|all| all.iter().any(|c| c["type"] == condition && c["status"] == status))
}

/// A process that lives; a zombie does not.
pub(crate) fn alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|s| !s.is_empty() && !s.trim_start().starts_with('Z'))
}
