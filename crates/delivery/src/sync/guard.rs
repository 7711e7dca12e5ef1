//! A client that can only do what one application may: it acts as a ServiceAccount, which the API holds to its roles, and
//! requests that lead out of the application's namespaces and kinds are refused before they are sent, in the project's words.
//!
//! Invariants: what is not understood is refused; discovery is always allowed, because it tells nothing of anybody's objects; an
//! account that is made here has its roles before its first request.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::json;
use tokio::sync::Mutex;

use super::account::plan::Account;
use super::account::{Accounts, Wanted};
use super::front::project::Project;
use crate::kinds::Kinds;

/// Makes clients that can only do what an application may.
#[derive(Clone)]
pub(crate) struct Guard {
    client: kube::Client,
    limits: Arc<Limits>,
    accounts: Arc<Accounts>,
    /// The namespaces that there are, once the account has its roles.
    namespaces: Arc<Mutex<Option<Namespaces>>>,
}

/// The namespaces that there are; `None` where the account is for all.
type Namespaces = Option<BTreeSet<String>>;

/// The ServiceAccount that an application acts as.
pub(crate) enum Acting {
    /// One that the project or the Kustomization names: `system:serviceaccount:NAMESPACE:NAME`. Its roles are its owner's business.
    Named(String),
    /// The application's own, whose roles are made from the project. Its own namespace.
    Own(Account, String),
}

struct Limits {
    project: Project,
    kinds: Kinds,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    account: String,
    /// What the account is made from, where it is made here.
    wanted: Option<Wanted>,
    /// What the application is called in refusals.
    who: String,
}

impl Guard {
    /// A client for one application of a project, acting as a ServiceAccount.
    #[must_use]
    pub(crate) fn client(
        client: kube::Client,
        accounts: Arc<Accounts>,
        project: Project,
        kinds: Kinds,
        acting: Acting,
        who: String,
    ) -> kube::Client {
        let (account, wanted) = match acting {
            Acting::Named(account) => (account, None),
            Acting::Own(account, destination) => {
                let (project, kinds) = (project.clone(), kinds.clone());
                (account.user(), Some(Wanted { account, project, kinds, destination }))
            }
        };
        let limits = Arc::new(Limits { project, kinds, account, wanted, who });
        kube::Client::new(Guard { client, limits, accounts, namespaces: Arc::default() }, "default")
    }

    /// Gives the account its roles, once; a namespace that is not there is answered for here, as the account has no role in it.
    async fn prepare(&self, path: &str) -> Option<Response<Body>> {
        let wanted = self.limits.wanted.as_ref()?;
        let mut known = self.namespaces.lock().await;
        if known.is_none() {
            match self.accounts.ensure(wanted).await {
                Ok(namespaces) => *known = Some(namespaces),
                Err(reason) => return Some(answer(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", &reason)),
            }
        }
        let (namespace, inside) = namespace_of(path)?;
        let missing = known.as_ref()?.as_ref().is_some_and(|all| !all.contains(namespace));
        let reason = format!("namespaces {namespace:?} not found");
        (inside && missing).then(|| answer(StatusCode::NOT_FOUND, "NotFound", &reason))
    }

    /// In a new namespace the account needs a role: it gets it before the next request.
    async fn learn(&self, writes: bool, path: &str, status: StatusCode) {
        if writes && status.is_success() && namespace_of(path).is_some_and(|(_, inside)| !inside) {
            *self.namespaces.lock().await = None;
        }
    }

    /// After a refusal the account's roles are looked at again, as somebody may have taken them away. Whether that was done.
    async fn mend(&self, path: &str) -> bool {
        let Some(wanted) = &self.limits.wanted else { return false };
        self.accounts.doubt(&wanted.account).await;
        *self.namespaces.lock().await = None;
        self.prepare(path).await.is_none()
    }
}

/// The namespace of a path, and whether the path leads into it (else it is about the namespace itself).
fn namespace_of(path: &str) -> Option<(&str, bool)> {
    let mut parts = path.split('/').filter(|part| !part.is_empty()).skip_while(|part| *part != "namespaces").skip(1);
    let namespace = parts.next()?;
    Some((namespace, parts.next().is_some()))
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
            return Box::pin(async move { Ok(answer(StatusCode::FORBIDDEN, "Forbidden", &reason)) });
        }
        if let Ok(account) = HeaderValue::from_str(&self.limits.account) {
            request.headers_mut().insert("impersonate-user", account);
        }
        let guard = self.clone();
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            if let Some(answer) = guard.prepare(&path).await {
                return Ok(answer);
            }
            let rehearsal = request.uri().query().is_some_and(|query| query.contains("dryRun"));
            let writes = *request.method() != Method::GET && !rehearsal;
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await?;
            let request = || Request::from_parts(head.clone(), Body::from(body.clone()));
            let mut response = guard.client.send(request()).await?;
            if response.status() == StatusCode::FORBIDDEN && guard.mend(&path).await {
                response = guard.client.send(request()).await?;
            }
            guard.learn(writes, &path, response.status()).await;
            Ok(response)
        })
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

fn answer(code: StatusCode, reason: &str, message: &str) -> Response<Body> {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason,
        "message": message, "code": code.as_u16() });
    let mut response = Response::new(Body::from(status.to_string().into_bytes()));
    *response.status_mut() = code;
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
        let account = "system:serviceaccount:shop:deployer".into();
        Limits { project, kinds, account, wanted: None, who: "application shop".into() }
    }

    #[test]
    fn paths_lead_into_namespaces_or_are_about_them() {
        for (path, expected) in [
            ("/api/v1/namespaces/shop/configmaps/a", Some(("shop", true))),
            ("/apis/apps/v1/namespaces/shop/deployments", Some(("shop", true))),
            ("/api/v1/namespaces/shop", Some(("shop", false))),
            ("/api/v1/namespaces", None),
            ("/api/v1/nodes/n", None),
        ] {
            assert_eq!(namespace_of(path), expected, "{path}");
        }
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
