//! A manifest while it is worked on: a tree that keeps how each scalar was written.
//!
//! Whether `"5"` is text and `5` a number is decided when the tree becomes JSON, because transformations copy the text of
//! scalars from place to place and keep the quotes of the place.
//!
//! Invariants: keys keep their order and may repeat until the tree becomes JSON. It must not know: kinds of objects, files.

use super::error::{Result, fail};
use super::scalar::{Custom, Meaning, meaning};
use serde_json::{Number, Value};

/// What a scalar was said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// Nothing said: its text decides, unless it is quoted.
    Unsaid,
    Str,
    Int,
    Float,
    Bool,
    Null,
    Time,
    Binary,
    Merge,
    /// A tag of someone else's; the scalar counts as text.
    Other,
}

/// A scalar: its text, and what makes it text or something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scalar {
    pub(super) text: String,
    pub(super) tag: Tag,
    /// Written in quotes or as a block.
    pub(super) quoted: bool,
    /// The tag was written out (`!!int "5"`).
    pub(super) explicit: bool,
}

impl Scalar {
    /// Text of which nothing else is said.
    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), tag: Tag::Unsaid, quoted: false, explicit: false }
    }

    /// Text that stays text.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), tag: Tag::Str, quoted: false, explicit: false }
    }

    pub(super) fn tagged(text: impl Into<String>, tag: Tag) -> Self {
        Self { text: text.into(), tag, quoted: false, explicit: false }
    }

    pub(super) fn null() -> Self {
        Self::tagged("null", Tag::Null)
    }

    /// Whether it counts as text for those who ask before it becomes JSON.
    pub(super) fn is_text(&self) -> bool {
        matches!(self.tag, Tag::Str | Tag::Unsaid)
    }

    fn resolved(&self) -> Meaning {
        meaning(&self.text, Custom::New)
    }

    fn to_json(&self) -> Result<Value> {
        let own = match self.tag {
            Tag::Str | Tag::Other | Tag::Merge => return text_value(&self.text),
            Tag::Unsaid if self.quoted || self.text.contains('\n') => return text_value(&self.text),
            Tag::Unsaid => return value(self.resolved(), &self.text),
            Tag::Binary => return binary(&self.text),
            Tag::Int | Tag::Float | Tag::Bool | Tag::Null | Tag::Time => self.resolved(),
        };
        let fits = tag_of(&own) == self.tag;
        if fits && self.quoted && !self.explicit {
            return Ok(Value::String(self.text.clone()));
        }
        match own {
            #[allow(clippy::cast_precision_loss)]
            Meaning::Int(whole) if self.tag == Tag::Float => value(Meaning::Float(whole as f64), &self.text),
            other if fits => value(other, &self.text),
            _ => fail(format!("the value `{}` is marked as {} and is none", self.text, name(self.tag))),
        }
    }
}

/// Text as JSON. Control characters that YAML cannot carry are refused, as they could not be written out.
fn text_value(text: &str) -> Result<Value> {
    let forbidden = |c: char| matches!(c, '\u{7f}'..='\u{84}' | '\u{86}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}');
    match text.chars().find(|&c| forbidden(c)) {
        Some(c) => {
            fail(format!("text has the control character U+{:04X}, which YAML cannot carry; take it out", u32::from(c)))
        }
        None => Ok(Value::String(text.to_owned())),
    }
}

fn name(tag: Tag) -> &'static str {
    match tag {
        Tag::Int => "a whole number (!!int)",
        Tag::Float => "a number (!!float)",
        Tag::Bool => "a truth value (!!bool)",
        Tag::Null => "null (!!null)",
        Tag::Time => "a time (!!timestamp)",
        _ => "something else",
    }
}

fn binary(text: &str) -> Result<Value> {
    use base64::Engine;
    let packed: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    match base64::engine::general_purpose::STANDARD.decode(packed).map(String::from_utf8) {
        Ok(Ok(text)) => Ok(Value::String(text)),
        _ => fail("a !!binary value is not base64 of text; use a Secret's data or a ConfigMap's binaryData instead"),
    }
}

