//! Columns and rows for `kubectl get`, as upstream prints them.
//!
//! Invariants: a row has exactly as many cells as its kind has columns; nothing fails on a half-filled object.
//! Must not know: HTTP, the `Table` envelope.

mod age;
mod config;
mod custom;
mod jsonpath;
mod network;
mod pod;
mod workloads;

#[cfg(test)]
mod tests;

pub use age::human_duration;
pub use custom::CrdColumns;

use jiff::Timestamp;
use serde_json::{Value, json};

/// One column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its heading; kubectl prints it in upper case.
    pub name: String,
    /// The column's `type`: `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: String,
    /// `name` for the column that names the object, else mostly empty.
    pub format: String,
    /// What the column says.
    pub description: String,
    /// 0 is shown always, more only with `-o wide`.
    pub priority: i32,
}

/// A column of a built-in kind: heading, type, priority.
type Heading = (&'static str, &'static str, i32);

/// How a built-in kind is printed.
struct Printer {
    headings: &'static [Heading],
    cells: fn(&Value, Timestamp) -> Vec<Value>,
}

const STRING: &str = "string";
const INTEGER: &str = "integer";
const AGE: Heading = ("Age", STRING, 0);
const NAME: Heading = ("Name", STRING, 0);

const PLAIN: Printer = Printer {
    headings: &[NAME, ("Created At", "date", 0)],
    cells: |obj, _| vec![name(obj), obj["metadata"]["creationTimestamp"].clone()],
};

fn printer(api_version: &str, kind: &str) -> Printer {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        ("", "Pod") => pod::POD,
        ("apps", "Deployment") => workloads::DEPLOYMENT,
        ("apps", "ReplicaSet") => workloads::REPLICA_SET,
        ("", "ReplicationController") => workloads::REPLICATION_CONTROLLER,
        ("apps", "StatefulSet") => workloads::STATEFUL_SET,
        ("apps", "DaemonSet") => workloads::DAEMON_SET,
        ("apps", "ControllerRevision") => workloads::CONTROLLER_REVISION,
        ("batch", "Job") => workloads::JOB,
        ("batch", "CronJob") => workloads::CRON_JOB,
        ("autoscaling", "HorizontalPodAutoscaler") => workloads::AUTOSCALER,
        ("policy", "PodDisruptionBudget") => workloads::DISRUPTION_BUDGET,
        ("", "Service") => network::SERVICE,
        ("", "Endpoints") => network::ENDPOINTS,
        ("discovery.k8s.io", "EndpointSlice") => network::ENDPOINT_SLICE,
        ("networking.k8s.io", "Ingress") => network::INGRESS,
        ("networking.k8s.io", "IngressClass") => network::INGRESS_CLASS,
        ("networking.k8s.io", "NetworkPolicy") => network::NETWORK_POLICY,
        ("", "Node") => config::NODE,
        ("", "Namespace") => config::NAMESPACE,
        ("" | "events.k8s.io", "Event") => config::EVENT,
        ("", "ConfigMap") => config::CONFIG_MAP,
        ("", "Secret") => config::SECRET,
        ("", "ServiceAccount") => config::SERVICE_ACCOUNT,
        ("coordination.k8s.io", "Lease") => config::LEASE,
        ("", "PersistentVolumeClaim") => config::CLAIM,
        ("", "PersistentVolume") => config::VOLUME,
        ("storage.k8s.io", "StorageClass") => config::STORAGE_CLASS,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => config::BINDING,
        ("", "ResourceQuota") => config::RESOURCE_QUOTA,
        ("node.k8s.io", "RuntimeClass") => config::RUNTIME_CLASS,
        ("scheduling.k8s.io", "PriorityClass") => config::PRIORITY_CLASS,
        _ => PLAIN,
    }
}

/// The columns of a built-in kind.
pub fn columns(api_version: &str, kind: &str) -> Vec<Column> {
    printer(api_version, kind).headings.iter().map(|heading| column(*heading)).collect()
}

/// The cells of one object, in the order of [`columns`].
pub fn row(api_version: &str, kind: &str, obj: &Value, now: Timestamp) -> Vec<Value> {
    (printer(api_version, kind).cells)(obj, now)
}

fn column((name, kind, priority): Heading) -> Column {
    let description = match name {
        "Name" => "Name must be unique within a namespace.",
        "Age" | "Created At" => "When the object was created.",
        _ => "",
    };
    Column {
        name: name.to_owned(),
        kind: kind.to_owned(),
        format: if name == "Name" && priority == 0 { "name" } else { "" }.to_owned(),
        description: description.to_owned(),
        priority,
    }
}

fn name(obj: &Value) -> Value {
    obj["metadata"]["name"].as_str().unwrap_or_default().into()
}

fn age(obj: &Value, now: Timestamp) -> Value {
    age::since(&obj["metadata"]["creationTimestamp"], now).into()
}

fn text<'a>(obj: &'a Value, pointer: &str) -> &'a str {
    obj.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn number(obj: &Value, pointer: &str) -> i64 {
    obj.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

fn list<'a>(obj: &'a Value, pointer: &str) -> &'a [Value] {
    obj.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn count(obj: &Value, pointer: &str) -> usize {
    match obj.pointer(pointer) {
        Some(Value::Array(items)) => items.len(),
        Some(Value::Object(fields)) => fields.len(),
        _ => 0,
    }
}

/// The text, or what stands for nothing.
fn or(text: impl Into<String>, nothing: &str) -> Value {
    let text = text.into();
    if text.is_empty() { nothing.into() } else { text.into() }
}

fn or_none(text: impl Into<String>) -> Value {
    or(text, "<none>")
}

/// A map of labels as `a=b,c=d`.
fn labels(map: &Value) -> String {
    let pairs = map.as_object().into_iter().flatten();
    pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",")
}

/// A label selector object as text.
fn selector(selector: &Value) -> Value {
    match crate::select::LabelSelector::from_object(selector) {
        Ok(parsed) if !selector.is_null() => or_none(parsed.to_string()),
        _ => json!("<none>"),
    }
}

/// The names and images of a template's containers.
fn containers(spec: &Value) -> [Value; 2] {
    ["name", "image"].map(|field| {
        let all: Vec<&str> = list(spec, "/containers").iter().filter_map(|one| one[field].as_str()).collect();
        all.join(",").into()
    })
}

fn title(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}
