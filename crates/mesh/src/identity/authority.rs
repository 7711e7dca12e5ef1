//! The certificate authority: roots, and the certificates that they sign.
//!
//! Invariants: a root is on the disk before anyone can trust it; a new root is in the bundle for a while before it signs, and an
//! old one stays there until nothing that it signed can be trusted any more; what is issued is an X509-SVID and nothing else.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use super::cache::{self, CacheError};
use super::plan::{Policy, roots_plan};
use super::spiffe::{SpiffeId, TrustDomain};
use super::token::{self, TokenKey};

/// How far before now a certificate begins, as clocks differ.
const BACKDATED: i64 = 60;

/// A certificate of a workload, its key, and who says so.
#[derive(Clone)]
pub struct Svid {
    /// Whose it is.
    pub id: SpiffeId,
    /// The certificate, DER, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key, PKCS#8.
    pub key: Arc<[u8]>,
}

impl Svid {
    /// The key as rustls wants it.
    #[must_use]
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.to_vec()))
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key must never reach a log.
        f.debug_struct("Svid").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The roots could not be read or written.
    #[error(transparent)]
    Files(#[from] CacheError),
    /// A key or a certificate could not be made or read.
    #[error("the certificate authority cannot {attempt}: {reason}; {remedy}")]
    Certificate {
        /// What was attempted.
        attempt: String,
        /// Why it failed.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Whoever signs does not answer.
    #[error("the certificate authority is not there: {reason}; certificates in use go on until their grace ends")]
    Away {
        /// What is known.
        reason: String,
    },
}

/// Whoever signs certificates: [`Authority`], or one that is elsewhere.
pub trait Issuer: Send + Sync {
    /// Whether it could sign now; also rotates what it signs with. Asked every few minutes.
    ///
    /// # Errors
    ///
    /// Why not.
    fn check(&self, now: Timestamp) -> Result<(), AuthorityError>;

    /// Signs a new certificate with a new key.
    ///
    /// # Errors
    ///
    /// Why not; nothing has changed then.
    fn issue(&self, id: &SpiffeId, now: Timestamp) -> Result<Svid, AuthorityError>;

    /// Signs a JWT-SVID of `id`, meant for `audiences`.
    ///
    /// # Errors
    ///
    /// Why not.
    fn sign_token(&self, id: &SpiffeId, audiences: &[String], now: Timestamp) -> Result<String, AuthorityError>;

    /// The public keys of JWT-SVIDs, as JWKs.
    fn token_keys(&self) -> Vec<serde_json::Value>;

    /// The roots to be trusted, the one that signs first.
    fn roots(&self) -> Vec<CertificateDer<'static>>;
}

/// A root as it is kept.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    /// When it was made: its name and its time derive from it.
    made: Timestamp,
    /// When it begins to sign.
    signs_from: Timestamp,
    ends: Timestamp,
    certificate: String,
    key: String,
}

#[derive(Default, Serialize, Deserialize)]
struct File {
    trust_domain: String,
    roots: Vec<Kept>,
    /// The keys of tokens; none in older files.
    #[serde(default)]
    tokens: Vec<TokenKey>,
}

/// Our own certificate authority, with its keys in a file.
pub struct Authority {
    path: PathBuf,
    domain: TrustDomain,
    policy: Policy,
    roots: Mutex<Vec<Kept>>,
    tokens: Mutex<Vec<TokenKey>>,
}

impl Authority {
    /// Reads the authority from its file, or makes it.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, is damaged, or is of another trust domain.
    pub fn open(path: PathBuf, domain: TrustDomain, policy: Policy, now: Timestamp) -> Result<Self, AuthorityError> {
        let file: File = cache::read(&path)?.unwrap_or_default();
        if !file.roots.is_empty() && file.trust_domain != domain.as_str() {
            return Err(AuthorityError::Certificate {
                attempt: format!("sign for the trust domain {domain}"),
                reason: format!("{} is of the trust domain {}", path.display(), file.trust_domain),
                remedy: "name that trust domain, or choose another data directory",
            });
        }
        let authority = Self { path, domain, policy, roots: Mutex::new(file.roots), tokens: Mutex::new(file.tokens) };
        authority.turn(now)?;
        Ok(authority)
    }

    /// Makes a new root now, whatever the age of those there are. It signs once everybody has had time to hear of it.
    ///
    /// # Errors
    ///
    /// When it cannot be made or kept; nothing has changed then.
    pub fn rotate_root(&self, now: Timestamp) -> Result<(), AuthorityError> {
        let mut roots = self.roots.lock();
        let new = make_root(&self.domain, &self.policy, now, !roots.is_empty())?;
        let all: Vec<Kept> = roots.iter().cloned().chain([new]).collect();
        self.keep(&mut roots, all)
    }

    /// Does what time asks for: makes the first root or the next one, and forgets those that nothing hangs on.
    fn turn(&self, now: Timestamp) -> Result<(), AuthorityError> {
        self.turn_tokens(now)?;
        let mut roots = self.roots.lock();
        let times: Vec<_> = roots.iter().map(|root| (root.signs_from, root.ends)).collect();
        let plan = roots_plan(now, &times, &self.policy);
        if plan.keep.len() == roots.len() && !plan.make {
            return Ok(());
        }
        let mut all: Vec<Kept> = plan.keep.iter().map(|place| roots[*place].clone()).collect();
        if plan.make {
            all.push(make_root(&self.domain, &self.policy, now, plan.signs.is_some())?);
        }
        self.keep(&mut roots, all)
    }

