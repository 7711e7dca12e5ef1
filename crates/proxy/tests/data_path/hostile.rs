//! Clients and endpoints that mean harm, or are broken: the proxy stays up and others are unhurt.

use http::{Request, StatusCode};
use proxy::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;

/// An endpoint that counts requests, by what it can parse itself.
async fn counting() -> (Upstream, Count) {
    let count = Count::default();
    let counted = count.clone();
    let upstream = Upstream::http(move |request| {
        counted.add();
        async move {
            use http_body_util::BodyExt;
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            http::Response::new(text(format!("[{}]", String::from_utf8_lossy(&body))))
        }
    })
    .await;
    (upstream, count)
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused() {
    let (upstream, count) = counting().await;
    let (_proxy, address) = serving(all_to(&[upstream.address])).await;
    for (what, head) in [
        ("two lengths", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nbody!"),
        ("a list of lengths", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4, 5\r\n\r\nbody!"),
        ("a signed length", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +4\r\n\r\nbody"),
        ("chunked not last", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        ("an odd encoding", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ("chunked in 1.0", "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("a space before the colon", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length : 4\r\n\r\nbody"),
        ("a folded header", "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n 2\r\n\r\n"),
        ("two hosts", "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"),
        ("no host", "GET / HTTP/1.1\r\n\r\n"),
        ("a host that is none", "GET / HTTP/1.1\r\nhost: a/b@c\r\n\r\n"),
        ("a null byte", "GET / HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n"),
    ] {
        let answer = raw(address, head.replacen("\r\n\r\n", "\r\nconnection: close\r\n\r\n", 1)).await;
        assert!(answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.0 400"), "{what}: {answer}");
    }
    assert_eq!(count.get(), 0, "an endpoint was reached");
    let proxying = raw(address, "CONNECT a:1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(proxying.starts_with("HTTP/1.1 501"), "{proxying}");
}

#[tokio::test]
async fn a_length_beside_chunks_smuggles_nothing() {
    let (upstream, count) = counting().await;
    let (_proxy, address) = serving(all_to(&[upstream.address])).await;
    let inner = "GET /admin HTTP/1.1\r\nhost: a\r\n\r\n";
    for lengths in
        ["content-length: 5\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 5"]
    {
        let before = count.get();
        let answer = raw(address, format!("POST / HTTP/1.1\r\nhost: a\r\n{lengths}\r\n\r\n0\r\n\r\n{inner}")).await;
        assert!(answer.ends_with("[]"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "the connection went on: {answer}");
        assert_eq!(count.get() - before, 1);
    }
}

#[tokio::test]
async fn broken_chunks_end_the_request_and_nothing_else() {
    let (upstream, _) = counting().await;
    let (proxy, address) = serving(all_to(&[upstream.address])).await;
    for chunk in ["zz\r\n", "5\r\nab", "-1\r\n", "fffffffffffffffff\r\n", "2\r\nabc\r\n"] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(format!("{head}{chunk}").as_bytes()).await.expect("sends");
        stream.shutdown().await.expect("shuts down");
        let mut answer = Vec::new();
        // A reset is as good an end.
        let _ = soon(stream.read_to_end(&mut answer)).await;
        assert!(!String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 200"), "{chunk:?}");
    }
    assert_eq!(ask(address, get("/")).await.body, "[]");
    until(|| proxy.handle.stats().in_flight == 0).await;
}

#[tokio::test]
async fn heads_are_bounded() {
    let (upstream, count) = counting().await;
    let (_proxy, address) = serving(all_to(&[upstream.address])).await;
    let many = "x-a: 1\r\n".repeat(200);
    let answer = raw(address, format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let large = "y".repeat(100_000);
    let answer = raw(address, format!("GET / HTTP/1.1\r\nhost: a\r\nx: {large}\r\n\r\n")).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(count.get(), 0);
}

#[tokio::test]
async fn endpoints_that_lie_or_break_are_a_bad_gateway() {
    for (what, says) in [
        ("no HTTP", "hello\r\n\r\n"),
        ("closes at once", ""),
        ("half a head", "HTTP/1.1 200 OK\r\nx"),
        ("two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"),
        ("a change of protocol", "HTTP/1.1 101 Switching Protocols\r\n\r\n"),
    ] {
        let upstream = Upstream::raw(move |mut stream| async move {
            read_until(&mut stream, "\r\n\r\n").await;
            stream.write_all(says.as_bytes()).await.expect("sends");
        })
        .await;
        let (proxy, address) = serving(all_to(&[upstream.address])).await;
        let answer = ask(address, get("/")).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{what}");
        until(|| proxy.handle.stats().in_flight == 0).await;
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_passed_off_as_whole() {
    for head in ["content-length: 10", "transfer-encoding: chunked"] {
        let upstream = Upstream::raw(move |mut stream| async move {
            read_until(&mut stream, "\r\n\r\n").await;
            let body = if head.starts_with('c') { "abc" } else { "3\r\nabc\r\n" };
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}").as_bytes()).await.expect("sends");
        })
        .await;
        let (_proxy, address) = serving(all_to(&[upstream.address])).await;
        for http2 in [false, true] {
            let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
            let request = Request::get("http://a/").header("host", "a").body(text("")).expect("a request");
            // The end may come before the head has left.
            if let Ok(response) = client.send(request).await {
                soon(read(response)).await.expect_err("a body that breaks off");
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_goes_takes_its_request_along() {
    let started = Count::default();
    let counted = started.clone();
    let upstream = Upstream::http(move |_| {
        counted.add();
        std::future::pending()
    })
    .await;
    let (proxy, address) = serving(all_to(&[upstream.address])).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sends");
    until(|| started.get() == 1).await;
    assert_eq!(proxy.handle.stats().in_flight, 1);
    drop(stream);
    until(|| proxy.handle.stats().in_flight == 0).await;
}

#[tokio::test]
async fn no_more_clients_than_allowed_are_served_at_once() {
    let upstream = Upstream::named("a").await;
    let proxy = start(Settings { max_connections: 1, ..Settings::default() });
    proxy.handle.apply(all_to(&[upstream.address])).await.expect("a good snapshot");
    let address = proxy.address("l");
    let mut first = Client::http1(address).await;
    assert_eq!(read(first.send(get("/")).await.expect("an answer")).await.expect("a body").body, "a");
    let second = tokio::spawn(ask(address, get("/")));
    assert_eq!(read(first.send(get("/")).await.expect("an answer")).await.expect("a body").body, "a");
    assert!(!second.is_finished());
    drop(first);
    assert_eq!(soon(second).await.expect("no panic").body, "a");
}
