//! A value seen through its schema: which parts are merged and owned apart, and which only as a whole.

use super::set::Step;
use crate::schema::{ListType, Schema, Shape};
use serde_json::{Map, Value};

/// How a value is taken apart.
#[derive(Debug, Clone)]
pub(super) enum Form {
    /// A scalar, or a list or map that is owned as a whole.
    Whole,
    /// An object or map whose fields are owned one by one.
    Fields,
    /// A list whose items are found by these keys.
    Keyed(Vec<String>),
    /// A list of scalars without order of ownership.
    Set,
}

/// The schema at one place of an object.
#[derive(Clone)]
pub(super) struct Place {
    schema: Schema,
    root: bool,
}

impl Place {
    pub(super) fn root(schema: &Schema) -> Place {
        Place { schema: schema.clone(), root: true }
    }

    /// The form that a list or map has here. What a value actually is decides where the schema says nothing.
    pub(super) fn form(&self, value: &Value) -> Form {
        match value {
            Value::Object(_) if self.root => Form::Fields,
            Value::Object(_) if self.schema.map_atomic() => Form::Whole,
            Value::Object(_) => match self.schema.shape() {
                Shape::Object | Shape::Map | Shape::Any => Form::Fields,
                _ => Form::Whole,
            },
            Value::Array(_) => match self.schema.shape() {
                Shape::List => match self.schema.list_type() {
                    ListType::Atomic => Form::Whole,
                    ListType::Set => Form::Set,
                    ListType::Map(keys) => Form::Keyed(keys.to_vec()),
                },
                _ => Form::Whole,
            },
            _ => Form::Whole,
        }
    }

    /// Whether the field is named by the schema, rather than a key of a map.
    pub(super) fn declares(&self, name: &str) -> bool {
        (self.root && matches!(name, "apiVersion" | "kind" | "metadata")) || self.schema.field(name).is_some()
    }

    /// Whether anything may stand under this name.
    pub(super) fn allows(&self, name: &str) -> bool {
        self.declares(name)
            || matches!(self.schema.shape(), Shape::Any | Shape::Map)
            || self.schema.preserve_unknown()
            || self.schema.values().is_some()
    }

    pub(super) fn wants_list(&self) -> bool {
        matches!(self.schema.shape(), Shape::List)
    }

    pub(super) fn wants_map(&self) -> bool {
        self.root || matches!(self.schema.shape(), Shape::Object | Shape::Map)
    }

    pub(super) fn keeps_null(&self) -> bool {
        self.schema.nullable() || matches!(self.schema.shape(), Shape::Any)
    }

    pub(super) fn field(&self, name: &str) -> Place {
        let own = self.schema.field(name);
        let schema = match own {
            // A custom resource's schema says of metadata only that it is an object.
            Some(own) if self.root && name == "metadata" && own.field("labels").is_none() => object_meta(),
            None if self.root && name == "metadata" => object_meta(),
            Some(own) => own,
            None => self.schema.values().unwrap_or_else(Schema::any),
        };
        Place { schema, root: false }
    }

    pub(super) fn item(&self) -> Place {
        Place { schema: self.schema.items().unwrap_or_else(Schema::any), root: false }
    }

    /// The step that leads to a list's item, or why it has none.
    pub(super) fn step(&self, form: &Form, item: &Value) -> Result<Step, String> {
        match form {
            Form::Set => match item {
                Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
                Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
                scalar => Ok(Step::Value(scalar.to_string())),
            },
            Form::Keyed(names) => {
                let Value::Object(fields) = item else {
                    return Err("associative list with keys may not have non-map elements".to_owned());
                };
                let place = self.item();
                let mut keys = Map::new();
                for name in names {
                    let default = || {
                        place
                            .schema
                            .field(name)
                            .and_then(|field| field.default().cloned())
                            .or_else(|| key_default(name))
                    };
                    if let Some(value) = fields.get(name).cloned().or_else(default) {
                        keys.insert(name.clone(), value);
                    }
                }
                if keys.is_empty() {
                    let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
                    return Err(format!(
                        "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                        names.join(" ")
                    ));
                }
                Ok(Step::Key(Value::Object(keys).to_string()))
            }
            Form::Whole | Form::Fields => Err("invalid indexing of non-associative list".to_owned()),
        }
    }
}

/// Ports are TCP unless they say otherwise; their protocol is part of the key.
fn key_default(name: &str) -> Option<Value> {
    (name == "protocol").then(|| "TCP".into())
}

fn object_meta() -> Schema {
    Schema::builtin("v1", "ConfigMap").and_then(|schema| schema.field("metadata")).unwrap_or_else(Schema::any)
}
