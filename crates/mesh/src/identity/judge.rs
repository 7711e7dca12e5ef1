//! Whether a peer is who its certificate says (X509-SVID, section 5). Pure.
//!
//! Invariants: a peer is known by the one URI in its leaf and by nothing else; only the roots of that ID's own trust domain count;
//! an expired certificate is believed for the grace and not a second longer.

use jiff::{SignedDuration, Timestamp};
use rustls::crypto::ring;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::bundle::Bundles;
use super::certificate::facts;
use super::spiffe::SpiffeId;

/// Why a peer is not believed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Untrusted {
    /// It is no X509-SVID.
    #[error("its certificate is no X509-SVID: {0}")]
    NoSvid(String),
    /// Nobody here knows its trust domain.
    #[error("{id} is of a trust domain that is not trusted here; `coracle trust add` adds one")]
    UnknownDomain {
        /// Who it claims to be.
        id: SpiffeId,
    },
    /// No root of its trust domain has signed it.
    #[error("{id} is signed by nobody whom {} trusts: {reason}", .id.domain())]
    UnknownRoot {
        /// Who it claims to be.
        id: SpiffeId,
        /// What the check said.
        reason: String,
    },
    /// It is too old.
    #[error("the certificate of {id} ended at {ended}, which is more than the grace of {grace:#} ago")]
    Expired {
        /// Whose it is.
        id: SpiffeId,
        /// When it ended.
        ended: Timestamp,
        /// How long it would have been believed.
        grace: SignedDuration,
    },
    /// It is not valid yet.
    #[error("the certificate of {id} begins at {begins}, which is yet to come; are both clocks right?")]
    NotYet {
        /// Whose it is.
        id: SpiffeId,
        /// When it begins.
        begins: Timestamp,
    },
    /// It is somebody else than was expected.
    #[error("{id} answers where the proxy of a trusted instance should")]
    NotAProxy {
        /// Who it is.
        id: SpiffeId,
    },
    /// It is another workload than was expected.
    #[error("{id} answers where {expected} should")]
    NotTheWorkload {
        /// Who it is.
        id: SpiffeId,
        /// Who was expected.
        expected: String,
    },
}

/// Whom to trust, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Trust<'a> {
    /// The roots.
    pub bundles: &'a Bundles,
    /// How long an expired certificate is believed.
    pub grace: SignedDuration,
}

/// Which side of a connection the peer is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// Judges a client's chain, leaf first. That the peer has the leaf's key is the handshake's to check.
///
/// # Errors
///
/// Why it is not believed.
pub fn judge(chain: &[CertificateDer<'_>], trust: Trust<'_>, now: Timestamp) -> Result<SpiffeId, Untrusted> {
    judge_side(chain, trust, now, Side::Client)
}

pub(super) fn judge_side(
    chain: &[CertificateDer<'_>],
    trust: Trust<'_>,
    now: Timestamp,
    side: Side,
) -> Result<SpiffeId, Untrusted> {
    let no_svid = |reason: &str| Untrusted::NoSvid(reason.to_owned());
    let (leaf, rest) = chain.split_first().ok_or_else(|| no_svid("there is none"))?;
    let facts = facts(leaf).map_err(Untrusted::NoSvid)?;
    let [uri] = facts.uris.as_slice() else {
        return Err(no_svid("it has not exactly one URI among its names"));
    };
    let id: SpiffeId = uri.parse().map_err(|error: super::BadId| Untrusted::NoSvid(error.to_string()))?;
    if facts.authority || facts.signs {
        return Err(no_svid("it may sign other certificates, which a workload's must not"));
    }
    if !facts.signature {
        return Err(no_svid("its key usage has no digitalSignature"));
    }
    let Some(bundle) = trust.bundles.get(id.domain()) else { return Err(Untrusted::UnknownDomain { id }) };
    if now < facts.not_before {
        return Err(Untrusted::NotYet { id, begins: facts.not_before });
    }
    if facts.not_after + trust.grace < now {
        return Err(Untrusted::Expired { id, ended: facts.not_after, grace: trust.grace });
    }
    // Within the grace, the chain is looked at as it was when it was last good.
    let at = u64::try_from(now.min(facts.not_after).as_second()).unwrap_or_default();
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at));
    let anchors: Vec<TrustAnchor<'_>> =
        bundle.roots().iter().filter_map(|root| anchor_from_trusted_cert(root).ok()).collect();
    let usage = match side {
        Side::Client => KeyUsage::client_auth(),
        Side::Server => KeyUsage::server_auth(),
    };
    let algorithms = ring::default_provider().signature_verification_algorithms.all;
    let verified = EndEntityCert::try_from(leaf)
        .and_then(|leaf| leaf.verify_for_usage(algorithms, &anchors, rest, at, usage, None, None).map(|_| ()));
    match verified {
        Ok(()) => Ok(id),
        Err(error) => Err(Untrusted::UnknownRoot { id, reason: error.to_string() }),
    }
}

/// Whether `id` is the one that the proxy of its trust domain has.
pub(super) fn is_proxy(id: &SpiffeId) -> bool {
    id.account() == Some((super::SYSTEM_NAMESPACE, super::PROXY_ACCOUNT))
}
