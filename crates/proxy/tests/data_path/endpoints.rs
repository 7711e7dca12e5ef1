//! Endpoints that come, go and fail: no request is lost by it.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use proxy::Handle;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::harness::*;

#[tokio::test]
async fn another_endpoint_is_tried_when_one_refuses() {
    let alive = Upstream::named("alive").await;
    let dead = [nobody().await, nobody().await];
    let (_proxy, address) = serving(all_to(&[dead[0], alive.address, dead[1]])).await;
    let mut client = Client::http1(address).await;
    for _ in 0..50 {
        let post = Request::post("/").header("host", "a").body(text("body")).expect("a request");
        let answer = read(client.send(post).await.expect("an answer")).await.expect("a body");
        assert_eq!((answer.status, &*answer.body), (StatusCode::OK, "alive"));
    }
}

/// Answers one request on each connection, then closes it without having said so, as soon as the next one comes or before.
async fn closing() -> (Upstream, Count) {
    let connections = Count::default();
    let counted = connections.clone();
    let upstream = Upstream::raw(move |mut stream| {
        let connections = counted.clone();
        async move {
            connections.add();
            read_until(&mut stream, "\r\n\r\n").await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.expect("sends");
            // The next request is read and never answered.
            let mut next = [0; 1];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut next).await;
        }
    })
    .await;
    (upstream, connections)
}

#[tokio::test]
async fn a_kept_connection_that_dies_costs_no_request() {
    let (upstream, connections) = closing().await;
    let (_proxy, address) = serving(all_to(&[upstream.address])).await;
    let mut client = Client::http1(address).await;
    for _ in 0..20 {
        let answer = read(client.send(get("/")).await.expect("an answer")).await.expect("a body");
        assert_eq!((answer.status, &*answer.body), (StatusCode::OK, "ok"));
    }
    assert_eq!(connections.get(), 20);
}

#[tokio::test]
async fn what_may_have_been_done_is_not_repeated() {
    let (upstream, connections) = closing().await;
    let (_proxy, address) = serving(all_to(&[upstream.address])).await;
    let mut client = Client::http1(address).await;
    let post = || Request::post("/").header("host", "a").body(text("")).expect("a request");
    let first = read(client.send(post()).await.expect("an answer")).await.expect("a body");
    let second = read(client.send(post()).await.expect("an answer")).await.expect("a body");
    assert_eq!((first.status, second.status), (StatusCode::OK, StatusCode::BAD_GATEWAY));
    assert!(second.body.contains("upstream_closed"), "{}", second.body);
    assert_eq!(connections.get(), 1);
}

#[tokio::test]
async fn what_an_endpoint_began_to_answer_is_not_repeated() {
    for begun in ["HTTP/1.1 2", "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"] {
        let connections = Count::default();
        let counted = connections.clone();
        let upstream = Upstream::raw(move |mut stream| {
            let connections = counted.clone();
            async move {
                connections.add();
                read_until(&mut stream, "\r\n\r\n").await;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.expect("sends");
                read_until(&mut stream, "\r\n\r\n").await;
                stream.write_all(begun.as_bytes()).await.expect("sends");
            }
        })
        .await;
        let (_proxy, address) = serving(all_to(&[upstream.address])).await;
        let mut client = Client::http1(address).await;
        for expected in [StatusCode::OK, StatusCode::BAD_GATEWAY] {
            let answer = read(client.send(get("/")).await.expect("an answer")).await.expect("a body");
            assert_eq!(answer.status, expected, "{begun:?}: {}", answer.body);
            assert!(expected == StatusCode::OK || answer.body.contains("upstream_closed"), "{}", answer.body);
        }
        assert_eq!(connections.get(), 1, "{begun:?}");
    }
}

#[tokio::test]
async fn connections_to_endpoints_are_kept() {
    let connections = Count::default();
    let counted = connections.clone();
    let upstream = Upstream::raw(move |mut stream| {
        counted.add();
        async move {
            loop {
                read_until(&mut stream, "\r\n\r\n").await;
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
                    .await
                    .expect("sends");
            }
        }
    })
    .await;
    let (_proxy, address) = serving_here(all_to(&[upstream.address])).await;
    for _ in 0..10 {
        assert_eq!(ask(address, get("/")).await.body, "ok");
    }
    assert_eq!(connections.get(), 1);
}

