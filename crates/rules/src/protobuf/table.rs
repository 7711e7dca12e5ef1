//! The fields of every message, read once from the generated text.
//!
//! Invariants: fields are sorted by number; a field's message is a valid position in the table.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::pointers;

/// Generated; see `examples/gen-protobuf.rs` for the format.
const FIELDS: &str = include_str!("fields.txt");

/// Type of a field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    String,
    Integer,
    Bool,
    Double,
    Bytes,
    Message,
}

/// How many values a field has and where they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Card {
    One,
    Repeated,
    Map,
    /// The message's fields belong to the object around it.
    Inline,
}

/// One field.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) name: &'static str,
    pub(super) scalar: Scalar,
    pub(super) card: Card,
    /// Position of the message, for messages.
    pub(super) message: usize,
    /// Whether a zero value is written to JSON.
    pub(super) keep_zero: bool,
}

/// One message.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) name: &'static str,
    pub(super) fields: Vec<Field>,
}

impl Message {
    pub(super) fn field(&self, number: u32) -> Option<&Field> {
        let at = self.fields.binary_search_by_key(&number, |f| f.number).ok()?;
        Some(&self.fields[at])
    }
}

/// All messages.
#[derive(Debug)]
pub(super) struct Table {
    messages: Vec<Message>,
    names: HashMap<&'static str, usize>,
}

impl Table {
    pub(super) fn get() -> &'static Table {
        static TABLE: OnceLock<Table> = OnceLock::new();
        TABLE.get_or_init(|| Table::parse(FIELDS))
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    pub(super) fn message(&self, at: usize) -> &Message {
        &self.messages[at]
    }

    #[cfg(test)]
    pub(super) fn messages(&self) -> &[Message] {
        &self.messages
    }

    fn parse(text: &'static str) -> Self {
        let names: HashMap<&str, usize> = text
            .lines()
            .filter(|line| !is_field(line) && !line.starts_with('#'))
            .enumerate()
            .map(|(at, name)| (name, at))
            .collect();
        let mut messages: Vec<Message> = Vec::with_capacity(names.len());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if !is_field(line) {
                messages.push(Message { name: line, fields: Vec::new() });
            } else if let Some(message) = messages.last_mut() {
                message.fields.extend(field(line, message.name, &names));
            }
        }
        for message in &mut messages {
            message.fields.sort_by_key(|f| f.number);
        }
        Self { messages, names }
    }
}

fn is_field(line: &str) -> bool {
    line.starts_with(|c: char| c.is_ascii_digit())
}

fn field(line: &'static str, message: &str, names: &HashMap<&str, usize>) -> Option<Field> {
    let mut words = line.split(' ');
    let number = words.next()?.parse().ok()?;
    let name = words.next()?;
    let typed = words.next()?;
    let scalar = match typed.chars().next()? {
        's' => Scalar::String,
        'i' => Scalar::Integer,
        'b' => Scalar::Bool,
        'd' => Scalar::Double,
        'y' => Scalar::Bytes,
        _ => Scalar::Message,
    };
    let card = if typed.contains('*') {
        Card::Repeated
    } else if typed.contains('%') {
        Card::Map
    } else if typed.contains('~') {
        Card::Inline
    } else {
        Card::One
    };
    let target = match words.next() {
        Some(target) => *names.get(target)?,
        None => 0,
    };
    Some(Field {
        number,
        name,
        scalar,
        card,
        message: target,
        keep_zero: typed.contains('!') || pointers::is_pointer(message, name),
    })
}
