//! What the platform counts, as families of metrics. Pure.

use super::edges::Edge;
use proxy::{BUCKETS, Ending, PolicyEvent, Stats};
use telemetry::exposition::{Family, Histogram, Labels};

/// The classes of answers, in the order in which they are counted.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The data plane's metrics.
pub(crate) fn traffic(stats: &Stats, edges: &[Edge]) -> Vec<Family> {
    let mut requests = Family::counter("coracle_requests", "Requests answered, by class of the answer's status.");
    let mut duration =
        Family::histogram("coracle_request_duration_seconds", "Time from a request's head to its answer's head.");
    let mut sent = Family::counter("coracle_request_bytes", "Bytes of request bodies.");
    let mut received = Family::counter("coracle_response_bytes", "Bytes of answers' bodies.");
    for edge in edges {
        for (class, count) in CLASSES.iter().zip(edge.classes).filter(|(_, count)| *count > 0) {
            let mut labels = labels(edge);
            labels.push(("code_class", (*class).to_owned()));
            requests.number(labels, count as f64);
        }
        if edge.requests() > 0 {
            duration.distribution(labels(edge), histogram(edge));
            sent.number(labels(edge), edge.request_bytes as f64);
            received.number(labels(edge), edge.response_bytes as f64);
        }
    }
    let mut policies = Family::counter("coracle_policy_events", "What traffic policies have done.");
    for series in &stats.policies {
        for event in PolicyEvent::ALL {
            let labels = vec![
                ("route", series.rule.to_string()),
                ("backend", series.backend.to_string()),
                ("event", event.word().to_owned()),
            ];
            policies.number(labels, series.count(event) as f64);
        }
    }
    let [opened, closed, open_time, bytes_in, bytes_out] = sessions(edges);
    let mut refused = Family::counter(
        "coracle_access_refusals",
        "What access policies have refused, by policy and reason; at the door, by listener.",
    );
    for refusals in &stats.refusals {
        let labels = vec![("policy", refusals.policy.to_string()), ("reason", refusals.reason.to_owned())];
        refused.number(labels, refusals.count as f64);
    }
    let help = "Connections refused because of who is at their other end, by end and reason.";
    let mut rejected = Family::counter("coracle_connection_refusals", help);
    for proxy::Rejected { end, reason, count } in &stats.rejections {
        let labels = vec![("end", end.word().to_owned()), ("reason", reason.word().to_owned())];
        rejected.number(labels, *count as f64);
    }
    let open = Family::gauge("coracle_connections", "Client connections that are open.");
    let parked = Family::gauge(
        "coracle_connections_parked",
        "Those of them that have asked and wait, of which no more is kept than their sockets.",
    );
    let under_way = Family::gauge("coracle_requests_in_flight", "Requests and tunnels under way.");
    vec![
        requests,
        duration,
        sent,
        received,
        policies,
        refused,
        rejected,
        opened,
        closed,
        open_time,
        bytes_in,
        bytes_out,
        open.with(stats.connections as f64),
        parked.with(stats.parked as f64),
        under_way.with(stats.in_flight as f64),
    ]
}

/// Connections that are carried as bytes.
fn sessions(edges: &[Edge]) -> [Family; 5] {
    let mut opened = Family::counter("coracle_tcp_sessions_opened", "Connections carried as bytes that were opened.");
    let mut closed =
        Family::counter("coracle_tcp_sessions_closed", "Those that have ended, by who or what ended them.");
    let mut open_time = Family::counter("coracle_tcp_session_seconds", "How long those that have ended were open.");
    let mut bytes_in = Family::counter("coracle_tcp_sent_bytes", "Bytes from clients in such connections.");
    let mut bytes_out = Family::counter("coracle_tcp_received_bytes", "Bytes to clients in such connections.");
    for edge in edges.iter().filter(|edge| edge.opened > 0) {
        opened.number(labels(edge), edge.opened as f64);
        for (ending, count) in Ending::ALL.iter().zip(edge.closed).filter(|(_, count)| *count > 0) {
            let mut labels = labels(edge);
            labels.push(("reason", ending.word().to_owned()));
            closed.number(labels, count as f64);
        }
        open_time.number(labels(edge), edge.open_time as f64 / 1e6);
        bytes_in.number(labels(edge), edge.sent as f64);
        bytes_out.number(labels(edge), edge.received as f64);
    }
    [opened, closed, open_time, bytes_in, bytes_out]
}

fn labels(edge: &Edge) -> Labels {
    vec![
        ("source", edge.source.clone()),
        ("destination", edge.destination.clone()),
        ("route", edge.route.clone()),
        ("backend", edge.backend.clone()),
    ]
}

fn histogram(edge: &Edge) -> Histogram {
    let seconds = |micros: u64| micros as f64 / 1e6;
    Histogram {
        buckets: BUCKETS.iter().zip(edge.latency).map(|(limit, count)| (seconds(*limit), count)).collect(),
        above: edge.latency[BUCKETS.len()],
        sum: seconds(edge.latency_sum),
    }
}

/// The API server's metrics.
pub(crate) fn api(load: apiserver::Load) -> Vec<Family> {
    let requests = Family::gauge("coracle_api_requests_in_flight", "API requests under way, without watches and logs.");
    let streams = Family::gauge("coracle_api_streams", "Watches and log streams under way.");
    let revision = Family::counter("coracle_store_revision", "Writes that the store has acknowledged.");
    vec![requests.with(load.requests as f64), streams.with(load.streams as f64), revision.with(load.revision as f64)]
}

