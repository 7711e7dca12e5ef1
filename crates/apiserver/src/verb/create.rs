//! `create`: a new object.

use std::sync::Arc;

use rules::policy::Operation;
use serde_json::Value;
use store::{Op, Precondition, WriteError};

use super::{default, store_failure, validate, with_manager};
use crate::admission::{self, Write};
use crate::call::{Call, Reply};
use crate::catalog::Resource;
use crate::intake;
use crate::object;
use crate::policy::{self, Question};
use crate::route::Target;
use crate::server::{Place, Server};
use crate::status::{Answer, Failure};

/// How many names are tried for `generateName`.
const NAMES: usize = 8;

/// `POST` to a collection.
pub(crate) async fn create(server: &Arc<Server>, call: &mut Call, (resource, target): Place<'_>) -> Answer<Reply> {
    if target.namespace.is_none() && resource.namespaced {
        return Err(Failure::method_not_allowed());
    }
    let mut body = intake::object(call, resource)?;
    place(resource, target, &mut body)?;
    let stored = insert(server, call, (resource, target), body, false).await?;
    Ok(Reply::Object(201, resource.clone(), stored))
}

/// Puts the object where the path says, and refuses one that says otherwise.
pub(crate) fn place(resource: &Resource, target: &Target, body: &mut Value) -> Answer<()> {
    let given = object::meta(body, "namespace").to_owned();
    let Some(metadata) = object::metadata_mut(body) else {
        return Err(Failure::bad_request("the body is not an object"));
    };
    match &target.namespace {
        Some(namespace) if resource.namespaced => {
            if !given.is_empty() && given != *namespace {
                let message = format!(
                    "the namespace of the provided object does not match the namespace sent on the request ({given} and {namespace})"
                );
                return Err(Failure::bad_request(message));
            }
            metadata.insert("namespace".into(), namespace.as_str().into());
        }
        _ if !given.is_empty() => {
            return Err(Failure::bad_request(format!(
                "{} are not in a namespace, but the object names {given}",
                resource.qualified()
            )));
        }
        _ => {
            metadata.remove("namespace");
        }
    }
    if let Some(name) = &target.name {
        let given = metadata.get("name").and_then(Value::as_str).unwrap_or_default();
        if !given.is_empty() && given != name {
            let message = format!("the name of the object ({given}) does not match the name on the URL ({name})");
            return Err(Failure::bad_request(message));
        }
        metadata.insert("name".into(), name.as_str().into());
    }
    Ok(())
}

/// Stores a new object; `applied` says that its managers are recorded already.
pub(crate) async fn insert(
    server: &Arc<Server>,
    call: &mut Call,
    (resource, target): Place<'_>,
    body: Value,
    applied: bool,
) -> Answer<Value> {
    let dry = call.query.dry_run()?;
    let base = object::meta(&body, "generateName").to_owned();
    let generate = object::name(&body).is_empty() && !base.is_empty();
    for attempt in 1..=NAMES {
        let mut object = body.clone();
        if generate {
            let name = rules::meta::generate_name(&base, &suffix());
            if let Some(metadata) = object::metadata_mut(&mut object) {
                metadata.insert("name".into(), name.into());
            }
        }
        let name = object::name(&object).to_owned();
        let reservation = prepare(server, call, (resource, target), &mut object, applied)?;
        let key = resource.key(target.namespace.as_deref(), &name);
        if dry {
            return match server.store.get(&key).0 {
                Some(_) => Err(Failure::already_exists(resource, &name)),
                None => Ok(object),
            };
        }
        let put = Op::Put { key, value: object::stored(resource, &object), when: Precondition::Absent };
        match server.store.write(put).await {
            Ok(revision) => {
                if let Some(reservation) = reservation {
                    reservation.keep();
                }
                object::set_version(&mut object, revision);
                crate::aftermath::written(server, call.origin, resource, Some(&object), None).await;
                return Ok(object);
            }
            Err(WriteError::Conflict { .. }) if generate && attempt < NAMES => {}
            Err(WriteError::Conflict { .. }) => return Err(Failure::already_exists(resource, &name)),
            Err(error) => return Err(store_failure(&error)),
        }
    }
    Err(Failure::timeout("no free name was found for generateName; try again"))
}

fn prepare(
    server: &Server,
    call: &mut Call,
    (resource, target): Place<'_>,
    object: &mut Value,
    applied: bool,
) -> Answer<Option<crate::addresses::Reservation>> {
    let (uid, now) = (uuid::Uuid::new_v4().to_string(), object::time(call.now));
    let creation = rules::meta::Creation { uid: &uid, now: &now, has_status: resource.status };
    default(resource, object);
    rules::meta::prepare_create(&resource.api_version, &resource.kind, object, &creation);
    // Before the server adds what nobody asked for: the author of an object does not come to own that, and so does not
    // take it away by applying a manifest that leaves it out.
    if !applied {
        with_manager(call, resource, "", |manager| rules::apply::track_update(None, object, &resource.schema, manager));
    }
    rules::meta::complete_create(&resource.api_version, &resource.kind, object, &uid);
    let write = Write { server, resource, namespace: target.namespace.as_deref(), old: None };
    let reservation = admission::admit(&write, call, object)?;
    validate(resource, None, object)?;
    let question = Question {
        resource,
        namespace: target.namespace.as_deref(),
        name: object::name(object),
        subresource: "",
        operation: Operation::Create,
        new: Some(object),
        old: None,
        dry: call.query.dry_run()?,
    };
    policy::judge(server, call, &question)?;
    Ok(reservation)
}

/// Five letters that are easy to tell apart and spell nothing.
fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5).map(|_| char::from(LETTERS[fastrand::usize(..LETTERS.len())])).collect()
}
