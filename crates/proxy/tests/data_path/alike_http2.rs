//! Requests of HTTP/2 may be passed on as they came, or read into maps: whoever asks cannot tell which, and nor can endpoints, counters or records.
//! The same is asked of a proxy that does the former where it can, and of one that never does.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::{Parts, Scheme, Uri};
use http::{Method, Request, Version};
use proxy::snapshot::Forwarded;
use proxy::{Dependencies, Recording, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::floods::{END_HEADERS, END_STREAM, GET, HEADERS, PREFACE, RST_STREAM, SETTINGS, frame};
use crate::harness::*;
use crate::observed::Notebook;

/// How many bytes the longest body has: more than a stream may carry unread.
const LONG: usize = 600_000;
const THEIRS: &str = "Tue, 15 Nov 1994 08:12:31 GMT";
const TRACE: &str = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01";

/// What endpoints were asked, and leave to go on with an answer.
#[derive(Clone)]
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    go_on: Arc<Semaphore>,
}

impl Log {
    fn len(&self) -> usize {
        self.lines.lock().expect("no panic").len()
    }
}

/// Reads lines up to an empty one; None where the other side has gone.
pub(crate) async fn read_lines(stream: &mut TcpStream) -> Option<String> {
    let mut lines = Vec::new();
    while !lines.ends_with(b"\r\n\r\n") {
        lines.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&lines).into_owned())
}

/// What an endpoint answers to a path; what comes after `|` when the client has the head.
fn script(path: &str) -> String {
    let ok = |rest: &str| format!("HTTP/1.1 200 OK\r\n{rest}");
    match path {
        "/dated" => ok(&format!("Date: {THEIRS}\r\ncontent-length: 1\r\n\r\nx")),
        "/odd" => "HTTP/1.1 299 Odd\r\nset-cookie: a=1\r\nempty:\r\nSet-Cookie: b=2\r\ncontent-length: 3\r\n\r\nodd"
            .to_owned(),
        "/hop" => {
            ok("keep-alive: timeout=5\r\nproxy-connection: x\r\nConnection: keep-alive\r\ncontent-length: 1\r\n\r\nx")
        }
        "/te" => ok("te: gzip\r\ncontent-length: 1\r\n\r\nx"),
        "/close" => ok("connection: close\r\ncontent-length: 1\r\n\r\nx"),
        "/listed" => ok("connection: x-own\r\nx-own: 1\r\ncontent-length: 1\r\n\r\nx"),
        "/empty" => ok("content-length: 0\r\n\r\n"),
        "/zeros" => ok("content-length: 003\r\n\r\nabc"),
        "/twice" => ok("content-length: 3\r\ncontent-length: 3\r\n\r\nabc"),
        "/none" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        "/same" => "HTTP/1.1 304 Not Modified\r\netag: \"e\"\r\ncontent-length: 5\r\n\r\n".to_owned(),
        "/chunks" => ok("transfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n3\r\nabc\r\n0\r\nx-t: v\r\n\r\n"),
        "/until" => ok("\r\nabc"),
        "/long" => ok(&format!("content-length: {LONG}\r\n\r\n{}", "y".repeat(LONG))),
        "/later" => ok("content-length: 6\r\n\r\n|abcdef"),
        "/half" => ok("content-length: 6\r\n\r\nabc|def"),
        // Not before the request has ended.
        "/ends" => format!("|{}", ok("content-length: 1\r\n\r\nx")),
        "/cut" => ok("content-length: 6\r\n\r\nabc|"),
        "/interim" => format!("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n{}", ok("content-length: 1\r\n\r\nx")),
        "/grpc" => ok("content-type: application/grpc\r\ngrpc-status: 5\r\ncontent-length: 0\r\n\r\n"),
        "/garbage" => "no answer\r\n\r\n".to_owned(),
        "/nothing" => String::new(),
        _ => ok("Content-Type: text/plain\r\nServer: x\r\nContent-Length: 5\r\n\r\nplain"),
    }
}

