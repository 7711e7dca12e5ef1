//! The plain transformations: namespace, prefix, suffix, labels, annotations, images, replicas, and the hash in names.
//!
//! Invariants: each changes only the places that its field specifications name, and remembers what a resource was called
//! before it changes that. It must not know: files, the order of transformations.

use super::error::{Error, Result, fail};
use super::fieldspec::{FieldSpec, Make, visit, visit_path};
use super::generate;
use super::node::{Node, Scalar, Shape, Tag};
use super::resource::Resource;
use super::resources::{Resources, clash};
use super::settings::{Image, Replica};
use regex::Regex;
use std::collections::BTreeMap;

/// Sets a scalar, which keeps the quotes that were there.
pub(super) fn set_scalar(node: &mut Node, text: &str, tag: Tag) -> Result<()> {
    match node {
        Node::Scalar(_) => {
            node.replace(Node::Scalar(Scalar::tagged(text, tag)));
            Ok(())
        }
        other => fail(format!("this is {}, where a single value is wanted", other.shape().name())),
    }
}

/// Sets an entry of a mapping.
fn set_entry(node: &mut Node, key: &str, value: &str) -> Result<()> {
    match node {
        Node::Map(_) => {
            node.set(key, Node::Scalar(Scalar::text(value)));
            Ok(())
        }
        other => fail(format!("this is {}, where a mapping is wanted for `{key}`", other.shape().name())),
    }
}

/// What subjects of role bindings get the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Subjects {
    #[default]
    NamedDefault,
    ServiceAccounts,
    None,
}

/// Puts resources into a namespace.
#[derive(Debug, Clone, Default)]
pub(super) struct Namespace {
    pub(super) name: String,
    pub(super) specs: Vec<FieldSpec>,
    pub(super) unset_only: bool,
    pub(super) subjects: Subjects,
}

impl Namespace {
    pub(super) fn apply(&self, resources: &mut Resources) -> Result<()> {
        if self.name.is_empty() {
            return Ok(());
        }
        for at in 0..resources.list().len() {
            if resources.list()[at].is_gone() {
                continue;
            }
            let resource = &mut resources.list_mut()[at];
            resource.remember();
            self.apply_to(resource)?;
            if resources.same_as(at) != 1 {
                return Err(clash(&resources.list()[at]));
            }
        }
        Ok(())
    }

    fn set(&self, node: &mut Node) -> Result<()> {
        if self.unset_only && !node.as_text().is_empty() {
            return Ok(());
        }
        set_scalar(node, &self.name, Tag::Str)
    }

    /// Puts one resource into the namespace.
    pub(super) fn apply_to(&self, resource: &mut Resource) -> Result<()> {
        let make = Some(Make { shape: Shape::Scalar, tag: Tag::Unsaid });
        if !resource.is_cluster() {
            visit_path(resource, "metadata/namespace", make, &mut |node| self.set(node))?;
        }
        let binding = matches!(resource.kind(), "RoleBinding" | "ClusterRoleBinding");
        if binding {
            self.set_subjects(resource)?;
        }
        let core = resource.api_version() == "v1";
        let make = Some(Make { shape: Shape::Scalar, tag: Tag::Str });
        for spec in &self.specs {
            let own = match spec.path.as_str() {
                "metadata/namespace" => false,
                "metadata/name" => core,
                "subjects/namespace" => {
                    !(binding && matches!(spec.gvk.kind.as_str(), "RoleBinding" | "ClusterRoleBinding"))
                }
                _ => true,
            };
            if own {
                visit(resource, spec, make, &mut |node| self.set(node))?;
            }
        }
        Ok(())
    }

    fn set_subjects(&self, resource: &mut Resource) -> Result<()> {
        let (field, wanted) = match self.subjects {
            Subjects::NamedDefault => ("name", "default"),
            Subjects::ServiceAccounts => ("kind", "ServiceAccount"),
            Subjects::None => return Ok(()),
        };
        let items = match resource.node.get_mut("subjects") {
            Some(Node::Seq(items)) => items,
            None => return Ok(()),
            Some(node) if node.is_null() => return Ok(()),
            Some(_) => return fail(format!("the subjects of {} are no list", resource.id())),
        };
        for item in items {
            if item.get(field).is_some_and(|value| value.as_text() == wanted)
                && let Some(node) = item.field_or_new("namespace", Shape::Scalar)
            {
                self.set(node)?;
            }
        }
        Ok(())
    }
}

