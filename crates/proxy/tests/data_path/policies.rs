//! Policies on real sockets: what is repeated, what is refused, and that it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use proxy::PolicyEvent;
use proxy::policy::*;
use proxy::snapshot::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;

pub(crate) fn scoped<T>(settings: T) -> Option<Scoped<T>> {
    Some(Scoped { scope: "s".into(), settings })
}

fn retries() -> Retries {
    Retries {
        attempts: 2,
        on: vec![RetryOn::ServerError],
        base: Duration::from_millis(1),
        max: Duration::from_millis(5),
        budget: Budget { percent: 20, interval: Duration::from_secs(10), min_per_second: 10 },
        max_body: 64 * 1024,
    }
}

/// Longer than any test takes.
const OPEN: Duration = Duration::from_secs(3600);

pub(crate) fn breaker() -> Breaker {
    Breaker {
        failure_percent: 50,
        minimum_calls: 10,
        window: Duration::from_secs(30),
        consecutive: None,
        call_timeout: LIMIT,
        open: OPEN,
        probes: 2,
    }
}

/// Everything to these endpoints, under a policy.
pub(crate) fn under(policy: Policy, endpoints: &[SocketAddr]) -> Snapshot {
    let mut rule = rule(&[("b", 1)]);
    let Action::Forward { backends } = &mut rule.action else { panic!("a rule that forwards") };
    backends[0].policy = Some(Arc::new(policy));
    routes(vec![rule], &[("b", endpoints.to_vec())])
}

pub(crate) fn counted(proxy: &Running, event: PolicyEvent) -> u64 {
    proxy.handle.stats().policies.iter().map(|series| series.count(event)).sum()
}

fn post(key: Option<&str>, body: &'static str) -> Request<ServedBody> {
    let mut request = Request::post("/orders").header("host", "a.test");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    request.body(text(body)).expect("a request")
}

/// Fails as long as it is told to, and remembers how often it was asked and what for.
#[derive(Clone, Default)]
struct Fickle {
    /// The status it answers with; 0 is none: the connection is closed.
    status: Arc<AtomicU16>,
    asked: Count,
    /// So many answers are bad, the others good.
    bad: Arc<std::sync::atomic::AtomicUsize>,
}

impl Fickle {
    fn failing(status: u16, times: usize) -> Self {
        let fickle = Self::default();
        fickle.status.store(status, Ordering::SeqCst);
        fickle.bad.store(times, Ordering::SeqCst);
        fickle
    }

    fn heal(&self) {
        self.bad.store(0, Ordering::SeqCst);
    }

    async fn serve(&self) -> Upstream {
        let fickle = self.clone();
        Upstream::http(move |request: Request<hyper::body::Incoming>| {
            let fickle = fickle.clone();
            async move {
                let body = request.into_body().collect().await.expect("a whole body").to_bytes();
                fickle.asked.add();
                let bad = fickle.bad.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
                let mut response = Response::new(text(body));
                if bad {
                    let status = fickle.status.load(Ordering::SeqCst);
                    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
                }
                response
            }
        })
        .await
    }
}

#[tokio::test]
async fn what_is_safe_is_sent_again_with_its_body() {
    for (request, asked, status) in [
        (get("/"), 3, 200),
        (post(Some("k"), "an order"), 3, 200),
        (post(None, "an order"), 1, 503),
        (Request::put("/").header("host", "a").body(text("whole")).expect("a request"), 3, 200),
    ] {
        let fickle = Fickle::failing(503, 2);
        let upstream = fickle.serve().await;
        let policy = Policy { retries: scoped(retries()), ..Policy::default() };
        let (proxy, address) = serving(under(policy, &[upstream.address])).await;
        let what = format!("{request:?}");
        let answer = ask(address, request).await;
        assert_eq!((answer.status.as_u16(), fickle.asked.get()), (status, asked), "{what}");
        if what.contains("POST") {
            assert_eq!(answer.body, "an order");
        }
        assert_eq!(counted(&proxy, PolicyEvent::Retried), asked as u64 - 1);
    }
}

