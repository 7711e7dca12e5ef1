//! Policies that let requests in or not, and choose where they go, on real sockets.

use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use proxy::policy::*;
use proxy::{PolicyEvent, Settings};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::harness::*;
use crate::policies::{counted, scoped, under};

fn limit(requests: u32, key: RateKey) -> RateLimit {
    RateLimit { name: "each".into(), requests, per: Duration::from_secs(600), burst: requests, key }
}

fn with_header(name: &str, value: &str) -> Request<ServedBody> {
    Request::get("/").header("host", "a.test").header(name, value).body(text("")).expect("a request")
}

#[tokio::test]
async fn a_rate_limit_says_when_to_come_back() {
    let upstream = Upstream::named("ok").await;
    let limits = vec![limit(3, RateKey::Header("x-key".parse().expect("a name"))), limit(100, RateKey::ClientAddress)];
    let policy = Policy { limits: scoped(limits), ..Policy::default() };
    let (proxy, address) = serving(under(policy, &[upstream.address])).await;
    for key in ["a", "b"] {
        for _ in 0..3 {
            assert_eq!(ask(address, with_header("x-key", key)).await.status, StatusCode::OK);
        }
        let refused = ask(address, with_header("x-key", key)).await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        assert!(refused.body.contains("reason: rate_limited"), "{}", refused.body);
        assert_eq!(refused.headers["ratelimit-policy"], "\"each\";q=3;w=600");
        // Two hundred seconds from the first of them on.
        let seconds: u64 = refused.headers["retry-after"].to_str().expect("text").parse().expect("seconds");
        assert!((200 - LIMIT.as_secs()..=200).contains(&seconds), "{seconds}");
        assert_eq!(refused.headers["ratelimit"], format!("\"each\";r=0;t={seconds}"));
    }
    assert_eq!(counted(&proxy, PolicyEvent::RateLimited), 2);
    let call = Request::post("http://a.test/pkg.Service/Call").header("content-type", "application/grpc");
    let call = call.header("x-key", "a").body(text("")).expect("a request");
    let mut client = Client::http2(address).await;
    let answer = read(client.send(call).await.expect("an answer")).await.expect("a body");
    assert_eq!((answer.status, answer.headers["grpc-status"].as_bytes()), (StatusCode::OK, &b"8"[..]));
}

/// Holds every request until it is released.
async fn holding() -> (Upstream, Count, CancellationToken) {
    let (asked, release) = (Count::default(), CancellationToken::new());
    let (counting, released) = (asked.clone(), release.clone());
    let upstream = Upstream::http(move |_| {
        counting.add();
        let released = released.clone();
        async move {
            released.cancelled().await;
            Response::new(text("done"))
        }
    })
    .await;
    (upstream, asked, release)
}

#[tokio::test]
async fn only_so_many_are_under_way_and_only_so_many_wait() {
    let (upstream, asked, release) = holding().await;
    let concurrency = Concurrency { limit: 2, queue: 3, max_wait: LIMIT };
    let policy = Policy { concurrency: scoped(concurrency), ..Policy::default() };
    let (proxy, address) = serving(under(policy, &[upstream.address])).await;
    let mut clients = JoinSet::new();
    for _ in 0..10 {
        clients.spawn(ask(address, get("/")));
    }
    // Two are under way, three wait, five are refused.
    for _ in 0..5 {
        let refused = soon(clients.join_next()).await.expect("a client").expect("no panic");
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.body.contains("reason: queue_full"), "{}", refused.body);
    }
    until(|| asked.get() == 2).await;
    release.cancel();
    while let Some(answered) = soon(clients.join_next()).await {
        assert_eq!(answered.expect("no panic").body, "done");
    }
    assert_eq!((asked.get(), counted(&proxy, PolicyEvent::Queued), counted(&proxy, PolicyEvent::QueueFull)), (5, 3, 5));
    // All places are free again.
    assert_eq!(ask(address, get("/")).await.body, "done");
}

#[tokio::test]
async fn nobody_waits_longer_than_they_may() {
    let (upstream, _asked, release) = holding().await;
    let concurrency = Concurrency { limit: 1, queue: 9, max_wait: Duration::from_millis(30) };
    let policy = Policy { concurrency: scoped(concurrency), ..Policy::default() };
    let (_proxy, address) = serving(under(policy, &[upstream.address])).await;
    let mut clients = JoinSet::new();
    clients.spawn(ask(address, get("/")));
    clients.spawn(ask(address, get("/")));
    let late = soon(clients.join_next()).await.expect("a client").expect("no panic");
    assert!(late.body.contains("reason: queue_timeout"), "{}", late.body);
    release.cancel();
    assert_eq!(soon(clients.join_next()).await.expect("a client").expect("no panic").body, "done");
}

