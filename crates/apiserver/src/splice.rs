//! Stored objects to answers without a tree in between: the bytes are copied, the revision is put in. Pure.
//!
//! Invariants: what is stored is compact JSON that this server wrote; whatever does not look like that is left to the
//! slower way through a tree (`None`, and nothing is written). The outcome is the same but for the order of fields.

/// What becomes of `apiVersion` and `kind`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Type<'a> {
    /// Both stay; the version is this one.
    Named(&'a str),
    /// Both are left out, as in lists of built-in kinds.
    Bare,
}

/// Appends the object with its revision.
pub(crate) fn object(out: &mut Vec<u8>, stored: &[u8], named: Type<'_>, revision: u64) -> Option<()> {
    let start = out.len();
    let done = copy(out, stored, named, revision);
    if done.is_none() {
        out.truncate(start);
    }
    done
}

/// Appends the object's `metadata` with its revision.
pub(crate) fn metadata(out: &mut Vec<u8>, stored: &[u8], revision: u64) -> Option<()> {
    let mut members = Members { bytes: stored, at: 1 };
    loop {
        let member = members.next()?;
        if member.key == b"metadata" {
            return versioned(out, &stored[member.value..member.end], revision);
        }
    }
}

fn copy(out: &mut Vec<u8>, stored: &[u8], named: Type<'_>, revision: u64) -> Option<()> {
    out.push(b'{');
    let mut members = Members { bytes: stored, at: 1 };
    let mut first = true;
    let mut comma = |out: &mut Vec<u8>| {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
    };
    let mut typed = 0;
    loop {
        let start = members.at;
        let key = members.key()?;
        match (key, named) {
            (b"metadata", _) => {
                // Fields come in the order of their names, so what is rewritten has been by now.
                if typed < 2 {
                    return None;
                }
                comma(out);
                out.extend_from_slice(b"\"metadata\":");
                return versioned(out, &stored[members.at..], revision);
            }
            (b"apiVersion" | b"kind", Type::Bare) => typed += 1,
            (b"apiVersion", Type::Named(version)) => {
                typed += 1;
                comma(out);
                out.extend_from_slice(b"\"apiVersion\":");
                serde_json::to_writer(&mut *out, version).ok()?;
            }
            _ => {
                typed += usize::from(key == b"kind");
                comma(out);
                let end = skip(stored, members.at)?;
                out.extend_from_slice(&stored[start..end]);
            }
        }
        members.pass()?;
    }
}

/// Appends what begins with the braces of `metadata`, the revision first.
fn versioned(out: &mut Vec<u8>, rest: &[u8], revision: u64) -> Option<()> {
    let after = rest.strip_prefix(b"{")?;
    out.extend_from_slice(b"{\"resourceVersion\":\"");
    out.extend_from_slice(revision.to_string().as_bytes());
    out.push(b'"');
    if *after.first()? != b'}' {
        out.push(b',');
    }
    out.extend_from_slice(after);
    Some(())
}

struct Member<'a> {
    key: &'a [u8],
    value: usize,
    end: usize,
}

/// The members of a compact JSON object, one after the other.
struct Members<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Members<'a> {
    /// The key of the member that begins here; goes to its value.
    fn key(&mut self) -> Option<&'a [u8]> {
        if *self.bytes.get(self.at)? != b'"' {
            return None;
        }
        let end = skip(self.bytes, self.at)?;
        let key = &self.bytes[self.at + 1..end - 1];
        if *self.bytes.get(end)? != b':' {
            return None;
        }
        self.at = end + 1;
        Some(key)
    }

    /// Goes past the value that begins here, to the next member.
    fn pass(&mut self) -> Option<usize> {
        let end = skip(self.bytes, self.at)?;
        if *self.bytes.get(end)? != b',' {
            return None;
        }
        self.at = end + 1;
        Some(end)
    }

    fn next(&mut self) -> Option<Member<'a>> {
        let key = self.key()?;
        let value = self.at;
        let end = skip(self.bytes, value)?;
        self.at = end + 1;
        Some(Member { key, value, end })
    }
}

/// The end of the value that begins at `at`.
fn skip(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    loop {
        match *bytes.get(at)? {
            b'"' => at = text_end(bytes, at + 1)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            b',' | b':' if depth > 0 => at += 1,
            _ => {
                let length = bytes[at..].iter().position(|byte| matches!(byte, b',' | b'}' | b']'))?;
                if length == 0 {
                    return None;
                }
                at += length;
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// The place after the quote that ends the text whose inside begins at `at`.
fn text_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += bytes.get(at..)?.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        match bytes[at] {
            b'"' => return Some(at + 1),
            _ => at += 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    fn spliced(stored: &str, named: Type<'_>) -> Option<Value> {
        let mut out = b"x".to_vec();
        let done = object(&mut out, stored.as_bytes(), named, 7);
        assert_eq!(out[0], b'x');
        match done {
            Some(()) => Some(serde_json::from_slice(&out[1..]).expect("JSON")),
            None => {
                assert_eq!(out.len(), 1, "what can't be copied leaves nothing behind");
                None
            }
        }
    }

    #[test]
    fn objects() {
        for (stored, bare, named) in [
            (
                json!({ "apiVersion": "v1", "data": { "a": "}\"\\" }, "kind": "ConfigMap", "metadata": { "name": "a" } }),
                json!({ "data": { "a": "}\"\\" }, "metadata": { "name": "a", "resourceVersion": "7" } }),
                json!({ "apiVersion": "x/v2", "data": { "a": "}\"\\" }, "kind": "ConfigMap",
                    "metadata": { "name": "a", "resourceVersion": "7" } }),
            ),
            (
                json!({ "Aa": [1, -2.5, null], "apiVersion": "v1", "kind": "K", "labels": true, "metadata": {}, "z": 1 }),
                json!({ "Aa": [1, -2.5, null], "labels": true, "metadata": { "resourceVersion": "7" }, "z": 1 }),
                json!({ "Aa": [1, -2.5, null], "apiVersion": "x/v2", "kind": "K", "labels": true,
                    "metadata": { "resourceVersion": "7" }, "z": 1 }),
            ),
        ] {
            assert_eq!(spliced(&stored.to_string(), Type::Bare), Some(bare));
            assert_eq!(spliced(&stored.to_string(), Type::Named("x/v2")), Some(named));
        }
        for strange in [
            "",
            "{}",
            "[]",
            "{\"metadata\":{}}",
            "{ \"apiVersion\": \"v1\" }",
            "{\"apiVersion\":\"v1\"}",
            "{\"a\":\"\\",
        ] {
            assert_eq!(spliced(strange, Type::Bare), None, "{strange}");
        }
    }

    #[test]
    fn metadata_alone() {
        let mut out = Vec::new();
        let stored = json!({ "apiVersion": "v1", "kind": "K", "metadata": { "name": "a" }, "spec": {} }).to_string();
        metadata(&mut out, stored.as_bytes(), 9).expect("metadata");
        assert_eq!(out, b"{\"resourceVersion\":\"9\",\"name\":\"a\"}");
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,6}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_same_as_through_a_tree(fields in prop::collection::btree_map(".{0,6}", any_value(), 0..5), inner in any_value()) {
            let mut stored = Value::Object(fields.into_iter().collect());
            stored["apiVersion"] = "v1".into();
            stored["kind"] = "K".into();
            stored["metadata"] = json!({ "annotations": inner });
            let mut expected = stored.clone();
            expected["metadata"]["resourceVersion"] = "7".into();
            prop_assert_eq!(spliced(&stored.to_string(), Type::Named("v1")), Some(expected));
        }
    }
}