/// Which end of a name is added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Prefix,
    Suffix,
}

/// Adds a prefix or suffix to names.
pub(super) fn affix(resources: &mut Resources, end: End, text: &str, specs: &[FieldSpec]) -> Result<()> {
    let make = Some(Make { shape: Shape::Scalar, tag: Tag::Str });
    for resource in resources.iter_mut() {
        let id = resource.original_id();
        let api_service = id.gvk.group == "apiregistration.k8s.io" && id.gvk.kind == "APIService";
        if api_service || matches!(id.gvk.kind.as_str(), "CustomResourceDefinition" | "Namespace") {
            continue;
        }
        for spec in specs.iter().filter(|spec| id.gvk.is_selected(&spec.gvk)) {
            if spec.path == "metadata/name" && !text.is_empty() {
                let list = match end {
                    End::Prefix => &mut resource.history.prefixes,
                    End::Suffix => &mut resource.history.suffixes,
                };
                list.push(text.to_owned());
                resource.remember();
            }
            visit(resource, spec, make, &mut |node| {
                let name = match end {
                    End::Prefix => format!("{text}{}", node.raw()),
                    End::Suffix => format!("{}{text}", node.raw()),
                };
                set_scalar(node, &name, Tag::Unsaid)
            })?;
        }
    }
    Ok(())
}

/// Sets labels or annotations.
pub(super) fn set_entries(
    resources: &mut Resources,
    entries: &BTreeMap<String, String>,
    specs: &[FieldSpec],
) -> Result<()> {
    let make = Some(Make { shape: Shape::Map, tag: Tag::Unsaid });
    for resource in resources.iter_mut() {
        for (key, value) in entries {
            for spec in specs {
                visit(resource, spec, make, &mut |node| set_entry(node, key, value))?;
            }
        }
    }
    Ok(())
}

/// Changes images.
pub(super) fn images(resources: &mut Resources, image: &Image, specs: &[FieldSpec]) -> Result<()> {
    let pattern = format!(r"^{}(:[a-zA-Z0-9_.{{}}-]*)?(@sha256:[a-zA-Z0-9_.{{}}-]*)?$", image.name);
    let pattern = Regex::new(&pattern).map_err(|error| {
        Error::new(format!("images: the name `{}` is not a regular expression: {error}", image.name))
    })?;
    let mut change = |node: &mut Node| change_image(node, image, &pattern);
    for resource in resources.iter_mut().filter(|resource| resource.kind() != "CustomResourceDefinition") {
        anywhere(&mut resource.node, &mut change)?;
        for spec in specs {
            visit(resource, spec, None, &mut change)?;
        }
    }
    Ok(())
}

/// Every `image` of an item of any field named `containers` or `initContainers`.
fn anywhere(node: &mut Node, change: &mut dyn FnMut(&mut Node) -> Result<()>) -> Result<()> {
    match node {
        Node::Map(fields) => {
            for (key, value) in fields {
                anywhere(value, change)?;
                if matches!(key.text.as_str(), "containers" | "initContainers")
                    && let Node::Seq(items) = value
                {
                    items.iter_mut().filter_map(|item| item.get_mut("image")).try_for_each(&mut *change)?;
                }
            }
            Ok(())
        }
        Node::Seq(items) => items.iter_mut().try_for_each(|item| anywhere(item, change)),
        Node::Scalar(_) => Ok(()),
    }
}

fn change_image(node: &mut Node, image: &Image, pattern: &Regex) -> Result<()> {
    if !pattern.is_match(node.raw()) {
        return Ok(());
    }
    let (mut name, mut tag, mut digest) = split_image(node.raw());
    if !image.new_name.is_empty() {
        name.clone_from(&image.new_name);
    }
    match (image.new_tag.as_str(), image.digest.as_str(), image.tag_suffix.as_str()) {
        ("", "", "") => {}
        ("", "", suffix) => {
            tag.push_str(suffix);
            digest.clear();
        }
        (new_tag, new_digest, _) => {
            new_tag.clone_into(&mut tag);
            new_digest.clone_into(&mut digest);
        }
    }
    if !tag.is_empty() {
        name = format!("{name}:{tag}");
    }
    if !digest.is_empty() {
        name = format!("{name}@{digest}");
    }
    set_scalar(node, &name, Tag::Unsaid)
}

