//! YAML text to nodes and to JSON.
//!
//! Manifests are split into documents at lines that begin with `---`, anchors are expanded, merge keys merged. Kustomization
//! files are read by the customs of YAML 1.1 and become JSON at once.
//!
//! Invariants: depth, nodes and what aliases expand to are bounded, so that a small file cannot fill the memory.
//! It must not know: kinds of objects, where text comes from.

use super::error::{Error, Result, fail};
use super::folding;
use super::node::{Fields, Node, Scalar, Tag, tag_of, value};
use super::scalar::{Custom, Meaning, meaning};
use granit_parser::{Event, Parser, ScalarStyle, StructureStyle};
use serde_json::Value;
use std::collections::HashMap;

/// Deepest nesting of mappings and lists.
const MAX_DEPTH: usize = 200;
/// Most nodes of one document after aliases are expanded.
const MAX_NODES: usize = 2_000_000;

/// Every document of a manifest file that is not empty.
pub(super) fn documents(text: &str) -> Result<Vec<Node>> {
    let unified;
    let text = if text.contains("\r\n") {
        unified = text.replace("\r\n", "\n");
        unified.as_str()
    } else {
        text
    };
    let mut nodes = Vec::new();
    for part in split(text)? {
        if let Some(node) = document(&part)?
            && !node.is_null()
        {
            nodes.push(node);
        }
    }
    Ok(nodes)
}

/// Cuts a text at its separator lines. A separator may carry a comment and nothing else.
fn split(text: &str) -> Result<Vec<std::borrow::Cow<'_, str>>> {
    let mut parts = Vec::new();
    let mut begin = 0;
    let mut from = 0;
    while let Some(found) = text[from..].find("\n---") {
        let at = from + found;
        let Some(length) = text[at + 4..].find('\n') else { break };
        let rest = text[at + 4..at + 4 + length].trim();
        if !rest.is_empty() && !rest.starts_with('#') {
            return fail(format!(
                "a line that begins a document says more than `---`: `---{rest}`; put it on the next line"
            ));
        }
        parts.push(text[begin..=at].into());
        begin = at + 4 + length + 1;
        from = begin;
    }
    parts.push(text[begin..].into());
    Ok(parts)
}

/// The first document of a text; nothing when there is none.
pub(super) fn document(text: &str) -> Result<Option<Node>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let options = granit_parser::options! { emit_comments: false };
    let parser = Parser::new_from_str_with_options(text, options);
    let mut reader = Reader { text, parser, anchors: HashMap::new(), nodes: 0, flow: 0 };
    loop {
        match reader.next()?.event {
            Event::StreamEnd => return Ok(None),
            Event::DocumentStart(..) => break,
            _ => {}
        }
    }
    let first = reader.next()?;
    reader.node(first, 0).map(Some)
}

struct Reader<'a> {
    text: &'a str,
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    /// How many `{` and `[` are open.
    flow: usize,
}

