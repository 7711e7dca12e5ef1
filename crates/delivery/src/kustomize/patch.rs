//! Patches on resources: strategic merge patches and JSON patches, with or without a target.
//!
//! Invariants: a patch that means no resource is refused, unless it has a target that chooses none. It must not know: how
//! trees merge.

use super::error::{At, Result, fail};
use super::jsonpatch::JsonPatch;
use super::load::Loader;
use super::merge;
use super::node::{Node, Scalar};
use super::resource::{self, Resource};
use super::resources::Resources;
use super::schema::Known;
use super::selector::Selector;
use super::settings::Patch;
use std::rc::Rc;

/// A patch, read.
#[derive(Debug)]
enum Content {
    Strategic(Vec<Resource>),
    Json(JsonPatch),
}

/// An item of `patches`, read.
#[derive(Debug)]
pub(super) struct Prepared {
    content: Content,
    target: Option<Selector>,
    name_change: bool,
    kind_change: bool,
    /// Where it is from, for messages.
    source: String,
}

impl Prepared {
    /// Reads an item of `patches`.
    pub(super) fn read(patch: &Patch, loader: &Loader<'_>, known: &Rc<Known>) -> Result<Self> {
        let (text, source) = match (patch.patch.trim(), patch.path.as_str()) {
            ("", "") => return fail("patches: an item has neither `path` nor `patch`"),
            ("", path) => (loader.text(path).at(|| "patches".to_owned())?, format!("patch {path}")),
            (text, "") => (text.to_owned(), "inline patch".to_owned()),
            _ => return fail("patches: an item has `path` and `patch`; keep one of them"),
        };
        let strategic = resource::parse(&text, known);
        let json = if text.is_empty() { fail("the patch is empty") } else { JsonPatch::parse(&text) };
        let content = match (strategic, json) {
            (Ok(resources), Err(_)) => Content::Strategic(resources),
            (Err(_), Ok(json)) => Content::Json(json),
            (Ok(_), Ok(_)) => return fail(format!("{source} can be read as both kinds of patch")),
            (Err(strategic), Err(json)) => {
                let json = if text.trim_start().starts_with(['-', '[']) { json } else { strategic };
                return Err(json).at(|| format!("{source} is neither an object nor a list of operations"));
            }
        };
        let option = |name: &str| patch.options.get(name).copied().unwrap_or(false);
        Ok(Self {
            content,
            target: patch.target.clone(),
            name_change: option("allowNameChange"),
            kind_change: option("allowKindChange"),
            source,
        })
    }

    /// Applies it to the resources that it is for.
    pub(super) fn apply(&self, resources: &mut Resources) -> Result<()> {
        let done = match (&self.content, &self.target) {
            (Content::Strategic(patches), Some(target)) => self.strategic(patches, target, resources),
            (Content::Strategic(patches), None) => patches.iter().try_for_each(|patch| {
                let at = resources.one(&patch.original_id())?;
                self.merge(&mut resources.list_mut()[at], patch.node.clone())
            }),
            (Content::Json(_), None) => fail("a JSON patch needs a `target`"),
            (Content::Json(patch), Some(target)) => json(patch, target, resources, true),
        };
        done.at(|| self.source.clone())
    }

    fn strategic(&self, patches: &[Resource], target: &Selector, resources: &mut Resources) -> Result<()> {
        let patch = match patches {
            [patch] => patch,
            [] => return fail("the patch is empty"),
            _ => return fail("a patch with a `target` may hold one object only; make an item of each"),
        };
        for at in resources.select(target)? {
            let resource = &mut resources.list_mut()[at];
            let mut node = patch.node.clone();
            // The target's version is meant, whatever the patch says.
            node.set("apiVersion", Node::Scalar(Scalar::plain(resource.api_version())));
            self.merge(resource, node)?;
        }
        resources.settle()
    }

    fn merge(&self, resource: &mut Resource, patch: Node) -> Result<()> {
        merge_into(resource, patch, self.name_change, self.kind_change)
    }
}

