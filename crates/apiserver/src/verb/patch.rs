//! `patch`: JSON Patch, merge patch, strategic merge patch and server-side apply.

use std::sync::Arc;

use rules::apply::ApplyError;
use rules::decode::Format;
use rules::field::FieldError;
use rules::patch::PatchError;
use rules::schema::Schema;
use serde_json::Value;

use super::change::{Change, Part, change};
use super::create::{insert, place};
use super::with_manager;
use crate::call::{Call, Reply};
use crate::catalog::Resource;
use crate::intake;
use crate::object;
use crate::server::{Place, Server};
use crate::status::{Answer, Failure};

/// A patch as it was sent.
pub(crate) enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    /// The configuration, and the fields that came twice in it.
    Apply(Value, Vec<String>),
}

const TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// Reads the patch of a call. `strategic` says whether the kind has strategic merge patches.
pub(crate) fn read(call: &Call, strategic: bool) -> Answer<Patch> {
    let media = call.content_type.as_deref().and_then(|text| text.split(';').next()).unwrap_or_default().trim();
    if call.body.is_empty() {
        return Err(Failure::bad_request("the request has no body, but a patch is expected"));
    }
    let json = || intake::text(&call.body, Format::Json).map(|(value, _)| value);
    match TYPES.iter().position(|known| *known == media) {
        Some(0) => json().map(Patch::Json),
        Some(1) => json().map(Patch::Merge),
        Some(2) if strategic => json().map(Patch::Strategic),
        Some(3) => intake::text(&call.body, Format::Yaml).map(|(value, duplicates)| Patch::Apply(value, duplicates)),
        _ => {
            let known: Vec<&str> = TYPES.iter().copied().filter(|known| strategic || *known != TYPES[2]).collect();
            Err(Failure::unsupported_media_type(&known.join(", ")))
        }
    }
}

/// `PATCH` of an object.
pub(crate) async fn patch(server: &Arc<Server>, call: &mut Call, place: Place<'_>) -> Answer<Reply> {
    of_part(server, call, place, Part::Whole).await
}

/// `PATCH` of an object or its status.
pub(crate) async fn of_part(server: &Arc<Server>, call: &mut Call, at: Place<'_>, part: Part) -> Answer<Reply> {
    let (resource, target) = at;
    match read(call, resource.custom.is_none())? {
        Patch::Apply(configuration, duplicates) => apply(server, call, at, part, configuration, &duplicates).await,
        patch => {
            let how = Change { part, applied: false };
            let new =
                change(server, call, at, how, &mut |call, current| patched(call, resource, &patch, current)).await?;
            let name = target.name.as_deref().unwrap_or_default();
            let new = new.ok_or_else(|| Failure::not_found(resource, name))?;
            Ok(Reply::Object(200, resource.clone(), new))
        }
    }
}

fn patched(call: &mut Call, resource: &Resource, patch: &Patch, current: &Value) -> Answer<Value> {
    let mut new = merged(patch, current, &resource.schema)?;
    let kept = |field: &str| new[field] == current[field];
    if !kept("apiVersion") || !kept("kind") {
        return Err(Failure::bad_request("a patch can't change apiVersion or kind"));
    }
    if object::name(&new) != object::name(current)
        || object::meta(&new, "namespace") != object::meta(current, "namespace")
    {
        return Err(Failure::bad_request("a patch can't change the object's name or namespace"));
    }
    intake::shape(call, resource, &mut new, &[])?;
    Ok(new)
}

/// The document after the patch.
pub(crate) fn merged(patch: &Patch, current: &Value, schema: &Schema) -> Answer<Value> {
    let refuse = |error: PatchError| match error {
        PatchError::Malformed(_) => Failure::bad_request(error.to_string()),
        PatchError::Operation(_) => Failure::new(
            422,
            "Invalid",
            format!("the server rejected our request due to an error in our request: {error}"),
        ),
        PatchError::Strategic(_) => Failure::new(422, "Invalid", error.to_string()),
    };
    match patch {
        Patch::Json(patch) => rules::patch::json_patch(current, patch).map_err(refuse),
        Patch::Merge(patch) if patch.is_object() => Ok(rules::patch::merge_patch(current, patch)),
        Patch::Strategic(patch) if patch.is_object() => rules::patch::strategic(current, patch, schema).map_err(refuse),
        Patch::Merge(_) | Patch::Strategic(_) => Err(Failure::bad_request("the patch is not an object")),
        Patch::Apply(..) => Err(Failure::unsupported_media_type(TYPES[1])),
    }
}

