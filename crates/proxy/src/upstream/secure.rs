//! TLS to the endpoints of a backend whose owner asks for it.
//!
//! Invariants: a certificate is believed for its signature and for its names, always both; a protocol that was asked for by
//! ALPN is spoken or there is no connection; a session is resumed only where no certificate was shown.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::roots;
use crate::secured::{BackendTls, ClientCertificate, SubjectName, Trust};

const H2: &[u8] = b"h2";

/// How TLS is spoken to some endpoints.
pub(crate) struct Secure {
    says: Arc<BackendTls>,
    provider: Arc<CryptoProvider>,
    /// Made for the first connection for which that can be done, as the system's authorities are many. One for all connections: a session
    /// is resumed by the same verifier alone.
    config: OnceCell<ClientConfig>,
}

/// Of each description one, for as long as somebody uses it.
#[derive(Default)]
pub(crate) struct Secured(Mutex<HashMap<Arc<BackendTls>, Weak<Secure>>>);

impl Secured {
    pub(crate) fn get(&self, says: &Arc<BackendTls>) -> Arc<Secure> {
        let mut all = self.0.lock();
        if let Some(secure) = all.get(says).and_then(Weak::upgrade) {
            return secure;
        }
        all.retain(|_, secure| secure.strong_count() > 0);
        let secure = Arc::new(Secure::new(says));
        all.insert(Arc::clone(says), Arc::downgrade(&secure));
        secure
    }
}

impl Secure {
    fn new(says: &Arc<BackendTls>) -> Self {
        Self { says: Arc::clone(says), provider: Arc::new(ring::default_provider()), config: OnceCell::new() }
    }

    /// Makes a connection over `stream`. What is spoken on it is `alpn`, where that is given.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        alpn: Option<&[u8]>,
        client: Option<&ClientCertificate>,
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut config = self.config(config_for).await?.clone();
        if let Some(client) = client {
            config.client_auth_cert_resolver = Arc::new(Shown(Arc::clone(client.key())));
            config.resumption = Resumption::disabled();
        }
        config.alpn_protocols = alpn.map(<[u8]>::to_vec).into_iter().collect();
        let name = ServerName::try_from(self.says.name.to_string()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let stream = stream.map_err(|error| io::Error::new(error.kind(), format!("no TLS: {error}")))?;
        if alpn == Some(H2) && stream.get_ref().1.alpn_protocol() != Some(H2) {
            return Err(io::Error::other("no TLS for HTTP/2: the server does not offer h2 by ALPN"));
        }
        Ok(stream)
    }
}

impl Secure {
    /// What all connections have in common. A failure is none of those things: authorities may be there the next time.
    async fn config(
        &self,
        make: impl FnOnce(&BackendTls, Arc<CryptoProvider>) -> Result<ClientConfig, String> + Send + 'static,
    ) -> io::Result<&ClientConfig> {
        let made = self.config.get_or_try_init(|| async {
            let (says, provider) = (Arc::clone(&self.says), Arc::clone(&self.provider));
            // It reads files, and many of them.
            let made = tokio::task::spawn_blocking(move || make(&says, provider)).await;
            made.map_err(io::Error::other)?.map_err(io::Error::other)
        });
        made.await
    }
}

fn config_for(says: &BackendTls, provider: Arc<CryptoProvider>) -> Result<ClientConfig, String> {
    let verifier = Verifier::new(says, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?.dangerous();
    let mut config = builder.with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(32);
    Ok(config)
}

/// Shows one certificate to whoever asks for any.
struct Shown(Arc<CertifiedKey>);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Judges servers' certificates.
#[derive(Debug)]
struct Verifier {
    roots: RootCertStore,
    names: Vec<SubjectName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(says: &BackendTls, provider: &CryptoProvider) -> Result<Arc<Self>, String> {
        let roots = match &says.trust {
            Trust::System => roots::of_system()?,
            Trust::Authorities(authorities) => {
                let mut roots = RootCertStore::empty();
                for certificate in authorities.certificates() {
                    roots.add(certificate.clone()).map_err(|error| error.to_string())?;
                }
                roots
            }
        };
        let algorithms = provider.signature_verification_algorithms;
        Ok(Arc::new(Self { roots, names: says.names.clone(), algorithms }))
    }
}

/// Whether a certificate is for one of the names.
fn is_for(leaf: &CertificateDer<'_>, parsed: &ParsedCertificate<'_>, names: &[SubjectName]) -> Result<bool, Error> {
    let certificate = webpki::EndEntityCert::try_from(leaf).map_err(|_| CertificateError::BadEncoding)?;
    Ok(names.iter().any(|name| match name {
        SubjectName::Uri(uri) => certificate.valid_uri_names().any(|presented| presented == &**uri),
        SubjectName::Host(host) => match host.strip_prefix("*.") {
            Some(suffix) => certificate.valid_dns_names().any(|presented| {
                let under = presented.split_once('.').map(|(_, rest)| rest);
                under.is_some_and(|rest| rest.eq_ignore_ascii_case(suffix))
            }),
            None => ServerName::try_from(&**host).is_ok_and(|host| verify_server_name(parsed, &host).is_ok()),
        },
    }))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, rest, now, self.algorithms.all)?;
        if self.names.is_empty() {
            verify_server_name(&parsed, name)?;
        } else if !is_for(leaf, &parsed, &self.names)? {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;
    use crate::secured::Authorities;

    /// Whoever installs the authorities that were missing need not start anew.
    #[tokio::test]
    async fn a_failure_to_load_authorities_is_not_for_ever() {
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(vec!["db.test".to_owned()]).expect("a name").self_signed(&key);
        let authority = Authorities::read(certificate.expect("a certificate").pem().as_bytes()).expect("an authority");
        let says = BackendTls { name: "db.test".into(), trust: Trust::Authorities(authority), names: Vec::new() };
        let secure = Secure::new(&Arc::new(says));
        let failed = secure.config(|_, _| Err("there is no authority".into())).await;
        assert!(failed.expect_err("none").to_string().contains("no authority"));
        let first: *const _ = secure.config(config_for).await.expect("there is one by now");
        let again: *const _ = secure.config(|_, _| Err("it is not made twice".into())).await.expect("it is kept");
        assert!(std::ptr::eq(first, again));
    }

    #[test]
    fn names_of_certificates() {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["db.test".to_owned(), "*.wild.test".to_owned()]).expect("names");
        params.subject_alt_names.push(SanType::URI("spiffe://t/ns/a/sa/b".try_into().expect("a URI")));
        let certificate = params.self_signed(&key).expect("a certificate");
        let parsed = ParsedCertificate::try_from(certificate.der()).expect("it can be read");
        for (name, fits) in [
            (SubjectName::Host("db.test".into()), true),
            (SubjectName::Host("x.wild.test".into()), true),
            (SubjectName::Host("*.test".into()), true),
            (SubjectName::Host("*.wild.test".into()), true),
            (SubjectName::Host("other.test".into()), false),
            (SubjectName::Host("*.db.test".into()), false),
            (SubjectName::Uri("spiffe://t/ns/a/sa/b".into()), true),
            (SubjectName::Uri("spiffe://t/ns/a/sa/c".into()), false),
            (SubjectName::Uri("db.test".into()), false),
        ] {
            assert_eq!(is_for(certificate.der(), &parsed, std::slice::from_ref(&name)), Ok(fits), "{name:?}");
        }
    }
}
