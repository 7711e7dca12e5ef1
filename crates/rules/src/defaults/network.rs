//! Defaults of Services, endpoints and network policies.

use super::fill::{each, set, set_text};
use serde_json::{Value, json};

/// A ClusterIP is not given here: the server allocates it.
pub(super) fn service(obj: &mut Value) {
    set(obj, "spec", json!({}));
    let Some(spec) = obj.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    set_text(spec, "sessionAffinity", "None");
    set_text(spec, "type", "ClusterIP");
    if spec["sessionAffinity"] == "ClientIP" {
        set(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
    }
    each(spec, "/ports", |port| {
        set_text(port, "protocol", "TCP");
        let number = port["port"].clone();
        let absent = match &port["targetPort"] {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            other => *other == 0,
        };
        if absent && !number.is_null() {
            port["targetPort"] = number;
        }
    });
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    let outside = spec["externalIPs"].as_array().is_some_and(|all| !all.is_empty());
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && outside) {
        set_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        set(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", true);
    }
}

pub(super) fn endpoints(obj: &mut Value) {
    each(obj, "/subsets", |subset| each(subset, "/ports", |port| set_text(port, "protocol", "TCP")));
}

pub(super) fn endpoint_slice(obj: &mut Value) {
    each(obj, "/ports", |port| {
        set(port, "name", "");
        set(port, "protocol", "TCP");
    });
}

pub(super) fn policy(obj: &mut Value) {
    let Some(spec) = obj.get_mut("spec") else { return };
    let has_egress = spec["egress"].as_array().is_some_and(|all| !all.is_empty());
    let types = if has_egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    set(spec, "policyTypes", types);
    for rules in ["/ingress", "/egress"] {
        each(spec, rules, |rule| each(rule, "/ports", |port| set(port, "protocol", "TCP")));
    }
}
