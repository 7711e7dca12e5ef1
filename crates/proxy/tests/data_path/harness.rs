//! Endpoints, clients and snapshots for tests. Everything listens on port 0 and ends with the test.

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proxy::snapshot::*;
use proxy::{Handle, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// Nothing in a test takes longer than this unless something is wrong.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// Between two looks at a condition.
pub(crate) const PAUSE: Duration = Duration::from_millis(1);

pub(crate) type ServedBody = BoxBody<Bytes, hyper::Error>;

pub(crate) fn text(text: impl Into<Bytes>) -> ServedBody {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("took too long")
}

/// Waits for a condition.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    soon(async {
        while !holds() {
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await;
}

/// A server that a proxy sends to. It ends when dropped.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Upstream {
    /// Serves HTTP/1.1 and HTTP/2 with a function.
    pub(crate) async fn http<F, R>(serve: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response<ServedBody>> + Send + 'static,
    {
        Self::raw(move |stream| {
            let serve = serve.clone();
            async move {
                let service = service_fn(move |request| {
                    let answer = serve(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                // A client that goes away is its own affair.
                let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            }
        })
        .await
    }

    /// Answers everything with its name.
    pub(crate) async fn named(name: &'static str) -> Self {
        Self::http(move |_| async move { Response::new(text(name)) }).await
    }

    /// Answers with what it was asked, one line for each part.
    pub(crate) async fn echo() -> Self {
        Self::http(|request| async move {
            let mut said = format!("{} {}\n", request.method(), request.uri());
            for (name, value) in request.headers() {
                said.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
            }
            let body = request.into_body().collect().await.expect("a whole body").to_bytes();
            said.push('\n');
            said.push_str(&String::from_utf8_lossy(&body));
            Response::new(text(said))
        })
        .await
    }

    /// Serves each connection with a function.
    pub(crate) async fn raw<F, R>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
            }
        });
        Self { address, accepting }
    }
}

/// An address that nobody listens on. It is kept from all others until the end of this process: a port that was free a moment ago is
/// given to the next who asks for any.
pub(crate) async fn nobody() -> SocketAddr {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let address = socket.local_addr().expect("an address");
    std::mem::forget(socket);
    address
}

/// An address of this machine that is nobody else's, so that what is free on it stays free: all others listen on 127.0.0.1.
pub(crate) fn alone() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    IpAddr::from([127, 32 + NEXT.fetch_add(1, Ordering::Relaxed) % 32, high, low])
}

/// A running proxy.
pub(crate) struct Running {
    pub(crate) handle: Handle,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), proxy::RunError>>,
}

pub(crate) fn start(settings: Settings) -> Running {
    start_with(settings, proxy::Dependencies::default())
}

/// Starts a proxy. Limits that a test does not set are such that a busy machine does not come to them.
pub(crate) fn start_with(mut settings: Settings, dependencies: proxy::Dependencies) -> Running {
    let usual = Settings::default();
    for (set, usual) in [
        (&mut settings.drain, usual.drain),
        (&mut settings.connect_timeout, usual.connect_timeout),
        (&mut settings.greeting, usual.greeting),
        (&mut settings.handshake_timeout, usual.handshake_timeout),
    ] {
        if *set == usual {
            *set = LIMIT;
        }
    }
    if settings.sniff_wait == usual.sniff_wait {
        settings.sniff_wait = Duration::from_secs(4);
    }
    let (proxy, handle) = proxy::build(settings, dependencies);
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(proxy.run(shutdown.clone()));
    Running { handle, shutdown, task }
}

/// A proxy that serves `snapshot`, and the address of its listener `l`.
pub(crate) async fn serving(snapshot: Snapshot) -> (Running, SocketAddr) {
    let running = start(Settings::default());
    running.handle.apply(snapshot).await.expect("a good snapshot");
    let address = running.address("l");
    (running, address)
}

/// The same without threads of its own: what it does happens on the thread of the test, in an order that can be relied upon.
pub(crate) async fn serving_here(snapshot: Snapshot) -> (Running, SocketAddr) {
    let running = start(Settings { threads: 0, ..Settings::default() });
    running.handle.apply(snapshot).await.expect("a good snapshot");
    let address = running.address("l");
    (running, address)
}

impl Running {
    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        self.handle.bound(listener).expect("a listener").expect("bound")
    }
}

