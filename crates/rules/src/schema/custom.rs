//! An arena from one version's `openAPIV3Schema` of a CustomResourceDefinition.
//!
//! Invariants: bounded in depth and number of nodes; a schema that cannot be understood is refused with the path of the
//! part at fault and never half applied.

use std::collections::BTreeMap;

use regex::RegexBuilder;
use serde_json::{Map, Value};

use super::arena::{Arena, List, Node, NodeId};
use super::constraints::{Bound, Constraints};
use super::{Shape, builtin};

/// Deepest nesting of schemas.
const MAX_DEPTH: usize = 64;
/// Most nodes of one custom schema; the largest known definitions have about ten thousand.
const MAX_NODES: usize = 100_000;
/// Largest compiled pattern in bytes.
const MAX_PATTERN: usize = 1 << 20;

/// Why a custom schema cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SchemaError {
    /// A part has the wrong JSON type or an unknown value.
    #[error("schema at {path}: {problem}")]
    Malformed {
        /// Where in the schema.
        path: String,
        /// What is wrong and what is expected.
        problem: String,
    },
    /// Nested deeper than supported.
    #[error(
        "schema at {path} is nested deeper than {MAX_DEPTH} levels; flatten it or use x-kubernetes-preserve-unknown-fields"
    )]
    TooDeep {
        /// Where in the schema.
        path: String,
    },
    /// More parts than supported.
    #[error("schema has more than {MAX_NODES} parts; use x-kubernetes-preserve-unknown-fields for the largest ones")]
    TooLarge,
}

/// Builds the arena; the returned node is the root object.
pub(super) fn build(schema: &Value) -> Result<(Arena, NodeId), SchemaError> {
    let mut builder = Builder { arena: Arena::default(), meta: None, string: None };
    let root = builder.read("", schema, 0)?;
    builder.embed(root);
    Ok((builder.arena, root))
}

struct Builder {
    arena: Arena,
    meta: Option<NodeId>,
    string: Option<NodeId>,
}

impl Builder {
    fn read(&mut self, path: &str, schema: &Value, depth: usize) -> Result<NodeId, SchemaError> {
        if depth > MAX_DEPTH {
            return Err(SchemaError::TooDeep { path: path.to_owned() });
        }
        if self.arena.len() > MAX_NODES {
            return Err(SchemaError::TooLarge);
        }
        let Value::Object(schema) = schema else {
            return Err(malformed(path, "must be an object"));
        };
        if schema.contains_key("$ref") {
            return Err(malformed(path, "$ref is not supported in custom resources; write the schema out"));
        }
        let mut node = Node::new(shape(path, schema)?);
        node.preserve_unknown |= flag(schema, "x-kubernetes-preserve-unknown-fields");
        node.embedded_resource = flag(schema, "x-kubernetes-embedded-resource");
        node.nullable = flag(schema, "nullable");
        node.format = text(schema, "format").map(Into::into);
        node.default = schema.get("default").cloned().map(Box::new);
        node.map_atomic = text(schema, "x-kubernetes-map-type") == Some("atomic");
        node.list = list_type(path, schema)?;
        node.required = strings(schema, "required").into();
        if let Some(Value::Object(properties)) = schema.get("properties") {
            let mut fields = Vec::with_capacity(properties.len());
            for (name, property) in properties {
                let below = format!("{path}.properties[{name}]");
                fields.push((name.as_str().into(), self.read(&below, property, depth + 1)?));
            }
            node.set_fields(fields);
        }
        if let Some(items) = schema.get("items") {
            node.items = Some(self.read(&format!("{path}.items"), items, depth + 1)?);
        }
        match schema.get("additionalProperties") {
            Some(Value::Bool(true)) => {
                node.values = Some(self.arena.push(Node::new(Shape::Any)));
            }
            Some(values @ Value::Object(_)) => {
                let below = format!("{path}.additionalProperties");
                node.values = Some(self.read(&below, values, depth + 1)?);
            }
            _ => {}
        }
        node.constraints = self.constraints(path, schema, depth)?.map(Box::new);
        let embedded = node.embedded_resource;
        let id = self.arena.push(node);
        if embedded {
            self.embed(id);
        }
        Ok(id)
    }

