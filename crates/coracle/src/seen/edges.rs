//! Edges: who called which Service, by which route, with which outcome. Pure.
//!
//! The proxy counts by listener, rule and backend; listeners that stand for the same Service are one edge here.

use proxy::{BUCKETS, Class, Stats};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The source of what comes in by a Gateway from nobody that is known: from outside.
pub(super) const GATEWAY: &str = "gateway";
/// The source of what comes from nobody that is known, inside.
pub(super) const UNKNOWN: &str = "unknown";
/// The destination, route or backend of what had none.
pub(super) const NONE: &str = "none";

/// What one edge has counted since Coracle started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Edge {
    /// The workload that called, as `NAMESPACE/NAME`, or `gateway` or `unknown`.
    pub(crate) source: String,
    /// The Service that was meant, as `NAMESPACE/NAME`.
    pub(crate) destination: String,
    /// The rule.
    pub(crate) route: String,
    /// The Service port it went to.
    pub(crate) backend: String,
    /// Answers of 1xx, 2xx, 3xx, 4xx and 5xx.
    pub(crate) classes: [u64; 5],
    /// Answers by time to their head: as many as each limit of [`BUCKETS`], and those above.
    pub(crate) latency: [u64; 16],
    /// The sum of those times in microseconds.
    pub(crate) latency_sum: u64,
    /// Bytes of request bodies.
    pub(crate) request_bytes: u64,
    /// Bytes of answers' bodies.
    pub(crate) response_bytes: u64,
}

impl Edge {
    pub(crate) fn requests(&self) -> u64 {
        self.classes.iter().sum()
    }

    fn add(&mut self, other: &Self) {
        let pairs = self.classes.iter_mut().chain(&mut self.latency).zip(other.classes.iter().chain(&other.latency));
        pairs.for_each(|(sum, more)| *sum += more);
        self.latency_sum += other.latency_sum;
        self.request_bytes += other.request_bytes;
        self.response_bytes += other.response_bytes;
    }

    /// What was counted since `before`. An edge that has counted less since has begun anew.
    fn since(&self, before: Option<&Self>) -> Self {
        let Some(before) = before.filter(|before| before.requests() <= self.requests()) else { return self.clone() };
        let mut more = self.clone();
        let pairs = more.classes.iter_mut().chain(&mut more.latency).zip(before.classes.iter().chain(&before.latency));
        pairs.for_each(|(now, then)| *now = now.saturating_sub(*then));
        more.latency_sum = more.latency_sum.saturating_sub(before.latency_sum);
        more.request_bytes = more.request_bytes.saturating_sub(before.request_bytes);
        more.response_bytes = more.response_bytes.saturating_sub(before.response_bytes);
        more
    }

    /// The time in milliseconds that this share of the answers took at most, taken evenly within a bucket; none without answers.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let all: u64 = self.latency.iter().sum();
        if all == 0 {
            return None;
        }
        let rank = share * all as f64;
        let (mut below, mut floor) = (0_u64, 0_u64);
        for (count, limit) in self.latency.iter().zip(BUCKETS) {
            if *count > 0 && (below + count) as f64 >= rank {
                let within = ((rank - below as f64) / *count as f64).clamp(0.0, 1.0);
                return Some((floor as f64 + within * (limit - floor) as f64) / 1_000.0);
            }
            below += count;
            floor = limit;
        }
        Some(floor as f64 / 1_000.0)
    }
}

/// What a caller is called, by its workload and the listener that it came in by.
pub(super) fn source<'a>(workload: &'a str, listener: &str) -> &'a str {
    match workload {
        "" if mesh::is_gateway(listener) => GATEWAY,
        "" => UNKNOWN,
        workload => workload,
    }
}

/// The edges that the proxy has counted, in order.
pub(crate) fn of(stats: &Stats) -> Vec<Edge> {
    let mut edges: BTreeMap<[String; 4], Edge> = BTreeMap::new();
    for series in &stats.series {
        let source = source(&series.source, &series.listener);
        let or_none = |name: &str| if name.is_empty() { NONE.to_owned() } else { name.to_owned() };
        let destination = match &*series.listener {
            "*" => "*",
            listener => mesh::destination(listener, &series.backend).unwrap_or(NONE),
        };
        let names = [source.to_owned(), destination.to_owned(), or_none(&series.rule), or_none(&series.backend)];
        let more = Edge {
            classes: series.classes,
            latency: series.latency,
            latency_sum: series.latency_sum,
            request_bytes: series.request_bytes,
            response_bytes: series.response_bytes,
            ..Edge::default()
        };
        edges.entry(names).or_default().add(&more);
    }
    let named = |([source, destination, route, backend], edge): ([String; 4], Edge)| Edge {
        source,
        destination,
        route,
        backend,
        ..edge
    };
    edges.into_iter().map(named).collect()
}

/// What happened on an edge between two looks.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Window {
    pub(crate) source: String,
    pub(crate) destination: String,
    /// Only where edges are told apart by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) route: Option<String>,
    /// Answers in the window.
    pub(crate) requests: u64,
    /// Answers a second.
    pub(crate) rate: f64,
    /// The share of answers of 5xx, 0 to 1.
    pub(crate) errors: f64,
    /// The share of answers of 4xx, 0 to 1.
    pub(crate) refused: f64,
    /// Milliseconds to the head of the answer that half of them took at most.
    pub(crate) p50_ms: Option<f64>,
    /// The same for 99 of 100.
    pub(crate) p99_ms: Option<f64>,
    /// Bytes a second of request bodies.
    pub(crate) request_bytes_rate: f64,
    /// Bytes a second of answers' bodies.
    pub(crate) response_bytes_rate: f64,
}

