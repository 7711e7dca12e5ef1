//! HTTP/2 where its two directions and its streams have to do with each other: answers before their request's end, clients that do
//! not read, and what a connection may carry at once.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Channel};
use proxy::Settings;
use proxy::snapshot::BackendProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::floods::{DATA, END_HEADERS, GET, HEADERS, POST, PREFACE, RST_STREAM, SETTINGS, frame, stream};
use crate::harness::*;

/// A server of HTTP/2 that does with each request what a function says, of which it is told the number.
pub(crate) async fn served<F, R>(answer: F) -> Upstream
where
    F: Fn(Request<RecvStream>, h2::server::SendResponse<Bytes>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    Upstream::raw(move |stream| {
        let answer = answer.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.expect("a handshake");
            let mut requests = JoinSet::new();
            while let Some(Ok((request, respond))) = connection.accept().await {
                requests.spawn(answer(request, respond));
            }
        }
    })
    .await
}

/// A client's end of a connection, whose streams are read by those who want to only.
pub(crate) async fn connected(address: SocketAddr) -> (h2::client::SendRequest<Bytes>, JoinSet<()>) {
    let stream = TcpStream::connect(address).await.expect("connects");
    let (sender, connection) = h2::client::handshake(stream).await.expect("a handshake");
    let mut driver = JoinSet::new();
    driver.spawn(async move { drop(connection.await) });
    (sender, driver)
}

pub(crate) fn asks(path: &str) -> Request<()> {
    let request = Request::post(format!("http://a.test{path}")).header("content-type", "application/grpc");
    request.header("te", "trailers").body(()).expect("a request")
}

pub(crate) fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    trailers
}

/// Answers at once and whole, and reads nothing: the reset that follows says NO_ERROR (RFC 9113, section 8.1).
async fn early() -> Upstream {
    served(async |request: Request<RecvStream>, mut respond| {
        let mut stream = respond.send_response(Response::new(()), false).expect("a stream");
        stream.send_data(Bytes::from_static(b"early"), false).expect("a stream");
        stream.send_trailers(ok_trailers()).expect("a stream");
        drop(request);
    })
    .await
}

#[tokio::test]
async fn an_answer_before_the_end_of_its_request_is_whole() {
    let upstream = early().await;
    let (_proxy, address) = serving(all_to(&[upstream.address])).await;
    let (sender, _driver) = connected(address).await;
    // More often than a connection may have streams reset for mistakes: this is none.
    for round in 0..1_500 {
        let mut sender = soon(sender.clone().ready()).await.expect("the connection is kept");
        let (answer, mut body) = sender.send_request(asks("/"), false).expect("a stream");
        // The rest of the request comes at once, later, or never.
        match round % 3 {
            0 => body.send_data(Bytes::from_static(b"12345"), true).expect("a stream"),
            1 => body.send_data(Bytes::from_static(b"1"), false).expect("a stream"),
            _ => {}
        }
        let answer = soon(answer).await.unwrap_or_else(|error| panic!("no answer {round}: {error}"));
        let mut answer = answer.into_body();
        let data = soon(answer.data()).await.expect("data").unwrap_or_else(|error| panic!("cut {round}: {error}"));
        assert_eq!(data, "early");
        assert!(soon(answer.data()).await.is_none());
        let trailers = soon(answer.trailers()).await.unwrap_or_else(|error| panic!("cut {round}: {error}"));
        assert_eq!(trailers.expect("trailers"), ok_trailers());
        if round % 3 == 1 {
            // Nobody reads it any more; it may or may not be heard of in time.
            let _ = body.send_data(Bytes::from_static(b"2345"), true);
        }
    }
}

#[tokio::test]
async fn a_request_whose_answer_has_come_is_given_up_without_blame() {
    let upstream = early().await;
    let (_proxy, address) = serving(all_to(&[upstream.address])).await;
    let (sender, _driver) = connected(address).await;
    let mut sender = soon(sender.ready()).await.expect("a connection");
    let (answer, mut body) = sender.send_request(asks("/"), false).expect("a stream");
    let mut answer = soon(answer).await.expect("an answer").into_body();
    while let Some(data) = soon(answer.data()).await {
        data.expect("data");
    }
    soon(answer.trailers()).await.expect("an end");
    let reset = soon(std::future::poll_fn(|cx| body.poll_reset(cx))).await.expect("a reset");
    assert_eq!(reset, Reason::NO_ERROR);
}

