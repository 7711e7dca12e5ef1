//! The resources of a kustomization, in the order in which they came, no two with the same identity.
//!
//! Invariants: adding checks identities; whoever changes identities in place checks them itself. It must not know: files.

use super::error::{Error, Result, fail};
use super::id::{ResId, effective};
use super::resource::{Behavior, ORIGIN, Resource};
use super::selector::Selector;
use std::collections::{BTreeMap, HashSet};

/// Resources in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Resources {
    list: Vec<Resource>,
    /// The identities of `list`, while nothing but adding happened to it.
    index: Option<HashSet<Key>>,
}

/// What two resources must not share.
type Key = (String, String, String, String);

fn key(resource: &Resource) -> Key {
    let namespace = effective(resource.is_cluster(), resource.namespace());
    (resource.api_version().to_owned(), resource.kind().to_owned(), resource.name().to_owned(), namespace.to_owned())
}

impl Resources {
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Resource> {
        self.list.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Resource> {
        self.list_mut().iter_mut()
    }

    pub(super) fn list(&self) -> &[Resource] {
        &self.list
    }

    pub(super) fn list_mut(&mut self) -> &mut Vec<Resource> {
        self.index = None;
        &mut self.list
    }

    pub(super) fn into_list(self) -> Vec<Resource> {
        self.list
    }

    /// Adds a resource, whose identity must be new.
    pub(super) fn add(&mut self, resource: Resource) -> Result<()> {
        let index = self.index.get_or_insert_with(|| self.list.iter().map(key).collect());
        if !index.insert(key(&resource)) {
            return fail(format!("{} is there already; rename one of the two, or patch it", resource.id()));
        }
        self.list.push(resource);
        Ok(())
    }

    pub(super) fn add_all(&mut self, resources: impl IntoIterator<Item = Resource>) -> Result<()> {
        resources.into_iter().try_for_each(|resource| self.add(resource))
    }

    /// Takes what patches emptied away, and checks that no two are the same now.
    pub(super) fn settle(&mut self) -> Result<()> {
        let list = std::mem::take(self.list_mut());
        self.add_all(list.into_iter().filter(|resource| !resource.is_gone()))
    }

    pub(super) fn drop_gone(&mut self) {
        if self.list.iter().any(Resource::is_gone) {
            self.list_mut().retain(|resource| !resource.is_gone());
        }
    }

    /// The places of resources that are called so, or were.
    pub(super) fn ever(&self, accept: impl Fn(&ResId) -> bool) -> Vec<usize> {
        let found = self.list.iter().enumerate().filter(|(_, resource)| resource.was_ever(&accept));
        found.map(|(at, _)| at).collect()
    }

    /// The place of the one resource that has or had this identity.
    pub(super) fn one(&self, id: &ResId) -> Result<usize> {
        let found: Vec<usize> = (self.list.iter().enumerate())
            .filter(|(_, resource)| {
                let named = resource.name() == id.name || resource.history.previous.iter().any(|p| p.name == id.name);
                named && resource.was_ever(|other| id.equals(other))
            })
            .map(|(at, _)| at)
            .collect();
        match found[..] {
            [at] => Ok(at),
            [] => fail(format!("there is no {id}; check apiVersion, kind, name and namespace")),
            _ => fail(format!("{id} is the name of several resources; say more of the one that is meant")),
        }
    }

    /// How many resources have the identity of the one at this place.
    pub(super) fn same_as(&self, at: usize) -> usize {
        let own = key(&self.list[at]);
        self.list.iter().filter(|r| r.name() == own.2 && r.kind() == own.1 && key(r) == own).count()
    }

    /// The places of the resources that a selector chooses.
    pub(super) fn select(&self, selector: &Selector) -> Result<Vec<usize>> {
        let chosen = selector.compile()?;
        let found = self.list.iter().enumerate().filter(|(_, resource)| chosen.accepts(resource));
        Ok(found.map(|(at, _)| at).collect())
    }

    /// Adds what generators made, or lets it replace or extend what is there, as its behaviour says.
    pub(super) fn absorb(&mut self, mut made: Resource) -> Result<()> {
        let id = made.id();
        let found = self.ever(|other| id.equals(other));
        let behavior = made.history.behavior.unwrap_or_default();
        match (found[..].first(), found.len(), behavior) {
            (None, _, Behavior::Create) => return self.add(made),
            (None, _, _) => {
                return fail(format!(
                    "{id} is not there, so nothing can be merged with it or replaced; leave `behavior` out"
                ));
            }
            (Some(_), 1, Behavior::Create) => {
                return fail(format!("{id} is there already; give the generator `behavior: merge` or `replace`"));
            }
            (Some(&at), 1, _) => {
                let old = &self.list[at];
                let origin = old.annotation(ORIGIN).map(str::to_owned);
                made.inherit(old);
                if behavior == Behavior::Merge {
                    merge_data(&mut made, old);
                    if let Some(origin) = origin {
                        made.set_annotation(ORIGIN, &origin);
                    }
                }
                self.list_mut()[at] = made;
                if self.same_as(at) != 1 {
                    return fail(format!("{id} is the name of several resources"));
                }
            }
            _ => {
                return fail(format!(
                    "{id} is the name of several resources, and which one to merge with is not clear"
                ));
            }
        }
        Ok(())
    }
}

fn merge_data(made: &mut Resource, old: &Resource) {
    for field in ["data", "binaryData"] {
        let texts = |resource: &Resource| -> BTreeMap<String, String> {
            match resource.node.get(field) {
                Some(super::node::Node::Map(fields)) => {
                    fields.iter().map(|(key, value)| (key.text.clone(), value.as_text().to_owned())).collect()
                }
                _ => BTreeMap::new(),
            }
        };
        let mut all = texts(old);
        all.extend(texts(made));
        made.node.remove(field);
        super::generate::set_data(&mut made.node, field, &all);
    }
}

/// The error of a namespace that makes two resources the same.
pub(super) fn clash(resource: &Resource) -> Error {
    Error::new(format!("the namespace makes two resources the same: {}; rename one of the two", resource.id()))
}