/// An event, and what of its place in the text changes its meaning.
struct Seen<'a> {
    event: Event<'a>,
    /// Nothing is written there: a null without a word.
    unwritten: bool,
    /// The text ends here, in the middle of a line.
    cut_off: bool,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Seen<'a>> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => {
                let unwritten = span.start.index() == span.end.index();
                let cut_off = !self.text.ends_with('\n') && span.end.byte_offset() == Some(self.text.len());
                Ok(Seen { event, unwritten, cut_off })
            }
            Some(Err(error)) => {
                let (line, column) = (error.marker().line(), error.marker().col() + 1);
                fail(format!("not YAML: line {line}, column {column}: {}", error.info()))
            }
            None => Ok(Seen { event: Event::StreamEnd, unwritten: false, cut_off: false }),
        }
    }

    fn count(&mut self, more: usize) -> Result<()> {
        self.nodes += more;
        if self.nodes > MAX_NODES {
            return fail(format!("the document has more than {MAX_NODES} parts once its aliases are expanded"));
        }
        Ok(())
    }

    fn node(&mut self, seen: Seen<'a>, depth: usize) -> Result<Node> {
        self.count(1)?;
        if depth > MAX_DEPTH {
            return fail(format!("the document nests deeper than {MAX_DEPTH} levels"));
        }
        let (anchor, node) = match seen.event {
            Event::Scalar(text, style, anchor, tag) => {
                let mut text = if seen.unwritten { String::new() } else { text.into_owned() };
                // A block that the text's end cuts off has no last line break to keep.
                if seen.cut_off && matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) && text.ends_with('\n') {
                    text.pop();
                }
                if style == ScalarStyle::Folded {
                    text = folding::again(&text);
                }
                let mut scalar = scalar(text, style, tag.as_deref());
                // Between brackets, what is not written is null for patches and ends as empty text.
                scalar.quoted |= seen.unwritten && self.flow > 0;
                (anchor, Node::Scalar(scalar))
            }
            Event::SequenceStart(style, anchor, _) => {
                let mut items = Vec::new();
                self.flow += usize::from(style == StructureStyle::Flow);
                loop {
                    let seen = self.next()?;
                    if matches!(seen.event, Event::SequenceEnd) {
                        break;
                    }
                    items.push(self.node(seen, depth + 1)?);
                }
                self.flow -= usize::from(style == StructureStyle::Flow);
                (anchor, Node::Seq(items))
            }
            Event::MappingStart(style, anchor, _) => {
                self.flow += usize::from(style == StructureStyle::Flow);
                let fields = self.mapping(depth)?;
                self.flow -= usize::from(style == StructureStyle::Flow);
                (anchor, Node::Map(fields))
            }
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return fail("an alias stands inside what it stands for");
                };
                self.count(size(&node))?;
                return Ok(node);
            }
            other => return fail(format!("not YAML: {other:?} where a value is wanted")),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn mapping(&mut self, depth: usize) -> Result<Fields> {
        let mut fields = Fields::new();
        let mut merged = None;
        loop {
            let seen = self.next()?;
            if matches!(seen.event, Event::MappingEnd) {
                break;
            }
            let key = self.node(seen, depth + 1)?;
            let seen = self.next()?;
            let value = self.node(seen, depth + 1)?;
            let Node::Scalar(key) = key else {
                return fail("a mapping's key is itself a mapping or a list; use text");
            };
            if key.tag == Tag::Merge {
                if merged.replace(value).is_some() {
                    return fail("a mapping has two merge keys (`<<`); give them as one list");
                }
            } else {
                fields.push((key, value));
            }
        }
        let Some(merged) = merged else { return Ok(fields) };
        let mut parts = Vec::new();
        match merged {
            Node::Map(part) => parts.push(part),
            Node::Seq(items) => {
                for item in items {
                    let Node::Map(part) = item else {
                        return fail("the list of a merge key (`<<`) has an item that is not a mapping");
                    };
                    parts.push(part);
                }
                parts.reverse();
            }
            Node::Scalar(_) => return fail("a merge key (`<<`) wants a mapping or a list of mappings"),
        }
        parts.push(fields.clone());
        for (key, value) in parts.into_iter().flatten() {
            match fields.iter_mut().find(|(own, _)| own.text == key.text) {
                Some(field) => *field = (key, value),
                None => fields.push((key, value)),
            }
        }
        self.count(fields.len())?;
        Ok(fields)
    }
}

fn size(node: &Node) -> usize {
    match node {
        Node::Scalar(_) => 1,
        Node::Seq(items) => 1 + items.iter().map(size).sum::<usize>(),
        Node::Map(fields) => 1 + fields.iter().map(|(_, value)| 1 + size(value)).sum::<usize>(),
    }
}

fn scalar(text: String, style: ScalarStyle, tag: Option<&granit_parser::Tag>) -> Scalar {
    let quoted = style != ScalarStyle::Plain;
    let said = tag.filter(|tag| {
        !(tag.handle().is_empty() && tag.suffix() == "!" || tag.handle() == "!" && tag.suffix().is_empty())
    });
    let tag_said = said.map(|tag| match tag.suffix_in_namespace("tag:yaml.org,2002:").as_deref() {
        Some("str") => Tag::Str,
        Some("int") => Tag::Int,
        Some("float") => Tag::Float,
        Some("bool") => Tag::Bool,
        Some("null") => Tag::Null,
        Some("timestamp") => Tag::Time,
        Some("binary") => Tag::Binary,
        Some("merge") => Tag::Merge,
        _ => Tag::Other,
    });
    let tag = match tag_said {
        Some(tag) => tag,
        None if quoted => Tag::Str,
        None if text == "<<" => Tag::Merge,
        None => tag_of(&meaning(&text, Custom::New)),
    };
    Scalar { text, tag, quoted, explicit: said.is_some() }
}

/// What to make of a key that is given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Twice {
    LastWins,
    Refused,
}