    /// Gives an object the fixed fields of every resource.
    fn embed(&mut self, id: NodeId) {
        let string = match self.string {
            Some(id) => id,
            None => *self.string.insert(self.arena.push(Node::new(Shape::String))),
        };
        let meta = match self.meta {
            Some(id) => id,
            None => {
                let source = builtin::arena();
                let id = source
                    .root("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
                    .map(|id| self.arena.import(source, id, &mut BTreeMap::new()))
                    .unwrap_or_else(|| self.arena.push(Node::new(Shape::Any)));
                *self.meta.insert(id)
            }
        };
        let node = self.arena.node_mut(id);
        let mut fields: Vec<_> = std::mem::take(&mut node.fields)
            .into_iter()
            .filter(|(name, _)| !matches!(&**name, "apiVersion" | "kind" | "metadata"))
            .collect();
        fields.push(("apiVersion".into(), string));
        fields.push(("kind".into(), string));
        fields.push(("metadata".into(), meta));
        node.set_fields(fields);
        if node.shape == Shape::Any {
            node.shape = Shape::Object;
        }
    }

    fn constraints(
        &mut self,
        path: &str,
        schema: &Map<String, Value>,
        depth: usize,
    ) -> Result<Option<Constraints>, SchemaError> {
        const KEYS: &[&str] = &[
            "enum",
            "pattern",
            "minimum",
            "maximum",
            "multipleOf",
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "uniqueItems",
            "minProperties",
            "maxProperties",
            "allOf",
            "anyOf",
            "oneOf",
            "not",
        ];
        let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
        if !closed && !KEYS.iter().any(|key| schema.contains_key(*key)) {
            return Ok(None);
        }
        let pattern = text(schema, "pattern")
            .map(|pattern| {
                RegexBuilder::new(pattern)
                    .size_limit(MAX_PATTERN)
                    .build()
                    .map_err(|e| malformed(path, &format!("pattern {pattern:?} cannot be used: {e}")))
            })
            .transpose()?;
        // For an int-or-string the alternatives only repeat the two types.
        let alternatives = !flag(schema, "x-kubernetes-int-or-string");
        Ok(Some(Constraints {
            allowed: match schema.get("enum") {
                Some(Value::Array(values)) => Some(values.clone()),
                _ => None,
            },
            pattern,
            minimum: bound(schema, "minimum", "exclusiveMinimum"),
            maximum: bound(schema, "maximum", "exclusiveMaximum"),
            multiple_of: schema.get("multipleOf").and_then(Value::as_f64).filter(|m| *m > 0.0),
            min_length: number(schema, "minLength"),
            max_length: number(schema, "maxLength"),
            min_items: number(schema, "minItems"),
            max_items: number(schema, "maxItems"),
            unique_items: flag(schema, "uniqueItems"),
            min_properties: number(schema, "minProperties"),
            max_properties: number(schema, "maxProperties"),
            all_of: if alternatives { self.many(path, schema, "allOf", depth)? } else { Vec::new() },
            any_of: if alternatives { self.many(path, schema, "anyOf", depth)? } else { Vec::new() },
            one_of: if alternatives { self.many(path, schema, "oneOf", depth)? } else { Vec::new() },
            not: match schema.get("not") {
                Some(not) => Some(self.read(&format!("{path}.not"), not, depth + 1)?),
                None => None,
            },
            closed,
        }))
    }

    fn many(
        &mut self,
        path: &str,
        schema: &Map<String, Value>,
        key: &str,
        depth: usize,
    ) -> Result<Vec<NodeId>, SchemaError> {
        let Some(Value::Array(list)) = schema.get(key) else {
            return Ok(Vec::new());
        };
        list.iter().enumerate().map(|(at, item)| self.read(&format!("{path}.{key}[{at}]"), item, depth + 1)).collect()
    }
}

fn shape(path: &str, schema: &Map<String, Value>) -> Result<Shape, SchemaError> {
    if flag(schema, "x-kubernetes-int-or-string") {
        return Ok(Shape::IntOrString);
    }
    let structured = schema.contains_key("properties") || flag(schema, "x-kubernetes-embedded-resource");
    Ok(match text(schema, "type") {
        Some("object") if structured => Shape::Object,
        Some("object") if schema.get("additionalProperties").is_some_and(|v| *v != Value::Bool(false)) => Shape::Map,
        Some("object") => Shape::Object,
        Some("array") => Shape::List,
        Some("string") => Shape::String,
        Some("integer") => Shape::Integer,
        Some("number") => Shape::Number,
        Some("boolean") => Shape::Boolean,
        Some(other) => {
            return Err(malformed(
                path,
                &format!("type {other:?} is unknown; use object, array, string, integer, number or boolean"),
            ));
        }
        // Without a type the node only validates (inside allOf and the like) or allows anything.
        None => Shape::Any,
    })
}

fn list_type(path: &str, schema: &Map<String, Value>) -> Result<List, SchemaError> {
    match text(schema, "x-kubernetes-list-type") {
        None | Some("atomic") => Ok(List::Atomic),
        Some("set") => Ok(List::Set),
        Some("map") => {
            let keys = strings(schema, "x-kubernetes-list-map-keys");
            if keys.is_empty() {
                return Err(malformed(path, "x-kubernetes-list-type map needs x-kubernetes-list-map-keys"));
            }
            Ok(List::Map(keys.into()))
        }
        Some(other) => {
            Err(malformed(path, &format!("x-kubernetes-list-type {other:?} is unknown; use atomic, set or map")))
        }
    }
}

fn malformed(path: &str, problem: &str) -> SchemaError {
    SchemaError::Malformed { path: format!("openAPIV3Schema{path}"), problem: problem.to_owned() }
}

fn flag(schema: &Map<String, Value>, key: &str) -> bool {
    schema.get(key) == Some(&Value::Bool(true))
}

fn text<'a>(schema: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    schema.get(key).and_then(Value::as_str)
}

fn number(schema: &Map<String, Value>, key: &str) -> Option<u64> {
    schema.get(key).and_then(Value::as_u64)
}

fn strings(schema: &Map<String, Value>, key: &str) -> Vec<String> {
    match schema.get(key) {
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

fn bound(schema: &Map<String, Value>, key: &str, exclusive: &str) -> Option<Bound> {
    Some(Bound { limit: schema.get(key)?.as_f64()?, exclusive: flag(schema, exclusive) })
}
