//! Strategic merge patches on trees: mappings merge field by field, lists whole or item by item as the schema says.
//!
//! The rules are those of Kustomize's own library, which differ from the API server's: items of the patch come first in a
//! merged list, an item's place is found by all keys that are given, and `$setElementOrder` and `$retainKeys` are ordinary
//! fields. Directives are `$patch: delete|replace|merge` in mappings, in items, and as an item of their own.
//!
//! Invariants: a field set to null is taken away; a scalar keeps the quotes of the one it replaces; an empty field (`a:`) is
//! taken away by any patch. It must not know: resources, files.

use super::error::{Result, fail};
use super::node::{self, Fields, Node, Scalar, Shape, Tag};
use super::schema::{Known, Place};

/// The directive's field.
const DIRECTIVE: &str = "$patch";

/// What a merge made of a value.
enum Merged {
    /// Nothing is left.
    Gone,
    /// A null that was written out in the object and stays.
    KeptNull(Node),
    /// What was there, changed in place.
    Own(Node),
    /// What the patch says, in the place of what was there.
    Other(Node),
}

impl Merged {
    fn from_patch(node: Option<Node>) -> Self {
        node.map_or(Merged::Gone, Merged::Other)
    }

    fn node(self) -> Option<Node> {
        match self {
            Merged::Gone => None,
            Merged::KeptNull(node) | Merged::Own(node) | Merged::Other(node) => Some(node),
        }
    }
}

/// A patch's directive for a mapping or list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Directive {
    Merge,
    Replace,
    Delete,
}

/// Merges a patch into an object; nothing is left when the patch deletes it.
pub(super) fn merge(object: Node, patch: Node, known: &Known) -> Result<Option<Node>> {
    Merger { known }.walk(Some(object), Some(patch), None, "").map(Merged::node)
}

struct Merger<'a> {
    known: &'a Known,
}

fn real(node: Option<&Node>) -> Option<&Node> {
    node.filter(|node| !node.is_null())
}

