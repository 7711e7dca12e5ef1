//! ConfigMaps and Secrets from literals, files and lists of variables; and the hash that their names end in.
//!
//! Invariants: the same content gives the same name, everywhere. It must not know: what refers to them.

use super::error::{At, Error, Result, fail};
use super::load::Loader;
use super::node::{Node, Scalar, Shape, Tag};
use super::resource::{Behavior, Resource};
use super::schema::Known;
use super::settings::Generator;
use base64::Engine;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Which kind is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    ConfigMap,
    Secret,
}

/// Makes one object.
pub(super) fn generate(kind: Kind, wanted: &Generator, loader: &Loader<'_>, known: &Rc<Known>) -> Result<Resource> {
    let (name, field) = match kind {
        Kind::ConfigMap => ("ConfigMap", "configMapGenerator"),
        Kind::Secret => ("Secret", "secretGenerator"),
    };
    if wanted.name.is_empty() {
        return fail(format!("{field}: an item has no `name`"));
    }
    let place = || format!("{field} {}", wanted.name);
    let pairs = pairs(wanted, loader).at(place)?;
    let text = |text: &str| Node::Scalar(Scalar::text(text));
    let mut metadata = Node::Map(Vec::new());
    metadata.set("name", text(&wanted.name));
    if !wanted.namespace.is_empty() {
        metadata.set("namespace", text(&wanted.namespace));
    }
    for (field, values) in [("labels", &wanted.options.labels), ("annotations", &wanted.options.annotations)] {
        for (key, value) in values {
            if let Some(map) = metadata.field_or_new(field, Shape::Map) {
                map.set(key, text(value));
            }
        }
    }
    let mut node = Node::Map(Vec::new());
    node.set("apiVersion", text("v1"));
    node.set("kind", text(name));
    node.set("metadata", metadata);
    match kind {
        Kind::ConfigMap => set_config_map(&mut node, pairs),
        Kind::Secret => {
            node.set("type", text(if wanted.kind.is_empty() { "Opaque" } else { &wanted.kind }));
            node.set("data", Node::Map(Vec::new()));
            let encoded = pairs.into_iter().map(|(key, value)| (key, base64_lines(&value))).collect();
            set_data(&mut node, "data", &encoded);
        }
    }
    if wanted.options.immutable {
        node.set("immutable", Node::Scalar(Scalar::tagged("true", Tag::Bool)));
    }
    let mut resource = Resource::new(node, known);
    resource.history.needs_hash = !wanted.options.no_hash;
    resource.history.behavior = Some(match wanted.behavior.as_str() {
        "replace" => Behavior::Replace,
        "merge" => Behavior::Merge,
        _ => Behavior::Create,
    });
    Ok(resource)
}

fn set_config_map(node: &mut Node, pairs: BTreeMap<String, Vec<u8>>) {
    let (mut data, mut binary) = (BTreeMap::new(), BTreeMap::new());
    for (key, value) in pairs {
        match String::from_utf8(value) {
            Ok(text) => data.insert(key, text),
            Err(error) => binary.insert(key, base64_lines(error.as_bytes())),
        };
    }
    set_data(node, "data", &data);
    set_data(node, "binaryData", &binary);
}

/// Adds texts to a field of an object, which is made if there are any.
pub(super) fn set_data(node: &mut Node, field: &str, texts: &BTreeMap<String, String>) {
    if texts.is_empty() {
        return;
    }
    let Some(map) = node.field_or_new(field, Shape::Map) else { return };
    for (key, text) in texts {
        let quoted = text.contains('\n');
        map.set(key, Node::Scalar(Scalar { text: text.clone(), tag: Tag::Str, quoted, explicit: false }));
    }
}

/// Base64 in lines of 70, when it fills more than one.
fn base64_lines(bytes: &[u8]) -> String {
    const LINE: usize = 70;
    let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
    if encoded.len() < LINE {
        return encoded;
    }
    let mut lines = String::with_capacity(encoded.len() + encoded.len() / LINE + 1);
    for (at, c) in encoded.char_indices() {
        if at > 0 && at % LINE == 0 {
            lines.push('\n');
        }
        lines.push(c);
    }
    lines.push('\n');
    lines
}