/// Answers one request after the other, as their paths say.
async fn play(mut stream: TcpStream, log: Log) {
    while let Some(head) = read_lines(&mut stream).await {
        // What begins HTTP/2 has two parts of that form.
        let Some((method, target)) = head.split_once(' ') else { return };
        let path = target.split([' ', '?']).next().expect("a path");
        let own = |line: &&str| {
            let new = line.starts_with("x-request-id: ") && line.len() > 40;
            let trace = line.starts_with("traceparent: ") && !line.contains(&TRACE[..36]);
            !new && !trace
        };
        let mut lines: Vec<&str> = head.trim_end().split("\r\n").filter(own).collect();
        // The place in a trace is new with every hop.
        lines.iter_mut().filter(|line| line.starts_with("traceparent: ")).for_each(|line| *line = &line[..49]);
        lines[1..].sort_unstable();
        log.lines.lock().expect("no panic").push(lines.join("|"));
        // A body that is said to come is of no length.
        if head.contains("transfer-encoding: chunked") {
            let Some(end) = read_lines(&mut stream).await else { return };
            log.lines.lock().expect("no panic").push(end);
        }
        let answer = script(path);
        let (now, later) = answer.split_once('|').map_or((&*answer, None), |(now, later)| (now, Some(later)));
        let now = if method == "HEAD" { now.split_inclusive("\r\n\r\n").next().unwrap_or_default() } else { now };
        if stream.write_all(now.as_bytes()).await.is_err() {
            return;
        }
        if let Some(later) = later {
            log.go_on.acquire().await.expect("open").forget();
            if stream.write_all(later.as_bytes()).await.is_err() {
                return;
            }
        }
        if matches!(path, "/until" | "/cut" | "/garbage" | "/nothing" | "/close") {
            return;
        }
    }
}

/// What came of a request over a connection of HTTP/2, as if it had come over HTTP/1.1. `headed` is done once the head is there.
pub(crate) async fn answered(
    sender: &h2::client::SendRequest<bytes::Bytes>,
    request: Request<()>,
    headed: impl FnOnce(),
) -> String {
    answered_after(sender, (request, true), async |_| {}, headed).await
}

/// The same of a request of which `rest` may send more, unless that was its end.
async fn answered_after(
    sender: &h2::client::SendRequest<bytes::Bytes>,
    (request, ended): (Request<()>, bool),
    rest: impl AsyncFnOnce(&mut h2::SendStream<bytes::Bytes>),
    headed: impl FnOnce(),
) -> String {
    let mut sender = soon(sender.clone().ready()).await.expect("the connection is kept");
    let (answer, mut stream) = sender.send_request(request, ended).expect("a stream");
    rest(&mut stream).await;
    let answer = match soon(answer).await {
        Ok(answer) => answer,
        Err(error) => return format!("HTTP/1.1 000 over HTTP/2\r\n{:?}", error.reason()),
    };
    headed();
    let (parts, mut body) = answer.into_parts();
    let (mut all, mut broken) = (Vec::new(), None);
    while let Some(data) = soon(body.data()).await {
        match data {
            Ok(data) => {
                body.flow_control().release_capacity(data.len()).expect("it was there");
                all.extend_from_slice(&data);
            }
            Err(error) => broken = Some(format!("{:?}", error.reason())),
        }
        if broken.is_some() {
            break;
        }
    }
    let trailers = if broken.is_none() { soon(body.trailers()).await.expect("an end") } else { None };
    let mut lines: Vec<String> = [Some(&parts.headers), trailers.as_ref()]
        .into_iter()
        .flatten()
        .flat_map(|headers| headers.iter().map(|(name, value)| (name, String::from_utf8_lossy(value.as_bytes()))))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    lines.sort();
    // How far one gets that breaks off is chance.
    let end = broken.unwrap_or_else(|| {
        let text = String::from_utf8_lossy(&all);
        if text.len() == LONG { format!("{LONG} bytes") } else { text.into_owned() }
    });
    assert_eq!(parts.version, Version::HTTP_2);
    [vec![format!("HTTP/1.1 {} over HTTP/2", parts.status.as_u16())], lines, vec![end]].concat().join("\r\n")
}

