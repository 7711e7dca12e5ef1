//! The structured operations: field set of a value, comparison, merge and removal.

use super::set::{FieldSet, Step};
use super::typed::{Form, Place};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// What differs between two values.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Comparison {
    pub(super) removed: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) added: FieldSet,
}

impl Comparison {
    pub(super) fn without(self, fields: &FieldSet) -> Comparison {
        Comparison {
            removed: self.removed.without_subtrees(fields),
            modified: self.modified.without_subtrees(fields),
            added: self.added.without_subtrees(fields),
        }
    }
}

/// A list's items by step, in order. A step that occurs twice has several items.
fn index<'a>(place: &Place, form: &Form, items: &'a [Value]) -> Vec<(Step, &'a Value)> {
    items.iter().filter_map(|item| Some((place.step(form, item).ok()?, item))).collect()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// What an applier of this value owns.
pub(super) fn field_set(value: &Value, place: &Place) -> FieldSet {
    let mut set = FieldSet::default();
    own(value, place, &mut Vec::new(), &mut set);
    set
}

fn own(value: &Value, place: &Place, path: &mut Vec<Step>, set: &mut FieldSet) {
    match (place.form(value), value) {
        (Form::Fields, Value::Object(fields)) => {
            for (name, field) in fields {
                path.push(Step::Field(name.clone()));
                own(field, &place.field(name), path, set);
                if field.is_null() || (field.is_object() && is_empty(field)) || !place.declares(name) {
                    set.insert(path);
                }
                path.pop();
            }
        }
        (form @ (Form::Keyed(_) | Form::Set), Value::Array(items)) => {
            let indexed = index(place, &form, items);
            let mut times: BTreeMap<&Step, usize> = BTreeMap::new();
            for (step, _) in &indexed {
                *times.entry(step).or_default() += 1;
            }
            for (step, item) in &indexed {
                path.push(step.clone());
                if times.get(step) == Some(&1) {
                    own(item, &place.item(), path, set);
                }
                set.insert(path);
                path.pop();
            }
        }
        _ => set.insert(path),
    }
}

/// What changed from `left` to `right`.
pub(super) fn compare(left: &Value, right: &Value, place: &Place) -> Comparison {
    let mut result = Comparison::default();
    differ(Some(left), Some(right), place, &mut Vec::new(), &mut result);
    result
}

fn differ(left: Option<&Value>, right: Option<&Value>, place: &Place, path: &mut Vec<Step>, result: &mut Comparison) {
    let Some(sample) = right.filter(|right| !right.is_null()).or(left).or(right) else { return };
    // Null is an empty list or map, so that what appears in its place is looked at part by part.
    let alike = |value: &Value| value.is_null() || std::mem::discriminant(value) == std::mem::discriminant(sample);
    let same_type = left.is_none_or(alike) && right.is_none_or(alike);
    let both_empty = left.is_none_or(is_empty) && right.is_none_or(is_empty);
    let form = if same_type && !both_empty { place.form(sample) } else { Form::Whole };
    match form {
        Form::Whole => {
            if left != right {
                mark(left, right, path, result);
            }
            return;
        }
        Form::Fields => {
            let (ours, theirs) = (left.and_then(Value::as_object), right.and_then(Value::as_object));
            let mut names: Vec<&String> = ours.into_iter().chain(theirs).flat_map(serde_json::Map::keys).collect();
            names.sort();
            names.dedup();
            for name in names {
                path.push(Step::Field(name.clone()));
                let (ours, theirs) =
                    (ours.and_then(|fields| fields.get(name)), theirs.and_then(|fields| fields.get(name)));
                differ(ours, theirs, &place.field(name), path, result);
                path.pop();
            }
        }
        Form::Keyed(_) | Form::Set => differ_lists(left, right, place, &form, path, result),
    }
    if left.is_none() || right.is_none() {
        mark(left, right, path, result);
    }
}

fn mark(left: Option<&Value>, right: Option<&Value>, path: &[Step], result: &mut Comparison) {
    match (left, right) {
        (None, _) => result.added.insert(path),
        (_, None) => result.removed.insert(path),
        _ => result.modified.insert(path),
    }
}

fn group<'a>(list: Option<&'a Value>, place: &Place, form: &Form) -> BTreeMap<Step, Vec<&'a Value>> {
    let mut groups: BTreeMap<Step, Vec<&Value>> = BTreeMap::new();
    for (step, item) in index(place, form, list.and_then(Value::as_array).map_or(&[], Vec::as_slice)) {
        groups.entry(step).or_default().push(item);
    }
    groups
}

