//! Mends references: where one object names another whose name has changed, the new name is written.
//!
//! Invariants: a reference is changed only when exactly one object can be meant; when several can, and they have different
//! names, the build is refused. Objects in other namespaces are not meant, but for accounts in role bindings.
//! It must not know: files, how names were changed.

use super::config::NameReference;
use super::error::{At, Result, fail};
use super::fieldspec::visit_path;
use super::id::{Gvk, NO_NAMESPACE, ResId};
use super::node::{Node, Scalar};
use super::resource::{Previous, Resource};
use super::resources::Resources;
use std::collections::{BTreeSet, HashMap};

/// What may be referred to, read once: referrers change while references are mended, but no name does.
struct Target {
    id: ResId,
    previous: Vec<Previous>,
    prefixes: Vec<String>,
    suffixes: Vec<String>,
    /// The first namespace it was in.
    first_namespace: String,
}

/// One referring object.
struct Referrer<'a> {
    id: ResId,
    prefixes: Vec<String>,
    suffixes: Vec<String>,
    /// Group and kind of a binding's `roleRef`.
    role: Option<Gvk>,
    /// Namespaces of the accounts that a role binding is for.
    account_namespaces: BTreeSet<String>,
    all: &'a Targets,
}

/// Targets, and which of them had a name.
struct Targets {
    list: Vec<Target>,
    by_name: HashMap<String, Vec<usize>>,
}

/// Mends all references.
pub(super) fn mend(resources: &mut Resources, references: &[NameReference]) -> Result<()> {
    let targets = Targets::of(resources);
    if targets.by_name.is_empty() {
        return Ok(());
    }
    for resource in resources.iter_mut() {
        let original = resource.original_id().gvk;
        let mut referrer = None;
        for reference in references {
            for spec in reference.fields.iter().filter(|spec| original.is_selected(&spec.gvk)) {
                let referrer = referrer.get_or_insert_with(|| Referrer::of(resource, &targets));
                let place = format!("the reference to a {} in", reference.target.kind);
                let for_role = spec.path.ends_with("roleRef/name");
                let context = Lookup { referrer, target: &reference.target, for_role };
                visit_path(resource, &spec.path, None, &mut |node| context.set(node)).at(|| place)?;
            }
        }
    }
    Ok(())
}

impl Targets {
    fn of(resources: &Resources) -> Self {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        let mut list = Vec::new();
        for (at, resource) in resources.iter().enumerate() {
            for previous in &resource.history.previous {
                let places = by_name.entry(previous.name.clone()).or_default();
                if places.last() != Some(&at) {
                    places.push(at);
                }
            }
            list.push(Target {
                id: resource.id(),
                previous: resource.history.previous.clone(),
                prefixes: resource.history.prefixes.clone(),
                suffixes: resource.history.suffixes.clone(),
                first_namespace: resource.original_id().effective_namespace().to_owned(),
            });
        }
        Self { list, by_name }
    }
}

impl Target {
    fn was_kind(&self, selector: &Gvk) -> bool {
        let gvk = &self.id.gvk;
        super::id::part(&selector.group, &gvk.group)
            && super::id::part(&selector.version, &gvk.version)
            && self.previous.iter().any(|before| super::id::part(&selector.kind, &before.kind))
    }
}

impl<'a> Referrer<'a> {
    fn of(resource: &Resource, all: &'a Targets) -> Self {
        let role = |field: &str| resource.node.at(&["roleRef", field]).map(Node::raw);
        let role = role("apiGroup").zip(role("kind")).map(|(group, kind)| Gvk {
            group: group.to_owned(),
            version: String::new(),
            kind: kind.to_owned(),
        });
        let mut account_namespaces = BTreeSet::new();
        if resource.kind() == "RoleBinding"
            && let Some(Node::Seq(subjects)) = resource.node.get("subjects")
        {
            let accounts =
                subjects.iter().filter(|subject| subject.get("kind").is_some_and(|k| k.raw() == "ServiceAccount"));
            account_namespaces
                .extend(accounts.filter_map(|subject| subject.get("namespace")).map(|n| n.raw().to_owned()));
        }
        Self {
            id: resource.id(),
            prefixes: resource.history.prefixes.clone(),
            suffixes: resource.history.suffixes.clone(),
            role,
            account_namespaces,
            all,
        }
    }

    /// Whether the object can be referred to from here at all.
    fn reaches(&self, target: &Target) -> bool {
        self.id.cluster
            || target.id.cluster
            || target.id.same_namespace(&self.id)
            || self.account_namespaces.contains(&target.id.namespace)
    }

