//! Records on their way to a collector, the access log and memory, over real sockets and files.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use telemetry::{AccessLog, Destination, Handle, Otlp, Record, Settings};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// Nothing here takes longer unless something is wrong.
const LIMIT: Duration = Duration::from_secs(60);

fn record(span: u64) -> Record {
    let line = serde_json::json!({ "time": "2026-01-02T03:04:05.000006Z", "requestId": "r", "traceId": format!("{:032x}", 1),
        "spanId": format!("{span:016x}"), "sampled": true, "source": "gateway", "client": "127.0.0.1",
        "destination": "shop/web", "scheme": "http", "protocol": "1.1", "method": "GET", "host": "h", "path": "/",
        "status": 200, "listener": "l", "route": "r", "backend": "b", "attempts": 1, "durationMs": 1.5, "headMs": 1.0,
        "requestBytes": 0, "responseBytes": 2 });
    serde_json::from_value(line).expect("a record")
}

/// A collector that answers with these statuses, one after the other, and then 200.
struct Collector {
    address: SocketAddr,
    got: Arc<Mutex<Vec<(StatusCode, Value)>>>,
    task: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    async fn answering(statuses: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let got = Arc::new(Mutex::new(Vec::new()));
        let statuses = Arc::new(Mutex::new(statuses.to_vec()));
        let kept = Arc::clone(&got);
        let serve = move |request: Request<Incoming>| {
            let (kept, statuses) = (Arc::clone(&kept), Arc::clone(&statuses));
            async move {
                assert_eq!((request.uri().path(), request.method().as_str()), ("/v1/traces", "POST"));
                assert_eq!(request.headers()["content-type"], "application/json");
                assert_eq!(request.headers()["x-key"], "secret");
                let body = request.into_body().collect().await.expect("a body").to_bytes();
                let mut statuses = statuses.lock().expect("ours");
                let code = if statuses.is_empty() { 200 } else { statuses.remove(0) };
                let status = StatusCode::from_u16(code).expect("a status");
                kept.lock().expect("ours").push((status, serde_json::from_slice(&body).expect("JSON")));
                Ok::<_, Infallible>(
                    Response::builder().status(status).body(Full::new(Bytes::from("{}"))).expect("a response"),
                )
            }
        };
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper::service::service_fn(serve.clone());
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move { drop(connection.await) });
            }
        });
        Self { address, got, task }
    }

    fn settings(&self) -> Settings {
        let otlp = Otlp::parse(&format!("http://{}", self.address), "x-key=secret").expect("an endpoint");
        Settings { otlp: Some(otlp), access_log: None }
    }

    /// The ids of the spans that were taken.
    fn taken(&self) -> Vec<String> {
        let got = self.got.lock().expect("ours");
        let bodies = got.iter().filter(|(status, _)| status.is_success()).map(|(_, body)| body);
        let spans = bodies.flat_map(|body| {
            body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().cloned().unwrap_or_default()
        });
        spans.map(|span| span["spanId"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("not so in time");
}

fn start(settings: Settings) -> (Handle<Record>, CancellationToken, JoinHandle<()>) {
    let (telemetry, handle) = telemetry::build::<Record>(settings).expect("good settings");
    let stop = CancellationToken::new();
    let task = tokio::spawn(telemetry.run(stop.clone()));
    (handle, stop, task)
}

#[tokio::test]
async fn spans_reach_a_collector_that_was_busy_and_the_log_has_them() {
    let collector = Collector::answering(&[503, 429]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("access.log");
    let access_log = Some(AccessLog::to(Destination::File(file.clone())));
    let (handle, stop, task) = start(Settings { access_log, ..collector.settings() });
    handle.give(record(1));
    handle.give(Record { sampled: false, ..record(2) });
    handle.give(record(3));
    until(|| handle.counts().exported == 2).await;
    assert_eq!(collector.taken(), ["0000000000000001", "0000000000000003"], "only what is sampled");
    until(|| handle.last(9).len() == 3).await;
    let text = std::fs::read_to_string(&file).expect("a log");
    let lines: Vec<Record> = text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
    assert_eq!(lines, handle.find("r"));
    stop.cancel();
    task.await.expect("it ends");
}

#[tokio::test]
async fn who_asks_for_records_finds_those_that_wait_for_others() {
    let (handle, stop, task) = start(Settings::default());
    handle.give(record(1));
    until(|| handle.last(9).len() == 1).await;
    for span in 2..20 {
        handle.give(record(span));
        handle.settle().await;
        assert_eq!(handle.last(99).len() as u64, span);
    }
    stop.cancel();
    task.await.expect("it ends");
    tokio::time::timeout(LIMIT, handle.settle()).await.expect("nobody is waited for");
}

#[tokio::test]
async fn what_is_refused_is_not_sent_again() {
    let collector = Collector::answering(&[400]).await;
    let (handle, stop, task) = start(collector.settings());
    handle.give(record(1));
    until(|| handle.counts().export_dropped == 1).await;
    handle.give(record(2));
    until(|| handle.counts().exported == 1).await;
    assert_eq!(collector.taken(), ["0000000000000002"]);
    stop.cancel();
    task.await.expect("it ends");
}

#[tokio::test]
async fn what_was_given_before_the_end_is_sent() {
    let collector = Collector::answering(&[]).await;
    let (handle, stop, task) = start(collector.settings());
    // Time stands still, as it does while a thread is busy: the end waits only so long, and a machine may be slower.
    let (goes_on, stands) = std::sync::mpsc::channel::<()>();
    let busy = tokio::task::spawn_blocking(move || stands.recv_timeout(LIMIT).is_ok());
    tokio::time::pause();
    (0..100).for_each(|span| handle.give(record(span)));
    stop.cancel();
    tokio::time::timeout(LIMIT, task).await.expect("in time").expect("it ends");
    drop(goes_on);
    busy.await.expect("no panic");
    assert_eq!(collector.taken().len(), 100);
    handle.give(record(1));
    assert_eq!(handle.counts().dropped, 1, "nobody takes it any more");
}

#[tokio::test]
async fn an_absent_collector_holds_up_neither_records_nor_the_end() {
    // Bound, so that nobody else comes by it, and not listened on.
    let kept = tokio::net::TcpSocket::new_v4().expect("a socket");
    kept.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let address = kept.local_addr().expect("an address");
    let otlp = Some(Otlp::parse(&format!("http://{address}"), "").expect("an endpoint"));
    let (handle, stop, task) = start(Settings { otlp, access_log: None });
    for span in 0..20_000 {
        handle.give(record(span));
        if span % 1_000 == 0 {
            until(|| handle.last(1).len() == 1).await;
        }
    }
    until(|| handle.counts().export_dropped > 0).await;
    let counts = handle.counts();
    assert_eq!(counts.records + counts.dropped, 20_000);
    stop.cancel();
    tokio::time::timeout(LIMIT, task).await.expect("bounded").expect("it ends");
}