#[tokio::test]
async fn the_rest_of_requests_that_were_answered_early_is_no_mistake() {
    let upstream = early().await;
    let mut snapshot = all_to(&[upstream.address]);
    snapshot.backends.values_mut().for_each(|backend| backend.protocol = BackendProtocol::H2c);
    let (_proxy, address) = serving(snapshot).await;
    let mut client = TcpStream::connect(address).await.expect("connects");
    client.write_all(&[PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[])].concat()).await.expect("sends");
    // Each rest comes when others have been answered since, and is not even answered with a reset. Not many others: what has been
    // reset is remembered for some seconds.
    for number in 0..400 {
        let mut bytes = frame(HEADERS, END_HEADERS, stream(number), POST);
        if let Some(late) = number.checked_sub(3) {
            bytes.extend(frame(DATA, 1, stream(late), b"late"));
        }
        client.write_all(&bytes).await.expect("sends");
        let (reset, why) = frame_of(&mut client, RST_STREAM).await;
        assert_eq!((reset, &why[..]), (stream(number), &[0; 4][..]), "NO_ERROR, and of nobody else");
    }
}

#[tokio::test]
async fn an_answer_that_is_reset_is_not_passed_off_as_whole() {
    for reason in [Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
        let upstream = served(move |_, mut respond: h2::server::SendResponse<Bytes>| async move {
            let mut stream = respond.send_response(Response::new(()), false).expect("a stream");
            stream.send_data(Bytes::from_static(b"half"), false).expect("a stream");
            // What was sent before a reset may be thrown away by it.
            std::future::poll_fn(|cx| {
                stream.reserve_capacity(1);
                stream.poll_capacity(cx)
            })
            .await;
            stream.send_reset(reason);
        })
        .await;
        let (_proxy, address) = serving(all_to(&[upstream.address])).await;
        let (sender, _driver) = connected(address).await;
        let mut sender = soon(sender.ready()).await.expect("a connection");
        let (answer, _) = sender.send_request(asks("/"), true).expect("a stream");
        let cut = async {
            let mut body = answer.await?.into_body();
            while let Some(data) = body.data().await {
                data?;
            }
            body.trailers().await
        };
        // A reset that came before the head is a bad gateway instead, which has trailers neither.
        assert!(!matches!(soon(cut).await, Ok(Some(_))), "{reason:?}");
    }
}

#[tokio::test]
async fn a_request_that_is_reset_is_not_passed_off_as_whole() {
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    let upstream = Upstream::http(move |request| {
        let tell = tell.clone();
        async move {
            let whole = request.into_body().collect().await.is_ok();
            tell.send(whole).await.expect("somebody waits");
            Response::new(text(""))
        }
    })
    .await;
    for protocol in [BackendProtocol::Http1, BackendProtocol::H2c] {
        let mut snapshot = all_to(&[upstream.address]);
        snapshot.backends.values_mut().for_each(|backend| backend.protocol = protocol);
        let (_proxy, address) = serving(snapshot).await;
        let mut client = TcpStream::connect(address).await.expect("connects");
        let begun = [
            PREFACE.to_vec(),
            frame(SETTINGS, 0, 0, &[]),
            frame(HEADERS, END_HEADERS, 1, POST),
            frame(DATA, 0, 1, b"half"),
        ];
        client.write_all(&begun.concat()).await.expect("sends");
        until(|| _proxy.handle.stats().in_flight == 1).await;
        // However kindly it says so.
        client.write_all(&frame(RST_STREAM, 0, 1, &0_u32.to_be_bytes())).await.expect("sends");
        // It may have been given up before the endpoint heard of it at all.
        tokio::select! {
            whole = told.recv() => assert_eq!(whole, Some(false), "{protocol:?}"),
            () = until(|| _proxy.handle.stats().in_flight == 0) => assert!(!matches!(told.try_recv(), Ok(true))),
        }
    }
}

#[tokio::test]
async fn who_does_not_read_holds_up_nobody_else() {
    let upstream = served(async |_, mut respond: h2::server::SendResponse<Bytes>| {
        let mut stream = respond.send_response(Response::new(()), false).expect("a stream");
        stream.send_data(vec![b'x'; 2 << 20].into(), false).expect("a stream");
        stream.send_trailers(ok_trailers()).expect("a stream");
        // Until it is all sent, or not wanted.
        let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
    })
    .await;
    let (_proxy, address) = serving_here(all_to(&[upstream.address])).await;
    let mut kept = Vec::new();
    for _ in 0..8 {
        let (sender, driver) = connected(address).await;
        let mut sender = soon(sender.ready()).await.expect("a connection");
        let (answer, _) = sender.send_request(asks("/unread"), true).expect("a stream");
        kept.push((soon(answer).await.expect("an answer"), driver, sender));
    }
    let (sender, _driver) = connected(address).await;
    let mut sender = soon(sender.ready()).await.expect("a connection");
    let (answer, _) = sender.send_request(asks("/read"), true).expect("a stream");
    let mut answer = soon(answer).await.expect("an answer").into_body();
    let mut read = 0;
    while let Some(data) = soon(answer.data()).await {
        let data = data.expect("data");
        read += data.len();
        answer.flow_control().release_capacity(data.len()).expect("room");
    }
    assert_eq!(read, 2 << 20);
    assert_eq!(soon(answer.trailers()).await.expect("trailers"), Some(ok_trailers()));
}