    fn is_near(&self, target: &Target) -> bool {
        self.id.cluster
            || target.id.cluster
            || target.id.gvk.kind == "ServiceAccount"
            || target.id.same_namespace(&self.id)
    }

    fn has_affixes_of(&self, target: &Target, empty_matches: bool) -> bool {
        let like = |own: &[String], other: &[String]| {
            (empty_matches && (own.is_empty() || other.is_empty())) || same_ending(own, other)
        };
        like(&self.prefixes, &target.prefixes) && like(&self.suffixes, &target.suffixes)
    }
}

/// Whether the shorter list is how the longer one ends. An empty list is so only of an empty one.
fn same_ending(a: &[String], b: &[String]) -> bool {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    if short.is_empty() { long.is_empty() } else { long.ends_with(short) }
}

/// The search for what one field refers to.
struct Lookup<'a> {
    referrer: &'a Referrer<'a>,
    target: &'a Gvk,
    for_role: bool,
}

impl Lookup<'_> {
    fn set(&self, node: &mut Node) -> Result<()> {
        match node {
            _ if node.is_null() => Ok(()),
            Node::Scalar(_) => self.set_name(node),
            Node::Map(_) => self.set_object(node),
            Node::Seq(items) => items.iter_mut().filter(|item| !item.is_null()).try_for_each(|item| match item {
                Node::Scalar(_) => self.set_name(item),
                Node::Map(_) => self.set_object(item),
                Node::Seq(_) => fail("a list in a list, where names are wanted"),
            }),
        }
    }

    fn set_name(&self, node: &mut Node) -> Result<()> {
        let same = |a: &Target, b: &Target| a.id.name == b.id.name;
        if let Some(found) = self.find(node.raw(), |_| true, same)?
            && found.id.name != node.raw()
        {
            node.replace(Node::Scalar(Scalar::plain(found.id.name.as_str())));
        }
        Ok(())
    }

    /// A mapping with `name` and perhaps `namespace`: both are mended.
    fn set_object(&self, node: &mut Node) -> Result<()> {
        let Some(name) = node.get("name").map(|name| name.raw().to_owned()) else {
            return fail("there is no field `name` in the mapping that the configuration names");
        };
        let namespace = node.get("namespace").map(|namespace| namespace.raw().to_owned());
        let same = |a: &Target, b: &Target| a.id.name == b.id.name && a.id.namespace == b.id.namespace;
        let found = match &namespace {
            None => self.find(&name, |_| true, same)?,
            Some(wanted) => {
                let reachable = || self.referrer.all.list.iter().filter(|target| self.referrer.reaches(target));
                let first = |target: &Target| target.first_namespace == *wanted && *wanted != NO_NAMESPACE;
                let now = |target: &Target| target.id.effective_namespace() == wanted && *wanted != NO_NAMESPACE;
                if reachable().any(first) { self.find(&name, first, same)? } else { self.find(&name, now, same)? }
            }
        };
        let Some(found) = found else { return Ok(()) };
        if found.id.name == name && found.id.namespace.is_empty() {
            return Ok(());
        }
        node.set("name", Node::Scalar(Scalar::plain(found.id.name.as_str())));
        if !found.id.namespace.is_empty() {
            node.set("namespace", Node::Scalar(Scalar::plain(found.id.namespace.as_str())));
        }
        Ok(())
    }

    fn find(
        &self,
        name: &str,
        within: impl Fn(&Target) -> bool,
        same: impl Fn(&Target, &Target) -> bool,
    ) -> Result<Option<&Target>> {
        let referrer = self.referrer;
        let Some(places) = referrer.all.by_name.get(name) else { return Ok(None) };
        let role = referrer.role.as_ref().filter(|_| self.for_role);
        let mut found: Vec<&Target> = (places.iter().map(|&at| &referrer.all.list[at]))
            .filter(|target| within(target) && referrer.reaches(target) && target.was_kind(self.target))
            .filter(|target| role.is_none_or(|role| target.was_kind(role)))
            .filter(|target| referrer.is_near(target))
            .collect();
        if found.len() == 1 {
            return Ok(found.pop());
        }
        found.retain(|target| referrer.has_affixes_of(target, true));
        if found.len() > 1 {
            found.retain(|target| referrer.has_affixes_of(target, false));
        }
        match found[..] {
            [] => Ok(None),
            [first, ref rest @ ..] if rest.iter().all(|other| same(first, other)) => Ok(Some(first)),
            _ => {
                let names: Vec<String> = found.iter().map(|target| target.id.to_string()).collect();
                fail(format!("`{name}` can mean any of: {}; give them different names", names.join(", ")))
            }
        }
    }
}
