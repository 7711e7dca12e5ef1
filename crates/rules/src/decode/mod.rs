//! Bytes to JSON values, strictly: duplicate keys are found, sizes and depths are bounded.
//!
//! Invariants: nothing is guessed; malformed input gives an error with line and column; a YAML document cannot expand
//! beyond its budget; what a schema says is applied by the functions of [`fields`], [`defaulting`] and [`validation`]
//! only. Must not know kinds.

mod defaulting;
mod fields;
mod tree;
mod validation;

use serde_json::Value;

pub use defaulting::apply_schema_defaults;
pub use fields::{FieldReport, check_fields, drop_nulls, normalize, prune, strict_message};
pub use validation::validate_schema;

use tree::Tree;

/// Largest body that is decoded; upstream's limit for a request.
pub const MAX_BYTES: usize = 3 * 1024 * 1024;
/// Deepest nesting of objects and lists.
pub const MAX_DEPTH: usize = 100;
/// Most documents in one YAML text.
pub const MAX_DOCUMENTS: usize = 4096;

/// How bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    Json,
    /// YAML 1.2 as Kubernetes reads it (merge keys allowed, one document).
    Yaml,
}

/// A decoded value and what was wrong with it without being an error.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The value; of duplicate keys, the last one.
    pub value: Value,
    /// One entry per duplicate key: `duplicate field "spec.replicas"`.
    pub duplicates: Vec<String>,
}

/// Why bytes are not an object.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than allowed.
    #[error("the document has {actual} bytes and at most {MAX_BYTES} are accepted; split it")]
    TooLarge {
        /// How many there are.
        actual: usize,
    },
    /// Deeper than allowed.
    #[error("the document is nested deeper than {MAX_DEPTH} levels; make it flatter")]
    TooDeep,
    /// Not UTF-8.
    #[error("the document is not UTF-8 text (byte {at}): save it as UTF-8")]
    NotText {
        /// Position of the first bad byte.
        at: usize,
    },
    /// Not well-formed.
    #[error("couldn't parse the {format} at line {line}, column {column}: {problem}")]
    Syntax {
        /// `JSON` or `YAML`.
        format: &'static str,
        /// Line, from 1; 0 when unknown.
        line: usize,
        /// Column, from 1; 0 when unknown.
        column: usize,
        /// What the parser found.
        problem: String,
    },
}

/// Decodes one document.
pub fn decode(bytes: &[u8], format: Format) -> Result<Decoded, DecodeError> {
    bound(bytes.len())?;
    match format {
        Format::Json => json(bytes),
        // What programs send as YAML is mostly JSON, which is read ten times as fast.
        Format::Yaml
            if looks_like_json(bytes)
                && let Ok(decoded) = json(bytes) =>
        {
            Ok(decoded)
        }
        Format::Yaml => {
            let text = std::str::from_utf8(bytes).map_err(|e| DecodeError::NotText { at: e.valid_up_to() })?;
            let tree: Tree = serde_saphyr::from_str_with_options(text, yaml_options()).map_err(|e| yaml_error(&e))?;
            shallow(tree.finish())
        }
    }
}

fn looks_like_json(bytes: &[u8]) -> bool {
    bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

/// Decodes every document of a YAML text (JSON is YAML too); empty documents are skipped.
pub fn documents(yaml: &str) -> Result<Vec<Decoded>, DecodeError> {
    bound(yaml.len())?;
    let trees: Vec<Tree> =
        serde_saphyr::from_str_multiple_with_options(yaml, yaml_options()).map_err(|e| yaml_error(&e))?;
    let decoded = trees.into_iter().map(|tree| shallow(tree.finish()));
    decoded.filter(|decoded| !matches!(decoded, Ok(decoded) if decoded.value.is_null())).collect()
}

fn bound(length: usize) -> Result<(), DecodeError> {
    if length > MAX_BYTES {
        return Err(DecodeError::TooLarge { actual: length });
    }
    Ok(())
}

fn json(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let problem = |e: serde_json::Error| DecodeError::Syntax {
        format: "JSON",
        line: e.line(),
        column: e.column(),
        problem: without_position(&e.to_string()),
    };
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    // The reader stops at a depth of its own, somewhat beyond ours.
    let tree: Tree = serde::Deserialize::deserialize(&mut reader).map_err(|error| {
        if error.to_string().starts_with("recursion limit") { DecodeError::TooDeep } else { problem(error) }
    })?;
    reader.end().map_err(problem)?;
    shallow(tree.finish())
}

/// What is stored has the managers of its fields beside it, which are nested deeper, and is to be read again.
fn shallow(decoded: Decoded) -> Result<Decoded, DecodeError> {
    if measure(&decoded.value, usize::MAX).depth > MAX_DEPTH { Err(DecodeError::TooDeep) } else { Ok(decoded) }
}

/// How large a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// About how many bytes of JSON.
    pub bytes: usize,
    /// How many objects and lists are inside one another.
    pub depth: usize,
}

/// Measures a value, up to `most` bytes. It does not recurse, so that what is too deep for others can be measured.
pub fn measure(value: &Value, most: usize) -> Measure {
    let mut size = Measure { bytes: 0, depth: 0 };
    let mut left = vec![(value, 0usize)];
    while let Some((value, around)) = left.pop() {
        let inside = around + 1;
        size.bytes += match value {
            Value::Object(fields) => {
                left.extend(fields.values().map(|value| (value, inside)));
                2 + fields.keys().map(|key| key.len() + 4).sum::<usize>()
            }
            Value::Array(items) => {
                left.extend(items.iter().map(|value| (value, inside)));
                2 + items.len()
            }
            Value::String(text) => text.len() + 2,
            Value::Null | Value::Bool(_) | Value::Number(_) => 4,
        };
        size.depth = size.depth.max(if value.is_object() || value.is_array() { inside } else { around });
        if size.bytes > most {
            break;
        }
    }
    size
}

/// serde_json repeats the position in its text; ours is in the fields.
fn without_position(text: &str) -> String {
    text.rsplit_once(" at line ").map_or(text, |(head, _)| head).to_owned()
}

fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 1_000_000,
            max_aliases: 10_000,
            max_anchors: 1_000,
            max_depth: MAX_DEPTH,
            max_documents: MAX_DOCUMENTS,
            max_nodes: 500_000,
            max_total_scalar_bytes: 4 * MAX_BYTES,
            max_merge_keys: 1_000,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 200_000,
            max_replay_stack_depth: 16,
            max_alias_expansions_per_anchor: 1_000,
        },
        legacy_octal_numbers: true,
        emit_comments: false,
        with_snippet: false,
    }
}

fn yaml_error(error: &serde_saphyr::Error) -> DecodeError {
    let place = error.location();
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let text = error.to_string();
    DecodeError::Syntax {
        format: "YAML",
        line: place.map_or(0, |l| number(l.line())),
        column: place.map_or(0, |l| number(l.column())),
        problem: text
            .split_once(": ")
            .filter(|(head, _)| head.starts_with("line ") || head.starts_with("error: line "))
            .map_or(text.as_str(), |(_, tail)| tail)
            .to_owned(),
    }
}

#[cfg(test)]
mod tests;
