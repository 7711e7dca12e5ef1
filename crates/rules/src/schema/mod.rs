//! The shape of every object the server knows, built-in or custom, in one compact form.
//!
//! A [`Schema`] is a cheap handle to one node of an arena. The built-in arena is made once, on first use, from the
//! machine-readable types; a custom resource's arena is made from its published schema. Every rule that depends on
//! structure (strict decoding, pruning, merge patches, apply) walks these nodes.
//!
//! Invariants: an arena never changes after it is built; node ids are only made by its builder, so indexing cannot fail;
//! descriptions are not kept. Must not know what a field means.

mod arena;
mod builtin;
mod constraints;
mod custom;
mod facts;

use std::sync::Arc;

use serde_json::Value;

pub(crate) use arena::{Arena, Node, NodeId};
pub(crate) use builtin::generate;
pub(crate) use constraints::{Bound, Constraints};
pub use custom::SchemaError;
pub(crate) use facts::{Facts, Keys};

/// What JSON a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// An object with named fields.
    Object,
    /// An object whose keys are data; see [`Schema::values`].
    Map,
    /// An array; see [`Schema::items`].
    List,
    /// A string.
    String,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A whole number or a string (ports, percentages, quantities).
    IntOrString,
    /// Anything.
    Any,
}

/// How lists merge under server-side apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType<'a> {
    /// Replaced as a whole, owned as a whole.
    Atomic,
    /// Items are scalars, each owned by itself.
    Set,
    /// Items are objects, each identified by these fields.
    Map(&'a [String]),
}

/// The shape of one value: a node of an arena.
#[derive(Clone)]
pub struct Schema {
    arena: Arc<Arena>,
    id: NodeId,
}

impl Schema {
    /// The schema of a served built-in kind, or of the bodies of its subresources (`policy/v1` `Eviction`,
    /// `autoscaling/v1` `Scale`, `v1` `DeleteOptions`, ...).
    pub fn builtin(api_version: &str, kind: &str) -> Option<Schema> {
        let name = builtin::definition_of(api_version, kind)?;
        Self::definition(&name)
    }

    /// The schema of a definition by its full name, e.g. `io.k8s.api.core.v1.PodSpec`.
    pub fn definition(name: &str) -> Option<Schema> {
        let arena = builtin::arena();
        let id = arena.root(name)?;
        Some(Schema { arena: Arc::clone(arena), id })
    }

    /// The names of all built-in definitions.
    pub fn definitions() -> impl Iterator<Item = &'static str> {
        builtin::arena().names()
    }

    /// The schema of a custom resource from one version's `openAPIV3Schema`; `apiVersion`, `kind` and `metadata` get
    /// their fixed shapes.
    pub fn from_crd(open_api_v3: &Value) -> Result<Schema, SchemaError> {
        let (arena, id) = custom::build(open_api_v3)?;
        Ok(Schema { arena: Arc::new(arena), id })
    }

    /// The schema that allows everything and knows nothing.
    pub fn any() -> Schema {
        let arena = builtin::anything();
        Schema { arena: Arc::clone(arena), id: arena.first() }
    }

    pub(crate) fn node(&self) -> &Node {
        self.arena.node(self.id)
    }

    fn at(&self, id: NodeId) -> Schema {
        Schema { arena: Arc::clone(&self.arena), id }
    }

    /// What JSON the value may be.
    pub fn shape(&self) -> Shape {
        self.node().shape
    }

    /// The schema of a named field.
    pub fn field(&self, name: &str) -> Option<Schema> {
        let id = self.node().field(name)?;
        Some(self.at(id))
    }

    /// Every named field, sorted by name.
    pub fn fields(&self) -> impl Iterator<Item = (&str, Schema)> {
        self.node().fields.iter().map(|(name, id)| (&**name, self.at(*id)))
    }

    /// The schema of a map's values (also of an object's unnamed fields, where a custom schema declares them).
    pub fn values(&self) -> Option<Schema> {
        self.node().values.map(|id| self.at(id))
    }

    /// The schema of a list's items.
    pub fn items(&self) -> Option<Schema> {
        self.node().items.map(|id| self.at(id))
    }

    /// The schema below a key of an object or map, whichever way it is declared.
    pub fn child(&self, key: &str) -> Option<Schema> {
        self.field(key).or_else(|| self.values())
    }

    /// How a list merges under server-side apply.
    pub fn list_type(&self) -> ListType<'_> {
        match &self.node().list {
            arena::List::Atomic => ListType::Atomic,
            arena::List::Set => ListType::Set,
            arena::List::Map(keys) => ListType::Map(keys),
        }
    }

    /// Whether an object or map is owned and replaced as a whole under server-side apply.
    pub fn map_atomic(&self) -> bool {
        self.node().map_atomic
    }

    /// The key by which a strategic merge patch pairs a list's items; `None` for lists of scalars and for lists that
    /// are replaced.
    pub fn merge_key(&self) -> Option<&str> {
        self.node().merge_key.as_deref()
    }

    /// Whether a strategic merge patch merges the list instead of replacing it.
    pub fn merge_list(&self) -> bool {
        self.node().merge_list
    }

    /// Whether a strategic merge patch may name the only keys to keep (`$retainKeys`): of the object itself, or of a
    /// list's items.
    pub fn retain_keys(&self) -> bool {
        self.node().retain_keys
    }

    /// Whether fields the schema does not name are kept.
    pub fn preserve_unknown(&self) -> bool {
        self.node().preserve_unknown
    }

    /// Whether an object inside a custom resource is itself a whole resource with `apiVersion`, `kind` and `metadata`.
    pub fn embedded_resource(&self) -> bool {
        self.node().embedded_resource
    }

    /// The declared default.
    pub fn default(&self) -> Option<&Value> {
        self.node().default.as_deref()
    }

    /// Whether `null` is a value of its own and not the same as absent.
    pub fn nullable(&self) -> bool {
        self.node().nullable
    }

    /// Names of the fields that must be there.
    pub fn required(&self) -> &[String] {
        &self.node().required
    }

    /// The declared format (`int32`, `date-time`, `byte`, ..., and `quantity` for amounts of resources).
    pub fn format(&self) -> Option<&str> {
        self.node().format.as_deref()
    }

    pub(crate) fn constraints(&self) -> Option<&Constraints> {
        self.node().constraints.as_deref()
    }

    pub(crate) fn wrap(&self, id: NodeId) -> Schema {
        self.at(id)
    }
}

impl std::fmt::Debug for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Schema").field("shape", &self.shape()).field("node", &self.id).finish()
    }
}

#[cfg(test)]
mod tests;
