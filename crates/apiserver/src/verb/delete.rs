//! `delete` and `deletecollection`.

use std::sync::Arc;

use rules::meta::{DeleteRequest, Deletion, Propagation};
use rules::policy::Operation;
use serde_json::{Value, json};
use store::{Op, Precondition, WriteError};

use super::{TRIES, store_failure};
use crate::call::{Call, Reply};
use crate::catalog::Resource;
use crate::intake;
use crate::list;
use crate::object;
use crate::policy::{self, Question};
use crate::protection;
use crate::selection::Selection;
use crate::server::{Place, Server};
use crate::status::{self, Answer, Failure};

/// What a client wants of a deletion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) grace: Option<i64>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) dry: bool,
}

/// What came of a deletion.
pub(crate) enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Value),
    /// It is marked and goes when its finalizers and grace period are over.
    Marked(Value),
}

/// `DELETE` of an object.
pub(crate) async fn delete(server: &Arc<Server>, call: &mut Call, (resource, target): Place<'_>) -> Answer<Reply> {
    let options = options(call)?;
    call.rehearsed = options.dry;
    let name = target.name.as_deref().unwrap_or_default();
    let deleted = one(server, call, resource, target.namespace.as_deref(), name, &options).await?;
    Ok(match deleted {
        Deleted::Gone(last) if returns_object(resource) => Reply::Object(200, resource.clone(), last),
        Deleted::Gone(last) => Reply::Plain(200, status::success(resource, name, Some(object::meta(&last, "uid")))),
        Deleted::Marked(object) => Reply::Object(200, resource.clone(), object),
    })
}

/// `DELETE` of a collection.
pub(crate) async fn collection(server: &Arc<Server>, call: &mut Call, (resource, target): Place<'_>) -> Answer<Reply> {
    if resource.namespaced && target.namespace.is_none() {
        return Err(Failure::method_not_allowed());
    }
    let options = options(call)?;
    call.rehearsed = options.dry;
    let selection = Selection::parse(&call.query, resource)?;
    let page = list::page(server, &call.query, resource, target, &selection)?;
    let mut items = Vec::with_capacity(page.items.len());
    for entry in page.items {
        let (namespace, name) = resource.place(&entry.key);
        match Box::pin(one(server, call, resource, namespace, name, &options)).await {
            Ok(Deleted::Gone(object) | Deleted::Marked(object)) => items.push(object),
            Err(failure) if failure.code == 404 => {}
            Err(failure) => return Err(failure),
        }
    }
    let metadata = json!({ "resourceVersion": server.store.revision().to_string(), "continue": page.continue_token });
    let list =
        json!({ "kind": resource.list_kind, "apiVersion": resource.api_version, "metadata": metadata, "items": items });
    Ok(Reply::Plain(200, list))
}

/// Deletes one object.
pub(crate) async fn one(
    server: &Arc<Server>,
    call: &mut Call,
    resource: &Arc<Resource>,
    namespace: Option<&str>,
    name: &str,
    options: &Options,
) -> Answer<Deleted> {
    let key = resource.key(namespace, name);
    for _ in 0..TRIES {
        let entry = server.store.get(&key).0.ok_or_else(|| Failure::not_found(resource, name))?;
        let current = object::read(resource, &entry)?;
        check(resource, &current, options)?;
        protection::hold(server, resource, namespace, &current)?;
        let question = Question {
            resource,
            namespace,
            name,
            subresource: "",
            operation: Operation::Delete,
            new: None,
            old: Some(&current),
            dry: options.dry,
        };
        policy::judge(server, call, &question)?;
        let request = DeleteRequest {
            now: call.now,
            grace_seconds: options.grace,
            propagation: propagation(resource, &current, options),
        };
        let plan = rules::meta::delete(&resource.api_version, &resource.kind, &current, &request);
        let when = Precondition::Revision(entry.revision);
        let (op, new) = match plan {
            Deletion::Pending => return Ok(Deleted::Marked(current)),
            Deletion::Remove => (Op::Delete { key: key.clone(), when }, None),
            Deletion::Mark(new) => {
                (Op::Put { key: key.clone(), value: object::stored(resource, &new), when }, Some(new))
            }
        };
        if options.dry {
            return Ok(new.map_or(Deleted::Gone(current), Deleted::Marked));
        }
        match server.store.write(op).await {
            Ok(revision) => {
                let mut shown = new.clone().unwrap_or_else(|| current.clone());
                object::set_version(&mut shown, revision);
                crate::aftermath::written(server, call.origin, resource, new.as_ref(), Some(&current)).await;
                return Ok(if new.is_some() { Deleted::Marked(shown) } else { Deleted::Gone(shown) });
            }
            Err(WriteError::Conflict { .. }) => {}
            Err(error) => return Err(store_failure(&error)),
        }
    }
    Err(Failure::modified(resource, name))
}