/// Server-side apply.
async fn apply(
    server: &Arc<Server>,
    call: &mut Call,
    at: Place<'_>,
    part: Part,
    mut configuration: Value,
    duplicates: &[String],
) -> Answer<Reply> {
    let (resource, target) = at;
    if call.query.get("fieldManager").is_none() {
        let mut failure =
            Failure::bad_option("PatchOptions", "fieldManager", "Required value: is required for apply patch");
        failure.reason = "Invalid";
        return Err(failure);
    }
    check_configuration(resource, &configuration)?;
    intake::identify(resource, &mut configuration)?;
    intake::shape(call, resource, &mut configuration, duplicates)?;
    place(resource, target, &mut configuration)?;
    let force = call.query.flag("force");
    let how = Change { part, applied: true };
    let subresource = if part == Part::Status { "status" } else { "" };
    let mut make = |call: &mut Call, current: &Value| {
        let new = merge(call, resource, subresource, Some(current), &configuration, force)?;
        claim(&configuration, new)
    };
    if let Some(new) = change(server, call, at, how, &mut make).await? {
        return Ok(Reply::Object(200, resource.clone(), new));
    }
    let name = target.name.as_deref().unwrap_or_default();
    if part != Part::Whole || !object::meta(&configuration, "uid").is_empty() {
        return Err(Failure::not_found(resource, name));
    }
    server.access.require_on(&call.user, "create", resource, target.namespace.as_deref(), name)?;
    let new = merge(call, resource, subresource, None, &configuration, force)?;
    let new = insert(server, call, at, new, true).await?;
    Ok(Reply::Object(201, resource.clone(), new))
}

fn check_configuration(resource: &Resource, configuration: &Value) -> Answer<()> {
    if !configuration.is_object() {
        return Err(Failure::bad_request("the applied configuration is not an object"));
    }
    if configuration["metadata"]["managedFields"].as_array().is_some_and(|all| !all.is_empty()) {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    if configuration["apiVersion"].is_null() || configuration["kind"].is_null() {
        let error = FieldError::required("apiVersion, kind", "an applied configuration names both");
        return Err(Failure::invalid(resource, object::name(configuration), &[error]));
    }
    Ok(())
}

fn merge(
    call: &Call,
    resource: &Resource,
    subresource: &str,
    live: Option<&Value>,
    configuration: &Value,
    force: bool,
) -> Answer<Value> {
    with_manager(call, resource, subresource, |manager| {
        rules::apply::apply(live, configuration, &resource.schema, manager, force)
    })
    .map_err(|error| match error {
        ApplyError::Conflicts(conflicts) => {
            let message = apply_message(&conflicts);
            Failure::apply_conflict(message, conflicts.into_iter().map(|conflict| (conflict.field, conflict.message)))
        }
        ApplyError::Invalid(why) => Failure::bad_request(why),
    })
}

fn apply_message(conflicts: &[rules::apply::Conflict]) -> String {
    match conflicts {
        [one] => format!("Apply failed with 1 conflict: {}: {}", one.message, one.field),
        many => {
            let list: String =
                many.iter().map(|conflict| format!("\n- {}: {}", conflict.message, conflict.field)).collect();
            format!("Apply failed with {} conflicts:{list}", many.len())
        }
    }
}

/// Puts the version and identity that the configuration claims on the merged object, so that they are compared.
fn claim(configuration: &Value, mut new: Value) -> Answer<Value> {
    let Some(metadata) = object::metadata_mut(&mut new) else { return Ok(new) };
    metadata.remove("resourceVersion");
    for field in ["resourceVersion", "uid"] {
        let claimed = object::meta(configuration, field);
        if !claimed.is_empty() {
            metadata.insert(field.into(), claimed.into());
        }
    }
    Ok(new)
}
