//! Two states of one object, field by field.
//!
//! Invariants: what a server adds by itself (managed fields, versions, times, status) is no difference; elements of lists
//! are matched by what names them (`name`, `containerPort`…) where all have it, and by place otherwise.

use crate::fields::{self, Owner, Path, Step};
use crate::mask;
use crate::object;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldChange {
    /// The field, as `.spec.template.spec.containers[name=app].image`.
    pub path: String,
    /// What it is; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What it will be; absent where there will be none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
    /// Whether the values are kept from sight; then both stand as `(sensitive)`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sensitive: bool,
    /// Who owns the field now, the latest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<Owner>,
    /// Whether somebody else owns it, so that it is only changed by taking it over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub conflict: bool,
}

/// The fields that name an element of a list, in the order in which they are tried.
const NAMES: [&str; 10] =
    ["name", "containerPort", "port", "mountPath", "devicePath", "key", "topologyKey", "type", "ip", "uid"];

/// What differs between the live object and what it is to be.
pub fn changes(live: &Value, wanted: &Value) -> Vec<FieldChange> {
    let (before, after) = (object::without_server_fields(live), object::without_server_fields(wanted));
    let mut found = Vec::new();
    compare(&Path::default(), Some(&before), Some(&after), &mut found);
    found
        .into_iter()
        .filter(|(path, ..)| !is_bookkeeping(path))
        .map(|(path, before, after)| {
            let owners = fields::owners(live, &path);
            let sensitive = mask::is_sensitive(live, wanted, &path);
            let shown = |value: Option<&Value>| {
                value.map(|value| if sensitive { Value::from(mask::MASK) } else { mask::below(wanted, &path, value) })
            };
            let (mut before, mut after) = (shown(before), shown(after));
            // What differs only in what is masked differs in a secret.
            let sensitive = sensitive || before == after;
            if sensitive {
                for value in [&mut before, &mut after].into_iter().flatten() {
                    *value = mask::MASK.into();
                }
            }
            FieldChange { path: path.to_string(), before, after, sensitive, owners, conflict: false }
        })
        .collect()
}

/// What stands in objects for tools alone.
fn is_bookkeeping(path: &Path) -> bool {
    let names: Vec<&str> = path
        .0
        .iter()
        .filter_map(|step| if let Step::Field(name) = step { Some(name.as_str()) } else { None })
        .collect();
    matches!(
        names.as_slice(),
        ["metadata", "labels", crate::applyset::PART_OF]
            | ["metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"]
            | ["metadata", "annotations", "deployment.kubernetes.io/revision"]
    )
}

type Difference<'a> = (Path, Option<&'a Value>, Option<&'a Value>);

fn compare<'a>(path: &Path, before: Option<&'a Value>, after: Option<&'a Value>, found: &mut Vec<Difference<'a>>) {
    match (before, after) {
        (Some(before), Some(after)) if before == after => {}
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            for name in a.keys().chain(b.keys().filter(|name| !a.contains_key(*name))) {
                compare(&path.with(Step::Field(name.clone())), a.get(name), b.get(name), found);
            }
        }
        // A map that comes or goes as a whole is shown by its fields, so that each is told with its owner.
        (None | Some(Value::Null), Some(Value::Object(b))) if !b.is_empty() && is_map(path) => {
            b.iter().for_each(|(name, value)| compare(&path.with(Step::Field(name.clone())), None, Some(value), found));
        }
        (Some(Value::Object(a)), None | Some(Value::Null)) if !a.is_empty() && is_map(path) => {
            a.iter().for_each(|(name, value)| compare(&path.with(Step::Field(name.clone())), Some(value), None, found));
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => compare_lists(path, a, b, (before, after), found),
        _ => found.push((path.clone(), before, after)),
    }
}

fn is_map(path: &Path) -> bool {
    matches!(path.0.last(), Some(Step::Field(name)) if matches!(name.as_str(), "labels" | "annotations" | "data" | "stringData" | "binaryData"))
}

