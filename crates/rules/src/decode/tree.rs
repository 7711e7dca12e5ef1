//! A JSON value that remembers which keys were given twice.
//!
//! Invariants: works with any self-describing serde format; a duplicate costs memory only when there is one; at most
//! [`MAX_REMEMBERED`] duplicates are remembered.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::Decoded;

/// Most duplicates that are reported.
const MAX_REMEMBERED: usize = 100;

/// A step from an object or list to what is inside, in reverse order in [`Tree::duplicates`].
#[derive(Clone, Debug)]
enum Step {
    Key(String),
    Index(usize),
}

/// A value with the paths of its duplicate keys, innermost step first.
#[derive(Debug)]
pub(super) struct Tree {
    value: Value,
    duplicates: Vec<Vec<Step>>,
}

impl Tree {
    pub(super) fn finish(self) -> Decoded {
        Decoded {
            value: self.value,
            duplicates: self.duplicates.iter().map(|steps| format!("duplicate field \"{}\"", path(steps))).collect(),
        }
    }

    fn leaf(value: impl Into<Value>) -> Self {
        Self { value: value.into(), duplicates: Vec::new() }
    }
}

fn path(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps.iter().rev() {
        match step {
            Step::Key(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(key);
            }
            Step::Index(at) => text.push_str(&format!("[{at}]")),
        }
    }
    text
}

/// Takes over what a child found, one step deeper.
fn adopt(into: &mut Vec<Vec<Step>>, child: Vec<Vec<Step>>, step: &dyn Fn() -> Step) {
    for mut steps in child {
        if into.len() < MAX_REMEMBERED {
            steps.push(step());
            into.push(steps);
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<Tree, E> {
        Ok(Tree::leaf(v))
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<Tree, E> {
        Ok(Tree::leaf(v))
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<Tree, E> {
        Ok(Tree::leaf(v))
    }

    fn visit_i128<E: Error>(self, v: i128) -> Result<Tree, E> {
        Err(E::custom(format!("the number {v} does not fit 64 bits")))
    }

    fn visit_u128<E: Error>(self, v: u128) -> Result<Tree, E> {
        Err(E::custom(format!("the number {v} does not fit 64 bits")))
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<Tree, E> {
        // A whole float is the same number as the integer (upstream writes 1.0 back as 1).
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if v.fract() == 0.0 && v.abs() < EXACT {
            #[allow(clippy::cast_possible_truncation)]
            return Ok(Tree::leaf(v as i64));
        }
        Number::from_f64(v)
            .map(|n| Tree::leaf(Value::Number(n)))
            .ok_or_else(|| E::custom("infinity and NaN are not JSON numbers"))
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<Tree, E> {
        Ok(Tree::leaf(v))
    }

    fn visit_string<E: Error>(self, v: String) -> Result<Tree, E> {
        Ok(Tree::leaf(v))
    }

    fn visit_unit<E: Error>(self) -> Result<Tree, E> {
        Ok(Tree::leaf(Value::Null))
    }

    fn visit_none<E: Error>(self) -> Result<Tree, E> {
        Ok(Tree::leaf(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        let mut duplicates = Vec::new();
        while let Some(item) = access.next_element::<Tree>()? {
            let at = list.len();
            adopt(&mut duplicates, item.duplicates, &|| Step::Index(at));
            list.push(item.value);
        }
        Ok(Tree { value: Value::Array(list), duplicates })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut map = Map::new();
        let mut duplicates = Vec::new();
        while let Some(Key(key)) = access.next_key::<Key>()? {
            let value = access.next_value::<Tree>()?;
            adopt(&mut duplicates, value.duplicates, &|| Step::Key(key.clone()));
            if map.contains_key(&key) && duplicates.len() < MAX_REMEMBERED {
                duplicates.push(vec![Step::Key(key.clone())]);
            }
            map.insert(key, value.value);
        }
        Ok(Tree { value: Value::Object(map), duplicates })
    }
}

/// A key, as it is spelled: YAML allows scalars that are not strings (`8080:`, `on:`), JSON does not.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyVisitor)
    }
}

struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<Key, E> {
        Ok(Key(v.to_owned()))
    }

    fn visit_string<E: Error>(self, v: String) -> Result<Key, E> {
        Ok(Key(v))
    }
}
