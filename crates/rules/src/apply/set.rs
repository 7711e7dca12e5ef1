//! Sets of field paths and their `FieldsV1` form (`f:`, `k:`, `v:`, `i:`).
//!
//! A set is a tree: a node is in the set when `member` is true, and has children when something below it is.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// One step of a path. The order is the one paths are listed in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// A field of an object.
    Field(String),
    /// An item of a keyed list: its keys as canonical JSON.
    Key(String),
    /// An item of a set: its value as canonical JSON.
    Value(String),
    /// An item by position (never made here, but read).
    Index(u64),
}

impl Step {
    fn parse(text: &str) -> Option<Step> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Step::Field(rest.to_owned())),
            // Read and written again, so that order and spacing are ours whoever wrote it.
            "k" => {
                let keys: Map<String, Value> = serde_json::from_str(rest).ok()?;
                Some(Step::Key(Value::Object(keys).to_string()))
            }
            "v" => Some(Step::Value(serde_json::from_str::<Value>(rest).ok()?.to_string())),
            "i" => rest.parse().ok().map(Step::Index),
            _ => None,
        }
    }

    fn serialized(&self) -> String {
        match self {
            Step::Field(name) => format!("f:{name}"),
            Step::Key(keys) => format!("k:{keys}"),
            Step::Value(value) => format!("v:{value}"),
            Step::Index(index) => format!("i:{index}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Field(name) => write!(f, ".{name}"),
            Step::Key(keys) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let parts: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(f, "[{}]", parts.join(","))
            }
            Step::Value(value) => write!(f, "[={value}]"),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) member: bool,
    pub(crate) below: FieldSet,
}

/// A set of field paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    pub(crate) nodes: BTreeMap<Step, Node>,
}