/// One side of the comparison.
struct Side {
    running: Running,
    _upstream: Upstream,
    address: SocketAddr,
    log: Log,
    notebook: Arc<Notebook>,
}

async fn side(by_hand: bool, forwarded: Forwarded) -> Side {
    let log = Log { lines: Arc::default(), go_on: Arc::new(Semaphore::new(0)) };
    let (kept, notebook) = (log.clone(), Arc::new(Notebook::default()));
    let upstream = Upstream::raw(move |stream| play(stream, kept.clone())).await;
    let recording = Recording { all: true, ratio: 0.0, per_second: 0 };
    let dependencies = Dependencies { observer: Some(notebook.clone()), ..Dependencies::default() };
    let running = start_with(Settings { by_hand, recording, ..Settings::default() }, dependencies);
    let mut snapshot = all_to(&[upstream.address]);
    snapshot.listeners[0].forwarded = forwarded;
    running.handle.apply(snapshot).await.expect("a good snapshot");
    let address = running.address("l");
    Side { running, _upstream: upstream, address, log, notebook }
}

/// An answer without what differs between any two. The id that it says is its own request's where that has one, and new elsewhere.
fn normal(answer: &str, headers: Headers) -> String {
    let mut lines: Vec<&str> = answer.split(['\r', '\n']).filter(|line| !line.is_empty()).collect();
    lines.retain(|line| !line.starts_with("request id: "));
    for line in &mut lines {
        let id = line.strip_prefix("x-request-id: ");
        if id.is_some_and(|id| !headers.contains(&("x-request-id", id))) {
            *line = "x-request-id";
        } else if line.starts_with("date: ") && !line.ends_with(THEIRS) {
            *line = "date: now";
        }
    }
    lines.join("|").split("request id: ").next().unwrap_or_default().to_owned()
}

type Headers = &'static [(&'static str, &'static str)];

/// How a request ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// With its head.
    Head,
    /// With what follows at once, or when an endpoint has been asked: nothing, or trailers.
    Nothing {
        at_once: bool,
    },
    Trailers {
        at_once: bool,
    },
}

#[derive(Debug)]
struct Ask {
    method: Method,
    /// The `:authority`, if there is one.
    authority: Option<&'static str>,
    target: &'static str,
    headers: Headers,
    end: End,
    /// Of the answer; 000 stands for a stream that is reset.
    status: &'static str,
}

impl Ask {
    fn new(method: Method, target: &'static str, headers: Headers, status: &'static str) -> Self {
        Self { method, authority: Some("A.test:80"), target, headers, end: End::Head, status }
    }

    fn request(&self) -> Request<()> {
        let mut uri = Parts::default();
        uri.scheme = self.authority.map(|_| Scheme::HTTP);
        uri.authority = self.authority.map(|authority| authority.parse().expect("an authority"));
        uri.path_and_query = Some(self.target.parse().expect("a target"));
        let mut request = Request::builder().method(&self.method).uri(Uri::from_parts(uri).expect("parts that go"));
        for (name, value) in self.headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request")
    }
}

