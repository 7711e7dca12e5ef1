//! `serviceaccounts/token`: a token that says who its holder is. A rehearsal has everything but the token.

use std::sync::Arc;

use rules::field::FieldError;
use serde_json::{Value, json};

use crate::call::{Call, Reply};
use crate::intake;
use crate::object;
use crate::server::{Place, Server};
use crate::status::{Answer, Failure};

/// The shortest and the longest life of a token, in seconds, and the usual one.
const LIFE: (i64, i64, i64) = (600, 365 * 24 * 3600, 3600);

/// `POST` to `serviceaccounts/NAME/token`.
pub(super) fn issue(server: &Arc<Server>, call: &mut Call, (resource, target): Place<'_>) -> Answer<Reply> {
    let dry = call.query.dry_run()?;
    let mut request = intake::value(call)?.0;
    let name = target.name.as_deref().unwrap_or_default();
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let entry = server.store.get(&resource.key(Some(namespace), name)).0;
    let account = object::read(resource, &entry.ok_or_else(|| Failure::not_found(resource, name))?)?;
    let spec = &request["spec"];
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(LIFE.2);
    if !(LIFE.0..=LIFE.1).contains(&seconds) {
        let why = if seconds < LIFE.0 {
            "may not specify a duration less than 10 minutes"
        } else {
            "may not specify a duration larger than a year"
        };
        let error = FieldError::invalid("spec.expirationSeconds", seconds, why);
        return Err(Failure::invalid(resource, name, &[error]));
    }
    let audiences: Vec<String> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect();
    if !spec["boundObjectRef"].is_null() {
        call.warn("boundObjectRef is not acted on in this version: the token lives on when the object is deleted");
    }
    let (token, ends) =
        server.credentials.issue(namespace, name, object::meta(&account, "uid"), &audiences, call.now, seconds);
    // Kubernetes issues one that works all the same. A rehearsal is not in the audit trail, so there it would be a credential that nobody
    // was told of.
    let token = if dry { String::new() } else { token };
    let audiences = if audiences.is_empty() { vec![crate::credential::AUDIENCE.to_owned()] } else { audiences };
    if !request.is_object() {
        request = json!({});
    }
    request["apiVersion"] = "authentication.k8s.io/v1".into();
    request["kind"] = "TokenRequest".into();
    request["metadata"] = json!({ "name": name, "namespace": namespace, "creationTimestamp": object::time(call.now) });
    request["spec"]["audiences"] = audiences.into();
    request["spec"]["expirationSeconds"] = seconds.into();
    request["status"] = json!({ "token": token, "expirationTimestamp": object::time(ends) });
    Ok(Reply::Plain(201, Value::take(&mut request)))
}
