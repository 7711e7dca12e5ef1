//! Reviews: questions about who somebody is and what they may do, answered as this server would decide.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::call::{Call, Reply};
use crate::catalog::Resource;
use crate::identity::{self, NOT_ENFORCED};
use crate::intake;
use crate::object;
use crate::server::Server;
use crate::status::{Answer, Failure};

/// `POST` of a review.
pub(super) fn answer(server: &Server, call: &mut Call, resource: &Arc<Resource>) -> Answer<Reply> {
    let mut review = intake::object(call, resource)?;
    review["status"] = match resource.kind.as_str() {
        "SelfSubjectAccessReview" | "SubjectAccessReview" | "LocalSubjectAccessReview" => access(resource, &review)?,
        "SelfSubjectRulesReview" => json!({
            "resourceRules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }],
            "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }],
            "incomplete": false,
        }),
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

fn access(resource: &Resource, review: &Value) -> Answer<Value> {
    let spec = &review["spec"];
    if spec["resourceAttributes"].is_null() == spec["nonResourceAttributes"].is_null() {
        return Err(Failure::bad_request(format!(
            "a {} has exactly one of spec.resourceAttributes and spec.nonResourceAttributes",
            resource.kind
        )));
    }
    let in_group =
        |name: &str| spec["groups"].as_array().is_some_and(|groups| groups.iter().any(|group| group == name));
    let stranger = resource.kind != "SelfSubjectAccessReview"
        && (in_group("system:unauthenticated") || spec["user"] == "system:anonymous");
    Ok(match stranger {
        true => json!({ "allowed": false, "reason": "strangers may see nothing but the server's health and version" }),
        false => json!({ "allowed": true, "reason": NOT_ENFORCED }),
    })
}

fn token(server: &Server, call: &Call, review: &Value) -> Value {
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    let uid = |namespace: &str, name: &str| server.account_uid(namespace, name);
    let Some(user) = identity::by_token(token, &server.credentials, call.now, &uid) else {
        return json!({ "authenticated": false, "error": "the token is not known, has expired, or its account is gone" });
    };
    let held = server.credentials.verify(token, call.now).map(|claims| claims.audiences);
    let asked: Vec<&str> =
        review["spec"]["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let audiences: Vec<String> = match held {
        Some(held) if !asked.is_empty() => held.into_iter().filter(|one| asked.contains(&one.as_str())).collect(),
        Some(held) => held,
        None => asked.iter().map(|one| (*one).to_owned()).collect(),
    };
    if audiences.is_empty() && !asked.is_empty() {
        return json!({ "authenticated": false, "error": "the token is for other audiences" });
    }
    json!({ "authenticated": true, "user": user.to_value(), "audiences": audiences })
}
