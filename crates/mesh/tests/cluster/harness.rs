//! A cluster in the test's process: store, API server, proxy, mesh; and what a test does with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::runtime::wait::await_condition;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long a test waits for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

struct NoLogs;

impl apiserver::PodLogs for NoLogs {
    fn logs(
        &self,
        _: &str,
        _: &str,
        _: apiserver::LogOptions,
    ) -> BoxFuture<'static, Result<BoxStream<'static, std::io::Result<bytes::Bytes>>, apiserver::LogsError>> {
        Box::pin(async { Err(apiserver::LogsError::NotFound) })
    }
}

/// A running cluster. Dropping it ends everything in it.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) mesh: mesh::Handle,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
    _data: tempfile::TempDir,
}

impl Cluster {
    /// Starts everything, installs Gateway API, and waits until the mesh has seen the whole cluster.
    pub(crate) async fn start() -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let (store, task) =
            store::SqliteStore::open(store::Settings::new(data.path().join("state.db"))).expect("the store opens");
        let mut settings = apiserver::Settings::new(data.path());
        settings.service_cidr = (network(), 24);
        let dependencies = apiserver::Dependencies { logs: Arc::new(NoLogs), sessions: None, pages: None };
        let (server, api) = apiserver::build(settings, Arc::new(store), dependencies).expect("the server is built");
        let client = Client::new(api.service_as("system:admin"), "default");
        let (proxy, proxy_handle) = proxy::build(proxy::Settings::default(), proxy::Dependencies::default());
        let settings = mesh::Settings { first_gateway_port: Some(0), ..mesh::Settings::default() };
        let mesh_client = Client::new(api.service_as("system:coracle:mesh"), "default");
        let (mesh, handle) = mesh::build(settings, mesh_client.clone(), proxy_handle);

        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let stop = shutdown.clone();
        tasks.spawn(async move { server.run(stop).await.expect("the server ends well") });
        let stop = shutdown.clone();
        tasks.spawn(async move { proxy.run(stop).await.expect("the proxy ends well") });
        // Nobody may do anything before the first roles are there.
        tokio::time::timeout(LIMIT, api.ready()).await.expect("the API is ready in time");
        mesh::install(mesh_client).await.expect("Gateway API is installed");
        let stop = shutdown.clone();
        tasks.spawn(async move {
            mesh.run(stop).await.expect("the mesh ends well");
            drop(task);
        });
        let mut published = handle.subscribe();
        let ready = published.wait_for(|published| published.ready);
        tokio::time::timeout(LIMIT, ready).await.expect("the mesh is ready in time").expect("the mesh runs");
        drop(published);
        Self { client, mesh: handle, shutdown, tasks, _data: data }
    }

    /// Applies the documents of a YAML stream, server-side; namespace `default` where none is given.
    /// Gives the resourceVersion of the last.
    pub(crate) async fn apply(&self, yaml: &str) -> u64 {
        let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).expect("the manifest is YAML");
        let mut version = 0;
        for document in documents {
            let (api, name) = self.of(&document);
            let params = PatchParams::apply("test").force();
            let applied = api.patch(&name, &params, &Patch::Apply(&document)).await.expect("the object is applied");
            version = applied.resource_version().expect("it has a version").parse().expect("versions are numbers");
        }
        version
    }

    pub(crate) async fn delete(&self, api_version: &str, kind: &str, name: &str) {
        let document = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
        let (api, name) = self.of(&document);
        api.delete(&name, &kube::api::DeleteParams::default()).await.expect("the object is deleted");
    }

    /// Waits until an object is as `wanted` says, and returns it.
    pub(crate) async fn wait(
        &self,
        api_version: &str,
        kind: &str,
        name: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> DynamicObject {
        let document = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
        let (api, name) = self.of(&document);
        let condition = |object: Option<&DynamicObject>| object.is_some_and(|object| wanted(&object.data));
        match tokio::time::timeout(LIMIT, await_condition(api.clone(), &name, condition)).await {
            Ok(object) => object.expect("the watch goes on").expect("it is there"),
            Err(_) => {
                let last = api.get_opt(&name).await.ok().flatten().map(|object| object.data);
                panic!("{kind} {name} did not come to be as wanted; it is {last:?}")
            }
        }
    }

    /// Waits until a listener of a Gateway answers, and returns its address.
    pub(crate) async fn gateway(&self, gateway: &str, listener: &str) -> SocketAddr {
        let mut published = self.mesh.subscribe();
        let find = |published: &mesh::Published| {
            let found = published.gateways.iter().find(|found| found.gateway == gateway && found.listener == listener);
            found.and_then(|found| found.address.clone().ok())
        };
        let found = tokio::time::timeout(LIMIT, published.wait_for(|now| find(now).is_some())).await;
        find(&found.expect("the listener answers in time").expect("the mesh runs")).expect("it has an address")
    }

    /// Waits until a Service's port is served, and returns where.
    pub(crate) async fn service(&self, name: &str, port: u16) -> SocketAddr {
        let document = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}});
        let (api, name) = self.of(&document);
        let service = api.get(&name).await.expect("the Service is there");
        let address = service.data["spec"]["clusterIP"].as_str().and_then(|address| address.parse().ok());
        let address = address.expect("the Service has an address");
        let mut published = self.mesh.subscribe();
        let bound = published.wait_for(|now| now.services.contains_key(&(address, port)));
        drop(tokio::time::timeout(LIMIT, bound).await.expect("the port is served in time").expect("the mesh runs"));
        SocketAddr::new(address, self.mesh.service_port(address, port).expect("it is served"))
    }

    /// A server that answers every request with `name`, and its endpoint for the Service `service`.
    pub(crate) async fn endpoint(&mut self, service: &str, name: &'static str) {
        let port = self.serve(name).await;
        self.apply(&slice(service, name, port, true)).await;
    }

    /// A server that answers every request with `name`; returns its port.
    pub(crate) async fn serve(&mut self, name: &'static str) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let stop = self.shutdown.clone();
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    Ok((stream, _)) = listener.accept() => drop(connections.spawn(answer(stream, name))),
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        port
    }

    /// Ends everything, in order.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        while let Some(joined) = tokio::time::timeout(LIMIT, self.tasks.join_next()).await.expect("all ends in time") {
            joined.expect("no task failed");
        }
    }

    fn of(&self, document: &Value) -> (Api<DynamicObject>, String) {
        let object: DynamicObject = serde_json::from_value(document.clone()).expect("an object");
        let types = object.types.clone().expect("it has a kind");
        let gvk = GroupVersionKind::try_from(&types).expect("it has a group and version");
        let resource = ApiResource::from_gvk(&gvk);
        let cluster_scoped = ["Namespace", "GatewayClass", "CustomResourceDefinition"].contains(&gvk.kind.as_str());
        let api = if cluster_scoped {
            Api::all_with(self.client.clone(), &resource)
        } else {
            let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
            Api::namespaced_with(self.client.clone(), &namespace, &resource)
        };
        (api, object.name_any())
    }
}

