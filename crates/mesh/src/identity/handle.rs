//! What others may ask: certificates in use, whom to trust, and how things are.
//!
//! Invariants: what a handle gives out is on the disk already; a handle never waits for anybody.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rustls::sign::CertifiedKey;
use serde_json::Value;
use tokio::sync::watch;

use super::authority::{AuthorityError, Issuer, Svid};
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
    /// When the first of each class ends.
    pub expiries: BTreeMap<&'static str, Timestamp>,
    /// Since when the youngest root of our own trust domain, and the oldest of others' youngest, are valid.
    pub bundles_since: BTreeMap<&'static str, Timestamp>,
    /// The number of our bundle: it grows with every change (`spiffe_sequence`).
    pub sequence: i64,
    /// How often issuing or writing has failed since the start.
    pub failures: u64,
}

/// A number about identities at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Gauge {
    /// Its Prometheus name.
    pub name: &'static str,
    /// What it is, for people.
    pub help: &'static str,
    /// Whether it only grows.
    pub counter: bool,
    /// By class, where there are any; bounded.
    pub values: Vec<(Option<&'static str>, f64)>,
}

impl Report {
    /// The same as numbers.
    #[must_use]
    pub fn gauges(&self, now: Timestamp) -> Vec<Gauge> {
        let number = |count: usize| vec![(None, f64::from(u32::try_from(count).unwrap_or(u32::MAX)))];
        let classes = |times: &BTreeMap<&'static str, Timestamp>, sign: f64| {
            times.iter().map(|(class, at)| (Some(*class), sign * now.duration_until(*at).as_secs_f64())).collect()
        };
        let gauge = |name, help, values| Gauge { name, help, counter: false, values };
        vec![
            gauge(
                "coracle_identity_alarm",
                "Whether certificates can be had: 0 yes, 1 no, 2 expired ones are used in their grace, 3 lost.",
                vec![(None, f64::from(self.alarm.level()))],
            ),
            gauge("coracle_identity_certificates", "Certificates in use.", number(self.certificates)),
            gauge("coracle_identity_roots", "Roots of our own trust domain.", number(self.roots)),
            gauge(
                "coracle_identity_foreign_trust_domains",
                "Other trust domains that are trusted.",
                number(self.foreign),
            ),
            gauge(
                "coracle_identity_expiry_seconds",
                "Seconds until the first of a class ends; negative where it has.",
                classes(&self.expiries, 1.0),
            ),
            gauge(
                "coracle_identity_bundle_age_seconds",
                "Seconds since the youngest root of our bundle began, and of the oldest of others' bundles.",
                classes(&self.bundles_since, -1.0),
            ),
            Gauge {
                name: "coracle_identity_failures",
                help: "Turns in which certificates could not be issued, renewed or kept.",
                counter: true,
                values: vec![(None, self.failures as f64)],
            },
        ]
    }
}

/// Gives out what is in use. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) material: watch::Receiver<Arc<Material>>,
    pub(super) domain: TrustDomain,
    pub(super) grace: SignedDuration,
    pub(super) clock: Clock,
    pub(super) issuer: Arc<dyn Issuer>,
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

    /// Our bundle as others fetch it (SPIFFE Trust Domain and Bundle, section 4); none before the first root is made.
    #[must_use]
    pub fn document(&self) -> Option<Value> {
        let material = Arc::clone(&self.material.borrow());
        let mut document = material.bundles.get(&self.domain)?.to_spiffe();
        document["spiffe_sequence"] = material.report.sequence.into();
        document["spiffe_refresh_hint"] = super::federation::REFRESH_HINT.into();
        Some(document)
    }

    /// The roots of every trust domain that is trusted.
    #[must_use]
    pub fn bundles(&self) -> Bundles {
        self.material.borrow().bundles.clone()
    }

    /// A new JWT-SVID of `id`. It is signed on the spot: nothing of it is kept.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn token(&self, id: &SpiffeId, audiences: &[String]) -> Result<String, AuthorityError> {
        self.issuer.sign_token(id, audiences, (self.clock)())
    }

    /// Whose a JWT-SVID is, and what it says, if it is one of a trust domain that is trusted and meant for `audience`.
    ///
    /// # Errors
    ///
    /// Why it is not believed.
    pub fn validate(&self, token: &str, audience: &str) -> Result<(SpiffeId, serde_json::Map<String, Value>), String> {
        let subject = proxy::access::claimed_subject(token).ok_or("it is no token with a subject")?;
        let id: SpiffeId = subject.parse().map_err(|error: super::BadId| error.to_string())?;
        let keys = self.material.borrow().bundles.get(id.domain()).and_then(Bundle::token_keys);
        let keys = keys.ok_or_else(|| format!("no keys of the trust domain {} are known here", id.domain()))?;
        let now = std::time::Duration::from_secs(u64::try_from((self.clock)().as_second()).unwrap_or_default());
        let subjects = format!("spiffe://{}/", id.domain());
        let claims = proxy::access::verify_token(token, keys.as_bytes(), &subjects, audience, now)?;
        Ok((id, claims))
    }

    /// How things are.
    #[must_use]
    pub fn report(&self) -> Report {
        self.material.borrow().report.clone()
    }

    /// The gauges of [`Report::gauges`], as of now.
    #[must_use]
    pub fn gauges(&self) -> Vec<Gauge> {
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
