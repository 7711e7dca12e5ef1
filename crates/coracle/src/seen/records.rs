//! From what the proxy saw of a request to a record of it: names of Kubernetes for the proxy's.

use super::edges::{NONE, destination, source};
use proxy::Exchange;
use std::sync::Arc;
use telemetry::{Missed, Record, ToRecord};

/// What the proxy saw, on its way to becoming a record away from the path of the request.
pub(crate) struct Raw(Box<Exchange>);

/// Takes what the proxy sees, for telemetry.
pub(crate) struct Recorder(pub(crate) telemetry::Handle<Raw>);

impl proxy::Observer for Recorder {
    fn observe(&self, exchange: Box<Exchange>) {
        self.0.give(Raw(exchange));
    }
}

impl ToRecord for Raw {
    fn to_record(self) -> Record {
        let exchange = *self.0;
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let or_none = |name: &Arc<str>| if name.is_empty() { NONE.to_owned() } else { name.to_string() };
        let caller = exchange.caller.as_deref();
        let workload = caller.map_or("", |caller| &caller.workload);
        let authority = exchange.uri.authority().map(|authority| authority.as_str().to_owned());
        let missed = exchange.missed.into_iter().map(|missed| Missed {
            upstream: missed.address.to_string(),
            after: missed.after,
            reason: missed.reason,
        });
        Record {
            time: exchange.began,
            request_id: text(&exchange.id),
            trace_id: format!("{:032x}", exchange.place.trace),
            span_id: format!("{:016x}", exchange.place.span),
            parent_span_id: exchange.place.parent.map(|parent| format!("{parent:016x}")),
            sampled: exchange.place.sampled,
            source: source(workload, &exchange.listener).to_owned(),
            source_id: caller.map(|caller| caller.id.to_string()),
            client: text(&exchange.client),
            destination: destination(&exchange.listener, &exchange.rule, &exchange.backend).to_owned(),
            scheme: exchange.scheme.to_owned(),
            protocol: if exchange.version == http::Version::HTTP_2 { "2" } else { "1.1" }.to_owned(),
            method: exchange.method.to_string(),
            host: authority.or_else(|| exchange.host.as_ref().map(text)).unwrap_or_default(),
            path: exchange.uri.path().to_owned(),
            status: exchange.status.as_u16(),
            grpc_status: exchange.grpc_status,
            reason: exchange.reason.map(str::to_owned),
            listener: exchange.listener.to_string(),
            route: or_none(&exchange.rule),
            backend: or_none(&exchange.backend),
            upstream: exchange.upstream.map(|address| address.to_string()),
            attempts: exchange.attempts,
            missed: missed.collect(),
            duration: exchange.total,
            head: exchange.head,
            upstream_time: exchange.upstream_time,
            request_bytes: exchange.request_bytes,
            response_bytes: exchange.response_bytes,
        }
    }
}
