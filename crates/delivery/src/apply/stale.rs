//! Whether every object that a plan touches is still as the plan saw it.
//!
//! A change of the status alone, or of who owns what, moves an object's resource version but not the object.

use super::ApplyError;
use crate::api::{Api, ApiError, path_of};
use crate::diff::{self, FieldChange};
use crate::kinds::Kinds;
use crate::mask;
use crate::object::{self, ObjectId};
use crate::plan::{Pin, Plan};
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// An object that is no longer as a plan saw it.
#[derive(Debug, Clone)]
pub struct Moved {
    /// Which.
    pub object: ObjectId,
    /// How.
    pub how: How,
}

/// How an object moved.
#[derive(Debug, Clone)]
pub enum How {
    /// It came to be.
    Appeared,
    /// It is gone.
    Gone,
    /// It was deleted and made anew.
    Remade,
    /// Fields changed.
    Changed(Vec<FieldChange>),
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.object)?;
        match &self.how {
            How::Appeared => f.write_str("it is there now, and was not"),
            How::Gone => f.write_str("it is gone"),
            How::Remade => f.write_str("it was deleted and made anew"),
            How::Changed(fields) => {
                let said: Vec<String> = fields.iter().map(described).collect();
                f.write_str(&said.join("; "))
            }
        }
    }
}

fn described(field: &FieldChange) -> String {
    let value = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), Value::to_string);
    let by = field.owners.first().map(|owner| {
        let time = owner.time.as_deref().map_or_else(String::new, |time| format!(" at {time}"));
        format!(" (by {}{time})", owner.manager)
    });
    if field.sensitive {
        return format!("{} changed, which is {}{}", field.path, mask::MASK, by.unwrap_or_default());
    }
    format!("{} was {} and is {}{}", field.path, value(&field.before), value(&field.after), by.unwrap_or_default())
}

/// Compares what is there with what the plan saw. Returns the resource versions that are there.
pub(super) async fn check(
    api: &Api,
    kinds: &Kinds,
    plan: &Plan,
    concurrency: usize,
) -> Result<BTreeMap<ObjectId, String>, ApplyError> {
    let touched = plan.changes.iter().map(|change| (&change.api_version, &change.object, change.pin.as_ref()));
    let from = plan
        .changes
        .iter()
        .filter_map(|change| Some((&change.api_version, change.moved_from.as_ref()?, change.from_pin.as_ref())));
    let looks = touched.chain(from).map(|(api_version, id, pin)| async move {
        let Some(resource) = kinds.of(api_version, &id.kind).or_else(|| kinds.of_group(&id.group, &id.kind)) else {
            // Its definition comes with the plan.
            return Ok::<_, ApiError>((id, pin, None));
        };
        Ok((id, pin, api.find(&path_of(resource, id)).await?))
    });
    let seen: Vec<_> = futures::stream::iter(looks).buffer_unordered(concurrency.max(1)).try_collect().await?;
    let mut versions = BTreeMap::new();
    let mut moved = Vec::new();
    for (id, pin, live) in seen {
        if let Some(how) = compare(pin, live.as_ref()) {
            moved.push(Moved { object: id.clone(), how });
        }
        if let Some(live) = live {
            versions.insert(id.clone(), object::resource_version(&live).to_owned());
        }
    }
    moved.sort_by(|a, b| a.object.cmp(&b.object));
    if moved.is_empty() { Ok(versions) } else { Err(ApplyError::Stale(moved)) }
}

/// How an object moved since it was pinned; nothing where it did not.
pub(super) fn compare(pin: Option<&Pin>, live: Option<&Value>) -> Option<How> {
    match (pin, live) {
        (None, None) => None,
        (None, Some(_)) => Some(How::Appeared),
        (Some(_), None) => Some(How::Gone),
        (Some(pin), Some(live)) if pin.uid != object::uid(live) => Some(How::Remade),
        (Some(pin), Some(live)) if pin.resource_version == object::resource_version(live) => None,
        (Some(pin), Some(live)) => {
            // Owners stand in the live object; the values of before in the pin.
            let mut was = pin.state.clone();
            was["metadata"]["managedFields"] = live["metadata"]["managedFields"].clone();
            let changes = diff::changes(&was, live);
            if changes.is_empty() { None } else { Some(How::Changed(changes)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_counts_makes_a_plan_stale() {
        let live = |version: &str, uid: &str, replicas: i64, ready: i64| {
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "uid": uid, "resourceVersion": version},
                "spec": {"replicas": replicas}, "status": {"readyReplicas": ready}})
        };
        let seen = live("5", "u", 2, 0);
        let pin = Pin { uid: "u".into(), resource_version: "5".into(), state: object::without_server_fields(&seen) };
        assert!(compare(Some(&pin), Some(&seen)).is_none());
        assert!(compare(Some(&pin), Some(&live("6", "u", 2, 2))).is_none(), "its status is its own");
        assert!(compare(None, None).is_none());
        assert!(matches!(compare(None, Some(&seen)), Some(How::Appeared)));
        assert!(matches!(compare(Some(&pin), None), Some(How::Gone)));
        assert!(matches!(compare(Some(&pin), Some(&live("9", "v", 2, 2))), Some(How::Remade)));
        let moved =
            Moved { object: ObjectId::of(&seen), how: compare(Some(&pin), Some(&live("6", "u", 3, 2))).unwrap() };
        assert_eq!(moved.to_string(), "deployment.apps/a: .spec.replicas was 2 and is 3");
    }
}