    fn keep(&self, roots: &mut Vec<Kept>, all: Vec<Kept>) -> Result<(), AuthorityError> {
        let tokens = self.tokens.lock().clone();
        let file = File { trust_domain: self.domain.as_str().to_owned(), roots: all, tokens };
        cache::write(&self.path, &file)?;
        *roots = file.roots;
        Ok(())
    }

    /// The same for the keys of tokens.
    fn turn_tokens(&self, now: Timestamp) -> Result<(), AuthorityError> {
        let roots = self.roots.lock();
        let before = self.tokens.lock().clone();
        let after = token::turned(&before, now).map_err(|reason| AuthorityError::Certificate {
            attempt: "make a key for tokens".into(),
            reason,
            remedy: "this is a defect of Coracle",
        })?;
        if after == before {
            return Ok(());
        }
        let file = File { trust_domain: self.domain.as_str().to_owned(), roots: roots.clone(), tokens: after.clone() };
        cache::write(&self.path, &file)?;
        *self.tokens.lock() = after;
        Ok(())
    }

    /// The root that signs now.
    fn signer(&self, now: Timestamp) -> Option<Kept> {
        let roots = self.roots.lock();
        let times: Vec<_> = roots.iter().map(|root| (root.signs_from, root.ends)).collect();
        roots_plan(now, &times, &self.policy).signs.map(|place| roots[place].clone())
    }
}

impl Issuer for Authority {
    fn check(&self, now: Timestamp) -> Result<(), AuthorityError> {
        // A file that was taken away or damaged is noticed now rather than at the next start.
        let file: File = cache::read(&self.path)?.unwrap_or_default();
        if file.roots.is_empty() {
            return Err(AuthorityError::Away { reason: format!("{} is gone", self.path.display()) });
        }
        self.turn(now)
    }

    fn issue(&self, id: &SpiffeId, now: Timestamp) -> Result<Svid, AuthorityError> {
        let failed = |error: &dyn fmt::Display| AuthorityError::Certificate {
            attempt: format!("issue a certificate for {id}"),
            reason: error.to_string(),
            remedy: "this is a defect of Coracle",
        };
        self.check(now)?;
        let root = self.signer(now).ok_or_else(|| failed(&"no root is valid now"))?;
        let signing = KeyPair::from_pem(&root.key).map_err(|error| AuthorityError::Certificate {
            attempt: "use its key".into(),
            reason: error.to_string(),
            remedy: "restore identity/authority.json in the data directory from a backup",
        })?;
        let issuer = rcgen::Issuer::new(
            root_params(&self.domain, root.made, root.ends).map_err(|error| failed(&error))?,
            signing,
        );
        let pair = KeyPair::generate().map_err(|error| failed(&error))?;
        let ends = (now + self.policy.life).min(root.ends);
        let params = leaf_params(id, now, ends).map_err(|error| failed(&error))?;
        let signed = params.signed_by(&pair, &issuer).map_err(|error| failed(&error))?;
        Ok(Svid {
            id: id.clone(),
            chain: vec![CertificateDer::from(signed.der().to_vec())],
            key: pair.serialize_der().into(),
        })
    }

    fn sign_token(&self, id: &SpiffeId, audiences: &[String], now: Timestamp) -> Result<String, AuthorityError> {
        let tokens = self.tokens.lock().clone();
        token::sign(&tokens, id, audiences, now).map_err(|reason| AuthorityError::Certificate {
            attempt: format!("sign a token for {id}"),
            reason,
            remedy: "restore identity/authority.json in the data directory from a backup",
        })
    }

    fn token_keys(&self) -> Vec<serde_json::Value> {
        self.tokens.lock().iter().map(TokenKey::public).collect()
    }

    fn roots(&self) -> Vec<CertificateDer<'static>> {
        let read = |root: &Kept| CertificateDer::from_pem_slice(root.certificate.as_bytes()).ok();
        self.roots.lock().iter().filter_map(read).collect()
    }
}

fn make_root(domain: &TrustDomain, policy: &Policy, now: Timestamp, later: bool) -> Result<Kept, AuthorityError> {
    let failed = |error: rcgen::Error| AuthorityError::Certificate {
        attempt: format!("make a root for the trust domain {domain}"),
        reason: error.to_string(),
        remedy: "this is a defect of Coracle",
    };
    let made = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let ends = made + policy.root_life;
    let pair = KeyPair::generate().map_err(failed)?;
    let signed = root_params(domain, made, ends).and_then(|params| params.self_signed(&pair)).map_err(failed)?;
    let signs_from = if later { made + policy.root_overlap } else { made };
    Ok(Kept { made, signs_from, ends, certificate: signed.pem(), key: pair.serialize_pem() })
}

/// X509-SVID, sections 2 and 4: a signing certificate has the trust domain as its own ID, and no path.
fn root_params(domain: &TrustDomain, made: Timestamp, ends: Timestamp) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Coracle");
    params.distinguished_name.push(DnType::CommonName, format!("{domain} {}", made.as_second()));
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    life(&mut params, made, ends);
    Ok(params)
}

/// X509-SVID, sections 2 to 4: one URI, no authority, for signatures.
fn leaf_params(id: &SpiffeId, now: Timestamp, ends: Timestamp) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Coracle");
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let mut serial: [u8; 16] = fastrand::u128(..).to_be_bytes();
    // Positive, and never all zeroes.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    life(&mut params, now, ends);
    Ok(params)
}

fn life(params: &mut CertificateParams, begins: Timestamp, ends: Timestamp) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let at = |second: i64| epoch + std::time::Duration::from_secs(u64::try_from(second).unwrap_or_default());
    params.not_before = at(begins.as_second() - BACKDATED);
    params.not_after = at(ends.as_second());
}