pub(crate) fn listener(id: &str, protocol: ListenerProtocol, rules: Vec<Rule>) -> Listener {
    Listener {
        id: id.into(),
        bind: ([127, 0, 0, 1], 0).into(),
        fallback: None,
        protocol,
        forwarded: Forwarded::Replace,
        admits: proxy::snapshot::Admits::Anybody,
        peer_name: None,
        shows: None,
        for_callers: Vec::new(),
        hosts: vec![VirtualHost { host: HostMatch::Any, rules }],
    }
}

pub(crate) fn rule(backends: &[(&str, u32)]) -> Rule {
    let weighted = |(id, weight): &(&str, u32)| Weighted {
        backend: (*id).into(),
        weight: *weight,
        filters: Vec::new(),
        policy: None,
    };
    Rule {
        id: "r".into(),
        matches: Match::default(),
        filters: Vec::new(),
        action: Action::Forward { backends: backends.iter().map(weighted).collect() },
        timeouts: Timeouts::default(),
        client: None,
        guard: Guard::default(),
    }
}

pub(crate) fn backend(protocol: BackendProtocol, endpoints: &[SocketAddr]) -> Backend {
    let endpoints = endpoints.iter().map(|address| Endpoint::plain(*address)).collect();
    Backend { endpoints, protocol, ..Backend::default() }
}

/// One HTTP listener `l`, with these rules and backends.
pub(crate) fn routes(rules: Vec<Rule>, backends: &[(&str, Vec<SocketAddr>)]) -> Snapshot {
    let backends = backends.iter().map(|(id, to)| ((*id).into(), backend(BackendProtocol::Auto, to))).collect();
    Snapshot { listeners: vec![listener("l", ListenerProtocol::Http, rules)], backends, ..Snapshot::default() }
}

/// Everything to these endpoints.
pub(crate) fn all_to(endpoints: &[SocketAddr]) -> Snapshot {
    routes(vec![rule(&[("b", 1)])], &[("b", endpoints.to_vec())])
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) trailers: Option<HeaderMap>,
}

pub(crate) async fn read(response: Response<Incoming>) -> Result<Answer, hyper::Error> {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned();
    let body = String::from_utf8_lossy(&collected.to_bytes()).into_owned();
    Ok(Answer { status: parts.status, headers: parts.headers, body, trailers })
}

/// A client with one connection.
pub(crate) struct Client<B: hyper::body::Body + 'static> {
    pub(crate) sender: Sender<B>,
    _driver: JoinSet<()>,
}

pub(crate) enum Sender<B> {
    Http1(hyper::client::conn::http1::SendRequest<B>),
    Http2(hyper::client::conn::http2::SendRequest<B>),
}

impl<B> Client<B>
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub(crate) async fn http1(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connects");
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.with_upgrades().await) });
        Self { sender: Sender::Http1(sender), _driver: driver }
    }

    pub(crate) async fn http2(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connects");
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.expect("a handshake");
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });
        Self { sender: Sender::Http2(sender), _driver: driver }
    }

    pub(crate) async fn send(&mut self, request: Request<B>) -> Result<Response<Incoming>, hyper::Error> {
        soon(async {
            match &mut self.sender {
                Sender::Http1(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
                Sender::Http2(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
            }
        })
        .await
    }
}

/// Asks once over a connection of its own.
pub(crate) async fn ask(address: SocketAddr, request: Request<ServedBody>) -> Answer {
    let mut client = Client::http1(address).await;
    soon(read(client.send(request).await.expect("an answer"))).await.expect("a whole answer")
}

pub(crate) fn get(target: &str) -> Request<ServedBody> {
    Request::get(target).header("host", "a.test").body(text("")).expect("a request")
}

/// Sends bytes and reads all there is until the other side closes.
pub(crate) async fn raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    // Who is answered before all was read may find the connection closed; that shows in what is read.
    let _ = stream.write_all(bytes.as_ref()).await;
    let mut all = Vec::new();
    // A reset after the answer is an end as well.
    let _ = soon(stream.read_to_end(&mut all)).await;
    String::from_utf8_lossy(&all).into_owned()
}

/// Reads until what was read contains `needle`.
pub(crate) async fn read_until(stream: &mut (impl tokio::io::AsyncRead + Unpin), needle: &str) -> String {
    let mut all = Vec::new();
    soon(async {
        while !String::from_utf8_lossy(&all).contains(needle) {
            assert_ne!(stream.read_buf(&mut all).await.expect("reads"), 0, "ended before {needle:?}");
        }
    })
    .await;
    String::from_utf8_lossy(&all).into_owned()
}

/// Counts something.
#[derive(Clone, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    pub(crate) fn add(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}
