//! One client's connection: what it speaks, and serving it until it ends or has to.
//!
//! Invariants: nothing is decided on less than the bytes that decide it, nor waited for without limit; when told to drain, a
//! connection finishes what it is doing and ends.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::Request;
use http::header::HeaderValue;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::access;
use crate::balance::Backend;
use crate::certified::{self, admits, is_tls, turn_away};
use crate::config::Settings;
use crate::downstream;
use crate::headers;
use crate::heads::{HeadTimer, Term};
use crate::http2;
use crate::identity::{Client, Identity};
use crate::landing;
use crate::listen::{Held, Life, Slot};
use crate::network::Ground;
use crate::parked::{self, Park, Parked};
use crate::passthrough;
use crate::patience;
use crate::prefixed::Prefixed;
use crate::request::{self, Caller};
use crate::route::{Protocol, Table};
use crate::service::Shared;
use crate::snapshot::{Admits, Forwarded};
use crate::taken::watched;
use crate::tunnel;

/// What the first bytes of a connection look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looks {
    Http1,
    Http2,
    Other,
    /// More bytes are needed to tell.
    Unclear,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Tells by the first bytes. A method is up to 16 letters and a space, and a target follows.
fn looks(bytes: &[u8]) -> Looks {
    let common = bytes.iter().zip(PREFACE).take_while(|(a, b)| a == b).count();
    if common == PREFACE.len() {
        return Looks::Http2;
    }
    if common == bytes.len() {
        return Looks::Unclear;
    }
    match bytes.iter().position(|b| !(b.is_ascii_uppercase() || *b == b'-')) {
        None if bytes.len() <= 16 => Looks::Unclear,
        Some(end) if end > 0 && end <= 16 && bytes[end] == b' ' => match bytes.get(end + 1) {
            None => Looks::Unclear,
            Some(b'/' | b'*') => Looks::Http1,
            // The absolute form, or the authority of CONNECT.
            Some(byte) if byte.is_ascii_alphanumeric() && bytes[..end] != *b"PRI" => Looks::Http1,
            Some(_) => Looks::Other,
        },
        _ => Looks::Other,
    }
}

/// What a connection has begun with.
struct First {
    bytes: Bytes,
    looks: Looks,
    /// When the first of them came.
    at: Instant,
    /// Whether they were waited for in vain: nothing is told by them, and more may come.
    late: bool,
}

/// Reads until the first bytes tell what is spoken, or the client ends or is silent for too long.
async fn first_bytes<S: AsyncRead + Unpin>(stream: &mut S, limit: Duration) -> io::Result<First> {
    let mut bytes = BytesMut::with_capacity(4096);
    let deadline = tokio::time::Instant::now() + limit;
    let mut came = None;
    loop {
        let read = tokio::time::timeout_at(deadline, stream.read_buf(&mut bytes)).await;
        let late = read.is_err();
        let ended = read.unwrap_or(Ok(0))? == 0;
        let at = *came.get_or_insert_with(Instant::now);
        let looks = if ended { Looks::Unclear } else { looks(&bytes) };
        if ended || looks != Looks::Unclear {
            return Ok(First { bytes: bytes.freeze(), looks, at, late });
        }
    }
}

/// The first bytes, or none if the listener drains and the client has not asked for anything.
async fn asked(
    stream: &mut (impl AsyncRead + Unpin),
    limit: Duration,
    settings: &Settings,
    life: &Life,
) -> io::Result<Option<First>> {
    let mut first = pin!(first_bytes(stream, limit));
    tokio::select! {
        biased;
        first = &mut first => first.map(Some),
        // What was sent already is on its way to here, and is answered; a client that is silent may as well go elsewhere.
        () = life.draining() => tokio::time::timeout(settings.sniff_wait, first).await.ok().transpose(),
    }
}

/// How a connection is served from some point on. What it took to get there is let go: a connection that waits holds what its way needs,
/// and neither what was needed before nor what another way would.
type Way = Pin<Box<dyn Future<Output = Ended> + Send>>;

/// A way on which there is nothing more to do.
fn done() -> Way {
    Box::pin(std::future::ready(Ok(())))
}

