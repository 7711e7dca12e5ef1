//! Counters: requests, answers by class, latency and sizes, by who called, listener, rule and backend.
//!
//! Invariants: counting takes no lock, and no allocation but for the first request of a caller; the number of series is bounded:
//! callers and rules beyond it are counted in series whose names are `*`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::access::Refusals;
use crate::identity::Identity;
use crate::rejection::Rejected;
use crate::session::Ending;
use crate::traffic::PolicySeries;

/// Upper limits of the latency buckets, in microseconds; one more bucket holds what is slower.
pub const BUCKETS: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000,
    30_000_000,
];

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// 1xx, that is an upgrade.
    Informational,
    /// 2xx.
    Success,
    /// 3xx.
    Redirect,
    /// 4xx.
    ClientError,
    /// 5xx, from the backend or the proxy.
    ServerError,
}

impl Class {
    /// All of them, in the order of [`Series::classes`].
    pub const ALL: [Self; 5] =
        [Self::Informational, Self::Success, Self::Redirect, Self::ClientError, Self::ServerError];

    fn index(status: http::StatusCode) -> usize {
        usize::from(status.as_u16() / 100).clamp(1, 5) - 1
    }
}

/// What was counted for one caller, listener, rule and backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series {
    /// The workload that called ([`Identity::workload`]); empty where nobody vouched for one.
    pub source: Arc<str>,
    /// The listener's id.
    pub listener: Arc<str>,
    /// The rule's id; empty where none matched.
    pub rule: Arc<str>,
    /// The backend; empty where the proxy answered by itself.
    pub backend: Arc<str>,
    /// Answers by [`Class`].
    pub classes: [u64; 5],
    /// Answers whose head took as long as [`BUCKETS`] says; not cumulative.
    pub latency: [u64; 16],
    /// The sum of all of those times, in microseconds.
    pub latency_sum: u64,
    /// Bytes in the bodies of requests that have ended.
    pub request_bytes: u64,
    /// Bytes in the bodies of answers that have ended.
    pub response_bytes: u64,
    /// Connections that were carried as bytes.
    pub sessions: Sessions,
}

/// Connections that were carried as bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    /// How many were opened.
    pub opened: u64,
    /// How many have ended, by [`Ending`].
    pub closed: [u64; Ending::ALL.len()],
    /// How long those were open together, in microseconds.
    pub duration: u64,
    /// Bytes from clients, as they pass.
    pub sent: u64,
    /// Bytes to clients.
    pub received: u64,
}

/// Everything counted so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Client connections open now.
    pub connections: usize,
    /// Those of them that have asked, wait, and are kept as no more than their sockets.
    pub parked: usize,
    /// Requests and tunnels under way now.
    pub in_flight: usize,
    /// By caller, listener, rule and backend; those without any request are left out.
    pub series: Vec<Series>,
    /// What policies have done, by rule and backend; those that have done nothing are left out.
    pub policies: Vec<PolicySeries>,
    /// What policies have refused.
    pub refusals: Vec<Refusals>,
    /// Connections that were refused because of who is at their other end; reasons without any are left out.
    pub rejections: Vec<Rejected>,
}

/// The live numbers of one series.
#[derive(Debug, Default)]
pub(crate) struct Edge {
    classes: [AtomicU64; 5],
    latency: [AtomicU64; 16],
    latency_sum: AtomicU64,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    opened: AtomicU64,
    closed: [AtomicU64; Ending::ALL.len()],
    open_time: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Edge {
    /// Counts an answer, whose head took so long.
    pub(crate) fn answered(&self, status: http::StatusCode, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|limit| *limit < micros);
        self.classes[Class::index(status)].fetch_add(1, Ordering::Relaxed);
        self.latency[bucket].fetch_add(1, Ordering::Relaxed);
        self.latency_sum.fetch_add(micros, Ordering::Relaxed);
    }

