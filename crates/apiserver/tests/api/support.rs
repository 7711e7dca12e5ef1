//! A real server with a real store in a temporary folder, and short ways to talk to it.

use std::sync::Arc;
use std::time::Duration;

use apiserver::{Body, Dependencies, Handle, InProcess, LogOptions, LogsError, PodLogs, RunError, Settings};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use store::{SqliteStore, Store, StoreTask};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::streams::Processes;

/// Longer than anything here takes; a test that waits so long has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// Logs that say what was asked for; those that are followed with timestamps say it without end.
pub(crate) struct EchoLogs;

impl PodLogs for EchoLogs {
    fn logs(
        &self,
        namespace: &str,
        pod: &str,
        options: LogOptions,
    ) -> BoxFuture<'static, Result<BoxStream<'static, std::io::Result<Bytes>>, LogsError>> {
        let line = format!("{namespace}/{pod} {} {:?}\n", options.container.unwrap_or_default(), options.tail_lines);
        Box::pin(async move {
            let first = stream::once(async move { Ok(Bytes::from(line)) });
            Ok(match (options.follow, options.previous) {
                (_, true) => return Err(LogsError::NotStarted { reason: "there is no previous run".into() }),
                (true, _) if options.timestamps => stream::repeat_with(|| Ok(Bytes::from("again\n"))).boxed(),
                (true, _) => first.chain(stream::pending()).boxed(),
                (false, _) => first.boxed(),
            })
        })
    }
}

/// A server under test.
pub(crate) struct Harness {
    pub(crate) handle: Handle,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) shutdown: CancellationToken,
    running: Option<JoinHandle<Result<(), RunError>>>,
    task: Option<StoreTask>,
    pub(crate) folder: tempfile::TempDir,
}

impl Harness {
    pub(crate) async fn start() -> Self {
        Self::with(tempfile::tempdir().expect("a folder"), |_| {}, |_| {}).await
    }

    pub(crate) async fn with(
        folder: tempfile::TempDir,
        tune: impl FnOnce(&mut Settings),
        tune_store: impl FnOnce(&mut store::Settings),
    ) -> Self {
        let mut store_settings = store::Settings::new(folder.path().join("state.db"));
        tune_store(&mut store_settings);
        let (store, task) = SqliteStore::open(store_settings).expect("a store");
        Self::serving(folder, tune, (Arc::new(store), task)).await
    }

    /// A server over what `wrap` makes of a store.
    pub(crate) async fn over(folder: tempfile::TempDir, wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) -> Self {
        let settings = store::Settings::new(folder.path().join("state.db"));
        let (store, task) = SqliteStore::open(settings).expect("a store");
        Self::serving(folder, |_| {}, (wrap(Arc::new(store)), task)).await
    }

    async fn serving(
        folder: tempfile::TempDir,
        tune: impl FnOnce(&mut Settings),
        (store, task): (Arc<dyn Store>, StoreTask),
    ) -> Self {
        let mut settings = Settings::new(folder.path());
        // Nothing is cut because the machine is busy.
        settings.limits.drain = Duration::from_secs(120);
        settings.limits.head_time = LIMIT;
        tune(&mut settings);
        let (server, handle) = apiserver::build(
            settings,
            store.clone(),
            Dependencies { logs: Arc::new(EchoLogs), sessions: Some(Arc::new(Processes)), pages: None },
        )
        .expect("a server");
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(server.run(shutdown.clone()));
        let harness = Self { handle, store, shutdown, running: Some(running), task: Some(task), folder };
        tokio::time::timeout(LIMIT, async {
            while harness.text(Method::GET, "/readyz").await.0 != 200 {
                pause().await;
            }
        })
        .await
        .expect("the server gets ready");
        harness
    }

    /// Stops the server and the store; the folder stays.
    pub(crate) async fn stop(mut self) -> tempfile::TempDir {
        self.shutdown.cancel();
        let running = self.running.take().expect("it runs");
        tokio::time::timeout(LIMIT, running).await.expect("in time").expect("no panic").expect("no error");
        self.task.take().expect("a store").close().await.expect("closed");
        self.folder
    }

    pub(crate) fn service(&self) -> InProcess {
        self.handle.service_as("system:admin")
    }