/// Asks without pause over several connections until told to stop; returns how many answers were good, and all that were not.
async fn load(address: SocketAddr, stop: CancellationToken, made: Count) -> (usize, Vec<String>) {
    let mut clients = JoinSet::new();
    for number in 0..4 {
        let (stop, made) = (stop.clone(), made.clone());
        clients.spawn(async move {
            let mut client = if number % 2 == 0 { Client::http1(address).await } else { Client::http2(address).await };
            let (mut good, mut bad) = (0, Vec::new());
            while !stop.is_cancelled() {
                let request =
                    Request::post("http://a.test/").header("host", "a.test").body(text("x")).expect("a request");
                let answer = match client.send(request).await {
                    Ok(response) => read(response).await,
                    Err(error) => Err(error),
                };
                made.add();
                match answer {
                    Ok(answer) if answer.status == StatusCode::OK => good += 1,
                    Ok(answer) => bad.push(format!("{} {}", answer.status, answer.body)),
                    Err(error) => {
                        bad.push(format!("{error:?}"));
                        break;
                    }
                }
            }
            (good, bad)
        });
    }
    let mut all = (0, Vec::new());
    while let Some(client) = clients.join_next().await {
        let (good, bad) = client.expect("no panic");
        all.0 += good;
        all.1.extend(bad);
    }
    all
}

async fn replace(handle: &Handle, endpoints: &[&Upstream]) {
    let addresses: Vec<_> = endpoints.iter().map(|upstream| upstream.address).collect();
    handle.apply(all_to(&addresses)).await.expect("a good snapshot");
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_endpoints_under_load_loses_nothing() {
    let make = || {
        Upstream::http(|_| async {
            tokio::task::yield_now().await;
            Response::new(text("ok"))
        })
    };
    let mut endpoints = vec![make().await, make().await, make().await];
    let proxy = start(proxy::Settings::default());
    replace(&proxy.handle, &endpoints.iter().collect::<Vec<_>>()).await;
    let (stop, made) = (CancellationToken::new(), Count::default());
    let loading = tokio::spawn(load(proxy.address("l"), stop.clone(), made.clone()));
    for _ in 0..30 {
        let before = made.get();
        until(|| made.get() >= before + 20).await;
        let next = make().await;
        let old = endpoints.remove(0);
        endpoints.push(next);
        replace(&proxy.handle, &endpoints.iter().collect::<Vec<_>>()).await;
        assert!(proxy.handle.drained(old.address, LIMIT).await, "the endpoint is still in use");
        // As abrupt as can be: nothing may be under way any more.
        drop(old);
    }
    stop.cancel();
    let (good, bad) = soon(loading).await.expect("no panic");
    assert!(bad.is_empty(), "{good} good, but {bad:?}");
    assert!(good >= 600, "only {good} requests were made");
}

#[tokio::test]
async fn an_endpoint_is_drained_once_it_is_gone_and_idle() {
    let (started, release) = (Count::default(), CancellationToken::new());
    let (counted, released) = (started.clone(), release.clone());
    let slow = Upstream::http(move |_| {
        counted.add();
        let released = released.clone();
        async move {
            released.cancelled().await;
            Response::new(text("late"))
        }
    })
    .await;
    let other = Upstream::named("other").await;
    let (proxy, address) = serving(all_to(&[slow.address])).await;
    let waiting = tokio::spawn(ask(address, get("/")));
    until(|| started.get() == 1).await;
    assert!(!proxy.handle.drained(slow.address, Duration::from_millis(5)).await, "it is still in a backend");
    replace(&proxy.handle, &[&other]).await;
    assert!(!proxy.handle.drained(slow.address, Duration::from_millis(5)).await, "it still carries a request");
    for _ in 0..20 {
        assert_eq!(ask(address, get("/")).await.body, "other");
    }
    let handle = proxy.handle.clone();
    let drained = tokio::spawn(async move { handle.drained(slow.address, LIMIT).await });
    release.cancel();
    assert_eq!(soon(waiting).await.expect("no panic").body, "late");
    assert!(soon(drained).await.expect("no panic"));
    assert_eq!(started.get(), 1);
    assert!(proxy.handle.drained(nobody().await, LIMIT).await, "what was never known is drained");
}

#[tokio::test]
async fn kept_connections_of_an_endpoint_that_is_gone_are_closed() {
    let closed = Count::default();
    let counted = closed.clone();
    let upstream = Upstream::raw(move |mut stream| {
        let closed = counted.clone();
        async move {
            read_until(&mut stream, "\r\n\r\n").await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.expect("sends");
            let mut next = [0; 1];
            assert_eq!(tokio::io::AsyncReadExt::read(&mut stream, &mut next).await.expect("an end"), 0);
            closed.add();
        }
    })
    .await;
    let (proxy, address) = serving(all_to(&[upstream.address])).await;
    assert_eq!(ask(address, get("/")).await.body, "ok");
    assert_eq!(closed.get(), 0);
    proxy.handle.apply(all_to(&[])).await.expect("a good snapshot");
    until(|| closed.get() == 1).await;
}
