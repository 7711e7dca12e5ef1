//! Replacements: a value of one resource is written into fields of others.
//!
//! Invariants: exactly one resource is the source; a target's field that is not there is an error unless it may be made.
//! It must not know: files but those it is given.

use super::error::{At, Result, fail};
use super::fieldpath;
use super::fields::Field;
use super::id::ResId;
use super::load::Loader;
use super::node::Node;
use super::read::{self, Twice};
use super::resource::Resource;
use super::resources::Resources;
use super::selector::{Selector, labels};
use super::settings::{FieldOptions, Replacement, Source, Target, replacement};

/// Reads the files that replacements name.
pub(super) fn read(items: &[Replacement], loader: &Loader<'_>) -> Result<Vec<Replacement>> {
    let mut found = Vec::new();
    for item in items {
        if item.path.is_empty() {
            found.push(item.clone());
            continue;
        }
        if item.source.is_some() || item.targets.as_ref().is_some_and(|targets| !targets.is_empty()) {
            return fail("replacements: an item has `path` and more; keep one of them");
        }
        let place = || format!("replacements: {}", item.path);
        let value = loader.text(&item.path).and_then(|text| read::configuration(&text, Twice::LastWins)).at(place)?;
        let field = Field::root(&value, true);
        let list = if field.is_list() { field.list()? } else { vec![field] };
        for one in &list {
            found.push(replacement(one).at(place)?);
        }
    }
    Ok(found)
}

/// Makes all replacements, one after the other.
pub(super) fn apply(replacements: &[Replacement], resources: &mut Resources) -> Result<()> {
    for (at, replacement) in replacements.iter().enumerate() {
        one(replacement, resources).at(|| format!("replacements[{at}]"))?;
    }
    Ok(())
}

fn one(replacement: &Replacement, resources: &mut Resources) -> Result<()> {
    let (Some(source), Some(targets)) = (&replacement.source, &replacement.targets) else {
        return fail("a replacement needs a `source` and `targets`");
    };
    let value = source_value(source, resources)?;
    for target in targets {
        write(target, &value, resources)?;
    }
    Ok(())
}

/// What a resource is and was called, none of it known to be without a namespace.
fn ids(resource: &Resource) -> Vec<ResId> {
    let mut ids = vec![ResId { cluster: false, ..resource.id() }];
    ids.extend(resource.previous_ids());
    ids
}

fn source_value(source: &Source, resources: &Resources) -> Result<Node> {
    let mut found = resources.iter().filter(|resource| ids(resource).iter().any(|id| id.is_selected_by(&source.id)));
    let Some(resource) = found.next() else {
        return fail(format!("source: there is no {}", source.id));
    };
    if found.next().is_some() {
        return fail(format!("source: {} is several resources; say more of the one that is meant", source.id));
    }
    let path = if source.field_path.is_empty() { "metadata.name" } else { &source.field_path };
    let node = fieldpath::get(&resource.node, &fieldpath::split(path)).at(|| format!("source: fieldPath {path}"))?;
    let Some(node) = node.filter(|node| !node.is_void()) else {
        return fail(format!("source: {} has no field `{path}`, or it is empty", resource.id()));
    };
    refined(node, &source.options)
}

/// The part of a value that the options ask for.
fn refined(node: &Node, options: &FieldOptions) -> Result<Node> {
    if options.delimiter.is_empty() {
        return Ok(node.clone());
    }
    let Node::Scalar(scalar) = node else { return fail("source: `delimiter` is for single values, and this is none") };
    let parts: Vec<&str> = scalar.text.split(&options.delimiter).collect();
    let part = usize::try_from(options.index).ok().and_then(|at| parts.get(at));
    let Some(part) = part else {
        return fail(format!("source: there is no part {} in `{}`", options.index, scalar.text));
    };
    let mut scalar = scalar.clone();
    scalar.text = (*part).to_owned();
    Ok(Node::Scalar(scalar))
}

fn write(target: &Target, value: &Node, resources: &mut Resources) -> Result<()> {
    let Some(select) = &target.select else { return fail("a target needs `select`") };
    let default = ["metadata.name".to_owned()];
    let paths = if target.field_paths.is_empty() { &default[..] } else { &target.field_paths };
    for resource in resources.iter_mut() {
        if !chosen(resource, select, &target.reject)? {
            continue;
        }
        let id = resource.id();
        resource
            .with_history(|node| paths.iter().try_for_each(|path| write_field(node, path, value, &target.options)))
            .at(|| format!("target {id}"))?;
    }
    Ok(())
}

fn chosen(resource: &Resource, select: &Selector, reject: &[Selector]) -> Result<bool> {
    if !labels_match(resource, select)? {
        return Ok(false);
    }
    for rejected in reject {
        let by_labels = !rejected.labels.is_empty() || !rejected.annotations.is_empty();
        if by_labels && labels_match(resource, rejected)? {
            return Ok(false);
        }
    }
    let ids = ids(resource);
    let is = |selector: &Selector| {
        let selector = id_of(selector);
        ids.iter().any(|id| id.is_selected_by(&selector))
    };
    Ok(is(select) && !reject.iter().any(|rejected| id_of(rejected) != ResId::default() && is(rejected)))
}

fn id_of(selector: &Selector) -> ResId {
    ResId {
        gvk: selector.gvk.clone(),
        name: selector.name.clone(),
        namespace: selector.namespace.clone(),
        cluster: false,
    }
}

fn labels_match(resource: &Resource, selector: &Selector) -> Result<bool> {
    let annotations = labels("annotationSelector", &selector.annotations)?;
    let own = labels("labelSelector", &selector.labels)?;
    Ok(annotations.is_none_or(|wanted| wanted.matches(&resource.annotations()))
        && own.is_none_or(|wanted| wanted.matches(&resource.labels())))
}

fn write_field(node: &mut Node, path: &str, value: &Node, options: &FieldOptions) -> Result<()> {
    let create = options.create.then(|| value.shape());
    let mut act = |field: &mut Node| set(field, value, options);
    let count = fieldpath::each(node, &fieldpath::split(path), create, &mut act).at(|| format!("fieldPath {path}"))?;
    if count == 0 {
        let advice = if options.create { "" } else { "; with `options.create: true` it is made" };
        return fail(format!("there is no field `{path}`{advice}"));
    }
    Ok(())
}

fn set(field: &mut Node, value: &Node, options: &FieldOptions) -> Result<()> {
    let mut value = value.clone();
    if !options.delimiter.is_empty() {
        let Node::Scalar(old) = &*field else { return fail("`delimiter` is for single values, and this is none") };
        let mut parts: Vec<&str> = old.text.split(&options.delimiter).collect();
        let part = value.as_text().to_owned();
        match usize::try_from(options.index) {
            Err(_) => parts.insert(0, &part),
            Ok(at) if at >= parts.len() => parts.push(&part),
            Ok(at) => parts[at] = &part,
        }
        let joined = parts.join(&options.delimiter);
        if let Node::Scalar(scalar) = &mut value {
            scalar.text = joined;
        }
    }
    match (field, value) {
        // A single value keeps what it is: text stays text, a number a number.
        (Node::Scalar(field), value) => value.raw().clone_into(&mut field.text),
        (field, value) => *field = value,
    }
    Ok(())
}
