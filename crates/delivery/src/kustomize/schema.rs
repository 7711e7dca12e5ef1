//! Which lists merge item by item, and which kinds have no namespace: for the built-in kinds from a table, for others from a
//! file that the kustomization names.
//!
//! The table is that of Kubernetes 1.21, as in the tools that everybody's patches were written against; later additions to
//! the API replace lists whole. A file replaces the table, unless resources were read before it was named.
//!
//! Invariants: a kind that is not known merges no list. It must not know: patches, files.

use super::error::{Result, fail};
use super::read::{self, Twice};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::LazyLock;

/// Facts of the published OpenAPI document: `kind API_VERSION KIND TYPE` and `field TYPE NAME TYPE [list] [merge [KEYS]]`.
const TABLE: &str = include_str!("lists.txt");

/// Kinds without a namespace.
const CLUSTER: &[(&str, &[&str])] = &[
    ("admissionregistration.k8s.io/v1", &["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"]),
    ("admissionregistration.k8s.io/v1beta1", &["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"]),
    ("apiextensions.k8s.io/v1", &["CustomResourceDefinition"]),
    ("apiextensions.k8s.io/v1beta1", &["CustomResourceDefinition"]),
    ("apiregistration.k8s.io/v1", &["APIService"]),
    ("apiregistration.k8s.io/v1beta1", &["APIService"]),
    ("certificates.k8s.io/v1", &["CertificateSigningRequest"]),
    ("certificates.k8s.io/v1beta1", &["CertificateSigningRequest"]),
    ("flowcontrol.apiserver.k8s.io/v1beta1", &["FlowSchema", "PriorityLevelConfiguration"]),
    ("networking.k8s.io/v1", &["IngressClass"]),
    ("networking.k8s.io/v1beta1", &["IngressClass"]),
    ("node.k8s.io/v1", &["RuntimeClass"]),
    ("node.k8s.io/v1beta1", &["RuntimeClass"]),
    ("policy/v1beta1", &["PodSecurityPolicy"]),
    ("rbac.authorization.k8s.io/v1", &["ClusterRole", "ClusterRoleBinding"]),
    ("rbac.authorization.k8s.io/v1beta1", &["ClusterRole", "ClusterRoleBinding"]),
    ("scheduling.k8s.io/v1", &["PriorityClass"]),
    ("scheduling.k8s.io/v1beta1", &["PriorityClass"]),
    ("storage.k8s.io/v1", &["CSIDriver", "CSINode", "StorageClass", "VolumeAttachment"]),
    ("storage.k8s.io/v1beta1", &["CSIDriver", "CSINode", "StorageClass", "VolumeAttachment"]),
    ("v1", &["ComponentStatus", "Namespace", "Node", "NodeProxyOptions", "PersistentVolume"]),
];

/// What is at one place of an object.
#[derive(Debug, Clone)]
pub(super) struct Place {
    types: Rc<Types>,
    /// The type here, of the items when this is a list; none for what has no name.
    of: Option<String>,
    list: bool,
    /// Items merge, found by these keys; no key means by value.
    pub(super) merge: Option<Vec<String>>,
}

impl Place {
    /// The place of a field; none where nothing is known of it.
    pub(super) fn field(&self, name: &str) -> Option<Place> {
        if self.list {
            return None;
        }
        let step = self.types.fields.get(self.of.as_deref()?)?.get(name)?;
        Some(Place { types: self.types.clone(), of: step.of.clone(), list: step.list, merge: step.merge.clone() })
    }

    /// The place of a list's items.
    pub(super) fn items(&self) -> Option<Place> {
        let known = self.list && self.of.is_some();
        known.then(|| Place { types: self.types.clone(), of: self.of.clone(), list: false, merge: None })
    }
}

#[derive(Debug, Clone)]
struct Step {
    of: Option<String>,
    list: bool,
    merge: Option<Vec<String>>,
}

/// Types by name, and the types of kinds.
#[derive(Debug, Clone, Default)]
struct Types {
    kinds: HashMap<(String, String), String>,
    fields: HashMap<String, BTreeMap<String, Step>>,
}

static BUILTIN: LazyLock<Types> = LazyLock::new(|| {
    let mut types = Types::default();
    for line in TABLE.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["kind", api, kind, of] => {
                types.kinds.insert((api.to_owned(), kind.to_owned()), of.to_owned());
            }
            ["field", of, name, target, ref rest @ ..] => {
                let merge = rest.iter().position(|word| *word == "merge").map(|at| {
                    rest.get(at + 1).map(|keys| keys.split(',').map(str::to_owned).collect()).unwrap_or_default()
                });
                let target = (target != "-").then(|| target.to_owned());
                let step = Step { of: target, list: rest.first() == Some(&"list"), merge };
                types.fields.entry(of.to_owned()).or_default().insert(name.to_owned(), step);
            }
            _ => {}
        }
    }
    types
});

