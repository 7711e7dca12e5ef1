//! Applications act as accounts that the API holds to what their projects allow: also when somebody has stolen one.

use http::{Method, Request};
use kube::client::Body;
use serde_json::{Value, json};

use crate::harness::{Cluster, Repository, WORDS, application, automated, config, deployment, map};

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

/// Makes the account `deployer` of a namespace one that may bring a Deployment, and read besides what is listed.
async fn deployer(cluster: &Cluster, namespace: &str, readable: &[&str]) {
    let rule =
        |group: &str, resources: &[&str]| json!({ "apiGroups": [group], "resources": resources, "verbs": ["*"] });
    let core = [&["configmaps"][..], readable].concat();
    cluster.apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } })).await;
    cluster
        .apply(&json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": "deployer", "namespace": namespace },
            "rules": [rule("", &core), rule("apps", &["deployments"])] }))
        .await;
    cluster
        .apply(&json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": "deployer", "namespace": namespace },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "deployer" },
            "subjects": [{ "kind": "ServiceAccount", "namespace": namespace, "name": "deployer" }] }))
        .await;
}

/// What the controllers and the node would say of the Deployment `web` whose program ends again and again.
async fn crash(cluster: &Cluster, namespace: &str) {
    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/web");
    let web = cluster.until(&path, "there", |object| object.is_some()).await.expect("it is there");
    let revision = json!({ "deployment.kubernetes.io/revision": "1" });
    let owned_by = |kind: &str, owner: &Value| json!([{ "apiVersion": "apps/v1", "kind": kind, "name": "web", "uid": owner["metadata"]["uid"], "controller": true }]);
    let set = json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": { "name": "web", "namespace": namespace, "annotations": revision, "ownerReferences": owned_by("Deployment", &web) },
        "spec": { "replicas": 1, "selector": { "matchLabels": { "app": "web" } }, "template": web["spec"]["template"] } });
    let set = cluster.apply(&set).await;
    let pod = json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "web-1", "namespace": namespace, "labels": { "app": "web" }, "ownerReferences": owned_by("ReplicaSet", &set) },
        "spec": { "containers": [{ "name": "web", "image": "web:1" }] } });
    cluster.apply(&pod).await;
    cluster
        .apply(&json!({ "apiVersion": "v1", "kind": "Event", "metadata": { "name": "web", "namespace": namespace }, "type": "Warning",
            "reason": "FailedCreate", "message": "exceeded quota: small",
            "involvedObject": { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "namespace": namespace } }))
        .await;
    let status = json!({ "status": { "containerStatuses": [{ "name": "web", "image": "web:1", "imageID": "", "ready": false,
        "restartCount": 3, "state": { "waiting": { "reason": "CrashLoopBackOff" } } }] } });
    let of_pod = format!("/api/v1/namespaces/{namespace}/pods/web-1/status");
    cluster.api.merge(&of_pod, &status, "person").await.expect("a status");
    let said = json!({ "metadata": { "annotations": revision } });
    let web = cluster.api.merge(&path, &said, "person").await.expect("a revision");
    let status = json!({ "status": { "observedGeneration": web["metadata"]["generation"], "replicas": 1, "unavailableReplicas": 1 } });
    cluster.api.merge(&format!("{path}/status"), &status, "person").await.expect("a status");
}

/// Whoever reads an Application's status learns no more of Pods than its account may read: neither their states nor their words.
/// It is judged all the same.
#[tokio::test(flavor = "multi_thread")]
async fn of_pods_is_told_what_the_account_may_read() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    let team = json!({ "sourceRepos": ["*"], "destinations": [{ "server": "*", "namespace": "*" }],
        "destinationServiceAccounts": [{ "server": "*", "namespace": "*", "defaultServiceAccount": "deployer" }] });
    cluster.apply(&project(team)).await;
    // In `waves` the sync itself waits for the Deployment, in `deploy` it is judged afterwards.
    repository.write("deploy/web.yaml", &deployment("web:1"));
    repository.write("waves/web.yaml", &deployment("web:1"));
    repository.write("waves/late.yaml", &map("late", "x", &json!({ "argocd.argoproj.io/sync-wave": "1" })));
    repository.commit("First");
    let state = "ends again and again";
    let cases = [
        ("nothing", &[][..], vec![], vec![state, WORDS, "quota"]),
        ("states", &["pods"][..], vec![state], vec![WORDS, "quota"]),
        ("words", &["pods", "pods/log", "events"][..], vec![state, WORDS], vec![]),
    ];
    for (name, readable, ..) in &cases {
        for path in ["deploy", "waves"] {
            let namespace = format!("{name}-{path}");
            deployer(&cluster, &namespace, readable).await;
            let mut object = of_team(&namespace, &repository);
            object["spec"]["source"]["path"] = path.into();
            object["spec"]["destination"]["namespace"] = namespace.as_str().into();
            cluster.apply(&object).await;
            crash(&cluster, &namespace).await;
        }
    }
    for (name, _, told, hidden) in cases {
        for path in ["deploy", "waves"] {
            let of = |status: &Value| {
                let all = status["conditions"].as_array().into_iter().flatten();
                let bad = all.filter(|one| one["type"] == "RevisionFailed" || one["type"] == "SyncError");
                bad.map(|one| one["message"].to_string()).collect::<String>()
            };
            let status = cluster.application(&format!("{name}-{path}"), "bad", |status| !of(status).is_empty()).await;
            let said = of(&status);
            assert!(said.contains("it is degraded") && !said.contains("forbidden"), "{name} {path}: {said}");
            assert!(told.iter().all(|one| said.contains(one)), "{name} {path}: {said}");
            assert!(!hidden.iter().any(|one| status.to_string().contains(one)), "{name} {path}: {status:#}");
            let quota = name == "words" && path == "deploy";
            assert_eq!(said.contains("quota"), quota, "{name} {path}: {said}");
        }
    }
    cluster.stop().await;
}
