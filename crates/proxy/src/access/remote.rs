//! Key sets that are fetched: off the path of requests, kept, and fetched again.
//!
//! Invariants: the last good set serves while its owner is away; an unknown key asks for a new set no more often than allowed,
//! and many who ask at once ask together; a fetch is bounded in time and bytes, and follows no redirect.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::jwt::{KeySet, MOST_BYTES};
use super::policy::{Origin, RemoteKeys};
use crate::balance::Backend;
use crate::identity::Speaker;
use crate::network::Network;
use crate::rejection::Rejections;
use crate::service::Shared;
use crate::upstream::{Dial, client_config};

/// The longest wait between two attempts at a set that cannot be had.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How far fetching is.
#[derive(Clone, Copy, Debug)]
struct Progress {
    under_way: bool,
    /// When the last fetch ended.
    ended: Option<Instant>,
}

/// A set, and what keeps it fresh.
pub(crate) struct RemoteSet {
    pub(super) from: RemoteKeys,
    inner: Arc<Inner>,
    /// Ends the fetching when nobody has the set any more.
    _ended: DropGuard,
    life: CancellationToken,
}

struct Inner {
    keys: ArcSwapOption<KeySet>,
    progress: watch::Sender<Progress>,
    asked: Notify,
}

impl RemoteSet {
    pub(super) fn new(from: RemoteKeys) -> Self {
        let progress = watch::Sender::new(Progress { under_way: true, ended: None });
        let inner = Inner { keys: ArcSwapOption::empty(), progress, asked: Notify::new() };
        let life = CancellationToken::new();
        Self { from, inner: Arc::new(inner), _ended: life.clone().drop_guard(), life }
    }

    /// The set as it is now; none before it has come for the first time.
    pub(super) fn keys(&self) -> Option<Arc<KeySet>> {
        self.inner.keys.load_full()
    }

    /// Whether a wait for another set may bring one: a fetch is under way, or one is due if an unknown key asks.
    pub(super) fn may_change(&self) -> bool {
        let progress = *self.inner.progress.borrow();
        progress.under_way || progress.ended.is_none_or(|ended| ended.elapsed() >= self.from.pause)
    }

    /// Waits for a fetch to end, begun for this where none is under way. No longer than a fetch may take.
    pub(super) async fn renewed(&self) {
        let mut progress = self.inner.progress.subscribe();
        if !progress.borrow().under_way {
            self.inner.progress.send_modify(|progress| progress.under_way = true);
            self.inner.asked.notify_one();
        }
        // Too late is as good as none: what is there by then is judged by.
        let _ = tokio::time::timeout(self.from.timeout, progress.wait_for(|progress| !progress.under_way)).await;
    }

    /// Keeps the set fresh until nobody has it any more, or `stop`.
    pub(super) fn keep(&self, backend: Option<Arc<Backend>>, shared: &Shared) {
        let (tasks, stop, network) = (&shared.upstreams, shared.stop.clone(), shared.network.clone());
        let (inner, from, life) = (Arc::clone(&self.inner), self.from.clone(), self.life.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = keep(&inner, &from, backend.as_deref(), network.as_ref()) => {}
                () = life.cancelled() => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

async fn keep(inner: &Inner, from: &RemoteKeys, backend: Option<&Backend>, network: Option<&Arc<dyn Network>>) {
    let mut failures = 0_u32;
    loop {
        inner.progress.send_modify(|progress| progress.under_way = true);
        let fetched = tokio::time::timeout(from.timeout, fetch(from, backend, network)).await;
        let fetched = fetched.unwrap_or_else(|_| Err(format!("it did not come within {:?}", from.timeout)));
        let wait = match fetched.and_then(|body| KeySet::parse(&body)) {
            Ok(keys) => {
                inner.keys.store(Some(Arc::new(keys)));
                failures = 0;
                from.refresh
            }
            Err(error) => {
                failures += 1;
                let kept = inner.keys.load().is_some();
                tracing::warn!(from = %Named(from), error, kept, failures, "cannot fetch a key set; trying again");
                (Duration::from_millis(500) * 2_u32.saturating_pow(failures.min(10))).min(LONGEST_WAIT)
            }
        };
        inner.progress.send_replace(Progress { under_way: false, ended: Some(Instant::now()) });
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = inner.asked.notified() => {}
        }
    }
}

/// For people.
struct Named<'a>(&'a RemoteKeys);

impl std::fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0.at {
            Origin::Backend(id) => write!(f, "{id}{}", self.0.path),
            Origin::Host { host, port, .. } => write!(f, "{host}:{port}{}", self.0.path),
        }
    }
}

async fn fetch(
    from: &RemoteKeys,
    backend: Option<&Backend>,
    network: Option<&Arc<dyn Network>>,
) -> Result<Vec<u8>, String> {
    let no_connection = |error: std::io::Error| format!("no connection: {error}");
    match &from.at {
        Origin::Backend(id) => {
            let ticket = backend.and_then(|backend| backend.pick(&[]));
            let ticket = ticket.ok_or_else(|| format!("the backend {id} has no endpoint that is ready"))?;
            let refused = Rejections::new();
            let dial = Dial { limit: from.timeout, peers: None, network, refused: &refused, speaker: Speaker::Proxy };
            let stream = dial.to(&ticket.endpoint, Some(b"http/1.1"), None).await.map_err(no_connection)?;
            get(stream, id.split(':').next().unwrap_or(id), &from.path).await
        }
        Origin::Host { host, port, tls, roots } => {
            let stream = TcpStream::connect((&**host, *port)).await.map_err(no_connection)?;
            let authority =
                if *port == if *tls { 443 } else { 80 } { host.to_string() } else { format!("{host}:{port}") };
            if !tls {
                return get(stream, &authority, &from.path).await;
            }
            let config = client_config(roots.as_deref())?;
            let name = ServerName::try_from(host.to_string()).map_err(|error| error.to_string())?;
            let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await;
            get(stream.map_err(|error| format!("no TLS: {error}"))?, &authority, &from.path).await
        }
    }
}

async fn get(stream: impl AsyncRead + AsyncWrite + Unpin, host: &str, path: &str) -> Result<Vec<u8>, String> {
    let broken = |error: hyper::Error| format!("no answer: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let exchange = async {
        let request = Request::get(path)
            .header(header::HOST, host)
            .header(header::ACCEPT, "application/json")
            .body(Empty::<bytes::Bytes>::new())
            .map_err(|error| format!("it cannot be asked for: {error}"))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        if response.status() != StatusCode::OK {
            return Err(format!("the answer is {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MOST_BYTES).collect().await;
        let body = body.map_err(|error| format!("the answer cannot be read: {error}"))?;
        Ok(body.to_bytes().to_vec())
    };
    // Driven here, so that it has no task of its own.
    let mut exchange = std::pin::pin!(exchange);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            // The answer may be whole all the same.
            Ok(()) => exchange.await,
            Err(error) => Err(broken(error)),
        },
    }
}