impl Merger<'_> {
    /// What is known of a place. A part of an object that says its own kind is known by that.
    fn place(&self, place: Option<Place>, sources: [Option<&Node>; 2]) -> Option<Place> {
        place.or_else(|| {
            sources.into_iter().filter_map(real).find_map(|node| {
                let text = |field: &str| node.get(field).map(Node::as_text).filter(|text| !text.is_empty());
                self.known.kind(text("apiVersion")?, text("kind")?)
            })
        })
    }

    fn walk(&self, own: Option<Node>, patch: Option<Node>, place: Option<Place>, name: &str) -> Result<Merged> {
        let place = self.place(place, [own.as_ref(), patch.as_ref()]);
        let shapes = [real(own.as_ref()).map(Node::shape), real(patch.as_ref()).map(Node::shape)];
        if let [Some(own), Some(patch)] = shapes
            && own != patch
        {
            return fail(format!("the field `{name}` is {} and the patch makes it {}", own.name(), patch.name()));
        }
        match shapes[0].or(shapes[1]) {
            Some(Shape::Scalar) => Ok(match (own, patch) {
                (_, Some(patch)) => Merged::Other(patch),
                (Some(own), None) => Merged::Own(own),
                (None, None) => Merged::Gone,
            }),
            Some(Shape::Seq) => self.walk_list(own, patch, place, name),
            Some(Shape::Map) | None => self.walk_map(own, patch, place),
        }
    }

    fn walk_map(&self, own: Option<Node>, patch: Option<Node>, place: Option<Place>) -> Result<Merged> {
        let own = match own {
            Some(Node::Map(fields)) => fields,
            other => return self.add_map(other, patch, place),
        };
        let mut patch = match patch {
            None => Vec::new(),
            Some(Node::Map(fields)) => fields,
            Some(_) => return Ok(Merged::Gone),
        };
        match take_directive(&mut patch)? {
            Directive::Delete => return Ok(Merged::Gone),
            Directive::Replace => return self.alone_map(patch, place).map(Merged::from_patch),
            Directive::Merge => {}
        }
        let mut merged = Fields::with_capacity(own.len() + patch.len());
        for (key, value) in own {
            let at = patch.iter().position(|(other, _)| other.text == key.text);
            let change = at.map(|at| patch.remove(at).1);
            let below = place.as_ref().and_then(|place| place.field(&key.text));
            let quoted = matches!(&value, Node::Scalar(scalar) if scalar.quoted);
            match self.walk(Some(value), change, below, &key.text)? {
                Merged::Other(Node::Scalar(new)) if new.tag != Tag::Null => {
                    merged.push((key, Node::Scalar(Scalar { quoted, ..new })));
                }
                Merged::KeptNull(node) => merged.push((key, node)),
                // What the patch leaves alone is still looked at: text that could be mistaken gets quotes.
                Merged::Own(mut node @ Node::Scalar(_)) if !node.is_null() => {
                    node::guard(&mut node);
                    merged.push((key, node));
                }
                other => merged.extend(other.node().filter(|node| !node.is_null()).map(|node| (key, node))),
            }
        }
        for (key, value) in patch {
            let below = place.as_ref().and_then(|place| place.field(&key.text));
            let node = self.walk(None, Some(value), below, &key.text)?.node();
            merged.extend(node.filter(|node| !node.is_null()).map(|node| (key, node)));
        }
        Ok(Merged::Own(Node::Map(merged)))
    }

    /// There is nothing, or null, where the patch has a mapping.
    fn add_map(&self, own: Option<Node>, patch: Option<Node>, place: Option<Place>) -> Result<Merged> {
        match patch {
            None => Ok(match own {
                Some(null) if !null.raw().is_empty() => Merged::KeptNull(null),
                _ => Merged::Gone,
            }),
            Some(Node::Map(mut fields)) => match take_directive(&mut fields)? {
                Directive::Delete => Ok(Merged::Gone),
                _ => self.alone_map(fields, place).map(Merged::from_patch),
            },
            Some(other) => Ok(Merged::Other(other)),
        }
    }

    /// A patch's value that has nothing to merge with: directives and nulls in it still count.
    fn alone(&self, node: Node, place: Option<Place>) -> Result<Option<Node>> {
        let place = self.place(place, [Some(&node), None]);
        match node {
            Node::Map(mut fields) => match take_directive(&mut fields)? {
                Directive::Delete => Ok(None),
                _ => self.alone_map(fields, place),
            },
            Node::Seq(items) => match place.as_ref().and_then(|place| place.merge.clone()) {
                Some(_) => self.walk_list(None, Some(Node::Seq(items)), place, "").map(Merged::node),
                None => Ok(Some(Node::Seq(items))),
            },
            scalar => Ok(Some(scalar)),
        }
    }

    fn alone_map(&self, fields: Fields, place: Option<Place>) -> Result<Option<Node>> {
        let mut kept = Fields::with_capacity(fields.len());
        for (key, value) in fields {
            let below = place.as_ref().and_then(|place| place.field(&key.text));
            let node = self.alone(value, below)?;
            kept.extend(node.filter(|node| !node.is_null()).map(|node| (key, node)));
        }
        Ok(Some(Node::Map(kept)))
    }

    fn walk_list(&self, own: Option<Node>, patch: Option<Node>, place: Option<Place>, name: &str) -> Result<Merged> {
        let Some(keys) = place.as_ref().and_then(|place| place.merge.clone()) else {
            return Ok(match (own, patch) {
                (_, Some(patch)) => Merged::Other(patch),
                (Some(own), None) => Merged::Own(own),
                (None, None) => Merged::Gone,
            });
        };
        let mut changes = match patch {
            None => None,
            Some(Node::Seq(items)) => Some(items),
            Some(_) => return Ok(Merged::Gone),
        };
        let directive = changes.as_mut().map_or(Ok(Directive::Merge), take_list_directive)?;
        let (items, replaced) = match (own, directive) {
            // What is added keeps an item that is a directive only if it says nothing else.
            (Some(Node::Seq(_)), Directive::Delete) => return Ok(Merged::Gone),
            (Some(Node::Seq(items)), Directive::Merge) => (Some(items), false),
            (Some(Node::Seq(_)), Directive::Replace) => (None, true),
            _ => (None, false),
        };
        let below = place.as_ref().and_then(Place::items);
        let merged = Items { merger: self, keys: &keys, place: below, name }.merge(items, changes)?;
        let node = Node::Seq(merged);
        Ok(if replaced { Merged::Other(node) } else { Merged::Own(node) })
    }
}