/// Finds a way, and goes it.
fn by_way(found: impl Future<Output = Result<Way, Broken>> + Send + 'static) -> Way {
    let found = Box::pin(found);
    Box::pin(async move {
        let way = found.await?;
        way.await
    })
}

/// Serves a connection.
pub(crate) fn serve(
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    stream: TcpStream,
    (ground, peer): (Ground, SocketAddr),
    held: Arc<Held>,
) -> impl Future<Output = ()> + Send {
    let table = slot.table.load_full();
    let begun = Box::pin(begin(shared, slot, Arc::clone(&table), stream, (ground, peer), held));
    async move {
        let way = begun.await;
        if let Err(error) = way.await {
            tracing::debug!(listener = &*table.id, %peer, %error, "a client's connection ended");
        }
    }
}

/// Finds out who a client is, and what its listener does.
async fn begin(
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    table: Arc<Table>,
    stream: TcpStream,
    (ground, peer): (Ground, SocketAddr),
    held: Arc<Held>,
) -> Way {
    let identity = identify(&shared, &table, &stream, (ground, peer)).await;
    let client = Client { ground, peer, scheme: "http", identity, server_name: None, held };
    match &table.protocol {
        Protocol::Http => by_way(heard(shared, slot, stream, client, None)),
        Protocol::Sniff(backend) => by_way(heard(shared, slot, stream, client, Some(Arc::clone(backend)))),
        Protocol::Egress(egress) => {
            let egress = Arc::clone(egress);
            Box::pin(async move { crate::egress::serve(&shared, &slot, stream, client, &egress).await })
        }
        Protocol::Mesh => Box::pin(async move { certified::serve_mesh(&shared, &slot, stream, client).await }),
        Protocol::Https(https) => by_way(within_tls(shared, slot, stream, client, Arc::clone(&https.config))),
        Protocol::Tls(None, _) => Box::pin(async move { passthrough::serve(&shared, &slot, stream, &client).await }),
        Protocol::Tls(Some(config), _) => {
            let config = Arc::clone(config);
            Box::pin(async move { passthrough::serve_ended(&shared, &slot, stream, client, config).await })
        }
        // Whoever has a certificate speaks first, so that waiting for bytes holds nobody up.
        Protocol::Tcp(_) if table.admits == Admits::Certified => by_way(heard(shared, slot, stream, client, None)),
        Protocol::Tcp(_) if !admits(&table, client.identity.as_ref(), false) => {
            turn_away(&shared, &table, &client, &stream);
            done()
        }
        Protocol::Tcp(backend) => carried(shared, slot, (client, tunnel::Bytes::Open), stream, Arc::clone(backend)),
    }
}

/// Carries all bytes to a backend, if the client may go there.
fn carried(
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    (client, bytes): (Client, tunnel::Bytes),
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    backend: Arc<Backend>,
) -> Way {
    let Some(admitted) = access::admits(&shared.audit, &client, None, &backend) else { return done() };
    Box::pin(async move {
        let carried = tunnel::Carried::new(&backend, &client, bytes);
        tunnel::carry(&shared, &slot, admitted, carried, stream).await;
        Ok(())
    })
}

/// Who the client is, where somebody can tell. What faces the outside has no workloads for clients.
async fn identify(
    shared: &Shared,
    table: &Table,
    stream: &TcpStream,
    (ground, peer): (Ground, SocketAddr),
) -> Option<Arc<Identity>> {
    if table.forwarded == Forwarded::Replace {
        return None;
    }
    let callers = shared.callers.as_ref()?;
    callers.identify(ground, peer, stream.local_addr().ok()?).await
}

/// Why a connection did not end well.
pub(crate) type Broken = Box<dyn std::error::Error + Send + Sync>;

pub(crate) type Ended = Result<(), Broken>;

/// How long a client's first bytes are waited for.
fn patience(settings: &Settings, otherwise: Option<&Arc<Backend>>) -> Duration {
    if otherwise.is_some() { settings.sniff_wait } else { settings.header_timeout }
}

