//! Counters: requests, answers by class and latency by listener, rule and backend.
//!
//! Invariants: counting takes no lock and no allocation; the number of series is bounded, requests beyond it are counted in one
//! series whose names are `*`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

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

/// What was counted for one listener, rule and backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
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
}

/// Everything counted so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Client connections open now.
    pub connections: usize,
    /// Requests and tunnels under way now.
    pub in_flight: usize,
    /// By listener, rule and backend; those without any request are left out.
    pub series: Vec<Series>,
}

/// The live counters of one series.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    classes: [AtomicU64; 5],
    latency: [AtomicU64; 16],
    latency_sum: AtomicU64,
}

impl Counter {
    pub(crate) fn record(&self, status: http::StatusCode, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|limit| *limit < micros);
        self.classes[Class::index(status)].fetch_add(1, Ordering::Relaxed);
        self.latency[bucket].fetch_add(1, Ordering::Relaxed);
        self.latency_sum.fetch_add(micros, Ordering::Relaxed);
    }
}

type Key = (Arc<str>, Arc<str>, Arc<str>);

/// All series there are. Kept across snapshots, so that counts only grow.
#[derive(Debug)]
pub(crate) struct Registry {
    limit: usize,
    series: Mutex<HashMap<Key, Arc<Counter>>>,
}

impl Registry {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, series: Mutex::new(HashMap::new()) }
    }

    /// The counters of a series; those that all share where there are too many.
    pub(crate) fn counter(&self, listener: &Arc<str>, rule: &Arc<str>, backend: &Arc<str>) -> Arc<Counter> {
        let mut series = self.series.lock();
        let key = (listener.clone(), rule.clone(), backend.clone());
        if let Some(counter) = series.get(&key) {
            return counter.clone();
        }
        let key = if series.len() < self.limit { key } else { ("*".into(), "*".into(), "*".into()) };
        series.entry(key).or_default().clone()
    }

    pub(crate) fn read(&self) -> Vec<Series> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut all: Vec<Series> = self
            .series
            .lock()
            .iter()
            .map(|((listener, rule, backend), counter)| Series {
                listener: listener.clone(),
                rule: rule.clone(),
                backend: backend.clone(),
                classes: std::array::from_fn(|i| read(&counter.classes[i])),
                latency: std::array::from_fn(|i| read(&counter.latency[i])),
                latency_sum: read(&counter.latency_sum),
            })
            .filter(|series| series.classes.iter().any(|count| *count > 0))
            .collect();
        all.sort_by(|a, b| (&a.listener, &a.rule, &a.backend).cmp(&(&b.listener, &b.rule, &b.backend)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    #[test]
    fn series_are_bounded_and_the_rest_is_counted_together() {
        let registry = Registry::new(1);
        let name = |s: &str| -> Arc<str> { s.into() };
        registry.counter(&name("l"), &name("a"), &name("")).record(StatusCode::OK, Duration::from_micros(90));
        for rule in ["b", "c"] {
            registry
                .counter(&name("l"), &name(rule), &name(""))
                .record(StatusCode::BAD_GATEWAY, Duration::from_secs(90));
        }
        let read = registry.read();
        assert_eq!(read.len(), 2);
        assert_eq!((&*read[0].rule, read[0].classes), ("*", [0, 0, 0, 0, 2]));
        assert_eq!((&*read[1].rule, read[1].classes), ("a", [0, 1, 0, 0, 0]));
        assert_eq!(read[1].latency[0], 1);
        assert_eq!(read[0].latency[15], 2);
    }
}
