//! A deletion and a creation that are one object under another name.
//!
//! Invariants: only objects of one kind are matched; each at most once; a match by likeness needs most of what both say
//! to be the same, and no second candidate as like. What says where it came from ([`MOVED_FROM`]) is believed.
//!
//! [`MOVED_FROM`]: resources::names::MOVED_FROM

use crate::object::{self, ObjectId};
use resources::names::MOVED_FROM;
use serde_json::Value;
use std::collections::BTreeSet;

/// The share of what two objects say that must be the same, in percent.
const ALIKE: usize = 80;

/// A match: indexes into what goes and what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// Which of the deletions.
    pub from: usize,
    /// Which of the creations.
    pub to: usize,
}

/// Matches what goes with what comes. `going` are the objects as their manifests last said, `coming` as they say now.
pub fn find(going: &[Value], coming: &[Value]) -> Vec<Match> {
    let mut found: Vec<Match> = Vec::new();
    for (to, new) in coming.iter().enumerate() {
        if let Some(from) = explicit(going, new) {
            found.push(Match { from, to });
        }
    }
    let mut candidates = Vec::new();
    for (from, old) in going.iter().enumerate().filter(|(from, _)| !found.iter().any(|m| m.from == *from)) {
        for (to, new) in coming.iter().enumerate().filter(|(to, _)| !found.iter().any(|m| m.to == *to)) {
            if same_kind(old, new)
                && let Some(score) = likeness(old, new).filter(|score| *score >= ALIKE)
            {
                candidates.push((score, from, to));
            }
        }
    }
    candidates.sort_by(|a, b| b.cmp(a));
    while let Some(&(score, from, to)) = candidates.first() {
        let rival = |&(s, f, t): &(usize, usize, usize)| s == score && ((f == from) != (t == to));
        // Two that are as like: which is which is not known, and guessing is worse than saying nothing.
        if !candidates.iter().any(rival) {
            found.push(Match { from, to });
        }
        candidates.retain(|&(_, f, t)| f != from && t != to);
    }
    found.sort_by_key(|m| m.to);
    found
}

/// `coracle.dev/moved-from: NAME`, or `NAMESPACE/NAME`.
fn explicit(going: &[Value], new: &Value) -> Option<usize> {
    let text = object::annotation(new, MOVED_FROM)?;
    let (namespace, name) = text.split_once('/').unwrap_or((object::namespace(new), text));
    going.iter().position(|old| same_kind(old, new) && object::name(old) == name && object::namespace(old) == namespace)
}

fn same_kind(a: &Value, b: &Value) -> bool {
    let (a, b) = (ObjectId::of(a), ObjectId::of(b));
    a.group == b.group && a.kind == b.kind
}

/// How much of what two objects say is the same, in percent; nothing where there is too little to judge by.
fn likeness(old: &Value, new: &Value) -> Option<usize> {
    let (a, b) = (said(old), said(new));
    let all = a.union(&b).count();
    if a.is_empty() || b.is_empty() { None } else { Some(a.intersection(&b).count() * 100 / all) }
}

/// Everything that an object says beside its own name, which stands in the values as a placeholder.
fn said(object: &Value) -> BTreeSet<String> {
    let mut leaves = BTreeSet::new();
    let name = object::name(object);
    for (field, value) in object.as_object().into_iter().flatten() {
        if !matches!(field.as_str(), "apiVersion" | "kind" | "metadata" | "status") {
            collect(field, value, name, &mut leaves);
        }
    }
    // Labels and annotations support a likeness that the content shows; alone they show none.
    if !leaves.is_empty() {
        for (label, value) in object["metadata"]["labels"].as_object().into_iter().flatten() {
            if label != crate::applyset::PART_OF {
                collect(&format!("labels.{label}"), value, name, &mut leaves);
            }
        }
    }
    leaves
}

fn collect(path: &str, value: &Value, name: &str, leaves: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            map.iter().for_each(|(key, value)| collect(&format!("{path}.{key}"), value, name, leaves));
        }
        Value::Array(list) if !list.is_empty() => {
            list.iter()
                .enumerate()
                .for_each(|(index, value)| collect(&format!("{path}[{index}]"), value, name, leaves));
        }
        Value::String(text) => drop(leaves.insert(format!("{path}={}", without_name(text, name)))),
        other => drop(leaves.insert(format!("{path}={other}"))),
    }
}

/// The text with the name, where it stands as a word, as a placeholder.
fn without_name(text: &str, name: &str) -> String {
    let word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let (mut plain, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(name).filter(|_| !name.is_empty()) {
        let (before, after) = (&rest[..at], &rest[at + name.len()..]);
        let inside = word(before.chars().next_back()) || word(after.chars().next());
        plain.push_str(before);
        plain.push_str(if inside { name } else { "\u{0}" });
        rest = after;
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claim(name: &str, size: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "x", "volumeMode": "Filesystem",
                "selector": {"matchLabels": {"x": "y"}}, "resources": {"requests": {"storage": size}}}})
    }

    fn matched(going: &[Value], coming: &[Value]) -> Vec<(usize, usize)> {
        find(going, coming).into_iter().map(|m| (m.from, m.to)).collect()
    }

    #[test]
    fn one_object_under_another_name_is_recognised() {
        let config = |name: &str, text: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": text}});
        let account = |name: &str| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        let from = |mut object: Value, name: &str| {
            object["metadata"]["annotations"] = json!({MOVED_FROM: name});
            object
        };
        let cases = [
            ("all else equal", vec![claim("a", "1Gi")], vec![claim("b", "1Gi")], vec![(0, 0)]),
            ("one of five differs", vec![claim("a", "1Gi")], vec![claim("b", "2Gi")], vec![]),
            ("another kind", vec![claim("a", "1Gi")], vec![config("a", "x")], vec![]),
            ("nothing to judge by", vec![account("a")], vec![account("b")], vec![]),
            ("said so", vec![account("a")], vec![from(account("b"), "a")], vec![(0, 0)]),
            ("said of nobody", vec![account("a")], vec![from(account("b"), "c")], vec![]),
            ("two as like", vec![config("a", "x")], vec![config("b", "x"), config("c", "x")], vec![]),
            (
                "each its own",
                vec![config("a", "x"), config("b", "y")],
                vec![config("d", "y"), config("c", "x")],
                vec![(1, 0), (0, 1)],
            ),
            (
                "the name in its values",
                vec![config("old", "host old.svc")],
                vec![config("new", "host new.svc")],
                vec![(0, 0)],
            ),
        ];
        for (what, going, coming, wanted) in cases {
            assert_eq!(matched(&going, &coming), wanted, "{what}");
        }
    }
}
