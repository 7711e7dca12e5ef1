//! A client that can only do what one application may: it acts as a ServiceAccount, and requests that lead out of the
//! application's namespaces and kinds are refused before they are sent.
//!
//! Invariants: what is not understood is refused; discovery is always allowed, because it tells nothing of anybody's objects.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::json;

use super::front::project::Project;
use crate::kinds::Kinds;

/// Makes clients that can only do what an application may.
#[derive(Clone)]
pub(crate) struct Guard {
    client: kube::Client,
    limits: Arc<Limits>,
}

struct Limits {
    project: Project,
    kinds: Kinds,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    account: String,
    /// What the application is called in refusals.
    who: String,
}

impl Guard {
    /// A client for one application of a project, acting as a ServiceAccount.
    #[must_use]
    pub(crate) fn client(
        client: kube::Client,
        project: Project,
        kinds: Kinds,
        account: String,
        who: String,
    ) -> kube::Client {
        let limits = Arc::new(Limits { project, kinds, account, who });
        kube::Client::new(Guard { client, limits }, "default")
    }
}

impl tower::Service<Request<Body>> for Guard {
    type Response = Response<Body>;
    type Error = tower::BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Err(reason) = self.limits.check(request.method(), request.uri().path()) {
            tracing::warn!(who = self.limits.who, reason, "a request was refused before it was sent");
            return Box::pin(async move { Ok(forbidden(&reason)) });
        }
        if let Ok(account) = HeaderValue::from_str(&self.limits.account) {
            request.headers_mut().insert("impersonate-user", account);
        }
        let client = self.client.clone();
        Box::pin(async move { client.send(request).await.map_err(Into::into) })
    }
}

impl Limits {
    fn check(&self, method: &Method, path: &str) -> Result<(), String> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (group, rest) = match parts.as_slice() {
            ["api"] | ["apis"] | ["api", _] | ["apis", _] | ["apis", _, _] | ["version"] | ["openapi", ..] => {
                return Ok(());
            }
            ["api", _, rest @ ..] => ("", rest),
            ["apis", group, _, rest @ ..] => (*group, rest),
            _ => return Err(format!("{} may not use the path {path}", self.who)),
        };
        let (namespace, plural) = match rest {
            ["namespaces", namespace, plural, ..] if !matches!(*plural, "status" | "finalize") => (*namespace, *plural),
            [plural, ..] => ("", *plural),
            [] => return Ok(()),
        };
        let kind = self.kinds.preferred().find(|one| one.group == group && one.plural == plural);
        let Some(kind) = kind else {
            // Nothing can be made of a kind that is not there; the server says so better.
            return if *method == Method::GET {
                Ok(())
            } else {
                Err(format!("{} may not write {plural}.{group}", self.who))
            };
        };
        let allowed = match (kind.namespaced && namespace.is_empty(), kind.kind.as_str(), rest) {
            (true, ..) => Err(format!("{} may not reach across all namespaces", self.who)),
            // The destination's own namespace may be made and read, as CreateNamespace asks for.
            (_, "Namespace", ["namespaces", name, ..]) if group.is_empty() && self.project.allows_namespace(name) => {
                Ok(())
            }
            _ => self.project.allows(group, &kind.kind, namespace),
        };
        allowed.map_err(|reason| format!("{}: {reason}", self.who))
    }
}

fn forbidden(reason: &str) -> Response<Body> {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Forbidden",
        "message": reason, "code": 403 });
    let mut response = Response::new(Body::from(status.to_string().into_bytes()));
    *response.status_mut() = StatusCode::FORBIDDEN;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        let resource = |name: &str, kind: &str, scope: &str| json!({ "resource": name, "scope": scope, "responseKind": { "kind": kind } });
        let kinds = Kinds::from_discovery(&[
            json!({ "items": [{ "metadata": {}, "versions": [{ "version": "v1", "resources": [
                resource("configmaps", "ConfigMap", "Namespaced"), resource("secrets", "Secret", "Namespaced"),
                resource("namespaces", "Namespace", "Cluster"), resource("nodes", "Node", "Cluster")] }] }] }),
            json!({ "items": [{ "metadata": { "name": "apps" }, "versions": [{ "version": "v1", "resources": [
                resource("deployments", "Deployment", "Namespaced")] }] }] }),
        ]);
        let project = Project::read(&json!({ "metadata": { "name": "team" }, "spec": {
            "destinations": [{ "server": "*", "namespace": "shop" }],
            "namespaceResourceBlacklist": [{ "group": "", "kind": "Secret" }] } }));
        Limits { project, kinds, account: "system:serviceaccount:shop:deployer".into(), who: "application shop".into() }
    }

    #[test]
    fn nothing_leaves_the_namespaces_and_kinds_that_are_allowed() {
        for (method, path, good) in [
            ("PATCH", "/apis/apps/v1/namespaces/shop/deployments/web", true),
            ("GET", "/api/v1/namespaces/shop/configmaps/a", true),
            ("GET", "/apis", true),
            ("GET", "/apis/apps/v1", true),
            ("PATCH", "/api/v1/namespaces/shop", true),
            ("PATCH", "/api/v1/namespaces/kube-system", false),
            ("PATCH", "/api/v1/namespaces/shop/secrets/a", false),
            ("GET", "/api/v1/namespaces/kube-system/configmaps/a", false),
            ("GET", "/api/v1/configmaps", false),
            ("DELETE", "/api/v1/nodes/coracle", false),
            ("POST", "/apis/example.com/v1/namespaces/shop/widgets", false),
            ("GET", "/metrics", false),
            ("PATCH", "/api/v1/namespaces/kube-system/status", false),
        ] {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            assert_eq!(limits().check(&method, path).is_ok(), good, "{method} {path}");
        }
    }
}