/// What is asked.
fn asks() -> Vec<Ask> {
    let plain = |target, status| Ask::new(Method::GET, target, &[], status);
    let with = |headers, status| Ask::new(Method::GET, "/with", headers, status);
    let from = |authority, headers, status| Ask { authority, ..with(headers, status) };
    let mut asks = vec![
        plain("/plain?a=b&c", "200"),
        plain("/dated", "200"),
        plain("/odd", "299"),
        plain("/hop", "200"),
        plain("/te", "200"),
        plain("/close", "200"),
        plain("/listed", "200"),
        plain("/empty", "200"),
        plain("/zeros", "200"),
        plain("/twice", "200"),
        plain("/none", "204"),
        plain("/same", "304"),
        plain("/chunks", "200"),
        plain("/until", "200"),
        plain("/long", "200"),
        plain("/later", "200"),
        plain("/half", "200"),
        plain("/cut", "200"),
        plain("/interim", "200"),
        plain("/grpc", "200"),
        plain("/garbage", "502"),
        plain("/nothing", "502"),
        plain("//two//slashes", "200"),
        plain("/%zz?%", "200"),
        with(&[("cookie", "a=b"), ("x-a", "1"), ("cookie", "c=d"), ("cookie", "e"), ("x-a", "2")], "200"),
        with(&[("cookie", "a=b; c=d")], "200"),
        with(&[("te", "trailers")], "200"),
        with(&[("x-request-id", "good")], "200"),
        with(&[("x-request-id", "not good")], "200"),
        with(&[("x-request-id", "one"), ("x-request-id", "two")], "200"),
        with(&[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "5.6.7.8, 9.9.9.9")], "200"),
        with(&[("x-forwarded-proto", "ftp"), ("x-forwarded-host", "forged")], "200"),
        with(&[("forwarded", "for=x")], "200"),
        with(&[("x-forwarded-client-cert", "URI=spiffe://forged")], "200"),
        with(&[("traceparent", TRACE), ("tracestate", "a=1")], "200"),
        with(&[("traceparent", TRACE), ("traceparent", TRACE)], "200"),
        with(&[("traceparent", "odd"), ("tracestate", "a=1")], "200"),
        with(&[("tracestate", "a=1")], "200"),
        with(&[("host", "other")], "200"),
        with(&[("host", "one"), ("host", "two")], "400"),
        with(&[("content-length", "0")], "200"),
        with(&[("expect", "100-continue")], "200"),
        with(&[("trailer", "x-t")], "200"),
        with(&[("http2-settings", "AAA"), ("empty", "")], "200"),
        with(&[("accept", "application/json"), ("content-type", "text/plain")], "200"),
        with(&[("content-type", "application/grpc")], "200"),
        from(None, &[("host", "A.test:80")], "200"),
        from(None, &[], "400"),
        from(Some("user@A.test"), &[], "400"),
        plain("*", "200"),
        plain("?x", "200"),
    ];
    for path in ["/plain", "/chunks", "/none", "/empty", "/cut"] {
        // Nothing follows such a head.
        let path = if path == "/cut" { "/long" } else { path };
        asks.push(Ask::new(Method::HEAD, path, &[], if path == "/none" { "204" } else { "200" }));
    }
    for method in [Method::OPTIONS, Method::DELETE, Method::POST, Method::PUT, Method::TRACE] {
        asks.push(Ask::new(method, "/method", &[], "200"));
    }
    asks.push(Ask::new(Method::OPTIONS, "*", &[], "200"));
    for method in [Method::GET, Method::DELETE] {
        for at_once in [true, false] {
            for end in [End::Nothing { at_once }, End::Trailers { at_once }] {
                asks.push(Ask { end, ..Ask::new(method.clone(), "/ends", &[], "200") });
            }
        }
    }
    asks
}