/// Hears what a client begins with, which may show a certificate, and must where the listener asks for one.
async fn heard(
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    mut stream: TcpStream,
    client: Client,
    otherwise: Option<Arc<Backend>>,
) -> Result<Way, Broken> {
    let settings = &shared.settings;
    let table = slot.table.load_full();
    let certified = table.admits == Admits::Certified;
    let limit = if certified { settings.header_timeout } else { patience(settings, otherwise.as_ref()) };
    let Some(first) = asked(&mut stream, limit, settings, &slot.life).await? else { return Ok(done()) };
    let table = slot.table.load_full();
    if first.looks == Looks::Other && is_tls(&first.bytes) && table.peer_name.is_some() && shared.peers.is_some() {
        let begun = (first.bytes, stream);
        return Ok(Box::pin(async move {
            certified::serve_tls_at_service(&shared, &slot, begun, client, otherwise.as_ref()).await
        }));
    }
    if !admits(&table, client.identity.as_ref(), false) {
        turn_away(&shared, &table, &client, &stream);
        return Ok(done());
    }
    Ok(seen(shared, slot, (first, stream), client, otherwise, Some(parked::park)))
}

/// Serves a client that may speak from now on.
pub(crate) async fn serve_plain<S>(
    shared: &Arc<Shared>,
    slot: &Arc<Slot>,
    mut stream: S,
    client: Client,
    otherwise: Option<&Arc<Backend>>,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let settings = &shared.settings;
    let first = Box::pin(asked(&mut stream, patience(settings, otherwise), settings, &slot.life)).await?;
    let Some(first) = first else { return Ok(()) };
    seen(Arc::clone(shared), Arc::clone(slot), (first, stream), client, otherwise.cloned(), None).await
}

/// Serves a client whose first bytes are known.
fn seen<S>(
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    (first, stream): (First, S),
    client: Client,
    otherwise: Option<Arc<Backend>>,
    park: Option<Park<S>>,
) -> Way
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let First { bytes: prefix, looks, at, late } = first;
    match (looks, otherwise) {
        (Looks::Http2, _) => Box::pin(serve_http2(shared, slot, Prefixed::new(prefix, stream), client)),
        (Looks::Http1, _) => serve_http1(caller(&shared, &slot, client), (prefix, stream), at, park),
        (Looks::Other | Looks::Unclear, Some(backend)) => {
            let bytes = if is_tls(&prefix) { tunnel::Bytes::Sealed } else { tunnel::Bytes::Open };
            carried(shared, slot, (client, bytes), Prefixed::new(prefix, stream), backend)
        }
        (Looks::Unclear, None) if prefix.is_empty() || late => done(),
        // What is no HTTP gets its answer from the parser.
        (Looks::Other | Looks::Unclear, None) => {
            serve_http1(caller(&shared, &slot, client), (prefix, stream), at, park)
        }
    }
}

/// Has a client open TLS, and finds out what it speaks within.
async fn within_tls(
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    stream: TcpStream,
    client: Client,
    config: Arc<rustls::ServerConfig>,
) -> Result<Way, Broken> {
    let handshake = TlsAcceptor::from(config).accept(stream);
    let stream = tokio::select! {
        stream = tokio::time::timeout(shared.settings.handshake_timeout, handshake) => stream??,
        () = slot.life.forced() => return Ok(done()),
    };
    let server_name = stream.get_ref().1.server_name().map(|name| name.to_ascii_lowercase().into());
    let client = Client { scheme: "https", server_name, ..client };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        Ok(Box::pin(serve_http2(shared, slot, stream, client)))
    } else {
        Ok(serve_http1(caller(&shared, &slot, client), (Bytes::new(), stream), Instant::now(), None))
    }
}

fn caller(shared: &Arc<Shared>, slot: &Arc<Slot>, client: Client) -> Arc<Caller> {
    let told = client.identity.as_deref().and_then(headers::vouched);
    Arc::new(Caller { told, ..unnamed(shared, slot, client) })
}

/// A caller whose requests leave: nobody out there is told anything of it.
pub(crate) fn leaving_caller(shared: &Arc<Shared>, slot: &Arc<Slot>, client: Client) -> Arc<Caller> {
    Arc::new(Caller { leaving: Some(client.ground), ..unnamed(shared, slot, client) })
}

