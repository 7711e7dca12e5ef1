//! Messages that JSON writes in another form than their fields.
//!
//! Invariant: knows messages by name only here; everything else is the table.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::reader::{Reader, Wire};
use super::{MAGIC, MAX_DEPTH, ProtobufError};

pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The JSON of a message that is not an object of its fields; `None` for ordinary messages.
pub(super) fn decode(message: &str, bytes: &[u8], depth: usize) -> Result<Option<Value>, ProtobufError> {
    let value = match message {
        "apimachinery.pkg.apis.meta.v1.Time" => time(message, bytes, false)?,
        "apimachinery.pkg.apis.meta.v1.MicroTime" => time(message, bytes, true)?,
        "apimachinery.pkg.apis.meta.v1.Duration" => duration(message, bytes)?,
        "apimachinery.pkg.api.resource.Quantity" => quantity(message, bytes)?,
        "apimachinery.pkg.util.intstr.IntOrString" => int_or_string(message, bytes)?,
        "apimachinery.pkg.apis.meta.v1.FieldsV1"
        | "apimachinery.pkg.runtime.RawExtension"
        | "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON" => raw(message, bytes, depth)?,
        _ => return Ok(None),
    };
    Ok(Some(value))
}

/// The JSON of a message whose fields were read but which is not an object in JSON.
pub(super) fn finish(message: &str, mut map: Map<String, Value>) -> Value {
    let mut take = |name: &str| map.remove(name);
    let list = || Value::Array(Vec::new());
    match message {
        "api.authentication.v1.ExtraValue" | "api.authorization.v1.ExtraValue" => take("items").unwrap_or_else(list),
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool" => {
            take("schema").unwrap_or_else(|| take("allows").unwrap_or(Value::Bool(false)))
        }
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray"
        | "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray" => {
            take("schema").unwrap_or_else(|| map.into_values().next().unwrap_or_else(list))
        }
        _ => Value::Object(map),
    }
}

/// Raw JSON inside a message.
pub(super) fn raw_json(message: &str, field: u32, bytes: &[u8]) -> Result<Value, ProtobufError> {
    serde_json::from_slice(bytes).map_err(|e| ProtobufError::Malformed {
        message: message.to_owned(),
        field,
        problem: format!("the JSON inside cannot be read: {e}"),
    })
}

fn raw(message: &str, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    let mut found: &[u8] = &[];
    let mut reader = Reader::new(message, bytes);
    while let Some((number, wire)) = reader.field()? {
        if number == 1 {
            found = reader.bytes(1, wire)?;
        }
    }
    if found.is_empty() {
        return Ok(Value::Null);
    }
    if found.starts_with(&MAGIC) {
        if depth > MAX_DEPTH {
            return Err(ProtobufError::TooDeep { message: message.to_owned() });
        }
        return super::decode_at(found, depth);
    }
    raw_json(message, 1, found)
}

fn time(message: &str, bytes: &[u8], micros: bool) -> Result<Value, ProtobufError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(message, bytes);
    while let Some((number, wire)) = reader.field()? {
        match number {
            1 => seconds = reader.integer(1, wire)?,
            2 => nanos = reader.integer(2, wire)?,
            _ => {}
        }
    }
    let out_of_range = || reader.malformed(1, "the time is out of range");
    let nanos = i32::try_from(nanos).map_err(|_| out_of_range())?;
    let stamp = jiff::Timestamp::new(seconds, nanos).map_err(|_| out_of_range())?;
    let text = if micros {
        stamp.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
    } else {
        stamp.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    };
    Ok(text.into())
}

fn duration(message: &str, bytes: &[u8]) -> Result<Value, ProtobufError> {
    let mut nanos = 0;
    let mut reader = Reader::new(message, bytes);
    while let Some((number, wire)) = reader.field()? {
        if number == 1 {
            nanos = reader.integer(1, wire)?;
        }
    }
    let sign = if nanos < 0 { "-" } else { "" };
    let total = nanos.unsigned_abs();
    let (seconds, rest) = (total / 1_000_000_000, total % 1_000_000_000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = format!("{rest:09}");
    let fraction = match fraction.trim_end_matches('0') {
        "" => String::new(),
        digits => format!(".{digits}"),
    };
    Ok(match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}{fraction}s"),
        (0, _) => format!("{sign}{minutes}m{seconds}{fraction}s"),
        _ => format!("{sign}{hours}h{minutes}m{seconds}{fraction}s"),
    }
    .into())
}

fn quantity(message: &str, bytes: &[u8]) -> Result<Value, ProtobufError> {
    let mut text = "";
    let mut reader = Reader::new(message, bytes);
    while let Some((number, wire)) = reader.field()? {
        if number == 1 {
            text = reader.text(1, reader.bytes(1, wire)?)?;
        }
    }
    Ok(if text.is_empty() { "0" } else { text }.into())
}

fn int_or_string(message: &str, bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    let mut reader = Reader::new(message, bytes);
    while let Some((at, wire)) = reader.field()? {
        match (at, wire) {
            (1, _) => is_text = reader.integer(1, wire)? != 0,
            (2, _) => number = reader.integer(2, wire)?,
            (3, Wire::Bytes(bytes)) => text = reader.text(3, bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}
