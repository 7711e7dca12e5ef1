//! Plain requests and their answers on a connection: in order, as they come, no faster than they are taken, and to nobody who has gone. Our own code
//! and hyper do the same.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use proxy::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::harness::*;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

async fn served(by_hand: bool, upstream: &Upstream) -> Running {
    served_with(Settings { by_hand, ..Settings::default() }, upstream).await
}

async fn served_with(settings: Settings, upstream: &Upstream) -> Running {
    let proxy = start(settings);
    proxy.handle.apply(all_to(&[upstream.address])).await.expect("a good snapshot");
    proxy
}

#[tokio::test]
async fn what_is_asked_ahead_is_answered_in_order() {
    let upstream = Upstream::http(|request| async move { Response::new(text(format!("<{}>", request.uri()))) }).await;
    for by_hand in [true, false] {
        let proxy = served(by_hand, &upstream).await;
        let all: String = (0..300).map(|number| format!("GET /{number} HTTP/1.1\r\nhost: a\r\n\r\n")).collect();
        let last = "GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let answers = raw(proxy.address("l"), all + last).await;
        let said: Vec<&str> = answers.split('<').skip(1).filter_map(|rest| rest.split('>').next()).collect();
        let expected: Vec<String> = (0..300).map(|number| format!("/{number}")).chain(["/last".to_owned()]).collect();
        assert_eq!(said, expected);
    }
}

#[tokio::test]
async fn each_part_of_an_answer_arrives_when_it_is_there() {
    let next = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let allowed = std::sync::Arc::clone(&next);
    let upstream = Upstream::raw(move |mut stream| {
        let allowed = std::sync::Arc::clone(&allowed);
        async move {
            read_until(&mut stream, "\r\n\r\n").await;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await.expect("sends");
            for event in ["one", "two", "three"] {
                allowed.acquire().await.expect("open").forget();
                stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await.expect("sends");
            }
            allowed.acquire().await.expect("open").forget();
            stream.write_all(b"0\r\n\r\n").await.expect("sends");
            // Until the proxy has no more use for it.
            let _ = stream.read(&mut [0; 1]).await;
        }
    })
    .await;
    for by_hand in [true, false] {
        let proxy = served(by_hand, &upstream).await;
        let mut stream = TcpStream::connect(proxy.address("l")).await.expect("connects");
        stream.write_all(GET).await.expect("sends");
        read_until(&mut stream, "\r\n\r\n").await;
        for event in ["one", "two", "three"] {
            next.add_permits(1);
            read_until(&mut stream, event).await;
        }
        next.add_permits(1);
        read_until(&mut stream, "0\r\n\r\n").await;
    }
}

#[tokio::test]
async fn an_answer_is_read_no_faster_than_it_is_taken() {
    const LENGTH: usize = 1 << 30;
    let (sent, ended) = (Count::default(), CancellationToken::new());
    let (counted, told) = (sent.clone(), ended.clone());
    let upstream = Upstream::raw(move |mut stream| {
        let (counted, told) = (counted.clone(), told.clone());
        async move {
            read_until(&mut stream, "\r\n\r\n").await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.expect("sends");
            let part = vec![b'x'; 64 * 1024];
            while stream.write_all(&part).await.is_ok() {
                counted.add();
            }
            told.cancel();
        }
    })
    .await;
    for by_hand in [true, false] {
        let proxy = served(by_hand, &upstream).await;
        let mut stream = TcpStream::connect(proxy.address("l")).await.expect("connects");
        stream.write_all(GET).await.expect("sends");
        read_until(&mut stream, "xxx").await;
        // Until nothing moves any more, as far as anybody can tell.
        let mut before = (0, 0);
        until(|| {
            let now = sent.get();
            before = if before.0 == now { (now, before.1 + 1) } else { (now, 0) };
            before.1 > 100
        })
        .await;
        assert!(sent.get() * 64 * 1024 < LENGTH / 4, "{} parts", sent.get());
        // And whoever goes takes the rest along.
        drop(stream);
        until(|| proxy.handle.stats().in_flight == 0).await;
    }
    soon(ended.cancelled()).await;
}

/// On systems that can tell.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn whoever_takes_nothing_for_too_long_is_let_go() {
    let upstream = Upstream::http(|_| async { Response::new(text(vec![b'x'; 64 << 20])) }).await;
    for by_hand in [true, false] {
        let proxy = start(Settings { by_hand, stalled: Duration::from_secs(3), ..Settings::default() });
        proxy.handle.apply(all_to(&[upstream.address])).await.expect("a good snapshot");
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let mut stream = socket.connect(proxy.address("l")).await.expect("connects");
        stream.write_all(GET).await.expect("sends");
        read_until(&mut stream, "xxx").await;
        // It reads no more, and stays.
        until(|| proxy.handle.stats().connections == 0).await;
        drop(stream);
    }
}

#[tokio::test]
async fn whoever_ends_his_side_takes_his_request_along() {
    let started = Count::default();
    let counted = started.clone();
    let upstream = Upstream::http(move |_| {
        counted.add();
        std::future::pending()
    })
    .await;
    for (by_hand, before) in [(true, 0), (false, 1)] {
        let proxy = served(by_hand, &upstream).await;
        let mut stream = TcpStream::connect(proxy.address("l")).await.expect("connects");
        stream.write_all(GET).await.expect("sends");
        until(|| started.get() == before + 1).await;
        stream.shutdown().await.expect("shuts down");
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.expect("an end");
        assert_eq!(answer, "");
        until(|| proxy.handle.stats().in_flight == 0).await;
    }
}

#[tokio::test]
async fn whoever_says_nothing_for_too_long_is_let_go() {
    let upstream = Upstream::named("a").await;
    let limits = Settings { header_timeout: Duration::from_secs(8), ..Settings::default() };
    let ours = served_with(limits.clone(), &upstream).await;
    let hypers = served_with(Settings { by_hand: false, ..limits }, &upstream).await;
    let waits = [&ours, &hypers].into_iter().flat_map(|proxy| {
        let inputs =
            [(&b""[..], ""), (GET, "a"), (&GET[..20], ""), (b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET /half", "a")];
        inputs.map(|(says, expected)| async move {
            let answer = raw(proxy.address("l"), says).await;
            assert!(answer.ends_with(expected) && answer.is_empty() == expected.is_empty(), "{answer}");
        })
    });
    futures::future::join_all(waits).await;
}

/// Bodies of GET mean little, but they are not ours to drop (RFC 9110, section 9.3.1).
#[tokio::test]
async fn a_body_of_a_get_arrives_also_where_nobody_said_how_long_it_is() {
    let upstream = Upstream::echo().await;
    for by_hand in [true, false] {
        let proxy = served(by_hand, &upstream).await;
        let address = proxy.address("l");
        for method in ["GET", "DELETE", "POST"] {
            let head =
                format!("{method} /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n");
            let answer = raw(address, head + "5\r\nwhole\r\n0\r\n\r\n").await;
            assert!(answer.contains(&format!("{method} /x\n")) && answer.ends_with("\n\nwhole"), "{answer}");

            let pieces = ["wh", "ole"].map(|piece| Ok::<_, std::io::Error>(Frame::data(Bytes::from(piece))));
            let body = BodyExt::boxed(StreamBody::new(futures::stream::iter(pieces)));
            let request = Request::builder().method(method).uri("http://a/x").body(body).expect("a request");
            let mut client = Client::http2(address).await;
            let answer = soon(read(client.send(request).await.expect("an answer"))).await.expect("a whole answer");
            assert!(answer.body.ends_with("\n\nwhole"), "{answer:?}");
        }
    }
}
