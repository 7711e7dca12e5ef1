//! Nodes of schemas in one vector, refering to each other by position.
//!
//! Invariants: an id handed out by [`Arena::push`] stays valid; a node's `fields` are sorted by name.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Constraints, Shape};

/// The position of a node in its arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(u32);

/// How a list merges under server-side apply, owned.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum List {
    #[default]
    Atomic,
    Set,
    Map(Box<[String]>),
}

/// One value's shape and facts.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) shape: Shape,
    pub(crate) map_atomic: bool,
    pub(crate) merge_list: bool,
    pub(crate) retain_keys: bool,
    pub(crate) preserve_unknown: bool,
    pub(crate) embedded_resource: bool,
    pub(crate) nullable: bool,
    pub(crate) fields: Box<[(Box<str>, NodeId)]>,
    pub(crate) values: Option<NodeId>,
    pub(crate) items: Option<NodeId>,
    pub(crate) list: List,
    pub(crate) merge_key: Option<Box<str>>,
    pub(crate) format: Option<Box<str>>,
    pub(crate) required: Box<[String]>,
    pub(crate) default: Option<Box<Value>>,
    pub(crate) constraints: Option<Box<Constraints>>,
}

impl Node {
    pub(crate) fn new(shape: Shape) -> Self {
        Self {
            shape,
            map_atomic: false,
            merge_list: false,
            retain_keys: false,
            preserve_unknown: shape == Shape::Any,
            embedded_resource: false,
            nullable: false,
            fields: Box::default(),
            values: None,
            items: None,
            list: List::Atomic,
            merge_key: None,
            format: None,
            required: Box::default(),
            default: None,
            constraints: None,
        }
    }

    pub(crate) fn field(&self, name: &str) -> Option<NodeId> {
        let at = self.fields.binary_search_by(|(field, _)| (**field).cmp(name)).ok()?;
        Some(self.fields[at].1)
    }

    pub(crate) fn set_fields(&mut self, mut fields: Vec<(Box<str>, NodeId)>) {
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        self.fields = fields.into();
    }
}

/// All nodes of one or many schemas, with the named ones by name.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    nodes: Vec<Node>,
    roots: BTreeMap<Box<str>, NodeId>,
}

impl Arena {
    pub(crate) fn push(&mut self, node: Node) -> NodeId {
        let id = u32::try_from(self.nodes.len()).expect("a schema arena never holds 2^32 nodes");
        self.nodes.push(node);
        NodeId(id)
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The first node; the arena of "anything" holds only this one.
    pub(crate) fn first(&self) -> NodeId {
        NodeId(0)
    }

    pub(crate) fn name(&mut self, name: &str, id: NodeId) {
        self.roots.insert(name.into(), id);
    }

    pub(crate) fn root(&self, name: &str) -> Option<NodeId> {
        self.roots.get(name).copied()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.roots.keys().map(|name| &**name)
    }

    /// Copies a node of another arena with everything below it. `seen` keeps shared and recursive nodes single.
    pub(crate) fn import(&mut self, from: &Arena, id: NodeId, seen: &mut BTreeMap<NodeId, NodeId>) -> NodeId {
        if let Some(done) = seen.get(&id) {
            return *done;
        }
        let source = from.node(id);
        let copy = self.push(source.clone());
        seen.insert(id, copy);
        let fields =
            source.fields.iter().map(|(name, field)| (name.clone(), self.import(from, *field, seen))).collect();
        let values = source.values.map(|v| self.import(from, v, seen));
        let items = source.items.map(|i| self.import(from, i, seen));
        let node = self.node_mut(copy);
        node.fields = fields;
        node.values = values;
        node.items = items;
        copy
    }
}