fn unnamed(shared: &Arc<Shared>, slot: &Arc<Slot>, client: Client) -> Caller {
    Caller {
        shared: Arc::clone(shared),
        slot: Arc::clone(slot),
        // An address is always a valid value.
        address: HeaderValue::try_from(client.peer.ip().to_canonical().to_string())
            .unwrap_or(HeaderValue::from_static("unknown")),
        scheme: client.scheme,
        told: None,
        identity: client.identity,
        server_name: client.server_name,
        held: client.held,
        leaving: None,
        active: AtomicUsize::new(0),
        begun: AtomicU64::new(0),
    }
}

/// Serves a client of HTTP/1.1, of which some bytes were read already. The time for its first head counts from `since`.
fn serve_http1<S>(caller: Arc<Caller>, (read, stream): (Bytes, S), since: Instant, park: Option<Park<S>>) -> Way
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let by_hyper = |caller, read, since, stream| Box::pin(serve_by_hyper(caller, since, Prefixed::new(read, stream)));
    match caller.shared.settings.by_hand {
        true => Box::pin(downstream::serve(caller, (read, stream), since, by_hyper, park)),
        false => by_hyper(caller, read, since, stream),
    }
}

/// Goes on to serve a connection that was parked.
pub(crate) fn resume(parked: Parked) {
    let peer = parked.peer;
    if let Err(error) = go_on(parked) {
        tracing::debug!(%peer, %error, "a client's connection ended while it was parked");
    }
}

fn go_on(parked: Parked) -> io::Result<()> {
    let Parked { shared, slot, socket, peer, identity, held, since, tracked } = parked;
    // Read here, as the runtime has not heard of the socket yet: what has come is answered, even if the listener drains.
    let (read, since) = match landing::read_now(&socket, Bytes::copy_from_slice)? {
        Some(read) if read.is_empty() => return Ok(()),
        Some(read) => (read, Instant::now()),
        None => (Bytes::new(), since),
    };
    let (stream, held) = (TcpStream::from_std(socket)?, Arc::new(held));
    // On which ground it was made counts no more, as it is known who it is.
    let client = Client { ground: Ground::Machine, peer, scheme: "http", identity, server_name: None, held };
    let way = serve_http1(caller(&shared, &slot, client), (read, stream), since, Some(parked::park));
    let named = Arc::clone(&slot);
    slot.tasks.spawn(async move {
        if let Err(error) = way.await {
            tracing::debug!(listener = &*named.table.load().id, %peer, %error, "a client's connection ended");
        }
    });
    drop(tracked);
    Ok(())
}

async fn serve_by_hyper<S>(caller: Arc<Caller>, since: Instant, stream: S) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (shared, slot) = (Arc::clone(&caller.shared), Arc::clone(&caller.slot));
    let settings = &shared.settings;
    let mut builder = http1::Builder::new();
    let term = Arc::new(Term::new(settings.header_timeout, since));
    builder.timer(HeadTimer::new(&term)).header_read_timeout(settings.header_timeout);
    builder.max_header_size(settings.max_head_bytes);
    builder.max_buf_size(settings.max_head_bytes.max(8192) + 8192);
    if settings.max_headers != DEFAULT_HEADERS {
        builder.max_headers(settings.max_headers);
    }
    let asked = Arc::clone(&caller);
    let under_way = move || asked.active.load(Ordering::Relaxed) > 0;
    // In a box, which is there while there is a request and not while a connection waits for one.
    let answers = Arc::clone(&term);
    let service = service_fn(move |request: Request<Incoming>| {
        let (caller, answers) = (Arc::clone(&caller), Arc::clone(&answers));
        Box::pin(async move {
            let mut answered = request::serve(caller, request.map(Into::into)).await;
            if let Ok(answer) = &mut answered {
                answer.body_mut().is_taken_by(&answers);
            }
            answered
        })
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(watched(stream, &term)), service).with_upgrades());
    let sees = Sees { idle: || false, under_way, due: || term.due() };
    drive(connection.as_mut(), |connection| connection.graceful_shutdown(), &slot.life, settings, sees).await
}

/// What hyper takes without making room for it on the heap.
const DEFAULT_HEADERS: usize = 100;

