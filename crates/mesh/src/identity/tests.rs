use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::CertificateDer;

use super::handle::Clock;
use super::*;

const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn at(hours: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + hours * 3600).unwrap()
}

fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

fn authority(folder: &Path, name: &str, now: Timestamp) -> Arc<Authority> {
    Arc::new(Authority::open(folder.join("authority.json"), domain(name), Policy::default(), now).unwrap())
}

fn orders() -> SpiffeId {
    domain("cluster.local").account("shop", "orders").unwrap()
}

fn trusting(issuer: &dyn Issuer, name: &str) -> Bundles {
    [(domain(name), Bundle::new(issuer.roots()).unwrap())].into_iter().collect()
}

fn check(chain: &[CertificateDer<'_>], bundles: &Bundles, now: Timestamp) -> Result<String, Untrusted> {
    judge(chain, Trust { bundles, grace: Policy::default().grace }, now).map(|id| id.to_string())
}

#[test]
fn what_is_issued_is_an_svid() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority(folder.path(), "cluster.local", at(0));
    let svid = authority.issue(&orders(), at(0)).unwrap();
    let leaf = facts(&svid.chain[0]).unwrap();
    assert_eq!(leaf.uris, ["spiffe://cluster.local/ns/shop/sa/orders"]);
    assert_eq!((leaf.authority, leaf.signs, leaf.signature), (false, false, true));
    assert_eq!(leaf.not_after, at(24));
    let root = facts(&authority.roots()[0]).unwrap();
    assert_eq!(root.uris, ["spiffe://cluster.local"]);
    assert!(root.authority && root.signs);
    let mode = std::fs::metadata(folder.path().join("authority.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!format!("{svid:?}").contains("key"));
}

#[test]
fn peers_are_believed_for_what_their_own_domains_roots_say() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ours = authority(ours.path(), "cluster.local", at(0));
    let theirs = authority(theirs.path(), "cluster.local", at(0));
    let svid = ours.issue(&orders(), at(0)).unwrap();
    let trust = trusting(&*ours, "cluster.local");
    assert_eq!(check(&svid.chain, &trust, at(1)).as_deref(), Ok("spiffe://cluster.local/ns/shop/sa/orders"));

    // Of the same trust domain, by its own word.
    let forged = theirs.issue(&orders(), at(0)).unwrap();
    assert!(matches!(check(&forged.chain, &trust, at(1)), Err(Untrusted::UnknownRoot { .. })));
    // A trusted root counts in its own trust domain only.
    let mut both = trust.clone();
    both.insert(domain("other.test"), Bundle::new(theirs.roots()).unwrap());
    assert!(matches!(check(&forged.chain, &both, at(1)), Err(Untrusted::UnknownRoot { .. })));
    // Of a domain that nobody knows.
    let foreign = theirs.issue(&domain("evil.test").account("a", "b").unwrap(), at(0)).unwrap();
    assert!(matches!(check(&foreign.chain, &trust, at(1)), Err(Untrusted::UnknownDomain { .. })));
    // A root is nobody's identity, and a workload signs for nobody.
    assert!(matches!(check(&ours.roots(), &trust, at(1)), Err(Untrusted::NoSvid(_))));
    let posing = [forged.chain[0].clone(), svid.chain[0].clone()];
    assert!(matches!(check(&posing, &trust, at(1)), Err(Untrusted::UnknownRoot { .. })));
    assert!(matches!(check(&[], &trust, at(1)), Err(Untrusted::NoSvid(_))));
    // Before its time, in its grace, and after it.
    assert!(matches!(check(&svid.chain, &trust, at(-1)), Err(Untrusted::NotYet { .. })));
    assert!(check(&svid.chain, &trust, at(24 + 48)).is_ok());
    let late = check(&svid.chain, &trust, at(24 + 48) + SignedDuration::from_secs(1)).unwrap_err();
    assert!(late.to_string().contains("more than the grace of 48h"), "{late}");
}

#[test]
fn certificates_are_due_around_the_middle_and_not_at_once() {
    let due = |n: i32| {
        let id = domain("cluster.local").account("shop", &format!("w{n}")).unwrap();
        Held { id, not_before: at(0), not_after: at(24), trusted: true }.due()
    };
    let all: BTreeSet<Timestamp> = (0..1000).map(due).collect();
    assert!(*all.first().unwrap() >= at(0) + SignedDuration::from_mins(9 * 60 + 36));
    assert!(*all.last().unwrap() <= at(0) + SignedDuration::from_mins(14 * 60 + 24));
    assert!(all.len() > 500, "spread: {}", all.len());
    assert_eq!(due(1), due(1));
}

#[test]
fn the_plan_follows_who_is_there() {
    let id = |name: &str| domain("cluster.local").account("shop", name).unwrap();
    let held =
        |name: &str, from: i64| Held { id: id(name), not_before: at(from), not_after: at(from + 24), trusted: true };
    let wanted: BTreeSet<SpiffeId> = [id("new"), id("young"), id("old")].into();
    let all = [held("young", 0), held("old", -20), held("gone", 0)];
    let found = plan(at(1), Some(&wanted), &all);
    assert_eq!((found.issue, found.forget), (vec![id("new"), id("old")], vec![id("gone")]));
    assert_eq!(found.next, Some(all[0].due()));
    // Nobody knows who is there: nobody is forgotten, and what is due is due.
    let blind = plan(at(1), None, &all);
    assert_eq!((blind.issue, blind.forget), (vec![id("old")], vec![]));
    let distrusted = Held { trusted: false, ..held("young", 0) };
    assert_eq!(plan(at(1), None, &[distrusted]).issue, [id("young")]);
}

#[test]
fn a_new_root_is_known_before_it_signs_and_an_old_one_outlives_what_it_signed() {
    let policy = Policy { root_life: HOUR * 300, root_overlap: HOUR * 24, ..Policy::default() };
    let look = |now: i64, roots: &[(i64, i64)]| {
        let roots: Vec<_> = roots.iter().map(|(from, ends)| (at(*from), at(*ends))).collect();
        let plan = roots_plan(at(now), &roots, &policy);
        (plan.keep, plan.signs, plan.make)
    };
    assert_eq!(look(0, &[]), (vec![], None, true));
    assert_eq!(look(1, &[(0, 300)]), (vec![0], Some(0), false));
    assert_eq!(look(201, &[(0, 300)]), (vec![0], Some(0), true));
    let both = [(0, 300), (225, 501)];
    assert_eq!(look(224, &both), (vec![0, 1], Some(0), false));
    assert_eq!(look(225, &both), (vec![0, 1], Some(1), false));
    assert_eq!(look(225 + 71, &both), (vec![0, 1], Some(1), false));
    assert_eq!(look(225 + 72, &both), (vec![1], Some(1), false));
    // It ended before anything followed: better a root that is early than none.
    assert_eq!(look(301, &[(0, 300), (310, 600)]), (vec![1], Some(1), false));
}

#[test]
fn alarms_grow_with_trouble() {
    let grace = HOUR * 48;
    let level = |now: i64, failing: Option<i64>, ends: Option<i64>| {
        alarm(at(now), failing.map(at), ends.map(at), grace).level()
    };
    assert_eq!(level(0, None, Some(24)), 0);
    assert_eq!(level(0, Some(0), Some(24)), 1);
    assert_eq!(level(23, Some(0), Some(24)), 1);
    assert_eq!(level(24, Some(0), Some(24)), 2);
    assert_eq!(level(71, Some(0), Some(24)), 2);
    assert_eq!(level(72, Some(0), Some(24)), 3);
    assert_eq!(level(0, Some(0), None), 1);
}

/// Signs until it is told not to.
struct Switch {
    authority: Arc<Authority>,
    down: AtomicBool,
}

impl Switch {
    fn up(&self) -> Result<(), AuthorityError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(AuthorityError::Away { reason: "it does not answer".into() });
        }
        Ok(())
    }
}

