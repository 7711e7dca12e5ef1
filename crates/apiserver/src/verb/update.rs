//! `update`: the whole object, or its status, in place of what there is.

use std::sync::Arc;

use rules::field::FieldError;

use super::change::{Change, Part, change};
use super::create::{insert, place};
use crate::call::{Call, Reply};
use crate::catalog::Resource;
use crate::intake;
use crate::object;
use crate::server::{Place, Server};
use crate::status::{Answer, Failure};

/// `PUT` of an object.
pub(crate) async fn update(server: &Arc<Server>, call: &mut Call, place: Place<'_>) -> Answer<Reply> {
    replace(server, call, place, Part::Whole).await
}

/// `PUT` of an object or its status.
pub(crate) async fn replace(
    server: &Arc<Server>,
    call: &mut Call,
    (resource, target): Place<'_>,
    part: Part,
) -> Answer<Reply> {
    let name = target.name.as_deref().unwrap_or_default();
    let mut body = intake::object(call, resource)?;
    if object::name(&body).is_empty() {
        return Err(Failure::bad_request(format!(
            "the name of the object must be given in its metadata and be {name}"
        )));
    }
    place(resource, target, &mut body)?;
    if resource.custom.is_some() && matches!(object::meta(&body, "resourceVersion"), "" | "0") {
        let error = FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update");
        return Err(Failure::invalid(resource, name, &[error]));
    }
    let how = Change { part, applied: false };
    if let Some(new) = change(server, call, (resource, target), how, &mut |_, _| Ok(body.clone())).await? {
        return Ok(Reply::Object(200, resource.clone(), new));
    }
    if part != Part::Whole || !may_create(resource) {
        return Err(Failure::not_found(resource, name));
    }
    server.access.require_on(&call.user, "create", resource, target.namespace.as_deref(), name)?;
    let new = insert(server, call, (resource, target), body, false).await?;
    Ok(Reply::Object(201, resource.clone(), new))
}

/// The kinds that an update creates when they are not there, as upstream.
fn may_create(resource: &Resource) -> bool {
    matches!(
        (resource.group.as_str(), resource.plural.as_str()),
        ("", "endpoints" | "events" | "limitranges")
            | ("coordination.k8s.io", "leases")
            | ("rbac.authorization.k8s.io", _)
    )
}
