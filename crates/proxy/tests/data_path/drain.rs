//! Ends: what is under way is finished, what is idle is closed, and nothing waits for ever.

use std::time::Duration;

use http::{Request, Response};
use proxy::{RunError, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::harness::*;

/// Answers when released.
async fn held() -> (Upstream, Count, CancellationToken) {
    let (started, release) = (Count::default(), CancellationToken::new());
    let (counted, released) = (started.clone(), release.clone());
    let upstream = Upstream::http(move |_| {
        counted.add();
        let released = released.clone();
        async move {
            released.cancelled().await;
            Response::new(text("late"))
        }
    })
    .await;
    (upstream, started, release)
}

#[tokio::test]
async fn what_is_under_way_is_finished_and_then_closed() {
    let (upstream, started, release) = held().await;
    let (proxy, address) = serving(all_to(&[upstream.address])).await;
    let http1 = tokio::spawn(raw(address, "GET / HTTP/1.1\r\nhost: a\r\n\r\n"));
    let mut http2 = Client::http2(address).await;
    let request = Request::get("http://a/").body(text("")).expect("a request");
    let second = tokio::spawn(async move {
        let answer = read(http2.send(request).await.expect("an answer")).await.expect("a body");
        (answer, http2)
    });
    let mut idle = TcpStream::connect(address).await.expect("connects");
    until(|| started.get() == 2).await;
    proxy.shutdown.cancel();
    // Idle connections end.
    assert_eq!(soon(idle.read(&mut [0; 1])).await.expect("an end"), 0);
    release.cancel();
    let answer = soon(http1).await.expect("no panic");
    assert!(answer.contains("connection: close") && answer.ends_with("late"), "{answer}");
    let (answer, mut http2) = soon(second).await.expect("no panic");
    assert_eq!(answer.body, "late");
    soon(proxy.task).await.expect("no panic").expect("all ended by themselves");
    let again = Request::get("http://a/").body(text("")).expect("a request");
    http2.send(again).await.expect_err("the connection has said that it goes");
}

#[tokio::test]
async fn a_closed_listener_finishes_what_it_has_while_the_others_serve() {
    let (upstream, started, release) = held().await;
    let mut snapshot = all_to(&[upstream.address]);
    snapshot.listeners[0].bind.set_ip(alone());
    let (proxy, address) = serving(snapshot).await;
    let under_way = tokio::spawn(raw(address, "GET / HTTP/1.1\r\nhost: a\r\n\r\n"));
    until(|| started.get() == 1).await;
    let handle = proxy.handle.clone();
    let mut closing = tokio::spawn(async move { handle.close(|_| true).await });
    soon(async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await;
    assert!(futures::poll!(&mut closing).is_pending(), "it waits for the request under way");
    release.cancel();
    let answer = soon(under_way).await.expect("no panic");
    assert!(answer.contains("connection: close") && answer.ends_with("late"), "{answer}");
    soon(closing).await.expect("no panic");
    proxy.shutdown.cancel();
    soon(proxy.task).await.expect("no panic").expect("nothing was open");
}

#[tokio::test]
async fn an_idle_kept_connection_does_not_hold_the_end_up() {
    let upstream = Upstream::named("a").await;
    let (proxy, address) = serving(all_to(&[upstream.address])).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sends");
    read_until(&mut stream, "\r\n\r\na").await;
    proxy.shutdown.cancel();
    soon(proxy.task).await.expect("no panic").expect("all ended by themselves");
    assert_eq!(soon(stream.read(&mut [0; 1])).await.expect("an end"), 0);
}

#[tokio::test]
async fn what_does_not_end_is_ended() {
    let (upstream, started, _release) = held().await;
    let proxy = start(Settings { drain: Duration::from_millis(20), ..Settings::default() });
    proxy.handle.apply(all_to(&[upstream.address])).await.expect("a good snapshot");
    let asking = tokio::spawn(raw(proxy.address("l"), "GET / HTTP/1.1\r\nhost: a\r\n\r\n"));
    until(|| started.get() == 1).await;
    proxy.shutdown.cancel();
    let ended = soon(proxy.task).await.expect("no panic");
    assert!(matches!(ended, Err(RunError::NotDrained { open: 1, .. })), "{ended:?}");
    assert_eq!(soon(asking).await.expect("no panic"), "");
}

#[tokio::test]
async fn a_removed_listener_drains_while_the_rest_serves() {
    let (upstream, started, release) = held().await;
    // On several threads, none of which is the one that says that the listener goes; by our own code and by hyper.
    let proxy = start(Settings { threads: 3, ..Settings::default() });
    let mut snapshot = all_to(&[upstream.address]);
    snapshot.listeners[0].bind.set_ip(alone());
    proxy.handle.apply(snapshot).await.expect("a good snapshot");
    let address = proxy.address("l");
    let requests = ["GET / HTTP/1.1\r\nhost: a\r\n\r\n", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx"];
    let asking: Vec<_> = (0..12).map(|number| tokio::spawn(raw(address, requests[number % 2]))).collect();
    until(|| started.get() == 12).await;
    let mut moved = all_to(&[upstream.address]);
    moved.listeners[0].id = "other".into();
    proxy.handle.apply(moved).await.expect("a good snapshot");
    TcpStream::connect(address).await.expect_err("nobody listens");
    release.cancel();
    for asking in asking {
        let answer = soon(asking).await.expect("no panic");
        assert!(answer.contains("connection: close") && answer.ends_with("late"), "{answer}");
    }
    assert_eq!(ask(proxy.address("other"), get("/")).await.body, "late");
}

#[tokio::test]
async fn a_request_that_arrives_with_the_end_is_answered() {
    let upstream = Upstream::named("a").await;
    for _ in 0..50 {
        let (proxy, address) = serving(all_to(&[upstream.address])).await;
        // In the socket's queue, and not accepted yet, when the proxy is told to stop.
        let mut stream = std::net::TcpStream::connect(address).expect("connects");
        std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").expect("sends");
        proxy.shutdown.cancel();
        stream.set_nonblocking(true).expect("a socket");
        let mut stream = TcpStream::from_std(stream).expect("a socket");
        read_until(&mut stream, "\r\n\r\na").await;
        soon(proxy.task).await.expect("no panic").expect("all ended by themselves");
    }
}
