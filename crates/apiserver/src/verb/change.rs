//! Changing an object that is there: the loop that update, patch and the subresources share.
//!
//! Invariants: a change is made to the newest state or not at all; a change of nothing is not written.

use std::sync::Arc;

use rules::policy::Operation;
use serde_json::Value;
use store::{Op, Precondition, WriteError};

use super::{TRIES, default, store_failure, validate, with_manager};
use crate::addresses::Reservation;
use crate::admission::{self, Write};
use crate::call::Call;
use crate::catalog::Resource;
use crate::object;
use crate::policy::{self, Question};
use crate::server::{Place, Server};
use crate::status::{Answer, Failure};

/// Which part of an object a change may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status, where that is a part of its own.
    Whole,
    /// The status.
    Status,
    /// Through a subresource that sees to it itself what it touches (`binding`, `finalize`).
    Through(&'static str),
    /// `spec.replicas`.
    Scale,
}

impl Part {
    fn subresource(self) -> &'static str {
        match self {
            Self::Whole => "",
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Through(name) => name,
        }
    }
}

/// A change to be made: the part it may touch, and whether its managers are recorded by who makes it (apply).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) part: Part,
    pub(crate) applied: bool,
}

/// What makes the new object from the current one. Called again when another write came between.
pub(crate) type Make<'a> = dyn FnMut(&mut Call, &Value) -> Answer<Value> + Send + 'a;

/// Changes the object at the place; returns what it is now. A missing object is `None`.
pub(crate) async fn change(
    server: &Arc<Server>,
    call: &mut Call,
    (resource, target): Place<'_>,
    how: Change,
    make: &mut Make<'_>,
) -> Answer<Option<Value>> {
    let dry = call.query.dry_run()?;
    let name = target.name.as_deref().unwrap_or_default();
    let key = resource.key(target.namespace.as_deref(), name);
    for _ in 0..TRIES {
        let Some(entry) = server.store.get(&key).0 else { return Ok(None) };
        let current = object::read(resource, &entry)?;
        let made = make(call, &current)?;
        let (mut new, reservation) = plan(server, call, (resource, target), how, &current, made)?;
        if rules::meta::unchanged(&current, &new) {
            return Ok(Some(current));
        }
        let removes = rules::meta::ready_to_remove(&resource.api_version, &resource.kind, &new);
        if dry {
            object::set_version(&mut new, entry.revision);
            return Ok(Some(new));
        }
        let when = Precondition::Revision(entry.revision);
        let op = match removes {
            true => Op::Delete { key: key.clone(), when },
            false => Op::Put { key: key.clone(), value: object::stored(resource, &new), when },
        };
        match server.store.write(op).await {
            Ok(revision) => {
                if let Some(reservation) = reservation {
                    reservation.keep();
                }
                object::set_version(&mut new, revision);
                crate::aftermath::written(server, call.origin, resource, (!removes).then_some(&new), Some(&current))
                    .await;
                return Ok(Some(new));
            }
            Err(WriteError::Conflict { .. }) => {}
            Err(error) => return Err(store_failure(&error)),
        }
    }
    Err(Failure::modified(resource, name))
}

/// What would be stored.
fn plan(
    server: &Server,
    call: &mut Call,
    (resource, target): Place<'_>,
    how: Change,
    current: &Value,
    mut new: Value,
) -> Answer<(Value, Option<Reservation>)> {
    let name = target.name.as_deref().unwrap_or_default();
    preconditions(resource, name, current, &new)?;
    let (api_version, kind) = (&resource.api_version, &resource.kind);
    let direct = matches!(how.part, Part::Through(_));
    if !direct {
        // Before the comparison that counts generations: leaving out a default is no change.
        default(resource, &mut new);
    }
    match how.part {
        Part::Whole | Part::Scale => rules::meta::prepare_update(api_version, kind, current, &mut new, resource.status),
        Part::Status => rules::meta::prepare_status_update(api_version, kind, current, &mut new),
        Part::Through(_) => {}
    }
    let mut reservation = None;
    if !direct {
        let write = Write { server, resource, namespace: target.namespace.as_deref(), old: Some(current) };
        reservation = admission::admit(&write, call, &mut new)?;
        validate(resource, Some(current), &new)?;
        let question = Question {
            resource,
            namespace: target.namespace.as_deref(),
            name,
            subresource: how.part.subresource(),
            operation: Operation::Update,
            new: Some(&new),
            old: Some(current),
            dry: call.query.dry_run()?,
        };
        policy::judge(server, call, &question)?;
    }
    if !how.applied {
        with_manager(call, resource, how.part.subresource(), |manager| {
            rules::apply::track_update(Some(current), &mut new, &resource.schema, manager);
        });
    }
    Ok((new, reservation))
}

/// The version and identity that the new object claims to be of.
fn preconditions(resource: &Resource, name: &str, current: &Value, new: &Value) -> Answer<()> {
    let (claimed, is) = (object::meta(new, "uid"), object::meta(current, "uid"));
    if !claimed.is_empty() && claimed != is {
        let why = format!("Precondition failed: UID in precondition: {claimed}, UID in object meta: {is}");
        return Err(Failure::conflict(resource, name, &why));
    }
    let claimed = object::meta(new, "resourceVersion");
    if !claimed.is_empty() && claimed != "0" && claimed != object::meta(current, "resourceVersion") {
        return Err(Failure::modified(resource, name));
    }
    Ok(())
}
