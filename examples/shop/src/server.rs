//! The HTTP side that all services share: routing to a [`Service`], health endpoints, and the end on SIGTERM.
//!
//! On SIGTERM it stops accepting, lets requests under way finish (at most 20 s), and exits with 0.

use crate::{Failure, log};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use serde_json::{Value, json};
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

const BODY_LIMIT: usize = 64 * 1024;
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// A request as services see it.
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) request_id: String,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) body: Value,
}

impl Call {
    /// The value of a query parameter; names and values of this shop need no percent-decoding.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, v)| v)
    }
}

/// An answer: a status and a body.
pub(crate) struct Reply {
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
}

impl Reply {
    pub(crate) fn json(status: StatusCode, body: &Value) -> Self {
        Self { status, content_type: "application/json", body: body.to_string().into() }
    }

    pub(crate) fn ok(body: &Value) -> Self {
        Self::json(StatusCode::OK, body)
    }

    pub(crate) fn page(body: &'static str) -> Self {
        Self { status: StatusCode::OK, content_type: "text/html; charset=utf-8", body: body.into() }
    }

    pub(crate) fn refuse(status: StatusCode, why: &str) -> Self {
        Self::json(status, &json!({ "error": why }))
    }

    pub(crate) fn not_found(call: &Call) -> Self {
        Self::refuse(StatusCode::NOT_FOUND, &format!("nothing answers {} {}", call.method, call.path))
    }
}

/// A service of the shop.
pub(crate) trait Service: Send + Sync + 'static {
    /// Answers one request.
    fn answer(&self, call: Call) -> impl Future<Output = Result<Reply, Failure>> + Send;

    /// Whether requests can be answered now; the reason if not.
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Serves until SIGTERM or SIGINT, then drains.
pub(crate) fn run<S: Service>(service: S) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(Arc::new(service)))
}

async fn serve<S: Service>(service: Arc<S>) -> Result<(), Failure> {
    let port = match std::env::var("PORT") {
        Ok(text) => text.parse().map_err(|_| format!("PORT is {text:?}, which is not a port number"))?,
        Err(_) => 8080,
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        .await
        .map_err(|error| format!("cannot listen on port {port}: {error}"))?;
    log::info("listening", &[("port", port.into())]);
    let graceful = GracefulShutdown::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let service = Arc::clone(&service);
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service_fn(move |request| {
                        let service = Arc::clone(&service);
                        async move { Ok::<_, std::convert::Infallible>(handle(&*service, request).await) }
                    }));
                let connection = graceful.watch(connection);
                // A connection that breaks concerns its client alone.
                tokio::spawn(async move { let _ = connection.await; });
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    drop(listener);
    log::info("draining", &[]);
    match tokio::time::timeout(DRAIN_LIMIT, graceful.shutdown()).await {
        Ok(()) => log::info("drained", &[]),
        Err(_) => log::error("gave up on requests still under way", &[]),
    }
    Ok(())
}

async fn handle<S: Service>(service: &S, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let reply = match request.uri().path() {
        "/healthz" => Reply::ok(&json!({ "status": "alive" })),
        "/readyz" => match service.ready() {
            Ok(()) => Reply::ok(&json!({ "status": "ready" })),
            Err(why) => Reply::refuse(StatusCode::SERVICE_UNAVAILABLE, &why),
        },
        _ => answer(service, request).await,
    };
    let mut response = Response::new(Full::new(reply.body));
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    headers.insert("content-type", hyper::header::HeaderValue::from_static(reply.content_type));
    if let Ok(pod) = std::env::var("POD_NAME").unwrap_or_default().parse() {
        headers.insert("x-served-by", pod);
    }
    response
}

async fn answer<S: Service>(service: &S, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let request_id = header("x-request-id").unwrap_or_default();
    let Ok(bytes) = Limited::new(body, BODY_LIMIT).collect().await.map(http_body_util::Collected::to_bytes) else {
        return Reply::refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is broken or larger than 64 KiB");
    };
    let body = if bytes.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(&bytes) };
    let Ok(body) = body else {
        return Reply::refuse(StatusCode::BAD_REQUEST, "the body is not JSON");
    };
    let call = Call {
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        idempotency_key: header("idempotency-key"),
        method: head.method,
        request_id: request_id.clone(),
        body,
    };
    let (method, path) = (call.method.to_string(), call.path.clone());
    let about = |status: u16| {
        [
            ("method", method.as_str().into()),
            ("path", path.as_str().into()),
            ("request_id", request_id.as_str().into()),
            ("status", status.into()),
        ]
    };
    match service.answer(call).await {
        Ok(reply) => {
            log::debug("answered", &about(reply.status.as_u16()));
            reply
        }
        Err(error) => {
            let mut fields = about(500).to_vec();
            fields.push(("error", error.to_string().into()));
            log::error("failed", &fields);
            Reply::refuse(StatusCode::INTERNAL_SERVER_ERROR, "the request failed; the log says why")
        }
    }
}
