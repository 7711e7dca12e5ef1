//! What Roles, ClusterRoles and bindings say, by subject, so that a question looks at the rules of its subject alone.
//!
//! Invariants: [`Index::set`] with the newest state of each object, in any order, makes the same index; a ClusterRole with an
//! `aggregationRule` has the rules of those it selects, and those of its own `rules` never; a binding to a role that is not there allows
//! nothing. It holds no object as a whole.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use serde_json::Value;

use super::question::{Attributes, Subject};
use super::rule::{self, Rule};
use super::{MASTERS, account_user};
use crate::select::LabelSelector;

type Rules = Arc<[Rule]>;

/// The most missing roles that are told of.
const MOST_ERRORS: usize = 20;

/// The role that a binding gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleRef {
    /// Whether it is a ClusterRole; else a Role of the binding's namespace.
    pub cluster: bool,
    /// Its name.
    pub name: Box<str>,
}

impl RoleRef {
    /// Reads `roleRef`.
    pub fn read(binding: &Value) -> Self {
        let reference = &binding["roleRef"];
        Self {
            cluster: reference["kind"] == "ClusterRole",
            name: reference["name"].as_str().unwrap_or_default().into(),
        }
    }

    fn shown(&self) -> String {
        let kind = if self.cluster { "clusterrole" } else { "role" };
        format!("{kind}.rbac.authorization.k8s.io {:?} not found", self.name)
    }
}

#[derive(Debug)]
struct ClusterRole {
    /// What it says itself.
    own: Rules,
    labels: BTreeMap<String, String>,
    /// What it is put together of.
    selects: Option<Vec<LabelSelector>>,
    /// What it comes to.
    effective: Rules,
}

#[derive(Debug)]
struct Binding {
    name: Box<str>,
    role: RoleRef,
    users: Vec<Box<str>>,
    groups: Vec<Box<str>>,
}

/// The bindings of a namespace, or of none.
#[derive(Debug, Default)]
struct Bindings {
    by_name: HashMap<Box<str>, Arc<Binding>>,
    by_user: HashMap<Box<str>, Vec<Arc<Binding>>>,
    by_group: HashMap<Box<str>, Vec<Arc<Binding>>>,
}

/// What is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is allowed, and by what.
    Allowed(String),
    /// Nothing allows it; the roles that bindings name and that are not there.
    Denied(Vec<String>),
}

impl Decision {
    /// Whether it is allowed.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

/// What a subject holds, shared with the index, so that it can be looked at without it.
#[derive(Debug, Default)]
pub struct Held {
    roles: Vec<Rules>,
    /// The roles that bindings name and that are not there.
    pub errors: Vec<String>,
}

impl Held {
    /// The rules, each once, in the order of the bindings.
    pub fn rules(&self) -> Vec<&Rule> {
        let mut seen = HashSet::new();
        self.roles.iter().flat_map(|rules| rules.iter()).filter(|rule| seen.insert(*rule)).collect()
    }
}

/// All roles and bindings.
#[derive(Debug, Default)]
pub struct Index {
    /// By namespace and name.
    roles: HashMap<Box<str>, HashMap<Box<str>, Rules>>,
    cluster_roles: HashMap<Box<str>, ClusterRole>,
    /// By namespace; empty for ClusterRoleBindings.
    bindings: HashMap<Box<str>, Bindings>,
}

/// A rule that applies, and the binding that says so.
struct Applying<'a> {
    rule: &'a Rule,
    binding: &'a Binding,
    namespace: &'a str,
    /// The group by which the binding applies; else it names the user.
    group: Option<&'a str>,
}

impl Index {
    /// Says what an object is now, `None` when it is gone. `plural` is the resource; others than the four are ignored.
    pub fn set(&mut self, plural: &str, namespace: &str, name: &str, object: Option<&Value>) {
        match plural {
            "roles" => self.set_role(namespace, name, object),
            "clusterroles" => self.set_cluster_role(name, object),
            "rolebindings" if !namespace.is_empty() => self.set_binding(namespace, name, object),
            "clusterrolebindings" => self.set_binding("", name, object),
            _ => {}
        }
    }

