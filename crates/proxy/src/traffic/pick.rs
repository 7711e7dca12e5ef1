//! Chooses an endpoint as a policy wants it: the algorithm, endpoints that are new, endpoints that are left alone.
//!
//! Invariants: choosing takes no lock while the endpoints stay the same; what is known about an endpoint stays when others come and
//! go; where all that are left are left alone, there is none.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use arc_swap::{ArcSwapOption, Guard};
use parking_lot::Mutex;

use super::maglev::Table;
use super::outlier::{Record, may_eject};
use crate::balance::{Backend, Members};
use crate::endpoint::{Endpoint, Ticket};
use crate::policy::{Algorithm, Balancing, Outliers};

/// How an endpoint is chosen, and when one is left alone.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) balancing: Balancing,
    pub(super) outliers: Option<Outliers>,
}

/// The choice among one backend's endpoints.
pub(crate) struct Balancer {
    settings: Settings,
    /// What moments are counted from.
    origin: Instant,
    /// Whose turn it is.
    turn: AtomicUsize,
    roster: ArcSwapOption<Roster>,
    /// Held while a roster is made.
    making: Mutex<()>,
}

/// The endpoints of a backend at one time.
struct Roster {
    members: Arc<Members>,
    seats: Vec<Arc<Seat>>,
    by_address: HashMap<SocketAddr, usize>,
    table: Table,
}

/// An endpoint and what is known about it. Moments are milliseconds since the balancer's origin.
struct Seat {
    endpoint: Arc<Endpoint>,
    /// When it was new; 0 where it was there from the start.
    joined: u64,
    /// Until when it is left alone.
    alone_until: AtomicU64,
    record: Option<Mutex<Record>>,
}

/// Among how many endpoints one is found sooner by looking at each.
const FEW: usize = 8;

impl Roster {
    fn seat(&self, address: SocketAddr) -> Option<&Arc<Seat>> {
        if self.seats.len() <= FEW {
            // The last of several, as in the table.
            return self.seats.iter().rfind(|seat| seat.endpoint.address == address);
        }
        self.by_address.get(&address).map(|position| &self.seats[*position])
    }
}

/// The least share of an endpoint that is new.
const LEAST: f64 = 0.1;

