//! Configuration as services see it: every variable of every container, where its value comes from, and what it is.
//!
//! An environment is a namespace of a cluster or a rendered directory. Secret values are compared, never shown.
//!
//! Invariants: pure; a value of a Secret leaves this module only as a digest.

pub mod check;
pub mod diff;
pub mod origin;

use crate::mask;
use crate::object::{self, ObjectId};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The objects of one environment.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Its name.
    pub name: String,
    /// Its workloads, ConfigMaps and Secrets.
    pub objects: Vec<Value>,
}

/// One variable of one container in one environment.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Variable {
    /// The environment.
    pub environment: String,
    /// The workload, as `deployment/orders`.
    pub service: String,
    /// The container.
    pub container: String,
    /// The variable's name.
    pub name: String,
    /// Its value, as it may be shown.
    pub value: Shown,
    /// The object that says the value: the workload itself, a ConfigMap or a Secret.
    pub from: ObjectId,
    /// The key there; empty for a value in the workload itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
}

/// A value as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Shown {
    /// A plain value.
    Plain(Plain),
    /// A secret one: its digest, and what can be said of it without telling it.
    Secret(Kept),
    /// Known only when the Pod runs (a field of the Pod, a resource).
    AtRunTime(String),
    /// There is nothing where it is to come from.
    Unresolved,
    /// There is nothing where it is to come from, which is allowed.
    Absent,
}

/// A value that may be shown, but for the passwords of URLs in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Plain {
    /// The value as it may be shown.
    pub shown: String,
    /// The whole of it: two are the same, or odd, by what is not shown too.
    kept: Kept,
}

impl Plain {
    /// Whether something of it is not shown.
    fn is_masked(&self) -> bool {
        self.shown != self.kept.text
    }
}

impl std::fmt::Debug for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.shown)
    }
}

impl Serialize for Plain {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.shown)
    }
}

/// What may be said of a secret value.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// A digest, to see whether two are the same.
    #[serde(skip)]
    pub digest: [u8; 32],
    /// What is odd about it.
    pub oddity: Option<&'static str>,
    /// The value, for this module alone.
    #[serde(skip)]
    text: String,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(mask::MASK)
    }
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain(value) => write!(f, "{value:?}"),
            Self::Secret(_) => f.write_str(mask::MASK),
            Self::AtRunTime(what) => write!(f, "({what})"),
            Self::Unresolved => f.write_str("(nothing is there)"),
            Self::Absent => f.write_str("(not set, which is allowed)"),
        }
    }
}

fn kept(value: &str) -> Kept {
    let digest = Sha256::digest(value.as_bytes()).into();
    Kept { digest, oddity: check::oddity(value), text: value.to_owned() }
}

fn secret(value: &str) -> Shown {
    Shown::Secret(kept(value))
}

/// A value under the names that say whether it is secret: the variable's, and the key's that it comes from.
fn shown(names: [&str; 2], value: &str) -> Shown {
    if names.into_iter().any(mask::is_secret_name) {
        return secret(value);
    }
    Shown::Plain(Plain { shown: mask::without_passwords(value), kept: kept(value) })
}

/// Where Pods are described in a workload.
fn pod_spec(object: &Value) -> Option<&Value> {
    let pointer = match (object::group(object), object::kind(object)) {
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet") | ("batch", "Job") => "/spec/template/spec",
        ("batch", "CronJob") => "/spec/jobTemplate/spec/template/spec",
        ("", "Pod") => "/spec",
        _ => return None,
    };
    // What an owner made says what its owner says.
    let owned = object["metadata"]["ownerReferences"].as_array().is_some_and(|all| !all.is_empty());
    object.pointer(pointer).filter(|_| !owned)
}

/// Every variable of an environment.
pub fn variables(environment: &Environment) -> Vec<Variable> {
    let sources = Sources::of(&environment.objects);
    let mut found = Vec::new();
    for object in &environment.objects {
        let Some(spec) = pod_spec(object) else { continue };
        for list in ["initContainers", "containers"] {
            for container in spec[list].as_array().into_iter().flatten() {
                of_container(environment, object, container, &sources, &mut found);
            }
        }
    }
    found
}