#[tokio::test]
async fn a_client_that_goes_away_gives_its_place_back() {
    let (upstream, asked, release) = holding().await;
    let concurrency = Concurrency { limit: 1, queue: 0, max_wait: LIMIT };
    let policy = Policy { concurrency: scoped(concurrency), ..Policy::default() };
    let (_proxy, address) = serving(under(policy, &[upstream.address])).await;
    let client = tokio::spawn(ask(address, get("/")));
    until(|| asked.get() == 1).await;
    assert_eq!(ask(address, get("/")).await.status, StatusCode::SERVICE_UNAVAILABLE);
    client.abort();
    release.cancel();
    soon(async {
        while ask(address, get("/")).await.status != StatusCode::OK {
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_sends_nothing_gives_its_place_back() {
    let asked = Count::default();
    let counted = asked.clone();
    let upstream = Upstream::http(move |request| {
        counted.add();
        async move {
            drop(request.into_body().collect().await);
            Response::new(text("done"))
        }
    })
    .await;
    let concurrency = Concurrency { limit: 1, queue: 1, max_wait: LIMIT };
    let policy = Policy { concurrency: scoped(concurrency), ..Policy::default() };
    let proxy = start(Settings { header_timeout: Duration::from_secs(5), ..Settings::default() });
    proxy.handle.apply(under(policy, &[upstream.address])).await.expect("a good snapshot");
    let address = proxy.address("l");
    let mut stalled = TcpStream::connect(address).await.expect("connects");
    stalled.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nab").await.expect("sends");
    until(|| asked.get() == 1).await;
    assert_eq!(ask(address, get("/")).await.body, "done");
    let told = read_until(&mut stalled, "\r\n\r\n").await;
    assert!(told.starts_with("HTTP/1.1 408"), "{told}");
}

#[tokio::test]
async fn what_is_too_much_is_turned_away_by_priority() {
    let upstream = Upstream::http(|_| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Response::new(text("slow"))
    })
    .await;
    let header = "priority".parse().expect("a name");
    let shedding = Shedding { latency: Duration::from_millis(1), waiting: None, header };
    let policy = Policy { shedding: scoped(shedding), ..Policy::default() };
    let (proxy, address) = serving(under(policy, &[upstream.address])).await;
    // Many at once: it is judged by what is answered within a moment, which may be nobody on a busy machine.
    let refused = soon(async {
        loop {
            let asks = (0..16).map(|_| ask(address, with_header("priority", "u=7")));
            let answers = futures::future::join_all(asks).await;
            if let Some(refused) = answers.into_iter().find(|answer| answer.status != StatusCode::OK) {
                return refused;
            }
        }
    })
    .await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.body.contains("reason: overloaded"), "{}", refused.body);
    assert!(counted(&proxy, PolicyEvent::Shed) >= 1);
    // Those that matter most are turned away last; how much is too much by now is not for a busy machine to say.
    soon(async { while ask(address, with_header("priority", "u=0")).await.status != StatusCode::OK {} }).await;
}

#[tokio::test]
async fn faults_are_done_to_those_that_ask_for_them() {
    let upstream = Upstream::named("ok").await;
    let only = |value: &str| vec![("x-test".parse().expect("a name"), value.parse().expect("a value"))];
    let injections = vec![
        Injection { percent: 100, headers: only("abort"), delay: None, abort: Some((StatusCode::IM_A_TEAPOT, 10)) },
        Injection { percent: 100, headers: only("delay"), delay: Some(Duration::from_millis(50)), abort: None },
        Injection { percent: 0, headers: Vec::new(), delay: None, abort: Some((StatusCode::BAD_GATEWAY, 14)) },
    ];
    let policy = Policy { injections: scoped(injections), ..Policy::default() };
    let (proxy, address) = serving(under(policy, &[upstream.address])).await;
    let aborted = ask(address, with_header("x-test", "abort")).await;
    assert_eq!(aborted.status, StatusCode::IM_A_TEAPOT);
    assert!(aborted.body.contains("reason: fault_injected"), "{}", aborted.body);
    let before = std::time::Instant::now();
    assert_eq!(ask(address, with_header("x-test", "delay")).await.status, StatusCode::OK);
    assert!(before.elapsed() >= Duration::from_millis(50), "it was not delayed");
    assert_eq!(ask(address, get("/")).await.status, StatusCode::OK);
    assert_eq!(counted(&proxy, PolicyEvent::Injected), 2);
    let call = Request::post("http://a.test/pkg.Service/Call").header("content-type", "application/grpc");
    let call = call.header("x-test", "abort").body(text("")).expect("a request");
    let mut client = Client::http2(address).await;
    let answer = read(client.send(call).await.expect("an answer")).await.expect("a body");
    assert_eq!(answer.headers["grpc-status"], "10");
}

#[tokio::test]
async fn a_fallback_takes_the_place_of_a_refusal() {
    let fallback = Fallback {
        on: vec![FallbackOn::NoEndpoint, FallbackOn::Unreachable],
        status: StatusCode::OK,
        headers: vec![("content-type".parse().expect("a name"), "application/json".parse().expect("a value"))],
        body: "[]".into(),
    };
    let policy = Policy { fallback: scoped(fallback), ..Policy::default() };
    let (proxy, address) = serving(under(policy.clone(), &[])).await;
    for (endpoints, why) in [(vec![], "no_endpoint"), (vec![nobody().await], "connect_failed")] {
        proxy.handle.apply(under(policy.clone(), &endpoints)).await.expect("a good snapshot");
        let answer = ask(address, get("/")).await;
        assert_eq!((answer.status, &*answer.body), (StatusCode::OK, "[]"), "{why}");
        assert_eq!(
            (&answer.headers["content-type"], &answer.headers["x-coracle-fallback"]),
            (&"application/json".parse().expect("a value"), &why.parse().expect("a value"))
        );
    }
    let (late, _asked, _release) = holding().await;
    let timeouts = TryTimeouts { request: Some(Duration::from_millis(20)), per_try: None };
    proxy.handle.apply(under(Policy { timeouts, ..policy }, &[late.address])).await.expect("a good snapshot");
    assert_eq!(ask(address, get("/")).await.status, StatusCode::GATEWAY_TIMEOUT, "not asked for");
    assert_eq!(counted(&proxy, PolicyEvent::FellBack), 2);
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_alone() {
    let good = Upstream::named("good").await;
    let bad_asked = Count::default();
    let counting = bad_asked.clone();
    let bad = Upstream::http(move |_| {
        counting.add();
        async {
            let mut response = Response::new(text("bad"));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    })
    .await;
    let outliers = Outliers {
        consecutive: Some(3),
        failure_percent: None,
        minimum_requests: 10,
        window: Duration::from_secs(10),
        base: Duration::from_secs(600),
        max: Duration::from_secs(600),
        max_percent: 50,
    };
    let policy = Policy { outliers: scoped(outliers), ..Policy::default() };
    let (proxy, address) = serving(under(policy, &[good.address, bad.address])).await;
    let mut client = Client::http1(address).await;
    for _ in 0..200 {
        drop(read(client.send(get("/")).await.expect("an answer")).await.expect("a body"));
    }
    assert_eq!((bad_asked.get(), counted(&proxy, PolicyEvent::Ejected)), (3, 1));
}

#[tokio::test]
async fn the_same_cookie_meets_the_same_endpoint() {
    let names = ["one", "two", "three"];
    let mut upstreams = Vec::new();
    for name in names {
        upstreams.push(Upstream::named(name).await);
    }
    let algorithm = Algorithm::ConsistentHash(HashOn::Cookie("session".into()));
    let policy = Policy { balancing: scoped(Balancing { algorithm, slow_start: None }), ..Policy::default() };
    let endpoints: Vec<_> = upstreams.iter().map(|upstream| upstream.address).collect();
    let (_proxy, address) = serving(under(policy, &endpoints)).await;
    let mut met = std::collections::BTreeSet::new();
    // With so many sessions an endpoint is left out once in a hundred million million runs.
    for session in 0..100 {
        let cookie = format!("theme=dark; session={session}");
        let first = ask(address, with_header("cookie", &cookie)).await.body;
        for _ in 0..2 {
            assert_eq!(ask(address, with_header("cookie", &cookie)).await.body, first);
        }
        met.insert(first);
    }
    assert_eq!(met.len(), 3);
}
