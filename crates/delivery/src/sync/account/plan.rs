//! What the account of an application may do: roles and bindings made from its project's destinations and kinds.
//!
//! Pure. Invariant: the roles allow nothing that [`Project::allows`] refuses. RBAC knows no denials, so a project that limits kinds
//! gets the kinds that are left, by name, as the API has them now; and none of the verbs by which more could be had (`escalate`,
//! `bind`, `impersonate`), nor tokens of other accounts.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::kinds::{Kinds, Resource};
use crate::sync::application::{AppId, Front};
use crate::sync::front::project::Project;

const GROUP: &str = "rbac.authorization.k8s.io";
/// Where the accounts are: who may use accounts there may do everything already.
pub(crate) const NAMESPACE: &str = "kube-system";
/// The label on all that is made for an account; its value is [`Account::mark`].
pub(crate) const LABEL: &str = "coracle.dev/sync-account";
/// The annotation with the path of the object that the account is for.
pub(crate) const FOR: &str = "coracle.dev/sync-account-for";

const VERBS: [&str; 8] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

/// The account of an application.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Account {
    /// Its name in [`NAMESPACE`].
    pub(crate) name: String,
    /// The path of the application.
    pub(crate) path: String,
}

impl Account {
    /// The account of an application. Names of namespaces have no dots, so no two applications have one.
    pub(crate) fn of(id: &AppId) -> Self {
        let front = match id.front {
            Front::Argo => "application",
            Front::Flux => "kustomization",
        };
        let mut name = format!("sync.{front}.{}.{}", id.namespace, id.name);
        if name.len() > 200 {
            name = format!("sync.{front}.{}", digest(&name));
        }
        Self { name, path: id.path() }
    }

    /// Its user name.
    pub(crate) fn user(&self) -> String {
        format!("system:serviceaccount:{NAMESPACE}:{}", self.name)
    }

    /// The value of [`LABEL`].
    pub(crate) fn mark(&self) -> String {
        digest(&self.name)
    }

    fn metadata(&self, name: &str, namespace: Option<&str>) -> Value {
        let mut metadata = json!({ "name": name, "labels": { LABEL: self.mark() }, "annotations": { FOR: self.path } });
        if let Some(namespace) = namespace {
            metadata["namespace"] = namespace.into();
        }
        metadata
    }

    fn subject(&self) -> Value {
        json!({ "kind": "ServiceAccount", "name": self.name, "namespace": NAMESPACE })
    }
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The objects that are to be there for an account, each with its path, in the order in which they are to be written.
/// `namespaces` are those that there are, `destination` is the application's own.
pub(crate) fn plan(
    account: &Account,
    project: &Project,
    kinds: &Kinds,
    namespaces: &[String],
    destination: &str,
) -> Vec<(String, Value)> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{}", account.name);
    let own = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": account.metadata(&account.name, Some(NAMESPACE)) });
    let mut objects = vec![(path, own)];
    let name = format!("coracle:{}", account.name);
    let (wide, all) = (format!("{name}:cluster"), format!("{name}:all"));
    if project.is_open() {
        objects.push(cluster_binding(account, &all, "cluster-admin"));
        return objects;
    }
    objects.push(cluster_role(account, &name, namespaced_rules(project, kinds)));
    objects.push(cluster_role(account, &wide, cluster_rules(project, kinds, namespaces, destination)));
    objects.push(cluster_binding(account, &wide, &wide));
    if project.allows_every_namespace() {
        objects.push(cluster_binding(account, &name, &name));
    } else {
        let allowed = namespaces.iter().filter(|namespace| project.allows_namespace(namespace));
        objects.extend(allowed.map(|namespace| binding(account, namespace, &name)));
    }
    objects
}

fn cluster_role(account: &Account, name: &str, rules: Vec<Value>) -> (String, Value) {
    let path = format!("/apis/{GROUP}/v1/clusterroles/{name}");
    let metadata = account.metadata(name, None);
    (path, json!({ "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole", "metadata": metadata, "rules": rules }))
}

fn reference(role: &str) -> Value {
    json!({ "apiGroup": GROUP, "kind": "ClusterRole", "name": role })
}

fn cluster_binding(account: &Account, name: &str, role: &str) -> (String, Value) {
    let path = format!("/apis/{GROUP}/v1/clusterrolebindings/{name}");
    let object = json!({ "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRoleBinding", "metadata": account.metadata(name, None),
        "roleRef": reference(role), "subjects": [account.subject()] });
    (path, object)
}