    /// Counts a connection that is carried as bytes.
    pub(crate) fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts its end, after so long a time.
    pub(crate) fn closed(&self, ending: Ending, after: Duration) {
        self.closed[ending as usize].fetch_add(1, Ordering::Relaxed);
        self.open_time.fetch_add(u64::try_from(after.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Counts bytes that pass in it.
    pub(crate) fn passed(&self, sent: u64, received: u64) {
        for (sum, bytes) in [(&self.sent, sent), (&self.received, received)] {
            if bytes > 0 {
                sum.fetch_add(bytes, Ordering::Relaxed);
            }
        }
    }

    /// Counts what bodies held, once both have ended.
    pub(crate) fn carried(&self, request: u64, response: u64) {
        for (sum, bytes) in [(&self.request_bytes, request), (&self.response_bytes, response)] {
            if bytes > 0 {
                sum.fetch_add(bytes, Ordering::Relaxed);
            }
        }
    }
}

/// The series of one listener, rule and backend, one for each caller.
#[derive(Debug)]
pub(crate) struct Counter {
    pub(crate) listener: Arc<str>,
    pub(crate) rule: Arc<str>,
    pub(crate) backend: Arc<str>,
    /// Of callers that nobody vouched for.
    strangers: Arc<Edge>,
    /// By workload, in order.
    known: ArcSwap<Vec<(Arc<str>, Arc<Edge>)>>,
    /// Of callers that there is no room for.
    late: OnceLock<Arc<Edge>>,
    /// None where all is counted as one.
    room: Option<Arc<Room>>,
}

impl Counter {
    fn new(key: &Key, strangers: Arc<Edge>, room: Option<Arc<Room>>) -> Self {
        let (listener, rule, backend) = key.clone();
        Self { listener, rule, backend, strangers, known: ArcSwap::default(), late: OnceLock::new(), room }
    }

    /// What counts requests of this caller.
    pub(crate) fn edge(&self, caller: Option<&Identity>) -> Arc<Edge> {
        let (Some(caller), Some(room)) = (caller, &self.room) else { return Arc::clone(&self.strangers) };
        let known = self.known.load();
        match (position(&known, &caller.workload), self.late.get()) {
            (Ok(position), _) => Arc::clone(&known[position].1),
            // Room never comes back, so there is no need to look.
            (Err(_), Some(late)) => Arc::clone(late),
            (Err(_), None) => self.learn(&caller.workload, room),
        }
    }

    /// A series for a caller that was not seen here before, or that of all for whom there is no room.
    fn learn(&self, workload: &Arc<str>, room: &Room) -> Arc<Edge> {
        let _one_at_a_time = room.learning.lock();
        let known = self.known.load();
        if let Ok(position) = position(&known, workload) {
            return Arc::clone(&known[position].1);
        }
        if !room.take() {
            return Arc::clone(self.late.get_or_init(Arc::default));
        }
        let edge = Arc::new(Edge::default());
        let mut more = Vec::clone(&known);
        let place = more.partition_point(|(name, _)| name < workload);
        more.insert(place, (Arc::clone(workload), Arc::clone(&edge)));
        self.known.store(Arc::new(more));
        edge
    }

    fn names(&self) -> Key {
        (Arc::clone(&self.listener), Arc::clone(&self.rule), Arc::clone(&self.backend))
    }
}

fn position(known: &[(Arc<str>, Arc<Edge>)], workload: &Arc<str>) -> Result<usize, usize> {
    known.binary_search_by(|(name, _)| name.cmp(workload))
}

type Key = (Arc<str>, Arc<str>, Arc<str>);

/// How many more series there may be.
#[derive(Debug)]
struct Room {
    left: AtomicUsize,
    learning: Mutex<()>,
}

impl Room {
    fn take(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// All series there are. Kept across snapshots, so that counts only grow.
#[derive(Debug)]
pub(crate) struct Registry {
    room: Arc<Room>,
    counters: Mutex<HashMap<Key, Arc<Counter>>>,
    /// Counts for all rules that there is no room for.
    rest: Arc<Edge>,
}

impl Registry {
    pub(crate) fn new(limit: usize) -> Self {
        let room = Room { left: AtomicUsize::new(limit), learning: Mutex::new(()) };
        Self { room: Arc::new(room), counters: Mutex::default(), rest: Arc::default() }
    }

    /// The counter of a listener, rule and backend; where there are too many, one that counts with others.
    pub(crate) fn counter(&self, listener: &Arc<str>, rule: &Arc<str>, backend: &Arc<str>) -> Arc<Counter> {
        let mut counters = self.counters.lock();
        let key = (listener.clone(), rule.clone(), backend.clone());
        if let Some(counter) = counters.get(&key) {
            return counter.clone();
        }
        if !self.room.take() {
            // It has its names all the same, for those who log; it is not kept, as nothing of its own is counted in it.
            return Arc::new(Counter::new(&key, Arc::clone(&self.rest), None));
        }
        let counter = Arc::new(Counter::new(&key, Arc::default(), Some(Arc::clone(&self.room))));
        counters.insert(key, Arc::clone(&counter));
        counter
    }

    pub(crate) fn read(&self) -> Vec<Series> {
        let star: Arc<str> = "*".into();
        let mut all = Vec::new();
        let mut add = |source: &Arc<str>, key: Key, edge: &Edge| {
            let series = series(source, key, edge);
            if series.sessions.opened > 0 || series.classes.iter().any(|count| *count > 0) {
                all.push(series);
            }
        };
        let counters: Vec<Arc<Counter>> = self.counters.lock().values().cloned().collect();
        for counter in counters {
            add(&Arc::default(), counter.names(), &counter.strangers);
            for (source, edge) in counter.known.load().iter() {
                add(source, counter.names(), edge);
            }
            if let Some(late) = counter.late.get() {
                add(&star, counter.names(), late);
            }
        }
        add(&star, (star.clone(), star.clone(), star.clone()), &self.rest);
        all.sort_by(|a, b| {
            (&a.listener, &a.rule, &a.backend, &a.source).cmp(&(&b.listener, &b.rule, &b.backend, &b.source))
        });
        all
    }
}

fn series(source: &Arc<str>, (listener, rule, backend): Key, edge: &Edge) -> Series {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Series {
        source: Arc::clone(source),
        listener,
        rule,
        backend,
        classes: std::array::from_fn(|i| read(&edge.classes[i])),
        latency: std::array::from_fn(|i| read(&edge.latency[i])),
        latency_sum: read(&edge.latency_sum),
        request_bytes: read(&edge.request_bytes),
        response_bytes: read(&edge.response_bytes),
        sessions: Sessions {
            opened: read(&edge.opened),
            closed: std::array::from_fn(|i| read(&edge.closed[i])),
            duration: read(&edge.open_time),
            sent: read(&edge.sent),
            received: read(&edge.received),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    fn name(text: &str) -> Arc<str> {
        text.into()
    }

    fn workload(text: &str) -> Identity {
        Identity { id: name("spiffe://x"), workload: name(text) }
    }

    /// Source, rule and the count of 2xx of every series.
    fn shown(registry: &Registry) -> Vec<(String, String, u64)> {
        let all = registry.read().into_iter();
        all.map(|series| (series.source.to_string(), series.rule.to_string(), series.classes[1])).collect()
    }

    #[test]
    fn series_are_bounded_and_the_rest_is_counted_together() {
        let registry = Registry::new(1);
        let edge = |rule: &str| registry.counter(&name("l"), &name(rule), &name("")).edge(None);
        edge("a").answered(StatusCode::OK, Duration::from_micros(90));
        for rule in ["b", "c"] {
            edge(rule).answered(StatusCode::BAD_GATEWAY, Duration::from_secs(90));
        }
        let read = registry.read();
        assert_eq!(read.len(), 2);
        assert_eq!((&*read[0].rule, read[0].classes), ("*", [0, 0, 0, 0, 2]));
        assert_eq!((&*read[1].rule, read[1].classes), ("a", [0, 1, 0, 0, 0]));
        assert_eq!(read[1].latency[0], 1);
        assert_eq!(read[0].latency[15], 2);
        assert_eq!(read[0].latency_sum, 180_000_000);
    }

    #[test]
    fn each_caller_has_a_series_until_there_is_no_room() {
        let registry = Registry::new(3);
        let counter = registry.counter(&name("l"), &name("r"), &name("b"));
        let took = Duration::from_micros(1);
        counter.edge(None).answered(StatusCode::OK, took);
        for caller in ["shop/web", "shop/api", "shop/web", "shop/late", "shop/later"] {
            counter.edge(Some(&workload(caller))).answered(StatusCode::OK, took);
        }
        let expected = [("", 1), ("*", 2), ("shop/api", 1), ("shop/web", 2)];
        assert_eq!(shown(&registry), expected.map(|(source, count)| (source.into(), "r".into(), count)));
        let late = registry.counter(&name("l"), &name("no room"), &name("b"));
        assert_eq!(&*late.rule, "no room", "logs still have its name");
        late.edge(Some(&workload("shop/web"))).answered(StatusCode::OK, took);
        assert!(shown(&registry).contains(&("*".into(), "*".into(), 1)));
    }

    #[test]
    fn sizes_add_up() {
        let registry = Registry::new(3);
        let edge = registry.counter(&name("l"), &name("r"), &name("b")).edge(None);
        edge.answered(StatusCode::OK, Duration::ZERO);
        edge.carried(10, 0);
        edge.carried(1, 200);
        let read = &registry.read()[0];
        assert_eq!((read.request_bytes, read.response_bytes), (11, 200));
    }
}
