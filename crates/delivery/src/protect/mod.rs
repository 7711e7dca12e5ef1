//! What may not be deleted by a slip: objects that hold data, and what is annotated.
//!
//! The protection stands on the live object, under a field manager of its own, so that removing or renaming the
//! manifest cannot take it away; our API server's admission holds it against everyone, and an example
//! ValidatingAdmissionPolicy does so on other clusters. Where there is neither, our own commands hold it ([`held`]).
//!
//! What a StatefulSet claims by itself is marked by [`claims`], as it comes to be.
//!
//! It must not know: how objects are fetched; what a definition or a namespace holds is told to it.

pub(crate) mod claims;
pub mod held;

use crate::object;
use resources::names::{CONFIRM_DELETE, DELETE_REASON, PROTECT};
use serde_json::{Value, json};

/// The field manager that owns protections.
pub const MANAGER: &str = "coracle-protection";

/// Why the object is protected; nothing where it is not. An annotation of `"false"` says that it is not, whatever its kind.
pub fn reason(live: &Value) -> Option<String> {
    match object::annotation(live, PROTECT) {
        Some("true") => return Some(by_kind(live).unwrap_or_else(|| format!("it is annotated {PROTECT}"))),
        Some("false") => return None,
        _ => {}
    }
    by_kind(live)
}

/// Why objects of its kind hold data by themselves.
fn by_kind(object: &Value) -> Option<String> {
    let why = match (object::group(object), object::kind(object)) {
        ("", "PersistentVolumeClaim") => "a PersistentVolumeClaim holds data",
        ("", "PersistentVolume") => "a PersistentVolume holds data",
        ("apps", "StatefulSet") => {
            object["spec"]["volumeClaimTemplates"].as_array().filter(|templates| !templates.is_empty())?;
            "its Pods have volumes of their own"
        }
        _ => return None,
    };
    Some(why.to_owned())
}

/// The configuration that puts the protection on an object that is to have it and has not, applied by [`MANAGER`].
pub fn mark(object: &Value) -> Option<Value> {
    if object::annotation(object, PROTECT).is_some() {
        return None;
    }
    by_kind(object)?;
    Some(json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"],
        "metadata": { "name": object::name(object), "annotations": { PROTECT: "true" } },
    }))
}

/// A person's word that a protected object is to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// `KIND/NAME`, typed in full.
    pub object: String,
    /// Why.
    pub reason: String,
}

impl Confirmation {
    /// Whether it is about this object.
    pub fn is_for(&self, id: &object::ObjectId) -> bool {
        let Some((kind, name)) = self.object.split_once('/') else { return false };
        let kind = kind.to_lowercase();
        name == id.name
            && !self.reason.trim().is_empty()
            && (kind == id.kind.to_lowercase() || kind == id.group_kind().to_lowercase())
    }

    /// The merge patch that says so on the live object, which admission looks for.
    pub fn patch(&self, name: &str) -> Value {
        json!({ "metadata": { "annotations": { CONFIRM_DELETE: name, DELETE_REASON: self.reason } } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_data_is_protected() {
        let object = |api: &str, kind: &str, protect: Option<&str>| json!({"apiVersion": api, "kind": kind, "metadata": {"name": "a", "annotations": protect.map(|p| json!({PROTECT: p}))}});
        let mut set = object("apps/v1", "StatefulSet", None);
        let cases = [
            (object("v1", "PersistentVolumeClaim", None), true),
            (object("v1", "PersistentVolumeClaim", Some("false")), false),
            (object("v1", "ConfigMap", None), false),
            (object("v1", "ConfigMap", Some("true")), true),
            (set.clone(), false),
        ];
        for (object, wanted) in cases {
            assert_eq!(reason(&object).is_some(), wanted, "{object}");
        }
        set["spec"]["volumeClaimTemplates"] = json!([{}]);
        assert!(reason(&set).is_some());
        assert_eq!(mark(&set).unwrap()["metadata"]["annotations"][PROTECT], "true");
        assert_eq!(mark(&object("v1", "ConfigMap", Some("true"))), None);
    }

    #[test]
    fn a_confirmation_names_the_object_in_full() {
        let id = object::ObjectId {
            group: "apps".into(),
            kind: "StatefulSet".into(),
            namespace: "x".into(),
            name: "db".into(),
        };
        let confirmed =
            |object: &str, reason: &str| Confirmation { object: object.into(), reason: reason.into() }.is_for(&id);
        assert!(confirmed("statefulset/db", "it moved"));
        assert!(confirmed("StatefulSet.apps/db", "it moved"));
        assert!(!confirmed("statefulset/db", " "), "a reason is needed");
        assert!(!confirmed("db", "x"));
        assert!(!confirmed("statefulset/other", "x"));
    }
}