/// Takes a mapping's directive out of it.
fn take_directive(fields: &mut Fields) -> Result<Directive> {
    let Some(at) = fields.iter().position(|(key, _)| key.text == DIRECTIVE) else { return Ok(Directive::Merge) };
    let directive = directive(fields[at].1.raw())?;
    fields.remove(at);
    Ok(directive)
}

fn directive(text: &str) -> Result<Directive> {
    match text {
        "delete" => Ok(Directive::Delete),
        "replace" => Ok(Directive::Replace),
        "merge" => Ok(Directive::Merge),
        other => fail(format!("`{DIRECTIVE}: {other}` is no directive; it is delete, replace or merge")),
    }
}

/// Takes a list's directive, an item that says nothing else, out of it.
fn take_list_directive(items: &mut Vec<Node>) -> Result<Directive> {
    let Some(item) = items.iter().find(|item| item.get(DIRECTIVE).is_some()) else { return Ok(Directive::Merge) };
    if matches!(item, Node::Map(fields) if fields.len() > 1) {
        return Ok(Directive::Merge);
    }
    let text = item.get(DIRECTIVE).map(Node::raw).unwrap_or_default().to_owned();
    let found = directive(&text)?;
    items.retain(|item| !item.is_void() && item.get(DIRECTIVE).is_none_or(|value| value.raw() != text));
    Ok(found)
}

/// A list whose items merge.
struct Items<'a> {
    merger: &'a Merger<'a>,
    /// The fields that tell items apart; none when items are scalars.
    keys: &'a [String],
    place: Option<Place>,
    name: &'a str,
}

/// The values of the keys in one item; empty where the item has none.
type Values = Vec<String>;

impl Items<'_> {
    /// Items of the patch come first, each merged with the item it means; what the patch does not mean follows.
    fn merge(&self, own: Option<Vec<Node>>, changes: Option<Vec<Node>>) -> Result<Vec<Node>> {
        // Without items of its own, the list is the patch's, merged with itself.
        let alone = own.is_none();
        let changes = changes.unwrap_or_default();
        let mut own = own.unwrap_or_else(|| changes.clone());
        let mut list = Vec::new();
        for values in changes.iter().chain(&own).map(|item| self.values(item)) {
            if !list.contains(&values) {
                list.push(values);
            }
        }
        if self.keys.len() > 1 {
            complete(&mut list);
        }
        let (mut added, mut keys) = (Vec::new(), Vec::new());
        for values in &list {
            let wanted = self.usable(&list, values);
            keys = wanted.iter().map(|(key, _)| key.clone()).collect();
            let found = self.usable(std::slice::from_ref(values), values);
            let at = find(&own, &found);
            let change = find(&changes, &found).map(|at| changes[at].clone());
            let merged = match (alone, at) {
                (true, Some(at)) => {
                    let item = self.merger.alone(own[at].clone(), self.place.clone())?;
                    item.map_or(Merged::Gone, Merged::Own)
                }
                _ => {
                    let item = at.map(|at| own[at].clone());
                    self.merger.walk(item, change, self.place.clone(), self.name)?
                }
            };
            let in_place = matches!(merged, Merged::Own(_));
            let Some(mut item) = merged.node().filter(|node| !node.is_null() && !is_empty_map(node)) else {
                put(&mut own, None, &wanted)?;
                continue;
            };
            for (key, value) in &wanted {
                if !key.is_empty() && item.get(key).is_none() && !value.is_empty() {
                    item.set(key, Node::Scalar(Scalar::plain(value.as_str())));
                }
            }
            if let (true, Some(at)) = (in_place, at) {
                own[at] = item.clone();
            }
            put(&mut added, Some(item), &wanted)?;
        }
        if list.is_empty() {
            return Ok(own);
        }
        self.append(added, own, &keys)
    }

    fn values(&self, item: &Node) -> Values {
        if self.keys.is_empty() {
            return vec![item.raw().to_owned()];
        }
        let value = |key: &String| item.get(key).filter(|value| !value.is_void()).map(Node::raw).unwrap_or_default();
        self.keys.iter().map(|key| value(key).to_owned()).collect()
    }

    /// The keys that some item has, with this item's values; the first items' own keys when none has any.
    fn usable(&self, list: &[Values], values: &Values) -> Vec<(String, String)> {
        if self.keys.is_empty() {
            return vec![(String::new(), values[0].clone())];
        }
        let given = |at: usize| list.iter().any(|values| !values[at].is_empty());
        let all = (0..self.keys.len()).filter(|&at| given(at)).collect::<Vec<_>>();
        let chosen = if all.is_empty() { (0..self.keys.len()).collect() } else { all };
        chosen.into_iter().map(|at| (self.keys[at].clone(), values[at].clone())).collect()
    }

    /// Puts the items that were there behind those that came, each in the place of its like.
    fn append(&self, mut list: Vec<Node>, own: Vec<Node>, keys: &[String]) -> Result<Vec<Node>> {
        for item in own {
            if self.keys.is_empty() {
                let wanted = [(String::new(), item.raw().to_owned())];
                put(&mut list, Some(item), &wanted)?;
                continue;
            }
            if !matches!(item, Node::Map(_)) && !item.is_null() {
                return fail(format!("the list `{}` has an item that is not a mapping", self.name));
            }
            let mut wanted = Vec::new();
            for key in keys {
                match item.get(key) {
                    Some(value) => wanted.push((key.clone(), value.raw().to_owned())),
                    None => list.push(item.clone()),
                }
            }
            // With some keys missing, the values that are there stand for the first keys.
            let values: Vec<String> = wanted.into_iter().map(|(_, value)| value).collect();
            let wanted: Vec<(String, String)> = keys.iter().cloned().zip(values).collect();
            if keys.len() > 1 {
                put_with(&mut list, None, keys, &wanted)?;
            }
            put_with(&mut list, Some(item), keys, &wanted)?;
        }
        Ok(list)
    }
}

