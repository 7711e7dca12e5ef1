//! One object on its way through a kustomization: its tree, and what it was called before.
//!
//! References are mended at the very end, when all names are final; for that every resource remembers each identity it had,
//! and which prefixes and suffixes it was given.
//!
//! Invariants: the history is not part of the tree, except while a patch could see it ([`Resource::with_history`]).
//! It must not know: files, transformations.

use super::error::{Result, fail};
use super::id::{Gvk, ResId, effective};
use super::node::{Node, Scalar, Shape};
use super::schema::Known;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What begins the name of an annotation that never reaches the result.
const INTERNAL: &str = "internal.config.kubernetes.io/";
/// Where an object came from.
pub(super) const ORIGIN: &str = "config.kubernetes.io/origin";
/// What changed an object on its way.
pub(super) const TRANSFORMATIONS: &str = "alpha.config.kubernetes.io/transformations";
/// Annotations of other tools that are taken out of the result.
const TOOLS: [&str; 5] = [
    "config.kubernetes.io/index",
    "config.kubernetes.io/path",
    "config.k8s.io/id",
    "config.kubernetes.io/id",
    "internal.config.kubernetes.io/annotations-migration-resource-id",
];

/// What a generated resource does to one that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Behavior {
    #[default]
    Create,
    Replace,
    Merge,
}

/// An identity that a resource had. Its version is always the current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Previous {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) namespace: String,
}

/// What a resource remembers besides its tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct History {
    /// Oldest first.
    pub(super) previous: Vec<Previous>,
    pub(super) prefixes: Vec<String>,
    pub(super) suffixes: Vec<String>,
    /// Set for what a generator made.
    pub(super) behavior: Option<Behavior>,
    /// The name gets a hash of the content.
    pub(super) needs_hash: bool,
    /// The names of the variables that take their value from here.
    pub(super) variables: Vec<String>,
}

/// One object.
#[derive(Debug, Clone)]
pub(super) struct Resource {
    pub(super) node: Node,
    pub(super) history: History,
    known: Rc<Known>,
}

impl Resource {
    pub(super) fn new(node: Node, known: &Rc<Known>) -> Self {
        known.used();
        Self { node, history: History::default(), known: known.clone() }
    }

    /// A patch may have deleted everything.
    pub(super) fn is_gone(&self) -> bool {
        self.node.is_void()
    }

    pub(super) fn api_version(&self) -> &str {
        self.node.get("apiVersion").map(Node::raw).unwrap_or_default()
    }

    pub(super) fn kind(&self) -> &str {
        self.node.get("kind").map(Node::raw).unwrap_or_default()
    }

    pub(super) fn name(&self) -> &str {
        self.meta("name")
    }

    pub(super) fn namespace(&self) -> &str {
        self.meta("namespace")
    }

    fn meta(&self, field: &str) -> &str {
        self.node.at(&["metadata", field]).filter(|node| !node.is_void()).map(Node::raw).unwrap_or_default()
    }

    pub(super) fn gvk(&self) -> Gvk {
        Gvk::of(self.api_version(), self.kind())
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.known.is_cluster(self.api_version(), self.kind())
    }

    pub(super) fn known(&self) -> &Rc<Known> {
        &self.known
    }

    /// What it is called now.
    pub(super) fn id(&self) -> ResId {
        ResId {
            gvk: self.gvk(),
            name: self.name().to_owned(),
            namespace: self.namespace().to_owned(),
            cluster: self.is_cluster(),
        }
    }

    /// What it was called, oldest first.
    pub(super) fn previous_ids(&self) -> Vec<ResId> {
        let gvk = self.gvk();
        let of = |before: &Previous| ResId {
            gvk: Gvk { kind: before.kind.clone(), ..gvk.clone() },
            name: before.name.clone(),
            namespace: before.namespace.clone(),
            cluster: false,
        };
        self.history.previous.iter().map(of).collect()
    }

    /// What it was called when it was read.
    pub(super) fn original_id(&self) -> ResId {
        self.previous_ids().into_iter().next().unwrap_or_else(|| self.id())
    }

    /// Whether it is called so, or was.
    pub(super) fn was_ever(&self, accept: impl Fn(&ResId) -> bool) -> bool {
        self.previous_ids().iter().any(&accept) || accept(&self.id())
    }

