//! What is spoken with clients and endpoints, and that bodies stream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Channel, StreamBody};
use hyper::body::{Body as _, Frame};
use hyper_util::rt::TokioIo;
use proxy::snapshot::*;
use proxy::{Settings, Snapshot};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;

#[tokio::test]
async fn http2_by_prior_knowledge_carries_many_requests_at_once() {
    let echo = Upstream::echo().await;
    let (_proxy, address) = serving(all_to(&[echo.address])).await;
    let client = Client::<ServedBody>::http2(address).await;
    let Sender::Http2(sender) = &client.sender else { unreachable!("an HTTP/2 client") };
    let asks = (0..50).map(|i| {
        let mut sender = sender.clone();
        async move {
            let request = Request::post(format!("http://a.test/{i}"))
                .header("cookie", "a=1")
                .header("cookie", "b=2")
                .body(text(format!("body {i}")))
                .expect("a request");
            (i, read(soon(sender.send_request(request)).await.expect("an answer")).await.expect("a body"))
        }
    });
    for (i, answer) in futures::future::join_all(asks).await {
        assert!(answer.body.starts_with(&format!("POST /{i}\n")), "{}", answer.body);
        assert!(answer.body.ends_with(&format!("\n\nbody {i}")), "{}", answer.body);
        assert!(
            answer.body.contains("host: a.test\n") && answer.body.contains("cookie: a=1; b=2\n"),
            "{}",
            answer.body
        );
    }
}

#[tokio::test]
async fn http2_reaches_endpoints_that_speak_it_with_trailers_both_ways() {
    let upstream = Upstream::http(|request| async move {
        assert_eq!(request.version(), Version::HTTP_2);
        assert_eq!(request.headers()["te"], "trailers");
        let collected = request.into_body().collect().await.expect("a body");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().expect("a value"));
        trailers.insert("echo", collected.trailers().expect("trailers")["up"].clone());
        let frames = [Ok(Frame::data(collected.to_bytes())), Ok(Frame::trailers(trailers))];
        Response::new(BodyExt::boxed(StreamBody::new(futures::stream::iter(frames))))
    })
    .await;
    let (_proxy, address) = serving(all_to(&[upstream.address])).await;
    let mut client = Client::http2(address).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("up", "1".parse().expect("a value"));
    let frames = [Ok::<_, hyper::Error>(Frame::data(Bytes::from("ping"))), Ok(Frame::trailers(trailers))];
    let request = Request::post("http://a.test/pkg.Service/Method")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(BodyExt::boxed(StreamBody::new(futures::stream::iter(frames))))
        .expect("a request");
    let answer = read(client.send(request).await.expect("an answer")).await.expect("a body");
    assert_eq!(answer.body, "ping");
    let trailers = answer.trailers.expect("trailers");
    assert_eq!(
        (&trailers["grpc-status"], &trailers["echo"]),
        (&"0".parse().expect("a value"), &"1".parse().expect("a value"))
    );
}

#[tokio::test]
async fn grpc_is_told_of_faults_in_its_own_way() {
    let (_proxy, address) = serving(all_to(&[])).await;
    let mut client = Client::http2(address).await;
    let request =
        Request::post("http://a.test/x").header("content-type", "application/grpc").body(text("")).expect("a request");
    let answer = read(client.send(request).await.expect("an answer")).await.expect("a body");
    assert_eq!((answer.status, &answer.headers["grpc-status"]), (StatusCode::OK, &"14".parse().expect("a value")));
}

#[tokio::test]
async fn a_call_of_grpc_ends_with_its_callers_deadline() {
    let upstream = Upstream::http(|_| std::future::pending::<Response<ServedBody>>()).await;
    let (_proxy, address) = serving(all_to(&[upstream.address])).await;
    let mut client = Client::http2(address).await;
    let request = Request::post("http://a.test/x")
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "50m")
        .body(text(""))
        .expect("a request");
    let answer = read(client.send(request).await.expect("an answer")).await.expect("a body");
    assert_eq!((answer.status, &answer.headers["grpc-status"]), (StatusCode::OK, &"4".parse().expect("a value")));
}

