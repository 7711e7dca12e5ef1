//! Paths to fields as replacements and variables write them: `spec.containers.[name=app].env.0.value`, `*` for every item.
//!
//! `\.` keeps a dot, and so do brackets: `metadata.annotations.[example.com/x]`.
//!
//! Invariants: a source has one place, a target may have many. It must not know: what is copied.

use super::error::{Error, Result, fail};
use super::fieldspec::split_path;
use super::node::{Node, Scalar, Shape};
use regex::Regex;

/// Splits a path at dots.
pub(super) fn split(path: &str) -> Vec<String> {
    let mut parts = split_path(path, '.').into_iter();
    let mut found = Vec::new();
    while let Some(part) = parts.next() {
        if !part.starts_with('[') || part.ends_with(']') {
            found.push(part);
            continue;
        }
        let mut whole = part;
        for more in parts.by_ref() {
            whole.push('.');
            whole.push_str(&more);
            if more.ends_with(']') {
                break;
            }
        }
        let keeps = whole.contains('=');
        found.push(if keeps { whole } else { whole.trim_matches(['[', ']']).to_owned() });
    }
    found
}

fn is_choice(part: &str) -> bool {
    part.starts_with('[') && part.ends_with(']')
}

/// `[key=value]` as key and value.
fn choice(part: &str) -> Result<(&str, &str)> {
    let inner = part.strip_suffix(']').and_then(|part| part.strip_prefix('[')).unwrap_or(part);
    let wrong = || Error::new(format!("`{part}` does not choose an item; write [KEY=VALUE]"));
    inner.split_once('=').ok_or_else(wrong)
}

fn items(node: &mut Node) -> Result<&mut Vec<Node>> {
    static_items(node).ok_or_else(|| Error::new("a list is wanted there"))
}

fn static_items(node: &mut Node) -> Option<&mut Vec<Node>> {
    if node.is_null() {
        *node = Node::Seq(Vec::new());
    }
    match node {
        Node::Seq(items) => Some(items),
        _ => None,
    }
}

/// The one node at a path.
pub(super) fn get<'a>(node: &'a Node, parts: &[String]) -> Result<Option<&'a Node>> {
    let mut at = node;
    for part in parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()) {
        let list = || match at {
            Node::Seq(items) => Ok(items.as_slice()),
            node if node.is_null() => Ok(&[][..]),
            _ => fail(format!("`{part}` is the place of an item, and this is no list")),
        };
        let next = match part {
            "*" => return fail("`*` cannot be used where one value is wanted"),
            "-" => list()?.last(),
            part if part.parse::<usize>().is_ok() => list()?.get(part.parse::<usize>().unwrap_or(usize::MAX)),
            part if is_choice(part) => {
                let (key, value) = choice(part)?;
                let chosen = |item: &&Node| match key {
                    "" => item.raw() == value,
                    key => item.get(key).is_some_and(|field| field.raw() == value),
                };
                list()?.iter().find(chosen)
            }
            name => match at {
                Node::Map(_) => at.get(name),
                node if node.is_null() => None,
                _ => return fail(format!("`{name}` is the name of a field, and this is no mapping")),
            },
        };
        match next {
            Some(next) => at = next,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// Does something at every place of a path, and counts them. With `create`, what is missing is made, with this shape at the
/// end.
pub(super) fn each(
    node: &mut Node,
    parts: &[String],
    create: Option<Shape>,
    act: &mut dyn FnMut(&mut Node) -> Result<()>,
) -> Result<usize> {
    let Some((part, rest)) = parts.split_first() else {
        act(node)?;
        return Ok(1);
    };
    // What the next step walks through decides what is made here.
    let next = create.map(|last| match rest.first() {
        None => last,
        Some(next) if is_choice(next) || next.parse::<usize>().is_ok() => Shape::Seq,
        Some(_) => Shape::Map,
    });
    if let Ok(at) = part.parse::<usize>() {
        let items = items(node)?;
        if items.len() == at
            && let Some(shape) = next
        {
            items.push(shape.empty());
        }
        let count = items.len();
        let Some(item) = items.get_mut(at) else {
            return fail(format!("there is no item {at} in a list of {count}"));
        };
        return each(item, rest, create, act);
    }
    if is_choice(part) {
        return each_chosen(node, part, rest, create, act);
    }
    if part == "*" {
        let mut count = 0;
        for item in items(node)? {
            count += each(item, rest, create, act)?;
        }
        return Ok(count);
    }
    if node.is_null() {
        return Ok(0);
    }
    if !matches!(node, Node::Map(_)) {
        return fail(format!("`{part}` is the name of a field, and this is no mapping"));
    }
    let child = match next {
        Some(shape) => node.field_or_new(part, shape),
        None => node.get_mut(part),
    };
    child.map_or(Ok(0), |child| each(child, rest, create, act))
}

fn each_chosen(
    node: &mut Node,
    part: &str,
    rest: &[String],
    create: Option<Shape>,
    act: &mut dyn FnMut(&mut Node) -> Result<()>,
) -> Result<usize> {
    let (key, value) = choice(part)?;
    let pattern =
        Regex::new(value).map_err(|error| Error::new(format!("`{part}`: not a regular expression: {error}")))?;
    let list = items(node)?;
    let mut count = 0;
    for item in list.iter_mut() {
        if key.is_empty() {
            if pattern.is_match(item.raw().trim()) {
                // A single value has no fields to go on to.
                act(item)?;
                count += 1;
            }
        } else if item.get(key).is_some_and(|field| pattern.is_match(field.raw().trim())) {
            count += each(item, rest, create, act)?;
        }
    }
    if count > 0 || create.is_none() {
        return Ok(count);
    }
    let scalar = Node::Scalar(Scalar::plain(value));
    list.push(if key.is_empty() { scalar } else { Node::Map(vec![(Scalar::plain(key), scalar)]) });
    let Some(item) = list.last_mut() else { return Ok(0) };
    if key.is_empty() {
        act(item)?;
        return Ok(1);
    }
    each(item, rest, create, act)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_split_at_dots_that_are_not_kept() {
        let cases: &[(&str, &[&str])] = &[
            ("spec.containers.0.image", &["spec", "containers", "0", "image"]),
            (r"data.config\.yaml", &["data", "config.yaml"]),
            ("metadata.annotations.[a.b/c]", &["metadata", "annotations", "a.b/c"]),
            ("spec.[name=a.b.c].x", &["spec", "[name=a.b.c]", "x"]),
        ];
        for (path, wanted) in cases {
            assert_eq!(split(path), *wanted, "{path}");
        }
    }
}
