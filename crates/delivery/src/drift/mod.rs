//! Where live objects are no longer as they were last applied: which field, by which manager, when.
//!
//! A one-shot for people; [`watch`] and the Git sync look continuously, and put [`summary`] into a condition, the [`board`]'s numbers
//! into a metric, and what comes and goes into Events.

pub mod board;
pub mod pods;
pub(crate) mod watch;

use crate::api::{Api, ApiError};
use crate::applyset::Set;
use crate::history::{self, HistoryError};
use crate::mask;
use crate::object::ObjectId;
use crate::plan::{self, Action, Options, Plan, PlanError};
use serde::Serialize;
use serde_json::Value;

/// One difference between what was applied and what is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Drift {
    /// The object.
    pub object: ObjectId,
    /// What happened to it.
    pub what: What,
    /// The field; empty where the whole object is meant.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// What was applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<Value>,
    /// What is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<Value>,
    /// Who owns the field now; empty where nobody says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub manager: String,
    /// When they last changed any of their fields (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// A field has another value.
    Changed,
    /// It is gone.
    Missing,
    /// It is there, and is no longer of the set.
    Released,
    /// It is of the set, and was never applied with it.
    Extra,
}

/// Why drift cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum DriftError {
    /// The history cannot be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// No plan can be made.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The API failed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Nothing was ever applied.
    #[error("the set {0} was never applied with `coracle apply DIR`, so there is nothing to hold it against")]
    NeverApplied(String),
}

/// Holds what is there against what was last applied.
///
/// # Errors
/// See [`DriftError`].
pub async fn drift(client: kube::Client, set: &Set, manager: &str) -> Result<Vec<Drift>, DriftError> {
    let desired = last_applied(&client, set).await?;
    of_manifests(client, set, manager, desired).await
}

/// The same, and what somebody patched of the Pods; none of these where they may not be looked at.
///
/// # Errors
/// See [`DriftError`].
pub async fn drift_to_the_pods(
    client: kube::Client,
    set: &Set,
    manager: &str,
) -> Result<(Vec<Drift>, Option<Vec<Drift>>), DriftError> {
    let desired = last_applied(&client, set).await?;
    let mut workloads: Vec<ObjectId> = desired.iter().map(ObjectId::of).collect();
    for id in workloads.iter_mut().filter(|id| id.namespace.is_empty()) {
        id.namespace.clone_from(&set.namespace);
    }
    let found = of_manifests(client.clone(), set, manager, desired).await?;
    Ok((found, pods::patched(&Api::over(client), workloads.iter()).await?))
}

async fn last_applied(client: &kube::Client, set: &Set) -> Result<Vec<Value>, DriftError> {
    let all = history::list(client.clone(), set).await?;
    let last = all.iter().find(|revision| revision.state == history::State::Healthy);
    let last = last.ok_or_else(|| DriftError::NeverApplied(set.name.clone()))?;
    Ok(history::load(client.clone(), set, last).await?)
}

async fn of_manifests(
    client: kube::Client,
    set: &Set,
    manager: &str,
    desired: Vec<Value>,
) -> Result<Vec<Drift>, DriftError> {
    let options = Options { manager: manager.to_owned(), allow_empty: true, ..Options::default() };
    Ok(of_plan(&plan::plan(client, desired, set, &options).await?))
}

/// A plan of what was applied already, read as drift.
pub fn of_plan(plan: &Plan) -> Vec<Drift> {
    let mut found = Vec::new();
    for change in &plan.changes {
        let whole = |what| Drift {
            object: change.object.clone(),
            what,
            field: String::new(),
            applied: None,
            live: None,
            manager: String::new(),
            time: None,
        };
        match change.action {
            Action::Create => found.push(whole(What::Missing)),
            Action::Move => found.push(whole(What::Missing)),
            Action::Delete | Action::Keep => found.push(whole(What::Extra)),
            Action::Adopt if change.fields.is_empty() => found.push(whole(What::Released)),
            Action::Change | Action::Adopt | Action::Replace => {
                for field in &change.fields {
                    // Who applied it last did not make it drift.
                    let owner =
                        field.owners.iter().find(|owner| owner.manager != plan.manager).or(field.owners.first());
                    found.push(Drift {
                        field: field.path.clone(),
                        applied: field.after.clone(),
                        live: field.before.clone(),
                        manager: owner.map(|owner| owner.manager.clone()).unwrap_or_default(),
                        time: owner.and_then(|owner| owner.time.clone()),
                        ..whole(What::Changed)
                    });
                }
            }
        }
    }
    found
}

/// Status, reason and message of a `Drifted` condition, and how many objects drifted (the metric).
pub fn summary(drift: &[Drift]) -> (&'static str, &'static str, String, usize) {
    const SHOWN: usize = 5;
    if drift.is_empty() {
        return ("False", "AsApplied", "every object is as it was applied".to_owned(), 0);
    }
    let objects: std::collections::BTreeSet<&ObjectId> = drift.iter().map(|one| &one.object).collect();
    let mut said: Vec<String> = drift.iter().take(SHOWN).map(sentence).collect();
    if drift.len() > SHOWN {
        said.push(format!("and {} more", drift.len() - SHOWN));
    }
    ("True", "Drifted", said.join("; "), objects.len())
}

/// One difference in words.
pub fn sentence(drift: &Drift) -> String {
    let value = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), Value::to_string);
    match drift.what {
        What::Missing => format!("{} is gone", drift.object),
        What::Released => format!("{} is there, but no longer of the set", drift.object),
        What::Extra => format!("{} is of the set, and was never applied with it", drift.object),
        What::Changed => {
            let time = drift.time.as_deref().map_or_else(String::new, |time| format!(" at {time}"));
            let by = if drift.manager.is_empty() { String::new() } else { format!(" (by {}{time})", drift.manager) };
            let masked = |value: &Option<Value>| value.as_ref().is_none_or(|value| value == mask::MASK);
            if masked(&drift.applied) && masked(&drift.live) {
                return format!("{}: {} is not what was applied, both {}{by}", drift.object, drift.field, mask::MASK);
            }
            format!(
                "{}: {} was applied as {} and is {}{by}",
                drift.object,
                drift.field,
                value(&drift.applied),
                value(&drift.live)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_differences_are_told_in_short() {
        let one = |name: &str| Drift {
            object: ObjectId {
                group: String::new(),
                kind: "ConfigMap".into(),
                namespace: "n".into(),
                name: name.into(),
            },
            what: What::Changed,
            field: ".data.x".into(),
            applied: Some("1".into()),
            live: Some("2".into()),
            manager: "kubectl-edit".into(),
            time: Some("2026-01-01T00:00:00Z".into()),
        };
        assert_eq!(summary(&[]).0, "False");
        let (status, reason, message, count) =
            summary(&[one("a"), one("a"), one("b"), one("c"), one("d"), one("e"), one("f")]);
        assert_eq!((status, reason, count), ("True", "Drifted", 6));
        assert!(message.starts_with(
            "configmap/a in n: .data.x was applied as \"1\" and is \"2\" (by kubectl-edit at 2026-01-01T00:00:00Z); "
        ));
        assert!(message.ends_with("and 2 more"), "{message}");
        let secret = Drift {
            applied: Some(mask::MASK.into()),
            live: Some(mask::MASK.into()),
            manager: String::new(),
            ..one("a")
        };
        assert_eq!(sentence(&secret), "configmap/a in n: .data.x is not what was applied, both (sensitive)");
    }
}