#[tokio::test]
async fn trailers_of_http1_pass() {
    let upstream = Upstream::raw(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        let answer =
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: sum\r\n\r\n2\r\nhi\r\n0\r\nsum: 7\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.expect("sends");
        read_until(&mut stream, "never").await;
    })
    .await;
    let (_proxy, address) = serving(all_to(&[upstream.address])).await;
    let answer = raw(address, "GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te, close\r\n\r\n").await;
    assert!(answer.ends_with("2\r\nhi\r\n0\r\nsum: 7\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_in_step() {
    let upstream = Upstream::http(|request| async move {
        let builder = match request.uri().path() {
            "/204" => Response::builder().status(204),
            "/304" => Response::builder().status(304).header("etag", "x"),
            _ => Response::builder().header("content-length", "5"),
        };
        let body = if request.uri().path() == "/" && request.method() == Method::GET { "hello" } else { "" };
        builder.body(text(body)).expect("a response")
    })
    .await;
    let (_proxy, address) = serving(all_to(&[upstream.address])).await;
    let mut client = Client::http1(address).await;
    for _ in 0..3 {
        for (method, path, status) in
            [("HEAD", "/", 200), ("GET", "/204", 204), ("GET", "/304", 304), ("GET", "/", 200)]
        {
            let request =
                Request::builder().method(method).uri(path).header("host", "a").body(text("")).expect("a request");
            let answer = read(client.send(request).await.expect("an answer")).await.expect("a body");
            assert_eq!(answer.status, status, "{method} {path}");
            assert_eq!(answer.body, if (method, path) == ("GET", "/") { "hello" } else { "" });
            if path == "/" {
                assert_eq!(answer.headers["content-length"], "5");
            }
        }
    }
}

#[tokio::test]
async fn the_absolute_form_and_http10_are_understood() {
    let echo = Upstream::echo().await;
    let (_proxy, address) = serving(all_to(&[echo.address])).await;
    let absolute = raw(address, "GET http://b.test/p?q HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n").await;
    assert!(absolute.contains("GET /p?q\n") && absolute.contains("host: b.test\n"), "{absolute}");
    let old = raw(address, "GET /old HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200") && old.contains(&format!("host: {}\n", echo.address)), "{old}");
}

#[tokio::test]
async fn a_client_that_waits_for_100_gets_it() {
    let echo = Upstream::echo().await;
    let (_proxy, address) = serving(all_to(&[echo.address])).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let head = "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sends");
    read_until(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n").await;
    stream.write_all(b"body").await.expect("sends");
    assert!(read_until(&mut stream, "\n\nbody").await.starts_with("HTTP/1.1 200 OK"));
}

/// Echoes bytes after changing the protocol.
async fn upgrading() -> Upstream {
    Upstream::http(|mut request| async move {
        assert_eq!(request.headers()["connection"], "upgrade");
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded.await.expect("an upgrade")));
            // The end of the test is the end of the tunnel.
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
        let builder = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
        builder.body(text("")).expect("a response")
    })
    .await
}

