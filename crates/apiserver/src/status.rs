//! How a request fails: the `Status` objects of Kubernetes, with its codes, reasons and causes.
//!
//! Invariant: the wording that clients match on (`... not found`, `the object has been modified ...`) is upstream's.

use rules::field::FieldError;
use serde_json::{Map, Value, json};

use crate::catalog::Resource;

/// A failed request, ready to be sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    /// HTTP status.
    pub(crate) code: u16,
    /// Machine-readable reason, as upstream's `metav1.StatusReason`.
    pub(crate) reason: &'static str,
    /// What went wrong, for people.
    pub(crate) message: String,
    details: Map<String, Value>,
    /// For a list whose position has expired: where an inconsistent continuation would start.
    continue_token: Option<String>,
}

/// What every step returns.
pub(crate) type Answer<T> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Map::new(), continue_token: None }
    }

    fn on(mut self, resource: &Resource, name: &str) -> Self {
        if !name.is_empty() {
            self.details.insert("name".into(), name.into());
        }
        if !resource.group.is_empty() {
            self.details.insert("group".into(), resource.group.as_str().into());
        }
        self.details.insert("kind".into(), resource.plural.as_str().into());
        self
    }

    fn cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        let mut cause = Map::new();
        cause.insert("reason".into(), reason.into());
        cause.insert("message".into(), message.into());
        if !field.is_empty() {
            cause.insert("field".into(), field.into());
        }
        if let Value::Array(causes) = self.details.entry("causes").or_insert_with(|| json!([])) {
            causes.push(Value::Object(cause));
        }
        self
    }

    fn retry_after(mut self, seconds: u64) -> Self {
        self.details.insert("retryAfterSeconds".into(), seconds.into());
        self
    }

    /// How many seconds a client is asked to wait, for the `Retry-After` header.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        self.details.get("retryAfterSeconds").and_then(Value::as_u64)
    }

    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", resource.qualified())).on(resource, name)
    }

    pub(crate) fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub(crate) fn already_exists(resource: &Resource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", resource.qualified()))
            .on(resource, name)
    }

    pub(crate) fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.qualified());
        Self::new(409, "Conflict", message).on(resource, name)
    }

    pub(crate) fn modified(resource: &Resource, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    /// Fields of an object that break its rules.
    pub(crate) fn invalid(resource: &Resource, name: &str, errors: &[FieldError]) -> Self {
        let kind = if resource.group.is_empty() {
            resource.kind.clone()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let list = match errors {
            [one] => one.to_string(),
            many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        };
        let mut failure = Self::new(422, "Invalid", format!("{kind} \"{name}\" is invalid: {list}")).on(resource, name);
        failure.details.insert("kind".into(), resource.kind.as_str().into());
        for error in errors {
            let text = error.to_string();
            let body = text.strip_prefix(&format!("{}: ", error.path)).unwrap_or(&text);
            failure = failure.cause(error.kind.reason(), body, &error.path);
        }
        failure
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// A query parameter that makes no sense.
    pub(crate) fn bad_option(kind: &str, field: &str, why: &str) -> Self {
        let mut failure = Self::new(422, "Invalid", format!("{kind}.meta.k8s.io \"\" is invalid: {field}: {why}"))
            .cause("FieldValueInvalid", why, field);
        failure.details.insert("group".into(), "meta.k8s.io".into());
        failure.details.insert("kind".into(), kind.into());
        failure
    }

    pub(crate) fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        Self::new(403, "Forbidden", format!("{} \"{name}\" is forbidden: {why}", resource.qualified()))
            .on(resource, name)
    }

    /// The user may not do it. `group`, `resource` and `name` are empty for what is no resource.
    pub(crate) fn not_allowed(group: &str, resource: &str, name: &str, message: &str) -> Self {
        let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        let about = match (resource, name) {
            ("", _) => String::new(),
            (_, "") => format!("{qualified} is "),
            (_, name) => format!("{qualified} {name:?} is "),
        };
        let mut failure = Self::new(403, "Forbidden", format!("{about}forbidden: {message}"));
        for (field, value) in [("name", name), ("group", group), ("kind", resource)] {
            if !value.is_empty() {
                failure.details.insert(field.into(), value.into());
            }
        }
        failure
    }

    /// Nothing new may be made in a namespace that is going away.
    /// A policy does not let it pass; `reason` is one that policies may give (`Invalid` where it is none of them).
    pub(crate) fn denied(resource: &Resource, name: &str, reason: &str, why: &str) -> Self {
        let mut failure = Self::forbidden(resource, name, why);
        (failure.code, failure.reason) = match reason {
            "Unauthorized" => (401, "Unauthorized"),
            "Forbidden" => (403, "Forbidden"),
            "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
            _ => (422, "Invalid"),
        };
        failure.with_cause(reason, why)
    }

    pub(crate) fn namespace_terminating(resource: &Resource, name: &str, namespace: &str) -> Self {
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let message = format!("namespace {namespace} is being terminated");
        Self::forbidden(resource, name, &why).cause("NamespaceTerminating", &message, "metadata.namespace")
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    pub(crate) fn not_acceptable(offered: &str) -> Self {
        let message = format!("only the following media types are accepted: {offered}");
        Self::new(406, "NotAcceptable", message)
    }

    pub(crate) fn unsupported_media_type(accepted: &str) -> Self {
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    pub(crate) fn too_many_requests(what: impl Into<String>) -> Self {
        Self::new(429, "TooManyRequests", what).retry_after(1)
    }

    pub(crate) fn expired(requested: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {requested} ({oldest})"))
    }

    /// A list that can't go on where it was; `token` goes on at a newer state.
    pub(crate) fn continue_expired(token: String) -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result. You can start a new list \
                       without the continue parameter, or use the continue token in this response to retrieve the remainder of \
                       the results. Continuing with the provided token results in an inconsistent list - objects that were \
                       created, modified, or deleted between the time the first chunk was returned and now may show up in the \
                       list.";
        let mut failure = Self::new(410, "Expired", message);
        failure.continue_token = Some(token);
        failure
    }

    /// The client asks for a state that is not there yet.
    pub(crate) fn future_version(requested: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {requested}, current: {current}");
        Self::new(504, "Timeout", message)
            .cause("ResourceVersionTooLarge", "Too large resource version", "")
            .retry_after(1)
    }

    pub(crate) fn timeout(what: &str) -> Self {
        Self::new(504, "Timeout", what).retry_after(1)
    }

    pub(crate) fn unavailable(what: &str) -> Self {
        Self::new(503, "ServiceUnavailable", what).retry_after(1)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        let message = format!("Internal error occurred: {}", message.into());
        Self::new(500, "InternalError", message)
    }

    /// Server-side apply met fields that another manager owns.
    pub(crate) fn apply_conflict(message: String, causes: impl IntoIterator<Item = (String, String)>) -> Self {
        let start = Self::new(409, "Conflict", message);
        causes
            .into_iter()
            .fold(start, |failure, (field, message)| failure.cause("FieldManagerConflict", &message, &field))
    }

    /// A cause without a field, as evictions have.
    pub(crate) fn with_cause(self, reason: &str, message: &str) -> Self {
        self.cause(reason, message, "")
    }

    /// The `Status` object.
    pub(crate) fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some(token) = &self.continue_token {
            status["metadata"]["continue"] = token.as_str().into();
        }
        // Even when empty: clients look into it without asking whether it is there.
        status["details"] = Value::Object(self.details.clone());
        status
    }
}

/// The `Status` of something that went well and has no object to show.
pub(crate) fn success(resource: &Resource, name: &str, uid: Option<&str>) -> Value {
    let mut details = Map::new();
    details.insert("name".into(), name.into());
    if !resource.group.is_empty() {
        details.insert("group".into(), resource.group.as_str().into());
    }
    details.insert("kind".into(), resource.plural.as_str().into());
    if let Some(uid) = uid {
        details.insert("uid".into(), uid.into());
    }
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details })
}
