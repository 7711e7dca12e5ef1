//! TLS: handed on by server name, and certificates that change under way.

use std::sync::Arc;

use http::Request;
use hyper_util::rt::TokioIo;
use proxy::secured::Authorities;
use proxy::snapshot::*;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName as Name};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::harness::*;
use crate::protocols::certificate;

pub(crate) async fn connect(
    address: std::net::SocketAddr,
    name: &'static str,
    roots: &rustls::RootCertStore,
) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    soon(connector.connect(Name::try_from(name).expect("a name"), stream)).await
}

type Sender = hyper::client::conn::http1::SendRequest<ServedBody>;

async fn http1(stream: TlsStream<TcpStream>) -> Sender {
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
    tokio::spawn(connection);
    sender
}

async fn body(sender: &mut Sender) -> String {
    sender.ready().await.expect("a connection");
    read(soon(sender.send_request(get("/"))).await.expect("an answer")).await.expect("a body").body
}

/// A server that ends TLS for `name` and answers with it.
async fn secure(name: &'static str, roots: &mut rustls::RootCertStore) -> (Running, Upstream, std::net::SocketAddr) {
    let upstream = Upstream::named(name).await;
    let certificates = vec![certificate(name, roots)];
    let mut snapshot = all_to(&[upstream.address]);
    snapshot.listeners = vec![listener(
        "l",
        ListenerProtocol::Https { certificates, clients: None, apart: Vec::new() },
        vec![rule(&[("b", 1)])],
    )];
    let (running, address) = serving(snapshot).await;
    (running, upstream, address)
}

