//! Argo CD's `AppProject`: from which repositories, into which namespaces, and with which kinds.
//!
//! Pure. What a project does not allow is refused twice: here before anything is written, and by [`super::super::guard`] on the
//! way of every request.

use serde_json::Value;

use super::window::Window;
use super::{text, texts};
use crate::object::{self, ObjectId};
use crate::sync::application::Application;

/// What applications of a project may do.
#[derive(Debug, Clone, PartialEq)]
pub struct Project {
    /// Its name.
    pub name: String,
    sources: Vec<String>,
    destinations: Vec<(String, String)>,
    cluster_allowed: Vec<(String, String)>,
    cluster_denied: Vec<(String, String)>,
    namespaced_allowed: Option<Vec<(String, String)>>,
    namespaced_denied: Vec<(String, String)>,
    accounts: Vec<(String, String)>,
    /// Keys that must have signed: the names that the project lists.
    pub signature_keys: Vec<String>,
    /// When syncs may begin, or why that cannot be told.
    pub windows: Result<Vec<Window>, String>,
}

impl Project {
    /// The project `default` where nobody has made it: everything is allowed, as in Argo CD.
    #[must_use]
    pub fn open(name: &str) -> Self {
        let all = || vec![("*".to_owned(), "*".to_owned())];
        Self {
            name: name.to_owned(),
            sources: vec!["*".to_owned()],
            destinations: all(),
            cluster_allowed: all(),
            cluster_denied: Vec::new(),
            namespaced_allowed: None,
            namespaced_denied: Vec::new(),
            accounts: Vec::new(),
            signature_keys: Vec::new(),
            windows: Ok(Vec::new()),
        }
    }

    /// Reads an AppProject.
    #[must_use]
    pub fn read(object: &Value) -> Self {
        let spec = &object["spec"];
        let kinds = |name: &str| -> Vec<(String, String)> {
            let all = spec[name].as_array().into_iter().flatten();
            all.map(|one| (text(one, "group").to_owned(), text(one, "kind").to_owned())).collect()
        };
        let pairs = |name: &str, value: &str| -> Vec<(String, String)> {
            let all = spec[name].as_array().into_iter().flatten();
            let server = |one: &Value| {
                let server = Some(text(one, "server")).filter(|server| !server.is_empty());
                server.unwrap_or_else(|| text(one, "name")).to_owned()
            };
            all.filter(|one| is_here(&server(one)))
                .map(|one| (text(one, "namespace").to_owned(), text(one, value).to_owned()))
                .collect()
        };
        Self {
            name: object::name(object).to_owned(),
            sources: texts(&spec["sourceRepos"]),
            destinations: pairs("destinations", "server"),
            cluster_allowed: kinds("clusterResourceWhitelist"),
            cluster_denied: kinds("clusterResourceBlacklist"),
            namespaced_allowed: spec["namespaceResourceWhitelist"]
                .is_array()
                .then(|| kinds("namespaceResourceWhitelist")),
            namespaced_denied: kinds("namespaceResourceBlacklist"),
            accounts: pairs("destinationServiceAccounts", "defaultServiceAccount"),
            signature_keys: spec["signatureKeys"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|key| text(key, "keyID").to_owned())
                .collect(),
            windows: windows(&spec["syncWindows"]),
        }
    }

    /// Whether objects may be in a namespace.
    #[must_use]
    pub fn allows_namespace(&self, namespace: &str) -> bool {
        allowed(self.destinations.iter().map(|(pattern, _)| pattern.as_str()), namespace)
    }

    /// Whether objects may be in every namespace.
    #[must_use]
    pub fn allows_every_namespace(&self) -> bool {
        let mut patterns = self.destinations.iter().map(|(pattern, _)| pattern);
        patterns.clone().any(|pattern| pattern == "*") && !patterns.any(|pattern| pattern.starts_with('!'))
    }

    /// Whether there is nothing in the cluster that may not be written.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let all = |list: &[(String, String)]| list.iter().any(|(group, kind)| group == "*" && kind == "*");
        self.allows_every_namespace()
            && all(&self.cluster_allowed)
            && self.cluster_denied.is_empty()
            && self.namespaced_allowed.as_deref().is_none_or(all)
            && self.namespaced_denied.is_empty()
    }

    /// Whether objects of a kind may be written where namespaces allow it.
    #[must_use]
    pub fn allows_kind(&self, group: &str, kind: &str, namespaced: bool) -> bool {
        let any = |list: &[(String, String)]| list.iter().any(|(g, k)| matches(g, group) && matches(k, kind));
        match namespaced {
            true => self.namespaced_allowed.as_deref().is_none_or(any) && !any(&self.namespaced_denied),
            false => any(&self.cluster_allowed) && !any(&self.cluster_denied),
        }
    }

    /// Whether a kind may be written, in a namespace or (where it is empty) outside of all.
    ///
    /// # Errors
    ///
    /// A sentence that says what the project allows instead.
    pub fn allows(&self, group: &str, kind: &str, namespace: &str) -> Result<(), String> {
        let name = &self.name;
        let shown = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let any = |list: &[(String, String)]| list.iter().any(|(g, k)| matches(g, group) && matches(k, kind));
        if namespace.is_empty() {
            if any(&self.cluster_allowed) && !any(&self.cluster_denied) {
                return Ok(());
            }
            return Err(format!(
                "project {name} does not allow the cluster-wide kind {shown} (spec.clusterResourceWhitelist)"
            ));
        }
        if !self.allows_namespace(namespace) {
            return Err(format!("project {name} does not allow the namespace {namespace} (spec.destinations)"));
        }
        if self.namespaced_allowed.as_deref().is_some_and(|list| !any(list)) || any(&self.namespaced_denied) {
            return Err(format!(
                "project {name} does not allow the kind {shown} (spec.namespaceResourceWhitelist and Blacklist)"
            ));
        }
        Ok(())
    }

    /// Everything that an application asks for and its project does not allow.
    #[must_use]
    pub fn objections(&self, application: &Application) -> Vec<String> {
        let mut found = Vec::new();
        for source in &application.sources {
            let url = plain(&source.url);
            if !allowed(self.sources.iter().map(String::as_str), &url) {
                found.push(format!("project {} does not allow the repository {url} (spec.sourceRepos)", self.name));
            }
        }
        if !application.namespace.is_empty() && !self.allows_namespace(&application.namespace) {
            let (name, namespace) = (&self.name, &application.namespace);
            found.push(format!("project {name} does not allow the namespace {namespace} (spec.destinations)"));
        }
        if let Err(reason) = &self.windows {
            found.push(format!("project {}: {reason}", self.name));
        }
        if !self.signature_keys.is_empty() {
            let name = &self.name;
            found.push(format!("project {name}: spec.signatureKeys name keys without holding them; put the keys into a Secret and name it in the annotation {} of the Application", super::argo::VERIFY));
        }
        found
    }

    /// The ServiceAccount that objects in a namespace are written as, where the project names one.
    #[must_use]
    pub fn account(&self, namespace: &str) -> Option<String> {
        let found = self.accounts.iter().find(|(pattern, _)| matches(pattern, namespace));
        found.map(|(_, account)| match account.split_once(':') {
            Some((other, account)) => format!("system:serviceaccount:{other}:{account}"),
            None => format!("system:serviceaccount:{namespace}:{account}"),
        })
    }

    /// What keeps an object from being written.
    ///
    /// # Errors
    ///
    /// As [`Project::allows`].
    pub fn allows_object(&self, id: &ObjectId) -> Result<(), String> {
        self.allows(&id.group, &id.kind, &id.namespace)
    }
}