/// Merges a patch into a resource. Its name, kind and namespace stay, unless they may change.
fn merge_into(resource: &mut Resource, patch: Node, name_change: bool, kind_change: bool) -> Result<()> {
    let (name, namespace, kind) =
        (resource.name().to_owned(), resource.namespace().to_owned(), resource.kind().to_owned());
    if name_change || kind_change {
        resource.remember();
    }
    let id = resource.id();
    let known = resource.known().clone();
    let change = |node: &mut Node| {
        let before = std::mem::replace(node, Node::Map(Vec::new()));
        if let Some(merged) = merge::merge(before, patch.clone(), &known)? {
            *node = merged;
        }
        Ok(())
    };
    let sees_history = patch.at(&["metadata", "annotations"]).is_some() || patch.at(&["metadata", "$patch"]).is_some();
    let done = if sees_history { resource.with_history(change) } else { change(&mut resource.node) };
    done.at(|| id.to_string())?;
    if resource.is_gone() {
        return Ok(());
    }
    if !kind_change {
        resource.node.set("kind", Node::Scalar(Scalar::plain(kind)));
    }
    if !name_change {
        resource.set_name(&name);
    }
    resource.set_namespace(&namespace);
    Ok(())
}

fn json(patch: &JsonPatch, target: &Selector, resources: &mut Resources, remember: bool) -> Result<()> {
    for at in resources.select(target)? {
        let resource = &mut resources.list_mut()[at];
        if remember {
            resource.remember();
        }
        let id = resource.id();
        let history = resource.history.clone();
        resource.with_history(|node| patch.apply(node)).at(|| id.to_string())?;
        resource.history = history;
        let annotations = resource.annotations();
        resource.set_annotations(&annotations);
    }
    Ok(())
}

/// Items of `patchesStrategicMerge`: patches as text, or files with patches.
pub(super) struct Strategic(Vec<Resource>);

impl Strategic {
    pub(super) fn read(items: &[String], loader: &Loader<'_>, known: &Rc<Known>) -> Result<Self> {
        let mut patches = Vec::new();
        for item in items {
            let inline = resource::parse(item, known);
            let read = inline
                .or_else(|_| loader.text(item).and_then(|text| resource::parse(&text, known)).at(|| item.clone()));
            patches.extend(read.at(|| "patchesStrategicMerge".to_owned())?);
        }
        if patches.is_empty() {
            return fail("patchesStrategicMerge: the patches are empty");
        }
        Ok(Self(patches))
    }

    pub(super) fn apply(&self, resources: &mut Resources) -> Result<()> {
        for patch in &self.0 {
            let at = resources.one(&patch.original_id()).at(|| "patchesStrategicMerge".to_owned())?;
            merge_into(&mut resources.list_mut()[at], patch.node.clone(), false, false)?;
            resources.settle()?;
        }
        Ok(())
    }
}

/// An item of `patchesJson6902`.
pub(super) struct Json {
    patch: JsonPatch,
    target: Selector,
}

impl Json {
    pub(super) fn read(item: &Patch, loader: &Loader<'_>) -> Result<Self> {
        let place = || "patchesJson6902".to_owned();
        let Some(target) = item.target.clone().filter(|target| !target.name.is_empty()) else {
            return fail("patchesJson6902: an item has no `target` with a name");
        };
        let text = match (item.patch.as_str(), item.path.as_str()) {
            ("", "") => return fail("patchesJson6902: an item has neither `path` nor `patch`"),
            ("", path) => loader.text(path).at(place)?,
            (text, "") => text.to_owned(),
            _ => return fail("patchesJson6902: an item has `path` and `patch`; keep one of them"),
        };
        let patch = JsonPatch::parse(&text).at(place)?;
        if patch.is_empty() {
            return fail("patchesJson6902: a patch has no operations");
        }
        Ok(Self { patch, target })
    }

    pub(super) fn apply(&self, resources: &mut Resources) -> Result<()> {
        json(&self.patch, &self.target, resources, false).at(|| "patchesJson6902".to_owned())
    }
}
