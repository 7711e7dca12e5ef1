//! Trust bundles: the roots of a trust domain and its keys for tokens, as PEM and as SPIFFE's own form, a JWK Set (SPIFFE Trust Domain and Bundle, section 4).
//!
//! Invariant: a bundle has at least one certificate, and each may sign.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::certificate::facts;
use super::spiffe::TrustDomain;

/// The roots of every trust domain that is trusted.
pub type Bundles = BTreeMap<TrustDomain, Bundle>;

/// How many roots a bundle may have.
const MOST: usize = 64;
/// The first byte of an uncompressed point, and its length for P-256.
const UNCOMPRESSED: u8 = 4;
const P256: usize = 65;

/// Why something is no trust bundle.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("this is no trust bundle: {0}; export one with `coracle trust bundle`")]
pub struct BundleError(pub String);

/// The roots of one trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    roots: Vec<CertificateDer<'static>>,
    /// Keys of JWT-SVIDs, as JWKs without a use; each has a `kid`.
    keys: Vec<Value>,
}

impl Bundle {
    /// A bundle of these roots, each once.
    ///
    /// # Errors
    ///
    /// None at all, too many, or one that may not sign certificates.
    pub fn new(certificates: impl IntoIterator<Item = CertificateDer<'static>>) -> Result<Self, BundleError> {
        let mut roots = Vec::new();
        for (place, root) in certificates.into_iter().enumerate() {
            let facts = facts(&root).map_err(|reason| BundleError(format!("certificate {place} is {reason}")))?;
            if !facts.authority {
                return Err(BundleError(format!("certificate {place} is not an authority's")));
            }
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        match roots.len() {
            0 => Err(BundleError("it has no certificate".into())),
            1..=MOST => Ok(Self { roots, keys: Vec::new() }),
            _ => Err(BundleError(format!("it has more than {MOST} certificates"))),
        }
    }

    /// Reads PEM.
    ///
    /// # Errors
    ///
    /// As [`Bundle::new`], or what is no PEM.
    pub fn from_pem(pem: &[u8]) -> Result<Self, BundleError> {
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        Self::new(roots.map_err(|error| BundleError(format!("it is no PEM: {error}")))?)
    }

    /// Reads PEM, or a JWK Set of SPIFFE; keys for other uses in it are passed over.
    ///
    /// # Errors
    ///
    /// Says what is wrong with it.
    pub fn read(content: &[u8]) -> Result<Self, BundleError> {
        if content.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return Self::from_pem(content);
        }
        let set: Value =
            serde_json::from_slice(content).map_err(|error| BundleError(format!("it is no JSON: {error}")))?;
        let keys = set["keys"].as_array().ok_or_else(|| BundleError("it has no `keys`".into()))?;
        let mut roots = Vec::new();
        for key in keys.iter().filter(|key| key["use"] == "x509-svid") {
            let one = match key["x5c"].as_array().map(Vec::as_slice) {
                Some([one]) => one.as_str().and_then(|text| STANDARD.decode(text).ok()),
                _ => None,
            };
            let one = one.ok_or_else(|| BundleError("a key of use x509-svid has not exactly one `x5c`".into()))?;
            roots.push(CertificateDer::from(one));
        }
        let tokens = keys.iter().filter(|key| key["use"] == "jwt-svid").map(public);
        Ok(Self::new(roots)?.with_keys(tokens.collect::<Result<Vec<_>, _>>()?))
    }

    /// The same with keys of JWT-SVIDs, as far as there is room.
    #[must_use]
    pub fn with_keys(mut self, keys: impl IntoIterator<Item = Value>) -> Self {
        for key in keys {
            if self.keys.len() < MOST && !self.keys.contains(&key) {
                self.keys.push(key);
            }
        }
        self
    }

    /// The keys of JWT-SVIDs.
    #[must_use]
    pub fn keys(&self) -> &[Value] {
        &self.keys
    }

    /// The keys of JWT-SVIDs as a plain JWK Set; none where there are none.
    #[must_use]
    pub fn token_keys(&self) -> Option<String> {
        (!self.keys.is_empty()).then(|| json!({ "keys": self.keys }).to_string())
    }

    /// The certificates, the one that signs first.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// All certificates as PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.roots.iter().map(|root| pem(root)).collect()
    }

    /// All certificates one after the other, as the Workload API has them.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        self.roots.iter().flat_map(|root| root.iter().copied()).collect()
    }

    /// The JWK Set.
    #[must_use]
    pub fn to_spiffe(&self) -> Value {
        let tokens = self.keys.iter().cloned().map(|mut key| {
            key["use"] = "jwt-svid".into();
            key
        });
        json!({ "keys": self.roots.iter().map(jwk).chain(tokens).collect::<Vec<_>>() })
    }
}

/// The public part of a key of JWT-SVIDs (SPIFFE Trust Domain and Bundle, section 4.2.2: it needs a `kid`).
fn public(key: &Value) -> Result<Value, BundleError> {
    if !key["kid"].is_string() || !key["kty"].is_string() {
        return Err(BundleError("a key of use jwt-svid has no `kid` or no `kty`".into()));
    }
    let parts = ["kid", "kty", "alg", "crv", "x", "y", "n", "e"];
    Ok(parts.into_iter().filter_map(|part| Some((part.to_owned(), key.get(part)?.clone()))).collect())
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

/// A root as a key: `x5c` says all, and the key's own numbers are there for those who want them.
fn jwk(root: &CertificateDer<'static>) -> Value {
    let mut key = json!({ "use": "x509-svid", "x5c": [STANDARD.encode(root)] });
    let point = facts(root).map(|facts| facts.public_key).unwrap_or_default();
    if point.len() == P256 && point[0] == UNCOMPRESSED {
        key["kty"] = "EC".into();
        key["crv"] = "P-256".into();
        key["x"] = URL_SAFE_NO_PAD.encode(&point[1..33]).into();
        key["y"] = URL_SAFE_NO_PAD.encode(&point[33..]).into();
    }
    key
}
