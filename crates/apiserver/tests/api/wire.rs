//! Over TLS: certificates, credentials, protocols, health, the end.

use std::sync::Arc;

use base64::Engine;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::*;

pub(crate) async fn connect(
    server: &Harness,
    name: &'static str,
    protocol: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(server.handle.ca_pem().as_bytes()).expect("PEM");
    roots.add(authority).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(server.handle.address()).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name).expect("a name"), stream).await
}

fn kubeconfig(server: &Harness) -> Value {
    let text = std::fs::read_to_string(server.handle.kubeconfig_path()).expect("a kubeconfig");
    serde_json::from_str(&text).expect("a kubeconfig")
}

pub(crate) fn token(server: &Harness) -> String {
    kubeconfig(server)["users"][0]["user"]["token"].as_str().expect("a token").to_owned()
}

async fn get(server: &Harness, path: &str, token: Option<&str>) -> (u16, String) {
    send(server, "GET", path, token, "").await
}

/// One request on a connection of its own.
pub(crate) async fn send(server: &Harness, method: &str, path: &str, token: Option<&str>, body: &str) -> (u16, String) {
    let stream = connect(server, "127.0.0.1", "http/1.1").await.expect("TLS");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
    let connection = tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let response = sender
        .send_request(request.body(Full::<Bytes>::from(body.to_owned())).expect("a request"))
        .await
        .expect("an answer");
    let answer = text(response).await;
    drop(sender);
    connection.await.expect("no panic").expect("a clean end");
    answer
}

/// An open watch over HTTP/2, of who has the token. The connection ends with it.
pub(crate) async fn watch(server: &Harness, path: &str, token: &str) -> Lines {
    let stream = connect(server, "localhost", "h2").await.expect("TLS");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let request = Request::get(format!("https://localhost{path}")).header("authorization", format!("Bearer {token}"));
    let response =
        sender.send_request(request.body(Full::<Bytes>::default()).expect("a request")).await.expect("a watch");
    assert_eq!(response.status(), 200, "{path}");
    Lines::new(response.into_body())
}

async fn text(response: Response<Incoming>) -> (u16, String) {
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (code, String::from_utf8(body.to_vec()).expect("text"))
}

#[tokio::test]
async fn strangers_see_health_and_version_alone() {
    let server = Harness::start().await;
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(get(&server, path, None).await.0, 200, "{path}");
    }
    for path in ["/", "/api", "/apis", "/openapi/v3", "/api/v1/secrets", "/nothing"] {
        let (code, body) = get(&server, path, None).await;
        assert_eq!(code, 401, "{path}");
        assert!(body.contains("\"reason\":\"Unauthorized\""), "{body}");
    }
    assert_eq!(get(&server, "/api/v1/secrets", Some("wrong")).await.0, 401);
    assert_eq!(get(&server, "/api/v1/secrets", Some(&token(&server))).await.0, 200);
    let (_, verbose) = get(&server, "/readyz?verbose", None).await;
    assert!(verbose.contains("[+]bootstrap ok") && verbose.ends_with("readyz check passed\n"), "{verbose}");
    server.stop().await;
}

#[tokio::test]
async fn a_token_of_an_account_gets_what_is_bound_and_nothing_else() {
    let server = Harness::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    server.make(accounts, json!({ "metadata": { "name": "robot" } })).await;
    let issue = |audiences: Value| {
        let server = &server;
        async move {
            let ask = json!({ "spec": { "audiences": audiences } });
            let made = server.make(&format!("{accounts}/robot/token"), ask).await;
            made["status"]["token"].as_str().expect("a token").to_owned()
        }
    };
    let (token, vault) = (issue(json!([])).await, issue(json!(["vault"])).await);
    for (path, code) in
        [("/version", 200), ("/apis", 200), ("/openapi/v3", 200), ("/metrics", 403), (PODS, 403), (CONFIG_MAPS, 403)]
    {
        assert_eq!(get(&server, path, Some(&token)).await.0, code, "{path}");
        assert_eq!(get(&server, path, Some(&vault)).await.0, 401, "{path}, by a token that is for others");
    }
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let view = json!({ "metadata": { "name": "see" }, "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view" },
        "subjects": [{ "kind": "ServiceAccount", "name": "robot", "namespace": "default" }] });
    server.make(bindings, view).await;
    for (path, code) in [
        (PODS, 200),
        (CONFIG_MAPS, 200),
        ("/api/v1/namespaces/default/secrets", 403),
        ("/api/v1/namespaces/kube-system/configmaps", 403),
        ("/api/v1/configmaps", 403),
    ] {
        assert_eq!(get(&server, path, Some(&token)).await.0, code, "{path}");
    }
    server.delete(&format!("{bindings}/see"), Value::Null).await;
    assert_eq!(get(&server, PODS, Some(&token)).await.0, 403, "what is taken away is gone at once");
    server.stop().await;
}

#[tokio::test]
async fn the_certificate_is_good_for_every_name() {
    let server = Harness::start().await;
    for name in ["127.0.0.1", "::1", "localhost", "kubernetes", "kubernetes.default.svc.cluster.local", "127.96.0.1"] {
        assert!(connect(&server, name, "h2").await.is_ok(), "{name}");
    }
    assert!(connect(&server, "example.com", "h2").await.is_err());
    server.stop().await;
}