/// A port that nobody comes by who asks for any: what a manifest says cannot be left to the system.
pub(crate) fn port() -> u16 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        let seed = std::process::id().wrapping_mul(37).wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
        let [_, high, low, _] = (seed.wrapping_mul(0x9E37_79B1) >> 4).to_be_bytes();
        // Below those that the system gives out.
        let port = 12_000 + u16::from_be_bytes([high, low]) % 20_000;
        if std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// A loopback network that no other test on this machine is likely to have.
fn network() -> Ipv4Addr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let seed = std::process::id().wrapping_mul(31).wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
    let [_, high, low, _] = (seed.wrapping_mul(0x9E37_79B1) >> 4).to_be_bytes();
    Ipv4Addr::new(127, 128 | high & 0x7f, low, 0)
}

pub(crate) fn slice(service: &str, name: &str, port: u16, ready: bool) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {service}-{name}, labels: \
         {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\nports: [{{name: http, port: {port}}}]\n\
         endpoints: [{{addresses: [127.0.0.1], conditions: {{ready: {ready}}}}}]\n"
    )
}

pub(crate) fn service(name: &str, port: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{name: http, port: {port}}}]}}\n"
    )
}

async fn answer(mut stream: TcpStream, name: &'static str) {
    let mut read = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        while !read.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut chunk).await {
                Ok(count @ 1..) => read.extend_from_slice(&chunk[..count]),
                _ => return,
            }
        }
        let head = String::from_utf8_lossy(&read).into_owned();
        let path = head.split(' ').nth(1).unwrap_or_default();
        let body = format!("{name} {path}");
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        read.clear();
    }
}

/// One request; returns status and body.
pub(crate) async fn get(address: SocketAddr, host: &str, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.expect("the address answers");
        stream.write_all(request.as_bytes()).await.expect("the request is sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("the answer is read");
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = tokio::time::timeout(LIMIT, exchange).await.expect("an answer in time");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned())
}

/// Asks until the answer is `wanted`: what was changed is compiled and applied in its own time.
pub(crate) async fn until(address: SocketAddr, host: &str, path: &str, wanted: (u16, &str)) {
    let asking = async {
        loop {
            let (status, body) = get(address, host, path).await;
            if (status, body.as_str()) == wanted || (wanted.1.is_empty() && status == wanted.0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(LIMIT, asking).await.is_err() {
        panic!("{host}{path} answers {:?}, not {wanted:?}", get(address, host, path).await);
    }
}
