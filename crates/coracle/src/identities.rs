//! Wires identities: the authority and its files in the data directory, who keeps certificates, and what the proxy gets of it.
//!
//! An authority that cannot be opened does not keep the platform from starting: what was issued before goes on within its grace,
//! and the alarm says why.

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use mesh::identity::{self, Authority, Away, Clock, Handle, Issuer, Keeper, Policy, Steward, TrustDomain};
use std::path::Path;
use std::sync::Arc;

/// How identities are kept.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) domain: TrustDomain,
    pub(crate) grace: SignedDuration,
}

/// Identities that have not been started.
pub(crate) struct Identities {
    keeper: (Keeper, Handle),
    clock: Clock,
}

impl Identities {
    /// Opens what is in the data directory, or begins anew there.
    pub(crate) fn open(data: &Path, settings: Settings) -> Self {
        let folder = data.join("identity");
        let policy = Policy { grace: settings.grace, ..Policy::default() };
        let clock: Clock = Arc::new(Timestamp::now);
        let authority =
            Authority::open(folder.join("authority.json"), settings.domain.clone(), policy.clone(), Timestamp::now());
        let issuer: Arc<dyn Issuer> = match authority {
            Ok(authority) => Arc::new(authority),
            Err(error) => Arc::new(Away(error.to_string().into())),
        };
        let cache = folder.join("certificates.json");
        let settings = identity::Settings { cache, domain: settings.domain, policy };
        Self { keeper: identity::build(settings, issuer, Arc::clone(&clock)), clock }
    }

    /// What gives out certificates.
    pub(crate) fn handle(&self) -> Handle {
        self.keeper.1.clone()
    }

    /// Who keeps them.
    pub(crate) fn steward(self, client: kube::Client) -> Steward {
        Steward::new(self.keeper, client, self.clock)
    }
}

/// Reads the trust domain of a command line.
pub(crate) fn domain(text: &str) -> anyhow::Result<TrustDomain> {
    text.parse()
        .with_context(|| format!("--trust-domain {text}"))
        .map_err(|error| crate::exit::bad_input(format!("{error:#}")))
}
