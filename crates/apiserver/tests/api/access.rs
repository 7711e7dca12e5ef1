//! Who may do what: refusals, the moment at which bindings count, escalation, impersonation, reviews, the first roles.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::support::*;

pub(crate) const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const CAN_I: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// Sends `METHOD path` as somebody, with headers of impersonation; the code and the answer.
pub(crate) async fn ask(
    server: &Harness,
    user: &str,
    request: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> (u16, Value) {
    let (method, path) = request.split_once(' ').expect("a method");
    let media = if method == "PATCH" { "application/apply-patch+yaml" } else { "application/json" };
    let mut request = Request::builder().method(method).uri(path).header("content-type", media);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = request.body(Full::new(Bytes::from(body))).expect("a request");
    let answer = server.handle.service_as(user).oneshot(request);
    let response = match tokio::time::timeout(LIMIT, answer).await.expect("an answer in time") {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (code, serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into()))
}

pub(crate) async fn code(server: &Harness, user: &str, request: &str, body: Value) -> u16 {
    ask(server, user, request, &[], &body).await.0
}

pub(crate) fn role(name: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "metadata": { "name": name }, "rules": [{ "apiGroups": [""], "resources": resources, "verbs": verbs }] })
}

pub(crate) fn binding(name: &str, kind: &str, role: &str, user: &str) -> Value {
    json!({ "metadata": { "name": name }, "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }] })
}

#[tokio::test]
async fn refusals_are_upstreams() {
    let server = Harness::start().await;
    for (request, message, details) in [
        (
            "GET /apis/apps/v1/namespaces/y/deployments",
            r#"deployments.apps is forbidden: User "x" cannot list resource "deployments" in API group "apps" in the namespace "y""#,
            json!({ "group": "apps", "kind": "deployments" }),
        ),
        (
            "DELETE /api/v1/namespaces/y/pods/web",
            r#"pods "web" is forbidden: User "x" cannot delete resource "pods" in API group "" in the namespace "y""#,
            json!({ "name": "web", "kind": "pods" }),
        ),
        (
            "GET /api/v1/nodes?watch=true",
            r#"nodes is forbidden: User "x" cannot watch resource "nodes" in API group "" at the cluster scope"#,
            json!({ "kind": "nodes" }),
        ),
        (
            "GET /apis/none.example.com/v1/things",
            r#"things.none.example.com is forbidden: User "x" cannot list resource "things" in API group "none.example.com" at the cluster scope"#,
            json!({ "group": "none.example.com", "kind": "things" }),
        ),
        ("GET /metrics", r#"forbidden: User "x" cannot get path "/metrics""#, json!({})),
    ] {
        let (code, status) = ask(&server, "x", request, &[], &Value::Null).await;
        assert_eq!((code, &status["reason"], &status["message"]), (403, &json!("Forbidden"), &json!(message)));
        assert_eq!(status["details"], details, "{request}");
    }
    server.make(&format!("{RBAC}/clusterrolebindings"), binding("b", "ClusterRole", "gone", "x")).await;
    let (_, status) = ask(&server, "x", "GET /api/v1/nodes", &[], &Value::Null).await;
    let message = status["message"].as_str().expect("a message");
    assert!(message.ends_with(r#": RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found"#), "{message}");
    server.stop().await;
}

#[tokio::test]
async fn roles_count_from_the_moment_they_are_written() {
    let server = Harness::start().await;
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    assert_eq!(code(&server, "ann", &format!("GET {CONFIG_MAPS}"), Value::Null).await, 403);
    server.make(&roles, role("maps", &["configmaps"], &["get", "list", "create"])).await;
    server.make(&bindings, binding("maps", "Role", "maps", "ann")).await;
    let map = || config_map("a", json!({}));
    for (request, body, expected) in [
        (format!("GET {CONFIG_MAPS}"), Value::Null, 200),
        (format!("POST {CONFIG_MAPS}"), map(), 201),
        (format!("GET {CONFIG_MAPS}/a"), Value::Null, 200),
        (format!("GET {CONFIG_MAPS}?watch=true"), Value::Null, 403),
        (format!("PUT {CONFIG_MAPS}/a"), map(), 403),
        (format!("PATCH {CONFIG_MAPS}/a?fieldManager=x"), map(), 403),
        (format!("DELETE {CONFIG_MAPS}/a"), Value::Null, 403),
        (format!("DELETE {CONFIG_MAPS}"), Value::Null, 403),
        ("GET /api/v1/configmaps".into(), Value::Null, 403),
        ("GET /api/v1/namespaces/kube-system/configmaps".into(), Value::Null, 403),
    ] {
        assert_eq!(code(&server, "ann", &request, body).await, expected, "{request}");
    }
    // Applying what is not there makes it, which is another right.
    server.put(&format!("{roles}/maps"), role("maps", &["configmaps"], &["patch"])).await;
    let apply = |name: &str| format!("PATCH {CONFIG_MAPS}/{name}?fieldManager=x");
    let (refused, status) = ask(&server, "ann", &apply("new"), &[], &config_map("new", json!({}))).await;
    assert_eq!(refused, 403);
    assert!(status["message"].as_str().is_some_and(|text| text.contains("cannot create resource")), "{status}");
    assert_eq!(code(&server, "ann", &format!("{}&force=true", apply("a")), map()).await, 200);
    // Of one name, also in lists.
    let mut named = role("maps", &["configmaps"], &["get", "list", "watch"]);
    named["rules"][0]["resourceNames"] = json!(["a"]);
    server.put(&format!("{roles}/maps"), named).await;
    for (request, expected) in [
        (format!("GET {CONFIG_MAPS}/a"), 200),
        (format!("GET {CONFIG_MAPS}/b"), 403),
        (format!("GET {CONFIG_MAPS}"), 403),
        (format!("GET {CONFIG_MAPS}?fieldSelector=metadata.name%3Da"), 200),
        (format!("GET {CONFIG_MAPS}?fieldSelector=metadata.name%3Db"), 403),
    ] {
        assert_eq!(code(&server, "ann", &request, Value::Null).await, expected, "{request}");
    }
    server.delete(&format!("{bindings}/maps"), Value::Null).await;
    assert_eq!(code(&server, "ann", &format!("GET {CONFIG_MAPS}/a"), Value::Null).await, 403);
    server.stop().await;
}

#[tokio::test]
async fn nobody_gives_away_what_they_do_not_have() {
    let server = Harness::start().await;
    let (roles, bindings) =
        (format!("{RBAC}/namespaces/default/roles"), format!("{RBAC}/namespaces/default/rolebindings"));
    // An administrator of the namespace, as Kubernetes has them.
    server.make(&bindings, binding("ann", "ClusterRole", "admin", "ann")).await;
    let post = |what: &str| format!("POST {what}");
    assert_eq!(code(&server, "ann", &post(&roles), role("ok", &["pods", "configmaps"], &["get", "create"])).await, 201);
    let (refused, status) = ask(&server, "ann", &post(&roles), &[], &role("much", &["pods", "nodes"], &["get"])).await;
    assert_eq!(
        (refused, status["message"].as_str().expect("a message")),
        (
            403,
            "roles.rbac.authorization.k8s.io \"much\" is forbidden: user \"ann\" (groups=[\"system:authenticated\"]) is attempting to grant \
             RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\"]}"
        )
    );
    for (request, body, expected) in [
        (post(&bindings), binding("b1", "Role", "ok", "bob"), 201),
        (post(&bindings), binding("b2", "ClusterRole", "edit", "bob"), 201),
        (post(&bindings), binding("b3", "ClusterRole", "cluster-admin", "bob"), 403),
        (post(&bindings), binding("b4", "ClusterRole", "nothing", "bob"), 404),
        (format!("POST {RBAC}/clusterrolebindings"), binding("b5", "ClusterRole", "view", "bob"), 403),
        (format!("POST {RBAC}/namespaces/kube-system/rolebindings"), binding("b6", "ClusterRole", "view", "bob"), 403),
    ] {
        assert_eq!(code(&server, "ann", &request, body.clone()).await, expected, "{body}");
    }
    // A role that grew is not bound any more by those who have less, and an old one does not grow.
    let more = role("ok", &["pods", "nodes"], &["get"]);
    assert_eq!(code(&server, "ann", &format!("PUT {roles}/ok"), more.clone()).await, 403);
    server.put(&format!("{roles}/ok"), more).await;
    assert_eq!(code(&server, "ann", &post(&bindings), binding("b7", "Role", "ok", "bob")).await, 403);
    // Who may bind a role may.
    let mut bind = role("binder", &["clusterroles"], &["bind"]);
    bind["rules"][0]["apiGroups"] = json!(["rbac.authorization.k8s.io"]);
    bind["rules"][0]["resourceNames"] = json!(["cluster-admin"]);
    server.make(&format!("{RBAC}/clusterroles"), bind).await;
    server.make(&bindings, binding("binder", "ClusterRole", "binder", "ann")).await;
    assert_eq!(code(&server, "ann", &post(&bindings), binding("b3", "ClusterRole", "cluster-admin", "bob")).await, 201);
    server.stop().await;
}

#[tokio::test]
async fn aggregated_roles_show_what_they_come_to() {
    let server = Harness::start().await;
    let path = format!("{RBAC}/clusterroles");
    let mut part = role("widgets", &["widgets"], &["list"]);
    part["metadata"]["labels"] = json!({ "rbac.authorization.k8s.io/aggregate-to-view": "true" });
    server.make(&path, part).await;
    for name in ["view", "edit", "admin"] {
        let (_, role) = server.get(&format!("{path}/{name}")).await;
        assert!(role["rules"].to_string().contains("widgets"), "{name}: {role}");
    }
    server.make(&format!("{RBAC}/clusterrolebindings"), binding("v", "ClusterRole", "view", "ann")).await;
    assert_eq!(code(&server, "ann", "GET /api/v1/widgets", Value::Null).await, 404, "it may, but there are none");
    // Its own rules are nobody's to write.
    server.merge(&format!("{path}/view"), json!({ "rules": [] })).await;
    assert_eq!(code(&server, "ann", "GET /api/v1/pods", Value::Null).await, 200);
    assert!(server.get(&format!("{path}/view")).await.1["rules"].to_string().contains("widgets"));
    server.delete(&format!("{path}/widgets"), Value::Null).await;
    assert_eq!(code(&server, "ann", "GET /api/v1/widgets", Value::Null).await, 403);
    server.stop().await;
}

#[tokio::test]
async fn impersonation_is_a_right_of_its_own() {
    let server = Harness::start().await;
    let whoami = "POST /apis/authentication.k8s.io/v1/selfsubjectreviews";
    let bob = [("impersonate-user", "bob")];
    let (refused, status) = ask(&server, "ann", whoami, &bob, &json!({})).await;
    let message = r#"users "bob" is forbidden: User "ann" cannot impersonate resource "users" in API group "" at the cluster scope"#;
    assert_eq!((refused, &status["message"]), (403, &json!(message)));
    let mut may = role("as-bob", &["users"], &["impersonate"]);
    may["rules"][0]["resourceNames"] = json!(["bob"]);
    server.make(&format!("{RBAC}/clusterroles"), may).await;
    server.make(&format!("{RBAC}/clusterrolebindings"), binding("as-bob", "ClusterRole", "as-bob", "ann")).await;
    let (_, me) = ask(&server, "ann", whoami, &bob, &json!({})).await;
    assert_eq!(me["status"]["userInfo"], json!({ "username": "bob", "groups": ["system:authenticated"] }));
    for more in [
        ("impersonate-group", "system:masters"),
        ("impersonate-uid", "u"),
        ("impersonate-extra-scopes", "all"),
        ("impersonate-user", "eve"),
    ] {
        let headers = if more.0 == "impersonate-user" { vec![more] } else { vec![bob[0], more] };
        assert_eq!(ask(&server, "ann", whoami, &headers, &json!({})).await.0, 403, "{more:?}");
    }
    // Who is taken for another may what the other may.
    assert_eq!(ask(&server, "system:admin", "GET /api/v1/nodes", &bob, &Value::Null).await.0, 403);
    let all = [bob[0], ("impersonate-group", "system:masters"), ("impersonate-extra-team", "shop")];
    assert_eq!(ask(&server, "system:admin", "GET /api/v1/nodes", &all, &Value::Null).await.0, 200);
    let (_, me) = ask(&server, "system:admin", whoami, &all, &json!({})).await;
    assert_eq!(me["status"]["userInfo"]["extra"], json!({ "team": ["shop"] }));
    let account = [("impersonate-user", "system:serviceaccount:default:robot")];
    assert_eq!(ask(&server, "ann", whoami, &account, &json!({})).await.0, 403);
    let stranger = [("impersonate-user", "system:anonymous")];
    assert_eq!(ask(&server, "system:admin", "GET /version", &stranger, &Value::Null).await.0, 200);
    assert_eq!(ask(&server, "system:admin", "GET /apis", &stranger, &Value::Null).await.0, 403);
    server.stop().await;
}

#[tokio::test]
async fn reviews_answer_truthfully() {
    let server = Harness::start().await;
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    server.make(&bindings, binding("ann", "ClusterRole", "view", "ann")).await;
    let pods = |verb: &str, namespace: &str| json!({ "spec": { "resourceAttributes": { "verb": verb, "resource": "pods", "namespace": namespace } } });
    for (verb, namespace, allowed) in [("list", "default", true), ("delete", "default", false), ("list", "", false)] {
        let (_, review) = ask(&server, "ann", &format!("POST {CAN_I}"), &[], &pods(verb, namespace)).await;
        assert_eq!(review["status"]["allowed"], allowed, "{review}");
    }
    let (_, review) = ask(&server, "ann", &format!("POST {CAN_I}"), &[], &pods("list", "default")).await;
    let reason = r#"RBAC: allowed by RoleBinding "ann/default" of ClusterRole "view" to User "ann""#;
    assert_eq!(review["status"]["reason"], reason);
    let path = |path: &str| json!({ "spec": { "nonResourceAttributes": { "verb": "get", "path": path } } });
    for (url, allowed) in [("/apis", true), ("/metrics", false)] {
        let (_, review) = ask(&server, "ann", &format!("POST {CAN_I}"), &[], &path(url)).await;
        assert_eq!(review["status"]["allowed"], allowed, "{url}");
    }
    assert_eq!(code(&server, "ann", &format!("POST {CAN_I}"), json!({ "spec": {} })).await, 422);

    // About others: who may ask.
    let about = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let mut other = pods("list", "default");
    other["spec"]["user"] = "ann".into();
    assert_eq!(server.make(about, other.clone()).await["status"]["allowed"], true);
    assert_eq!(code(&server, "ann", &format!("POST {about}"), other.clone()).await, 403);
    other["spec"]["user"] = "bob".into();
    assert_eq!(server.make(about, other.clone()).await["status"]["allowed"], false);
    other["spec"]["groups"] = json!(["system:masters"]);
    assert_eq!(server.make(about, other.clone()).await["status"]["allowed"], true);
    assert_eq!(server.post(about, pods("list", "default")).await.0, 422, "about nobody");
    let local = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";
    assert_eq!(server.make(local, other.clone()).await["status"]["allowed"], true);
    other["spec"]["resourceAttributes"]["namespace"] = "kube-system".into();
    assert_eq!(server.post(local, other).await.0, 422);

    let rules = "POST /apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let (_, review) = ask(&server, "ann", rules, &[], &json!({ "spec": { "namespace": "default" } })).await;
    let (resources, urls) = (&review["status"]["resourceRules"], &review["status"]["nonResourceRules"]);
    assert!(resources.to_string().contains("pods/log") && !resources.to_string().contains("secrets"), "{review}");
    assert!(urls.to_string().contains("/openapi/*"), "{review}");
    let (_, review) = ask(&server, "ann", rules, &[], &json!({ "spec": { "namespace": "kube-system" } })).await;
    assert!(!review["status"]["resourceRules"].to_string().contains("pods"), "{review}");
    assert_eq!(code(&server, "ann", rules, json!({ "spec": {} })).await, 400);
    server.stop().await;
}

#[tokio::test]
async fn the_first_roles_are_put_back_at_each_start() {
    let server = Harness::start().await;
    let (roles, bindings) = (format!("{RBAC}/clusterroles"), format!("{RBAC}/clusterrolebindings"));
    let (_, discovery) = server.get(&format!("{roles}/system:discovery")).await;
    assert_eq!(discovery["metadata"]["labels"]["kubernetes.io/bootstrapping"], "rbac-defaults");
    let (_, admin) = server.get(&format!("{roles}/admin")).await;
    let rules = admin["rules"].to_string();
    assert!(rules.contains("pods/log") && rules.contains("rolebindings") && rules.contains("deployments/scale"));

    server.delete(&format!("{bindings}/system:basic-user"), Value::Null).await;
    server.delete(&format!("{roles}/system:basic-user"), Value::Null).await;
    let mine = json!({ "apiGroups": ["mine"], "resources": ["*"], "verbs": ["get"] });
    server.merge(&format!("{roles}/system:discovery"), json!({ "rules": [mine] })).await;
    let leave = json!({ "metadata": { "annotations": { "rbac.authorization.kubernetes.io/autoupdate": "false" } }, "rules": [] });
    server.merge(&format!("{roles}/system:monitoring"), leave).await;
    server.delete(&format!("{bindings}/system:monitoring"), Value::Null).await;
    server.make(&bindings, binding("system:monitoring", "ClusterRole", "view", "ann")).await;
    let folder = server.stop().await;

    let server = Harness::with(folder, |_| {}, |_| {}).await;
    assert_eq!(server.get(&format!("{bindings}/system:basic-user")).await.0, 200);
    assert_eq!(server.get(&format!("{roles}/system:basic-user")).await.0, 200);
    let (_, discovery) = server.get(&format!("{roles}/system:discovery")).await;
    assert_eq!(discovery["rules"].as_array().map(Vec::len), Some(2), "what was added stays: {discovery}");
    assert_eq!(server.get(&format!("{roles}/system:monitoring")).await.1["rules"], json!([]), "left alone as it asks");
    let (_, monitoring) = server.get(&format!("{bindings}/system:monitoring")).await;
    assert_eq!(monitoring["roleRef"]["name"], "system:monitoring", "made anew, as it gave another role");
    // A second start changes nothing.
    let revision = server.store.revision();
    let folder = server.stop().await;
    let server = Harness::with(folder, |_| {}, |_| {}).await;
    let (_, list) = server.text(Method::GET, &roles).await;
    let newest: Value = serde_json::from_str(&list).expect("JSON");
    let versions = newest["items"].as_array().into_iter().flatten().map(|one| &one["metadata"]["resourceVersion"]);
    for version in versions {
        let version: u64 = version.as_str().and_then(|text| text.parse().ok()).expect("a version");
        assert!(version <= revision, "nothing was written");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_role_too_large_to_be_looked_at_is_refused() {
    let server = Harness::start().await;
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    server.make(&bindings, binding("ann", "ClusterRole", "admin", "ann")).await;
    let words = |many: usize| -> Vec<String> { (0..many).map(|n| format!("w{n}")).collect() };
    let rule = |groups: usize, resources: usize, names: usize, verbs: usize| {
        json!({ "metadata": { "name": "huge" }, "rules": [{ "apiGroups": words(groups), "resources": words(resources),
            "resourceNames": words(names), "verbs": words(verbs) }] })
    };
    // Without verbs it says nothing, however much it says it about.
    let post = format!("POST {roles}");
    for (role, expected) in [
        (rule(3000, 3000, 3000, 0), "verbs must contain at least one value"),
        (rule(3000, 0, 3000, 3000), "at least one resource"),
    ] {
        for request in [post.clone(), format!("{post}?dryRun=All")] {
            let (code, status) = ask(&server, "ann", &request, &[], &role).await;
            assert_eq!(code, 422, "{status}");
            assert!(status["message"].as_str().is_some_and(|text| text.contains(expected)), "{status}");
        }
    }
    for user in ["ann", "system:admin"] {
        let (code, status) = ask(&server, user, &post, &[], &rule(1, 1, 0, 100_000)).await;
        let message = status["message"].as_str().expect("a message");
        assert_eq!(code, 422, "{user}: {message}");
        assert!(message.contains("rules") && message.contains("10000"), "{message}");
    }
    assert_eq!(code(&server, "system:admin", &post, rule(1, 1, 0, 5000)).await, 201);
    server.stop().await;
}

#[tokio::test]
async fn many_aggregated_roles_are_brought_up_to_date_one_after_the_other() {
    let server = Harness::start().await;
    let path = format!("{RBAC}/clusterroles");
    const MANY: usize = 100;
    for number in 0..MANY {
        let whole = json!({ "metadata": { "name": format!("whole-{number}") },
            "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "part-of": "whole" } }] } });
        server.make(&path, whole).await;
    }
    let mut part = role("part", &["widgets"], &["list"]);
    part["metadata"]["labels"] = json!({ "part-of": "whole" });
    server.make(&path, part).await;
    for number in [0, MANY - 1] {
        let (_, whole) = server.get(&format!("{path}/whole-{number}")).await;
        assert!(whole["rules"].to_string().contains("widgets"), "{whole}");
    }
    let before = server.store.revision();
    server.make(&path, role("other", &["pods"], &["get"])).await;
    assert_eq!(server.store.revision(), before + 1, "nothing else is written");
    server.stop().await;
}

#[tokio::test]
async fn the_administrators_token_is_for_this_server_alone() {
    let server = Harness::start().await;
    let config = std::fs::read_to_string(server.handle.kubeconfig_path()).expect("a kubeconfig");
    let config: Value = serde_json::from_str(&config).expect("JSON");
    let token = &config["users"][0]["user"]["token"];
    let review = |audiences: Value| json!({ "spec": { "token": token, "audiences": audiences } });
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let mine = server.make(path, review(json!([]))).await;
    assert_eq!(mine["status"]["authenticated"], true, "{mine}");
    let own = mine["status"]["audiences"].clone();
    for (asked, expected) in [(json!(["vault"]), false), (json!(["vault", own[0]]), true)] {
        let review = server.make(path, review(asked)).await;
        assert_eq!(review["status"]["authenticated"], expected, "{review}");
        if expected {
            assert_eq!(review["status"]["audiences"], own);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn one_object_that_is_refused_does_not_keep_the_server_from_starting() {
    let server = Harness::start().await;
    let (roles, bindings) = (format!("{RBAC}/clusterroles"), format!("{RBAC}/clusterrolebindings"));
    server.delete(&format!("{roles}/system:basic-user"), Value::Null).await;
    // Default-named bindings that give another role: one that nobody may delete, one that does not go at once.
    for (name, metadata) in [
        ("system:discovery", json!({ "annotations": { "coracle.dev/protect": "true" } })),
        ("system:monitoring", json!({ "finalizers": ["example.com/wait"] })),
    ] {
        server.delete(&format!("{bindings}/{name}"), Value::Null).await;
        let mut other = binding(name, "ClusterRole", "view", "ann");
        for (field, value) in metadata.as_object().expect("fields") {
            other["metadata"][field] = value.clone();
        }
        server.make(&bindings, other).await;
    }
    // The address of this server's own Service is another's.
    let address = server.get(&format!("{SERVICES}/kubernetes")).await.1["spec"]["clusterIP"].clone();
    server.delete(&format!("{SERVICES}/kubernetes"), Value::Null).await;
    server
        .make(
            SERVICES,
            json!({ "metadata": { "name": "thief" }, "spec": { "clusterIP": address, "ports": [{ "port": 1 }] } }),
        )
        .await;
    let admission = "/apis/admissionregistration.k8s.io/v1";
    let rule = json!({ "apiGroups": ["rbac.authorization.k8s.io"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"] });
    let no = json!({ "metadata": { "name": "no" }, "spec": { "matchConstraints": { "resourceRules": [rule] }, "validations": [{ "expression": "false" }] } });
    server.make(&format!("{admission}/validatingadmissionpolicies"), no).await;
    let bound = json!({ "metadata": { "name": "no" }, "spec": { "policyName": "no", "validationActions": ["Deny"] } });
    server.make(&format!("{admission}/validatingadmissionpolicybindings"), bound).await;
    let (code, refused) = server.post(&roles, role("mine", &["pods"], &["get"])).await;
    assert_eq!(code, 422, "the policy holds for people: {refused}");
    let folder = server.stop().await;

    let server = Harness::with(folder, |_| {}, |_| {}).await;
    assert_eq!(server.get(&format!("{roles}/system:basic-user")).await.0, 200, "the server's own are exempt");
    let given = async |name: &str| server.get(&format!("{bindings}/{name}")).await.1;
    assert_eq!(given("system:discovery").await["roleRef"]["name"], "view", "protected");
    let marked = given("system:monitoring").await;
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
    assert_eq!(server.get(&format!("{SERVICES}/kubernetes")).await.0, 404);
    // The way out is open: what stands in the way goes, and the next start makes it anew.
    server.delete(&format!("{admission}/validatingadmissionpolicybindings/no"), Value::Null).await;
    server.merge(&format!("{bindings}/system:monitoring"), json!({ "metadata": { "finalizers": null } })).await;
    server.delete(&format!("{SERVICES}/thief"), Value::Null).await;
    let folder = server.stop().await;
    let server = Harness::with(folder, |_| {}, |_| {}).await;
    let (_, made) = server.get(&format!("{bindings}/system:monitoring")).await;
    assert_eq!(made["roleRef"]["name"], "system:monitoring", "{made}");
    assert_eq!(server.get(&format!("{SERVICES}/kubernetes")).await.0, 200);
    server.stop().await;
}
