//! Certificates of listeners, chosen by server name, and whose clients must show one.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::error::Refused;
use crate::route::HostTable;
use crate::secured::{Clients, certified};
use crate::snapshot::Certificate;

/// What is spoken where HTTP is, best first.
pub(crate) const HTTP: &[&[u8]] = &[b"h2", b"http/1.1"];

struct ByName {
    names: HostTable<Arc<CertifiedKey>>,
    default: Arc<CertifiedKey>,
}

impl std::fmt::Debug for ByName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ByName")
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.names.find(&name.to_ascii_lowercase()));
        Some(Arc::clone(named.unwrap_or(&self.default)))
    }
}

/// What a listener with these certificates offers, and what it asks clients for.
pub(crate) fn server_config(
    listener: &Arc<str>,
    certificates: &[Certificate],
    clients: Option<&Clients>,
    protocols: &[&[u8]],
) -> Result<Arc<ServerConfig>, Refused> {
    let bad = |index, reason| Refused::BadCertificate { listener: listener.clone(), index, reason };
    let mut names = HostTable::new();
    let mut default = None;
    for (index, certificate) in certificates.iter().enumerate() {
        let key = Arc::new(certified(&certificate.chain, &certificate.key).map_err(|reason| bad(index, reason))?);
        for host in &certificate.hosts {
            if !names.insert(host, Arc::clone(&key)) {
                return Err(bad(index, format!("an earlier certificate is for {host:?} already")));
            }
        }
        default.get_or_insert(key);
    }
    let default = default.ok_or_else(|| bad(0, "there is none; a TLS listener needs at least one".into()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(0, error.to_string()))?;
    let config = match clients {
        Some(clients) => config.with_client_cert_verifier(verifier(clients).map_err(|reason| bad(0, reason))?),
        None => config.with_no_client_auth(),
    };
    let mut config = config.with_cert_resolver(Arc::new(ByName { names, default }));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Believes clients with a certificate that one of the authorities has signed, and no others; or serves whoever comes.
fn verifier(clients: &Clients) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in clients.authorities.certificates() {
        roots.add(certificate.clone()).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(ring::default_provider());
    let strict = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let strict = strict.map_err(|error| error.to_string())?;
    Ok(if clients.unverified { Arc::new(Lenient(strict)) } else { strict })
}

/// Asks for a certificate, and goes on whatever comes: only that a client has the key of what it shows is checked.
#[derive(Debug)]
struct Lenient(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Lenient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