#[tokio::test]
async fn tls_goes_where_its_server_name_says() {
    let mut roots = rustls::RootCertStore::empty();
    let (_a, _up_a, a) = secure("a.test", &mut roots).await;
    let (_b, _up_b, b) = secure("x.b.test", &mut roots).await;
    let to = |id: &str, weight| Weighted { backend: id.into(), weight, filters: Vec::new(), policy: None };
    let names = vec![
        ServerName {
            host: HostMatch::parse("a.test"),
            backends: vec![to("a", 1), to("b", 0)],
            guard: Guard::default(),
        },
        ServerName { host: HostMatch::parse("*.b.test"), backends: vec![to("b", 1)], guard: Guard::default() },
        ServerName { host: HostMatch::parse("none.test"), backends: Vec::new(), guard: Guard::default() },
    ];
    let mut snapshot = routes(Vec::new(), &[("a", vec![a]), ("b", vec![b])]);
    snapshot.listeners = vec![listener("l", ListenerProtocol::Tls { certificates: Vec::new(), names }, Vec::new())];
    let (proxy, address) = serving(snapshot).await;
    // What such a connection would meet is told without one.
    for (host, backends) in [("X.b.test", vec!["b"]), ("a.test", vec!["a"]), ("other.test", Vec::new())] {
        let question = proxy::Question {
            listener: "l".into(),
            host: host.into(),
            method: http::Method::GET,
            uri: "/".parse().expect("a path"),
            headers: http::HeaderMap::new(),
            caller: None,
        };
        let met = proxy.handle.explain(question).await.expect("a listener");
        let ways: Vec<&str> = met.backends.iter().map(|way| &*way.backend).collect();
        assert_eq!((met.protocol, met.own_answer, ways), ("tls", None, backends), "{host}");
    }
    for name in ["a.test", "x.b.test"] {
        // The certificate is the backend's own: a wrong one fails here.
        let stream = connect(address, name, &roots).await.expect("a TLS connection");
        assert_eq!(body(&mut http1(stream).await).await, name);
    }
    for name in ["none.test", "other.test", "b.test"] {
        assert!(connect(address, name, &roots).await.is_err(), "{name}");
    }
    // What is no TLS is turned away.
    assert_eq!(raw(address, "GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await, "");
}

#[tokio::test]
async fn a_certificate_is_renewed_without_a_drop() {
    let upstream = Upstream::named("a.test").await;
    let with = |roots: &mut rustls::RootCertStore| {
        let mut snapshot = all_to(&[upstream.address]);
        let certificates = vec![certificate("a.test", roots)];
        snapshot.listeners = vec![listener(
            "l",
            ListenerProtocol::Https { certificates, clients: None, apart: Vec::new() },
            vec![rule(&[("b", 1)])],
        )];
        snapshot
    };
    let (mut old, mut new) = (rustls::RootCertStore::empty(), rustls::RootCertStore::empty());
    let (proxy, address) = serving(with(&mut old)).await;
    let mut kept = http1(connect(address, "a.test", &old).await.expect("a TLS connection")).await;
    assert_eq!(body(&mut kept).await, "a.test");

    proxy.handle.apply(with(&mut new)).await.expect("a good snapshot");
    assert_eq!(proxy.address("l"), address);
    assert_eq!(body(&mut kept).await, "a.test", "what was there goes on");
    assert!(connect(address, "a.test", &old).await.is_err(), "nobody gets the old one any more");
    let mut fresh = http1(connect(address, "a.test", &new).await.expect("a TLS connection")).await;
    assert_eq!(body(&mut fresh).await, "a.test");
    assert_eq!(body(&mut kept).await, "a.test");
}

#[tokio::test]
async fn tls_ends_here_and_what_is_in_it_goes_where_its_server_name_says() {
    let upstream = Upstream::named("plain").await;
    let mut roots = rustls::RootCertStore::empty();
    let certificates = vec![certificate("a.test", &mut roots)];
    let backends = vec![Weighted { backend: "b".into(), weight: 1, filters: Vec::new(), policy: None }];
    let names = vec![ServerName { host: HostMatch::parse("a.test"), backends, guard: Guard::default() }];
    let mut snapshot = all_to(&[upstream.address]);
    snapshot.listeners = vec![listener("l", ListenerProtocol::Tls { certificates, names }, Vec::new())];
    let (_proxy, address) = serving(snapshot).await;
    let stream = connect(address, "a.test", &roots).await.expect("a TLS connection");
    assert_eq!(body(&mut http1(stream).await).await, "plain");
    // Nobody has this name, and nobody speaks without TLS.
    assert!(connect(address, "b.test", &roots).await.is_err());
    assert_eq!(raw(address, "GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await.find("200"), None);
}

/// An authority and a client's certificate of it.
fn authority(name: &str) -> (Authorities, Shown) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let root = params.self_signed(&key).expect("an authority");
    let own = rcgen::KeyPair::generate().expect("a key");
    let mut leaf = rcgen::CertificateParams::new(vec!["client.test".to_owned()]).expect("parameters");
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = leaf.signed_by(&own, &rcgen::Issuer::from_params(&params, &key)).expect("a certificate");
    let authorities = Authorities::read(root.pem().as_bytes()).expect("an authority");
    (authorities, (vec![leaf.der().clone()], PrivateKeyDer::try_from(own.serialize_der()).expect("a key")))
}

#[tokio::test]
async fn only_clients_with_a_certificate_of_the_named_authorities_are_served_where_some_are_named() {
    let upstream = Upstream::named("a.test").await;
    let mut roots = rustls::RootCertStore::empty();
    let certificates = vec![certificate("a.test", &mut roots)];
    let ((authorities, good), (_, foreign)) = (authority("ours"), authority("theirs"));
    let shows = [Some(good), Some(foreign), None];
    for (unverified, expected) in [(false, [true, false, false]), (true, [true, true, true])] {
        let clients = Clients { authorities: authorities.clone(), unverified };
        let mut snapshot = all_to(&[upstream.address]);
        let certificates = certificates.clone();
        let protocol = ListenerProtocol::Https { certificates, clients: Some(clients), apart: Vec::new() };
        snapshot.listeners = vec![listener("l", protocol, vec![rule(&[("b", 1)])])];
        let (_proxy, address) = serving(snapshot).await;
        for (shown, served) in shows.iter().zip(expected) {
            let answer = asked_with(address, &roots, shown.as_ref()).await;
            assert_eq!(answer.starts_with("HTTP/1.1 200"), served, "{unverified} {answer:?}");
            assert_eq!(answer.is_empty(), !served, "{unverified} {answer:?}");
        }
    }
}

/// A client's chain and key.
type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What a client gets that shows this certificate; nothing where it is turned away.
async fn asked_with(address: std::net::SocketAddr, roots: &rustls::RootCertStore, shown: Option<&Shown>) -> String {
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots.clone());
    let config = match shown {
        Some((chain, key)) => config.with_client_auth_cert(chain.clone(), key.clone_key()).expect("a certificate"),
        None => config.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await.expect("connects");
    let name = Name::try_from("a.test").expect("a name");
    let asked = async {
        let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        // By TLS 1.3 a client hears of a refusal only when it reads.
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    };
    soon(asked).await.unwrap_or_default()
}

#[tokio::test]
async fn what_is_asked_on_a_connection_for_a_host_that_is_served_apart_is_misdirected() {
    let upstream = Upstream::named("b").await;
    let mut roots = rustls::RootCertStore::empty();
    let certificates = ["a.test", "b.test", "x.w.test"].map(|name| certificate(name, &mut roots)).to_vec();
    let apart = ["", "b.test", "*.w.test"].map(HostMatch::parse).to_vec();
    let mut snapshot = all_to(&[upstream.address]);
    let protocol = ListenerProtocol::Https { certificates, clients: None, apart };
    snapshot.listeners = vec![listener("l", protocol, vec![rule(&[("b", 1)])])];
    let (_proxy, address) = serving(snapshot).await;
    for (opened, asked, status) in [
        ("a.test", "a.test", 200),
        ("a.test", "other.test", 200),
        ("a.test", "B.test", 421),
        ("b.test", "b.test:8443", 200),
        ("b.test", "a.test", 421),
        ("x.w.test", "y.w.test", 200),
        ("x.w.test", "b.test", 421),
    ] {
        let mut sender = http1(connect(address, opened, &roots).await.expect("a TLS connection")).await;
        let request = Request::get("/").header("host", asked).body(text("")).expect("a request");
        let answer = soon(sender.send_request(request)).await.expect("an answer");
        assert_eq!(answer.status().as_u16(), status, "{opened} {asked}");
    }
}
