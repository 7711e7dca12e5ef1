//! What others may ask: certificates in use, whom to trust, and how things are.
//!
//! Invariants: what a handle gives out is on the disk already; a handle never waits for anybody.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use super::authority::Svid;
use super::bundle::{Bundle, Bundles};
use super::judge::Trust;
use super::plan::{Alarm, Held};
use super::spiffe::{SpiffeId, TrustDomain};

/// Tells the time. Tests have their own.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A certificate in use.
#[derive(Clone)]
pub(super) struct InUse {
    pub(super) svid: Svid,
    pub(super) held: Held,
    pub(super) key: Arc<CertifiedKey>,
}

/// All that is in use.
#[derive(Clone, Default)]
pub(super) struct Material {
    pub(super) svids: BTreeMap<SpiffeId, InUse>,
    pub(super) bundles: Bundles,
    pub(super) report: Report,
}

/// How things are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How bad they are.
    pub alarm: Alarm,
    /// What went wrong last, where something does.
    pub trouble: Option<String>,
    /// How many certificates are in use.
    pub certificates: usize,
    /// When the first of them ends.
    pub ends: Option<Timestamp>,
    /// How many roots of our own trust domain there are; two while one follows another.
    pub roots: usize,
    /// How many other trust domains are trusted.
    pub foreign: usize,
}

impl Report {
    /// The same as gauges, by their Prometheus names.
    #[must_use]
    pub fn gauges(&self, now: Timestamp) -> Vec<(&'static str, f64)> {
        let left = self.ends.map(|ends| now.duration_until(ends).as_secs_f64());
        let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let mut gauges = vec![
            ("coracle_identity_alarm", f64::from(self.alarm.level())),
            ("coracle_identity_certificates", number(self.certificates)),
            ("coracle_identity_roots", number(self.roots)),
            ("coracle_identity_foreign_trust_domains", number(self.foreign)),
        ];
        gauges.extend(left.map(|left| ("coracle_identity_first_expiry_seconds", left)));
        gauges
    }
}

/// Gives out what is in use. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) material: watch::Receiver<Arc<Material>>,
    pub(super) domain: TrustDomain,
    pub(super) grace: SignedDuration,
    pub(super) clock: Clock,
}

impl Handle {
    /// Our own trust domain.
    #[must_use]
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The certificate of `id`, where it has one.
    #[must_use]
    pub fn svid(&self, id: &SpiffeId) -> Option<Svid> {
        self.material.borrow().svids.get(id).map(|used| used.svid.clone())
    }

    /// The roots of our own trust domain; none before the first one is made.
    #[must_use]
    pub fn bundle(&self) -> Option<Bundle> {
        self.material.borrow().bundles.get(&self.domain).cloned()
    }

    /// The roots of every trust domain that is trusted.
    #[must_use]
    pub fn bundles(&self) -> Bundles {
        self.material.borrow().bundles.clone()
    }

    /// How things are.
    #[must_use]
    pub fn report(&self) -> Report {
        self.material.borrow().report.clone()
    }

    /// The gauges of [`Report::gauges`], as of now.
    #[must_use]
    pub fn gauges(&self) -> Vec<(&'static str, f64)> {
        self.report().gauges((self.clock)())
    }

    /// Resolves when anything has changed since this handle last looked, or says that nothing will any more.
    ///
    /// # Errors
    ///
    /// When the keeper has ended.
    pub async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.material.changed().await
    }

    /// Takes what is there now for seen, so that [`Self::changed`] tells of what comes after.
    pub(super) fn seen(&mut self) {
        self.material.mark_unchanged();
    }

    /// Looks at whom to trust and at the time.
    pub(super) fn trusting<T>(&self, look: impl FnOnce(Trust<'_>, Timestamp) -> T) -> T {
        let material = Arc::clone(&self.material.borrow());
        look(Trust { bundles: &material.bundles, grace: self.grace }, (self.clock)())
    }
}
