//! TLS to backends: whose certificates are believed, what is spoken, and what is shown.

use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proxy::secured::{Authorities, BackendTls, ClientCertificate, SubjectName, Trust};
use proxy::snapshot::*;
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair, SanType};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

/// A certificate for a name and a SPIFFE ID, and its key.
fn issue(issuer: &Issuer, name: &str) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.subject_alt_names.push(SanType::URI("spiffe://t/ns/a/sa/b".try_into().expect("a URI")));
    (params.signed_by(&key, issuer).expect("a certificate"), key)
}

/// A server with TLS that answers with what it was asked by, and echoes after a change of protocol. It asks for certificates
/// of `clients`, where that is given.
async fn secure(issuer: &Issuer, name: &str, alpn: &[&[u8]], clients: Option<&Issuer>) -> Upstream {
    let (certificate, key) = issue(issuer, name);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(clients.der().clone()).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .expect("a verifier");
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).expect("a certificate");
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    Upstream::raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let session = stream.get_ref().1;
            let said = format!(
                "sni={} alpn={} client={}",
                session.server_name().unwrap_or("-"),
                session.alpn_protocol().map_or("-".into(), String::from_utf8_lossy),
                session.peer_certificates().is_some()
            );
            let kind = format!("{:?}", session.handshake_kind());
            let service = service_fn(move |mut request| {
                let said = format!("{said} {:?} {:?}", request.version(), request.uri().scheme_str());
                let kind = kind.clone();
                async move {
                    if request.headers().contains_key("upgrade") {
                        let upgraded = hyper::upgrade::on(&mut request);
                        tokio::spawn(async move {
                            let io = TokioIo::new(upgraded.await.expect("an upgrade"));
                            let (mut from, mut to) = tokio::io::split(io);
                            tokio::io::copy(&mut from, &mut to).await
                        });
                        let builder = http::Response::builder().status(101).header("connection", "upgrade");
                        let builder = builder.header("x-handshake", kind);
                        return builder.header("upgrade", "echo").body(text(""));
                    }
                    Ok::<_, http::Error>(http::Response::new(text(said)))
                }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // A client that goes away is its own affair.
            let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        }
    })
    .await
}

fn trusting(issuer: &Issuer, name: &str, names: Vec<SubjectName>) -> BackendTls {
    let authorities = Authorities::read(issuer.pem().as_bytes()).expect("an authority");
    BackendTls { name: name.into(), trust: Trust::Authorities(authorities), names }
}

fn sent(to: SocketAddr, tls: BackendTls, protocol: BackendProtocol) -> proxy::Snapshot {
    let mut snapshot = all_to(&[]);
    let endpoints = vec![Endpoint { tls: Some(Arc::new(tls)), ..Endpoint::plain(to) }];
    snapshot.backends.insert("b".into(), Backend { endpoints, protocol, ..Backend::default() });
    snapshot
}