/// Name, tag and digest. A colon before the first slash is a port's.
fn split_image(image: &str) -> (String, String, String) {
    let begin = image.find('/').unwrap_or(0);
    let at = image[begin..].find('@').map(|at| at + begin);
    let colon = image[begin..].find(':').map(|colon| colon + begin);
    let own = |text: &str| text.to_owned();
    match (colon, at) {
        (None, None) => (own(image), String::new(), String::new()),
        (Some(colon), None) => (own(&image[..colon]), own(&image[colon + 1..]), String::new()),
        (Some(colon), Some(at)) if colon < at => {
            (own(&image[..colon]), own(&image[colon + 1..at]), own(&image[at + 1..]))
        }
        (_, Some(at)) => (own(&image[..at]), String::new(), own(&image[at + 1..])),
    }
}

/// Sets how often workloads of a name run.
pub(super) fn replicas(resources: &mut Resources, replica: &Replica, specs: &[FieldSpec]) -> Result<()> {
    let make = Some(Make { shape: Shape::Scalar, tag: Tag::Int });
    let mut found = false;
    for spec in specs {
        for at in resources.ever(|id| id.name == replica.name && id.gvk.is_selected(&spec.gvk)) {
            found = true;
            let count = replica.count.to_string();
            visit(&mut resources.list_mut()[at], spec, make, &mut |node| set_scalar(node, &count, Tag::Int))?;
        }
    }
    if found {
        return Ok(());
    }
    let kinds: Vec<&str> = specs.iter().map(|spec| spec.gvk.kind.as_str()).collect();
    fail(format!(
        "replicas: no {} is named `{}`; take the item out, or correct its name",
        kinds.join(", "),
        replica.name
    ))
}

/// Ends the names of generated resources in a hash of their content.
pub(super) fn add_hashes(resources: &mut Resources) -> Result<()> {
    if !resources.iter().any(|resource| resource.history.needs_hash) {
        return Ok(());
    }
    for resource in resources.iter_mut().filter(|resource| resource.history.needs_hash) {
        let hash = generate::hash(&resource.node)?;
        resource.remember();
        let name = format!("{}-{hash}", resource.name());
        resource.set_name(&name);
    }
    Ok(())
}

/// Adds a value at a path, or within a path that is the value there.
#[derive(Debug, Clone)]
pub(super) struct ValueAdd {
    pub(super) value: String,
    pub(super) path: String,
    /// 0 replaces; else the place, from 1, among the parts of a file path.
    pub(super) position: usize,
}

impl ValueAdd {
    pub(super) fn apply_to(&self, resource: &mut Resource) -> Result<()> {
        if self.path == "metadata/namespace" {
            return Namespace { name: self.value.clone(), ..Namespace::default() }.apply_to(resource);
        }
        let mut node = &mut resource.node;
        let parts = super::fieldspec::split_path(&self.path, '/');
        for (at, part) in parts.iter().enumerate() {
            let shape = if at + 1 == parts.len() { Shape::Scalar } else { Shape::Map };
            let Some(child) = node.field_or_new(part, shape) else {
                return fail(format!("fieldPath: `{}` leads through something that is not a mapping", self.path));
            };
            node = child;
        }
        let value = if self.position > 0 {
            insert_part(node.raw(), self.position - 1, &self.value)
        } else {
            self.value.clone()
        };
        set_scalar(node, &value, Tag::Unsaid)
    }
}

fn insert_part(path: &str, at: usize, part: &str) -> String {
    if path.is_empty() {
        return part.to_owned();
    }
    let root = if path.starts_with('/') { "/" } else { "" };
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    parts.insert(at.min(parts.len()), part);
    format!("{root}{}", parts.join("/"))
}