fn differ_lists(
    left: Option<&Value>,
    right: Option<&Value>,
    place: &Place,
    form: &Form,
    path: &mut Vec<Step>,
    result: &mut Comparison,
) {
    let (ours, theirs) = (group(left, place, form), group(right, place, form));
    let mut steps: Vec<&Step> = ours.keys().chain(theirs.keys()).collect();
    steps.sort();
    steps.dedup();
    for step in steps {
        let lefts = ours.get(step).map_or(&[][..], Vec::as_slice);
        let rights = theirs.get(step).map_or(&[][..], Vec::as_slice);
        path.push(step.clone());
        // An item that occurs twice can only be owned as a whole.
        match (lefts.len(), rights.len()) {
            (0 | 1, 0 | 1) => differ(lefts.first().copied(), rights.first().copied(), &place.item(), path, result),
            (0 | 1, _) => {
                if let Some(only) = lefts.first() {
                    differ(Some(only), None, &place.item(), path, result);
                }
                result.added.insert(path);
            }
            (_, 0 | 1) => {
                if let Some(only) = rights.first() {
                    differ(None, Some(only), &place.item(), path, result);
                }
                result.removed.insert(path);
            }
            _ if lefts != rights => result.modified.insert(path),
            _ => {}
        }
        path.pop();
    }
}

/// Merges an applied value into the live one.
pub(super) fn merge(live: &Value, applied: &Value, place: &Place) -> Value {
    if std::mem::discriminant(live) != std::mem::discriminant(applied) {
        return without_nulls(applied, place);
    }
    match (place.form(applied), live, applied) {
        (Form::Fields, Value::Object(live), Value::Object(applied)) => {
            let mut merged = live.clone();
            for (name, value) in applied {
                let below = place.field(name);
                let value = match live.get(name) {
                    Some(before) => merge(before, value, &below),
                    None => without_nulls(value, &below),
                };
                if value.is_null() && !below.keeps_null() {
                    merged.remove(name);
                } else {
                    merged.insert(name.clone(), value);
                }
            }
            Value::Object(merged)
        }
        (form @ (Form::Keyed(_) | Form::Set), Value::Array(live), Value::Array(applied)) => {
            merge_lists(&index(place, &form, live), &index(place, &form, applied), place)
        }
        _ => without_nulls(applied, place),
    }
}

/// A value as it is stored: null means absent, except where the schema says it is a value of its own.
fn without_nulls(value: &Value, place: &Place) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, field)| !field.is_null() || place.field(name).keeps_null())
            .map(|(name, field)| (name.clone(), without_nulls(field, &place.field(name))))
            .collect(),
        Value::Array(items) => items.iter().map(|item| without_nulls(item, &place.item())).collect(),
        other => other.clone(),
    }
}

/// The applied order counts; what only the live list has stays where it was between what both have.
fn merge_lists(live: &[(Step, &Value)], applied: &[(Step, &Value)], place: &Place) -> Value {
    let wanted: BTreeSet<&Step> = applied.iter().map(|(step, _)| step).collect();
    let in_applied = |step: &Step| wanted.contains(step);
    let mut present: BTreeMap<&Step, Vec<&Value>> = BTreeMap::new();
    for (step, value) in live {
        present.entry(step).or_default().push(value);
    }
    let matching = |step: &Step| present.get(step).map_or(&[][..], Vec::as_slice);
    let mut shared = applied.iter().map(|(step, _)| step).filter(|step| !matching(step).is_empty()).peekable();
    let mut rest = live.iter().peekable();
    let mut merged = Vec::new();
    for (step, item) in applied {
        while let Some((next, value)) = rest.peek() {
            if !in_applied(next) {
                merged.push((*value).clone());
            } else if shared.peek() == Some(&next) {
                break;
            }
            rest.next();
        }
        merged.push(match matching(step) {
            [before] => merge(before, item, &place.item()),
            _ => without_nulls(item, &place.item()),
        });
        if shared.next_if(|next| *next == step).is_some() {
            rest.next();
        }
    }
    merged.extend(rest.filter(|(step, _)| !in_applied(step)).map(|(_, value)| (*value).clone()));
    Value::Array(merged)
}

