//! Validation: what is wrong with an object, in upstream's words.
//!
//! Invariants: pure; every mistake is reported, not only the first; only kinds that something here acts upon are
//! looked into, the others have their metadata checked alone. Structure (unknown fields, types) is `decode`'s part.
//! Must not know: other objects in the store.

mod access;
mod change;
mod config;
mod container;
mod metadata;
pub(crate) mod names;
mod network;
mod pod;
mod workloads;

#[cfg(test)]
mod tests;

use crate::field::FieldError;
use crate::kinds;
use serde_json::Value;

/// What is wrong with an object about to be created (or with the new state of one), defaults filled in.
pub fn create(api_version: &str, kind: &str, obj: &Value) -> Vec<FieldError> {
    let namespaced = kinds::find(api_version, kind).map_or_else(
        // Custom resources: whether they are in a namespace is checked by who knows their definition.
        || obj.pointer("/metadata/namespace").is_some(),
        |kind| kind.namespaced,
    );
    let mut wrong = metadata::check(obj, namespaced, metadata::name_rule(api_version, kind));
    wrong.extend(content(api_version, kind, obj));
    wrong
}

/// What is wrong with a change of an object, defaults filled in on both sides.
pub fn update(api_version: &str, kind: &str, old: &Value, new: &Value) -> Vec<FieldError> {
    let mut wrong = create(api_version, kind, new);
    wrong.extend(metadata::check_update(old, new));
    wrong.extend(change::check(api_version, kind, old, new));
    wrong
}

/// What is wrong with an object's metadata, whatever its kind.
pub fn metadata(obj: &Value, namespaced: bool) -> Vec<FieldError> {
    metadata::check(obj, namespaced, names::dns_subdomain)
}

fn content(api_version: &str, kind: &str, obj: &Value) -> Vec<FieldError> {
    let mut wrong = Vec::new();
    match (api_version, kind) {
        ("v1", "Pod") => pod::spec(&obj["spec"], "spec", &mut wrong),
        ("v1", "Service") => network::service(obj, &mut wrong),
        ("v1", "Endpoints") => network::endpoints(obj, &mut wrong),
        ("v1", "ConfigMap") => config::config_map(obj, &mut wrong),
        ("v1", "Secret") => config::secret(obj, &mut wrong),
        ("discovery.k8s.io/v1", "EndpointSlice") => network::endpoint_slice(obj, &mut wrong),
        ("apps/v1", "Deployment") => workloads::deployment(obj, &mut wrong),
        ("apps/v1", "ReplicaSet") => workloads::replica_set(obj, &mut wrong),
        ("apps/v1", "StatefulSet" | "DaemonSet") => workloads::set(obj, &mut wrong),
        ("batch/v1", "Job") => workloads::job(obj, &mut wrong),
        ("batch/v1", "CronJob") => workloads::cron_job(obj, &mut wrong),
        ("rbac.authorization.k8s.io/v1", "Role") => access::role(obj, true, &mut wrong),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => access::role(obj, false, &mut wrong),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => access::binding(obj, true, &mut wrong),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => access::binding(obj, false, &mut wrong),
        _ => {}
    }
    wrong
}

/// The text at a pointer; empty when there is none.
fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The items of the list at a pointer.
fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The number at a pointer must not be negative.
fn not_negative(value: &Value, name: &str, path: &str, wrong: &mut Vec<FieldError>) {
    if let Some(number) = value[name].as_i64().filter(|number| *number < 0) {
        wrong.push(FieldError::invalid(format!("{path}.{name}"), number, "must be greater than or equal to 0"));
    }
}

/// A number between 1 and 65535.
fn port_number(value: &Value, path: &str, wrong: &mut Vec<FieldError>) {
    let number = value.as_i64().unwrap_or(0);
    if !(1..=65_535).contains(&number) {
        wrong.push(FieldError::invalid(path, number, "must be between 1 and 65535, inclusive"));
    }
}

/// A port's number, or its name.
fn port_or_name(value: &Value, path: &str, wrong: &mut Vec<FieldError>) {
    match value {
        Value::String(name) => {
            wrong.extend(names::port_name(name).into_iter().map(|why| FieldError::invalid(path, name.as_str(), why)));
        }
        number => port_number(number, path, wrong),
    }
}

fn protocol(value: &Value, path: &str, wrong: &mut Vec<FieldError>) {
    match value.as_str().unwrap_or_default() {
        "TCP" | "UDP" | "SCTP" => {}
        "" => wrong.push(FieldError::required(path, "")),
        other => wrong.push(FieldError::not_supported(path, other, &["SCTP", "TCP", "UDP"])),
    }
}

/// One of the values, or an error that lists them.
fn one_of(value: &Value, path: &str, supported: &[&str], wrong: &mut Vec<FieldError>) {
    if let Some(text) = value.as_str().filter(|text| !supported.contains(text)) {
        wrong.push(FieldError::not_supported(path, text, supported));
    }
}
