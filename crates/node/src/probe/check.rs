//! One attempt of a probe over the network.
//!
//! It must not know processes: what a command says is asked elsewhere.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPHeader;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::network::PodNetwork;

/// As much of an answer is read as upstream reads.
const BODY_LIMIT: usize = 10 << 10;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Http { secure: bool, host: String, port: u16, path: String, headers: Vec<HTTPHeader> },
    Tcp { host: String, port: u16 },
    Grpc { host: String, port: u16, service: String },
}

/// Asks once. `Err` says why it is no success, in upstream's words.
pub(crate) async fn check(target: &Target, network: Option<&PodNetwork>, limit: Duration) -> Result<(), String> {
    let attempt = async {
        match target {
            Target::Http { .. } => get(target, network).await,
            Target::Tcp { host, port } => match connect(host, *port, network).await {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("dial tcp {host}:{port}: {}", refused(&error))),
            },
            Target::Grpc { host, port, service } => match connect(host, *port, network).await {
                Ok(stream) => super::grpc::check(stream, *port, service).await,
                Err(error) => Err(format!("timeout: failed to connect service \"{host}:{port}\": {error}")),
            },
        }
    };
    match tokio::time::timeout(limit, attempt).await {
        Ok(result) => result,
        Err(_) => Err(match target {
            Target::Http { .. } => {
                format!(
                    "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                    url(target)
                )
            }
            Target::Tcp { host, port } => format!("dial tcp {host}:{port}: i/o timeout"),
            Target::Grpc { .. } => "timeout: health rpc did not complete within the time limit".to_owned(),
        }),
    }
}

/// Connects over the network in which the address is.
async fn connect(host: &str, port: u16, network: Option<&PodNetwork>) -> io::Result<TcpStream> {
    match (network, host.parse::<IpAddr>()) {
        (Some(network), Ok(address)) if network.has(address) => network.connect(SocketAddr::new(address, port)).await,
        _ => TcpStream::connect((host, port)).await,
    }
}

fn refused(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        _ => error.to_string(),
    }
}

fn url(target: &Target) -> String {
    match target {
        Target::Http { secure, host, port, path, .. } => {
            format!("{}://{host}:{port}{path}", if *secure { "https" } else { "http" })
        }
        Target::Tcp { host, port } => format!("tcp://{host}:{port}"),
        Target::Grpc { host, port, .. } => format!("grpc://{host}:{port}"),
    }
}

/// One GET; any answer from 200 to 399 is a success.
pub(crate) async fn get(target: &Target, network: Option<&PodNetwork>) -> Result<(), String> {
    let Target::Http { secure, host, port, .. } = target else {
        return Err("not an HTTP target".to_owned());
    };
    let failed = |why: String| format!("Get \"{}\": {why}", url(target));
    let stream =
        connect(host, *port, network).await.map_err(|e| failed(format!("dial tcp {host}:{port}: {}", refused(&e))))?;
    let _ = stream.set_nodelay(true);
    if *secure {
        let name = ServerName::try_from(host.clone()).map_err(|e| failed(e.to_string()))?;
        let stream = connector().map_err(&failed)?.connect(name, stream).await.map_err(|e| failed(e.to_string()))?;
        exchange(target, stream).await
    } else {
        exchange(target, stream).await
    }
}

async fn exchange(target: &Target, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<(), String> {
    let failed = |why: String| format!("Get \"{}\": {why}", url(target));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(e.to_string()))?;
    let request = request(target).map_err(failed)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| failed(e.to_string()))?;
        let status = response.status().as_u16();
        // Read so that a slow body counts; what is too long is cut.
        let _ = Limited::new(response.into_body(), BODY_LIMIT).collect().await;
        if (200..400).contains(&status) { Ok(()) } else { Err(format!("HTTP probe failed with statuscode: {status}")) }
    };
    // The connection lives as long as this exchange, and no longer.
    let driver = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = answer => result,
        () = driver => Err(failed("EOF".to_owned())),
    }
}

fn request(target: &Target) -> Result<http::Request<Empty<Bytes>>, String> {
    let Target::Http { host, port, path, headers, .. } = target else {
        return Err("not an HTTP target".to_owned());
    };
    let path = if path.starts_with('/') { path.clone() } else { format!("/{path}") };
    let mut builder = http::Request::get(path);
    let has = |name: &str| headers.iter().any(|h| h.name.eq_ignore_ascii_case(name));
    for (name, value) in
        [("host", format!("{host}:{port}")), ("user-agent", "kube-probe/1.33".to_owned()), ("accept", "*/*".to_owned())]
    {
        if !has(name) {
            builder = builder.header(name, value);
        }
    }
    for header in headers {
        builder = builder.header(&header.name, &header.value);
    }
    builder.header("connection", "close").body(Empty::new()).map_err(|e| e.to_string())
}

fn connector() -> Result<tokio_rustls::TlsConnector, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    Ok(tokio_rustls::TlsConnector::from(Arc::new(config)))
}

/// Probes take any certificate, as upstream's do: they ask whether a program answers, not who it is.
#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(180);

    fn http(port: u16) -> Target {
        let headers = vec![HTTPHeader { name: "X-Probe".to_owned(), value: "yes".to_owned() }];
        Target::Http { secure: false, host: "127.0.0.1".to_owned(), port, path: "/ready?x=1".to_owned(), headers }
    }

    async fn server(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.expect("read");
            stream.write_all(answer.as_bytes()).await.expect("written");
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        (port, task)
    }

    #[tokio::test]
    async fn answers_are_judged_by_their_status() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Ok(())),
            ("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n", Ok(())),
            ("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", Err("HTTP probe failed with statuscode: 503".to_owned())),
        ] {
            let (port, task) = server(answer).await;
            assert_eq!(check(&http(port), None, LIMIT).await, expected);
            let request = task.await.expect("served");
            assert!(
                request.starts_with("GET /ready?x=1 HTTP/1.1\r\n") && request.contains("x-probe: yes"),
                "{request}"
            );
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_refused_and_a_silent_one_times_out() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let silent = check(&http(port), None, Duration::from_millis(50)).await.expect_err("silent");
        assert!(silent.contains("context deadline exceeded"), "{silent}");
        // Bound, so that nobody else takes the port, but nobody listens.
        let closed = tokio::net::TcpSocket::new_v4().expect("a socket");
        closed.bind((std::net::Ipv4Addr::LOCALHOST, 0).into()).expect("bound");
        let port = closed.local_addr().expect("an address").port();
        let refused =
            check(&Target::Tcp { host: "127.0.0.1".to_owned(), port }, None, LIMIT).await.expect_err("closed");
        assert_eq!(refused, format!("dial tcp 127.0.0.1:{port}: connect: connection refused"));
    }
}