impl Issuer for Switch {
    fn check(&self, now: Timestamp) -> Result<(), AuthorityError> {
        self.up().and_then(|()| self.authority.check(now))
    }
    fn issue(&self, id: &SpiffeId, now: Timestamp) -> Result<Svid, AuthorityError> {
        self.up().and_then(|()| self.authority.issue(id, now))
    }
    fn sign_token(&self, id: &SpiffeId, audiences: &[String], now: Timestamp) -> Result<String, AuthorityError> {
        self.authority.sign_token(id, audiences, now)
    }

    fn token_keys(&self) -> Vec<serde_json::Value> {
        self.authority.token_keys()
    }

    fn roots(&self) -> Vec<CertificateDer<'static>> {
        if self.up().is_ok() { self.authority.roots() } else { Vec::new() }
    }
}

fn clock() -> (Arc<AtomicI64>, Clock) {
    let now = Arc::new(AtomicI64::new(at(0).as_second()));
    let told = Arc::clone(&now);
    (now, Arc::new(move || Timestamp::from_second(told.load(Ordering::SeqCst)).unwrap()))
}

fn settings(folder: &Path) -> Settings {
    Settings { cache: folder.join("cache.json"), domain: domain("cluster.local"), policy: Policy::default() }
}

#[test]
fn an_authority_that_is_down_for_26_hours_is_survived_with_an_alarm_from_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let switch =
        Arc::new(Switch { authority: authority(folder.path(), "cluster.local", at(0)), down: AtomicBool::new(false) });
    let (now, clock) = clock();
    let (mut keeper, handle) = build(settings(folder.path()), switch.clone(), Arc::clone(&clock));
    keeper.want([orders()].into());
    assert_eq!(keeper.turn(at(0)).alarm, None);
    let first = handle.svid(&orders()).expect("a certificate");

    switch.down.store(true, Ordering::SeqCst);
    let turn = keeper.turn(at(0) + SignedDuration::from_mins(5));
    assert_eq!(turn.alarm.map(Alarm::level), Some(1), "from hour 0");
    assert!(handle.report().trouble.unwrap().contains("does not answer"));
    let gauge = &handle.gauges()[0];
    assert_eq!((gauge.name, gauge.values.as_slice()), ("coracle_identity_alarm", &[(None, 1.0)][..]));
    for hour in 1..=26 {
        now.store(at(hour).as_second(), Ordering::SeqCst);
        keeper.turn(at(hour));
        let svid = handle.svid(&orders()).expect("still in use");
        let id = handle.trusting(|trust, now| judge(&svid.chain, trust, now));
        assert_eq!(id, Ok(orders()), "hour {hour}");
        assert_eq!(handle.report().alarm.level(), if hour < 24 { 1 } else { 2 }, "hour {hour}");
    }
    // A restart in the middle of it, with no authority at all.
    drop((keeper, handle));
    let (mut keeper, handle) = build(settings(folder.path()), switch.clone(), clock);
    assert_eq!(handle.svid(&orders()).unwrap().chain, first.chain);
    keeper.turn(at(26));
    assert_eq!(handle.trusting(|trust, now| judge(&first.chain, trust, now)), Ok(orders()));

    switch.down.store(false, Ordering::SeqCst);
    keeper.want([orders()].into());
    assert_eq!(keeper.turn(at(26)).alarm, Some(Alarm::Quiet));
    assert_ne!(handle.svid(&orders()).unwrap().chain, first.chain);
}

