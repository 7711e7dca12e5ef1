//! Writes of roles and bindings give nothing away that their author does not have.
//!
//! Invariant: the index is asked for what is held, and let go before anything is compared, so that a large role holds up nobody.
//!
//! As upstream: who may `escalate` a role or `bind` to it is let through, and so is a change of owners and finalizers alone.

use rules::field::FieldError;
use rules::rbac::{Attributes, GROUP, RoleRef, Target, escalation, rule};
use serde_json::Value;

use crate::admission::Write;
use crate::call::Call;
use crate::object;
use crate::status::{Answer, Failure};

/// Refuses a role or binding by which its author would give away more than they have.
pub(crate) fn admit(write: &Write<'_>, call: &mut Call, object: &mut Value) -> Answer<()> {
    if write.resource.group != GROUP || write.old.is_some_and(|old| essence(old) == essence(object)) {
        return Ok(());
    }
    bounded(write, object)?;
    let namespace = write.namespace.unwrap_or_default();
    let may = |verb: &str, resource: &str, name: &str| {
        let target = Target::Resource { group: GROUP, resource, subresource: "", namespace, name };
        write.server.access.allows(&call.user, &Attributes { verb, target })
    };
    let name = object::name(object);
    let refuse = |why: String| Failure::forbidden(write.resource, name, &why);
    let confirm = |rules: &[rule::Rule]| {
        let held = write.server.access.with(|index| index.held_by(call.user.subject(), namespace));
        escalation::confirm(&held, call.user.subject(), rules)
    };
    match write.resource.plural.as_str() {
        "roles" | "clusterroles" if may("escalate", &write.resource.plural, name) => Ok(()),
        "roles" => confirm(&rule::of(object)).map_err(refuse),
        "clusterroles" => {
            if escalation::is_aggregated(object) || write.old.is_some_and(escalation::is_aggregated) {
                confirm(&escalation::everything()).map_err(|why| {
                    refuse(format!("must have cluster-admin privileges to use the aggregationRule: {why}"))
                })?;
            }
            confirm(&rule::of(object)).map_err(refuse)
        }
        "rolebindings" | "clusterrolebindings" => {
            let role = RoleRef::read(object);
            let kind = if role.cluster { "clusterroles" } else { "roles" };
            if may("bind", kind, &role.name) {
                return Ok(());
            }
            let rules = write.server.access.with(|index| index.rules_of_role(namespace, &role).cloned());
            let catalog = write.server.catalog.load();
            match (rules, catalog.get(GROUP, "v1", kind)) {
                (Some(rules), _) => confirm(&rules).map_err(refuse),
                (None, Some(resource)) => Err(Failure::not_found(resource, &role.name)),
                (None, None) => Err(Failure::no_such_path()),
            }
        }
        _ => Ok(()),
    }
}

/// Refuses a role that says more than a role may; one that said so before can be changed in all but its rules.
fn bounded(write: &Write<'_>, role: &Value) -> Answer<()> {
    let is_role =
        matches!(write.resource.plural.as_str(), "roles" | "clusterroles") && !escalation::is_aggregated(role);
    if !is_role || write.old.is_some_and(|old| old["rules"] == role["rules"]) {
        return Ok(());
    }
    let words = rule::words_of(role);
    if words <= rule::MOST_WORDS {
        return Ok(());
    }
    let why = format!(
        "must have at most {} words (groups, resources, names, paths and verbs) together, and has {words}; write several roles, or use *",
        rule::MOST_WORDS
    );
    Err(Failure::invalid(write.resource, object::name(role), &[FieldError::forbidden("rules", why)]))
}

/// An object without what the garbage collector needs to change.
fn essence(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object::metadata_mut(&mut object) {
        for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion", "generation"] {
            metadata.remove(field);
        }
    }
    object
}