async fn asked(side: &Side) -> Vec<String> {
    let stream = TcpStream::connect(side.address).await.expect("connects");
    let (sender, connection) = h2::client::handshake(stream).await.expect("a handshake");
    let mut driver = JoinSet::new();
    driver.spawn(async move { drop(connection.await) });
    let (mut said, asks) = (Vec::new(), asks());
    for ask in &asks {
        let Ask { method, target, headers, end, status, .. } = ask;
        let later = usize::from(script(target).contains('|') && *method != Method::HEAD);
        let (before, go_on) = (side.log.len(), &side.log.go_on);
        let rest = async |stream: &mut h2::SendStream<bytes::Bytes>| {
            if matches!(end, End::Nothing { at_once: false } | End::Trailers { at_once: false }) {
                until(|| side.log.len() > before).await;
            }
            match end {
                End::Head => return,
                End::Nothing { .. } => stream.send_data(bytes::Bytes::new(), true).expect("a stream"),
                End::Trailers { .. } => {
                    let trailer = (HeaderName::from_static("x-t"), HeaderValue::from_static("v"));
                    stream.send_trailers(HeaderMap::from_iter([trailer])).expect("a stream");
                }
            }
            go_on.add_permits(later);
        };
        let headed = || go_on.add_permits(if *end == End::Head { later } else { 0 });
        let answer = answered_after(&sender, (ask.request(), *end == End::Head), rest, headed).await;
        let answer = normal(&answer, headers);
        assert_eq!(answer.split([' ', '|']).nth(1), Some(*status), "{ask:?}: {answer}");
        said.push(format!("{ask:?}: {answer}"));
    }
    until(|| side.notebook.len() == asks.len()).await;
    let asked = std::mem::take(&mut *side.log.lines.lock().expect("no panic"));
    // One that is given nothing may be asked a second time, and a call of gRPC ends where the endpoint does not speak HTTP/2.
    let reached = asked.iter().filter(|line| line.contains(" HTTP/1.1|")).count();
    assert!(reached + 1 >= asks.iter().filter(|ask| ask.status != "400").count(), "{asked:#?}");
    said.extend(asked.iter().map(|line| line.replace(&side.address.to_string(), "")));
    let mut records: Vec<String> = side
        .notebook
        .take()
        .into_iter()
        .map(|record| {
            format!(
                "{} {} {:?} {} {:?} {:?} {} {} {} {}",
                record.method,
                record.uri,
                record.host,
                record.status,
                record.version,
                record.reason,
                record.attempts,
                record.request_bytes,
                record.grpc_status.is_some(),
                if record.reason.is_none() { record.response_bytes } else { 0 },
            )
        })
        .collect();
    // They are made when a body ends, which may be after the client has all of it.
    records.sort();
    said.extend(records);
    let series = side.running.handle.stats().series;
    said.extend(
        series.iter().map(|one| format!("{} {} {:?} {}", one.rule, one.backend, one.classes, one.request_bytes)),
    );
    said
}

#[tokio::test]
async fn requests_of_http2_are_answered_alike() {
    for forwarded in [Forwarded::Replace, Forwarded::Append] {
        let (ours, others) = (side(true, forwarded).await, side(false, forwarded).await);
        let (ours, others) = (asked(&ours).await, asked(&others).await);
        for (ours, others) in ours.iter().zip(&others) {
            assert_eq!(ours, others);
        }
        assert_eq!(ours.len(), others.len());
        // Whoever is outside is told the id, also its own.
        let told = ours.iter().any(|line| line.contains("|x-request-id: good|"));
        assert_eq!(told, forwarded == Forwarded::Replace, "{ours:#?}");
    }
}

/// No client of the kind that asks above can say such a thing.
#[tokio::test]
async fn a_path_that_is_none_resets_its_stream() {
    for by_hand in [true, false] {
        let side = side(by_hand, Forwarded::Replace).await;
        let mut stream = TcpStream::connect(side.address).await.expect("connects");
        // `GET`, `http`, the path `a`, the authority `a`.
        let odd = frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x82, 0x86, 0x04, 1, b'a', 0x41, 1, b'a']);
        let asks = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &odd, &frame(HEADERS, END_HEADERS | END_STREAM, 3, GET)];
        stream.write_all(&asks.concat()).await.expect("sends");
        let reset = frame(RST_STREAM, 0, 1, &u32::from(h2::Reason::PROTOCOL_ERROR).to_be_bytes());
        let mut all = Vec::new();
        soon(async {
            while !all.windows(reset.len()).any(|bytes| bytes == reset) {
                assert_ne!(stream.read_buf(&mut all).await.expect("reads"), 0, "ended: {all:?}");
            }
        })
        .await;
        until(|| side.log.len() > 0).await;
        let asked = side.log.lines.lock().expect("no panic").concat();
        assert!(asked.starts_with("GET / HTTP/1.1|"), "{asked}");
    }
}