impl FieldSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(crate) fn insert(&mut self, path: &[Step]) {
        let Some((last, before)) = path.split_last() else { return };
        let mut set = self;
        for step in before {
            set = &mut set.nodes.entry(step.clone()).or_default().below;
        }
        set.nodes.entry(last.clone()).or_default().member = true;
    }

    /// The set of these dotted paths of plain fields.
    pub(crate) fn of_fields(paths: &[&str]) -> FieldSet {
        let mut set = FieldSet::default();
        for path in paths {
            let steps: Vec<Step> = path.split('.').map(|name| Step::Field(name.to_owned())).collect();
            set.insert(&steps);
        }
        set
    }

    fn keep(mut self) -> FieldSet {
        self.nodes.retain(|_, node| node.member || !node.below.is_empty());
        self
    }

    pub(crate) fn union(&self, other: &FieldSet) -> FieldSet {
        let mut result = self.clone();
        for (step, theirs) in &other.nodes {
            let node = result.nodes.entry(step.clone()).or_default();
            node.member |= theirs.member;
            node.below = node.below.union(&theirs.below);
        }
        result
    }

    pub(crate) fn intersection(&self, other: &FieldSet) -> FieldSet {
        let nodes = self.nodes.iter().filter_map(|(step, ours)| {
            let theirs = other.nodes.get(step)?;
            let node = Node { member: ours.member && theirs.member, below: ours.below.intersection(&theirs.below) };
            Some((step.clone(), node))
        });
        FieldSet { nodes: nodes.collect() }.keep()
    }

    /// What is in this set and not in the other, path by path.
    pub(crate) fn difference(&self, other: &FieldSet) -> FieldSet {
        let nodes = self.nodes.iter().map(|(step, ours)| {
            let node = match other.nodes.get(step) {
                Some(theirs) => {
                    Node { member: ours.member && !theirs.member, below: ours.below.difference(&theirs.below) }
                }
                None => ours.clone(),
            };
            (step.clone(), node)
        });
        FieldSet { nodes: nodes.collect() }.keep()
    }

    /// What is in this set and neither in the other nor below a member of the other.
    pub(crate) fn without_subtrees(&self, other: &FieldSet) -> FieldSet {
        let nodes = self.nodes.iter().filter_map(|(step, ours)| match other.nodes.get(step) {
            Some(theirs) if theirs.member => None,
            Some(theirs) => {
                Some((step.clone(), Node { member: ours.member, below: ours.below.without_subtrees(&theirs.below) }))
            }
            None => Some((step.clone(), ours.clone())),
        });
        FieldSet { nodes: nodes.collect() }.keep()
    }

    /// Every path as text, those that end here before those that go deeper.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut all = Vec::new();
        self.collect("", &mut all);
        all
    }

    fn collect(&self, prefix: &str, all: &mut Vec<String>) {
        all.extend(self.nodes.iter().filter(|(_, node)| node.member).map(|(step, _)| format!("{prefix}{step}")));
        for (step, node) in &self.nodes {
            node.below.collect(&format!("{prefix}{step}"), all);
        }
    }

    pub(crate) fn from_fields_v1(fields: &Value) -> FieldSet {
        let mut set = FieldSet::default();
        for (key, below) in fields.as_object().into_iter().flatten() {
            // What a later version of the format may add is left out, as upstream does.
            let Some(step) = Step::parse(key) else { continue };
            let members = below.as_object();
            let node = Node {
                member: members.is_none_or(|members| members.is_empty() || members.contains_key(".")),
                below: FieldSet::from_fields_v1(below),
            };
            set.nodes.insert(step, node);
        }
        set
    }

    pub(crate) fn to_fields_v1(&self) -> Value {
        let mut fields = Map::new();
        for (step, node) in &self.nodes {
            let mut below = node.below.to_fields_v1();
            if node.member && !node.below.is_empty() {
                below["."] = Value::Object(Map::new());
            }
            fields.insert(step.serialized(), below);
        }
        Value::Object(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(fields: Value) -> FieldSet {
        FieldSet::from_fields_v1(&fields)
    }

    #[test]
    fn forms() {
        let fields = json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}},
                "f:set": {"v:\"a\"": {}, "v:1": {}},
                "f:list": {"i:0": {}}
            }
        });
        let set = set(fields.clone());
        assert_eq!(set.to_fields_v1(), fields);
        assert_eq!(
            set.paths(),
            [
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.list[0]",
                ".spec.ports[containerPort=80,protocol=\"TCP\"]",
                ".spec.ports[containerPort=80,protocol=\"TCP\"].name",
                ".spec.set[=\"a\"]",
                ".spec.set[=1]",
            ]
        );
        assert_eq!(
            self::set(json!({"k:{\"b\": 1, \"a\": 2}": {}, "z:unknown": {}})).to_fields_v1(),
            json!({"k:{\"a\":2,\"b\":1}": {}})
        );
    }

    #[test]
    fn algebra() {
        let a = set(json!({"f:x": {".": {}, "f:y": {}, "f:z": {}}, "f:w": {}}));
        let b = set(json!({"f:x": {"f:y": {}, "f:q": {}}}));
        assert_eq!(a.union(&b), set(json!({"f:x": {".": {}, "f:y": {}, "f:z": {}, "f:q": {}}, "f:w": {}})));
        assert_eq!(a.intersection(&b), set(json!({"f:x": {"f:y": {}}})));
        assert_eq!(a.difference(&b), set(json!({"f:x": {".": {}, "f:z": {}}, "f:w": {}})));
        assert_eq!(b.difference(&a), set(json!({"f:x": {"f:q": {}}})));
        assert_eq!(a.difference(&a), FieldSet::default());
        assert_eq!(a.without_subtrees(&FieldSet::of_fields(&["x"])), set(json!({"f:w": {}})));
        assert_eq!(
            a.without_subtrees(&FieldSet::of_fields(&["x.y"])),
            set(json!({"f:x": {".": {}, "f:z": {}}, "f:w": {}}))
        );
    }
}