/// What happened between two looks that are so many seconds apart, busiest first. Idle edges are left out.
pub(crate) fn windows(before: &[Edge], now: &[Edge], seconds: f64, by_route: bool) -> Vec<Window> {
    let key = |edge: &Edge| [&edge.source, &edge.destination, &edge.route, &edge.backend].map(String::clone);
    let earlier: BTreeMap<[String; 4], &Edge> = before.iter().map(|edge| (key(edge), edge)).collect();
    let mut sums: BTreeMap<(String, String, Option<String>), Edge> = BTreeMap::new();
    for edge in now {
        let more = edge.since(earlier.get(&key(edge)).copied());
        let route = by_route.then(|| edge.route.clone());
        sums.entry((edge.source.clone(), edge.destination.clone(), route)).or_default().add(&more);
    }
    let busy = sums.into_iter().filter(|(_, edge)| edge.requests() > 0);
    let mut all: Vec<Window> = busy.map(|(names, edge)| window(names, &edge, seconds)).collect();
    all.sort_by_key(|window| std::cmp::Reverse(window.requests));
    all
}

fn window((source, destination, route): (String, String, Option<String>), edge: &Edge, seconds: f64) -> Window {
    let requests = edge.requests();
    let share = |class: Class| edge.classes[class as usize] as f64 / requests as f64;
    let rate = |count: u64| count as f64 / seconds.max(0.001);
    Window {
        source,
        destination,
        route,
        requests,
        rate: rate(requests),
        errors: share(Class::ServerError),
        refused: share(Class::ClientError),
        p50_ms: edge.quantile(0.5),
        p99_ms: edge.quantile(0.99),
        request_bytes_rate: rate(edge.request_bytes),
        response_bytes_rate: rate(edge.response_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy::Series;

    fn series(names: [&str; 4], ok: u64, failed: u64) -> Series {
        let [source, listener, rule, backend] = names.map(Into::into);
        let mut latency = [0; 16];
        latency[3] = ok + failed;
        Series { source, listener, rule, backend, classes: [0, ok, 0, 0, failed], latency, ..Series::default() }
    }

    fn stats(all: &[([&str; 4], u64, u64)]) -> Stats {
        let series = all.iter().map(|(names, ok, failed)| series(*names, *ok, *failed)).collect();
        Stats { series, ..Stats::default() }
    }

    #[test]
    fn listeners_of_one_service_are_one_edge_and_strangers_have_a_name() {
        let edges = of(&stats(&[
            (["shop/web", "service/shop/orders:80", "shop/orders:80", "shop/orders:80"], 2, 0),
            (["shop/web", "service/shop/orders:80/ipv6", "shop/orders:80", "shop/orders:80"], 3, 1),
            (["", "service/shop/orders:80", "shop/orders:80", "shop/orders:80"], 1, 0),
            (["", "gateway/8080", "shop/r/0", "shop/web:80"], 1, 0),
            (["", "gateway/8080", "", ""], 1, 0),
            (["*", "*", "*", "*"], 1, 0),
        ]));
        let shown: Vec<String> = edges
            .iter()
            .map(|edge| format!("{} {} {} {}", edge.source, edge.destination, edge.route, edge.requests()))
            .collect();
        let expected = [
            "* * * 1",
            "gateway none none 1",
            "gateway shop/web shop/r/0 1",
            "shop/web shop/orders shop/orders:80 6",
            "unknown shop/orders shop/orders:80 1",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_window_has_what_happened_in_it_alone() {
        let names = ["shop/web", "service/shop/orders:80", "r", "shop/orders:80"];
        let other = ["shop/web", "service/shop/orders:80", "s", "shop/orders:80"];
        let idle = ["shop/web", "service/shop/idle:80", "r", "shop/idle:80"];
        let before = of(&stats(&[(names, 10, 10), (idle, 5, 0)]));
        let now = of(&stats(&[(names, 16, 12), (other, 2, 0), (idle, 5, 0)]));
        let seen = windows(&before, &now, 2.0, false);
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!((seen[0].requests, seen[0].rate, seen[0].errors), (10, 5.0, 0.2));
        assert_eq!(windows(&before, &now, 2.0, true).len(), 2);
        let again = of(&stats(&[(names, 3, 0)]));
        assert_eq!(windows(&before, &again, 1.0, false)[0].requests, 3, "counted anew after a restart");
    }

    #[test]
    fn quantiles_lie_in_their_bucket() {
        let mut edge = Edge::default();
        assert_eq!(edge.quantile(0.5), None);
        edge.latency[3] = 100;
        // Between 0.5 and 1 ms.
        assert_eq!(edge.quantile(0.5), Some(0.75));
        edge.latency[15] = 100;
        assert_eq!(edge.quantile(0.99), Some(30_000.0), "at least that");
        edge.latency = [0; 16];
        edge.latency[0] = 1;
        assert_eq!(edge.quantile(1.0), Some(0.1));
    }
}