#[tokio::test]
async fn http2_carries_watches_and_requests_on_one_connection() {
    let server = Harness::start().await;
    let stream = connect(&server, "localhost", "h2").await.expect("TLS");
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let token = token(&server);
    let request = |path: String| {
        Request::get(format!("https://localhost{path}"))
            .header("authorization", format!("Bearer {token}"))
            .body(Full::<Bytes>::default())
            .expect("a request")
    };
    let mut watches = Vec::new();
    for _ in 0..150 {
        let response =
            sender.clone().send_request(request(format!("{CONFIG_MAPS}?watch=true"))).await.expect("a watch");
        watches.push(response.into_body());
    }
    server.make(CONFIG_MAPS, config_map("a", json!({}))).await;
    for watch in &mut watches {
        let frame =
            tokio::time::timeout(LIMIT, watch.frame()).await.expect("in time").expect("a frame").expect("no error");
        assert!(frame.into_data().is_ok_and(|data| data.starts_with(b"{\"type\":\"ADDED\"")));
    }
    // Every watch ends cleanly when the server does.
    server.stop().await;
    for watch in watches {
        let rest = tokio::time::timeout(LIMIT, watch.collect()).await.expect("in time").expect("a clean end");
        assert!(rest.to_bytes().is_empty());
    }
    drop(sender);
    connection.await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn what_is_on_disk_is_private_and_lasts() {
    use std::os::unix::fs::PermissionsExt;
    let server = Harness::start().await;
    let first = (kubeconfig(&server), server.handle.ca_pem().to_owned());
    assert_eq!(first.0["clusters"][0]["cluster"]["server"], server.handle.url());
    let authority = first.0["clusters"][0]["cluster"]["certificate-authority-data"].as_str().expect("data");
    let authority = base64::engine::general_purpose::STANDARD.decode(authority).expect("base64");
    assert_eq!(authority, first.1.as_bytes());
    for file in ["kubeconfig", "pki/ca.key", "pki/admin.token", "pki/service-accounts.key"] {
        let mode = std::fs::metadata(server.folder.path().join(file)).expect(file).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let folder = server.stop().await;
    let server = Harness::with(folder, |_| {}, |_| {}).await;
    assert_eq!(kubeconfig(&server)["users"], first.0["users"]);
    assert_eq!(server.handle.ca_pem(), first.1);
    server.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_said() {
    let server = Harness::start().await;
    let mut settings = apiserver::Settings::new(server.folder.path().join("second"));
    settings.bind = server.handle.address();
    let built = apiserver::build(
        settings,
        server.store.clone(),
        apiserver::Dependencies { logs: Arc::new(EchoLogs), sessions: None, pages: None },
    );
    let error = built.err().expect("an error").to_string();
    assert!(error.contains(&server.handle.address().to_string()) && error.contains("choose another port"), "{error}");
    server.stop().await;
}

#[tokio::test]
async fn discovery_has_two_forms() {
    let server = Harness::start().await;
    let legacy = server.get("/apis").await.1;
    assert_eq!(legacy["kind"], "APIGroupList");
    assert_eq!(server.get("/api").await.1["versions"], json!(["v1"]));
    assert_eq!(server.get("/apis/apps/v1").await.1["kind"], "APIResourceList");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let request = Request::get("/apis").header("accept", accept).body(Full::default()).expect("a request");
    let response = server.send(request).await;
    assert_eq!(
        response.headers()["content-type"],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    let aggregated: Value = serde_json::from_slice(&body).expect("JSON");
    let groups: Vec<&str> = aggregated["items"]
        .as_array()
        .expect("items")
        .iter()
        .filter_map(|group| group["metadata"]["name"].as_str())
        .collect();
    assert!(groups.contains(&"apps") && groups.contains(&"batch"));
    server.stop().await;
}

#[tokio::test]
async fn the_old_document_is_whole_in_json_and_empty_in_protobuf() {
    let server = Harness::start().await;
    let ask = async |accept: &str| {
        let request = Request::get("/openapi/v2").header("accept", accept).body(Full::default()).expect("a request");
        let response = server.send(request).await;
        let media = response.headers()["content-type"].to_str().expect("text").to_owned();
        (media, response.into_body().collect().await.expect("a body").to_bytes())
    };
    let (media, body) = ask("application/json").await;
    let document: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(media, "application/json");
    assert!(document["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let (media, body) = ask(protobuf).await;
    assert_eq!(media, protobuf.replace('@', "."));
    // Every length in it leads to the next field or the end.
    assert_eq!((body[1], body[6]), (3, u8::try_from(body.len() - 7).expect("short")));
    server.stop().await;
}

#[tokio::test]
async fn someone_may_be_taken_for_another() {
    let server = Harness::start().await;
    let request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("impersonate-user", "bob")
        .header("impersonate-group", "dev")
        .body(Full::from("{}"))
        .expect("a request");
    let body = server.send(request).await.into_body().collect().await.expect("a body").to_bytes();
    let review: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(review["status"]["userInfo"], json!({ "username": "bob", "groups": ["dev", "system:authenticated"] }));
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_served_is_said_clearly() {
    let server = Harness::start().await;
    server.make(PODS, pod("a")).await;
    for part in ["proxy", "ephemeralcontainers"] {
        let (code, status) = server.get(&format!("{PODS}/a/{part}")).await;
        assert_eq!((code, &status["reason"]), (501, &json!("NotImplemented")), "{part}");
    }
    // kubectl looks into the details of what it takes for a server without the path, and fails when there are none.
    let (code, status) = server.get(&format!("{PODS}/a/nothing")).await;
    assert_eq!((code, &status["details"]), (404, &json!({})));
}