/// The first document of a text that configures something, as JSON by the customs of YAML 1.1; null when it is empty.
pub(super) fn configuration(text: &str, twice: Twice) -> Result<Value> {
    match document(text)? {
        Some(node) => old_json(&node, twice),
        None => Ok(Value::Null),
    }
}

fn old_json(node: &Node, twice: Twice) -> Result<Value> {
    match node {
        Node::Scalar(scalar) => old_scalar(scalar),
        Node::Seq(items) => items.iter().map(|item| old_json(item, twice)).collect::<Result<_>>().map(Value::Array),
        Node::Map(fields) => {
            let mut map = serde_json::Map::new();
            for (key, value) in fields {
                let name = match old_scalar(key)? {
                    Value::String(text) => text,
                    Value::Null => return fail("a mapping has a key without a name"),
                    other => other.to_string(),
                };
                if map.insert(name, old_json(value, twice)?).is_some() && twice == Twice::Refused {
                    return fail(format!("the key `{}` is given twice in one mapping; keep one of them", key.text));
                }
            }
            Ok(Value::Object(map))
        }
    }
}

fn old_scalar(scalar: &Scalar) -> Result<Value> {
    if scalar.quoted || matches!(scalar.tag, Tag::Other) || scalar.tag == Tag::Str && scalar.explicit {
        return Ok(Value::String(scalar.text.clone()));
    }
    match meaning(&scalar.text, Custom::Old) {
        Meaning::Time(_) => Ok(Value::String(scalar.text.clone())),
        other => value(other, &scalar.text),
    }
}

/// Bytes as text.
pub(super) fn utf8(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        Error::new(format!("not UTF-8 text (byte {}); save it as UTF-8", error.utf8_error().valid_up_to()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Result<Vec<Value>> {
        documents(text)?.iter().map(Node::to_json).collect()
    }

    #[test]
    fn documents_anchors_and_merges_are_resolved() {
        let cases = [
            ("a: 1\n---\nb: on\n", r#"[{"a":1},{"b":"on"}]"#),
            ("---\na: 1\n---\n# nothing\n---\n", r#"[{"a":1}]"#),
            ("a: &x {k: 1, m: 2}\nb: *x\n", r#"[{"a":{"k":1,"m":2},"b":{"k":1,"m":2}}]"#),
            ("x: &x {k: 1, m: 2}\nb:\n  <<: *x\n  m: 3\n", r#"[{"x":{"k":1,"m":2},"b":{"k":1,"m":3}}]"#),
            (
                "x: &x {k: 1}\ny: &y {k: 2, l: 2}\nb:\n  <<: [*x, *y]\n",
                r#"[{"x":{"k":1},"y":{"k":2,"l":2},"b":{"k":1,"l":2}}]"#,
            ),
            ("a: 2001-01-01\nb: 1.0\nc: 0777\r\nd: ~\n", r#"[{"a":"2001-01-01T00:00:00Z","b":1,"c":511,"d":null}]"#),
            ("a: !!str 5\nb: !!int \"5\"\nc: !own x\n", r#"[{"a":"5","b":5,"c":"x"}]"#),
        ];
        for (text, wanted) in cases {
            let wanted: Vec<Value> = serde_json::from_str(wanted).unwrap();
            assert_eq!(all(text).unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_malformed_or_too_large_is_refused() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..8 {
            let before = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", vec![before; 10].join(","));
        }
        let cases = [
            ("a: 1\n---foo\nb: 1\n", "begins a document"),
            ("a: [1\n", "not YAML: line"),
            ("a: 1\na: 2\n", "given twice"),
            ("a: {1: b}\n", "is not text"),
            ("a: &a [*a]\n", "inside what it stands for"),
            (bomb.as_str(), "aliases are expanded"),
            ("a: !!int x\n", "marked as a whole number"),
        ];
        for (text, wanted) in cases {
            let message = all(text).unwrap_err().to_string();
            assert!(message.contains(wanted), "{text}: {message}");
        }
    }

    #[test]
    fn configurations_follow_the_old_customs() {
        let value = configuration("a: yes\n1: x\non: 2001-01-01\nb: '1'\nb: '2'\n", Twice::LastWins).unwrap();
        assert_eq!(value, serde_json::json!({"a": true, "1": "x", "true": "2001-01-01", "b": "2"}));
        assert!(configuration("b: '1'\nb: '2'\n", Twice::Refused).is_err());
    }
}
