//! Keeps certificates: issues, renews, forgets, writes them to the disk, and says when it cannot.
//!
//! Invariants: what is published has been written; where it cannot be written, it is used all the same and said; what is in use
//! stays in use, however long nobody signs; a turn asks whoever signs at most once for each certificate.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rustls::crypto::ring;
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use super::authority::{Issuer, Svid};
use super::bundle::{Bundle, Bundles};
use super::cache::Cache;
use super::certificate::facts;
use super::handle::{Clock, Handle, InUse, Material, Report};
use super::judge::{Trust, judge};
use super::plan::{Alarm, Held, Policy, alarm, plan};
use super::spiffe::{SpiffeId, TrustDomain};
use super::{GATEWAY_ACCOUNT, PROXY_ACCOUNT, SYSTEM_NAMESPACE};

/// How many workloads may have a certificate at once.
const MOST: usize = 20_000;
/// How long until what failed is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(30);

/// What the one who starts it decides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where certificates and bundles are kept from start to start.
    pub cache: PathBuf,
    /// Our own trust domain.
    pub domain: TrustDomain,
    /// How long things last.
    pub policy: Policy,
}

/// What a turn did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// When to take the next one at the latest.
    pub next: Timestamp,
    /// The alarm, where its level has changed.
    pub alarm: Option<Alarm>,
}

/// Keeps the certificates of one instance. Every decision is in [`plan()`].
pub struct Keeper {
    settings: Settings,
    issuer: Arc<dyn Issuer>,
    cache: Cache,
    published: watch::Sender<Arc<Material>>,
    /// Who is there; none while nobody knows.
    wanted: Option<BTreeSet<SpiffeId>>,
    foreign: Option<Bundles>,
    failing: Option<Timestamp>,
    failures: u64,
    level: u8,
}

/// Makes a keeper, with what was in use when the last one ended already in use again.
#[must_use]
pub fn build(settings: Settings, issuer: Arc<dyn Issuer>, clock: Clock) -> (Keeper, Handle) {
    let cache = Cache::new(settings.cache.clone());
    let (svids, bundles) = cache.load();
    let mut material = Material { bundles, ..Material::default() };
    let now = clock();
    for svid in svids {
        // What is not believed any more is as good as none.
        let believed = judge(&svid.chain, Trust { bundles: &material.bundles, grace: settings.policy.grace }, now);
        match believed.map_err(|error| error.to_string()).and_then(|_| in_use(svid, true)) {
            Ok(used) => drop(material.svids.insert(used.held.id.clone(), used)),
            Err(reason) => tracing::info!(reason, "a kept certificate is not used"),
        }
    }
    let (published, following) = watch::channel(Arc::new(material));
    let handle = Handle {
        material: following,
        domain: settings.domain.clone(),
        grace: settings.policy.grace,
        clock: Arc::clone(&clock),
        issuer: Arc::clone(&issuer),
    };
    let keeper = Keeper {
        settings,
        issuer,
        cache,
        published,
        wanted: None,
        foreign: None,
        failing: None,
        failures: 0,
        level: 0,
    };
    (keeper, handle)
}

/// The two identities that are the platform's own.
fn own(domain: &TrustDomain) -> impl Iterator<Item = SpiffeId> + '_ {
    [PROXY_ACCOUNT, GATEWAY_ACCOUNT].into_iter().filter_map(|account| domain.account(SYSTEM_NAMESPACE, account).ok())
}

fn in_use(svid: Svid, trusted: bool) -> Result<InUse, String> {
    let leaf = svid.chain.first().ok_or("it has no certificate")?;
    let facts = facts(leaf)?;
    let key = CertifiedKey::from_der(svid.chain.clone(), svid.private_key(), &ring::default_provider())
        .map_err(|error| error.to_string())?;
    let held = Held { id: svid.id.clone(), not_before: facts.not_before, not_after: facts.not_after, trusted };
    Ok(InUse { svid, held, key: Arc::new(key) })
}