/// The tag that a plain scalar with this meaning has.
pub(super) fn tag_of(meaning: &Meaning) -> Tag {
    match meaning {
        Meaning::Null => Tag::Null,
        Meaning::Bool(_) => Tag::Bool,
        Meaning::Int(_) | Meaning::Uint(_) => Tag::Int,
        Meaning::Float(_) => Tag::Float,
        Meaning::Time(_) => Tag::Time,
        Meaning::Text => Tag::Str,
    }
}

/// A meaning as JSON. Whole floats become integers, as JSON text does not tell them apart.
pub(super) fn value(meaning: Meaning, text: &str) -> Result<Value> {
    Ok(match meaning {
        Meaning::Null => Value::Null,
        Meaning::Bool(truth) => Value::Bool(truth),
        Meaning::Int(number) => number.into(),
        Meaning::Uint(number) => number.into(),
        Meaning::Float(number) => return number_value(number),
        Meaning::Time(time) => Value::String(time),
        Meaning::Text => return text_value(text),
    })
}

/// A float as JSON.
pub(super) fn number_value(number: f64) -> Result<Value> {
    if number.fract() == 0.0 && number.abs() < 1e21 {
        let digits = number.to_string();
        if let Ok(whole) = digits.parse::<i64>() {
            return Ok(whole.into());
        }
        if let Ok(whole) = digits.parse::<u64>() {
            return Ok(whole.into());
        }
    }
    match Number::from_f64(number) {
        Some(number) => Ok(Value::Number(number)),
        None => fail(format!("the number {number} has no form in JSON")),
    }
}

/// The fields of a mapping, in order.
pub(super) type Fields = Vec<(Scalar, Node)>;

/// A part of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Scalar(Scalar),
    Map(Fields),
    Seq(Vec<Node>),
}

/// What a node is, without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Scalar,
    Map,
    Seq,
}

impl Shape {
    pub(super) fn name(self) -> &'static str {
        match self {
            Shape::Scalar => "a single value",
            Shape::Map => "a mapping",
            Shape::Seq => "a list",
        }
    }

    /// An empty node of this shape; a scalar's text decides what it is.
    pub(super) fn empty(self) -> Node {
        match self {
            Shape::Scalar => Node::Scalar(Scalar::plain("")),
            Shape::Map => Node::Map(Vec::new()),
            Shape::Seq => Node::Seq(Vec::new()),
        }
    }
}

impl Node {
    pub(super) fn shape(&self) -> Shape {
        match self {
            Node::Scalar(_) => Shape::Scalar,
            Node::Map(_) => Shape::Map,
            Node::Seq(_) => Shape::Seq,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self, Node::Scalar(scalar) if scalar.tag == Tag::Null)
    }

    /// Null, or an empty mapping or list.
    pub(super) fn is_void(&self) -> bool {
        match self {
            Node::Scalar(scalar) => scalar.tag == Tag::Null,
            Node::Map(fields) => fields.is_empty(),
            Node::Seq(items) => items.is_empty(),
        }
    }

    /// A scalar's text; empty for null and for anything else.
    pub(super) fn as_text(&self) -> &str {
        match self {
            Node::Scalar(scalar) if scalar.tag != Tag::Null => &scalar.text,
            _ => "",
        }
    }