#[tokio::test]
async fn upgraded_connections_are_tunnels() {
    let upstream = upgrading().await;
    let (proxy, address) = serving(all_to(&[upstream.address])).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n")
        .await
        .expect("sends");
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101") && head.contains("upgrade: echo"), "{head}");
    for i in 0..3 {
        stream.write_all(format!("<{i}>").as_bytes()).await.expect("sends");
        read_until(&mut stream, &format!("<{i}>")).await;
    }
    assert_eq!(proxy.handle.stats().in_flight, 1);
    drop(stream);
    until(|| proxy.handle.stats().in_flight == 0).await;
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let echo = Upstream::echo().await;
    let (_proxy, address) = serving(all_to(&[echo.address])).await;
    let answer = raw(address, "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, close\r\nupgrade: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_slow_reader_slows_the_endpoint_and_nothing_is_kept() {
    const CHUNK: usize = 64 * 1024;
    let sent = Count::default();
    let counted = sent.clone();
    let upstream = Upstream::http(move |_| {
        let sent = counted.clone();
        async move {
            let endless = futures::stream::repeat_with(move || {
                sent.add();
                Ok(Frame::data(Bytes::from_static(&[b'x'; CHUNK])))
            });
            Response::new(BodyExt::boxed(StreamBody::new(endless)))
        }
    })
    .await;
    let (proxy, address) = serving(all_to(&[upstream.address])).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sends");
    read_until(&mut stream, "\r\n\r\n").await;
    // The sockets' own buffers fill up, and then the endpoint stands still, as far as anybody can tell.
    let (mut before, mut looks) = (0, 0);
    until(|| {
        let now = sent.get();
        looks = if now == before { looks + 1 } else { 0 };
        before = now;
        now > 0 && looks > 100
    })
    .await;
    assert!(before < 1_000, "{before} chunks were taken for a client that reads nothing");
    let mut buffer = vec![0; 4 * CHUNK];
    soon(async {
        let mut read = 0;
        while read < before * CHUNK + CHUNK {
            read += stream.read(&mut buffer).await.expect("reads");
        }
    })
    .await;
    until(|| sent.get() > before).await;
    drop(stream);
    until(|| proxy.handle.stats().in_flight == 0).await;
}

#[tokio::test]
async fn bodies_stream_both_ways_at_once() {
    let upstream = Upstream::http(|request| async move { Response::new(request.into_body().boxed()) }).await;
    let (_proxy, address) = serving(all_to(&[upstream.address])).await;
    for http2 in [false, true] {
        let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
        let (mut writer, body) = Channel::<Bytes>::new(1);
        let request = Request::post("http://a.test/").header("host", "a.test").body(body).expect("a request");
        writer.send_data(Bytes::from("0;")).await.expect("sends");
        let mut answer = client.send(request).await.expect("an answer").into_body();
        for i in 0..5 {
            let frame = soon(answer.frame()).await.expect("a frame").expect("no error");
            assert_eq!(frame.into_data().expect("data"), format!("{i};"));
            writer.send_data(Bytes::from(format!("{};", i + 1))).await.expect("sends");
        }
        drop(writer);
        assert_eq!(soon(answer.collect()).await.expect("an end").to_bytes(), "5;");
    }
}

#[tokio::test]
async fn large_bodies_arrive_whole() {
    let upstream = Upstream::http(|request| async move { Response::new(request.into_body().boxed()) }).await;
    let (_proxy, address) = serving(all_to(&[upstream.address])).await;
    let large: Bytes = (0..4_000_000_u32).map(|i| b'a' + u8::try_from(i % 23).expect("small")).collect();
    for http2 in [false, true] {
        let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
        let request = Request::post("http://a.test/").header("host", "a").body(text(large.clone())).expect("a request");
        let response = client.send(request).await.expect("an answer");
        assert!(http2 || response.body().size_hint().exact() == Some(4_000_000));
        let answer = soon(read(response)).await.expect("a whole body");
        assert!(answer.body.as_bytes() == large, "the body changed on its way");
    }
}

fn sniffing(tcp: &Upstream, http: &Upstream) -> Snapshot {
    let protocol = ListenerProtocol::Sniff { tcp: "tcp".into() };
    let mut snapshot = routes(Vec::new(), &[("tcp", vec![tcp.address]), ("http", vec![http.address])]);
    snapshot.listeners = vec![listener("l", protocol, vec![rule(&[("http", 1)])])];
    snapshot
}

#[tokio::test]
async fn a_sniffing_listener_tells_http_from_the_rest() {
    let http = Upstream::named("http").await;
    let tcp = Upstream::raw(|mut stream| async move {
        stream.write_all(b"hello from tcp;").await.expect("sends");
        let (mut from, mut to) = stream.split();
        // The client's end is the end.
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await;
    let (_proxy, address) = serving(sniffing(&tcp, &http)).await;
    assert_eq!(ask(address, get("/")).await.body, "http");
    let mut h2 = Client::http2(address).await;
    let request = Request::get("http://a/").body(text("")).expect("a request");
    assert_eq!(read(h2.send(request).await.expect("an answer")).await.expect("a body").body, "http");
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(b"*1\r\n$4\r\nPING\r\n").await.expect("sends");
    assert!(read_until(&mut stream, "PING").await.starts_with("hello from tcp;*1"));
    // The server speaks first.
    let mut silent = TcpStream::connect(address).await.expect("connects");
    read_until(&mut silent, "hello from tcp;").await;
}

#[tokio::test]
async fn tcp_listeners_carry_bytes_and_half_closed_ends() {
    let tcp = Upstream::raw(|mut stream| async move {
        let mut all = String::new();
        stream.read_to_string(&mut all).await.expect("reads");
        stream.write_all(all.to_uppercase().as_bytes()).await.expect("sends");
    })
    .await;
    let mut snapshot = all_to(&[nobody().await, tcp.address]);
    snapshot.listeners = vec![listener("l", ListenerProtocol::Tcp { backend: "b".into() }, Vec::new())];
    let (_proxy, address) = serving(snapshot).await;
    for _ in 0..5 {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(b"abc").await.expect("sends");
        stream.shutdown().await.expect("shuts down");
        let mut all = String::new();
        soon(stream.read_to_string(&mut all)).await.expect("reads");
        assert_eq!(all, "ABC");
    }
}

/// A certificate and a client's configuration that trusts it.
pub(crate) fn certificate(name: &str, roots: &mut rustls::RootCertStore) -> Certificate {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    roots.add(made.cert.der().clone()).expect("a root");
    Certificate {
        hosts: vec![HostMatch::parse(name)],
        chain: made.cert.pem().into_bytes().into(),
        key: made.signing_key.serialize_pem().into_bytes().into(),
    }
}

#[tokio::test]
async fn tls_is_ended_by_name_and_http2_agreed_on() {
    let echo = Upstream::echo().await;
    let mut roots = rustls::RootCertStore::empty();
    let certificates = ["a.test", "b.test"].map(|name| certificate(name, &mut roots)).to_vec();
    let mut snapshot = all_to(&[echo.address]);
    snapshot.listeners = vec![listener(
        "l",
        ListenerProtocol::Https { certificates, clients: None, apart: Vec::new() },
        vec![rule(&[("b", 1)])],
    )];
    let (_proxy, address) = serving(snapshot).await;
    for (name, alpn) in [("a.test", "h2"), ("b.test", "http/1.1")] {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.into()];
        let stream = TcpStream::connect(address).await.expect("connects");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let server = rustls_pki_types::ServerName::try_from(name).expect("a name");
        // A wrong certificate fails here.
        let stream = soon(connector.connect(server, stream)).await.expect("a TLS connection");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn.as_bytes()));
        let request = Request::get("https://x.test/").header("host", "x.test").body(text("")).expect("a request");
        let io = TokioIo::new(stream);
        let response = if alpn == "h2" {
            let executor = hyper_util::rt::TokioExecutor::new();
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(executor, io).await.expect("a handshake");
            tokio::spawn(connection);
            soon(sender.send_request(request)).await.expect("an answer")
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("a handshake");
            tokio::spawn(connection);
            soon(sender.send_request(request)).await.expect("an answer")
        };
        let answer = read(response).await.expect("a body");
        assert!(answer.body.contains("x-forwarded-proto: https\n"), "{}", answer.body);
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go() {
    let proxy = start(Settings { header_timeout: Duration::from_secs(6), ..Settings::default() });
    let echo = Upstream::echo().await;
    proxy.handle.apply(all_to(&[echo.address])).await.expect("a good snapshot");
    let address = proxy.address("l");
    let http2 = async {
        let mut client = Client::http2(address).await;
        let request = Request::get("http://a/").body(text("")).expect("a request");
        read(client.send(request).await.expect("an answer")).await.expect("a body");
        client
    };
    // A head that never ends, and a connection that was used and then is not.
    let used = "GET /used HTTP/1.1\r\nhost: a\r\n\r\n";
    let (nothing, _, used, _client) =
        tokio::join!(raw(address, ""), raw(address, "GET / HTTP/1.1\r\nhost: a\r\n"), raw(address, used), http2);
    assert!(nothing.is_empty() && used.contains("GET /used"), "{nothing} {used}");
    until(|| proxy.handle.stats().connections == 0).await;
}
