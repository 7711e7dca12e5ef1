//! The keys that tokens are signed with: JSON Web Key Sets (RFC 7517, RFC 7518 section 6, RFC 8037).
//!
//! Invariants: a key verifies the algorithms of its own kind and no others, whatever a token says, so that a public key is never
//! taken for a secret; symmetric keys are not taken at all; a set is bounded in bytes and keys.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;

/// The largest set that is read, in bytes.
pub(crate) const MOST_BYTES: usize = 256 * 1024;
/// The most keys of a set that are looked at.
const MOST_KEYS: usize = 100;

/// How a token is signed (RFC 7518 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    /// None for all that is not verified here: `none`, everything symmetric, and what is not known.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }
}

/// A public key, in the form that its verification wants.
#[derive(Debug)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// One key of a set.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) id: Option<String>,
    /// The only algorithm that it is for, where its owner says so.
    only: Option<Algorithm>,
    material: Material,
}

impl Key {
    /// Whether it made this signature, with this algorithm.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        use Algorithm::{EdDsa, Es256, Es384, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        if self.only.is_some_and(|only| only != algorithm) {
            return false;
        }
        let verified = match (&self.material, algorithm) {
            (Material::Rsa { n, e }, _) => {
                let parameters = match algorithm {
                    Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                    Es256 | Es384 | EdDsa => return false,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            (Material::P256(point), Es256) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Material::P384(point), Es384) => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point).verify(message, signature)
            }
            (Material::Ed25519(key), EdDsa) => {
                UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature)
            }
            _ => return false,
        };
        verified.is_ok()
    }
}

/// The keys of an issuer.
#[derive(Debug, Default)]
pub(crate) struct KeySet {
    keys: Vec<Key>,
}

/// A key as it is written.
#[derive(Deserialize)]
struct Written {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct WrittenSet {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// Reads a set. Keys of unknown kinds are left out, as the specification says; a set without any usable key is refused.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() > MOST_BYTES {
            return Err(format!("a key set of {} bytes is larger than any should be ({MOST_BYTES})", text.len()));
        }
        let set: WrittenSet =
            serde_json::from_slice(text).map_err(|error| format!("it is no JSON Web Key Set: {error}"))?;
        let written = set.keys.len();
        let read = set.keys.into_iter().take(MOST_KEYS).filter_map(|key| serde_json::from_value(key).ok());
        let keys: Vec<Key> = read.filter_map(|key: Written| key.read()).collect();
        if keys.is_empty() {
            return Err(format!(
                "none of its {written} keys can be used; it needs one of type RSA (2048 bits or more), EC (P-256, P-384) or OKP \
                 (Ed25519) that is meant for signatures"
            ));
        }
        Ok(Self { keys })
    }

    /// The keys that may have signed a token: those of its key id and those without any; all where it names none. False where
    /// the id is one that the set does not have.
    pub(super) fn candidates<'k>(&'k self, id: Option<&'k str>) -> (bool, impl Iterator<Item = &'k Key>) {
        let known = id.is_none_or(|id| self.keys.iter().any(|key| key.id.as_deref() == Some(id)));
        let mine = move |key: &&Key| id.is_none() || key.id.is_none() || key.id.as_deref() == id;
        (known, self.keys.iter().filter(mine))
    }
}

impl Written {
    fn read(self) -> Option<Key> {
        let signs = self.usage.as_deref().is_none_or(|usage| usage == "sig")
            && self.key_ops.as_ref().is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
        // An algorithm that is not known is one that nothing here can be verified with.
        let only = self.alg.as_deref().map(|name| Algorithm::parse(name).ok_or(())).transpose().ok()?;
        let part = |part: Option<String>, length: Option<usize>| {
            let bytes = URL_SAFE_NO_PAD.decode(part?).ok()?;
            length.is_none_or(|length| bytes.len() == length).then_some(bytes)
        };
        let point = |x, y, length| {
            let (x, y) = (part(x, Some(length))?, part(y, Some(length))?);
            // An uncompressed point (SEC 1, section 2.3.3).
            Some([&[4][..], &x, &y].concat())
        };
        let material = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let n = part(self.n, None)?;
                // Leading zeroes don't count, and are not taken where it matters.
                let n = n[n.iter().position(|byte| *byte != 0)?..].to_vec();
                if n.len() < 256 {
                    return None;
                }
                Material::Rsa { n, e: part(self.e, None)? }
            }
            ("EC", Some("P-256")) => Material::P256(point(self.x, self.y, 32)?),
            ("EC", Some("P-384")) => Material::P384(point(self.x, self.y, 48)?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(part(self.x, Some(32))?),
            _ => return None,
        };
        signs.then_some(Key { id: self.kid, only, material })
    }
}
