//! Limits of time: of heads, of calls that have a deadline, of uploads, and of clients that take nothing. They end what they are for and nothing
//! else.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use proxy::Settings;
use proxy::policy::{Concurrency, Policy};
use proxy::snapshot::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::harness::*;
use crate::http2::{connected, ok_trailers, served};
use crate::policies::{scoped, under};
use crate::protocols::certificate;
use crate::secure::connect;

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire for S {}

/// How long heads may take here. Those that are in time take a little more than half of it, so that a busy machine has the rest.
const HEAD: Duration = Duration::from_secs(24);

/// Sends a part of a head every now and then, all of it after `whole`; how long it took until there was an answer or an end, and which.
async fn drips(mut stream: Box<dyn Wire>, whole: Duration) -> (bool, Duration) {
    let began = Instant::now();
    stream.write_all(b"GET /slow HTTP/1.1\r\nhost: a.test\r\n").await.expect("sends");
    let (mut answers, mut out) = tokio::io::split(stream);
    let dripping = async {
        while began.elapsed() < whole {
            tokio::time::sleep(Duration::from_millis(200)).await;
            // Where it has ended, that shows in what is read.
            let _ = out.write_all(b"x: y\r\n").await;
        }
        let _ = out.write_all(b"\r\n").await;
        std::future::pending::<()>().await;
    };
    let mut answer = [0; 12];
    let reading = async { answers.read_exact(&mut answer).await.is_ok() };
    let answered = tokio::select! {
        answered = tokio::time::timeout(HEAD + LIMIT, reading) => answered.expect("an end"),
        () = dripping => false,
    };
    (answered, began.elapsed())
}

/// Has one request answered, and is idle for a while then.
async fn used(mut stream: Box<dyn Wire>, idle: Duration) -> Box<dyn Wire> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await.expect("sends");
    read_until(&mut stream, "[served]").await;
    tokio::time::sleep(idle).await;
    stream
}

/// A proxy with a plain listener `l` and one with TLS, `s`.
async fn both(by_hand: bool, upstream: &Upstream, roots: &mut rustls::RootCertStore) -> Running {
    let mut snapshot = all_to(&[upstream.address]);
    let certificates = vec![certificate("a.test", roots)];
    let protocol = ListenerProtocol::Https { certificates, clients: None, apart: Vec::new() };
    snapshot.listeners.push(listener("s", protocol, vec![rule(&[("b", 1)])]));
    let proxy = start(Settings { by_hand, header_timeout: HEAD, ..Settings::default() });
    proxy.handle.apply(snapshot).await.expect("a good snapshot");
    proxy
}

#[tokio::test]
async fn a_head_has_its_time_from_its_first_byte_to_its_last() {
    let upstream = Upstream::named("[served]").await;
    let mut roots = rustls::RootCertStore::empty();
    let ours = both(true, &upstream, &mut roots).await;
    let hypers = both(false, &upstream, &mut roots).await;
    let (roots, never) = (&roots, HEAD * 10);
    let each = [(&ours, "l"), (&ours, "s"), (&hypers, "l"), (&hypers, "s")];
    let ways = each.into_iter().flat_map(|(proxy, listener)| [false, true].map(|kept| (proxy, listener, kept)));
    let tried = ways.map(|(proxy, listener, kept)| async move {
        let open = async || -> Box<dyn Wire> {
            let address = proxy.address(listener);
            match listener {
                "l" => Box::new(TcpStream::connect(address).await.expect("connects")) as Box<dyn Wire>,
                _ => Box::new(connect(address, "a.test", roots).await.expect("a handshake")),
            }
        };
        let opened = async || if kept { used(open().await, HEAD * 6 / 10).await } else { open().await };
        let in_time = async { drips(opened().await, HEAD * 6 / 10).await };
        let stalled = async { drips(opened().await, never).await };
        let ((answered, _), (late, after)) = tokio::join!(in_time, stalled);
        let which = format!("{listener}, kept: {kept}, {after:?}");
        assert!(answered, "its time was cut short: {which}");
        // Nothing came of it before its time, and it did not wait for a head that goes on for ever.
        assert!(!late && after > HEAD * 9 / 10, "{which}");
    });
    futures::future::join_all(tried).await;
}

/// A deadline before which an answer has begun on a busy machine as well.
const DEADLINE: &str = "8S";