fn binding(account: &Account, namespace: &str, role: &str) -> (String, Value) {
    let path = format!("/apis/{GROUP}/v1/namespaces/{namespace}/rolebindings/{role}");
    let object = json!({ "apiVersion": format!("{GROUP}/v1"), "kind": "RoleBinding", "metadata": account.metadata(role, Some(namespace)),
        "roleRef": reference(role), "subjects": [account.subject()] });
    (path, object)
}

/// One rule a group, of the kinds that are allowed.
fn by_group<'k>(kinds: impl Iterator<Item = &'k Resource>) -> Vec<Value> {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for kind in kinds {
        let plurals = groups.entry(&kind.group).or_default();
        plurals.push(&kind.plural);
        // Health is judged by what Pods wrote last.
        if (kind.group.as_str(), kind.plural.as_str()) == ("", "pods") {
            plurals.push("pods/log");
        }
    }
    let rule = |(group, mut plurals): (&str, Vec<&str>)| {
        plurals.sort_unstable();
        plurals.dedup();
        json!({ "apiGroups": [group], "resources": plurals, "verbs": VERBS })
    };
    groups.into_iter().map(rule).collect()
}

fn namespaced_rules(project: &Project, kinds: &Kinds) -> Vec<Value> {
    by_group(kinds.preferred().filter(|kind| kind.namespaced && project.allows_kind(&kind.group, &kind.kind, true)))
}