/// The value without the members of `set`. What is left empty by that goes too.
pub(super) fn remove(value: &Value, set: &FieldSet, place: &Place) -> Option<Value> {
    removed(value, set, place, false)
}

/// The same for looking at: a field that is left empty by that stays, as null, so that it is seen that itself was not removed.
pub(super) fn remove_for_look(value: &Value, set: &FieldSet, place: &Place) -> Option<Value> {
    removed(value, set, place, true)
}

fn removed(value: &Value, set: &FieldSet, place: &Place, leaves: bool) -> Option<Value> {
    if set.is_empty() {
        return Some(value.clone());
    }
    match (place.form(value), value) {
        (Form::Fields, Value::Object(fields)) => {
            let mut left = Map::new();
            for (name, field) in fields {
                let node = set.nodes.get(&Step::Field(name.clone()));
                let kept = match node {
                    Some(node) if node.member => None,
                    Some(node) => {
                        let left = removed(field, &node.below, &place.field(name), leaves);
                        if leaves { left.or(Some(Value::Null)) } else { left }
                    }
                    None => Some(field.clone()),
                };
                if let Some(kept) = kept {
                    left.insert(name.clone(), kept);
                }
            }
            (!left.is_empty()).then_some(Value::Object(left))
        }
        (form @ (Form::Keyed(_) | Form::Set), Value::Array(items)) => {
            let left: Vec<Value> = items
                .iter()
                .filter_map(|item| match place.step(&form, item).ok().and_then(|step| set.nodes.get(&step)) {
                    Some(node) if node.member => None,
                    Some(node) => removed(item, &node.below, &place.item(), leaves),
                    None => Some(item.clone()),
                })
                .collect();
            (!left.is_empty()).then_some(Value::Array(left))
        }
        (Form::Whole, Value::Array(_) | Value::Object(_)) => None,
        _ => Some(value.clone()),
    }
}

/// The set with every field that the schema names and that has members below it.
pub(super) fn with_named_parents(set: &FieldSet, value_place: &Place) -> FieldSet {
    let mut result = set.clone();
    for (step, node) in &mut result.nodes {
        let below = match step {
            Step::Field(name) => {
                node.member |= !node.below.is_empty() && value_place.declares(name);
                value_place.field(name)
            }
            _ => value_place.item(),
        };
        node.below = with_named_parents(&node.below, &below);
    }
    result
}

/// What keeps a configuration from being applied: fields the schema doesn't know, wrong types, double items.
pub(super) fn check(value: &Value, place: &Place, path: &str, wrong: &mut Vec<String>) {
    match value {
        Value::Object(_) if place.wants_list() => wrong.push(format!("{path}: expected list, got map")),
        Value::Array(_) if place.wants_map() => wrong.push(format!("{path}: expected map, got list")),
        Value::String(_) | Value::Number(_) | Value::Bool(_) if place.wants_list() => {
            wrong.push(format!("{path}: expected list, got {value}"));
        }
        Value::String(_) | Value::Number(_) | Value::Bool(_) if place.wants_map() => {
            wrong.push(format!("{path}: expected map, got {value}"));
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                let path = format!("{path}.{name}");
                if place.allows(name) {
                    check(field, &place.field(name), &path, wrong);
                } else {
                    wrong.push(format!("{path}: field not declared in schema"));
                }
            }
        }
        Value::Array(items) => check_items(value, items, place, path, wrong),
        _ => {}
    }
}

fn check_items(list: &Value, items: &[Value], place: &Place, path: &str, wrong: &mut Vec<String>) {
    let form = place.form(list);
    let mut seen = BTreeSet::new();
    for (at, item) in items.iter().enumerate() {
        if matches!(form, Form::Whole) {
            check(item, &place.item(), &format!("{path}[{at}]"), wrong);
            continue;
        }
        match place.step(&form, item) {
            Err(why) => wrong.push(format!("{path}: element {at}: {why}")),
            Ok(step) => {
                check(item, &place.item(), &format!("{path}{step}"), wrong);
                if !seen.insert(step.clone()) {
                    wrong.push(format!("{path}: duplicate entries for key {step}"));
                }
            }
        }
    }
}
