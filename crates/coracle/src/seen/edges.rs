//! Edges: who called which Service, by which route, with which outcome. Pure.
//!
//! The proxy counts by listener, rule and backend; listeners that stand for the same Service are one edge here.

use proxy::{BUCKETS, Class, Ending, Stats};
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
    /// Connections that were carried as bytes.
    #[serde(default)]
    pub(crate) opened: u64,
    /// Those of them that have ended, by [`Ending`].
    #[serde(default)]
    pub(crate) closed: [u64; Ending::ALL.len()],
    /// How long those were open together, in microseconds.
    #[serde(default)]
    pub(crate) open_time: u64,
    /// Bytes from their clients, as they pass.
    #[serde(default)]
    pub(crate) sent: u64,
    /// Bytes to their clients.
    #[serde(default)]
    pub(crate) received: u64,
}

impl Edge {
    /// How many connections are open now.
    pub(crate) fn open(&self) -> u64 {
        self.opened.saturating_sub(self.closed.iter().sum())
    }

    pub(crate) fn requests(&self) -> u64 {
        self.classes.iter().sum()
    }

    fn add(&mut self, other: &Self) {
        let pairs = self.classes.iter_mut().chain(&mut self.latency).zip(other.classes.iter().chain(&other.latency));
        pairs.for_each(|(sum, more)| *sum += more);
        self.closed.iter_mut().zip(other.closed).for_each(|(sum, more)| *sum += more);
        self.opened += other.opened;
        self.open_time += other.open_time;
        self.sent += other.sent;
        self.received += other.received;
        self.latency_sum += other.latency_sum;
        self.request_bytes += other.request_bytes;
        self.response_bytes += other.response_bytes;
    }

    /// What was counted since `before`. An edge that has counted less since has begun anew.
    fn since(&self, before: Option<&Self>) -> Self {
        let grown = |before: &&Self| before.requests() <= self.requests() && before.opened <= self.opened;
        let Some(before) = before.filter(grown) else { return self.clone() };
        let mut more = self.clone();
        let pairs = more.classes.iter_mut().chain(&mut more.latency).zip(before.classes.iter().chain(&before.latency));
        pairs.for_each(|(now, then)| *now = now.saturating_sub(*then));
        more.closed.iter_mut().zip(before.closed).for_each(|(now, then)| *now = now.saturating_sub(then));
        more.opened -= before.opened;
        more.open_time = more.open_time.saturating_sub(before.open_time);
        more.sent = more.sent.saturating_sub(before.sent);
        more.received = more.received.saturating_sub(before.received);
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

/// What was meant: a Service, or a host outside.
pub(super) fn destination<'a>(listener: &'a str, rule: &'a str, backend: &'a str) -> &'a str {
    match listener {
        "*" => "*",
        egress if mesh::is_egress(egress) && !rule.is_empty() => rule,
        listener => mesh::destination(listener, backend).unwrap_or(NONE),
    }
}