fn pairs(wanted: &Generator, loader: &Loader<'_>) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = Vec::new();
    for path in &wanted.envs {
        let bytes = loader.bytes(path).at(|| "envs".to_owned())?;
        variables(&bytes, &mut found).at(|| format!("envs: {path}"))?;
    }
    for literal in &wanted.literals {
        let Some((key, value)) = literal.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return fail(format!("literals: `{literal}` is not of the form KEY=VALUE"));
        };
        found.push((key.to_owned(), unquoted(value).as_bytes().to_vec()));
    }
    for source in &wanted.files {
        let (key, path) = file_source(source)?;
        found.push((key, loader.bytes(path).at(|| format!("files: {source}"))?));
    }
    let mut pairs = BTreeMap::new();
    for (key, value) in found {
        if pairs.insert(key.clone(), value).is_some() {
            return fail(format!("the key `{key}` is given twice"));
        }
    }
    Ok(pairs)
}

/// Lines of the form `KEY=VALUE`; empty lines and those that begin with `#` are left out.
fn variables(bytes: &[u8], found: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    for (at, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = std::str::from_utf8(line).map_err(|_| Error::new(format!("line {} is not UTF-8 text", at + 1)))?;
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        if !key.is_empty() {
            found.push((key.to_owned(), value.as_bytes().to_vec()));
        }
    }
    Ok(())
}

fn unquoted(text: &str) -> &str {
    for quote in ['"', '\''] {
        if text.len() >= 2 && text.starts_with(quote) && text.ends_with(quote) {
            return &text[1..text.len() - 1];
        }
    }
    text
}

/// `PATH` or `KEY=PATH`.
fn file_source(source: &str) -> Result<(String, &str)> {
    match source.split('=').collect::<Vec<_>>()[..] {
        [path] => {
            let key = path.trim_end_matches('/').rsplit('/').next().unwrap_or(path);
            Ok((key.to_owned(), path))
        }
        ["", _] => fail(format!("files: `{source}` has no key before `=`")),
        [_, ""] => fail(format!("files: `{source}` has no path after `=`")),
        [key, path] => Ok((key.to_owned(), path)),
        _ => fail(format!("files: `{source}` has more than one `=`")),
    }
}

/// The hash of an object's content, as names end in it.
pub(super) fn hash(node: &Node) -> Result<String> {
    let kind = node.get("kind").map(Node::raw).unwrap_or_default();
    let field = |name: &str| match node.get(name) {
        None => Ok(Value::String(String::new())),
        Some(Node::Scalar(scalar)) => Ok(Value::String(scalar.text.clone())),
        Some(other) => other.to_json(),
    };
    // The name is meant to be part of it, and has never been.
    let (mut content, optional) = match kind {
        "ConfigMap" => (json!({"kind": kind, "name": "", "data": field("data")?}), "binaryData"),
        "Secret" => (json!({"kind": kind, "name": "", "data": field("data")?, "type": field("type")?}), "stringData"),
        _ => return fail(format!("only a ConfigMap or Secret gets a name with a hash, and this is a {kind}")),
    };
    if matches!(node.get(optional), Some(Node::Map(_))) {
        content[optional] = field(optional)?;
    }
    let mut text = String::new();
    go_json(&content, &mut text);
    let digest = Sha256::digest(text.as_bytes());
    let hex: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    let letter = |c| match c {
        '0' => 'g',
        '1' => 'h',
        '3' => 'k',
        'a' => 'm',
        'e' => 't',
        other => other,
    };
    Ok(hex.chars().map(letter).collect())
}

/// JSON as Go writes it: sorted keys, and more characters escaped than needed.
fn go_json(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => go_text(text, out),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                go_json(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut fields: Vec<_> = map.iter().collect();
            fields.sort_by(|a, b| a.0.cmp(b.0));
            out.push('{');
            for (at, (key, value)) in fields.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                go_text(key, out);
                out.push(':');
                go_json(value, out);
            }
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}

fn go_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}