    pub(crate) fn client(&self) -> kube::Client {
        kube::Client::new(self.service(), "default")
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Response<Body> {
        match tokio::time::timeout(LIMIT, self.service().oneshot(request)).await.expect("an answer in time") {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    pub(crate) async fn text(&self, method: Method, path: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).body(Full::default()).expect("a request");
        let response = self.send(request).await;
        let code = response.status().as_u16();
        let body = tokio::time::timeout(LIMIT, response.into_body().collect()).await.expect("in time").expect("a body");
        (code, String::from_utf8(body.to_bytes().to_vec()).expect("text"))
    }

    /// A request with a body of the given type; the answer as JSON.
    pub(crate) async fn typed(&self, method: Method, path: &str, media: &str, body: impl Into<Bytes>) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", media)
            .header("user-agent", "tester/1.0")
            .body(Full::new(body.into()))
            .expect("a request");
        let response = self.send(request).await;
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        let value = serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body:?}"));
        (code, value)
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let bytes = if body.is_null() { String::new() } else { body.to_string() };
        self.typed(method, path, "application/json", bytes).await
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.call(Method::GET, path, &Value::Null).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.call(Method::POST, path, &body).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> (u16, Value) {
        self.call(Method::PUT, path, &body).await
    }

    pub(crate) async fn delete(&self, path: &str, options: Value) -> (u16, Value) {
        self.call(Method::DELETE, path, &options).await
    }

    pub(crate) async fn merge(&self, path: &str, patch: Value) -> (u16, Value) {
        self.typed(Method::PATCH, path, "application/merge-patch+json", patch.to_string()).await
    }

    pub(crate) async fn apply(&self, path: &str, manager: &str, object: Value) -> (u16, Value) {
        let path = format!("{path}?fieldManager={manager}");
        self.typed(Method::PATCH, &path, "application/apply-patch+yaml", object.to_string()).await
    }

    /// Makes something and expects that to work.
    pub(crate) async fn make(&self, path: &str, body: Value) -> Value {
        let (code, value) = self.post(path, body).await;
        assert_eq!(code, 201, "{value}");
        value
    }

    /// An open watch.
    pub(crate) async fn watch(&self, path: &str) -> Lines {
        self.watch_as("system:admin", path).await
    }

    /// An open watch of somebody's.
    pub(crate) async fn watch_as(&self, user: &str, path: &str) -> Lines {
        Lines { body: self.body_as(user, path).await, buffer: Vec::new() }
    }

    /// What somebody gets, as it comes.
    pub(crate) async fn body_as(&self, user: &str, path: &str) -> BoxStream<'static, Bytes> {
        let request = Request::builder().uri(path).body(Full::<Bytes>::default()).expect("a request");
        let answer = self.handle.service_as(user).oneshot(request);
        let response = match tokio::time::timeout(LIMIT, answer).await.expect("an answer in time") {
            Ok(response) => response,
            Err(never) => match never {},
        };
        assert_eq!(response.status(), 200, "{path}");
        data(response.into_body())
    }
}

/// Between two looks at what nothing tells of.
pub(crate) async fn pause() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// A port of this machine on which nobody listens, and which nobody else takes as long as the socket is held.
pub(crate) fn nobodys() -> (tokio::net::TcpSocket, u16) {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind((std::net::Ipv4Addr::LOCALHOST, 0).into()).expect("bound");
    let port = socket.local_addr().expect("an address").port();
    (socket, port)
}

/// What a body brings.
fn data<B>(body: B) -> BoxStream<'static, Bytes>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Debug,
{
    body.into_data_stream().map(|data| data.expect("no broken body")).boxed()
}

/// The lines of a watch.
pub(crate) struct Lines {
    body: BoxStream<'static, Bytes>,
    buffer: Vec<u8>,
}

impl Lines {
    pub(crate) fn new<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: std::fmt::Debug,
    {
        Self { body: data(body), buffer: Vec::new() }
    }

    /// The next event, or `None` at the clean end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("an event"));
            }
            let data = tokio::time::timeout(LIMIT, self.body.next()).await.expect("an event in time")?;
            self.buffer.extend_from_slice(&data);
        }
    }

    /// Type and name of the next event.
    pub(crate) async fn seen(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}

pub(crate) fn config_map(name: &str, labels: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "labels": labels }, "data": { "key": "value" } })
}

pub(crate) fn pod(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": name } },
        "spec": { "containers": [{ "name": "main", "image": "some/image" }] } })
}

pub(crate) fn deployment(name: &str) -> Value {
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": { "replicas": 2, "selector": { "matchLabels": { "app": name } }, "template": {
            "metadata": { "labels": { "app": name } },
            "spec": { "containers": [{ "name": "main", "image": "some/image" }] } } } })
}

pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(crate) const SERVICES: &str = "/api/v1/namespaces/default/services";
pub(crate) const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
