//! `scale`: how many replicas there are and shall be, in one form for every kind that has them.

use std::sync::Arc;

use rules::field::FieldError;
use rules::schema::Schema;
use rules::select::LabelSelector;
use serde_json::{Value, json};

use crate::call::{Call, Reply};
use crate::catalog::{Resource, Scale};
use crate::intake;
use crate::object;
use crate::server::{Place, Server};
use crate::status::{Answer, Failure};
use crate::verb::change::{Change, Part, change};
use crate::verb::patch::{self, Patch};

/// `GET`
pub(super) fn get(server: &Server, (resource, target): Place<'_>) -> Answer<Reply> {
    let name = target.name.as_deref().unwrap_or_default();
    let entry = server.store.get(&resource.key(target.namespace.as_deref(), name)).0;
    let object = object::read(resource, &entry.ok_or_else(|| Failure::not_found(resource, name))?)?;
    Ok(Reply::Plain(200, show(resource, paths(resource)?, &object)?))
}

/// `PUT` and `PATCH`
pub(super) async fn change_replicas(server: &Arc<Server>, call: &mut Call, place: Place<'_>) -> Answer<Reply> {
    let (resource, target) = place;
    let paths = paths(resource)?;
    let name = target.name.as_deref().unwrap_or_default();
    let schema = Schema::builtin("autoscaling/v1", "Scale").unwrap_or_else(Schema::any);
    let wanted = match call.method.as_str() {
        "PUT" => Wanted::Scale(intake::value(call)?.0),
        _ => match patch::read(call, true)? {
            // With one field there is nothing to merge, and it has no owner of its own.
            Patch::Apply(scale, _) => Wanted::Patch(Patch::Merge(scale)),
            patch => Wanted::Patch(patch),
        },
    };
    let how = Change { part: Part::Scale, applied: false };
    let new = change(server, call, place, how, &mut |_, current| {
        let before = show(resource, paths, current)?;
        let scale = match &wanted {
            Wanted::Scale(scale) => scale.clone(),
            Wanted::Patch(patch) => patch::merged(patch, &before, &schema)?,
        };
        with_scale(resource, paths, current, &scale)
    })
    .await?;
    let new = new.ok_or_else(|| Failure::not_found(resource, name))?;
    Ok(Reply::Plain(200, show(resource, paths, &new)?))
}

enum Wanted {
    Scale(Value),
    Patch(Patch),
}

fn paths(resource: &Resource) -> Answer<&Scale> {
    resource.scale.as_ref().ok_or_else(Failure::no_such_path)
}

/// The Scale of an object.
fn show(resource: &Resource, paths: &Scale, object: &Value) -> Answer<Value> {
    let number = |path: &str| object::at(object, path).and_then(Value::as_i64).unwrap_or(0);
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    let mut status = json!({ "replicas": number(&paths.status) });
    let selector = match paths.selector.as_deref().and_then(|path| object::at(object, path)) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(plain) if resource.is("", "replicationcontrollers") => LabelSelector::from_map(plain).to_string(),
        Some(selector) => LabelSelector::from_object(selector)
            .map_err(|error| Failure::internal(format!("the selector of {}: {error}", object::name(object))))?
            .to_string(),
    };
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    let spec = json!({ "replicas": number(&paths.spec) });
    Ok(json!({ "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status }))
}

/// The object with what a Scale says.
fn with_scale(resource: &Resource, paths: &Scale, current: &Value, scale: &Value) -> Answer<Value> {
    let name = object::name(current);
    let claimed = object::name(scale);
    if !claimed.is_empty() && claimed != name {
        return Err(Failure::bad_request(format!(
            "the name of the scale ({claimed}) does not match the object's ({name})"
        )));
    }
    let replicas = match &scale["spec"]["replicas"] {
        Value::Null => 0,
        value => value.as_i64().filter(|number| i32::try_from(*number).is_ok()).ok_or_else(|| {
            Failure::bad_request(format!("spec.replicas of a Scale is a whole number of 32 bits, not {value}"))
        })?,
    };
    if replicas < 0 {
        let error = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        return Err(Failure::invalid(resource, name, &[error]));
    }
    let mut new = current.clone();
    object::set_at(&mut new, &paths.spec, replicas.into());
    for field in ["resourceVersion", "uid"] {
        let claimed = object::meta(scale, field);
        if !claimed.is_empty() {
            new["metadata"][field] = claimed.into();
        }
    }
    Ok(new)
}