    fn set_role(&mut self, namespace: &str, name: &str, object: Option<&Value>) {
        match object {
            Some(role) => {
                self.roles.entry(namespace.into()).or_default().insert(name.into(), rule::of(role).into());
            }
            None => {
                if let Some(roles) = self.roles.get_mut(namespace) {
                    roles.remove(name);
                    if roles.is_empty() {
                        self.roles.remove(namespace);
                    }
                }
            }
        }
    }

    fn set_cluster_role(&mut self, name: &str, object: Option<&Value>) {
        let mut new = object.map(ClusterRole::read);
        if let (Some(new), Some(old)) = (&mut new, self.cluster_roles.get_mut(name))
            && new.selects.is_some()
            && new.selects == old.selects
            && new.labels == old.labels
        {
            // Only what it shows of what it comes to.
            old.own = new.own.clone();
            return;
        }
        let concerns = |role: &ClusterRole| role.selects.is_some() || self.is_selected(role);
        let before = self.cluster_roles.get(name).is_some_and(concerns);
        let after = new.as_ref().is_some_and(concerns);
        match new {
            Some(role) => self.cluster_roles.insert(name.into(), role),
            None => self.cluster_roles.remove(name),
        };
        if before || after {
            self.aggregate();
        }
    }

    fn is_selected(&self, role: &ClusterRole) -> bool {
        self.cluster_roles
            .values()
            .filter_map(|other| other.selects.as_ref())
            .flatten()
            .any(|one| one.matches(&role.labels))
    }

    /// Puts the aggregated ClusterRoles together again.
    fn aggregate(&mut self) {
        let aggregated: Vec<Box<str>> = self
            .cluster_roles
            .iter()
            .filter(|(_, role)| role.selects.is_some())
            .map(|(name, _)| name.clone())
            .collect();
        for name in aggregated {
            let effective: Rules = self.collected(&name).into();
            if let Some(role) = self.cluster_roles.get_mut(&name) {
                role.effective = effective;
            }
        }
    }

    /// The rules that an aggregated ClusterRole comes to, in the order of the names of those it selects, each once.
    fn collected(&self, name: &str) -> Vec<Rule> {
        let (mut seen, mut queue) = (HashSet::from([name]), vec![name]);
        let mut found: BTreeMap<&str, &Rules> = BTreeMap::new();
        while let Some(selects) = queue.pop().and_then(|name| self.cluster_roles.get(name)?.selects.as_ref()) {
            for (name, role) in &self.cluster_roles {
                if seen.contains(&**name) || !selects.iter().any(|one| one.matches(&role.labels)) {
                    continue;
                }
                seen.insert(name);
                match role.selects {
                    Some(_) => queue.push(name),
                    None => {
                        found.insert(name, &role.own);
                    }
                }
            }
        }
        let mut seen = HashSet::new();
        found.values().flat_map(|rules| rules.iter()).filter(|rule| seen.insert(*rule)).cloned().collect()
    }

    fn set_binding(&mut self, namespace: &str, name: &str, object: Option<&Value>) {
        let bindings = self.bindings.entry(namespace.into()).or_default();
        if let Some(old) = bindings.by_name.remove(name) {
            take_out(&mut bindings.by_user, &old.users, name);
            take_out(&mut bindings.by_group, &old.groups, name);
        }
        if let Some(object) = object {
            let binding = Arc::new(Binding::read(namespace, name, object));
            for (subjects, map) in [(&binding.users, &mut bindings.by_user), (&binding.groups, &mut bindings.by_group)]
            {
                for subject in subjects {
                    map.entry(subject.clone()).or_default().push(binding.clone());
                }
            }
            bindings.by_name.insert(name.into(), binding);
        }
        if bindings.by_name.is_empty() {
            self.bindings.remove(namespace);
        }
    }