#[tokio::test]
async fn a_retry_goes_to_who_has_not_failed() {
    let (bad, good, nobody) =
        (Fickle::failing(503, usize::MAX).serve().await, Upstream::named("good").await, nobody().await);
    let policy = Policy { retries: scoped(Retries { attempts: 1, ..retries() }), ..Policy::default() };
    let (proxy, address) = serving(under(policy, &[nobody, bad.address, good.address])).await;
    for number in 0..60 {
        // Whoever is asked first: the retry leaves out who failed, not only who could not be reached before that.
        let answer = ask(address, get("/")).await;
        assert_eq!((answer.status, &*answer.body), (StatusCode::OK, "good"), "request {number}");
    }
    assert!(counted(&proxy, PolicyEvent::Retried) > 0);
}

#[tokio::test]
async fn an_answer_that_was_kept_in_vain_is_recorded_when_it_is_given() {
    let fickle = Fickle::failing(503, usize::MAX);
    let upstream = fickle.serve().await;
    // The circuit opens meanwhile: nothing is sent again, and what there is is given.
    let breaker = Breaker { consecutive: Some(1), open: LIMIT * 10, ..breaker() };
    let wait = Duration::from_millis(400);
    let retries = Retries { base: wait, max: wait, ..retries() };
    let policy = Policy { retries: scoped(retries), breaker: scoped(breaker), ..Policy::default() };
    let recording = proxy::Recording { all: true, ratio: 1.0, per_second: 100 };
    let (_proxy, address, notebook) = crate::observed::observed(under(policy, &[upstream.address]), recording).await;
    assert_eq!(ask(address, get("/")).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(fickle.asked.get(), 1);
    let exchange = notebook.only().await;
    assert!(exchange.head >= wait / 2, "{exchange:?}");
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_sent_once() {
    let fickle = Fickle::failing(503, 1);
    let upstream = fickle.serve().await;
    let retries = Retries { max_body: 4, ..retries() };
    let policy = Policy { retries: scoped(retries), ..Policy::default() };
    let (_proxy, address) = serving(under(policy, &[upstream.address])).await;
    assert_eq!(ask(address, post(Some("k"), "12345")).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(fickle.asked.get(), 1);
    assert_eq!(ask(address, post(Some("k"), "1234")).await.body, "1234");
}

#[tokio::test]
async fn the_last_answer_is_the_callers() {
    let fickle = Fickle::failing(503, usize::MAX);
    let upstream = fickle.serve().await;
    let policy = Policy { retries: scoped(retries()), ..Policy::default() };
    let (_proxy, address) = serving(under(policy, &[upstream.address])).await;
    let answer = ask(address, post(Some("k"), "what was said")).await;
    assert_eq!((answer.status, &*answer.body), (StatusCode::SERVICE_UNAVAILABLE, "what was said"));
    assert_eq!(fickle.asked.get(), 3);
}

#[tokio::test]
async fn retries_stay_in_their_budget() {
    let fickle = Fickle::failing(500, usize::MAX);
    let upstream = fickle.serve().await;
    let budget = Budget { percent: 10, interval: LIMIT * 10, min_per_second: 0 };
    let policy = Policy { retries: scoped(Retries { budget, ..retries() }), ..Policy::default() };
    let (proxy, address) = serving(under(policy, &[upstream.address])).await;
    let mut client = Client::http1(address).await;
    for _ in 0..200 {
        let answer = read(client.send(get("/")).await.expect("an answer")).await.expect("a body");
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert_eq!(fickle.asked.get(), 220);
    assert_eq!(counted(&proxy, PolicyEvent::Retried), 20);
    assert!(counted(&proxy, PolicyEvent::BudgetSpent) >= 180);
}

/// Answers nothing at all to the first `times` connections, and then well.
async fn silent(times: usize) -> (Upstream, Count) {
    let connections = Count::default();
    let counted = connections.clone();
    let upstream = Upstream::raw(move |mut stream| {
        let number = counted.add();
        async move {
            read_until(&mut stream, "\r\n\r\n").await;
            if number < times {
                std::future::pending::<()>().await;
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.expect("sends");
        }
    })
    .await;
    (upstream, connections)
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_given_up_for_another() {
    let (upstream, connections) = silent(2).await;
    let timeouts = TryTimeouts { per_try: Some(Duration::from_secs(4)), request: None };
    let policy = Policy { retries: scoped(retries()), timeouts, ..Policy::default() };
    let (_proxy, address) = serving(under(policy, &[upstream.address])).await;
    assert_eq!(ask(address, get("/")).await.body, "ok");
    assert_eq!(connections.get(), 3);
}

#[tokio::test]
async fn the_whole_has_a_limit_too() {
    let (upstream, connections) = silent(usize::MAX).await;
    let timeouts = TryTimeouts { per_try: None, request: Some(Duration::from_secs(2)) };
    let policy = Policy { retries: scoped(retries()), timeouts, ..Policy::default() };
    let (_proxy, address) = serving(under(policy, &[upstream.address])).await;
    let answer = ask(address, get("/")).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert!(answer.body.contains("reason: timeout"), "{}", answer.body);
    until(|| connections.get() == 1).await;
}

#[tokio::test]
async fn a_breaker_opens_and_fails_fast() {
    let fickle = Fickle::failing(500, usize::MAX);
    let upstream = fickle.serve().await;
    let snapshot = under(Policy { breaker: scoped(breaker()), ..Policy::default() }, &[upstream.address]);
    let (proxy, address) = serving(snapshot.clone()).await;
    let mut client = Client::http1(address).await;
    let mut refused = Vec::new();
    for _ in 0..30 {
        let answer = read(client.send(get("/")).await.expect("an answer")).await.expect("a body");
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            refused.push(answer);
        }
    }
    assert_eq!((fickle.asked.get(), refused.len()), (10, 20));
    assert!(refused[0].body.contains("reason: circuit_open"), "{}", refused[0].body);
    let seconds: u64 = refused[0].headers["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..=OPEN.as_secs()).contains(&seconds), "{seconds}");
    assert!(refused[0].headers.contains_key("x-request-id"));

    // Nothing of this is forgotten by a new snapshot whose policy is the same.
    let mut changed = snapshot.clone();
    changed.listeners[0].hosts[0].rules.insert(0, {
        let mut other = rule(&[("b", 1)]);
        other.matches.path = PathMatch::Exact("/other".into());
        other
    });
    proxy.handle.apply(changed).await.expect("a good snapshot");
    assert_eq!(ask(address, get("/")).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(fickle.asked.get(), 10);
    assert_eq!(proxy_events(&proxy), (1, 0));
    assert!(counted(&proxy, PolicyEvent::RefusedByBreaker) >= 21);
}

#[tokio::test]
async fn a_breaker_closes_on_recovery() {
    let fickle = Fickle::failing(500, usize::MAX);
    let upstream = fickle.serve().await;
    let breaker = Breaker { open: Duration::from_millis(300), ..breaker() };
    let (proxy, address) =
        serving(under(Policy { breaker: scoped(breaker), ..Policy::default() }, &[upstream.address])).await;
    while proxy_events(&proxy).0 == 0 {
        assert_eq!(ask(address, get("/")).await.status, StatusCode::INTERNAL_SERVER_ERROR);
    }
    fickle.heal();
    soon(async {
        while ask(address, get("/")).await.status != StatusCode::OK {
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await;
    for _ in 0..20 {
        assert_eq!(ask(address, get("/")).await.status, StatusCode::OK);
    }
    assert_eq!(proxy_events(&proxy), (1, 1));
}

#[tokio::test]
async fn calls_that_take_too_long_open_the_breaker() {
    let (upstream, connections) = silent(usize::MAX).await;
    let breaker = Breaker { call_timeout: Duration::from_millis(500), open: LIMIT * 10, ..breaker() };
    let policy = Policy { breaker: scoped(breaker), ..Policy::default() };
    let (_proxy, address) = serving(under(policy, &[upstream.address])).await;
    let mut statuses = Vec::new();
    for _ in 0..12 {
        statuses.push(ask(address, get("/")).await.status.as_u16());
    }
    assert_eq!(statuses, [[504; 10].as_slice(), &[503; 2]].concat());
    assert!(connections.get() <= 10, "somebody is asked by an open circuit");
}

/// What a client does with a request whose body it never ends; the answer's status line, if it is given one.
async fn broken_off(address: SocketAddr, sent: &str, ends: bool) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(format!("POST / HTTP/1.1\r\nhost: a\r\n{sent}").as_bytes()).await.expect("sends");
    if ends {
        stream.shutdown().await.expect("ends");
    }
    let mut answer = vec![0; 64];
    let length = soon(stream.read(&mut answer)).await.unwrap_or(0);
    String::from_utf8_lossy(&answer[..length]).lines().next().unwrap_or_default().to_owned()
}

/// A backend that a breaker and ejection watch closely, and that fails nobody.
async fn watched(protocol: BackendProtocol) -> (Running, SocketAddr, Upstream) {
    let upstream = Upstream::http(|request| async move {
        let whole = request.into_body().collect().await.is_ok();
        Response::new(text(if whole { "whole" } else { "broken" }))
    })
    .await;
    let breaker =
        Breaker { consecutive: Some(2), call_timeout: Duration::from_secs(10), open: LIMIT * 10, ..breaker() };
    let outliers = Outliers {
        consecutive: Some(2),
        failure_percent: None,
        minimum_requests: 10,
        window: Duration::from_secs(10),
        base: Duration::from_secs(60),
        max: Duration::from_secs(60),
        max_percent: 100,
    };
    let policy = Policy { breaker: scoped(breaker), outliers: scoped(outliers), ..Policy::default() };
    let mut snapshot = under(policy, &[upstream.address]);
    snapshot.backends.get_mut("b").expect("a backend").protocol = protocol;
    let (proxy, address) = serving(snapshot).await;
    (proxy, address, upstream)
}

fn assert_unblamed(proxy: &Running) {
    assert_eq!((counted(proxy, PolicyEvent::BreakerOpened), counted(proxy, PolicyEvent::Ejected)), (0, 0));
}

#[tokio::test]
async fn what_a_client_does_wrong_is_not_held_against_the_backend() {
    for protocol in [BackendProtocol::Http1, BackendProtocol::H2c] {
        let (proxy, address, _upstream) = watched(protocol).await;
        for _ in 0..3 {
            for chunk in ["zz\r\n", "-1\r\n", "2\r\nabc\r\n"] {
                let answer = broken_off(address, &format!("transfer-encoding: chunked\r\n\r\n{chunk}"), false).await;
                assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{protocol:?} {chunk:?}: {answer}");
            }
            let answer = broken_off(address, "content-length: 100\r\n\r\nabc", true).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{protocol:?}: {answer}");
        }
        assert_unblamed(&proxy);
        assert_eq!(ask(address, get("/")).await.body, "whole", "others are not hurt");
    }
}

/// Sends a body more slowly than the backend may answer; the answer.
async fn slowly(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let head = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 5\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sends");
    for byte in "abcde".bytes() {
        // The client's pace, which nothing waits for.
        tokio::time::sleep(Duration::from_secs(3)).await;
        stream.write_all(&[byte]).await.expect("sends");
    }
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.expect("text");
    answer
}

#[tokio::test]
async fn a_client_that_is_slow_is_waited_for_and_nobody_is_blamed() {
    let one = async |protocol| {
        let (proxy, address, _upstream) = watched(protocol).await;
        let answer = slowly(address).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("whole"), "{protocol:?}: {answer}");
        assert_unblamed(&proxy);
    };
    tokio::join!(one(BackendProtocol::Http1), one(BackendProtocol::H2c));
}

#[tokio::test]
async fn a_client_that_sends_nothing_keeps_no_probe_from_others() {
    let begun = Count::default();
    let counted = begun.clone();
    let upstream = Upstream::http(move |request| {
        let number = counted.add();
        async move {
            drop(request.into_body().collect().await);
            let mut response = Response::new(text("whole"));
            *response.status_mut() = if number == 0 { StatusCode::BAD_GATEWAY } else { StatusCode::OK };
            response
        }
    })
    .await;
    let limits = Breaker { consecutive: Some(1), open: Duration::ZERO, probes: 1, ..breaker() };
    let breaker = Breaker { call_timeout: Duration::from_secs(6), ..limits };
    let policy = Policy { breaker: scoped(breaker), ..Policy::default() };
    let (proxy, address) = serving(under(policy, &[upstream.address])).await;
    assert_eq!(ask(address, get("/")).await.status, StatusCode::BAD_GATEWAY);
    let stalled = tokio::spawn(async move { broken_off(address, "content-length: 5\r\n\r\n", false).await });
    until(|| begun.get() == 2).await;
    soon(async {
        while ask(address, get("/")).await.status != StatusCode::OK {
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await;
    assert!(stalled.await.expect("no panic").starts_with("HTTP/1.1 408"));
    assert_eq!(proxy_events(&proxy), (1, 1), "it was given back without a verdict");
}

fn proxy_events(proxy: &Running) -> (u64, u64) {
    (counted(proxy, PolicyEvent::BreakerOpened), counted(proxy, PolicyEvent::BreakerClosed))
}

/// A backend that answers nothing, behind a breaker that opens at the second failure; it is spoken to as gRPC is.
async fn hung(call_timeout: Duration) -> (Running, Client<ServedBody>, Upstream) {
    let upstream = Upstream::http(|_| std::future::pending::<Response<ServedBody>>()).await;
    let breaker = Breaker { consecutive: Some(2), open: LIMIT * 10, call_timeout, ..breaker() };
    let policy = Policy { breaker: scoped(breaker), ..Policy::default() };
    let (proxy, address) = serving(under(policy, &[upstream.address])).await;
    (proxy, Client::http2(address).await, upstream)
}

/// The status that a call of gRPC ends with.
async fn called(client: &mut Client<ServedBody>, deadline: Option<&str>, body: ServedBody) -> String {
    let call = Request::post("http://a.test/pkg.Service/Call").header("content-type", "application/grpc");
    let call = deadline.into_iter().fold(call, |call, deadline| call.header("grpc-timeout", deadline));
    let answer = client.send(call.body(body).expect("a request")).await.expect("an answer");
    answer.headers()["grpc-status"].to_str().expect("text").to_owned()
}

#[tokio::test]
async fn a_hung_backend_is_blamed_for_streams_that_wait_for_it() {
    let (proxy, mut client, _upstream) = hung(Duration::from_secs(3)).await;
    for _ in 0..2 {
        // The caller has said something, and goes on when it is answered.
        let said = futures::stream::iter([Ok(Frame::data("\0\0\0\0\0".into()))]);
        let open = StreamBody::new(said.chain(futures::stream::pending()));
        assert_eq!(called(&mut client, None, BodyExt::boxed(open)).await, "4");
    }
    assert_eq!(proxy_events(&proxy), (1, 0));
}

#[tokio::test]
async fn a_hung_backend_is_blamed_for_deadlines_that_were_fair() {
    let (proxy, mut client, _upstream) = hung(LIMIT).await;
    for _ in 0..3 {
        assert_eq!(called(&mut client, Some("1n"), text("")).await, "4");
    }
    assert_eq!(proxy_events(&proxy), (0, 0), "nobody could have answered in that time");
    for _ in 0..2 {
        assert_eq!(called(&mut client, Some("6S"), text("")).await, "4");
    }
    assert_eq!(proxy_events(&proxy), (1, 0));
}

#[tokio::test]
async fn an_open_circuit_says_so_in_grpc() {
    let dead = nobody().await;
    let breaker = Breaker { consecutive: Some(1), open: LIMIT * 10, ..breaker() };
    let policy = Policy { breaker: scoped(breaker), ..Policy::default() };
    let (_proxy, address) = serving(under(policy, &[dead])).await;
    let call = || {
        let call = Request::post("http://a.test/pkg.Service/Call").header("content-type", "application/grpc");
        call.header("te", "trailers").body(text("")).expect("a request")
    };
    let mut client = Client::http2(address).await;
    for _ in 0..2 {
        let answer = read(client.send(call()).await.expect("an answer")).await.expect("a body");
        assert_eq!((answer.status, &answer.headers["grpc-status"]), (StatusCode::OK, &"14".parse().expect("a value")));
    }
}