    /// Remembers what it is called, before that changes.
    pub(super) fn remember(&mut self) {
        let previous = Previous {
            kind: self.kind().to_owned(),
            name: self.name().to_owned(),
            namespace: effective(self.is_cluster(), self.namespace()).to_owned(),
        };
        self.history.previous.push(previous);
    }

    pub(super) fn set_name(&mut self, name: &str) {
        self.set_meta("name", Node::Scalar(Scalar::plain(name)));
    }

    /// Sets the namespace; an empty one takes the field away.
    pub(super) fn set_namespace(&mut self, namespace: &str) {
        if namespace.is_empty() {
            if let Some(metadata) = self.node.get_mut("metadata") {
                metadata.remove("namespace");
            }
            return;
        }
        self.set_meta("namespace", Node::Scalar(Scalar::plain(namespace)));
    }

    fn set_meta(&mut self, field: &str, value: Node) {
        if let Some(metadata) = self.node.field_or_new("metadata", Shape::Map) {
            metadata.set(field, value);
        }
    }

    pub(super) fn annotations(&self) -> BTreeMap<String, String> {
        self.texts("annotations")
    }

    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        self.texts("labels")
    }

    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.node.at(&["metadata", "annotations", name]).map(Node::raw)
    }

    fn texts(&self, field: &str) -> BTreeMap<String, String> {
        match self.node.at(&["metadata", field]) {
            Some(Node::Map(fields)) => {
                fields.iter().map(|(key, value)| (key.text.clone(), value.raw().to_owned())).collect()
            }
            _ => BTreeMap::new(),
        }
    }

    /// Sets all annotations; none takes the field away.
    pub(super) fn set_annotations(&mut self, annotations: &BTreeMap<String, String>) {
        self.set_texts("annotations", annotations);
    }

    pub(super) fn set_labels(&mut self, labels: &BTreeMap<String, String>) {
        self.set_texts("labels", labels);
    }

    fn set_texts(&mut self, field: &str, texts: &BTreeMap<String, String>) {
        let Some(metadata) = self.node.field_or_new("metadata", Shape::Map) else { return };
        metadata.remove(field);
        if texts.is_empty() {
            return;
        }
        if let Some(map) = metadata.field_or_new(field, Shape::Map) {
            for (key, value) in texts {
                map.set(key, Node::Scalar(Scalar::text(value.as_str())));
            }
        }
    }

    /// Sets one annotation and leaves the others.
    pub(super) fn set_annotation(&mut self, name: &str, value: &str) {
        let mut annotations = self.annotations();
        annotations.insert(name.to_owned(), value.to_owned());
        self.set_annotations(&annotations);
    }

    /// Lets `change` see the history as annotations, as patches were written against tools that keep it there: an annotation
    /// can be added by its path although the object had none of its own, and replacing all of them forgets the history.
    pub(super) fn with_history<T>(&mut self, change: impl FnOnce(&mut Node) -> Result<T>) -> Result<T> {
        let marks = self.history.marks();
        if marks.is_empty() {
            return change(&mut self.node);
        }
        let mut annotations = self.annotations();
        annotations.extend(marks.iter().map(|mark| (format!("{INTERNAL}{mark}"), "true".to_owned())));
        self.set_annotations(&annotations);
        let done = change(&mut self.node)?;
        let Some(Node::Map(fields)) = self.node.get_mut("metadata").and_then(|m| m.get_mut("annotations")) else {
            self.history.forget(&|_| true);
            return Ok(done);
        };
        let left: Vec<String> =
            fields.iter().filter_map(|(key, _)| key.text.strip_prefix(INTERNAL).map(str::to_owned)).collect();
        fields.retain(|(key, _)| !key.text.starts_with(INTERNAL));
        self.history.forget(&|mark| !left.iter().any(|kept| kept == mark));
        Ok(done)
    }

    /// Takes everything out that only the build needed.
    pub(super) fn finish(&mut self, origins: bool, transformations: bool) {
        let mut annotations = self.annotations();
        annotations.retain(|name, _| {
            !name.starts_with(INTERNAL)
                && !TOOLS.contains(&name.as_str())
                && (origins || name != ORIGIN)
                && (transformations || name != TRANSFORMATIONS)
        });
        self.set_annotations(&annotations);
    }

    /// Takes the metadata of a resource that this one replaces or is merged with, as far as it has none of its own.
    pub(super) fn inherit(&mut self, other: &Resource) {
        let mut labels = other.labels();
        labels.extend(self.labels());
        self.set_labels(&labels);
        let mut annotations = other.annotations();
        annotations.extend(self.annotations());
        self.set_annotations(&annotations);
        self.set_name(other.name());
        self.set_namespace(other.namespace());
        let needs_hash = self.history.needs_hash && other.history.needs_hash;
        self.history = History { needs_hash, ..other.history.clone() };
    }
}

