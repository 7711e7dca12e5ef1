//! Who keeps an object: an application of the Git sync, or a set that somebody applied. Told by the label of its set alone.
//!
//! Invariant: what an application keeps is changed in its repository; whoever changes it otherwise is told so by the application's name.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::{Api, ApiError, escape};
use crate::applyset::{ID, PART_OF, Set};
use crate::object;
use serde_json::Value;

/// An application of the Git sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    /// `application` or `kustomization`.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Who keeps an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// The Git sync.
    Sync(Synced),
    /// Somebody who applied a set.
    Set(Set),
}

impl Synced {
    /// What whoever wants to change one of its objects is told.
    #[must_use]
    pub fn advice(&self) -> String {
        let Self { kind, namespace, name } = self;
        format!(
            "{kind} {name} in {namespace} keeps it as Git says and would undo the change: change it in the repository, or hold the sync with `coracle break-glass --reason WHY --app {name}`"
        )
    }
}

/// The owner whose record this is.
pub(crate) fn of_record(record: &Value) -> Owner {
    let (namespace, name) = (object::namespace(record), object::name(record));
    for (prefix, kind) in [("application.", "application"), ("kustomization.", "kustomization")] {
        let Some(rest) = name.strip_prefix(prefix) else { continue };
        // A set that a person has called so has another id.
        if object::label(record, ID) == Some(Set::new(namespace, name).id().as_str()) {
            return Owner::Sync(Synced { kind, namespace: namespace.to_owned(), name: rest.to_owned() });
        }
    }
    Owner::Set(Set::new(namespace, name))
}

/// The owners of these sets, by the sets' ids; what has no record any more is not in the answer.
///
/// # Errors
/// As the API answers.
pub async fn of_sets(api: &Api, ids: &BTreeSet<String>) -> Result<BTreeMap<String, Owner>, ApiError> {
    let mut found = BTreeMap::new();
    for id in ids {
        let selector = escape(&format!("{ID}={id}"));
        for plural in ["secrets", "configmaps"] {
            let all = api.list(&format!("/api/v1/{plural}"), &format!("labelSelector={selector}")).await?;
            if let Some(record) = all.first() {
                found.insert(id.clone(), of_record(record));
                break;
            }
        }
    }
    Ok(found)
}

/// The application that keeps an object, if one does.
///
/// # Errors
/// As the API answers.
pub async fn of_object(api: &Api, live: &Value) -> Result<Option<Synced>, ApiError> {
    let Some(id) = object::label(live, PART_OF) else { return Ok(None) };
    let all = of_sets(api, &BTreeSet::from([id.to_owned()])).await?;
    Ok(all.into_values().find_map(|owner| if let Owner::Sync(synced) = owner { Some(synced) } else { None }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_application_is_known_by_its_record() {
        let record = |name: &str| {
            let set = Set::new("argocd", name);
            json!({ "metadata": { "name": name, "namespace": "argocd", "labels": { ID: set.id() } } })
        };
        let Owner::Sync(shop) = of_record(&record("application.shop")) else { panic!("it is one") };
        assert_eq!((shop.kind, shop.name.as_str()), ("application", "shop"));
        assert!(shop.advice().contains("application shop in argocd") && shop.advice().contains("break-glass"));
        assert_eq!(of_record(&record("deploy")), Owner::Set(Set::new("argocd", "deploy")));
        let mut odd = record("application.shop");
        odd["metadata"]["labels"][ID] = "another".into();
        assert!(matches!(of_record(&odd), Owner::Set(_)));
    }
}