fn of_container(
    environment: &Environment,
    object: &Value,
    container: &Value,
    sources: &Sources<'_>,
    found: &mut Vec<Variable>,
) {
    let service = format!("{}/{}", object::kind(object).to_lowercase(), object::name(object));
    let namespace = object::namespace(object);
    // A later variable of a name replaces an earlier one, as for the container.
    let mut own: BTreeMap<String, Variable> = BTreeMap::new();
    let mut put = |name: &str, value: Shown, from: ObjectId, key: &str| {
        let variable = Variable {
            environment: environment.name.clone(),
            service: service.clone(),
            container: container["name"].as_str().unwrap_or_default().to_owned(),
            name: name.to_owned(),
            value,
            from,
            key: key.to_owned(),
        };
        own.insert(name.to_owned(), variable);
    };
    for source in container["envFrom"].as_array().into_iter().flatten() {
        let prefix = source["prefix"].as_str().unwrap_or_default();
        for (kind, reference) in [("ConfigMap", &source["configMapRef"]), ("Secret", &source["secretRef"])] {
            let Some(name) = reference["name"].as_str() else { continue };
            let id = sources.id(kind, namespace, name);
            match sources.all(&id) {
                Some(values) => values.iter().for_each(|(key, value)| {
                    let name = format!("{prefix}{key}");
                    let value = if kind == "Secret" { secret(value) } else { shown([&name, key], value) };
                    put(&name, value, id.clone(), key);
                }),
                None if reference["optional"] == true => {}
                None => put(&format!("{prefix}*"), Shown::Unresolved, id, ""),
            }
        }
    }
    for variable in container["env"].as_array().into_iter().flatten() {
        let Some(name) = variable["name"].as_str() else { continue };
        let from = &variable["valueFrom"];
        let reference = [("ConfigMap", &from["configMapKeyRef"]), ("Secret", &from["secretKeyRef"])];
        if let Some((kind, reference)) = reference.into_iter().find(|(_, reference)| reference.is_object()) {
            let id = sources.id(kind, namespace, reference["name"].as_str().unwrap_or_default());
            let key = reference["key"].as_str().unwrap_or_default();
            let value = match sources.all(&id).and_then(|values| values.get(key)) {
                Some(value) if kind == "Secret" => secret(value),
                Some(value) => shown([name, key], value),
                None if reference["optional"] == true => Shown::Absent,
                None => Shown::Unresolved,
            };
            put(name, value, id, key);
        } else if let Some(what) = from.as_object().and_then(|from| from.keys().next()) {
            let said = from[what]["fieldPath"].as_str().or(from[what]["resource"].as_str()).unwrap_or(what);
            put(name, Shown::AtRunTime(said.to_owned()), ObjectId::of(object), "");
        } else {
            put(name, shown([name, ""], variable["value"].as_str().unwrap_or_default()), ObjectId::of(object), "");
        }
    }
    found.extend(own.into_values());
}

/// The ConfigMaps and Secrets of an environment.
struct Sources<'a> {
    values: BTreeMap<ObjectId, BTreeMap<&'a str, String>>,
}

impl<'a> Sources<'a> {
    fn of(objects: &'a [Value]) -> Self {
        let mut values = BTreeMap::new();
        for object in objects.iter().filter(|object| object::group(object).is_empty()) {
            let plain = |map: &'a Value| {
                map.as_object()
                    .into_iter()
                    .flatten()
                    .map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default().to_owned()))
            };
            let decoded = |map: &'a Value| {
                map.as_object().into_iter().flatten().map(|(key, value)| {
                    let bytes = STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default();
                    (key.as_str(), String::from_utf8_lossy(&bytes).into_owned())
                })
            };
            let own: BTreeMap<&str, String> = match object::kind(object) {
                "ConfigMap" => plain(&object["data"]).collect(),
                "Secret" => decoded(&object["data"]).chain(plain(&object["stringData"])).collect(),
                _ => continue,
            };
            values.insert(ObjectId::of(object), own);
        }
        Self { values }
    }

    fn id(&self, kind: &str, namespace: &str, name: &str) -> ObjectId {
        ObjectId { group: String::new(), kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn all(&self, id: &ObjectId) -> Option<&BTreeMap<&'a str, String>> {
        self.values.get(id)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn environment(name: &str, config: Value, password: Option<&str>) -> Environment {
        let mut objects = vec![
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "orders"}, "spec": {"template": {"spec": {"containers": [{
                "name": "app", "envFrom": [{"configMapRef": {"name": "settings"}}], "env": [
                    {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "password"}}},
                    {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                    {"name": "LEVEL", "value": "info"}]}]}}}}),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": config}),
        ];
        if let Some(password) = password {
            objects.push(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"password": password}}));
        }
        Environment { name: name.to_owned(), objects }
    }

    #[test]
    fn every_variable_is_found_where_it_comes_from() {
        let found = variables(&environment("dev", json!({"URL": "redis://a", "LEVEL": "debug"}), Some("x")));
        let told: Vec<String> = found.iter().map(|v| format!("{} {} {}", v.name, v.value, v.from)).collect();
        assert_eq!(
            told,
            [
                "LEVEL \"info\" deployment.apps/orders",
                "NODE (spec.nodeName) deployment.apps/orders",
                "PASSWORD (sensitive) secret/keys",
                "URL \"redis://a\" configmap/settings",
            ]
        );
        let mut other = environment("dev", json!({"db-password": "hunter2", "level": "x"}), None);
        other.objects[0]["spec"]["template"]["spec"]["containers"][0]["env"] = json!([
            {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "db-password"}}},
            {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "level"}}}]);
        let told: Vec<String> = variables(&other).iter().map(|v| format!("{} {}", v.name, v.value)).collect();
        assert_eq!(told[..2], ["A (sensitive)", "B \"x\""], "the key says it too");
        let missing = variables(&environment("dev", json!({}), None));
        assert_eq!(missing.iter().find(|v| v.name == "PASSWORD").unwrap().value, Shown::Unresolved);
    }
}