/// A call of gRPC with a deadline.
fn call(deadline: &str) -> Request<()> {
    let call = Request::post("http://a.test/x.Y/Z").header("content-type", "application/grpc");
    call.header("te", "trailers").header("grpc-timeout", deadline).body(()).expect("a request")
}

/// A server that begins answers with so many bytes and never ends them. It tells why it was left.
async fn begins(bytes: usize) -> (Upstream, mpsc::Receiver<Option<Reason>>) {
    let (tell, told) = mpsc::channel(16);
    let upstream = served(move |request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>| {
        let tell = tell.clone();
        async move {
            let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
            let mut stream = respond.send_response(head, false).expect("a stream");
            stream.send_data(vec![b'x'; bytes].into(), false).expect("a stream");
            let left = std::future::poll_fn(|cx| stream.poll_reset(cx)).await.ok();
            drop(request);
            tell.send(left).await.expect("somebody waits");
        }
    })
    .await;
    (upstream, told)
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_also_where_its_answer_has_begun() {
    let (upstream, mut told) = begins(3).await;
    let (proxy, address) = serving(all_to(&[upstream.address])).await;
    let (sender, _driver) = connected(address).await;
    let mut sender = soon(sender.ready()).await.expect("a connection");
    // The client goes on sending, as in a stream.
    let (answer, _open) = sender.send_request(call(DEADLINE), false).expect("a stream");
    let mut answer = soon(answer).await.expect("an answer").into_body();
    assert_eq!(soon(answer.data()).await.expect("data").expect("data"), "xxx");
    assert!(soon(answer.data()).await.is_none(), "no more data");
    let trailers = soon(answer.trailers()).await.expect("an end").expect("trailers");
    assert_eq!(trailers["grpc-status"], "4", "{trailers:?}");
    assert_eq!(soon(told.recv()).await, Some(Some(Reason::CANCEL)), "the endpoint is told");
    until(|| proxy.handle.stats().in_flight == 0).await;
}

#[tokio::test]
async fn a_call_that_cannot_be_told_of_its_deadline_is_cut_off() {
    // Of HTTP/2, as nothing more fits into the window.
    let (upstream, mut told) = begins(1 << 20).await;
    let recording = proxy::Recording { all: false, ratio: 0.0, per_second: 0 };
    let (proxy, address, notebook) = crate::observed::observed(all_to(&[upstream.address]), recording).await;
    let (sender, _driver) = connected(address).await;
    let mut sender = soon(sender.ready()).await.expect("a connection");
    let (answer, _open) = sender.send_request(call(DEADLINE), false).expect("a stream");
    let mut answer = soon(answer).await.expect("an answer").into_body();
    let cut = async {
        loop {
            if let Err(error) = answer.data().await.expect("no end") {
                return error.reason();
            }
        }
    };
    assert_eq!(soon(cut).await, Some(Reason::CANCEL));
    assert_eq!(soon(told.recv()).await, Some(Some(Reason::CANCEL)), "the endpoint is told");
    until(|| proxy.handle.stats().in_flight == 0).await;
    let exchange = notebook.only().await;
    assert_eq!((exchange.grpc_status, exchange.reason), (Some(4), Some("deadline")), "{exchange:?}");
    // Of HTTP/1.1, where trailers may be dropped on the way, so that a part would pass for the whole.
    let head = format!(
        "POST /x.Y/Z HTTP/1.1\r\nhost: a.test\r\ncontent-type: application/grpc\r\ngrpc-timeout: {DEADLINE}\r\n"
    );
    let (small, mut told) = begins(3).await;
    proxy.handle.apply(all_to(&[small.address])).await.expect("a good snapshot");
    let answer = raw(address, format!("{head}te: trailers\r\ncontent-length: 0\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("xxx") && !answer.contains("0\r\n\r\n"), "{answer}");
    assert_eq!(soon(told.recv()).await, Some(Some(Reason::CANCEL)));
    let exchange = notebook.only().await;
    assert_eq!((exchange.grpc_status, exchange.reason), (Some(4), Some("deadline")), "{exchange:?}");
}

/// How an answer without end was left: how long nothing more of it was taken before that.
pub(crate) type Left = mpsc::Receiver<Duration>;

/// A server that answers over HTTP/2 for as long as somebody takes it.
async fn pours_http2() -> (Upstream, Left) {
    let (tell, told) = mpsc::channel(16);
    let upstream = served(move |request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>| {
        let tell = tell.clone();
        async move {
            let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
            let mut stream = respond.send_response(head, false).expect("a stream");
            let mut taken = Instant::now();
            stream.reserve_capacity(POURED);
            while let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                taken = Instant::now();
                stream.send_data(vec![b'x'; room].into(), false).expect("a stream");
                stream.reserve_capacity(POURED);
            }
            drop(request);
            tell.send(taken.elapsed()).await.expect("somebody waits");
        }
    })
    .await;
    (upstream, told)
}

/// The same over HTTP/1.1.
pub(crate) async fn pours_http1() -> (Upstream, Left) {
    let (tell, told) = mpsc::channel(16);
    let upstream = Upstream::raw(move |mut stream| {
        let tell = tell.clone();
        async move {
            let head = read_until(&mut stream, "\r\n\r\n").await;
            assert!(head.contains("HTTP/1.1") && head.contains("grpc-timeout"), "{head}");
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ncontent-length: {}\r\n\r\n", 1_u64 << 40);
            stream.write_all(head.as_bytes()).await.expect("sends");
            let part = vec![b'x'; 16 * POURED];
            let mut taken = Instant::now();
            while stream.write(&part).await.is_ok() {
                taken = Instant::now();
            }
            tell.send(taken.elapsed()).await.expect("somebody waits");
        }
    })
    .await;
    (upstream, told)
}

const POURED: usize = 16 * 1024;

/// Who makes a call and reads nothing of its answer, for as long as this is held.
#[derive(Clone, Copy, Debug)]
enum Mute {
    /// Over HTTP/1.1, without a body and with one.
    Http1,
    Upload,
    Http2,
}

async fn mute(by: Mute, address: std::net::SocketAddr, seconds: u64) -> Box<dyn std::any::Any> {
    if let Mute::Http2 = by {
        let (sender, driver) = connected(address).await;
        let mut sender = soon(sender.ready()).await.expect("a connection");
        let call = sender.send_request(call(&format!("{seconds}S")), true).expect("a stream");
        return Box::new((sender, driver, call));
    }
    let mut client = TcpStream::connect(address).await.expect("connects");
    let (method, rest) = match by {
        Mute::Upload => ("POST", "content-length: 5\r\n\r\nhello"),
        _ => ("GET", "\r\n"),
    };
    let head = format!("{method} /x.Y/Z HTTP/1.1\r\nhost: a.test\r\ncontent-type: application/grpc\r\n");
    client.write_all(format!("{head}grpc-timeout: {seconds}S\r\n{rest}").as_bytes()).await.expect("sends");
    Box::new(client)
}

/// How many calls there are at once: with some, the last write has left room for more in the proxy, and with some not.
const CALLS: usize = 6;

/// Deadlines that pass before all places on the way are full show nothing: whoever answers is then told when it has more to say. Whether that was so
/// is told by its own clock alone, and a longer one tried.
async fn ends_at_its_deadline(by: Mute) {
    let tried = [BackendProtocol::Http1, BackendProtocol::H2c].map(|to| async move {
        let (upstream, mut left) = if to == BackendProtocol::H2c { pours_http2().await } else { pours_http1().await };
        let mut snapshot = all_to(&[upstream.address]);
        snapshot.backends.values_mut().for_each(|backend| backend.protocol = to);
        let recording = proxy::Recording { all: false, ratio: 0.0, per_second: 0 };
        let (proxy, address, notebook) = crate::observed::observed(snapshot, recording).await;
        for seconds in [2, 8, 30] {
            let clients = futures::future::join_all((0..CALLS).map(|_| mute(by, address, seconds))).await;
            let mut still = Duration::ZERO;
            for _ in 0..CALLS {
                let left = tokio::time::timeout(LIMIT, left.recv()).await;
                let left = left.unwrap_or_else(|_| panic!("{by:?} {to:?}: it goes on")).expect("a server");
                still = still.max(left);
            }
            until(|| proxy.handle.stats().in_flight == 0 && notebook.len() == CALLS).await;
            for exchange in notebook.take() {
                assert_eq!((exchange.grpc_status, exchange.reason), (Some(4), Some("deadline")), "{by:?} {to:?}");
            }
            drop(clients);
            if still > Duration::from_millis(300) {
                return;
            }
        }
        panic!("{by:?} {to:?}: nothing has ever stood still");
    });
    futures::future::join_all(tried).await;
}

#[tokio::test]
async fn a_call_of_http1_whose_client_reads_nothing_ends_at_its_deadline() {
    ends_at_its_deadline(Mute::Http1).await;
}

#[tokio::test]
async fn a_call_of_http1_with_a_body_whose_client_reads_nothing_ends_at_its_deadline() {
    ends_at_its_deadline(Mute::Upload).await;
}

#[tokio::test]
async fn a_call_of_http2_whose_client_reads_nothing_ends_at_its_deadline() {
    ends_at_its_deadline(Mute::Http2).await;
}

/// How long requests may stand still here, and how long uploads take that never do.
const USUAL: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_secs(1);
/// In so many steps.
const PARTS: usize = 12;

/// Sends parts of a body of ten bytes for a while; the answer.
async fn uploads(address: std::net::SocketAddr, parts: usize) -> String {
    uploads_to(address, "/", parts).await
}

async fn uploads_to(address: std::net::SocketAddr, target: &str, parts: usize) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let head =
        format!("POST {target} HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\ncontent-length: {PARTS}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sends");
    for _ in 0..parts {
        // The client's pace, which nothing waits for.
        tokio::time::sleep(STEP).await;
        stream.write_all(b"x").await.expect("sends");
    }
    let mut answer = String::new();
    tokio::time::timeout(LIMIT * 2, stream.read_to_string(&mut answer)).await.expect("an end").expect("text");
    answer
}

/// Reads the whole body, and answers how long it is.
async fn measures() -> Upstream {
    Upstream::http(|request| async move {
        let whole = request.into_body().collect().await.expect("a whole body");
        Response::new(text(format!("[{}]", whole.to_bytes().len())))
    })
    .await
}

#[tokio::test]
async fn an_upload_that_goes_on_is_waited_for_and_one_that_stands_still_is_not() {
    let upstream = measures().await;
    let policy =
        Policy { concurrency: scoped(Concurrency { limit: 100, queue: 0, max_wait: LIMIT }), ..Policy::default() };
    let settings = Settings { response_timeout: Some(USUAL), header_timeout: USUAL, ..Settings::default() };
    let each = [BackendProtocol::Http1, BackendProtocol::H2c].into_iter().flat_map(|protocol| {
        [all_to(&[upstream.address]), under(policy.clone(), &[upstream.address])].map(|snapshot| (protocol, snapshot))
    });
    let tried = each.map(|(protocol, mut snapshot)| {
        let settings = settings.clone();
        async move {
            snapshot.backends.values_mut().for_each(|backend| backend.protocol = protocol);
            let proxy = start(settings);
            proxy.handle.apply(snapshot).await.expect("a good snapshot");
            let address = proxy.address("l");
            let (goes_on, stands) = tokio::join!(uploads(address, PARTS), uploads(address, 3));
            assert!(goes_on.starts_with("HTTP/1.1 200") && goes_on.ends_with("[12]"), "{protocol:?}: {goes_on}");
            assert!(stands.starts_with("HTTP/1.1 408"), "{protocol:?}: {stands}");
        }
    });
    // Nothing but the parts on the way makes it wait for so long.
    const { assert!(STEP.as_secs() * PARTS as u64 > USUAL.as_secs()) };
    futures::future::join_all(tried).await;
}

#[tokio::test]
async fn an_upload_by_the_way_out_is_waited_for_while_it_goes_on() {
    let upstream = measures().await;
    let mut exit = listener("l", ListenerProtocol::Egress { limits: Vec::new(), ways: Vec::new() }, Vec::new());
    exit.hosts.clear();
    let proxy = start(Settings { response_timeout: Some(USUAL), header_timeout: USUAL, ..Settings::default() });
    let snapshot = proxy::Snapshot { listeners: vec![exit], ..proxy::Snapshot::default() };
    proxy.handle.apply(snapshot).await.expect("a good snapshot");
    let (address, target) = (proxy.address("l"), format!("http://{}/", upstream.address));
    let (goes_on, stands) = tokio::join!(uploads_to(address, &target, PARTS), uploads_to(address, &target, 3));
    assert!(goes_on.starts_with("HTTP/1.1 200") && goes_on.ends_with("[12]"), "{goes_on}");
    assert!(stands.starts_with("HTTP/1.1 408"), "{stands}");
}

#[tokio::test]
async fn a_stream_of_grpc_that_goes_on_is_waited_for() {
    let upstream = served(async |request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>| {
        let mut body = request.into_body();
        while let Some(data) = body.data().await {
            let length = data.expect("data").len();
            body.flow_control().release_capacity(length).expect("room");
        }
        let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
        respond.send_response(head, false).expect("a stream").send_trailers(ok_trailers()).expect("a stream");
    })
    .await;
    let policy =
        Policy { concurrency: scoped(Concurrency { limit: 100, queue: 0, max_wait: LIMIT }), ..Policy::default() };
    let tried = [all_to(&[upstream.address]), under(policy, &[upstream.address])].map(|snapshot| async move {
        let proxy = start(Settings { response_timeout: Some(USUAL), header_timeout: USUAL, ..Settings::default() });
        proxy.handle.apply(snapshot).await.expect("a good snapshot");
        let (sender, _driver) = connected(proxy.address("l")).await;
        let mut sender = soon(sender.ready()).await.expect("a connection");
        let (answer, mut body) = sender.send_request(call("1H"), false).expect("a stream");
        for _ in 0..PARTS {
            tokio::time::sleep(STEP).await;
            body.send_data(Bytes::from_static(b"x"), false).expect("a stream");
        }
        body.send_data(Bytes::new(), true).expect("a stream");
        let answer = soon(answer).await.expect("an answer");
        assert!(!answer.headers().contains_key("grpc-status"), "{answer:?}");
        assert_eq!(soon(answer.into_body().trailers()).await.expect("an end"), Some(ok_trailers()));
    });
    futures::future::join_all(tried).await;
}

/// A client's connection of HTTP/2 whose streams have this window.
async fn windowed(address: std::net::SocketAddr, window: u32) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.expect("connects");
    let handshake = h2::client::Builder::new().initial_window_size(window).handshake(stream);
    let (sender, connection) = handshake.await.expect("a handshake");
    tokio::spawn(async move { drop(connection.await) });
    soon(sender.ready()).await.expect("a connection")
}

