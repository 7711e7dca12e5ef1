//! Mutual TLS between proxies, and with workloads that bring a certificate of their own (X509-SVID, section 5).
//!
//! Invariants: names in certificates are of no account, only SPIFFE IDs are, and whoever implements [`Credentials`] judges them;
//! certificates and trust are looked up at every handshake and none is skipped by resuming an earlier session, so that what
//! is renewed or withdrawn counts for the next connection.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::identity::{Credentials, Distrust, Speaker};
use crate::rejection::Rejection;

/// What this side shows, and how it judges the other.
#[derive(Clone)]
struct Judging {
    credentials: Arc<dyn Credentials>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Judging {
    /// Whether the other side has the key of the certificate that it shows.
    fn signed(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.algorithms).map_err(|error| {
            let whose = self.credentials.named(leaf).unwrap_or_else(|| "nobody that could be read".to_owned());
            let said = format!("it shows the certificate of {whose} and does not have its key: {error}");
            refused(Distrust { reason: Rejection::OtherKey, said })
        })
    }
}

impl fmt::Debug for Judging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Judging")
    }
}

fn refused(distrust: Distrust) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(distrust))))
}

/// Why a handshake failed, in one word.
pub(crate) fn why(error: &io::Error) -> Rejection {
    let error = error.get_ref().and_then(|source| source.downcast_ref::<Error>());
    match error {
        Some(Error::NoCertificatesPresented) => Rejection::NoCertificate,
        Some(Error::InvalidCertificate(CertificateError::Other(OtherError(source)))) => {
            source.downcast_ref::<Distrust>().map_or(Rejection::Handshake, |distrust| distrust.reason)
        }
        _ => Rejection::Handshake,
    }
}

fn whole<'a>(leaf: &'a CertificateDer<'_>, rest: &'a [CertificateDer<'_>]) -> Vec<CertificateDer<'a>> {
    std::iter::once(leaf).chain(rest).map(|der| CertificateDer::from(&**der)).collect()
}

fn too_old() -> Error {
    Error::General("only TLS 1.3 is spoken here".into())
}

impl ClientCertVerifier for Judging {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.credentials.client(&whole(leaf, rest)).map(|_| ClientCertVerified::assertion()).map_err(refused)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Which server is expected, and how it is judged.
#[derive(Debug)]
struct Expecting {
    judging: Arc<Judging>,
    /// The workload that it must be; another proxy where there is none.
    workload: Option<Arc<str>>,
}

impl ServerCertVerifier for Expecting {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (chain, credentials) = (whole(leaf, rest), &self.judging.credentials);
        let judged = match &self.workload {
            None => credentials.server(&chain),
            Some(id) => credentials.workload(&chain, id),
        };
        judged.map(|()| ServerCertVerified::assertion()).map_err(refused)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judging.signed(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judging.algorithms.supported_schemes()
    }
}

/// Believes a server that is the workload `id` and nobody else, as `credentials` judge it. TLS 1.3 only.
#[must_use]
pub fn believing(credentials: Arc<dyn Credentials>, id: Arc<str>) -> Arc<dyn ServerCertVerifier> {
    let algorithms = ring::default_provider().signature_verification_algorithms;
    Arc::new(Expecting { judging: Arc::new(Judging { credentials, algorithms }), workload: Some(id) })
}

/// The certificate that a server shows: a workload's, or the proxy's own.
struct Own(Arc<dyn Credentials>, Option<Arc<str>>);

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Own")
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.certificate(self.1.as_deref().map_or(Speaker::Proxy, Speaker::Workload))
    }
}

/// The certificate of whoever is spoken for.
struct Shown(Option<Arc<CertifiedKey>>);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

/// Who is to answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Server<'a> {
    /// Another proxy, and what is asked for there.
    Proxy(&'a str),
    /// A program, by its SPIFFE ID.
    Workload(&'a Arc<str>),
}

/// Makes connections to other proxies and to programs, and takes theirs.
pub(crate) struct Peers {
    provider: Arc<CryptoProvider>,
    judging: Arc<Judging>,
    server: Arc<ServerConfig>,
}

impl Peers {
    /// Fails only where the cryptography cannot do TLS 1.3, which it can.
    pub(crate) fn new(credentials: Arc<dyn Credentials>) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let judging = Arc::new(Judging { credentials: Arc::clone(&credentials), algorithms });
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::clone(&judging) as _)
            .with_cert_resolver(Arc::new(Own(credentials, None)));
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { provider, judging, server: Arc::new(server) })
    }

    /// What is shown to clients and asked of them, in the name of the workload `shows` or of the proxy.
    pub(crate) fn server(&self, shows: Option<&Arc<str>>) -> Arc<ServerConfig> {
        let Some(shows) = shows else { return Arc::clone(&self.server) };
        let mut server = ServerConfig::clone(&self.server);
        server.cert_resolver = Arc::new(Own(Arc::clone(&self.judging.credentials), Some(Arc::clone(shows))));
        Arc::new(server)
    }

    /// Who a client is whose handshake was good.
    pub(crate) fn client(
        &self,
        chain: Option<&[CertificateDer<'_>]>,
    ) -> Result<Option<Arc<crate::identity::Identity>>, Distrust> {
        self.judging.credentials.client(chain.unwrap_or_default())
    }

    /// Makes a connection over `stream` to `server`, in the name of `speaker`.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        server: Server<'_>,
        speaker: Speaker<'_>,
        alpn: Option<&[u8]>,
    ) -> io::Result<TlsStream<TcpStream>> {
        let own = self.judging.credentials.certificate(speaker);
        if own.is_none() {
            return Err(io::Error::other("there is no certificate to show"));
        }
        let (name, workload) = match server {
            Server::Proxy(name) => (ServerName::try_from(name.to_owned()).map_err(io::Error::other)?, None),
            // Programs have no names in TLS: an address is no server name, so none is sent.
            Server::Workload(id) => (ServerName::from(stream.peer_addr()?.ip()), Some(Arc::clone(id))),
        };
        let verifier = Arc::new(Expecting { judging: Arc::clone(&self.judging), workload });
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(Shown(own)));
        config.resumption = Resumption::disabled();
        config.alpn_protocols = alpn.map(<[u8]>::to_vec).into_iter().collect();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}