/// What is known of kinds during one build.
#[derive(Debug, Default)]
pub(super) struct Known {
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    types: Option<Rc<Types>>,
    /// Of kinds that the named file speaks of: whether they have no namespace.
    cluster: HashMap<(String, String), bool>,
    /// A kustomization has named a file or a version; the outermost one counts.
    set: bool,
    /// Resources were read before.
    used: bool,
}

impl Known {
    /// Notes that resources are read from here on.
    pub(super) fn used(&self) {
        self.state.borrow_mut().used = true;
    }

    /// Whether the kind is known to have no namespace.
    pub(super) fn is_cluster(&self, api_version: &str, kind: &str) -> bool {
        if let Some((_, kinds)) = CLUSTER.iter().find(|(api, _)| *api == api_version)
            && kinds.contains(&kind)
        {
            return true;
        }
        let state = self.state.borrow();
        !state.cluster.is_empty()
            && state.cluster.get(&(api_version.to_owned(), kind.to_owned())).copied().unwrap_or(false)
    }

    /// The place of a whole object of a kind.
    pub(super) fn kind(&self, api_version: &str, kind: &str) -> Option<Place> {
        let types = self.state.borrow_mut().types.get_or_insert_with(|| Rc::new(BUILTIN.clone())).clone();
        let of = types.kinds.get(&(api_version.to_owned(), kind.to_owned()))?.clone();
        Some(Place { types, of: Some(of), list: false, merge: None })
    }

    /// Takes over the `openapi` field of a kustomization, with the content of the file it names.
    pub(super) fn set(&self, version: Option<&str>, file: Option<&str>, outermost: bool) -> Result<()> {
        let mut state = self.state.borrow_mut();
        if state.set && !outermost {
            return Ok(());
        }
        let Some(file) = file else {
            match version {
                None | Some("") => {}
                Some("v1.21.2" | "v1212") => state.set = true,
                Some(_) => {
                    return fail("openapi.version: the only version that is built in is v1.21.2; leave the field out");
                }
            }
            return Ok(());
        };
        if version.is_some() {
            return fail("openapi: `version` and `path` are both given; keep one of them");
        }
        let document = read::configuration(file, Twice::LastWins)?;
        let mut types = if state.used { BUILTIN.clone() } else { Types::default() };
        learn(&document, &mut types);
        state.cluster = scopes(&document);
        state.types = Some(Rc::new(types));
        state.set = true;
        Ok(())
    }
}

fn target(reference: &Value) -> Option<String> {
    reference.as_str().and_then(|text| text.strip_prefix("#/definitions/")).map(str::to_owned)
}

/// Takes the definitions of an OpenAPI document into the types.
fn learn(document: &Value, types: &mut Types) {
    let empty = serde_json::Map::new();
    for (name, definition) in document["definitions"].as_object().unwrap_or(&empty) {
        for gvk in definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
            types.kinds.insert(type_of(gvk), name.clone());
        }
        fields(name, definition, types, 0);
    }
}

fn type_of(gvk: &Value) -> (String, String) {
    let text = |field: &str| gvk[field].as_str().unwrap_or_default();
    let api_version = match text("group") {
        "" => text("version").to_owned(),
        group => format!("{group}/{}", text("version")),
    };
    (api_version, text("kind").to_owned())
}

/// Deepest nesting of a schema that is followed.
const MAX_DEPTH: usize = 50;

fn fields(name: &str, schema: &Value, types: &mut Types, depth: usize) {
    let Some(properties) = schema["properties"].as_object().filter(|_| depth < MAX_DEPTH) else { return };
    for (field, property) in properties {
        let list = property["type"] == "array";
        let inner = if list { &property["items"] } else { property };
        // What has no name of its own is named by its path, with characters that no name has.
        let of = target(&inner["$ref"]).or_else(|| {
            let own = format!("{name}\u{1}{field}");
            inner["properties"].is_object().then(|| {
                fields(&own, inner, types, depth + 1);
                own
            })
        });
        let strategy = property["x-kubernetes-patch-strategy"].as_str().unwrap_or_default();
        let merge = strategy.split(',').any(|word| word == "merge").then(|| keys(property));
        types.fields.entry(name.to_owned()).or_default().insert(field.clone(), Step { of, list, merge });
    }
}

fn keys(property: &Value) -> Vec<String> {
    if let Some(keys) = property["x-kubernetes-list-map-keys"].as_array() {
        return keys.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    }
    property["x-kubernetes-patch-merge-key"].as_str().map(str::to_owned).into_iter().collect()
}

/// Which kinds have no namespace, from the paths of an OpenAPI document.
fn scopes(document: &Value) -> HashMap<(String, String), bool> {
    let mut found: HashMap<(String, String), bool> = HashMap::new();
    let empty = serde_json::Map::new();
    for (path, item) in document["paths"].as_object().unwrap_or(&empty) {
        let gvk = &item["get"]["x-kubernetes-group-version-kind"];
        if gvk.is_object() {
            let cluster = !path.contains("namespaces/{namespace}");
            let entry = found.entry(type_of(gvk)).or_insert(true);
            *entry &= cluster;
        }
    }
    found
}