impl History {
    /// Names of the annotations that would hold this.
    fn marks(&self) -> Vec<&'static str> {
        let mut marks = Vec::new();
        if !self.previous.is_empty() {
            marks.extend(["previousNames", "previousNamespaces", "previousKinds"]);
        }
        let more = [
            ("prefixes", !self.prefixes.is_empty()),
            ("suffixes", !self.suffixes.is_empty()),
            ("generatorBehavior", self.behavior.is_some()),
            ("needsHashSuffix", self.needs_hash),
        ];
        marks.extend(more.iter().filter(|(_, there)| *there).map(|(name, _)| *name));
        marks
    }

    fn forget(&mut self, gone: &dyn Fn(&str) -> bool) {
        if gone("previousNames") {
            self.previous.clear();
        }
        if gone("prefixes") {
            self.prefixes.clear();
        }
        if gone("suffixes") {
            self.suffixes.clear();
        }
        if gone("generatorBehavior") {
            self.behavior = None;
        }
        if gone("needsHashSuffix") {
            self.needs_hash = false;
        }
    }
}

/// Every object of a manifest file, with lists taken apart. What is no object is refused.
pub(super) fn parse(text: &str, known: &Rc<Known>) -> Result<Vec<Resource>> {
    let mut queue = unwrap_list(super::read::documents(text)?);
    let mut resources = Vec::new();
    for node in &queue {
        check(node)?;
    }
    while !queue.is_empty() {
        let mut more = Vec::new();
        for node in queue {
            if node.is_void() {
                continue;
            }
            if node.get("kind").is_some_and(|kind| kind.raw().ends_with("List")) && node.get("items").is_some() {
                more.extend(items(&node)?);
            } else {
                resources.push(Resource::new(node, known));
            }
        }
        queue = more;
    }
    Ok(resources)
}

/// A file that is one `List` is its items, as they are written.
fn unwrap_list(mut nodes: Vec<Node>) -> Vec<Node> {
    let wraps = |node: &Node| {
        node.get("kind").is_some_and(|kind| matches!(kind.raw(), "List" | "ResourceList"))
            && (node.get("items").is_some() || node.get("functionConfig").is_some())
    };
    if nodes.len() == 1 && wraps(&nodes[0]) {
        return match nodes[0].remove("items") {
            Some(Node::Seq(items)) => items,
            _ => Vec::new(),
        };
    }
    nodes
}

/// The items of a list kind, read anew from JSON.
fn items(list: &Node) -> Result<Vec<Node>> {
    let json = list.to_json()?;
    let items = match &json["items"] {
        serde_json::Value::Array(items) => items,
        serde_json::Value::Null => return Ok(Vec::new()),
        _ => return fail(format!("the field items of a {} is not a list", list.get("kind").map_or("List", Node::raw))),
    };
    let nodes: Vec<Node> = items.iter().flat_map(|item| unwrap_list(vec![Node::from_json(item)])).collect();
    nodes.iter().try_for_each(check)?;
    Ok(nodes)
}

/// An object has a kind and a name; a list needs no name.
fn check(node: &Node) -> Result<()> {
    if node.is_void() {
        return Ok(());
    }
    let kind = node.get("kind").map(Node::as_text).unwrap_or_default();
    if kind.is_empty() {
        return fail("an object has no kind; every document of a manifest needs apiVersion, kind and metadata.name");
    }
    let name = node.at(&["metadata", "name"]).map(Node::as_text).unwrap_or_default();
    if name.is_empty() && !kind.ends_with("List") {
        return fail(format!("an object of kind {kind} has no metadata.name"));
    }
    Ok(())
}
