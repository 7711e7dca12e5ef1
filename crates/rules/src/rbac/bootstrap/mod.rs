//! The policy that every cluster begins with: Kubernetes' own roles, and one for each part of this program.
//!
//! [`objects`] says what is to be there; [`reconcile`] brings what is there up to it. Invariants: an object is only ever given
//! what it lacks, as upstream does it, so that what an administrator added stays; `rbac.authorization.kubernetes.io/autoupdate: "false"`
//! leaves an object alone. A part of the program that asks for more than its role gets 403 like anybody else.

mod parts;
mod people;

use serde_json::{Value, json};

use super::rule::{self, Rule};
use super::{GROUP, escalation};

/// The annotation by which an object is left alone.
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Words separated by spaces.
type Words = &'static str;

/// What a role allows.
#[derive(Clone, Copy)]
enum Grant {
    /// Verbs on resources of API groups (`core` is the one without a name).
    On(Words, Words, Words),
    /// The same, on the objects of these names.
    Named(Words, Words, Words, Words),
    /// `get` on paths that are no resource's.
    Read(Words),
    /// Everything on everything.
    Everything,
}

/// A ClusterRole.
struct Role {
    name: &'static str,
    /// Into which roles it is put (`view` for `rbac.authorization.k8s.io/aggregate-to-view`).
    into: Words,
    /// Of which label it is put together.
    of: Option<&'static str>,
    grants: &'static [Grant],
}

impl Role {
    const fn new(name: &'static str, grants: &'static [Grant]) -> Self {
        Self { name, into: "", of: None, grants }
    }
}

/// To whom a ClusterRole is given, everywhere.
enum Holder {
    Group(&'static str),
    User(&'static str),
    /// A service account of `kube-system`.
    Account(&'static str),
}

impl Holder {
    fn to_value(&self) -> Value {
        match self {
            Self::Group(name) => json!({ "kind": "Group", "apiGroup": GROUP, "name": name }),
            Self::User(name) => json!({ "kind": "User", "apiGroup": GROUP, "name": name }),
            Self::Account(name) => json!({ "kind": "ServiceAccount", "name": name, "namespace": "kube-system" }),
        }
    }
}

/// A verb list of upstream's policy.
const READ: Words = "get list watch";
const WRITE: Words = "create delete deletecollection patch update";
const READ_WRITE: Words = "get list watch create delete deletecollection patch update";

impl Grant {
    fn rule(self) -> Vec<Value> {
        let list = |words: Words| -> Vec<&str> { words.split(' ').filter(|word| !word.is_empty()).collect() };
        let groups = |words: Words| -> Vec<&str> {
            list(words).into_iter().map(|group| if group == "core" { "" } else { group }).collect()
        };
        match self {
            Self::On(verbs, group, resources) => {
                vec![json!({ "apiGroups": groups(group), "resources": list(resources), "verbs": list(verbs) })]
            }
            Self::Named(verbs, group, resources, names) => vec![
                json!({ "apiGroups": groups(group), "resources": list(resources), "resourceNames": list(names), "verbs": list(verbs) }),
            ],
            Self::Read(urls) => vec![json!({ "nonResourceURLs": list(urls), "verbs": ["get"] })],
            Self::Everything => vec![Rule::all_resources().to_value(), Rule::all_urls().to_value()],
        }
    }
}

/// An object of the policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// Its resource.
    pub plural: &'static str,
    /// As it is to be made; without apiVersion and kind.
    pub object: Value,
}

/// Everything that is to be there: first the roles, then who has them.
pub fn objects() -> Vec<Declared> {
    let roles = people::ROLES.iter().chain(parts::roles()).map(cluster_role);
    let bindings = people::bindings().chain(parts::bindings()).map(|(role, holders)| Declared {
        plural: "clusterrolebindings",
        object: json!({
            "metadata": metadata(role, &[]),
            "roleRef": { "apiGroup": GROUP, "kind": "ClusterRole", "name": role },
            "subjects": holders.iter().map(Holder::to_value).collect::<Vec<_>>(),
        }),
    });
    roles.chain(bindings).collect()
}

fn metadata(name: &str, into: &[&str]) -> Value {
    let mut labels = json!({ "kubernetes.io/bootstrapping": "rbac-defaults" });
    for role in into {
        labels[format!("rbac.authorization.k8s.io/aggregate-to-{role}")] = "true".into();
    }
    json!({ "name": name, "labels": labels, "annotations": { AUTO_UPDATE: "true" } })
}

fn cluster_role(role: &Role) -> Declared {
    let into: Vec<&str> = role.into.split(' ').filter(|word| !word.is_empty()).collect();
    let mut object = json!({ "metadata": metadata(role.name, &into) });
    match role.of {
        Some(label) => {
            let label = format!("rbac.authorization.k8s.io/aggregate-to-{label}");
            object["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": { label: "true" } }] });
        }
        None => object["rules"] = role.grants.iter().flat_map(|grant| grant.rule()).collect(),
    }
    Declared { plural: "clusterroles", object }
}

/// What becomes of an object that is there.
#[derive(Debug, Clone, PartialEq)]
pub enum Reconciled {
    /// It has all it is to have, or is to be left alone.
    Right,
    /// It is to become this.
    Update(Value),
    /// It gives another role, which can't be changed: it is to be made anew.
    Replace,
}

/// Brings the current state of an object up to what is declared.
pub fn reconcile(declared: &Declared, current: &Value) -> Reconciled {
    if current["metadata"]["annotations"][AUTO_UPDATE] == "false" {
        return Reconciled::Right;
    }
    let wanted = &declared.object;
    let mut new = current.clone();
    for field in ["labels", "annotations"] {
        for (key, value) in wanted["metadata"][field].as_object().into_iter().flatten() {
            if new["metadata"][field].get(key).is_none() {
                new["metadata"][field][key] = value.clone();
            }
        }
    }
    if declared.plural == "clusterrolebindings" {
        if current["roleRef"] != wanted["roleRef"] {
            return Reconciled::Replace;
        }
        add_missing(&mut new["subjects"], &wanted["subjects"]);
    } else if escalation::is_aggregated(wanted) {
        let path = "/aggregationRule/clusterRoleSelectors";
        if escalation::is_aggregated(current) {
            let selectors = wanted.pointer(path).cloned().unwrap_or_default();
            add_missing(&mut new["aggregationRule"]["clusterRoleSelectors"], &selectors);
        } else {
            new["aggregationRule"] = wanted["aggregationRule"].clone();
        }
    } else {
        let (held, wanted) = (rule::of(current), rule::of(wanted));
        let held: Vec<&Rule> = held.iter().collect();
        let lacking = wanted.into_iter().filter(|rule| {
            escalation::missing(&held, std::slice::from_ref(rule)).is_none_or(|missing| !missing.is_empty())
        });
        let lacking: Vec<Value> = lacking.map(|rule| rule.to_value()).collect();
        add_missing(&mut new["rules"], &lacking.into());
    }
    if new == *current { Reconciled::Right } else { Reconciled::Update(new) }
}

fn add_missing(list: &mut Value, wanted: &Value) {
    for one in wanted.as_array().into_iter().flatten() {
        if list.as_array().is_some_and(|all| all.contains(one)) {
            continue;
        }
        match list.as_array_mut() {
            Some(all) => all.push(one.clone()),
            None => *list = Value::Array(vec![one.clone()]),
        }
    }
}