#[test]
fn only_what_is_due_is_issued_again_and_only_changes_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority(folder.path(), "cluster.local", at(0));
    let (_, clock) = clock();
    let (mut keeper, mut handle) = build(settings(folder.path()), authority, clock);
    keeper.want([orders()].into());
    keeper.turn(at(0));
    let first = handle.svid(&orders()).unwrap();
    assert_eq!(handle.report().certificates, 3, "the workload's, the proxy's and the gateway's");
    handle.material.mark_unchanged();
    keeper.turn(at(1));
    assert!(!handle.material.has_changed().unwrap());
    keeper.turn(at(15));
    assert!(handle.material.has_changed().unwrap());
    assert_ne!(handle.svid(&orders()).unwrap().chain, first.chain);
    keeper.want(BTreeSet::new());
    keeper.turn(at(15));
    assert!(handle.svid(&orders()).is_none());
}

#[test]
fn a_rotated_root_overlaps_and_nobody_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority(folder.path(), "cluster.local", at(0));
    let (_, clock) = clock();
    let (mut keeper, handle) = build(settings(folder.path()), authority.clone(), clock);
    keeper.want([orders()].into());
    keeper.turn(at(0));
    let before = handle.bundles();
    authority.rotate_root(at(1)).unwrap();
    for hour in 1..200 {
        keeper.turn(at(hour));
        let svid = handle.svid(&orders()).unwrap();
        assert!(check(&svid.chain, &handle.bundles(), at(hour)).is_ok(), "hour {hour}");
        // Those who have not heard of it yet believe us for as long as it has not begun to sign.
        assert!(hour > 24 || check(&svid.chain, &before, at(hour)).is_ok(), "hour {hour}");
    }
    assert_eq!(handle.report().roots, 1, "the old one is gone");
    assert_ne!(handle.bundle().unwrap().roots(), before[&domain("cluster.local")].roots());
}

#[test]
fn damage_is_named_and_a_foreign_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("authority.json");
    drop(authority(folder.path(), "cluster.local", at(0)));
    let other = Authority::open(path.clone(), domain("b.test"), Policy::default(), at(0)).err().expect("refused");
    assert!(other.to_string().contains("of the trust domain cluster.local"), "{other}");
    std::fs::write(&path, "{ half").unwrap();
    let damaged = Authority::open(path, domain("cluster.local"), Policy::default(), at(0)).err().expect("refused");
    assert!(damaged.to_string().contains("authority.json is damaged"), "{damaged}");
    std::fs::write(folder.path().join("cache.json"), "junk").unwrap();
    assert!(Cache::new(folder.path().join("cache.json")).load().0.is_empty());
}

#[test]
fn bundles_go_out_and_come_in_in_both_forms() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority(folder.path(), "cluster.local", at(0));
    authority.rotate_root(at(1)).unwrap();
    let bundle = Bundle::new(authority.roots()).unwrap();
    assert_eq!(bundle.roots().len(), 2);
    assert_eq!(Bundle::read(bundle.to_pem().as_bytes()), Ok(bundle.clone()));
    let set = bundle.to_spiffe();
    assert_eq!(set["keys"][0]["use"], "x509-svid");
    assert_eq!(set["keys"][0]["crv"], "P-256");
    assert_eq!(set["keys"][0]["x"].as_str().unwrap().len(), 43);
    assert_eq!(Bundle::read(set.to_string().as_bytes()), Ok(bundle));
    let leaf = authority.issue(&orders(), at(0)).unwrap();
    for bad in ["", "junk", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"use":"x509-svid"}]}"#] {
        assert!(Bundle::read(bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(Bundle::new(leaf.chain).unwrap_err().to_string().contains("not an authority's"));
}