fn is_here(server: &str) -> bool {
    matches!(server, "" | "*" | "https://kubernetes.default.svc" | "in-cluster") || server.contains('*')
}

/// A URL without what does not tell repositories apart.
fn plain(url: &str) -> String {
    let url = crate::sync::git::shown(url);
    url.trim_end_matches('/').trim_end_matches(".git").to_owned()
}

/// Whether a text fits one of the patterns, and none that begins with `!`.
fn allowed<'a>(patterns: impl Iterator<Item = &'a str>, text: &str) -> bool {
    let mut good = false;
    for pattern in patterns {
        match pattern.strip_prefix('!') {
            Some(pattern) if matches(pattern.trim_end_matches(".git"), text) => return false,
            Some(_) => {}
            None => good = good || matches(pattern.trim_end_matches(".git"), text),
        }
    }
    good
}

fn windows(entries: &Value) -> Result<Vec<Window>, String> {
    let entries = entries.as_array().into_iter().flatten().enumerate();
    entries.map(|(at, one)| Window::read(one).map_err(|reason| format!("spec.syncWindows[{at}]: {reason}"))).collect()
}

/// Whether a text fits a pattern in which `*` stands for any run of characters.
#[must_use]
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == text };
    let Some(rest) = text.strip_prefix(before) else { return false };
    if after.is_empty() {
        return true;
    }
    (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| matches(after, &rest[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn team() -> Project {
        Project::read(&json!({ "metadata": { "name": "team" }, "spec": {
            "sourceRepos": ["https://example.com/team/*", "!https://example.com/team/secret"],
            "destinations": [
                { "server": "https://kubernetes.default.svc", "namespace": "team-*" },
                { "server": "https://kubernetes.default.svc", "namespace": "!team-prod" },
                { "server": "https://elsewhere", "namespace": "kube-system" }],
            "clusterResourceWhitelist": [{ "group": "", "kind": "Namespace" }],
            "namespaceResourceBlacklist": [{ "group": "rbac.authorization.k8s.io", "kind": "*" }],
            "destinationServiceAccounts": [{ "server": "*", "namespace": "team-*", "defaultServiceAccount": "deployer" }],
        }}))
    }

    #[test]
    fn a_project_bounds_what_its_applications_write() {
        for (group, kind, namespace, good) in [
            ("apps", "Deployment", "team-a", true),
            ("apps", "Deployment", "team-prod", false),
            ("apps", "Deployment", "kube-system", false),
            ("rbac.authorization.k8s.io", "RoleBinding", "team-a", false),
            ("", "Namespace", "", true),
            ("rbac.authorization.k8s.io", "ClusterRole", "", false),
        ] {
            assert_eq!(team().allows(group, kind, namespace).is_ok(), good, "{kind} in {namespace}");
        }
        assert_eq!(team().account("team-a").as_deref(), Some("system:serviceaccount:team-a:deployer"));
        assert!(Project::open("default").allows("x", "Y", "z").is_ok());
    }

    #[test]
    fn a_project_bounds_where_manifests_come_from() {
        let application = |url: &str| {
            let object = json!({ "metadata": { "name": "a", "namespace": "argocd" }, "spec": {
                "source": { "repoURL": url }, "destination": { "namespace": "team-a" } } });
            super::super::argo::read(&object).expect("it is right")
        };
        for (url, good) in [
            ("https://example.com/team/shop.git", true),
            ("https://token@example.com/team/shop", true),
            ("https://example.com/team/secret.git", false),
            ("https://example.com/other/shop", false),
        ] {
            assert_eq!(team().objections(&application(url)).is_empty(), good, "{url}");
        }
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, good) in [
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "ab", false),
            ("*b*", "abc", true),
            ("a", "ab", false),
            ("a*b*c", "axbxxc", true),
        ] {
            assert_eq!(matches(pattern, text), good, "{pattern} {text}");
        }
    }
}
