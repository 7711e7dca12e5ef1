//! What a request wants to do, in the words of roles: verb, resource, name. Pure.
//!
//! Invariant: what is asked about is what is done. A request that could be read in two ways is asked about in the way it is carried
//! out.

use http::Method;
use rules::rbac::{Attributes, Target as Asked};
use rules::select::FieldSelector;

use crate::access::Access;
use crate::identity::User;
use crate::query::{Query, percent_decode};
use crate::route::{Route, Target};
use crate::status::Answer;

/// What a request wants.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Question<'a> {
    Resource { verb: &'static str, target: &'a Target, namespace: &'a str, name: String },
    Path { verb: String, path: String },
}

/// What a request to `route` wants.
pub(crate) fn question<'a>(route: &'a Route, path: &str, method: &Method, query: &Query) -> Question<'a> {
    let Route::Resource(target) = route else {
        let path = percent_decode(path, false).unwrap_or_else(|| path.to_owned());
        let verb = if *method == Method::HEAD { "get".to_owned() } else { method.as_str().to_ascii_lowercase() };
        return Question::Path { verb, path };
    };
    of_resource(target, method, query)
}

/// What a request to a resource wants.
pub(crate) fn of_resource<'a>(target: &'a Target, method: &Method, query: &Query) -> Question<'a> {
    let named = target.name.is_some();
    let verb = match (method.as_str(), named) {
        ("GET", _) if target.subresource.is_none() && query.flag("watch") => "watch",
        ("GET" | "HEAD", true) => "get",
        ("GET" | "HEAD", false) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => "",
    };
    let name = match &target.name {
        Some(name) => name.clone(),
        None if matches!(verb, "list" | "watch" | "deletecollection") => selected(query),
        None => String::new(),
    };
    // What is done to a namespace is done in it, so that a role in it can allow it.
    let own = (target.group.is_empty() && target.resource == "namespaces").then_some(target.name.as_deref()).flatten();
    let namespace = target.namespace.as_deref().or(own).unwrap_or_default();
    Question::Resource { verb, target, namespace, name }
}

/// The one name that a field selector leaves.
fn selected(query: &Query) -> String {
    let Some(Ok(selector)) = query.get("fieldSelector").map(FieldSelector::parse) else { return String::new() };
    selector.exact("metadata.name").map(str::to_owned).unwrap_or_default()
}

impl Question<'_> {
    /// Asks the authorizer about all that it takes.
    pub(crate) fn require(&self, access: &Access, user: &User) -> Answer<()> {
        let attributes = self.attributes();
        access.require(user, &attributes)?;
        if self.is_connected_to_by_get() {
            access.require(user, &Attributes { verb: "create", ..attributes })?;
        }
        Ok(())
    }

    /// Whether a `GET` does what a `POST` does: who may read all there is of Pods may not run programs in them. So it is in Kubernetes
    /// from 1.35 on.
    fn is_connected_to_by_get(&self) -> bool {
        let Self::Resource { verb: "get", target, .. } = self else { return false };
        let part = target.subresource.as_deref().unwrap_or_default();
        (target.group.as_str(), target.resource.as_str()) == ("", "pods")
            && matches!(part, "attach" | "exec" | "portforward")
    }

    /// As the authorizer is asked.
    pub(crate) fn attributes(&self) -> Attributes<'_> {
        match self {
            Self::Path { verb, path } => Attributes { verb, target: Asked::Path(path) },
            Self::Resource { verb, target, namespace, name } => Attributes {
                verb,
                target: Asked::Resource {
                    group: &target.group,
                    resource: &target.resource,
                    subresource: target.subresource.as_deref().unwrap_or_default(),
                    namespace,
                    name,
                },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route;

    #[test]
    fn requests_in_the_words_of_roles() {
        let pods = r#"resource "pods" in API group """#;
        for (request, verb, name, expected) in [
            ("GET /api/v1/namespaces/a/pods/b", "get", "b", format!("{pods} in the namespace \"a\"")),
            ("HEAD /api/v1/namespaces/a/pods/b", "get", "b", format!("{pods} in the namespace \"a\"")),
            ("GET /api/v1/pods", "list", "", format!("{pods} at the cluster scope")),
            ("GET /api/v1/pods?watch=true", "watch", "", format!("{pods} at the cluster scope")),
            ("GET /api/v1/pods?watch=false", "list", "", format!("{pods} at the cluster scope")),
            ("GET /api/v1/watch/namespaces/a/pods", "watch", "", format!("{pods} in the namespace \"a\"")),
            ("GET /api/v1/namespaces/a/pods/b?watch=1", "watch", "b", format!("{pods} in the namespace \"a\"")),
            (
                "GET /api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dc",
                "list",
                "c",
                format!("{pods} in the namespace \"a\""),
            ),
            (
                "GET /api/v1/namespaces/a/pods?fieldSelector=metadata.name!%3Dc",
                "list",
                "",
                format!("{pods} in the namespace \"a\""),
            ),
            (
                "GET /api/v1/pods?watch=true&fieldSelector=spec.nodeName%3Dx,metadata.name%3Dc",
                "watch",
                "c",
                format!("{pods} at the cluster scope"),
            ),
            ("POST /api/v1/namespaces/a/pods", "create", "", format!("{pods} in the namespace \"a\"")),
            ("PUT /api/v1/namespaces/a/pods/b", "update", "b", format!("{pods} in the namespace \"a\"")),
            (
                "PATCH /apis/apps/v1/namespaces/a/deployments/b/scale",
                "patch",
                "b",
                r#"resource "deployments/scale" in API group "apps" in the namespace "a""#.into(),
            ),
            (
                "GET /api/v1/namespaces/a/pods/b/log?follow=true&watch=true",
                "get",
                "b",
                r#"resource "pods/log" in API group "" in the namespace "a""#.into(),
            ),
            ("DELETE /api/v1/namespaces/a/pods/b", "delete", "b", format!("{pods} in the namespace \"a\"")),
            ("DELETE /api/v1/namespaces/a/pods", "deletecollection", "", format!("{pods} in the namespace \"a\"")),
            (
                "GET /api/v1/namespaces/a",
                "get",
                "a",
                r#"resource "namespaces" in API group "" in the namespace "a""#.into(),
            ),
            (
                "PUT /api/v1/namespaces/a/finalize",
                "update",
                "a",
                r#"resource "namespaces/finalize" in API group "" in the namespace "a""#.into(),
            ),
            (
                "POST /api/v1/namespaces",
                "create",
                "",
                r#"resource "namespaces" in API group "" at the cluster scope"#.into(),
            ),
            (
                "TRACE /api/v1/namespaces",
                "",
                "",
                r#"resource "namespaces" in API group "" at the cluster scope"#.into(),
            ),
            ("GET /metrics", "get", "", r#"path "/metrics""#.into()),
            ("HEAD /apis", "get", "", r#"path "/apis""#.into()),
            ("POST /%63oracle/v1/x", "post", "", r#"path "/coracle/v1/x""#.into()),
        ] {
            let (method, target) = request.split_once(' ').expect("a method");
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let route = route::parse(path);
            let mut query = Query::parse(Some(query));
            if matches!(&route, Route::Resource(target) if target.watch) {
                query.set("watch", "true");
            }
            let question = question(&route, path, &Method::from_bytes(method.as_bytes()).expect("a method"), &query);
            let asked = question.attributes();
            assert_eq!((asked.verb, asked.to_string()), (verb, format!("{verb} {expected}")), "{request}");
            if let Asked::Resource { name: asked, .. } = asked.target {
                assert_eq!(asked, name, "{request}");
            }
        }
    }
}
