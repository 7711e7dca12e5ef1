//! How TLS is spoken, as plain data: to backends, whom to trust, which names to accept, and the certificate to show; to clients,
//! the certificates of listeners.
//!
//! Invariants: what is here can be used: authorities and certificates are read when they are made, not when a connection
//! is; a private key never reaches a log. This module must not know where certificates come from.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use ring::digest;
use rustls::crypto::ring::default_provider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::snapshot::HostMatch;

/// TLS to the endpoints of a backend. Nothing is ever sent to them without it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackendTls {
    /// The server name that is asked for, and that the certificate must be for where `names` says nothing.
    pub name: Arc<str>,
    /// Who must have signed the certificate.
    pub trust: Trust,
    /// The certificate must be for one of these; where there are none, for `name`.
    pub names: Vec<SubjectName>,
}

/// A name that a certificate may be for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SubjectName {
    /// A host in lower case; `*.` stands for one label before the rest.
    Host(Arc<str>),
    /// A URI, such as a SPIFFE ID, byte for byte.
    Uri(Arc<str>),
}

/// Certificate authorities.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Trust {
    /// Those of the system.
    System,
    /// These.
    Authorities(Authorities),
}

/// Certificates of authorities; at least one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Authorities(Arc<[CertificateDer<'static>]>);

/// How many authorities there may be in one bundle.
const MOST_AUTHORITIES: usize = 512;

impl Authorities {
    /// Reads a bundle of PEM.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn read(pem: &[u8]) -> Result<Self, String> {
        let mut found = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| format!("is no PEM: {error}"))?;
            webpki::anchor_from_trusted_cert(&certificate)
                .map_err(|error| format!("has a certificate that cannot be read: {error}"))?;
            if found.len() == MOST_AUTHORITIES {
                return Err(format!("has more than {MOST_AUTHORITIES} certificates"));
            }
            found.push(certificate.into_owned());
        }
        if found.is_empty() { Err("has no certificate".to_owned()) } else { Ok(Self(found.into())) }
    }

    /// Those of several bundles; None where there is no bundle.
    #[must_use]
    pub fn joined(bundles: &[Self]) -> Option<Self> {
        let all: Vec<_> = bundles.iter().flat_map(|bundle| bundle.0.iter().cloned()).collect();
        (!all.is_empty()).then(|| Self(all.into()))
    }

    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0
    }
}

impl Serialize for Authorities {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|certificate| &**certificate))
    }
}

impl<'d> Deserialize<'d> for Authorities {
    fn deserialize<D: Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error> {
        let found = Vec::<Vec<u8>>::deserialize(deserializer)?.into_iter().map(CertificateDer::from);
        let found: Vec<_> = found.collect();
        for certificate in &found {
            webpki::anchor_from_trusted_cert(certificate).map_err(de::Error::custom)?;
        }
        if found.is_empty() { Err(de::Error::custom("no authority")) } else { Ok(Self(found.into())) }
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} authorities", self.0.len())
    }
}

/// Which certificate clients of a listener are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clients {
    /// Who must have signed it.
    pub authorities: Authorities,
    /// Whether clients are served that show another one, or none.
    pub unverified: bool,
}

/// A certificate chain and its key, as PEM.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The server names it is for. May be empty for the only or default certificate.
    pub hosts: Vec<HostMatch>,
    /// The chain in PEM, leaf first.
    pub chain: Arc<[u8]>,
    /// The private key in PEM.
    pub key: Arc<[u8]>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key must never reach a log.
        f.debug_struct("Certificate").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

/// A certificate that is shown to backends that ask for one, with its key.
#[derive(Clone)]
pub struct ClientCertificate {
    /// The digest of all of it.
    id: Arc<str>,
    key: Arc<CertifiedKey>,
}

impl ClientCertificate {
    /// Reads a chain and its key, both PEM.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub fn read(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let certified = certified(chain, key)?;
        let digest = digest::digest(&digest::SHA256, &[chain, b"\0", key].concat());
        let id: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { id: id.into(), key: Arc::new(certified) })
    }

    /// Tells it from others.
    pub(crate) fn id(&self) -> &Arc<str> {
        &self.id
    }

    pub(crate) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

impl PartialEq for ClientCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for ClientCertificate {}

impl Hash for ClientCertificate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key must never reach a log.
        f.write_str("ClientCertificate")
    }
}

/// Reads a certificate chain and its key, both PEM.
pub(crate) fn certified(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, String> {
    let chain = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("its chain is no PEM: {error}"))?;
    if chain.is_empty() {
        return Err("its chain has no certificate".into());
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("its key is no PEM: {error}"))?;
    CertifiedKey::from_der(chain, key, &default_provider()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_not_made() {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("a certificate");
        let other = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("a certificate");
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let bundle = Authorities::read(format!("# of the test\n{chain}{}", other.cert.pem()).as_bytes());
        assert_eq!(bundle.expect("two authorities").certificates().len(), 2);
        let bundle = Authorities::read(chain.as_bytes()).expect("an authority");
        let kept = serde_json::to_string(&bundle).expect("it can be kept");
        assert_eq!(serde_json::from_str::<Authorities>(&kept).expect("it is read back"), bundle);
        assert!(
            serde_json::from_str::<Authorities>("[]").is_err() && serde_json::from_str::<Authorities>("[[1]]").is_err()
        );
        for bad in ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(Authorities::read(bad.as_bytes()).is_err(), "{bad}");
        }
        let own = ClientCertificate::read(chain.as_bytes(), key.as_bytes()).expect("a certificate and its key");
        assert_eq!(format!("{own:?}"), "ClientCertificate");
        assert!(ClientCertificate::read(other.cert.pem().as_bytes(), key.as_bytes()).is_err(), "not its key");
        assert!(ClientCertificate::read(key.as_bytes(), key.as_bytes()).is_err());
    }
}
