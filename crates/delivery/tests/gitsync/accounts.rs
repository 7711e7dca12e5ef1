//! Applications act as accounts that the API holds to what their projects allow: also when somebody has stolen one.

use http::{Method, Request};
use kube::client::Body;
use serde_json::{Value, json};

use crate::harness::{Cluster, Repository, application, automated, config, map};

const ACCOUNTS: &str = "/api/v1/namespaces/kube-system/serviceaccounts";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
/// The account of the Application `shop`.
const SHOP: &str = "sync.application.argocd.shop";

fn project(spec: Value) -> Value {
    json!({ "apiVersion": "argoproj.io/v1alpha1", "kind": "AppProject",
        "metadata": { "name": "team", "namespace": "argocd" }, "spec": spec })
}

fn of_team(name: &str, repository: &Repository) -> Value {
    let mut object = automated(name, repository);
    object["spec"]["project"] = "team".into();
    object
}

/// What the API answers to `METHOD path` of a service account.
async fn as_account(cluster: &Cluster, account: &str, request: &str, body: &Value) -> u16 {
    let (method, path) = request.split_once(' ').expect("a method");
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).expect("a method"))
        .uri(path)
        .header("content-type", "application/json")
        .header("impersonate-user", format!("system:serviceaccount:{account}"))
        .body(Body::from(body))
        .expect("a request");
    cluster.client.send(request).await.expect("an answer").status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_account_cannot_leave_its_project() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    let team = json!({ "sourceRepos": ["*"], "destinations": [{ "server": "*", "namespace": "shop" }],
        "namespaceResourceBlacklist": [{ "group": "", "kind": "Secret" }] });
    cluster.apply(&project(team)).await;
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let first = repository.commit("First");
    cluster.apply(&of_team("shop", &repository)).await;
    cluster.synced("shop", &first).await;
    let account = format!("kube-system:{SHOP}");
    let new = json!({ "metadata": { "name": "new" } });
    for (request, body, code) in [
        ("GET /api/v1/namespaces/shop/configmaps/a", Value::Null, 200),
        ("POST /api/v1/namespaces/shop/configmaps", new.clone(), 201),
        ("GET /api/v1/namespaces/shop/secrets", Value::Null, 403),
        ("POST /api/v1/namespaces/shop/secrets", new.clone(), 403),
        ("GET /api/v1/namespaces/default/configmaps", Value::Null, 403),
        ("POST /api/v1/namespaces/default/configmaps", new.clone(), 403),
        ("GET /api/v1/configmaps", Value::Null, 403),
        ("GET /api/v1/namespaces/argocd/secrets", Value::Null, 403),
        ("DELETE /api/v1/namespaces/default", Value::Null, 403),
        ("POST /api/v1/namespaces", new.clone(), 403),
        ("GET /api/v1/nodes", Value::Null, 403),
        (&format!("POST {ACCOUNTS}/{SHOP}/token"), json!({ "spec": {} }), 403),
    ] {
        assert_eq!(as_account(&cluster, &account, request, &body).await, code, "{request}");
    }
    // Nor does it give itself more.
    let more = json!({ "metadata": { "name": "more" }, "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "kind": "ServiceAccount", "namespace": "kube-system", "name": SHOP }] });
    for path in [format!("{RBAC}/namespaces/shop/rolebindings"), format!("{RBAC}/clusterrolebindings")] {
        assert_eq!(as_account(&cluster, &account, &format!("POST {path}"), &more).await, 403, "{path}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_follows_its_project_and_goes_with_its_application() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    let to =
        |namespace: &str| json!({ "sourceRepos": ["*"], "destinations": [{ "server": "*", "namespace": namespace }] });
    cluster.apply(&project(to("*"))).await;
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let first = repository.commit("First");
    cluster.apply(&of_team("shop", &repository)).await;
    cluster.synced("shop", &first).await;
    let account = format!("kube-system:{SHOP}");
    let get = "GET /api/v1/namespaces/default/configmaps";
    assert_eq!(as_account(&cluster, &account, get, &Value::Null).await, 200);
    cluster.apply(&project(to("shop"))).await;
    let everywhere = format!("{RBAC}/clusterrolebindings/coracle:{SHOP}");
    cluster.until(&everywhere, "taken away", |object| object.is_none()).await;
    let here = format!("{RBAC}/namespaces/shop/rolebindings/coracle:{SHOP}");
    cluster.until(&here, "there", |object| object.is_some()).await;
    assert_eq!(as_account(&cluster, &account, get, &Value::Null).await, 403);
    repository.write("deploy/a.yaml", &map("a", "two", &json!({})));
    let second = repository.commit("Second");
    cluster.synced("shop", &second).await;
    // Somebody takes the role away: it is given back, and the sync goes on.
    cluster.api.delete(&here, "").await.expect("it was there");
    repository.write("deploy/a.yaml", &map("a", "three", &json!({})));
    let third = repository.commit("Third");
    cluster.synced("shop", &third).await;

    cluster.api.delete(&application("shop"), "").await.expect("it was there");
    for path in [
        format!("{ACCOUNTS}/{SHOP}"),
        here,
        format!("{RBAC}/clusterroles/coracle:{SHOP}"),
        format!("{RBAC}/clusterrolebindings/coracle:{SHOP}:cluster"),
    ] {
        cluster.until(&path, "gone with its application", |object| object.is_none()).await;
    }
    assert!(cluster.api.find(&config("a")).await.expect("an answer").is_some(), "what it made stays, as nobody asked");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_made_first_needs_no_more_than_the_project_allows() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    let team = json!({ "sourceRepos": ["*"], "destinations": [{ "server": "*", "namespace": "team-*" }] });
    cluster.apply(&project(team)).await;
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let first = repository.commit("First");
    let mut object = of_team("shop", &repository);
    object["spec"]["destination"]["namespace"] = "team-new".into();
    object["spec"]["syncPolicy"]["syncOptions"] = json!(["CreateNamespace=true"]);
    cluster.apply(&object).await;
    cluster.synced("shop", &first).await;
    let account = format!("kube-system:{SHOP}");
    for (namespace, code) in [("team-new", 200), ("shop", 403)] {
        let request = format!("GET /api/v1/namespaces/{namespace}/configmaps");
        assert_eq!(as_account(&cluster, &account, &request, &Value::Null).await, code, "{namespace}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_named_needs_its_own_role_and_the_lack_is_named() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    let team = json!({ "sourceRepos": ["*"], "destinations": [{ "server": "*", "namespace": "shop" }],
        "destinationServiceAccounts": [{ "server": "*", "namespace": "shop", "defaultServiceAccount": "deployer" }] });
    cluster.apply(&project(team)).await;
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let first = repository.commit("First");
    cluster.apply(&of_team("shop", &repository)).await;
    let status =
        cluster.application("shop", "refused", |status| status["conditions"].to_string().contains("permission:")).await;
    let conditions = status["conditions"].to_string();
    assert!(conditions.contains("system:serviceaccount:shop:deployer"), "{conditions}");
    assert!(conditions.contains(r#"cannot get resource \"configmaps\""#), "{conditions}");
    let edit = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": "deployer", "namespace": "shop" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit" },
        "subjects": [{ "kind": "ServiceAccount", "namespace": "shop", "name": "deployer" }] });
    cluster.apply(&edit).await;
    let refresh = json!({ "metadata": { "annotations": { "argocd.argoproj.io/refresh": "normal" } } });
    cluster.api.merge(&application("shop"), &refresh, "person").await.expect("a refresh");
    cluster.synced("shop", &first).await;
    assert!(
        cluster.api.find(&format!("{ACCOUNTS}/{SHOP}")).await.expect("an answer").is_none(),
        "none is made beside it"
    );
    cluster.stop().await;
}
