//! Prints how long the API server takes for what clients do most, over TLS on loopback: `cargo run --release -p apiserver
//! --example bench -- [PODS]`. Data go into a temporary folder, with every write synced to the disk it is on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::{Dependencies, Handle, LogOptions, LogsError, PodLogs, Settings};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use store::SqliteStore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const PODS: &str = "/api/v1/namespaces/default/pods";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const WATCHERS: usize = 50;
const CHANGES: usize = 200;

/// There is no node here, so there are no logs.
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

/// One connection with the administrator's token.
#[derive(Clone)]
struct Client {
    sender: SendRequest<Full<Bytes>>,
    token: Arc<str>,
    url: Arc<str>,
}

impl Client {
    async fn connect(handle: &Handle, tasks: &mut JoinSet<()>) -> Outcome<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(handle.ca_pem().as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = tokio::net::TcpStream::connect(handle.address()).await?;
        stream.set_nodelay(true)?;
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from("127.0.0.1")?, stream)
            .await?;
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake(TokioIo::new(stream))
            .await?;
        tasks.spawn(async move {
            let _ = connection.await;
        });
        let config: Value = serde_json::from_slice(&std::fs::read(handle.kubeconfig_path())?)?;
        let token = config["users"][0]["user"]["token"].as_str().ok_or("no token")?.into();
        Ok(Self { sender, token, url: handle.url().into() })
    }

    async fn open(&self, method: Method, path: &str, accept: &str, body: &Value) -> Outcome<hyper::body::Incoming> {
        let media = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let content = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("authorization", format!("Bearer {}", self.token))
            .header("accept", accept)
            .header("content-type", media)
            .body(Full::new(content))?;
        let response = self.sender.clone().send_request(request).await?;
        let code = response.status();
        if code.is_success() {
            return Ok(response.into_body());
        }
        let said = response.into_body().collect().await?.to_bytes();
        Err(format!("{path}: {code}: {}", String::from_utf8_lossy(&said)).into())
    }

    async fn call(&self, method: Method, path: &str, accept: &str, body: &Value) -> Outcome<usize> {
        Ok(self.open(method, path, accept, body).await?.collect().await?.to_bytes().len())
    }

    async fn get(&self, path: &str, accept: &str) -> Outcome<usize> {
        self.call(Method::GET, path, accept, &Value::Null).await
    }
}

fn pod(index: usize) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": format!("pod-{index}"), "labels": { "app": format!("app-{}", index % 10), "tier": "web" } },
        "spec": { "containers": [{ "name": "main", "image": "example.com/web:1.2.3",
            "env": [{ "name": "LOG", "value": "info" }, { "name": "NODE", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } }],
            "ports": [{ "containerPort": 8080, "name": "http" }],
            "resources": { "limits": { "cpu": "500m", "memory": "128Mi" } },
            "readinessProbe": { "httpGet": { "path": "/ready", "port": "http" } } }] } })
}

fn show(what: &str, mut times: Vec<Duration>, size: usize) {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
    println!("{what:<44} median {:>8.3} ms   p95 {:>8.3} ms   {size:>9} bytes", at(50), at(95));
}

async fn repeat(client: &Client, what: &str, times: usize, path: &str, accept: &str) -> Outcome<()> {
    let (mut taken, mut size) = (Vec::new(), 0);
    for _ in 0..times {
        let begin = Instant::now();
        size = client.get(path, accept).await?;
        taken.push(begin.elapsed());
    }
    show(what, taken, size);
    Ok(())
}

async fn writes(client: &Client) -> Outcome<()> {
    let mut taken = Vec::new();
    for round in 0..200 {
        let body = json!({ "status": { "message": format!("round {round}") } });
        let begin = Instant::now();
        client.call(Method::PATCH, &format!("{PODS}/pod-1/status"), "application/json", &body).await?;
        taken.push(begin.elapsed());
    }
    show("patch of a status, one after the other", taken, 0);
    let mut taken = Vec::new();
    for _ in 0..200 {
        let body = json!({ "status": { "message": "the same" } });
        let begin = Instant::now();
        client.call(Method::PATCH, &format!("{PODS}/pod-1/status"), "application/json", &body).await?;
        taken.push(begin.elapsed());
    }
    show("patch of a status that changes nothing", taken, 0);
    Ok(())
}

