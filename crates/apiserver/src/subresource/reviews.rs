//! Reviews: questions about who somebody is and what they may do, answered as this server would decide.

use rules::field::FieldError;
use rules::rbac::{Attributes, Decision, Subject, Target};
use serde_json::{Value, json};

use crate::call::{Call, Reply};
use crate::catalog::Resource;
use crate::credential::AUDIENCE;
use crate::identity;
use crate::intake;
use crate::object;
use crate::server::{Place, Server};
use crate::status::{Answer, Failure};

/// `POST` of a review.
pub(super) fn answer(server: &Server, call: &mut Call, (resource, target): Place<'_>) -> Answer<Reply> {
    let mut review = intake::object(call, resource)?;
    review["status"] = match resource.kind.as_str() {
        "SelfSubjectAccessReview" => {
            let user = call.user.clone();
            access(server, resource, &review, user.subject())?
        }
        "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            let groups = subject(resource, &review, target.namespace.as_deref())?;
            let name = review["spec"]["user"].as_str().unwrap_or_default();
            access(server, resource, &review, Subject { name, groups: &groups })?
        }
        "SelfSubjectRulesReview" => rules(server, call, &review)?,
        "SelfSubjectReview" => json!({ "userInfo": call.user.to_value() }),
        "TokenReview" => token(server, call, &review),
        _ => return Err(Failure::method_not_allowed()),
    };
    if review["metadata"].is_null() {
        review["metadata"] = json!({});
    }
    review["metadata"]["creationTimestamp"] = object::time(call.now).into();
    Ok(Reply::Object(201, resource.clone(), review))
}

/// The groups of the subject that a review is about.
fn subject(resource: &Resource, review: &Value, namespace: Option<&str>) -> Answer<Vec<String>> {
    let spec = &review["spec"];
    let groups: Vec<String> =
        spec["groups"].as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect();
    let refuse = |error: FieldError| Failure::invalid(resource, "", &[error]);
    if spec["user"].as_str().unwrap_or_default().is_empty() && groups.is_empty() {
        let error = FieldError::invalid("spec.user", "", "at least one of user or group must be specified");
        return Err(refuse(error));
    }
    if resource.kind == "LocalSubjectAccessReview" {
        let asked = &spec["resourceAttributes"]["namespace"];
        if asked.as_str() != namespace {
            let error = FieldError::invalid(
                "spec.resourceAttributes.namespace",
                asked.clone(),
                "must match metadata.namespace",
            );
            return Err(refuse(error));
        }
        if !spec["nonResourceAttributes"].is_null() {
            let error = FieldError::invalid(
                "spec.nonResourceAttributes",
                spec["nonResourceAttributes"].clone(),
                "disallowed on this kind of request",
            );
            return Err(refuse(error));
        }
    }
    Ok(groups)
}

fn access(server: &Server, resource: &Resource, review: &Value, subject: Subject<'_>) -> Answer<Value> {
    let spec = &review["spec"];
    if spec["resourceAttributes"].is_null() == spec["nonResourceAttributes"].is_null() {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        let error = FieldError::invalid("spec.resourceAttributes", spec["resourceAttributes"].clone(), why);
        return Err(Failure::invalid(resource, "", &[error]));
    }
    let (of, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let text = |from: &'_ Value, field: &str| from[field].as_str().unwrap_or_default().to_owned();
    let field = |name: &str| text(of, name);
    let (group, plural, subresource) = (field("group"), field("resource"), field("subresource"));
    let (namespace, name) = (field("namespace"), field("name"));
    let (verb, url) = match path.is_null() {
        true => (field("verb"), String::new()),
        false => (text(path, "verb"), text(path, "path")),
    };
    let target = match path.is_null() {
        true => Target::Resource {
            group: &group,
            resource: &plural,
            subresource: &subresource,
            namespace: &namespace,
            name: &name,
        },
        false => Target::Path(&url),
    };
    Ok(match server.access.decide(subject, &Attributes { verb: &verb, target }) {
        Decision::Allowed(reason) if reason.is_empty() => json!({ "allowed": true }),
        Decision::Allowed(reason) => json!({ "allowed": true, "reason": reason }),
        Decision::Denied(missing) if missing.is_empty() => json!({ "allowed": false }),
        Decision::Denied(missing) => json!({ "allowed": false, "reason": format!("RBAC: {}", missing.join(", ")) }),
    })
}

/// Everything that the caller may do in a namespace.
fn rules(server: &Server, call: &Call, review: &Value) -> Answer<Value> {
    let namespace = review["spec"]["namespace"].as_str().unwrap_or_default();
    if namespace.is_empty() {
        return Err(Failure::bad_request("no namespace on request"));
    }
    let held = server.access.with(|index| index.held_by(call.user.subject(), namespace));
    let (rules, missing) = (held.rules(), &held.errors);
    let of = |urls: bool| -> Vec<Value> {
        rules.iter().filter(|rule| rule.urls.is_empty() != urls).map(|rule| rule.to_value()).collect()
    };
    let mut status =
        json!({ "resourceRules": of(false), "nonResourceRules": of(true), "incomplete": !missing.is_empty() });
    if !missing.is_empty() {
        status["evaluationError"] = missing.join(", ").into();
    }
    Ok(status)
}

fn token(server: &Server, call: &Call, review: &Value) -> Value {
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    let uid = |namespace: &str, name: &str| server.account_uid(namespace, name);
    let Some(held) = identity::by_token(token, &server.credentials, call.now, &uid) else {
        return json!({ "authenticated": false, "error": "the token is not known, has expired, or its account is gone" });
    };
    let asked: Vec<&str> =
        review["spec"]["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    // Who asks for no audience asks whether the token is good for this server.
    let asked = if asked.is_empty() { vec![AUDIENCE] } else { asked };
    let audiences: Vec<String> = held.audiences.into_iter().filter(|one| asked.contains(&one.as_str())).collect();
    if audiences.is_empty() {
        return json!({ "authenticated": false, "error": "the token is for other audiences" });
    }
    json!({ "authenticated": true, "user": held.user.to_value(), "audiences": audiences })
}
