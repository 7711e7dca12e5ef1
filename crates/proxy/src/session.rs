//! Connections that are carried as bytes: raw TCP, TLS that is handed on, tunnels to the outside. Each is counted from its opening
//! to its end, and told of at its end.
//!
//! Invariants: a session is counted as opened once and as closed once, whatever becomes of the task that carries it; bytes
//! are counted as they pass. Who closed first is what ended it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderValue, Method, StatusCode, Uri, Version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};

use crate::headers;
use crate::identity::{Client, Identity};
use crate::listen::Life;
use crate::observe::{Exchange, MISSED, Missed, Observation, Place, place};
use crate::service::Shared;
use crate::stats::{Counter, Edge};

const BUFFER: usize = 16 * 1024;

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ending {
    /// The client closed first.
    Client,
    /// The backend closed first.
    Server,
    /// One of the connections broke.
    Broken,
    /// The proxy ended it: its listener went and had no more time.
    Drained,
    /// There was no endpoint that could be reached, or a policy let nobody through.
    Unreached,
}

impl Ending {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Self; 5] = [Self::Client, Self::Server, Self::Broken, Self::Drained, Self::Unreached];

    /// A word for machines.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Broken => "broken",
            Self::Drained => "drained",
            Self::Unreached => "unreached",
        }
    }
}

/// What is carried, for those who read records.
pub(crate) struct Carries {
    /// `tcp`, `tls` or `http`.
    pub(crate) scheme: &'static str,
    /// What it is told as: `TCP`, `TLS` or `CONNECT`.
    pub(crate) method: Method,
    /// The host that the client named, where it named one.
    pub(crate) host: Option<HeaderValue>,
}

impl Carries {
    /// Bytes that nobody looks at.
    pub(crate) fn bytes(sealed: bool, host: &str) -> Self {
        let (scheme, method) = if sealed { ("tls", "TLS") } else { ("tcp", "TCP") };
        let host = HeaderValue::from_str(host).ok().filter(|host| !host.is_empty());
        Self { scheme, method: Method::from_bytes(method.as_bytes()).unwrap_or(Method::CONNECT), host }
    }
}

/// Who tells of a session.
enum Told {
    /// It does itself.
    Itself,
    /// The request that asks for it, for now: there is nothing yet but that.
    ByRequest(Arc<Life>),
    /// It does itself, as the request that asked for it: by its id, in its place.
    As(HeaderValue, Place),
    /// Nobody.
    Nobody,
}

/// One connection from its opening to its end.
pub(crate) struct Session {
    shared: Arc<Shared>,
    counter: Arc<Counter>,
    edge: Arc<Edge>,
    identity: Option<Arc<Identity>>,
    peer: SocketAddr,
    carries: Carries,
    started: Instant,
    reached: Option<Duration>,
    upstream: Option<SocketAddr>,
    attempts: u32,
    missed: Vec<Missed>,
    /// Bytes from the client, and to it.
    passed: Arc<[AtomicU64; 2]>,
    ending: Option<Ending>,
    reason: Option<&'static str>,
    told: Told,
}

impl Session {
    /// Opens it; it is counted from here on.
    pub(crate) fn open(shared: &Arc<Shared>, counter: &Arc<Counter>, client: &Client, carries: Carries) -> Self {
        let edge = counter.edge(client.identity.as_deref());
        edge.opened();
        Self {
            shared: Arc::clone(shared),
            counter: Arc::clone(counter),
            edge,
            identity: client.identity.clone(),
            peer: client.peer,
            carries,
            started: Instant::now(),
            reached: None,
            upstream: None,
            attempts: 0,
            missed: Vec::new(),
            passed: Arc::default(),
            ending: None,
            reason: None,
            told: Told::Itself,
        }
    }

    /// Says that a request asks for it, which is told of itself until something becomes of it. It ends with `life`.
    pub(crate) fn asked_for(&mut self, life: &Arc<Life>) {
        self.told = Told::ByRequest(Arc::clone(life));
    }

    /// Says that it is what became of the request: from now on it is the one that is told of.
    pub(crate) fn made_of(&mut self, request: &mut Observation) {
        self.told = request.leaves_record().map_or(Told::Nobody, |(id, place)| Told::As(id, place));
    }

    /// Says that nothing became of the request, which is told of with what was tried.
    pub(crate) fn not_made(&mut self, reason: &'static str, request: &mut Observation) {
        self.unreached(reason);
        request.takes(self.upstream, self.attempts, std::mem::take(&mut self.missed));
    }

    /// Says that an endpoint is tried.
    pub(crate) fn attempts(&mut self, address: SocketAddr) {
        self.upstream = Some(address);
        self.attempts += 1;
    }