/// When each root of a bundle begins and ends.
fn times(bundle: &Bundle) -> impl Iterator<Item = (Timestamp, Timestamp)> + '_ {
    bundle.roots().iter().filter_map(|root| facts(root).ok()).map(|facts| (facts.not_before, facts.not_after))
}

impl Keeper {
    /// Says which workloads there are. Whether they are others than before.
    pub fn want(&mut self, mut ids: BTreeSet<SpiffeId>) -> bool {
        while ids.len() > MOST {
            let left_out = ids.pop_last();
            tracing::error!(?left_out, most = MOST, "too many workloads; this one gets no certificate");
        }
        self.wanted.replace(ids) != self.wanted
    }

    /// Says which other trust domains are trusted. Whether they are others than before.
    pub fn trust(&mut self, foreign: Bundles) -> bool {
        self.foreign.replace(foreign) != self.foreign
    }

    /// The roots that are trusted from now on: those of whoever signs, and those of others; what was known before where
    /// neither can say.
    fn bundles(&self, before: &Bundles) -> Bundles {
        let own = &self.settings.domain;
        let mut bundles = match &self.foreign {
            Some(foreign) => foreign.clone(),
            None => before.iter().filter(|(domain, _)| *domain != own).map(|(d, b)| (d.clone(), b.clone())).collect(),
        };
        let also = bundles.remove(own);
        let roots = also.iter().flat_map(|bundle| bundle.roots().to_vec()).collect::<Vec<_>>();
        let keys = also.iter().flat_map(|bundle| bundle.keys().to_vec()).collect::<Vec<_>>();
        match Bundle::new(self.issuer.roots().into_iter().chain(roots)) {
            Ok(bundle) => {
                let bundle = bundle.with_keys(self.issuer.token_keys().into_iter().chain(keys));
                bundles.insert(own.clone(), bundle);
            }
            Err(_) => drop(before.get(own).map(|bundle| bundles.insert(own.clone(), bundle.clone()))),
        }
        bundles
    }

    /// Does what is to be done now. It reads and writes files, so it belongs on a thread that may wait.
    pub fn turn(&mut self, now: Timestamp) -> Turn {
        let before = Arc::clone(&self.published.borrow());
        let mut trouble = self.issuer.check(now).err().map(|error| error.to_string());
        let bundles = self.bundles(&before.bundles);
        let mut svids = before.svids.clone();
        if bundles != before.bundles {
            let trust = Trust { bundles: &bundles, grace: self.settings.policy.grace };
            for used in svids.values_mut() {
                // One that has merely grown too old is replaced by its age.
                let age = used.held.not_after.min(now);
                used.held.trusted = judge(&used.svid.chain, trust, age).is_ok();
            }
        }
        let mut wanted = self.wanted.clone();
        if let Some(wanted) = &mut wanted {
            wanted.extend(own(&self.settings.domain));
        }
        let first: BTreeSet<SpiffeId> = own(&self.settings.domain).collect();
        let held: Vec<Held> = svids.values().map(|used| used.held.clone()).collect();
        let mut plan = plan(now, wanted.as_ref(), &held);
        plan.issue.extend(first.into_iter().filter(|id| wanted.is_none() && !svids.contains_key(id)));
        for id in &plan.forget {
            svids.remove(id);
        }
        let mut changed = bundles != before.bundles || !plan.forget.is_empty();
        if trouble.is_none() {
            let issued = self.issue(&plan.issue, now, &mut svids);
            changed |= issued.0;
            trouble = issued.1;
        }
        if changed && let Err(error) = self.cache.store(svids.values().map(|used| &used.svid), &bundles) {
            trouble.get_or_insert(error.to_string());
        }
        self.publish(now, svids, bundles, trouble)
    }