/// The edges that the proxy has counted, in order.
pub(crate) fn of(stats: &Stats) -> Vec<Edge> {
    let mut edges: BTreeMap<[String; 4], Edge> = BTreeMap::new();
    for series in &stats.series {
        let source = source(&series.source, &series.listener);
        let or_none = |name: &str| if name.is_empty() { NONE.to_owned() } else { name.to_owned() };
        let destination = destination(&series.listener, &series.rule, &series.backend);
        let names = [source.to_owned(), destination.to_owned(), or_none(&series.rule), or_none(&series.backend)];
        let more = Edge {
            classes: series.classes,
            latency: series.latency,
            latency_sum: series.latency_sum,
            request_bytes: series.request_bytes,
            response_bytes: series.response_bytes,
            opened: series.sessions.opened,
            closed: series.sessions.closed,
            open_time: series.sessions.duration,
            sent: series.sessions.sent,
            received: series.sessions.received,
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
    /// Connections carried as bytes that were opened in the window.
    pub(crate) connections: u64,
    /// Those that are open now.
    pub(crate) open: u64,
}

/// What happened between two looks that are so many seconds apart, busiest first. Idle edges are left out.
pub(crate) fn windows(before: &[Edge], now: &[Edge], seconds: f64, by_route: bool) -> Vec<Window> {
    let key = |edge: &Edge| [&edge.source, &edge.destination, &edge.route, &edge.backend].map(String::clone);
    let earlier: BTreeMap<[String; 4], &Edge> = before.iter().map(|edge| (key(edge), edge)).collect();
    let mut sums: BTreeMap<(String, String, Option<String>), Edge> = BTreeMap::new();
    let mut open: BTreeMap<(String, String, Option<String>), u64> = BTreeMap::new();
    for edge in now {
        let more = edge.since(earlier.get(&key(edge)).copied());
        let route = by_route.then(|| edge.route.clone());
        let names = (edge.source.clone(), edge.destination.clone(), route);
        *open.entry(names.clone()).or_default() += edge.open();
        sums.entry(names).or_default().add(&more);
    }
    let all = sums.into_iter().map(|(names, edge)| {
        let open = open.get(&names).copied().unwrap_or_default();
        Window { open, ..window(names, &edge, seconds) }
    });
    let mut all: Vec<Window> =
        all.filter(|window| window.requests > 0 || window.connections > 0 || window.open > 0).collect();
    all.sort_by_key(|window| std::cmp::Reverse((window.requests, window.connections, window.open)));
    all
}

fn window((source, destination, route): (String, String, Option<String>), edge: &Edge, seconds: f64) -> Window {
    let requests = edge.requests();
    // A connection that reached nobody, or broke, is an error as well.
    let failed = |ending: Ending| edge.closed[ending as usize];
    let all = (requests + edge.opened).max(1) as f64;
    let errors = edge.classes[Class::ServerError as usize] + failed(Ending::Unreached) + failed(Ending::Broken);
    let rate = |count: u64| count as f64 / seconds.max(0.001);
    Window {
        source,
        destination,
        route,
        requests,
        rate: rate(requests),
        errors: errors as f64 / all,
        refused: edge.classes[Class::ClientError as usize] as f64 / all,
        p50_ms: edge.quantile(0.5),
        p99_ms: edge.quantile(0.99),
        request_bytes_rate: rate(edge.request_bytes + edge.sent),
        response_bytes_rate: rate(edge.response_bytes + edge.received),
        connections: edge.opened,
        open: 0,
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
    fn connections_and_ways_out_are_edges() {
        let sessions = proxy::Sessions { opened: 4, closed: [1, 0, 0, 0, 1], duration: 9, sent: 10, received: 20 };
        let series = |listener: &str, rule: &str, backend: &str| Series {
            source: "shop/web".into(),
            listener: listener.into(),
            rule: rule.into(),
            backend: backend.into(),
            sessions,
            ..Series::default()
        };
        let all = vec![
            series("service/shop/db:5432", "shop/db:5432", "shop/db:5432"),
            series("egress/kube-system/egress", "api.stripe.com", ""),
        ];
        let edges = of(&Stats { series: all, ..Stats::default() });
        let seen = windows(&[], &edges, 2.0, false);
        let shown: Vec<_> = seen.iter().map(|w| (w.destination.as_str(), w.connections, w.open, w.errors)).collect();
        assert_eq!(shown, [("api.stripe.com", 4, 2, 0.25), ("shop/db", 4, 2, 0.25)]);
        assert_eq!((seen[0].request_bytes_rate, seen[0].response_bytes_rate), (5.0, 10.0));
        // Nothing new, but something open: it is shown.
        let idle = windows(&edges, &edges, 1.0, false);
        assert_eq!((idle.len(), idle[0].connections, idle[0].open), (2, 0, 2));
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
