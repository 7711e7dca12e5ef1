//! TLS, from Secrets and routes to handshakes.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::harness::{Cluster, LIMIT, port, service};

/// A Secret `cert` with a new certificate for `name`, which `roots` trusts from then on.
fn secret(name: &str, roots: &mut rustls::RootCertStore) -> String {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    roots.add(made.cert.der().clone()).expect("a root");
    secret_of(&made.cert.pem(), &made.signing_key.serialize_pem())
}

/// The same Secret with this in it.
fn secret_of(chain: &str, key: &str) -> String {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: cert}}\ntype: kubernetes.io/tls\ndata: {{tls.crt: {}, tls.key: {}}}\n",
        encode(chain),
        encode(key)
    )
}

async fn connect(
    address: SocketAddr,
    name: &'static str,
    roots: &rustls::RootCertStore,
) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(address).await?;
    connector.connect(ServerName::try_from(name).expect("a name"), stream).await
}

/// Connects until that works: what was changed is compiled and applied in its own time.
async fn connected(address: SocketAddr, name: &'static str, roots: &rustls::RootCertStore) -> TlsStream<TcpStream> {
    let connecting = async {
        loop {
            if let Ok(stream) = connect(address, name, roots).await {
                return stream;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, connecting).await.expect("a TLS connection in time")
}

/// One request on a connection that stays open; the answer's body ends with `end`.
async fn ask(stream: &mut TlsStream<TcpStream>, name: &str, end: &str) {
    let request = format!("GET /x HTTP/1.1\r\nhost: {name}\r\n\r\n");
    let exchange = async {
        stream.write_all(request.as_bytes()).await.expect("the request is sent");
        let mut answer = Vec::new();
        while !answer.ends_with(end.as_bytes()) {
            assert_ne!(stream.read_buf(&mut answer).await.expect("an answer"), 0, "cut off");
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    };
    tokio::time::timeout(LIMIT, exchange).await.expect("an answer in time");
}

/// A Gateway that ends TLS with the Secret, before a Service that answers.
async fn edge(cluster: &mut Cluster, roots: &mut rustls::RootCertStore) -> SocketAddr {
    let port = port();
    let manifests = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge}}\nspec: {{gatewayClassName: coracle, listeners: \
         [{{name: tls, port: {port}, protocol: HTTPS, tls: {{certificateRefs: [{{name: cert}}]}}}}]}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec: {{parentRefs: [{{name: edge}}], rules: [{{backendRefs: [{{name: web, port: 8080}}]}}]}}\n"
    );
    cluster.apply(&(manifests + &service("web", 8080) + &secret("a.test", roots))).await;
    cluster.endpoint("web", "web").await;
    let edge = cluster.gateway("edge", "tls").await;
    crate::harness::until(cluster.service("web", 8080).await, "web", "/x", (200, "web /x")).await;
    edge
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_secret_serves_at_once_and_cuts_nobody_off() {
    let mut cluster = Cluster::start().await;
    let (mut old, mut new) = (rustls::RootCertStore::empty(), rustls::RootCertStore::empty());
    let edge = edge(&mut cluster, &mut old).await;

    let mut kept = connected(edge, "a.test", &old).await;
    ask(&mut kept, "a.test", "web /x").await;
    cluster.apply(&secret("a.test", &mut new)).await;
    let mut fresh = connected(edge, "a.test", &new).await;
    ask(&mut fresh, "a.test", "web /x").await;
    ask(&mut kept, "a.test", "web /x").await;
    assert!(connect(edge, "a.test", &old).await.is_err(), "nobody gets the old one any more");
    assert_eq!(cluster.gateway("edge", "tls").await, edge);
    drop((kept, fresh));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_secret_is_told_of_and_the_last_good_one_served() {
    let mut cluster = Cluster::start().await;
    let (mut old, mut new) = (rustls::RootCertStore::empty(), rustls::RootCertStore::empty());
    let edge = edge(&mut cluster, &mut old).await;
    ask(&mut connected(edge, "a.test", &old).await, "a.test", "web /x").await;

    let says = async |kind: &str, status: &str, words: &str| {
        let wanted = |gateway: &serde_json::Value| {
            let conditions = gateway.pointer("/status/listeners/0/conditions").and_then(serde_json::Value::as_array);
            conditions.into_iter().flatten().any(|one| {
                let message = one["message"].as_str().unwrap_or_default();
                one["type"] == kind && one["status"] == status && message.contains(words)
            })
        };
        cluster.wait("gateway.networking.k8s.io/v1", "Gateway", "edge", wanted).await
    };
    let other = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("a certificate");
    let key = other.signing_key.serialize_pem();
    let another = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("a certificate");
    for (chain, key, words) in
        [(another.cert.pem(), key.as_str(), "cannot be used"), ("no PEM".to_owned(), key.as_str(), "tls.crt")]
    {
        cluster.apply(&secret_of(&chain, key)).await;
        let gateway = says("ResolvedRefs", "False", words).await;
        assert!(gateway.data.to_string().contains("InvalidCertificateRef"), "{gateway:?}");
        says("Programmed", "True", "").await;
        ask(&mut connect(edge, "a.test", &old).await.expect("it is served still"), "a.test", "web /x").await;
    }
    cluster.apply(&secret("a.test", &mut new)).await;
    ask(&mut connected(edge, "a.test", &new).await, "a.test", "web /x").await;
    says("ResolvedRefs", "True", "").await;
    // What is taken away is not served on.
    cluster.delete("v1", "Secret", "cert").await;
    says("Programmed", "False", "").await;
    assert!(connect(edge, "a.test", &new).await.is_err());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tls_route_leads_past_the_gateway_to_the_backends_own_certificate() {
    let mut cluster = Cluster::start().await;
    let (outer, inner) = (port(), port());
    let mut roots = rustls::RootCertStore::empty();
    // The backend that ends TLS is another Gateway's listener.
    let manifests = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: inner}}\nspec: {{gatewayClassName: coracle, listeners: \
         [{{name: tls, port: {inner}, protocol: HTTPS, tls: {{certificateRefs: [{{name: cert}}]}}}}]}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec: {{parentRefs: [{{name: inner}}], rules: [{{backendRefs: [{{name: web, port: 8080}}]}}]}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: outer}}\nspec: {{gatewayClassName: coracle, listeners: \
         [{{name: pass, port: {outer}, protocol: TLS, tls: {{mode: Passthrough}}}}]}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {{name: t}}\nspec: {{parentRefs: [{{name: outer}}], hostnames: [a.test], rules: [{{backendRefs: [{{name: secure, port: 9443}}]}}]}}\n"
    );
    let services = service("web", 8080) + &service("secure", 9443);
    cluster.apply(&(manifests + &services + &secret("a.test", &mut roots))).await;
    cluster.endpoint("web", "web").await;
    cluster.apply(&crate::harness::slice("secure", "inner", inner, true)).await;
    let outer = cluster.gateway("outer", "pass").await;
    crate::harness::until(cluster.service("web", 8080).await, "web", "/x", (200, "web /x")).await;
    let mut stream = connected(outer, "a.test", &roots).await;
    ask(&mut stream, "a.test", "web /x").await;
    cluster
        .wait("gateway.networking.k8s.io/v1", "TLSRoute", "t", |route| {
            let conditions = route.pointer("/status/parents/0/conditions").and_then(serde_json::Value::as_array);
            conditions.is_some_and(|all| all.len() == 2 && all.iter().all(|one| one["status"] == "True"))
        })
        .await;
    drop(stream);
    cluster.stop().await;
}
