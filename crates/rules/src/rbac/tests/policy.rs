//! The policy that a cluster begins with.

use super::*;
use crate::rbac::bootstrap::{self, Declared, Reconciled, reconcile};

fn begun() -> Index {
    let mut index = Index::default();
    for Declared { plural, object } in bootstrap::objects() {
        index.set(plural, "", object["metadata"]["name"].as_str().expect("a name"), Some(&object));
    }
    for (name, role) in [("a", "admin"), ("e", "edit"), ("v", "view")] {
        index.set(
            "rolebindings",
            "shop",
            name,
            Some(&binding(name, "ClusterRole", role, json!([{ "kind": "User", "name": name }]))),
        );
    }
    index
}

#[test]
fn everyone_gets_what_they_need() {
    let index = begun();
    for (user, question, expected) in [
        ("sa:shop:default", "get /apis", true),
        ("sa:shop:default", "get /openapi/v3/apis/apps/v1", true),
        ("sa:shop:default", "create authorization.k8s.io/selfsubjectaccessreviews - -", true),
        ("sa:shop:default", "get core/pods shop x", false),
        ("sa:shop:default", "get core/secrets shop x", false),
        ("sa:shop:default", "get /metrics", false),
        ("system:anonymous in system:unauthenticated", "get /healthz", true),
        ("system:anonymous in system:unauthenticated", "get /version", true),
        ("system:anonymous in system:unauthenticated", "get /apis", false),
        ("v", "list core/pods shop -", true),
        ("v", "get core/pods/log shop p", true),
        ("v", "get core/secrets shop s", false),
        ("v", "list apps/deployments bank -", false),
        ("v", "list gateway.networking.k8s.io/httproutes shop -", true),
        ("e", "create apps/deployments shop -", true),
        ("e", "get core/secrets shop s", true),
        ("e", "patch mesh.coracle.dev/accesspolicies shop p", true),
        ("e", "create rbac.authorization.k8s.io/rolebindings shop -", false),
        ("e", "create argoproj.io/applications shop -", false),
        ("a", "create rbac.authorization.k8s.io/rolebindings shop -", true),
        ("a", "update core/resourcequotas shop q", false),
        ("a", "escalate rbac.authorization.k8s.io/roles shop r", false),
        ("a", "list core/nodes - -", false),
        ("sa:kube-system:replicaset-controller", "create core/pods shop -", true),
        ("sa:kube-system:replicaset-controller", "get core/secrets shop s", false),
        ("sa:kube-system:deployment-controller", "create core/pods shop -", false),
        ("sa:kube-system:generic-garbage-collector", "delete example.com/widgets shop w", true),
        ("sa:kube-system:event-recorder", "create core/events shop -", true),
        ("sa:shop:event-recorder", "create core/events shop -", false),
        ("system:node:coracle in system:nodes,system:authenticated", "patch core/pods/status shop p", true),
        (
            "system:node:coracle in system:nodes,system:authenticated",
            "create rbac.authorization.k8s.io/roles shop -",
            false,
        ),
        ("system:coracle:mesh", "patch gateway.networking.k8s.io/gateways/status shop g", true),
        ("system:coracle:mesh", "patch security.istio.io/peerauthentications/status shop p", true),
        ("system:coracle:mesh", "patch security.istio.io/peerauthentications shop p", false),
        ("system:coracle:mesh", "create apps/deployments shop -", false),
        ("system:coracle:mesh", "patch security.istio.io/peerauthentications/status shop p", true),
        ("system:coracle:mesh", "patch security.istio.io/peerauthentications shop p", false),
        ("system:coracle:sync", "impersonate core/serviceaccounts shop deployer", true),
        ("system:coracle:sync", "impersonate core/groups - system:masters", false),
        ("system:coracle:sync", "delete apps/deployments shop web", false),
    ] {
        assert_eq!(may(&index, user, question), expected, "{user}: {question}");
    }
}

#[test]
fn names_are_given_once_and_bindings_lead_somewhere() {
    let objects = bootstrap::objects();
    let names = |plural: &str| -> Vec<String> {
        let of = objects.iter().filter(|one| one.plural == plural);
        of.map(|one| one.object["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
    };
    let (roles, bindings) = (names("clusterroles"), names("clusterrolebindings"));
    for list in [&roles, &bindings] {
        let once: std::collections::BTreeSet<_> = list.iter().collect();
        assert_eq!(once.len(), list.len());
    }
    for binding in &bindings {
        assert!(roles.contains(binding), "{binding}");
    }
    for Declared { plural, object } in &objects {
        let kind = if *plural == "clusterroles" { "ClusterRole" } else { "ClusterRoleBinding" };
        let wrong = crate::validate::create("rbac.authorization.k8s.io/v1", kind, object);
        assert_eq!(wrong, [], "{object}");
        assert_eq!(object["metadata"]["labels"]["kubernetes.io/bootstrapping"], "rbac-defaults");
    }
}

#[test]
fn what_is_missing_is_put_back_and_what_was_added_stays() {
    let objects = bootstrap::objects();
    let find = |plural: &str, name: &str| {
        objects.iter().find(|one| one.plural == plural && one.object["metadata"]["name"] == name).expect("declared")
    };
    for declared in &objects {
        assert_eq!(reconcile(declared, &declared.object), Reconciled::Right, "{}", declared.object);
    }
    let declared = find("clusterroles", "system:discovery");
    let extra = json!({ "nonResourceURLs": ["/extra"], "verbs": ["get"] });
    let mut current = declared.object.clone();
    current["rules"] = json!([extra]);
    let Reconciled::Update(new) = reconcile(declared, &current) else { panic!("an update") };
    assert_eq!(new["rules"], json!([extra, declared.object["rules"][0]]));
    current["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] = "false".into();
    assert_eq!(reconcile(declared, &current), Reconciled::Right, "left alone");

    let declared = find("clusterrolebindings", "system:public-info-viewer");
    let mut current = declared.object.clone();
    current["subjects"] = json!([{ "kind": "User", "name": "ann" }, current["subjects"][0]]);
    let Reconciled::Update(new) = reconcile(declared, &current) else { panic!("an update") };
    assert_eq!(new["subjects"].as_array().map(Vec::len), Some(3));
    current["roleRef"]["name"] = "other".into();
    assert_eq!(reconcile(declared, &current), Reconciled::Replace);

    let declared = find("clusterroles", "view");
    let mut current = declared.object.clone();
    current["rules"] = json!([extra]);
    assert_eq!(reconcile(declared, &current), Reconciled::Right, "its rules are those of others");
    current["aggregationRule"] = Value::Null;
    assert!(
        matches!(reconcile(declared, &current), Reconciled::Update(new) if new["aggregationRule"] == declared.object["aggregationRule"])
    );
}
