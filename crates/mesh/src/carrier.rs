//! GRPCRoutes and TLSRoutes in the form of HTTPRoutes, so that one compiler and one writer serve them all.
//!
//! The kinds differ in what they match on and are alike in all else: parents, hostnames, filters, backends, status. A
//! gRPC call is a request to `/SERVICE/METHOD`; a TLSRoute has no matches at all.
//!
//! Invariants: nothing is lost on the way but what the other kind has no word for; what a match says that no path can
//! be is kept in the path, so that the compiler refuses it by name.

use resources::gateway::gateways::Gateway;
use resources::gateway::grpcroutes::GrpcRoute;
use resources::gateway::httproutes::HttpRoute;
use resources::gateway::listenersets::ListenerSet;
use resources::gateway::tlsroutes::TlsRoute;
use serde::Serialize;
use serde_json::{Value, json};

/// One segment of a path, as an expression.
const SEGMENT: &str = "[^/]+";

/// A GRPCRoute as an HTTPRoute.
///
/// # Errors
///
/// Where one has something that the other can't have.
pub(crate) fn grpc(route: &GrpcRoute) -> Result<HttpRoute, serde_json::Error> {
    carried(route, |matches| {
        let method = matches.as_object_mut().and_then(|matches| matches.remove("method"));
        if let Some(method) = method {
            matches["path"] = path(&method);
        }
    })
}

/// A TLSRoute as an HTTPRoute.
///
/// # Errors
///
/// Where one has something that the other can't have.
pub(crate) fn tls(route: &TlsRoute) -> Result<HttpRoute, serde_json::Error> {
    carried(route, |_| {})
}

/// The listeners of a ListenerSet as those of a Gateway, which has what else they need from `parent`.
///
/// # Errors
///
/// Where one has something that the other can't have.
pub(crate) fn listener_set(set: &ListenerSet, parent: &Gateway) -> Result<Gateway, serde_json::Error> {
    let listeners = serde_json::from_value(serde_json::to_value(&set.spec.listeners)?)?;
    let mut gateway = Gateway { metadata: set.metadata.clone(), ..Gateway::default() };
    gateway.spec.gateway_class_name.clone_from(&parent.spec.gateway_class_name);
    gateway.spec.tls.clone_from(&parent.spec.tls);
    gateway.spec.listeners = listeners;
    Ok(gateway)
}

fn carried<K: Serialize>(route: &K, change: impl Fn(&mut Value)) -> Result<HttpRoute, serde_json::Error> {
    let mut route = serde_json::to_value(route)?;
    route["kind"] = json!("HTTPRoute");
    let rules = route.pointer_mut("/spec/rules").and_then(Value::as_array_mut);
    for rule in rules.into_iter().flatten() {
        rule.get_mut("matches").and_then(Value::as_array_mut).into_iter().flatten().for_each(&change);
    }
    serde_json::from_value(route)
}

/// The path of the calls that a match means.
fn path(method: &Value) -> Value {
    let part = |name: &str| method[name].as_str().filter(|part| !part.is_empty());
    let (service, call) = (part("service"), part("method"));
    if method["type"].as_str() == Some("RegularExpression") {
        let part = |part: Option<&str>| part.map_or_else(|| SEGMENT.to_owned(), |part| format!("(?:{part})"));
        return json!({"type": "RegularExpression", "value": format!("/{}/{}", part(service), part(call))});
    }
    match (service, call) {
        (Some(service), Some(call)) => json!({"type": "Exact", "value": format!("/{service}/{call}")}),
        (Some(service), None) => json!({"type": "PathPrefix", "value": format!("/{service}")}),
        (None, Some(call)) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let escaped: String =
                call.chars().flat_map(|c| (!plain(c)).then_some('\\').into_iter().chain([c])).collect();
            json!({"type": "RegularExpression", "value": format!("/{SEGMENT}/{escaped}")})
        }
        (None, None) => json!({"type": "PathPrefix", "value": "/"}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_paths() {
        for (method, kind, value) in [
            (json!({"service": "a.B", "method": "C"}), "Exact", "/a.B/C"),
            (json!({"service": "a.B", "type": "Exact"}), "PathPrefix", "/a.B"),
            (json!({"method": "C_d"}), "RegularExpression", "/[^/]+/C_d"),
            (json!({"method": "C.d"}), "RegularExpression", "/[^/]+/C\\.d"),
            (json!({"service": "a|b", "type": "RegularExpression"}), "RegularExpression", "/(?:a|b)/[^/]+"),
            (json!({}), "PathPrefix", "/"),
        ] {
            assert_eq!(path(&method), json!({"type": kind, "value": value}), "{method}");
        }
    }
}
