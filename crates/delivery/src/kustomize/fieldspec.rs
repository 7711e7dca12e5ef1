//! Places in objects, as configurations name them: `spec/template/spec/containers/image`, for a kind or for all.
//!
//! Lists on the way are walked item by item, whether the path says `[]` or not.
//!
//! Invariants: what is not there is made only where the specification says so, and never inside a list that is not there.
//! It must not know: what is done at the place.

use super::error::{Result, fail};
use super::id::{Gvk, part, split_api_version};
use super::node::{Node, Scalar, Shape, Tag};
use super::resource::Resource;

/// A place in objects of some kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FieldSpec {
    pub(super) gvk: Gvk,
    pub(super) path: String,
    pub(super) create: bool,
}

/// Several places, without doubles.
pub(super) type FieldSpecs = Vec<FieldSpec>;

/// Adds a place, unless a wider or equal one is there.
pub(super) fn merge_one(specs: &mut FieldSpecs, more: FieldSpec) -> Result<()> {
    let same = specs.iter().find(|own| own.path == more.path && own.gvk.is_selected(&more.gvk));
    match same {
        Some(own) if own.create != more.create => fail(format!(
            "the field path `{}` is given twice, once with `create` and once without; make them agree",
            more.path
        )),
        Some(_) => Ok(()),
        None => {
            specs.push(more);
            Ok(())
        }
    }
}

/// Adds places.
pub(super) fn merge_all(specs: &mut FieldSpecs, more: &[FieldSpec]) -> Result<()> {
    more.iter().try_for_each(|spec| merge_one(specs, spec.clone()))
}

/// Splits a path at a delimiter; `\` before it keeps it. One delimiter at the beginning is dropped.
pub(super) fn split_path(path: &str, delimiter: char) -> Vec<String> {
    let mut parts = path.split(delimiter).peekable();
    if path.starts_with(delimiter) {
        parts.next();
    }
    let mut found: Vec<String> = Vec::new();
    for part in parts {
        match found.last_mut() {
            Some(last) if last.ends_with('\\') => {
                last.pop();
                last.push(delimiter);
                last.push_str(part);
            }
            _ => found.push(part.to_owned()),
        }
    }
    found
}

/// What is made where nothing is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Make {
    pub(super) shape: Shape,
    /// What a null becomes.
    pub(super) tag: Tag,
}

/// What is done at a place.
pub(super) type Act<'a> = dyn FnMut(&mut Node) -> Result<()> + 'a;

/// Does something at a place of a resource, wherever it is found.
pub(super) fn visit(resource: &mut Resource, spec: &FieldSpec, make: Option<Make>, act: &mut Act<'_>) -> Result<()> {
    let (group, version) = split_api_version(resource.api_version());
    let gvk = &spec.gvk;
    if !(part(&gvk.kind, resource.kind()) && part(&gvk.group, group) && part(&gvk.version, version)) {
        return Ok(());
    }
    visit_path(resource, &spec.path, make.filter(|_| spec.create), act)
}

/// The same for a path that is for this resource.
pub(super) fn visit_path(resource: &mut Resource, path: &str, make: Option<Make>, act: &mut Act<'_>) -> Result<()> {
    let path_parts = split_path(path, '/');
    walk(&mut resource.node, &path_parts, make, act)
        .map_err(|error| error.at(format!("field {path} of {}", resource.id())))
}

fn walk(node: &mut Node, path: &[String], make: Option<Make>, act: &mut Act<'_>) -> Result<()> {
    let Some((name, rest)) = path.split_first() else { return act(node) };
    match node {
        _ if node.is_null() => Ok(()),
        Node::Seq(items) => items.iter_mut().try_for_each(|item| walk(item, path, make, act)),
        Node::Map(_) => walk_map(node, name, rest, make, act),
        Node::Scalar(scalar) => fail(format!(
            "`{}` is {}, where a mapping or a list with the field `{name}` is wanted",
            scalar.text,
            Shape::Scalar.name()
        )),
    }
}

fn walk_map(node: &mut Node, name: &str, rest: &[String], make: Option<Make>, act: &mut Act<'_>) -> Result<()> {
    let (field, list) = match name.strip_suffix("[]") {
        Some(field) => (field, true),
        None => (name, false),
    };
    if field.is_empty() {
        return fail("the field path has an empty part; take the extra `/` out");
    }
    let shape = match make {
        _ if list => Some(Shape::Seq),
        None => None,
        Some(make) if rest.is_empty() => Some(make.shape),
        Some(_) => Some(Shape::Map),
    };
    // A field's name is a number only as the place in a list.
    let child = if make.is_some() && !list {
        node.field_or_new(field.trim(), shape.unwrap_or(Shape::Map))
    } else {
        node.get_mut(field.trim())
    };
    let Some(child) = child else { return Ok(()) };
    if let Some(shape) = shape
        && child.is_null()
    {
        *child = match (shape, make) {
            (Shape::Scalar, Some(make)) => Node::Scalar(Scalar::tagged(child.raw(), make.tag)),
            (shape, _) => shape.empty(),
        };
    }
    walk(child, rest, make, act)
}
