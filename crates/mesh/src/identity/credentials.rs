//! The proxy's view of identities.
//!
//! Invariant: the proxy of an instance may answer for all of its workloads, and a workload for no proxy and no other workload.

use std::sync::Arc;

use proxy::{Credentials, Distrust, Identity, Rejection, Speaker};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

use super::certificate::facts;
use super::handle::Handle;
use super::judge::{Side, Untrusted, is_proxy, judge_side};
use super::spiffe::SpiffeId;
use super::{GATEWAY_ACCOUNT, PROXY_ACCOUNT, SYSTEM_NAMESPACE};

impl Credentials for Handle {
    fn certificate(&self, speaker: Speaker<'_>) -> Option<Arc<CertifiedKey>> {
        let own = |account| self.domain.account(SYSTEM_NAMESPACE, account).ok();
        let id = match speaker {
            Speaker::Workload(id) => id.parse().ok(),
            Speaker::Gateway => own(GATEWAY_ACCOUNT),
            Speaker::Proxy => None,
        };
        let material = Arc::clone(&self.material.borrow());
        let of = |id: SpiffeId| material.svids.get(&id).map(|used| Arc::clone(&used.key));
        id.and_then(of).or_else(|| own(PROXY_ACCOUNT).and_then(of))
    }

    fn client(&self, chain: &[CertificateDer<'_>]) -> Result<Option<Arc<Identity>>, Distrust> {
        let id = self.trusting(|trust, now| judge_side(chain, trust, now, Side::Client));
        let id = id.map_err(distrust)?;
        Ok((!is_proxy(&id)).then(|| Arc::new(identity(&id, &self.domain))))
    }

    fn server(&self, chain: &[CertificateDer<'_>]) -> Result<(), Distrust> {
        let id = self.trusting(|trust, now| judge_side(chain, trust, now, Side::Server));
        match id {
            Ok(id) if is_proxy(&id) => Ok(()),
            Ok(id) => Err(distrust(Untrusted::NotAProxy { id })),
            Err(error) => Err(distrust(error)),
        }
    }

    fn workload(&self, chain: &[CertificateDer<'_>], id: &str) -> Result<(), Distrust> {
        let shown = self.trusting(|trust, now| judge_side(chain, trust, now, Side::Server));
        match shown {
            Ok(shown) if shown.as_str() == id => Ok(()),
            Ok(shown) => Err(distrust(Untrusted::NotTheWorkload { id: shown, expected: id.to_owned() })),
            Err(error) => Err(distrust(error)),
        }
    }

    fn named(&self, certificate: &CertificateDer<'_>) -> Option<String> {
        let uris = facts(certificate).ok()?.uris;
        // What is no SPIFFE ID may be anything, and does not get into a log.
        uris.iter().find_map(|uri| uri.parse::<SpiffeId>().ok()).map(|id| id.to_string())
    }
}

fn distrust(untrusted: Untrusted) -> Distrust {
    let reason = match &untrusted {
        Untrusted::NoSvid(_) => Rejection::NoSvid,
        Untrusted::UnknownDomain { .. } => Rejection::UnknownTrustDomain,
        Untrusted::UnknownRoot { .. } => Rejection::UnknownRoot,
        Untrusted::Expired { .. } => Rejection::Expired,
        Untrusted::NotYet { .. } => Rejection::NotYet,
        Untrusted::NotAProxy { .. } | Untrusted::NotTheWorkload { .. } => Rejection::OtherIdentity,
    };
    Distrust { reason, said: untrusted.to_string() }
}

/// What the proxy calls a workload: `NAMESPACE/ACCOUNT`, with the trust domain in front where it is not ours.
fn identity(id: &SpiffeId, own: &super::TrustDomain) -> Identity {
    let workload = match id.account() {
        Some((namespace, account)) if id.domain() == own => format!("{namespace}/{account}"),
        Some((namespace, account)) => format!("{}/{namespace}/{account}", id.domain()),
        None => id.to_string(),
    };
    Identity { id: id.shared(), workload: workload.into() }
}