/// How certificates are.
pub(crate) fn identities(gauges: Vec<mesh::identity::Gauge>) -> Vec<Family> {
    let family = |gauge: mesh::identity::Gauge| {
        let mut family = match gauge.counter {
            true => Family::counter(gauge.name, gauge.help),
            false => Family::gauge(gauge.name, gauge.help),
        };
        for (class, value) in gauge.values {
            family.number(class.map(|class| ("class", class.to_owned())).into_iter().collect(), value);
        }
        family
    };
    gauges.into_iter().map(family).collect()
}

/// What has become of records of requests.
pub(crate) fn records(counts: telemetry::Counts) -> Vec<Family> {
    let taken = Family::counter("coracle_records", "Requests recorded for the access log and traces.");
    let dropped = Family::counter("coracle_records_dropped", "Records dropped because too many waited.");
    let lost = Family::counter("coracle_access_log_lines_lost", "Lines of the access log that could not be written.");
    let exported = Family::counter("coracle_spans_exported", "Spans that the collector has taken.");
    let unsent = Family::counter("coracle_spans_dropped", "Spans that the collector did not take in time.");
    vec![
        taken.with(counts.records as f64),
        dropped.with(counts.dropped as f64),
        lost.with(counts.lines_lost as f64),
        exported.with(counts.exported as f64),
        unsent.with(counts.export_dropped as f64),
    ]
}

/// How many objects are not as they were brought, for each application and applied set.
pub(crate) fn drift(board: &delivery::drift::board::Board) -> Family {
    let help = "Objects that are no longer as they were applied, by application or applied set.";
    let mut objects = Family::gauge("coracle_drifted_objects", help);
    for (subject, count) in board.all() {
        let labels = vec![("kind", subject.kind.to_owned()), ("namespace", subject.namespace), ("name", subject.name)];
        objects.number(labels, count as f64);
    }
    objects
}

/// Which build this is.
pub(crate) fn build() -> Family {
    let mut info = Family::gauge("coracle_build_info", "Always 1; the version is a label.");
    info.number(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1.0);
    info
}

#[cfg(test)]
mod tests {
    use super::*;
    use telemetry::exposition::{Format, render};

    #[test]
    fn an_edge_is_told_with_its_classes_times_and_sizes() {
        let mut edge = Edge {
            source: "shop/web".into(),
            destination: "shop/orders".into(),
            route: "shop/r/0".into(),
            backend: "shop/orders:80".into(),
            latency_sum: 1_500_000,
            request_bytes: 7,
            response_bytes: 8,
            ..Edge::default()
        };
        (edge.classes[1], edge.classes[4], edge.latency[0], edge.latency[15]) = (2, 1, 2, 1);
        let text = render(
            &traffic(&Stats { connections: 4, parked: 3, in_flight: 5, ..Stats::default() }, &[edge]),
            Format::Prometheus,
        );
        let who = r#"source="shop/web",destination="shop/orders",route="shop/r/0",backend="shop/orders:80""#;
        for line in [
            format!("coracle_requests_total{{{who},code_class=\"2xx\"}} 2\n"),
            format!("coracle_requests_total{{{who},code_class=\"5xx\"}} 1\n"),
            format!("coracle_request_duration_seconds_bucket{{{who},le=\"0.0001\"}} 2\n"),
            format!("coracle_request_duration_seconds_bucket{{{who},le=\"+Inf\"}} 3\n"),
            format!("coracle_request_duration_seconds_sum{{{who}}} 1.5\n"),
            format!("coracle_request_bytes_total{{{who}}} 7\n"),
            format!("coracle_response_bytes_total{{{who}}} 8\n"),
            "coracle_connections 4\n".to_owned(),
            "coracle_connections_parked 3\n".to_owned(),
            "coracle_requests_in_flight 5\n".to_owned(),
        ] {
            assert!(text.contains(&line), "{text}\nlacks {line}");
        }
        assert!(!text.contains("4xx"), "what has not happened takes no series");
        assert!(!text.contains("coracle_tcp_sessions_opened_total{"), "{text}");
    }

    #[test]
    fn connections_and_refusals_are_told_by_reason() {
        let edge = Edge { opened: 3, closed: [2, 0, 0, 0, 1], open_time: 2_500_000, sent: 5, ..Edge::default() };
        let refusals = proxy::access::Refusals { policy: "shop/closed".into(), reason: "access_denied", count: 4 };
        let rejected = proxy::Rejected { end: proxy::End::Client, reason: proxy::Rejection::OtherKey, count: 6 };
        let stats = Stats { refusals: vec![refusals], rejections: vec![rejected], ..Stats::default() };
        let text = render(&traffic(&stats, &[edge]), Format::Prometheus);
        let who = r#"source="",destination="",route="",backend="""#;
        for line in [
            format!("coracle_tcp_sessions_opened_total{{{who}}} 3\n"),
            format!("coracle_tcp_sessions_closed_total{{{who},reason=\"client\"}} 2\n"),
            format!("coracle_tcp_sessions_closed_total{{{who},reason=\"unreached\"}} 1\n"),
            format!("coracle_tcp_session_seconds_total{{{who}}} 2.5\n"),
            format!("coracle_tcp_sent_bytes_total{{{who}}} 5\n"),
            "coracle_access_refusals_total{policy=\"shop/closed\",reason=\"access_denied\"} 4\n".to_owned(),
            "coracle_connection_refusals_total{end=\"client\",reason=\"other_key\"} 6\n".to_owned(),
        ] {
            assert!(text.contains(&line), "{text}\nlacks {line}");
        }
        assert!(!text.contains("coracle_requests_total{"), "{text}");
    }
}