/// Changes until every one of the watchers has seen the last of them.
async fn fan_out(client: &Client, handle: &Handle, tasks: &mut JoinSet<()>) -> Outcome<()> {
    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        let client = Client::connect(handle, tasks).await?;
        let path = format!("{PODS}?watch=true&sendInitialEvents=false&resourceVersionMatch=NotOlderThan");
        let mut body = client.open(Method::GET, &path, "application/json", &Value::Null).await?;
        watchers.spawn(async move {
            let mut seen = 0;
            while seen < CHANGES {
                let Some(Ok(frame)) = body.frame().await else { return Err("a watch ended early") };
                seen += frame.data_ref().map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
            }
            Ok(())
        });
    }
    let begin = Instant::now();
    let outcomes: Vec<Outcome<usize>> = stream::iter(0..CHANGES)
        .map(|index| async move {
            let body = json!({ "metadata": { "labels": { "seen": format!("{index}") } } });
            client.call(Method::PATCH, &format!("{PODS}/pod-{index}"), "application/json", &body).await
        })
        .buffer_unordered(16)
        .collect()
        .await;
    outcomes.into_iter().collect::<Outcome<Vec<_>>>()?;
    let written = begin.elapsed();
    while let Some(watcher) = watchers.join_next().await {
        watcher??;
    }
    let seen = begin.elapsed().as_secs_f64() * 1e3;
    let written = written.as_secs_f64() * 1e3;
    println!("{CHANGES} changes to {WATCHERS} watchers: written in {written:.1} ms, seen by all after {seen:.1} ms");
    Ok(())
}

fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
}

async fn measure(handle: &Handle, pods: usize, tasks: &mut JoinSet<()>) -> Outcome<()> {
    let client = Client::connect(handle, tasks).await?;
    let begin = Instant::now();
    let made: Vec<Outcome<usize>> = stream::iter(0..pods)
        .map(|index| {
            let client = client.clone();
            async move { client.call(Method::POST, PODS, "application/json", &pod(index)).await }
        })
        .buffer_unordered(32)
        .collect()
        .await;
    made.into_iter().collect::<Outcome<Vec<_>>>()?;
    println!("{pods} Pods made, 32 at a time, in {:.0} ms", begin.elapsed().as_secs_f64() * 1e3);
    println!("resident: {} kB", resident().unwrap_or_default());
    repeat(&client, "get of a Pod", 500, &format!("{PODS}/pod-7"), "application/json").await?;
    repeat(&client, "list of all Pods", 20, PODS, "application/json").await?;
    repeat(&client, "list of all Pods as a Table", 20, PODS, TABLE).await?;
    repeat(
        &client,
        "list of all Pods by a label",
        20,
        &format!("{PODS}?labelSelector=app%3Dapp-3"),
        "application/json",
    )
    .await?;
    let by_field = format!("{PODS}?fieldSelector=status.phase%3DRunning");
    repeat(&client, "list of all Pods by a field", 20, &by_field, "application/json").await?;
    repeat(&client, "a page of 500 Pods as a Table", 20, &format!("{PODS}?limit=500"), TABLE).await?;
    writes(&client).await?;
    fan_out(&client, handle, tasks).await?;
    println!("resident: {} kB", resident().unwrap_or_default());
    Ok(())
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let pods = std::env::args().nth(1).map_or(Ok(2000), |count| count.parse())?;
    let folder = tempfile::tempdir()?;
    let (store, task) = SqliteStore::open(store::Settings::new(folder.path().join("state.db")))?;
    let settings = Settings::new(folder.path());
    let (server, handle) = apiserver::build(
        settings,
        Arc::new(store),
        Dependencies { logs: Arc::new(NoLogs), sessions: None, pages: None },
    )?;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(server.run(shutdown.clone()));
    handle.ready().await;
    let mut tasks = JoinSet::new();
    let measured = measure(&handle, pods.max(CHANGES), &mut tasks).await;
    tasks.shutdown().await;
    shutdown.cancel();
    running.await??;
    task.close().await?;
    measured
}
