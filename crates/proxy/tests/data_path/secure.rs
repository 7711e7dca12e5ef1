//! TLS: handed on by server name, and certificates that change under way.

use std::sync::Arc;

use hyper_util::rt::TokioIo;
use proxy::snapshot::*;
use rustls_pki_types::ServerName as Name;
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
    snapshot.listeners = vec![listener("l", ListenerProtocol::Https { certificates }, vec![rule(&[("b", 1)])])];
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
    snapshot.listeners = vec![listener("l", ListenerProtocol::Tls { names }, Vec::new())];
    let (_proxy, address) = serving(snapshot).await;
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
        snapshot.listeners = vec![listener("l", ListenerProtocol::Https { certificates }, vec![rule(&[("b", 1)])])];
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