fn cluster_rules(project: &Project, kinds: &Kinds, namespaces: &[String], destination: &str) -> Vec<Value> {
    let allowed = |kind: &&Resource| !kind.namespaced && project.allows_kind(&kind.group, &kind.kind, false);
    let mut rules = by_group(kinds.preferred().filter(allowed));
    // The namespaces of the destinations may be made and read, as CreateNamespace asks for.
    let mut names: Vec<&str> = namespaces
        .iter()
        .map(String::as_str)
        .chain([destination])
        .filter(|name| !name.is_empty() && project.allows_namespace(name))
        .collect();
    names.sort_unstable();
    names.dedup();
    let mut rule = json!({ "apiGroups": [""], "resources": ["namespaces"], "verbs": VERBS });
    if !project.allows_every_namespace() {
        if names.is_empty() {
            return rules;
        }
        rule["resourceNames"] = json!(names);
    }
    rules.push(rule);
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use rules::rbac::{Attributes, Index, Subject, Target, account_groups};

    fn kinds() -> Kinds {
        let resource = |name: &str, kind: &str, scope: &str| json!({ "resource": name, "scope": scope, "responseKind": { "kind": kind } });
        Kinds::from_discovery(&[
            json!({ "items": [{ "metadata": {}, "versions": [{ "version": "v1", "resources": [
                resource("configmaps", "ConfigMap", "Namespaced"), resource("secrets", "Secret", "Namespaced"),
                resource("pods", "Pod", "Namespaced"), resource("serviceaccounts", "ServiceAccount", "Namespaced"),
                resource("namespaces", "Namespace", "Cluster"), resource("nodes", "Node", "Cluster")] }] }] }),
            json!({ "items": [{ "metadata": { "name": "apps" }, "versions": [{ "version": "v1", "resources": [
                resource("deployments", "Deployment", "Namespaced")] }] },
                { "metadata": { "name": GROUP }, "versions": [{ "version": "v1", "resources": [
                resource("rolebindings", "RoleBinding", "Namespaced"), resource("clusterroles", "ClusterRole", "Cluster")] }] }] }),
        ])
    }

    fn account() -> Account {
        Account::of(&AppId { front: Front::Argo, namespace: "argocd".into(), name: "shop".into() })
    }

    /// What the objects come to, by the decider of the API itself.
    fn index(project: &Project, namespaces: &[&str], destination: &str) -> Index {
        let namespaces: Vec<String> = namespaces.iter().map(|one| (*one).to_owned()).collect();
        let mut index = Index::default();
        let admin = json!({ "rules": [{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }] });
        index.set("clusterroles", "", "cluster-admin", Some(&admin));
        for (path, object) in plan(&account(), project, &kinds(), &namespaces, destination) {
            let parts: Vec<&str> = path.split('/').collect();
            let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
            index.set(parts[parts.len() - 2], text("namespace"), text("name"), Some(&object));
            assert_eq!(object["metadata"]["labels"][LABEL], account().mark());
        }
        index
    }

    fn may(index: &Index, question: &str) -> bool {
        let words: Vec<&str> = question.split(' ').collect();
        let [verb, group, resource, namespace, name] = words[..] else { panic!("{question}") };
        let plain = |word: &'static str| if word == "-" { "" } else { word };
        let leak = |word: &str| -> &'static str { Box::leak(word.to_owned().into_boxed_str()) };
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let target = Target::Resource {
            group: plain(leak(group)),
            resource,
            subresource,
            namespace: plain(leak(namespace)),
            name: plain(leak(name)),
        };
        let (user, groups) = (account().user(), account_groups(NAMESPACE));
        index.allows(Subject { name: &user, groups: &groups }, &Attributes { verb, target })
    }

    #[test]
    fn an_account_may_what_its_project_allows() {
        let team = Project::read(&json!({ "metadata": { "name": "team" }, "spec": {
            "destinations": [{ "server": "*", "namespace": "team-*" }, { "server": "*", "namespace": "!team-prod" }],
            "clusterResourceWhitelist": [{ "group": GROUP, "kind": "ClusterRole" }],
            "namespaceResourceBlacklist": [{ "group": "", "kind": "Secret" }] } }));
        let index = index(&team, &["default", "team-a", "team-prod"], "team-new");
        for (question, expected) in [
            ("patch apps deployments team-a web", true),
            ("create apps deployments team-a -", true),
            ("get - pods/log team-a p", true),
            ("create - configmaps team-a -", true),
            ("get - secrets team-a s", false),
            ("patch apps deployments team-prod web", false),
            ("patch apps deployments default web", false),
            ("list apps deployments - -", false),
            ("create - serviceaccounts/token team-a x", false),
            ("impersonate - serviceaccounts team-a x", false),
            ("create rbac.authorization.k8s.io rolebindings team-a -", true),
            ("bind rbac.authorization.k8s.io clusterroles team-a cluster-admin", false),
            ("escalate rbac.authorization.k8s.io clusterroles - x", false),
            ("patch rbac.authorization.k8s.io clusterroles - x", true),
            ("patch - namespaces team-new team-new", true),
            ("create - namespaces - team-a", true),
            ("create - namespaces - other", false),
            ("delete - nodes - n", false),
        ] {
            assert_eq!(may(&index, question), expected, "{question}");
        }
    }

    #[test]
    fn projects_without_limits_and_with_limits_of_kinds_alone() {
        let open = index(&Project::open("default"), &[], "shop");
        assert!(may(&open, "delete - nodes - n") && may(&open, "create example.com widgets x -"));
        let kinds_alone = Project::read(&json!({ "metadata": { "name": "team" }, "spec": {
            "destinations": [{ "server": "*", "namespace": "*" }],
            "namespaceResourceWhitelist": [{ "group": "apps", "kind": "*" }] } }));
        let limited = index(&kinds_alone, &["a"], "a");
        for (question, expected) in [
            ("patch apps deployments anywhere web", true),
            ("patch - configmaps a x", false),
            ("create - namespaces - new", true),
            ("delete - nodes - n", false),
        ] {
            assert_eq!(may(&limited, question), expected, "{question}");
        }
        let nowhere = Project::read(&json!({ "metadata": { "name": "nowhere" }, "spec": {} }));
        let nothing = index(&nowhere, &["a"], "a");
        assert!(!may(&nothing, "get - configmaps a x") && !may(&nothing, "get - namespaces a a"));
    }

    #[test]
    fn every_application_has_an_account_of_its_own() {
        let of = |front, namespace: &str, name: &str| {
            Account::of(&AppId { front, namespace: namespace.into(), name: name.into() }).name
        };
        let names = [
            of(Front::Argo, "argocd", "shop"),
            of(Front::Flux, "argocd", "shop"),
            of(Front::Argo, "a", "b.c"),
            of(Front::Argo, "a-b", "c"),
            of(Front::Argo, "argocd", &"x".repeat(250)),
            of(Front::Argo, "argocd", &format!("{}y", "x".repeat(249))),
        ];
        let once: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(once.len(), names.len());
        assert!(names.iter().all(|name| name.len() <= 200), "{names:?}");
    }
}