    /// The rules of a role as it counts: of an aggregated ClusterRole, what it comes to. `None` when there is no such role.
    pub fn rules_of_role(&self, namespace: &str, role: &RoleRef) -> Option<&Arc<[Rule]>> {
        match role.cluster {
            true => self.cluster_roles.get(&role.name).map(|role| &role.effective),
            false => self.roles.get(namespace)?.get(&role.name),
        }
    }

    /// The aggregated ClusterRoles, by name, with the rules that they come to.
    pub fn aggregated(&self) -> impl Iterator<Item = (&str, &[Rule])> {
        let aggregated = self.cluster_roles.iter().filter(|(_, role)| role.selects.is_some());
        aggregated.map(|(name, role)| (&**name, &*role.effective))
    }

    /// Those of them that do not say yet what they come to, by name.
    pub fn outdated(&self) -> Vec<Box<str>> {
        let outdated = |role: &ClusterRole| role.selects.is_some() && role.own != role.effective;
        let mut names: Vec<Box<str>> =
            self.cluster_roles.iter().filter(|(_, role)| outdated(role)).map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// What an aggregated ClusterRole comes to; `None` when there is no such.
    pub fn comes_to(&self, name: &str) -> Option<Arc<[Rule]>> {
        self.cluster_roles.get(name).filter(|role| role.selects.is_some()).map(|role| role.effective.clone())
    }

    /// Decides.
    pub fn decide(&self, subject: Subject<'_>, asked: &Attributes<'_>) -> Decision {
        if subject.groups.iter().any(|group| group == MASTERS) {
            return Decision::Allowed(String::new());
        }
        let mut errors = Vec::new();
        let allowed = self.visit(subject, asked.namespace(), &mut errors, |applying| {
            if applying.rule.allows(asked) {
                ControlFlow::Break(applying.reason(subject))
            } else {
                ControlFlow::Continue(())
            }
        });
        match allowed {
            ControlFlow::Break(reason) => Decision::Allowed(reason),
            ControlFlow::Continue(()) => Decision::Denied(errors),
        }
    }

    /// Whether it is allowed; quicker than [`Index::decide`], as no reason is made.
    pub fn allows(&self, subject: Subject<'_>, asked: &Attributes<'_>) -> bool {
        if subject.groups.iter().any(|group| group == MASTERS) {
            return true;
        }
        let found = self.visit(subject, asked.namespace(), &mut Vec::new(), |applying| {
            if applying.rule.allows(asked) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        found.is_break()
    }

    /// What a subject holds in a namespace (empty: everywhere). It takes as long as there are bindings, however large the roles are.
    pub fn held_by(&self, subject: Subject<'_>, namespace: &str) -> Held {
        let mut held = Held::default();
        if subject.groups.iter().any(|group| group == MASTERS) {
            held.roles.push([Rule::all_resources(), Rule::all_urls()].into());
        }
        let _ = self.visit_roles(subject, namespace, &mut held.errors, |rules, _| {
            held.roles.push(rules.clone());
            ControlFlow::<()>::Continue(())
        });
        held
    }

    /// Shows each rule that applies to a subject, until `see` has seen enough.
    fn visit<'a, T>(
        &'a self,
        subject: Subject<'a>,
        namespace: &'a str,
        errors: &mut Vec<String>,
        mut see: impl FnMut(Applying<'a>) -> ControlFlow<T>,
    ) -> ControlFlow<T> {
        self.visit_roles(subject, namespace, errors, |rules, (binding, namespace, group)| {
            rules.iter().try_for_each(|rule| see(Applying { rule, binding, namespace, group }))
        })
    }

    /// Shows the rules of each role that a subject has, with the binding that gives it, its namespace, and the group that it is given to.
    fn visit_roles<'a, T>(
        &'a self,
        subject: Subject<'a>,
        namespace: &'a str,
        errors: &mut Vec<String>,
        mut see: impl FnMut(&'a Rules, (&'a Binding, &'a str, Option<&'a str>)) -> ControlFlow<T>,
    ) -> ControlFlow<T> {
        let scopes = if namespace.is_empty() { &[""][..] } else { &["", namespace] };
        for scope in scopes.iter().copied() {
            let Some(bindings) = self.bindings.get(scope) else { continue };
            let named = bindings.by_user.get(subject.name).map(|found| (None, found));
            let grouped = subject
                .groups
                .iter()
                .filter_map(|group| Some((Some(group.as_str()), bindings.by_group.get(group.as_str())?)));
            for (group, found) in named.into_iter().chain(grouped) {
                for binding in found {
                    let Some(rules) = self.rules_of_role(scope, &binding.role) else {
                        if errors.len() < MOST_ERRORS {
                            let error = binding.role.shown();
                            if !errors.contains(&error) {
                                errors.push(error);
                            }
                        }
                        continue;
                    };
                    see(rules, (binding, scope, group))?;
                }
            }
        }
        ControlFlow::Continue(())
    }
}

fn take_out(map: &mut HashMap<Box<str>, Vec<Arc<Binding>>>, subjects: &[Box<str>], name: &str) {
    for subject in subjects {
        if let Some(bindings) = map.get_mut(subject) {
            bindings.retain(|binding| *binding.name != *name);
            if bindings.is_empty() {
                map.remove(subject);
            }
        }
    }
}

impl ClusterRole {
    fn read(role: &Value) -> Self {
        let own: Rules = rule::of(role).into();
        let aggregation = &role["aggregationRule"];
        let selects = (!aggregation.is_null()).then(|| {
            let selectors = aggregation["clusterRoleSelectors"].as_array().into_iter().flatten();
            selectors.filter_map(|selector| LabelSelector::from_object(selector).ok()).collect()
        });
        let labels = role["metadata"]["labels"].as_object().into_iter().flatten();
        let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
        let effective = if selects.is_some() { Rules::default() } else { own.clone() };
        Self { own, labels, selects, effective }
    }
}

impl Binding {
    fn read(namespace: &str, name: &str, object: &Value) -> Self {
        let (mut users, mut groups) = (Vec::<Box<str>>::new(), Vec::<Box<str>>::new());
        let mut seen = HashSet::new();
        for subject in object["subjects"].as_array().into_iter().flatten() {
            let text = |field: &str| subject[field].as_str().unwrap_or_default();
            let (list, one): (_, Box<str>) = match text("kind") {
                "User" => (&mut users, text("name").into()),
                "Group" => (&mut groups, text("name").into()),
                "ServiceAccount" => {
                    let space = if text("namespace").is_empty() { namespace } else { text("namespace") };
                    if space.is_empty() {
                        continue;
                    }
                    (&mut users, account_user(space, text("name")).into())
                }
                _ => continue,
            };
            if seen.insert((text("kind") == "Group", one.clone())) {
                list.push(one);
            }
        }
        Self { name: name.into(), role: RoleRef::read(object), users, groups }
    }
}

impl Applying<'_> {
    /// `RBAC: allowed by RoleBinding "a/b" of Role "c" to User "d"`
    fn reason(&self, subject: Subject<'_>) -> String {
        let binding = match self.namespace {
            "" => format!("ClusterRoleBinding {:?}", self.binding.name),
            namespace => format!("RoleBinding \"{}/{namespace}\"", self.binding.name),
        };
        let role = if self.binding.role.cluster { "ClusterRole" } else { "Role" };
        let to = match (self.group, super::service_account(subject.name)) {
            (Some(group), _) => format!("Group {group:?}"),
            (None, Some((namespace, name))) => format!("ServiceAccount \"{name}/{namespace}\""),
            (None, None) => format!("User {:?}", subject.name),
        };
        format!("RBAC: allowed by {binding} of {role} {:?} to {to}", self.binding.role.name)
    }
}