#[tokio::test]
async fn a_request_goes_on_while_nobody_reads_its_answer() {
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    let upstream = served(move |request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>| {
        let tell = tell.clone();
        async move {
            let mut stream = respond.send_response(Response::new(()), false).expect("a stream");
            stream.send_data(vec![b'x'; 1 << 20].into(), false).expect("a stream");
            let (mut body, mut length) = (request.into_body(), 0);
            while let Some(Ok(data)) = body.data().await {
                length += data.len();
                body.flow_control().release_capacity(data.len()).expect("room");
            }
            tell.send(length).await.expect("somebody waits");
            stream.send_trailers(ok_trailers()).expect("a stream");
            let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
        }
    })
    .await;
    let (_proxy, address) = serving(all_to(&[upstream.address])).await;
    let (sender, _driver) = connected(address).await;
    let mut sender = soon(sender.ready()).await.expect("a connection");
    let (answer, mut body) = sender.send_request(asks("/"), false).expect("a stream");
    let _unread = soon(answer).await.expect("an answer");
    body.send_data(vec![b'y'; 3 << 20].into(), true).expect("a stream");
    assert_eq!(soon(told.recv()).await, Some(3 << 20));
}

#[tokio::test]
async fn no_body_follows_where_none_may() {
    let upstream = Upstream::http(|_| async { Response::new(text("a body")) }).await;
    let (_proxy, address) = serving(all_to(&[upstream.address])).await;
    let (_none, nowhere) = serving(all_to(&[nobody().await])).await;
    for (address, length) in [(address, Some("6")), (nowhere, None)] {
        let mut client = Client::http2(address).await;
        let request = Request::head("http://a.test/").body(text("")).expect("a request");
        let answer = read(client.send(request).await.expect("an answer")).await.expect("an end");
        assert_eq!(answer.body, "");
        let said = answer.headers.get("content-length").map(|value| value.to_str().expect("text"));
        assert!(length.is_none() || said == length, "{answer:?}");
        assert!(answer.headers.contains_key("date"), "{answer:?}");
    }
}

/// Reads frames until one of this kind comes: its stream and its payload.
async fn frame_of(client: &mut TcpStream, kind: u8) -> (u32, Vec<u8>) {
    soon(async {
        loop {
            let mut head = [0; 9];
            client.read_exact(&mut head).await.expect("a frame");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            client.read_exact(&mut payload).await.expect("its payload");
            if head[3] == kind {
                return (u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload);
            }
        }
    })
    .await
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_and_the_others_go_on() {
    let upstream = Upstream::http(|_| std::future::pending()).await;
    let proxy = start(Settings { max_streams: 2, ..Settings::default() });
    proxy.handle.apply(all_to(&[upstream.address])).await.expect("a good snapshot");
    let mut client = TcpStream::connect(proxy.address("l")).await.expect("connects");
    let ask = |number| frame(HEADERS, END_HEADERS | 1, stream(number), GET);
    let bytes = [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[]), ask(0), ask(1), ask(2)].concat();
    client.write_all(&bytes).await.expect("sends");
    let (refused, why) = frame_of(&mut client, RST_STREAM).await;
    assert_eq!((refused, &why[..]), (stream(2), &[0, 0, 0, 7][..]), "REFUSED_STREAM");
    until(|| proxy.handle.stats().in_flight == 2).await;
    // The place of one that is taken back is free.
    client.write_all(&frame(RST_STREAM, 0, stream(0), &[0, 0, 0, 8])).await.expect("sends");
    until(|| proxy.handle.stats().in_flight == 1).await;
    client.write_all(&ask(3)).await.expect("sends");
    until(|| proxy.handle.stats().in_flight == 2).await;
}

#[tokio::test]
async fn a_long_answer_is_no_idle_connection() {
    let (mut more, body) = Channel::<Bytes, hyper::Error>::new(4);
    let body = std::sync::Mutex::new(Some(body.boxed()));
    let body = std::sync::Arc::new(body);
    let upstream = Upstream::http(move |_| {
        let body = body.lock().expect("no panic").take().expect("asked once");
        async move { Response::new(body) }
    })
    .await;
    let proxy = start(Settings { header_timeout: Duration::from_secs(4), ..Settings::default() });
    proxy.handle.apply(all_to(&[upstream.address])).await.expect("a good snapshot");
    let (sender, _driver) = connected(proxy.address("l")).await;
    let mut sender = soon(sender.ready()).await.expect("a connection");
    let request = Request::builder().method(Method::GET).uri("http://a.test/").body(()).expect("a request");
    let (answer, _) = sender.send_request(request, true).expect("a stream");
    let mut answer = soon(answer).await.expect("an answer").into_body();
    // One part after the other, for longer than a connection may be idle.
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        more.send_data(Bytes::from_static(b"x")).await.expect("it is read");
        soon(answer.data()).await.expect("data").expect("data");
    }
    soon(std::future::poll_fn(|cx| sender.poll_ready(cx))).await.expect("the connection takes more requests");
}