    /// A scalar's text whatever it is.
    pub(super) fn raw(&self) -> &str {
        match self {
            Node::Scalar(scalar) => &scalar.text,
            _ => "",
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        match self {
            Node::Map(fields) => fields.iter().find(|(key, _)| key.text == name).map(|(_, value)| value),
            _ => None,
        }
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Node> {
        match self {
            Node::Map(fields) => fields.iter_mut().find(|(key, _)| key.text == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The node at the end of a path of field names.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, name| node.get(name))
    }

    /// Takes a field away.
    pub(super) fn remove(&mut self, name: &str) -> Option<Node> {
        let Node::Map(fields) = self else { return None };
        let at = fields.iter().position(|(key, _)| key.text == name)?;
        Some(fields.remove(at).1)
    }

    /// Sets a field of a mapping. A scalar that was there lends its quotes to the new one.
    pub(super) fn set(&mut self, name: &str, mut value: Node) {
        guard(&mut value);
        let Node::Map(fields) = self else { return };
        match fields.iter_mut().find(|(key, _)| key.text == name) {
            Some((_, old)) => old.replace(value),
            None => fields.push((Scalar::plain(name), value)),
        }
    }

    /// Takes the place of a node and keeps its quotes.
    pub(super) fn replace(&mut self, mut value: Node) {
        if let Node::Scalar(new) = &mut value {
            new.quoted = matches!(self, Node::Scalar(old) if old.quoted);
        }
        *self = value;
    }

    /// The field, made with this shape when it is not there. The node must be a mapping.
    pub(super) fn field_or_new(&mut self, name: &str, shape: Shape) -> Option<&mut Node> {
        let Node::Map(fields) = self else { return None };
        let at = match fields.iter().position(|(key, _)| key.text == name) {
            Some(at) => at,
            None => {
                fields.push((Scalar::plain(name), shape.empty()));
                fields.len() - 1
            }
        };
        Some(&mut fields[at].1)
    }

    /// The tree as JSON. Keys that are given twice, or are not text, are refused.
    pub(super) fn to_json(&self) -> Result<Value> {
        match self {
            Node::Scalar(scalar) => scalar.to_json(),
            Node::Seq(items) => items.iter().map(Node::to_json).collect::<Result<_>>().map(Value::Array),
            Node::Map(fields) => {
                let mut map = serde_json::Map::new();
                for (key, value) in fields {
                    if !key_is_text(key) {
                        return fail(format!("the key `{}` is not text; write it in quotes", key.text));
                    }
                    if map.insert(key.text.clone(), value.to_json()?).is_some() {
                        return fail(format!("the key `{}` is given twice in one mapping; keep one of them", key.text));
                    }
                }
                Ok(Value::Object(map))
            }
        }
    }

    /// A tree that means the same as a JSON value.
    pub(super) fn from_json(value: &Value) -> Node {
        match value {
            Value::Null => Node::Scalar(Scalar::null()),
            Value::Bool(truth) => Node::Scalar(Scalar::tagged(truth.to_string(), Tag::Bool)),
            Value::Number(number) => {
                let tag = if number.is_f64() { Tag::Float } else { Tag::Int };
                Node::Scalar(Scalar::tagged(number.to_string(), tag))
            }
            Value::String(text) => {
                let quoted = tag_of(&meaning(text, Custom::New)) != Tag::Str
                    || tag_of(&meaning(text, Custom::Old)) != Tag::Str
                    || text.contains('\n');
                Node::Scalar(Scalar { text: text.clone(), tag: Tag::Str, quoted, explicit: false })
            }
            Value::Array(items) => Node::Seq(items.iter().map(Node::from_json).collect()),
            Value::Object(fields) => Node::Map(
                fields.iter().map(|(key, value)| (Scalar::text(key.as_str()), Node::from_json(value))).collect(),
            ),
        }
    }
}

/// Puts text in quotes that would be something else to readers of YAML 1.1.
pub(super) fn guard(value: &mut Node) {
    if let Node::Scalar(scalar) = value
        && scalar.is_text()
        && !scalar.quoted
        && !scalar.text.is_empty()
        && !scalar.text.contains('\n')
        && tag_of(&meaning(&scalar.text, Custom::Old)) != Tag::Str
    {
        scalar.quoted = true;
    }
}

fn key_is_text(key: &Scalar) -> bool {
    match key.tag {
        Tag::Str | Tag::Other => true,
        Tag::Unsaid => key.quoted || tag_of(&meaning(&key.text, Custom::New)) == Tag::Str,
        _ => false,
    }
}