async fn serve_http2<S>(shared: Arc<Shared>, slot: Arc<Slot>, stream: S, client: Client) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let caller = caller(&shared, &slot, client);
    let settings = &shared.settings;
    let asked = Arc::clone(&caller);
    let mut seen = 0;
    // Idle when nothing is under way and nothing was begun since the last look.
    let idle = move || {
        let begun = asked.begun.load(Ordering::Relaxed);
        let idle = begun == seen && asked.active.load(Ordering::Relaxed) == 0;
        seen = begun;
        idle
    };
    let mut connection = pin!(http2::serve(stream, caller, settings));
    // Streams are told apart from the connection: what is under way need not know that this ends.
    let sees = Sees { idle, under_way: || false, due: || None };
    drive(connection.as_mut(), |connection| connection.finish(), &slot.life, settings, sees).await
}

/// What [`drive`] is told of a connection.
pub(crate) struct Sees<I, U, W> {
    /// Whether it has done nothing since the last time.
    pub(crate) idle: I,
    /// Whether an answer is being made that has to say that it is the last.
    pub(crate) under_way: U,
    /// When it wants to be polled at the latest.
    pub(crate) due: W,
}

/// Polls a connection to its end; tells it to finish when its listener drains, ends it when that takes too long.
pub(crate) async fn drive<C, E>(
    mut connection: Pin<&mut C>,
    finish: impl Fn(Pin<&mut C>),
    life: &Life,
    settings: &Settings,
    mut sees: Sees<impl FnMut() -> bool, impl Fn() -> bool, impl Fn() -> Option<Instant>>,
) -> Ended
where
    C: Future<Output = Result<(), E>>,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let tick = (settings.header_timeout / 2).max(Duration::from_millis(1));
    let mut clock = pin!(tokio::time::sleep(tick));
    let mut draining = pin!(life.draining());
    let mut forced = pin!(life.forced());
    let (mut registered, mut finishing) = (false, false);
    std::future::poll_fn(|cx| {
        loop {
            // An answer may be ready at the same time as the end; it then says so.
            if registered && !finishing && life.changed() && (sees.under_way)() {
                finishing = true;
                finish(connection.as_mut());
            }
            // First of all, so that a request that has arrived already is begun before anything is finished.
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended.map_err(Into::into));
            }
            let mut finish_now = false;
            // Looked at once to be woken, and then only when there is something to see: this runs several times a request.
            if !registered || life.changed() {
                if !registered {
                    // What is awaited is known only now, and may have been for a while.
                    clock.as_mut().reset(patience::first_look(tick, (sees.due)().map(Into::into)));
                }
                registered = true;
                finish_now = !finishing && draining.as_mut().poll(cx).is_ready();
                if forced.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ok(()));
                }
            }
            let mut ticked = false;
            while clock.as_mut().poll(cx).is_ready() {
                clock.as_mut().reset(patience::next_look(tick, (sees.due)().map(Into::into)));
                ticked = true;
                finish_now |= !finishing && (sees.idle)();
            }
            if finish_now {
                finishing = true;
                finish(connection.as_mut());
            }
            if !finish_now && !ticked {
                return Poll::Pending;
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_told_by_their_first_bytes() {
        for (bytes, expected) in [
            (&b""[..], Looks::Unclear),
            (b"GE", Looks::Unclear),
            (b"GET ", Looks::Unclear),
            (b"GET /", Looks::Http1),
            (b"OPTIONS *", Looks::Http1),
            (b"GET http://x/", Looks::Http1),
            (b"CONNECT a:1", Looks::Http1),
            (b"VERSION-CONTROL /", Looks::Http1),
            (b"P", Looks::Unclear),
            (b"POST /", Looks::Http1),
            (b"PRI * HT", Looks::Unclear),
            (PREFACE, Looks::Http2),
            (b"PING\r\n", Looks::Other),
            (b"*1\r\n$4\r\nPING\r\n", Looks::Other),
            (b"\x16\x03\x01", Looks::Other),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Looks::Other),
            (b"get /", Looks::Other),
            (b"ABCDEFGHIJKLMNOPQ", Looks::Other),
            (b" /", Looks::Other),
        ] {
            assert_eq!(looks(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
