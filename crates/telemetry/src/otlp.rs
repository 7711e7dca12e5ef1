//! Records as OTLP's JSON (OTLP 1.x, ExportTraceServiceRequest), with attributes by OpenTelemetry's conventions for HTTP. Pure.
//!
//! A hop is one span of kind server, whose service is the Service that it led to: what the proxy saw of that Service. So a
//! collector draws who depends on whom, though the programs tell nothing.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::record::Record;

/// SPAN_KIND_SERVER
const SERVER: u32 = 2;
/// STATUS_CODE_ERROR
const ERROR: u32 = 2;

/// The request that exports these.
pub(crate) fn request(records: &[Record]) -> Value {
    let mut services: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for record in records {
        services.entry(&record.destination).or_default().push(span(record));
    }
    let resources = services.into_iter().map(|(service, spans)| {
        let (namespace, name) = service.split_once('/').unwrap_or(("", service));
        let mut attributes = vec![text("service.name", name), text("telemetry.sdk.name", "coracle")];
        if !namespace.is_empty() {
            attributes.extend([text("service.namespace", namespace), text("k8s.namespace.name", namespace)]);
        }
        json!({ "resource": { "attributes": attributes }, "scopeSpans": [{
            "scope": { "name": "coracle.proxy", "version": env!("CARGO_PKG_VERSION") }, "spans": spans }] })
    });
    json!({ "resourceSpans": resources.collect::<Vec<_>>() })
}

fn span(record: &Record) -> Value {
    let mut span = json!({
        "traceId": record.trace_id,
        "spanId": record.span_id,
        "name": format!("{} {}", record.method, record.destination),
        "kind": SERVER,
        "startTimeUnixNano": nanoseconds(record.time),
        "endTimeUnixNano": nanoseconds(record.end()),
        "attributes": attributes(record),
        // W3C's flag of being sampled.
        "flags": u32::from(record.sampled),
    });
    if let Some(parent) = &record.parent_span_id {
        span["parentSpanId"] = parent.as_str().into();
    }
    let events = record.missed.iter().map(|missed| {
        json!({ "name": "coracle.upstream.missed", "timeUnixNano": nanoseconds(record.time + missed.after),
            "attributes": [text("coracle.upstream.address", &missed.upstream), text("error.message", &missed.reason)] })
    });
    let events: Vec<Value> = events.collect();
    if !events.is_empty() {
        span["events"] = events.into();
    }
    if record.failed() {
        span["status"] = json!({ "code": ERROR, "message": record.reason.clone().unwrap_or_default() });
    }
    span
}

fn attributes(record: &Record) -> Vec<Value> {
    let (host, port) = split_port(&record.host);
    let mut all = vec![
        text("http.request.method", &record.method),
        number("http.response.status_code", record.status.into()),
        text("url.scheme", &record.scheme),
        text("url.path", &record.path),
        text("network.protocol.name", "http"),
        text("network.protocol.version", &record.protocol),
        text("network.peer.address", &record.client),
        text("client.address", &record.client),
        number("http.request.body.size", record.request_bytes),
        number("http.response.body.size", record.response_bytes),
        text("coracle.source", &record.source),
        text("coracle.destination", &record.destination),
        text("coracle.route", &record.route),
        text("coracle.backend", &record.backend),
        text("coracle.request.id", &record.request_id),
    ];
    if !host.is_empty() {
        all.push(text("server.address", host));
    }
    all.extend(port.map(|port| number("server.port", port)));
    all.extend(record.source_id.as_deref().map(|id| text("coracle.source.id", id)));
    all.extend(record.upstream.as_deref().map(|upstream| text("coracle.upstream.address", upstream)));
    all.extend(record.grpc_status.map(|status| number("rpc.grpc.status_code", status.into())));
    if record.attempts > 1 {
        all.push(number("http.request.resend_count", u64::from(record.attempts - 1)));
    }
    if record.failed() {
        let kind = record.reason.clone().unwrap_or_else(|| record.status.to_string());
        all.push(text("error.type", &kind));
    }
    all
}

fn split_port(host: &str) -> (&str, Option<u64>) {
    match host.rsplit_once(':') {
        // A colon inside brackets belongs to an address of IPv6.
        Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()),
        _ => (host, None),
    }
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// 64-bit numbers are strings in protobuf's JSON.
fn number(key: &str, value: u64) -> Value {
    json!({ "key": key, "value": { "intValue": value.to_string() } })
}

fn nanoseconds(time: SystemTime) -> String {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Missed;
    use crate::record::tests::hop;
    use std::time::Duration;

    fn value<'v>(span: &'v Value, key: &str) -> Option<&'v Value> {
        let attributes = span["attributes"].as_array().expect("attributes");
        attributes.iter().find(|attribute| attribute["key"] == key).map(|attribute| &attribute["value"])
    }

    #[test]
    fn a_hop_is_a_span_of_the_service_it_led_to() {
        let good = hop(1, None, ["gateway", "shop/web"], [0, 100]);
        let mut bad = hop(2, Some(1), ["shop/web", "shop/orders"], [10, 90]);
        bad.missed =
            vec![Missed { upstream: "127.0.0.1:1".into(), after: Duration::from_millis(1), reason: "refused".into() }];
        (bad.status, bad.reason, bad.attempts) = (502, Some("connect_failed".into()), 2);
        let request = request(&[good, bad]);
        let resources = request["resourceSpans"].as_array().expect("resources");
        assert_eq!(resources.len(), 2, "{request:#}");
        let orders = &resources[0];
        assert_eq!(orders["resource"]["attributes"][0]["value"]["stringValue"], "orders");
        let span = &orders["scopeSpans"][0]["spans"][0];
        assert_eq!((&span["spanId"], &span["parentSpanId"]), (&json!("0000000000000002"), &json!("0000000000000001")));
        assert_eq!(span["startTimeUnixNano"], "1700000000010000000");
        assert_eq!(span["endTimeUnixNano"], "1700000000090000000");
        assert_eq!((&span["kind"], &span["status"]["code"]), (&json!(2), &json!(2)));
        assert_eq!(value(span, "http.response.status_code"), Some(&json!({ "intValue": "502" })));
        assert_eq!(value(span, "error.type"), Some(&json!({ "stringValue": "connect_failed" })));
        assert_eq!(value(span, "server.address"), Some(&json!({ "stringValue": "orders" })));
        assert_eq!(value(span, "server.port"), Some(&json!({ "intValue": "8080" })));
        assert_eq!(value(span, "http.request.resend_count"), Some(&json!({ "intValue": "1" })));
        assert_eq!(span["events"][0]["timeUnixNano"], "1700000000011000000");
        let web = &resources[1]["scopeSpans"][0]["spans"][0];
        assert!(web.get("parentSpanId").is_none() && web.get("status").is_none() && web.get("events").is_none());
    }

    #[test]
    fn hosts_are_split_from_their_ports() {
        for (host, expected) in
            [("a", ("a", None)), ("a:1", ("a", Some(1))), ("[::1]", ("[::1]", None)), ("[::1]:8", ("[::1]", Some(8)))]
        {
            assert_eq!(split_port(host), expected);
        }
    }
}
