//! Kubernetes' protobuf bodies to JSON values.
//!
//! A body is the magic bytes, then a `runtime.Unknown` envelope that names the kind and holds the message. The fields of
//! every message are facts from a generated table; what Go writes specially (times, quantities, raw JSON, inlined
//! structures) is decoded by name in [`special`].
//!
//! Invariants: hostile bytes give an error and never a panic; nesting is bounded; unknown fields are skipped as protobuf
//! demands; a value equal to Go's zero is left out where Go's JSON would leave it out.

mod pointers;
mod reader;
mod special;
mod table;

use serde_json::{Map, Value};

use crate::kinds;
use reader::{Reader, Wire};
use table::{Card, Field, Scalar, Table};

/// The bytes every body starts with.
pub const MAGIC: [u8; 4] = *b"k8s\0";
/// Content type of such bodies.
pub const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Deepest nesting of messages; JSON schemas inside definitions are the deepest real ones.
const MAX_DEPTH: usize = 100;

/// Why a body cannot be decoded.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProtobufError {
    /// Not one of these bodies at all.
    #[error(
        "the body does not start with the Kubernetes protobuf magic; send it with its true content type, e.g. application/json"
    )]
    NotKubernetes,
    /// The body ends inside a value or a length points past its end.
    #[error("the protobuf body of {message} is cut off at byte {at}")]
    Truncated {
        /// The message being read.
        message: String,
        /// Position in the body of that message.
        at: usize,
    },
    /// Bytes that no encoder writes.
    #[error("the protobuf body of {message} is malformed at field {field}: {problem}")]
    Malformed {
        /// The message being read.
        message: String,
        /// The field's number, 0 when it is not known.
        field: u32,
        /// What is wrong.
        problem: String,
    },
    /// The envelope names a kind whose fields are not known.
    #[error("protobuf is not known for {api_version} {kind}; send the object as application/json")]
    UnknownKind {
        /// As the envelope has it.
        api_version: String,
        /// As the envelope has it.
        kind: String,
    },
    /// Nested deeper than any real object.
    #[error("the protobuf body of {message} is nested deeper than {MAX_DEPTH} levels")]
    TooDeep {
        /// The message being read.
        message: String,
    },
}

/// Decodes a body with its envelope into the JSON of the object, with `apiVersion` and `kind`.
pub fn decode(body: &[u8]) -> Result<Value, ProtobufError> {
    decode_at(body, 0)
}

fn decode_at(body: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    let body = body.strip_prefix(&MAGIC).ok_or(ProtobufError::NotKubernetes)?;
    let envelope = Envelope::read(body)?;
    if envelope.content_type.is_some_and(|t| t.contains("json")) {
        return special::raw_json("Unknown", 2, envelope.raw);
    }
    if envelope.encoded {
        return Err(ProtobufError::Malformed {
            message: "Unknown".to_owned(),
            field: 3,
            problem: "a content encoding is not supported; send the object uncompressed".to_owned(),
        });
    }
    let unknown =
        || ProtobufError::UnknownKind { api_version: envelope.api_version.to_owned(), kind: envelope.kind.to_owned() };
    let definition = definition_of(envelope.api_version, envelope.kind).ok_or_else(unknown)?;
    let table = Table::get();
    let message = table.find(definition).ok_or_else(unknown)?;
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), envelope.api_version.into());
    object.insert("kind".to_owned(), envelope.kind.into());
    read_message(table, message, envelope.raw, depth + 1, &mut object)?;
    Ok(Value::Object(object))
}

fn definition_of(api_version: &str, kind: &str) -> Option<&'static str> {
    if let Some(found) = kinds::find(api_version, kind) {
        return found.schema.strip_prefix("io.k8s.");
    }
    match (api_version, kind) {
        (_, "DeleteOptions") => Some("apimachinery.pkg.apis.meta.v1.DeleteOptions"),
        (_, "Status") => Some("apimachinery.pkg.apis.meta.v1.Status"),
        ("authentication.k8s.io/v1", "TokenRequest") => Some("api.authentication.v1.TokenRequest"),
        ("autoscaling/v1", "Scale") => Some("api.autoscaling.v1.Scale"),
        ("policy/v1", "Eviction") => Some("api.policy.v1.Eviction"),
        _ => None,
    }
}

/// `runtime.Unknown`.
#[derive(Default)]
struct Envelope<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
    content_type: Option<&'a str>,
    encoded: bool,
}