    /// Says that it could not be reached.
    pub(crate) fn missed(&mut self, reason: &str) {
        if let Some(address) = self.upstream.filter(|_| self.missed.len() < MISSED) {
            self.missed.push(Missed { address, after: self.started.elapsed(), reason: reason.to_owned() });
        }
    }

    /// Says that the client went before anything was carried.
    pub(crate) fn gone(&mut self) {
        self.ending = Some(Ending::Client);
    }

    /// Says that nobody was reached, and why.
    pub(crate) fn unreached(&mut self, reason: &'static str) {
        (self.ending, self.reason) = (Some(Ending::Unreached), Some(reason));
    }

    /// Joins both sides until one of them ends, or the listener has no more time.
    pub(crate) async fn carry(
        &mut self,
        client: impl AsyncRead + AsyncWrite + Unpin,
        server: impl AsyncRead + AsyncWrite + Unpin,
        life: &Life,
    ) {
        self.reached = Some(self.started.elapsed());
        let first = Arc::new(AtomicU8::new(0));
        let side = |number: u8| Side { number, first: Arc::clone(&first), passed: Arc::clone(&self.passed) };
        let mut client = Counted { inner: client, side: side(1), edge: Arc::clone(&self.edge) };
        let mut server = Counted { inner: server, side: side(2), edge: Arc::clone(&self.edge) };
        let ending = tokio::select! {
            copied = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER) => match copied {
                Ok(_) if first.load(Ordering::Relaxed) == 2 => Ending::Server,
                Ok(_) => Ending::Client,
                Err(error) => {
                    tracing::debug!(%error, "a tunnel broke");
                    Ending::Broken
                }
            },
            () = life.forced() => Ending::Drained,
        };
        self.ending = Some(ending);
    }

    fn record(&mut self, ending: Ending) {
        let Some(observer) = &self.shared.observer else { return };
        let (id, place) = match &self.told {
            Told::Nobody | Told::ByRequest(_) => return,
            Told::As(id, place) => (id.clone(), *place),
            Told::Itself => {
                let id = headers::new_id();
                let place = place(None, &id, &self.shared.sampler, self.started);
                (id, place)
            }
        };
        let reason = self.reason.or(match ending {
            Ending::Broken => Some("broken"),
            Ending::Drained => Some("drained"),
            Ending::Client | Ending::Server | Ending::Unreached => None,
        });
        if !(place.sampled || reason.is_some() || self.shared.settings.recording.all) {
            return;
        }
        let total = self.started.elapsed();
        let unreached = ending == Ending::Unreached;
        let [sent, received] = [0, 1].map(|i: usize| self.passed[i].load(Ordering::Relaxed));
        let client = self.peer.ip().to_canonical().to_string();
        observer.observe(Box::new(Exchange {
            id,
            place,
            listener: Arc::clone(&self.counter.listener),
            rule: Arc::clone(&self.counter.rule),
            backend: Arc::clone(&self.counter.backend),
            caller: self.identity.clone(),
            client: HeaderValue::try_from(client).unwrap_or(HeaderValue::from_static("unknown")),
            scheme: self.carries.scheme,
            method: self.carries.method.clone(),
            uri: Uri::from_static("*"),
            host: self.carries.host.clone(),
            version: Version::HTTP_11,
            status: if unreached { StatusCode::BAD_GATEWAY } else { StatusCode::OK },
            grpc_status: None,
            reason,
            upstream: self.upstream,
            attempts: self.attempts,
            missed: std::mem::take(&mut self.missed),
            began: SystemTime::now() - total,
            head: self.reached.unwrap_or(total),
            upstream_time: None,
            total,
            request_bytes: sent,
            response_bytes: received,
        }));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Whoever drops it without an end ends the connection as well; a request is dropped by its client, unless its listener goes.
        let ending = self.ending.unwrap_or_else(|| match &self.told {
            Told::ByRequest(life) if !life.is_forced() => Ending::Client,
            _ => Ending::Drained,
        });
        self.edge.closed(ending, self.started.elapsed());
        self.record(ending);
    }
}

/// Which side of a session.
struct Side {
    /// 1 is the client, 2 the server.
    number: u8,
    /// The side that ended first; 0 while none has.
    first: Arc<AtomicU8>,
    passed: Arc<[AtomicU64; 2]>,
}

/// A connection whose bytes are counted as they are read.
struct Counted<S> {
    inner: S,
    side: Side,
    edge: Arc<Edge>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        let read = (buf.filled().len() - before) as u64;
        if read == 0 {
            // The other one may have been first.
            let _ = this.side.first.compare_exchange(0, this.side.number, Ordering::Relaxed, Ordering::Relaxed);
        }
        this.side.passed[usize::from(this.side.number) - 1].fetch_add(read, Ordering::Relaxed);
        if this.side.number == 1 {
            this.edge.passed(read, 0)
        } else {
            this.edge.passed(0, read)
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
