//! The decision: from what was read to what happens, in order. Synchronous, but for one question about what is inside.

use super::gather::{Answer, Asked, World};
use super::{Action, Change, FORMAT, Options, Pin, Plan, Problem};
use crate::api::{Api, ApiError};
use crate::applyset::{PART_OF, Set};
use crate::diff::{self, FieldChange};
use crate::kinds::Kinds;
use crate::moves;
use crate::object::{self, ObjectId};
use crate::ownership::Owner;
use crate::{fields, order, protect};
use serde_json::Value;
use std::collections::BTreeMap;

/// Decides what happens.
pub(super) fn decide(world: World, set: &Set, options: &Options) -> Plan {
    let mut plan = Plan {
        format: FORMAT.to_owned(),
        set: set.clone(),
        manager: options.manager.clone(),
        source: options.source.clone(),
        changes: Vec::new(),
        unchanged: world.unchanged,
        problems: Vec::new(),
        contents: world.contents,
        desired: Vec::new(),
        confirmed: options.confirmed.iter().map(|c| (c.object.clone(), c.reason.clone())).collect(),
    };
    for object in world.unknown {
        let message =
            format!("the API has no kind {}; apply its CustomResourceDefinition first, or with it", object.kind);
        plan.problems.push(Problem { object, message });
    }
    for asked in world.asked {
        match one(&world.desired[asked.index], asked, set, options, &world.owners) {
            Ok(Some(change)) => plan.changes.push(change),
            Ok(None) => plan.unchanged += 1,
            Err(problem) => plan.problems.push(problem),
        }
    }
    let mut deletions = Vec::new();
    if options.prune {
        for live in world.going {
            let holding = world.holding.get(&ObjectId::of(&live)).cloned();
            deletions.push((deletion(&live, holding, options), live));
        }
    }
    pair_moves(&mut plan, &mut deletions, options);
    // What was applied last goes first.
    deletions.sort_by_cached_key(|(_, live)| std::cmp::Reverse(order::place(live)));
    plan.changes.extend(deletions.into_iter().map(|(change, _)| change));
    plan.desired = world.desired;
    plan
}

/// What becomes of one manifest; nothing where nothing does.
fn one(
    desired: &Value,
    asked: Asked,
    set: &Set,
    options: &Options,
    owners: &BTreeMap<String, Owner>,
) -> Result<Option<Change>, Problem> {
    let id = ObjectId::of(desired);
    let problem = |message: String| Problem { object: id.clone(), message };
    let live = asked.live;
    if let Some(live) = &live {
        if !live["metadata"]["deletionTimestamp"].is_null() {
            return Err(problem(going_away(live)));
        }
        let other = object::label(live, PART_OF).filter(|other| *other != set.id());
        match other.map(|other| (other, owners.get(other))) {
            // Whoever takes it would have it taken back.
            Some((_, Some(Owner::Sync(owner)))) => return Err(problem(owner.advice())),
            Some((_, Some(Owner::Set(set)))) if !options.take_over => {
                let (namespace, name) = (&set.namespace, &set.name);
                let what = format!("it belongs to the set {name} in {namespace}; take it from there with --take-over");
                return Err(problem(what));
            }
            Some((other, None)) if !options.take_over => {
                let what = format!("it belongs to another set ({other}); take it from there with --take-over");
                return Err(problem(what));
            }
            _ => {}
        }
    }
    let mut change = Change {
        action: Action::Create,
        api_version: object::api_version(desired).to_owned(),
        wave: order::wave(desired),
        fields: Vec::new(),
        moved_from: None,
        protected: None,
        note: None,
        desired: Some(desired.clone()),
        pin: live.as_ref().map(pin),
        from_pin: None,
        object: id.clone(),
    };
    match (asked.answer, live) {
        (Answer::Refused(why), _) => return Err(problem(why)),
        (Answer::TooEarly(why), _) => change.note = Some(format!("not asked of the API yet: {why}")),
        (Answer::Immutable(why), None) => return Err(problem(why)),
        (Answer::Immutable(why), Some(live)) => {
            if let Some(holds) = protect::reason(&live) {
                return Err(problem(format!(
                    "it would have to be replaced, and {holds}: {why}. Give it another name; the old one is kept"
                )));
            }
            change.action = Action::Replace;
            change.fields = local_changes(&live, desired);
            change.note = Some(why);
        }
        (Answer::Accepted { .. }, None) => {}
        (Answer::Accepted { result, conflicts }, Some(live)) => {
            change.fields = diff::changes(&live, &result);
            mark_conflicts(&mut change.fields, &conflicts);
            let member = object::label(&live, PART_OF) == Some(set.id().as_str());
            change.action = if member { Action::Change } else { Action::Adopt };
            if member && change.fields.is_empty() {
                return Ok(None);
            }
        }
    }
    Ok(Some(change))
}

