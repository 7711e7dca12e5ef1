//! The bundle endpoint: our bundle over TLS with the proxy's own SVID, for whoever asks (SPIFFE Federation, profile `https_spiffe`).
//!
//! Invariants: it says what is public and nothing else; a client needs no certificate and has seconds.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proxy::{Credentials, Speaker};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::identity::accept::each_client;
use crate::identity::handle::Handle;

/// How many clients are served at once.
const CONNECTIONS: usize = 64;
/// How long one client has, the handshake included.
const WITHIN: Duration = Duration::from_secs(20);

/// Why the bundle is not served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve the trust bundle at {address}: {source}; choose another address for --bundle-listen")]
pub struct BindError {
    /// Where.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// Our bundle, where others can fetch it.
pub struct BundleEndpoint {
    listener: TcpListener,
    handle: Handle,
    tls: TlsAcceptor,
}

/// The proxy's own certificate, as it is now.
struct Own(Handle);

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Own")
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.certificate(Speaker::Proxy)
    }
}

impl BundleEndpoint {
    /// Listens on `address`.
    ///
    /// # Errors
    ///
    /// Where it cannot be bound.
    pub async fn bind(address: SocketAddr, handle: Handle) -> Result<Self, BindError> {
        let failed = |source: io::Error| BindError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(io::Error::other(error)))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Own(handle.clone())));
        Ok(Self { listener, handle, tls: TlsAcceptor::from(Arc::new(tls)) })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        each_client(
            "the bundle endpoint",
            CONNECTIONS,
            &shutdown,
            |cx| self.listener.poll_accept(cx),
            |(stream, peer), place| {
                let (tls, handle, stop) = (self.tls.clone(), self.handle.clone(), shutdown.clone());
                tasks.spawn(async move {
                    let served = tokio::select! {
                        served = tokio::time::timeout(WITHIN, serve(tls, stream, handle)) => served,
                        () = stop.cancelled() => return,
                    };
                    if let Ok(Err(error)) = served {
                        tracing::debug!(%peer, error, "a client of the bundle endpoint went away");
                    }
                    drop(place);
                });
            },
        )
        .await;
        tasks.close();
        tasks.wait().await;
    }
}

async fn serve(tls: TlsAcceptor, stream: TcpStream, handle: Handle) -> Result<(), String> {
    let stream = tls.accept(stream).await.map_err(|error| error.to_string())?;
    let service = service_fn(move |request| {
        let answer = answer(&request, &handle);
        async move { Ok::<_, std::convert::Infallible>(answer) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(WITHIN).keep_alive(false).max_buf_size(16 * 1024);
    builder.serve_connection(TokioIo::new(stream), service).await.map_err(|error| error.to_string())
}

fn answer(request: &Request<Incoming>, handle: &Handle) -> Response<Full<Bytes>> {
    let empty = |status| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        response
    };
    if !matches!(request.uri().path(), "/" | "/bundle.json") {
        return empty(StatusCode::NOT_FOUND);
    }
    if request.method() != Method::GET {
        return empty(StatusCode::METHOD_NOT_ALLOWED);
    }
    let Some(document) = handle.document() else { return empty(StatusCode::SERVICE_UNAVAILABLE) };
    let mut response = Response::new(Full::from(document.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