    /// Issues what is planned. Whether anything was, and what went wrong; one failure ends it, as the next would fail alike.
    fn issue(&self, ids: &[SpiffeId], now: Timestamp, svids: &mut BTreeMap<SpiffeId, InUse>) -> (bool, Option<String>) {
        let mut any = false;
        for id in ids {
            let issued = self.issuer.issue(id, now).map_err(|error| error.to_string());
            match issued.and_then(|svid| in_use(svid, true)) {
                Ok(used) => drop(svids.insert(id.clone(), used)),
                Err(reason) => return (any, Some(reason)),
            }
            any = true;
        }
        (any, None)
    }

    /// When the first of each class ends: of the workloads, of what is the platform's own, and of our roots the one that lasts longest.
    fn expiries(&self, svids: &BTreeMap<SpiffeId, InUse>, bundles: &Bundles) -> BTreeMap<&'static str, Timestamp> {
        let platform: BTreeSet<SpiffeId> = own(&self.settings.domain).collect();
        let first = |ours: bool| {
            let of = svids.values().filter(|used| platform.contains(&used.held.id) == ours);
            of.map(|used| used.held.not_after).min()
        };
        let root = bundles.get(&self.settings.domain).and_then(|bundle| times(bundle).map(|(_, ends)| ends).max());
        let all = [("platform", first(true)), ("workload", first(false)), ("root", root)];
        all.into_iter().filter_map(|(class, ends)| Some((class, ends?))).collect()
    }

    /// When our bundle became what it is. A start counts as a change: nobody knows what came before.
    fn sequence(&self, now: Timestamp, bundles: &Bundles) -> i64 {
        let (before, own) = (self.published.borrow(), &self.settings.domain);
        let same = before.report.sequence > 0 && before.bundles.get(own) == bundles.get(own);
        if same { before.report.sequence } else { now.as_second().max(before.report.sequence + 1) }
    }

    fn bundles_since(&self, bundles: &Bundles) -> BTreeMap<&'static str, Timestamp> {
        let youngest = |bundle: &Bundle| times(bundle).map(|(begins, _)| begins).max();
        let own = &self.settings.domain;
        let foreign =
            bundles.iter().filter(|(domain, _)| *domain != own).filter_map(|(_, bundle)| youngest(bundle)).min();
        let all = [("own", bundles.get(own).and_then(youngest)), ("foreign", foreign)];
        all.into_iter().filter_map(|(class, since)| Some((class, since?))).collect()
    }

    fn publish(
        &mut self,
        now: Timestamp,
        svids: BTreeMap<SpiffeId, InUse>,
        bundles: Bundles,
        trouble: Option<String>,
    ) -> Turn {
        self.failing = trouble.is_some().then(|| self.failing.unwrap_or(now));
        self.failures += u64::from(trouble.is_some());
        let ends = svids.values().map(|used| used.held.not_after).min();
        let alarm = alarm(now, self.failing, ends, self.settings.policy.grace);
        let report = Report {
            alarm,
            trouble,
            certificates: svids.len(),
            ends,
            roots: bundles.get(&self.settings.domain).map_or(0, |bundle| bundle.roots().len()),
            foreign: bundles.keys().filter(|domain| **domain != self.settings.domain).count(),
            expiries: self.expiries(&svids, &bundles),
            bundles_since: self.bundles_since(&bundles),
            failures: self.failures,
            sequence: self.sequence(now, &bundles),
        };
        let due = svids.values().map(|used| used.held.due()).min();
        let soonest = if self.failing.is_some() { now + RETRY } else { now + self.settings.policy.check };
        let next = due.map_or(soonest, |due| due.clamp(now + SignedDuration::from_secs(1), soonest));
        let next = if self.failing.is_some() { soonest } else { next };
        let new = Material { svids, bundles, report };
        self.published.send_if_modified(|published| {
            let same = published.report == new.report
                && published.bundles == new.bundles
                && published.svids.len() == new.svids.len()
                && published.svids.values().zip(new.svids.values()).all(|(a, b)| Arc::ptr_eq(&a.key, &b.key));
            if !same {
                *published = Arc::new(new);
            }
            !same
        });
        let changed = alarm.level() != self.level;
        self.level = alarm.level();
        Turn { next, alarm: changed.then_some(alarm) }
    }
}