#[tokio::test]
async fn a_certificate_must_be_signed_by_whom_and_for_what_the_owner_says() {
    let (good, other) = (authority("good"), authority("other"));
    let upstream = secure(&good, "db.test", &[b"http/1.1"], None).await;
    let (running, address) = serving(all_to(&[])).await;
    let host = |name: &str| SubjectName::Host(name.into());
    let uri = |name: &str| SubjectName::Uri(name.into());
    for (tls, status) in [
        (trusting(&good, "db.test", Vec::new()), 200),
        (trusting(&other, "db.test", Vec::new()), 502),
        (trusting(&good, "else.test", Vec::new()), 502),
        (trusting(&good, "else.test", vec![host("no.test"), host("db.test")]), 200),
        (trusting(&good, "db.test", vec![host("no.test")]), 502),
        (trusting(&good, "db.test", vec![uri("spiffe://t/ns/a/sa/b")]), 200),
        (trusting(&good, "db.test", vec![uri("spiffe://t/ns/a/sa/other")]), 502),
        (trusting(&other, "db.test", vec![uri("spiffe://t/ns/a/sa/b")]), 502),
    ] {
        running.handle.apply(sent(upstream.address, tls.clone(), BackendProtocol::Auto)).await.expect("good");
        let answer = ask(address, get("/")).await;
        assert_eq!(answer.status, status, "{tls:?}: {}", answer.body);
        if status == 200 {
            assert_eq!(answer.body, format!("sni={} alpn=http/1.1 client=false HTTP/1.1 None", tls.name));
        }
    }
    // What speaks no TLS is not spoken to.
    let plain = Upstream::named("plain").await;
    let tls = trusting(&good, "db.test", Vec::new());
    running.handle.apply(sent(plain.address, tls, BackendProtocol::Auto)).await.expect("good");
    assert_eq!(ask(address, get("/")).await.status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn http2_is_agreed_on_by_alpn_or_not_spoken() {
    let good = authority("good");
    let both = secure(&good, "db.test", &[b"h2", b"http/1.1"], None).await;
    let old = secure(&good, "db.test", &[], None).await;
    let (running, address) = serving(all_to(&[])).await;
    let tls = || trusting(&good, "db.test", Vec::new());
    running.handle.apply(sent(both.address, tls(), BackendProtocol::H2c)).await.expect("good");
    assert_eq!(ask(address, get("/")).await.body, "sni=db.test alpn=h2 client=false HTTP/2.0 Some(\"https\")");
    running.handle.apply(sent(both.address, tls(), BackendProtocol::Auto)).await.expect("good");
    let grpc = || {
        let request = http::Request::post("http://a.test/x").header("content-type", "application/grpc");
        request.body(text("")).expect("a request")
    };
    let mut client = Client::http2(address).await;
    let answer = read(client.send(grpc()).await.expect("an answer")).await.expect("a body");
    assert!(answer.body.contains("alpn=h2"), "{}", answer.body);
    assert!(ask(address, get("/")).await.body.contains("alpn=http/1.1"));
    // A server without ALPN gets HTTP/1.1 all the same, and no HTTP/2.
    running.handle.apply(sent(old.address, tls(), BackendProtocol::Auto)).await.expect("good");
    assert!(ask(address, get("/")).await.body.contains("alpn=-"));
    running.handle.apply(sent(old.address, tls(), BackendProtocol::H2c)).await.expect("good");
    assert_eq!(ask(address, get("/")).await.status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn protocols_change_within_tls() {
    let good = authority("good");
    let upstream = secure(&good, "db.test", &[b"http/1.1"], None).await;
    let tls = trusting(&good, "db.test", Vec::new());
    let (_running, address) = serving(sent(upstream.address, tls, BackendProtocol::Http1)).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let head = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n";
    stream.write_all(head).await.expect("sends");
    assert!(read_until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 101"));
    stream.write_all(b"ping").await.expect("sends");
    let mut back = [0; 4];
    soon(stream.read_exact(&mut back)).await.expect("an echo");
    assert_eq!(&back, b"ping");
}

#[tokio::test]
async fn a_gateways_certificate_is_shown_on_connections_of_its_own() {
    let (good, clients) = (authority("good"), authority("clients"));
    let upstream = secure(&good, "db.test", &[b"http/1.1"], Some(&clients)).await;
    let tls = trusting(&good, "db.test", Vec::new());
    let mut snapshot = sent(upstream.address, tls, BackendProtocol::Auto);
    let (certificate, key) = issue(&clients, "edge");
    let client = ClientCertificate::read(certificate.pem().as_bytes(), key.serialize_pem().as_bytes());
    let with = Rule { client: Some(Arc::new(client.expect("a certificate"))), ..rule(&[("b", 1)]) };
    snapshot.listeners = vec![
        listener("l", ListenerProtocol::Http, vec![rule(&[("b", 1)])]),
        listener("with", ListenerProtocol::Http, vec![with]),
    ];
    let (running, without) = serving(snapshot).await;
    let with = running.address("with");
    // Twice each: a kept connection is not used for the other.
    for _ in 0..2 {
        assert!(ask(with, get("/")).await.body.contains("client=true"));
        assert!(ask(without, get("/")).await.body.contains("client=false"));
    }
}

#[tokio::test]
async fn authorities_are_renewed_without_a_drop() {
    let (old, new) = (authority("old"), authority("new"));
    let (first, second) = (secure(&old, "db.test", &[], None).await, secure(&new, "db.test", &[], None).await);
    let tls = |issuer| trusting(issuer, "db.test", Vec::new());
    let (running, address) = serving(sent(first.address, tls(&old), BackendProtocol::Auto)).await;
    let both = Authorities::joined(
        &[&old, &new].map(|issuer| Authorities::read(issuer.pem().as_bytes()).expect("an authority")),
    );
    let both = BackendTls { trust: Trust::Authorities(both.expect("two")), ..tls(&old) };
    let mut client = Client::http1(address).await;
    for (to, tls) in [(first.address, both.clone()), (second.address, both), (second.address, tls(&new))] {
        running.handle.apply(sent(to, tls, BackendProtocol::Auto)).await.expect("good");
        for _ in 0..3 {
            let answer = read(client.send(get("/")).await.expect("an answer")).await.expect("a body");
            assert_eq!(answer.status, StatusCode::OK);
        }
    }
    // An authority that is trusted no longer is so at once, also where a connection was kept.
    running.handle.apply(sent(second.address, tls(&old), BackendProtocol::Auto)).await.expect("good");
    assert_eq!(ask(address, get("/")).await.status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn raw_bytes_go_within_tls_and_tls_of_the_callers_own_as_it_is() {
    let good = authority("good");
    let upstream = secure(&good, "db.test", &[], None).await;
    let mut snapshot = sent(upstream.address, trusting(&good, "db.test", Vec::new()), BackendProtocol::Auto);
    snapshot.listeners = vec![listener("l", ListenerProtocol::Sniff { tcp: "b".into() }, vec![rule(&[("b", 1)])])];
    snapshot.listeners.push(listener("tcp", ListenerProtocol::Tcp { backend: "b".into() }, Vec::new()));
    let (running, address) = serving(snapshot).await;
    // Bytes to a listener that does not look at them: the upstream reads HTTP out of its TLS.
    let answer = raw(running.address("tcp"), "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(answer.contains("sni=db.test"), "{answer}");
    // A caller that speaks TLS reaches the upstream's own, with the name that it asks for.
    let mut roots = rustls::RootCertStore::empty();
    roots.add(good.der().clone()).expect("a root");
    let stream = crate::secure::connect(address, "db.test", &roots).await.expect("TLS end to end");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
    let driver = tokio::spawn(connection);
    let answer = read(soon(sender.send_request(get("/"))).await.expect("an answer")).await.expect("a body");
    assert_eq!(answer.body, "sni=db.test alpn=- client=false HTTP/1.1 None");
    driver.abort();
}

/// The upstream of a connection of its own, and how it came to be.
async fn handshake(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let head = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n";
    stream.write_all(head).await.expect("sends");
    let head = read_until(&mut stream, "\r\n\r\n").await;
    let kind = head.lines().find_map(|line| line.strip_prefix("x-handshake: "));
    kind.unwrap_or_else(|| panic!("{head}")).to_owned()
}

#[tokio::test]
async fn sessions_are_resumed() {
    let good = authority("good");
    let upstream = secure(&good, "db.test", &[b"http/1.1"], None).await;
    let tls = trusting(&good, "db.test", Vec::new());
    let (_running, address) = serving(sent(upstream.address, tls, BackendProtocol::Http1)).await;
    assert_eq!(handshake(address).await, "Some(Full)");
    assert_eq!(handshake(address).await, "Some(Resumed)");
}

/// Where the program must show who it is (`expects`), the proxy speaks TLS for callers that speak none, and not around their own.
#[tokio::test]
async fn a_callers_own_tls_reaches_a_program_with_a_certificate_as_it_is() {
    let good = authority("good");
    let upstream = secure(&good, "db.test", &[], None).await;
    let endpoint = Endpoint { expects: Some("spiffe://t/ns/a/sa/b".into()), ..Endpoint::plain(upstream.address) };
    let mut snapshot = all_to(&[]);
    snapshot.backends.insert("b".into(), Backend { endpoints: vec![endpoint], ..Backend::default() });
    snapshot.listeners = vec![listener("l", ListenerProtocol::Sniff { tcp: "b".into() }, vec![rule(&[("b", 1)])])];
    let (_running, address) = serving(snapshot).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(good.der().clone()).expect("a root");
    let stream = crate::secure::connect(address, "db.test", &roots).await.expect("TLS end to end");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
    let driver = tokio::spawn(connection);
    let answer = read(soon(sender.send_request(get("/"))).await.expect("an answer")).await.expect("a body");
    assert!(answer.body.starts_with("sni=db.test"), "{}", answer.body);
    driver.abort();
}
