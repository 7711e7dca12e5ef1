//! Connections that were refused because of who is at their other end: all are counted, by reason, and some written down (`told.rs`).
//!
//! Invariant: reasons are a closed list, so that nobody outside can make series of metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::told::Told;

/// Why a connection with somebody is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// No certificate was shown where one is asked for.
    NoCertificate,
    /// Nobody vouches for who it is, where somebody must.
    NoIdentity,
    /// The certificate is no X509-SVID.
    NoSvid,
    /// It is of a trust domain that is not trusted.
    UnknownTrustDomain,
    /// It is signed by nobody whom its trust domain trusts.
    UnknownRoot,
    /// It ended too long ago.
    Expired,
    /// It is yet to begin.
    NotYet,
    /// It is somebody else's than was expected.
    OtherIdentity,
    /// Whoever shows it does not have its key.
    OtherKey,
    /// A service was asked for that is not there.
    NoService,
    /// TLS failed in another way, the other side's refusal included.
    Handshake,
}

impl Rejection {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::NoCertificate,
        Self::NoIdentity,
        Self::NoSvid,
        Self::UnknownTrustDomain,
        Self::UnknownRoot,
        Self::Expired,
        Self::NotYet,
        Self::OtherIdentity,
        Self::OtherKey,
        Self::NoService,
        Self::Handshake,
    ];

    /// It in one word, for counters and logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NoCertificate => "certificate_missing",
            Self::NoIdentity => "identity_missing",
            Self::NoSvid => "no_svid",
            Self::UnknownTrustDomain => "unknown_trust_domain",
            Self::UnknownRoot => "unknown_root",
            Self::Expired => "expired",
            Self::NotYet => "not_yet_valid",
            Self::OtherIdentity => "other_identity",
            Self::OtherKey => "other_key",
            Self::NoService => "no_such_service",
            Self::Handshake => "handshake",
        }
    }
}

/// Which end of the connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Who called.
    Client,
    /// Who was called.
    Server,
}

impl End {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Client, Self::Server];

    /// It in one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// How many connections were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Which end was refused.
    pub end: End,
    /// Why.
    pub reason: Rejection,
    /// How many.
    pub count: u64,
}

/// Counts refusals, and bounds the lines about them.
pub(crate) struct Rejections {
    told: Told,
    /// By [`End`] and [`Rejection`].
    counts: [[AtomicU64; Rejection::ALL.len()]; End::ALL.len()],
}

impl Rejections {
    pub(crate) fn new() -> Self {
        Self { told: Told::new(), counts: Default::default() }
    }

    /// Counts one more; whether it is written down, and how many were left out before it.
    pub(crate) fn one(&self, end: End, reason: Rejection) -> Option<u64> {
        self.counts[end as usize][reason as usize].fetch_add(1, Ordering::Relaxed);
        self.told.one()
    }

    /// What was counted; what has not happened is left out.
    pub(crate) fn read(&self) -> Vec<Rejected> {
        let all = End::ALL.iter().flat_map(|end| Rejection::ALL.iter().map(|reason| (*end, *reason)));
        let count = |(end, reason)| {
            let count = self.counts[end as usize][reason as usize].load(Ordering::Relaxed);
            Rejected { end, reason, count }
        };
        all.map(count).filter(|rejected| rejected.count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_counted_also_one_without_a_line() {
        let rejections = Rejections::new();
        for _ in 0..1_000 {
            rejections.one(End::Client, Rejection::OtherKey);
        }
        rejections.one(End::Server, Rejection::Handshake);
        assert_eq!(
            rejections.read(),
            [
                Rejected { end: End::Client, reason: Rejection::OtherKey, count: 1_000 },
                Rejected { end: End::Server, reason: Rejection::Handshake, count: 1 },
            ]
        );
        let places = Rejection::ALL.iter().enumerate().all(|(at, reason)| *reason as usize == at);
        assert!(
            places && End::ALL.iter().enumerate().all(|(at, end)| *end as usize == at),
            "each has a place of its own"
        );
    }
}