fn check(resource: &Resource, current: &Value, options: &Options) -> Answer<()> {
    let name = object::name(current);
    for (what, wanted, is) in [
        ("UID", &options.uid, object::meta(current, "uid")),
        ("ResourceVersion", &options.resource_version, object::meta(current, "resourceVersion")),
    ] {
        if let Some(wanted) = wanted.as_ref().filter(|wanted| *wanted != is) {
            let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {is}");
            return Err(Failure::conflict(resource, name, &why));
        }
    }
    if resource.is("", "namespaces") && matches!(name, "default" | "kube-system" | "kube-public") {
        return Err(Failure::forbidden(resource, name, "this namespace may not be deleted"));
    }
    Ok(())
}

/// What becomes of dependents: as asked, else as finalizers that are there say, else as is usual for the kind.
fn propagation(resource: &Resource, current: &Value, options: &Options) -> Option<Propagation> {
    let has = |finalizer: &str| object::finalizers(current).contains(&finalizer);
    let decided = has(rules::meta::FOREGROUND_FINALIZER) || has(rules::meta::ORPHAN_FINALIZER);
    match options.propagation {
        // As upstream: Jobs deleted without a policy leave their Pods.
        None if !decided && resource.is("batch", "jobs") => Some(Propagation::Orphan),
        asked => asked,
    }
}

/// The kinds whose deletion answers with the object instead of a Status, as upstream.
fn returns_object(resource: &Resource) -> bool {
    resource.group.is_empty()
        && matches!(
            resource.plural.as_str(),
            "pods"
                | "services"
                | "serviceaccounts"
                | "persistentvolumes"
                | "persistentvolumeclaims"
                | "podtemplates"
                | "resourcequotas"
        )
}

/// Whether `dryRun` of DeleteOptions says that nothing is to be deleted. What it can't mean is refused: else it would delete.
fn rehearsed(said: &Value) -> Answer<bool> {
    let values = match said {
        Value::Null => &[][..],
        Value::Array(values) => values,
        other => std::slice::from_ref(other),
    };
    match values.iter().find(|value| !said.is_array() || **value != "All") {
        None => Ok(!values.is_empty()),
        Some(wrong) => {
            let why = format!("Unsupported value: {wrong}: supported values: \"All\"");
            Err(Failure::bad_option("DeleteOptions", "dryRun", &why))
        }
    }
}

/// Reads DeleteOptions from the body, or from the query when there is no body.
pub(crate) fn options(call: &Call) -> Answer<Options> {
    let body = if call.body.is_empty() { Value::Null } else { intake::value(call)?.0 };
    from(&body, call)
}

/// Reads DeleteOptions from a value, or from the query when it is null.
pub(crate) fn from(body: &Value, call: &Call) -> Answer<Options> {
    let text = |field: &str| {
        let given = body[field].as_str().map(str::to_owned);
        given.or_else(|| call.query.get(field).map(str::to_owned))
    };
    let grace = match body["gracePeriodSeconds"].as_i64() {
        Some(seconds) => Some(seconds),
        None => call.query.number("gracePeriodSeconds")?,
    };
    let orphan = body["orphanDependents"]
        .as_bool()
        .or_else(|| call.query.has("orphanDependents").then(|| call.query.flag("orphanDependents")));
    let propagation = match (text("propagationPolicy").as_deref(), orphan) {
        (Some(_), Some(_)) => {
            let why = "Invalid value: orphanDependents and deletionPropagation cannot be both set";
            return Err(Failure::bad_option("DeleteOptions", "propagationPolicy", why));
        }
        (None, Some(true)) | (Some("Orphan"), None) => Some(Propagation::Orphan),
        (None, Some(false)) | (Some("Background"), None) => Some(Propagation::Background),
        (Some("Foreground"), None) => Some(Propagation::Foreground),
        (None, None) => None,
        (Some(other), None) => {
            let why =
                format!("Unsupported value: {other:?}: supported values: \"Background\", \"Foreground\", \"Orphan\"");
            return Err(Failure::bad_option("DeleteOptions", "propagationPolicy", &why));
        }
    };
    let preconditions = &body["preconditions"];
    let in_body = rehearsed(&body["dryRun"])?;
    Ok(Options {
        grace,
        propagation,
        uid: preconditions["uid"].as_str().map(str::to_owned),
        resource_version: preconditions["resourceVersion"].as_str().map(str::to_owned),
        dry: in_body || call.query.dry_run()?,
    })
}