fn asks(length: usize) -> Request<()> {
    Request::get(format!("http://a.test/{length}")).body(()).expect("a request")
}

#[tokio::test]
async fn streams_of_clients_that_take_nothing_end_and_their_connections_do_not() {
    let upstream = Upstream::http(|request| async move {
        let length = request.uri().path()[1..].parse().expect("a length");
        Response::new(text(vec![b'x'; length]))
    })
    .await;
    let stalled = Duration::from_secs(6);
    let proxy = start(Settings { stalled, ..Settings::default() });
    proxy.handle.apply(all_to(&[upstream.address])).await.expect("a good snapshot");
    let address = proxy.address("l");
    // Whatever is left when the window is closed: much, little, or all of it.
    for (window, lengths) in [(0, [5, 20_000, 2 << 20]), (1000, [1001, 20_000, 2 << 20])] {
        let mut sender = windowed(address, window).await;
        let mut waiting = Vec::new();
        for length in lengths {
            let (answer, _) = sender.send_request(asks(length), true).expect("a stream");
            waiting.push((length, soon(answer).await.expect("a head").into_body()));
        }
        for (length, mut body) in waiting {
            let cut = async {
                while let Some(data) = body.data().await {
                    match data {
                        Ok(data) => assert!(data.len() < length),
                        Err(error) => return error.reason(),
                    }
                }
                panic!("{length} of {window} is whole")
            };
            assert_eq!(soon(cut).await, Some(Reason::CANCEL), "{length} of {window}");
        }
        until(|| proxy.handle.stats().in_flight == 0).await;
        let (answer, _) = sender.send_request(asks(0), true).expect("the connection is there");
        assert_eq!(soon(answer).await.expect("an answer").status(), 200);
    }
    // One that takes a little every now and then is slow, which is allowed.
    let mut sender = windowed(address, 1000).await;
    let (answer, _) = sender.send_request(asks(20_000), true).expect("a stream");
    let (mut body, mut read) = (soon(answer).await.expect("a head").into_body(), 0);
    while let Some(data) = soon(body.data()).await {
        read += data.expect("it goes on").len();
        tokio::time::sleep(stalled / 15).await;
        let taken = body.flow_control().used_capacity();
        body.flow_control().release_capacity(taken).expect("room");
    }
    assert_eq!(read, 20_000);
    let trailers: Option<HeaderMap> = soon(body.trailers()).await.expect("an end");
    assert_eq!(trailers, None);
}