fn going_away(live: &Value) -> String {
    let finalizers = live["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let finalizers: Vec<&str> = finalizers.collect();
    let wait = if finalizers.is_empty() {
        String::new()
    } else {
        format!(" and waits for its finalizers {}", finalizers.join(", "))
    };
    format!(
        "it is being deleted since {}{wait}; plan again once it is gone",
        live["metadata"]["deletionTimestamp"].as_str().unwrap_or_default()
    )
}

pub(super) fn pin(live: &Value) -> Pin {
    Pin {
        uid: object::uid(live).to_owned(),
        resource_version: object::resource_version(live).to_owned(),
        state: object::without_server_fields(live),
    }
}

/// What a manifest says otherwise than the live object, where the server was not to be asked.
fn local_changes(live: &Value, desired: &Value) -> Vec<FieldChange> {
    let changes = diff::changes(live, desired);
    // What only the live object has are defaults.
    changes.into_iter().filter(|change| change.after.is_some()).collect()
}

fn mark_conflicts(changes: &mut [FieldChange], conflicts: &[String]) {
    let plain = |text: &str| text.replace('"', "");
    let conflicts: Vec<String> = conflicts.iter().map(|field| plain(field)).collect();
    for change in changes {
        let path = plain(&change.path);
        let named = conflicts.iter().any(|field| path.starts_with(field.as_str()) || field.starts_with(&path));
        change.conflict = named;
    }
}

fn deletion(live: &Value, holding: Option<String>, options: &Options) -> Change {
    let id = ObjectId::of(live);
    let protected = protect::reason(live).or(holding);
    let confirmed = options.confirmed.iter().any(|confirmation| confirmation.is_for(&id));
    let action = if protected.is_some() && !confirmed { Action::Keep } else { Action::Delete };
    Change {
        action,
        api_version: object::api_version(live).to_owned(),
        wave: order::wave(live),
        fields: Vec::new(),
        moved_from: None,
        note: None,
        protected,
        desired: None,
        pin: Some(pin(live)),
        from_pin: None,
        object: id,
    }
}

/// Turns deletions and creations that are one object under another name into moves.
fn pair_moves(plan: &mut Plan, deletions: &mut Vec<(Change, Value)>, options: &Options) {
    let creations: Vec<usize> =
        plan.changes.iter().enumerate().filter(|(_, c)| c.action == Action::Create).map(|(index, _)| index).collect();
    let coming: Vec<Value> = creations.iter().filter_map(|index| plan.changes[*index].desired.clone()).collect();
    let going: Vec<Value> = deletions.iter().map(|(_, live)| fields::applied_by(live, &options.manager)).collect();
    let mut gone = Vec::new();
    for found in moves::find(&going, &coming) {
        let change = &mut plan.changes[creations[found.to]];
        let (old, live) = &deletions[found.from];
        change.action = Action::Move;
        change.moved_from = Some(old.object.clone());
        change.from_pin.clone_from(&old.pin);
        change.protected.clone_from(&old.protected);
        change.fields = renamed(live, change.desired.as_ref());
        gone.push(found.from);
    }
    let mut index = 0;
    deletions.retain(|_| {
        index += 1;
        !gone.contains(&(index - 1))
    });
}

/// What a move changes beside the name.
fn renamed(live: &Value, desired: Option<&Value>) -> Vec<FieldChange> {
    let Some(desired) = desired else { return Vec::new() };
    let name = |change: &FieldChange| matches!(change.path.as_str(), ".metadata.name" | ".metadata.namespace");
    local_changes(live, desired).into_iter().filter(|change| !name(change)).collect()
}

/// Why a definition or a namespace that is to be deleted holds data: it has objects, or protected ones.
pub(super) async fn holds_data(api: &Api, kinds: &Kinds, object: &Value) -> Result<Option<String>, ApiError> {
    match (object::group(object), object::kind(object)) {
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let spec = &object["spec"];
            let Some(resource) = kinds.of_group(&text(&spec["group"]), &text(&spec["names"]["kind"])) else {
                return Ok(None);
            };
            let page = api.page(&resource.path(None, None), "", 1, None).await?;
            let first = page.items.first().map(object::name);
            Ok(first.map(|name| format!("there are objects of its kind, such as {name}")))
        }
        ("", "Namespace") => {
            for (group, kind) in [("", "PersistentVolumeClaim"), ("apps", "StatefulSet")] {
                let Some(resource) = kinds.of_group(group, kind) else { continue };
                let inside = api.list(&resource.path(Some(object::name(object)), None), "").await?;
                if let Some(held) = inside.iter().find(|inside| protect::reason(inside).is_some()) {
                    return Ok(Some(format!("it contains {}, which holds data", ObjectId::of(held))));
                }
            }
            Ok(None)
        }
        _ => Ok(None),
    }
}
