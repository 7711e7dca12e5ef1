//! One fetch of another trust domain's bundle (SPIFFE Federation, section 5.2).
//!
//! Invariants: the server is believed by the profile that was named for it and by no other; redirections are not followed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::REFRESH_HINT;
use crate::identity::bundle::Bundle;
use crate::identity::handle::Handle;

/// How long one fetch may take, and how much it may bring.
const WITHIN: Duration = Duration::from_secs(15);
const LONGEST: usize = 1024 * 1024;
/// The bounds of what others say about when to ask again, in seconds.
const HINTS: std::ops::RangeInclusive<u64> = 30..=3600;

/// How the server proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Profile {
    /// By this SPIFFE ID, whose trust domain's bundle is known already.
    Spiffe(Arc<str>),
    /// By a certificate for its host's name, of these authorities (PEM) or of the system's.
    Web(Option<Arc<str>>),
}

/// Where a bundle is to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// An https URL.
    pub url: String,
    /// How the server proves who it is.
    pub profile: Profile,
}

/// A bundle that was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The bundle.
    pub bundle: Bundle,
    /// Its `spiffe_sequence`.
    pub sequence: Option<u64>,
    /// When to ask again.
    pub again: Duration,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
#[error("cannot fetch the trust bundle at {url}: {reason}; the one that is known stays in use")]
pub struct FetchError {
    /// Where.
    pub url: String,
    /// Why.
    pub reason: String,
}

fn tls(profile: &Profile, handle: &Handle) -> Result<Arc<ClientConfig>, String> {
    match profile {
        Profile::Web(authorities) => proxy::client_config(authorities.as_deref()),
        Profile::Spiffe(id) => {
            let verifier = proxy::believing(Arc::new(handle.clone()), Arc::clone(id));
            let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(|error| error.to_string())?
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth();
            Ok(Arc::new(config))
        }
    }
}

/// Fetches a bundle.
///
/// # Errors
///
/// Why there is none.
pub async fn fetch(source: &Source, handle: &Handle) -> Result<Fetched, FetchError> {
    let fetched = tokio::time::timeout(WITHIN, exchange(source, handle)).await;
    let fetched = fetched.unwrap_or_else(|_| Err(format!("no answer within {} s", WITHIN.as_secs())));
    fetched.map_err(|reason| FetchError { url: source.url.clone(), reason })
}

async fn exchange(source: &Source, handle: &Handle) -> Result<Fetched, String> {
    let uri: Uri = source.url.parse().map_err(|_| "it is no URL".to_owned())?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("https")).ok_or("it is no https URL")?;
    let host = host.trim_matches(['[', ']']);
    let config = tls(&source.profile, handle)?;
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await.map_err(|error| error.to_string())?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let authority = uri.authority().map_or(host, http::uri::Authority::as_str);
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let asking = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        if answer.status() != StatusCode::OK {
            return Err(format!("it answers {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), LONGEST).collect().await.map_err(|error| error.to_string())?;
        Ok(body.to_bytes())
    };
    // The connection is driven by whoever asks, and ends with the answer.
    let mut connection = std::pin::pin!(connection);
    let mut asking = std::pin::pin!(asking);
    let body = tokio::select! {
        body = &mut asking => body,
        ended = &mut connection => match ended {
            Ok(()) => asking.await,
            Err(error) => Err(error.to_string()),
        },
    }?;
    read(&body)
}

/// Reads what was fetched.
fn read(body: &[u8]) -> Result<Fetched, String> {
    let document: Value = serde_json::from_slice(body).map_err(|error| format!("it is no bundle: {error}"))?;
    let bundle = Bundle::read(body).map_err(|error| error.to_string())?;
    let hint = document["spiffe_refresh_hint"].as_u64().unwrap_or(REFRESH_HINT);
    let again = Duration::from_secs(hint.clamp(*HINTS.start(), *HINTS.end()));
    Ok(Fetched { bundle, sequence: document["spiffe_sequence"].as_u64(), again })
}