fn is_empty_map(node: &Node) -> bool {
    matches!(node, Node::Map(fields) if fields.is_empty())
}

/// Items that differ only in keys that one of them leaves out are the same item.
fn complete(list: &mut [Values]) {
    for left in 0..list.len() {
        for right in 0..list.len() {
            let pairs = || list[left].iter().zip(&list[right]);
            let common = pairs().any(|(a, b)| a == b);
            if common && pairs().all(|(a, b)| a == b || a.is_empty() || b.is_empty()) {
                let both: Values = pairs().map(|(a, b)| if a.is_empty() { b.clone() } else { a.clone() }).collect();
                list[left].clone_from(&both);
                list[right] = both;
            }
        }
    }
}

/// The first item with these values.
fn find(items: &[Node], wanted: &[(String, String)]) -> Option<usize> {
    items.iter().position(|item| {
        wanted.iter().all(|(key, value)| match key.as_str() {
            "" => item.raw() == value,
            key => item.get(key).is_some_and(|field| field.raw() == value),
        })
    })
}

fn put(list: &mut Vec<Node>, item: Option<Node>, wanted: &[(String, String)]) -> Result<()> {
    let keys: Vec<String> = wanted.iter().map(|(key, _)| key.clone()).collect();
    put_with(list, item, &keys, wanted)
}

/// Sets, adds or (without an item) takes away the items with these values. Empty items go, too.
fn put_with(list: &mut Vec<Node>, item: Option<Node>, keys: &[String], wanted: &[(String, String)]) -> Result<()> {
    let by_field =
        keys.first().is_some_and(|key| !key.is_empty()) && wanted.first().is_some_and(|(_, v)| !v.is_empty());
    let mut kept = Vec::with_capacity(list.len() + 1);
    let mut found = false;
    for other in list.drain(..) {
        if other.is_null() || is_empty_map(&other) {
            continue;
        }
        if by_field && !matches!(other, Node::Map(_)) {
            kept.push(other);
            continue;
        }
        if !is_like(&other, keys, wanted)? {
            if !wanted.is_empty() {
                kept.push(other);
            }
            continue;
        }
        found = true;
        kept.extend(item.clone());
    }
    *list = kept;
    if !found {
        list.extend(item.filter(|item| !item.is_null()));
    }
    Ok(())
}

/// Whether an item has all keys, with the wanted values where they are not empty. A key without a value counts as the last.
fn is_like(item: &Node, keys: &[String], wanted: &[(String, String)]) -> Result<bool> {
    for (key, value) in wanted {
        let like = match (key.as_str(), item) {
            ("", Node::Scalar(scalar)) => scalar.text == *value,
            ("", _) => return fail("a list of single values has an item that is a mapping or a list"),
            (key, item) => item.get(key).is_some_and(|field| value.is_empty() || field.raw() == value),
        };
        if !like {
            return Ok(false);
        }
    }
    Ok(!wanted.is_empty() || keys.is_empty())
}