impl Balancer {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            origin: Instant::now(),
            turn: AtomicUsize::new(0),
            roster: ArcSwapOption::empty(),
            making: Mutex::default(),
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    fn moment(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// Chooses an endpoint that is not among those tried, and counts the request in there. The same `key` leads to the same one
    /// where the algorithm says so.
    pub(super) fn pick(
        &self,
        backend: &Backend,
        tried: &[SocketAddr],
        key: Option<u64>,
        now: Instant,
    ) -> Option<Ticket> {
        // A second look is only needed where an endpoint was let go during the first.
        for _ in 0..4 {
            let roster = self.roster(backend, now);
            let roster = roster.as_ref()?;
            let chosen = self.choose(roster, tried, key, self.moment(now))?;
            if let Some(ticket) = roster.seats[chosen].endpoint.enter() {
                return Some(ticket);
            }
        }
        None
    }

    /// The roster of the backend's endpoints of now.
    fn roster(&self, backend: &Backend, now: Instant) -> Guard<Option<Arc<Roster>>> {
        let members = backend.members();
        let is_current = |roster: &Guard<Option<Arc<Roster>>>, members: &Arc<Members>| {
            roster.as_ref().is_some_and(|roster| Arc::ptr_eq(&roster.members, members))
        };
        let roster = self.roster.load();
        if is_current(&roster, &members) {
            return roster;
        }
        drop((roster, members));
        let _making = self.making.lock();
        let members = backend.members();
        let roster = self.roster.load();
        if is_current(&roster, &members) {
            return roster;
        }
        self.roster.store(Some(Arc::new(self.make(Arc::clone(&members), now))));
        self.roster.load()
    }

    fn make(&self, members: Arc<Members>, now: Instant) -> Roster {
        let before = self.roster.load_full();
        let seat = |endpoint: &Arc<Endpoint>| {
            let known = before
                .as_ref()
                .and_then(|before| before.seat(endpoint.address).filter(|seat| Arc::ptr_eq(&seat.endpoint, endpoint)));
            known.map(Arc::clone).unwrap_or_else(|| {
                Arc::new(Seat {
                    endpoint: Arc::clone(endpoint),
                    // At the start all are equally new, so that none is.
                    joined: before.as_ref().map_or(0, |_| self.moment(now)),
                    alone_until: AtomicU64::new(0),
                    record: self.settings.outliers.as_ref().map(|outliers| Mutex::new(Record::new(outliers, now))),
                })
            })
        };
        let seats: Vec<Arc<Seat>> = members.endpoints.iter().map(seat).collect();
        let addresses: Vec<SocketAddr> = seats.iter().map(|seat| seat.endpoint.address).collect();
        let table = match self.settings.balancing.algorithm {
            Algorithm::ConsistentHash(_) => Table::new(&addresses),
            _ => Table::new(&[]),
        };
        let by_address = addresses.into_iter().enumerate().map(|(position, address)| (address, position)).collect();
        Roster { members, seats, by_address, table }
    }

    fn choose(&self, roster: &Roster, tried: &[SocketAddr], key: Option<u64>, now: u64) -> Option<usize> {
        let usable = |position: usize| {
            let seat = &roster.seats[position];
            seat.alone_until.load(Ordering::Relaxed) <= now && !tried.contains(&seat.endpoint.address)
        };
        let load = |position: usize, latency: bool| {
            let seat = &roster.seats[position];
            let load = if latency { seat.endpoint.load() } else { seat.endpoint.in_flight() as u64 + 1 };
            load as f64 / self.share(seat, now)
        };
        let count = roster.seats.len();
        match (&self.settings.balancing.algorithm, key) {
            (Algorithm::RoundRobin, _) => self.in_turn(roster, usable, now),
            (Algorithm::ConsistentHash(_), Some(hash)) => roster.table.find(hash).find(|it| usable(*it)),
            (Algorithm::LeastRequest, _) => better(count, usable, |it| load(it, false), |_| {}),
            (Algorithm::PeakEwma | Algorithm::ConsistentHash(_), _) => {
                better(count, usable, |it| load(it, true), |worse| roster.seats[worse].endpoint.forgive())
            }
        }
    }

    /// Whose turn it is. Who is passed over, for being new or left alone, costs a turn: what it would have got is shared by all
    /// the others, and is not the next one's alone.
    fn in_turn(&self, roster: &Roster, usable: impl Fn(usize) -> bool, now: u64) -> Option<usize> {
        let count = roster.seats.len();
        let mut spare = None;
        for _ in 0..count {
            let position = self.turn.fetch_add(1, Ordering::Relaxed) % count;
            if !usable(position) {
                continue;
            }
            if fastrand::f64() < self.share(&roster.seats[position], now) {
                return Some(position);
            }
            spare = spare.or(Some(position));
        }
        // Others take turns at the same time, so that not everybody may have been asked.
        spare.or_else(|| (0..count).find(|it| usable(*it)))
    }

    /// The share of its load that an endpoint is to get, for being new: 1 is all of it.
    fn share(&self, seat: &Seat, now: u64) -> f64 {
        let Some(window) = self.settings.balancing.slow_start else { return 1.0 };
        match seat.joined.max(seat.alone_until.load(Ordering::Relaxed)) {
            0 => 1.0,
            since => (now.saturating_sub(since) as f64 / window.as_millis().max(1) as f64).clamp(LEAST, 1.0),
        }
    }

    /// Takes note of how a request at an endpoint ended; true where it is left alone for it.
    pub(super) fn note(&self, address: SocketAddr, failed: bool, now: Instant) -> bool {
        let roster = self.roster.load();
        let (Some(settings), Some(roster)) = (&self.settings.outliers, roster.as_ref()) else { return false };
        let Some(seat) = roster.seat(address) else { return false };
        let Some(record) = &seat.record else { return false };
        let mut record = record.lock();
        if !record.note(failed, settings, now) {
            return false;
        }
        let moment = self.moment(now);
        let alone = roster.seats.iter().filter(|seat| seat.alone_until.load(Ordering::Relaxed) > moment).count();
        if !may_eject(alone, roster.seats.len(), settings.max_percent) {
            return false;
        }
        let until = record.eject(settings, now);
        seat.alone_until.store(self.moment(until), Ordering::Relaxed);
        tracing::debug!(%address, "an endpoint is left alone, as it fails");
        true
    }
}

/// The better of two that are drawn by lot; the other is told.
fn better(
    count: usize,
    usable: impl Fn(usize) -> bool,
    load: impl Fn(usize) -> f64,
    worse: impl FnOnce(usize),
) -> Option<usize> {
    let first = draw(count, &usable)?;
    let Some(second) = draw(count, |it| it != first && usable(it)) else { return Some(first) };
    let (chosen, other) = if load(second) < load(first) { (second, first) } else { (first, second) };
    worse(other);
    Some(chosen)
}

/// One of those that can be used: by lot, and if that does not find one soon, the next from a place drawn by lot.
fn draw(count: usize, usable: impl Fn(usize) -> bool) -> Option<usize> {
    if count == 0 {
        return None;
    }
    if let Some(found) = (0..4).map(|_| fastrand::usize(..count)).find(|it| usable(*it)) {
        return Some(found);
    }
    let start = fastrand::usize(..count);
    (0..count).map(|step| (start + step) % count).find(|it| usable(*it))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::*;
    use crate::endpoint::Endpoints;
    use crate::policy::HashOn;
    use crate::snapshot::BackendProtocol;

    fn serve(backend: &Backend, endpoints: &Endpoints, ports: impl IntoIterator<Item = u16>) {
        backend.replace(Members {
            endpoints: ports.into_iter().map(|port| endpoint(endpoints, port)).collect(),
            protocol: BackendProtocol::Http1,
            when_empty: StatusCode::SERVICE_UNAVAILABLE,
            place: None,
        });
    }

    fn endpoint(endpoints: &Endpoints, port: u16) -> Arc<Endpoint> {
        endpoints.serving(&crate::snapshot::Endpoint::plain(address(port)))
    }

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn balancer(algorithm: Algorithm, slow_start: Option<u64>, outliers: Option<Outliers>) -> Balancer {
        let slow_start = slow_start.map(Duration::from_secs);
        Balancer::new(Settings { balancing: Balancing { algorithm, slow_start }, outliers })
    }

    /// How often each of ports 1 to 4 is picked.
    fn shares(balancer: &Balancer, backend: &Backend, picks: usize, now: Instant) -> [usize; 5] {
        let mut counts = [0; 5];
        for _ in 0..picks {
            let ticket = balancer.pick(backend, &[], None, now).expect("an endpoint");
            counts[usize::from(ticket.endpoint.address.port())] += 1;
        }
        counts
    }

    #[test]
    fn one_after_the_other() {
        let (endpoints, backend) = (Endpoints::default(), Backend::new("b".into()));
        serve(&backend, &endpoints, 1..=3);
        let balancer = balancer(Algorithm::RoundRobin, None, None);
        assert_eq!(shares(&balancer, &backend, 300, Instant::now()), [0, 100, 100, 100, 0]);
        let other = balancer.pick(&backend, &[address(1), address(3)], None, Instant::now());
        assert_eq!(other.expect("one is left").endpoint.address, address(2));
        assert!(balancer.pick(&backend, &[address(1), address(2), address(3)], None, Instant::now()).is_none());
    }

    #[test]
    fn the_fewest_requests_under_way() {
        let (endpoints, backend) = (Endpoints::default(), Backend::new("b".into()));
        serve(&backend, &endpoints, 1..=2);
        endpoint(&endpoints, 1).observe(Duration::from_secs(9));
        let balancer = balancer(Algorithm::LeastRequest, None, None);
        let tickets: Vec<_> = (0..10).filter_map(|_| balancer.pick(&backend, &[], None, Instant::now())).collect();
        assert_eq!(tickets.iter().filter(|ticket| ticket.endpoint.address == address(1)).count(), 5);
    }

    #[test]
    fn the_same_key_goes_to_the_same_endpoint() {
        let (endpoints, backend) = (Endpoints::default(), Backend::new("b".into()));
        serve(&backend, &endpoints, 1..=4);
        let balancer = balancer(Algorithm::ConsistentHash(HashOn::ClientAddress), None, None);
        let to = |key: u64, tried: &[SocketAddr]| {
            balancer.pick(&backend, tried, Some(key), Instant::now()).expect("an endpoint").endpoint.address
        };
        let before: Vec<_> = (0..100).map(|key| to(key * 77_777_777, &[])).collect();
        assert_eq!((0..100).map(|key| to(key * 77_777_777, &[])).collect::<Vec<_>>(), before);
        assert_ne!(to(0, &[before[0]]), before[0]);
        serve(&backend, &endpoints, 1..=3);
        let stayed = before.iter().enumerate().filter(|(_, was)| was.port() != 4);
        let moved = stayed.filter(|(key, was)| to(*key as u64 * 77_777_777, &[]) != **was).count();
        assert!(moved <= 10, "{moved} keys of those that stayed have moved");
    }

    #[test]
    fn one_that_is_new_comes_to_its_share_slowly() {
        for algorithm in [Algorithm::RoundRobin, Algorithm::PeakEwma] {
            let (endpoints, backend) = (Endpoints::default(), Backend::new("b".into()));
            let balancer = balancer(algorithm.clone(), Some(10), None);
            let start = Instant::now();
            serve(&backend, &endpoints, 1..=2);
            let [_, one, two, ..] = shares(&balancer, &backend, 3_000, start);
            assert!(one > 1_000 && two > 1_000, "{algorithm:?}: at the start none is new ({one}, {two})");
            serve(&backend, &endpoints, 1..=3);
            let new = |seconds| shares(&balancer, &backend, 3_000, start + Duration::from_secs(seconds))[3];
            let (first, last) = (new(0), new(11));
            assert!(first < 300 && last > 800, "{algorithm:?}: {first}, then {last} of 3,000");
        }
    }

    #[test]
    fn what_one_is_spared_is_shared_by_all_the_others() {
        let (endpoints, backend) = (Endpoints::default(), Backend::new("b".into()));
        let balancer = balancer(Algorithm::RoundRobin, Some(10), None);
        let start = Instant::now();
        serve(&backend, &endpoints, 1..=3);
        shares(&balancer, &backend, 1, start);
        serve(&backend, &endpoints, 1..=4);
        let [_, others @ .., new] = shares(&balancer, &backend, 3_000, start);
        assert!(new < 300, "{new} of 3,000 go to the new one");
        assert!(others.iter().all(|count| (850..=1_050).contains(count)), "{others:?}");
        // The same holds for one that was tried already.
        let mut counts = [0; 5];
        for _ in 0..300 {
            let ticket = balancer.pick(&backend, &[address(2)], None, start + Duration::from_secs(11));
            counts[usize::from(ticket.expect("an endpoint").endpoint.address.port())] += 1;
        }
        assert_eq!(counts, [0, 100, 0, 100, 100]);
    }

    #[test]
    fn one_that_fails_is_left_alone_for_a_while() {
        let outliers = Outliers {
            consecutive: Some(3),
            failure_percent: None,
            minimum_requests: 10,
            window: Duration::from_secs(10),
            base: Duration::from_secs(30),
            max: Duration::from_secs(300),
            max_percent: 50,
        };
        let (endpoints, backend) = (Endpoints::default(), Backend::new("b".into()));
        serve(&backend, &endpoints, 1..=3);
        let balancer = balancer(Algorithm::PeakEwma, None, Some(outliers));
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        shares(&balancer, &backend, 1, start);
        let fail = |port, now| (0..3).filter(|_| balancer.note(address(port), true, now)).count();
        assert_eq!(fail(2, start), 1);
        let counts = shares(&balancer, &backend, 1_000, at(29));
        assert!(counts[2] == 0 && counts[1] > 200 && counts[3] > 200, "{counts:?}");
        assert_eq!(fail(3, start), 0, "no more than half");
        // Others come and go: it is still known.
        serve(&backend, &endpoints, 1..=4);
        assert_eq!(shares(&balancer, &backend, 1_000, at(29))[2], 0);
        assert!(shares(&balancer, &backend, 1_000, at(31))[2] > 100);
        assert_eq!(fail(2, at(31)), 1);
        assert_eq!(shares(&balancer, &backend, 1_000, at(31 + 59))[2], 0);
    }
}