fn compare_lists<'a>(
    path: &Path,
    a: &'a [Value],
    b: &'a [Value],
    whole: (Option<&'a Value>, Option<&'a Value>),
    found: &mut Vec<Difference<'a>>,
) {
    let Some(key) = NAMES.iter().find(|key| names_all(a, key) && names_all(b, key)) else {
        if a.len() == b.len() && a.iter().chain(b).all(Value::is_object) {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&path.with(Step::Index(index)), Some(a), Some(b), found);
            }
        } else {
            found.push((path.clone(), whole.0, whole.1));
        }
        return;
    };
    let of = |list: &'a [Value], name: &Value| list.iter().find(|item| &item[*key] == name);
    let step = |item: &Value, index| path.with(Step::Element((*key).to_owned(), item[*key].clone(), index));
    let start = found.len();
    for (index, item) in a.iter().enumerate() {
        compare(&step(item, index), Some(item), of(b, &item[*key]), found);
    }
    for (index, item) in b.iter().enumerate().filter(|(_, item)| of(a, &item[*key]).is_none()) {
        compare(&step(item, index), None, Some(item), found);
    }
    if found.len() == start {
        // Only the order differs.
        found.push((path.clone(), whole.0, whole.1));
    }
}

/// Whether the key names every element, each differently.
fn names_all(list: &[Value], key: &str) -> bool {
    let names: BTreeSet<String> = list.iter().filter_map(|item| item.get(key)).map(Value::to_string).collect();
    names.len() == list.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(before: Value, after: Value) -> Vec<String> {
        let text = |value: &Option<Value>| value.as_ref().map_or("-".to_owned(), Value::to_string);
        changes(&before, &after).iter().map(|c| format!("{} {} {}", c.path, text(&c.before), text(&c.after))).collect()
    }

    #[test]
    fn differences_are_told_by_field() {
        let cases = [
            (json!({"a": 1}), json!({"a": 2}), vec![".a 1 2"]),
            (json!({"a": 1, "b": {"c": 1}}), json!({"b": {"c": 1, "d": 2}}), vec![".a 1 -", ".b.d - 2"]),
            (
                json!({"spec": {"containers": [{"name": "x", "image": "1"}, {"name": "y"}]}}),
                json!({"spec": {"containers": [{"name": "x", "image": "2"}, {"name": "z"}]}}),
                vec![
                    ".spec.containers[name=x].image \"1\" \"2\"",
                    ".spec.containers[name=y] {\"name\":\"y\"} -",
                    ".spec.containers[name=z] - {\"name\":\"z\"}",
                ],
            ),
            (json!({"args": ["a", "b"]}), json!({"args": ["a"]}), vec![".args [\"a\",\"b\"] [\"a\"]"]),
            (json!({"l": [{"a": 1}]}), json!({"l": [{"a": 2}]}), vec![".l[0].a 1 2"]),
            (
                json!({"metadata": {"name": "n", "uid": "u", "resourceVersion": "1"}, "status": {"a": 1}}),
                json!({"metadata": {"name": "n", "labels": {"a.b/c": "1"}}, "status": {"a": 2}}),
                vec![".metadata.labels[\"a.b/c\"] - \"1\""],
            ),
            (
                json!({"l": [{"name": "a"}, {"name": "b"}]}),
                json!({"l": [{"name": "b"}, {"name": "a"}]}),
                vec![".l [{\"name\":\"a\"},{\"name\":\"b\"}] [{\"name\":\"b\"},{\"name\":\"a\"}]"],
            ),
        ];
        for (before, after, wanted) in cases {
            assert_eq!(told(before, after), wanted);
        }
    }

    #[test]
    fn secrets_are_not_told() {
        let secret = |value: &str| json!({"apiVersion": "v1", "kind": "Secret", "data": {"password": value}});
        assert_eq!(told(secret("YQ=="), secret("Yg==")), [".data.password \"(sensitive)\" \"(sensitive)\""]);
        let map = |key: &str, value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {key: value}});
        let hidden = "\"(sensitive)\" \"(sensitive)\"";
        assert_eq!(told(map("DB_PASSWORD", "a"), map("DB_PASSWORD", "b")), [format!(".data.DB_PASSWORD {hidden}")]);
        let bytes =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "binaryData": {"private_key": "YQ==", "logo": "Yg=="}});
        assert_eq!(
            told(json!({"apiVersion": "v1", "kind": "ConfigMap"}), bytes),
            [".binaryData.logo - \"Yg==\"", ".binaryData.private_key - \"(sensitive)\""]
        );
        let url = |password: &str| map("URL", &format!("redis://u:{password}@h"));
        assert_eq!(told(url("a"), url("b")), [format!(".data.URL {hidden}")]);
        let moved = told(url("a"), map("URL", "redis://u:b@other"));
        assert_eq!(moved, [".data.URL \"redis://u:(sensitive)@h\" \"redis://u:(sensitive)@other\""]);
    }
}