impl<'a> Envelope<'a> {
    fn read(body: &'a [u8]) -> Result<Self, ProtobufError> {
        let mut envelope = Self::default();
        let mut reader = Reader::new("Unknown", body);
        while let Some((number, wire)) = reader.field()? {
            match (number, wire) {
                (1, Wire::Bytes(bytes)) => {
                    let mut types = Reader::new("TypeMeta", bytes);
                    while let Some((number, wire)) = types.field()? {
                        match (number, wire) {
                            (1, Wire::Bytes(text)) => envelope.api_version = types.text(1, text)?,
                            (2, Wire::Bytes(text)) => envelope.kind = types.text(2, text)?,
                            _ => {}
                        }
                    }
                }
                (2, Wire::Bytes(bytes)) => envelope.raw = bytes,
                (3, Wire::Bytes(text)) => envelope.encoded = !text.is_empty(),
                (4, Wire::Bytes(text)) => envelope.content_type = Some(reader.text(4, text)?),
                _ => {}
            }
        }
        Ok(envelope)
    }
}

/// Reads one message's fields into `into`.
fn read_message(
    table: &Table,
    message: usize,
    bytes: &[u8],
    depth: usize,
    into: &mut Map<String, Value>,
) -> Result<(), ProtobufError> {
    let known = table.message(message);
    if depth > MAX_DEPTH {
        return Err(ProtobufError::TooDeep { message: known.name.to_owned() });
    }
    let mut reader = Reader::new(known.name, bytes);
    while let Some((number, wire)) = reader.field()? {
        let Some(field) = known.field(number) else {
            continue;
        };
        match field.card {
            Card::Inline => {
                let inner = reader.bytes(number, wire)?;
                read_message(table, field.message, inner, depth + 1, into)?;
            }
            Card::One => {
                let value = read_value(table, field, &reader, wire, depth)?;
                if field.keep_zero || !is_zero(&value) {
                    into.insert(field.name.to_owned(), value);
                } else {
                    into.remove(field.name);
                }
            }
            Card::Repeated => {
                let list = into.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    read_repeated(table, field, &reader, wire, depth, list)?;
                }
            }
            Card::Map => {
                let entry = reader.bytes(number, wire)?;
                let (key, value) = read_entry(table, field, known.name, entry, depth)?;
                let map = into.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(map) = map {
                    map.insert(key, value);
                }
            }
        }
    }
    Ok(())
}

/// What Go's JSON leaves out: zero scalars and unset times. Empty objects stay, as in Go.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn read_value(
    table: &Table,
    field: &Field,
    reader: &Reader<'_>,
    wire: Wire<'_>,
    depth: usize,
) -> Result<Value, ProtobufError> {
    let number = field.number;
    Ok(match field.scalar {
        Scalar::String => reader.text(number, reader.bytes(number, wire)?)?.into(),
        Scalar::Integer => reader.integer(number, wire)?.into(),
        Scalar::Bool => (reader.integer(number, wire)? != 0).into(),
        Scalar::Double => reader.double(number, wire)?,
        Scalar::Bytes => special::base64(reader.bytes(number, wire)?).into(),
        Scalar::Message => {
            let bytes = reader.bytes(number, wire)?;
            read_nested(table, field.message, bytes, depth + 1)?
        }
    })
}

fn read_nested(table: &Table, message: usize, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    let known = table.message(message);
    if let Some(value) = special::decode(known.name, bytes, depth)? {
        return Ok(value);
    }
    let mut map = Map::new();
    read_message(table, message, bytes, depth, &mut map)?;
    Ok(special::finish(known.name, map))
}

/// Repeated integers may be packed into one value.
fn read_repeated(
    table: &Table,
    field: &Field,
    reader: &Reader<'_>,
    wire: Wire<'_>,
    depth: usize,
    list: &mut Vec<Value>,
) -> Result<(), ProtobufError> {
    match (field.scalar, wire) {
        (Scalar::Integer, Wire::Bytes(packed)) => {
            let mut inner = Reader::new(reader.message(), packed);
            while !inner.is_empty() {
                list.push(inner.varint_as_integer()?.into());
            }
        }
        _ => list.push(read_value(table, field, reader, wire, depth)?),
    }
    Ok(())
}

/// A map's entry is a message of key (1) and value (2).
fn read_entry(
    table: &Table,
    field: &Field,
    message: &str,
    bytes: &[u8],
    depth: usize,
) -> Result<(String, Value), ProtobufError> {
    let mut key = String::new();
    let mut value = None;
    let mut reader = Reader::new(message, bytes);
    while let Some((number, wire)) = reader.field()? {
        match number {
            1 => key = reader.text(1, reader.bytes(1, wire)?)?.to_owned(),
            2 => value = Some(read_value(table, field, &reader, wire, depth)?),
            _ => {}
        }
    }
    let absent = || match field.scalar {
        Scalar::String | Scalar::Bytes => Value::from(""),
        Scalar::Integer | Scalar::Double => Value::from(0),
        Scalar::Bool => Value::from(false),
        Scalar::Message => Value::Object(Map::new()),
    };
    Ok((key, value.unwrap_or_else(absent)))
}

#[cfg(test)]
mod tests;
