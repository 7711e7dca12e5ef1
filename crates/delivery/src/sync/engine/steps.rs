//! In which steps a sync goes: hooks before, objects wave by wave, hooks after; and what becomes of hooks.
//!
//! Pure. The words are Argo CD's: phases PreSync, Sync, PostSync, SyncFail, and PreDelete and PostDelete around an application's end; `argocd.argoproj.io/hook`, `…/hook-delete-policy`,
//! `…/sync-wave`. What is deleted goes in reverse waves.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::object::{self, ObjectId};
use crate::order;

/// The annotation that makes an object a hook.
pub const HOOK: &str = "argocd.argoproj.io/hook";
/// The annotation that says when a hook is deleted.
pub const HOOK_DELETE: &str = "argocd.argoproj.io/hook-delete-policy";

/// A part of a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Before anything is changed.
    PreSync,
    /// The objects themselves.
    Sync,
    /// After everything is healthy.
    PostSync,
    /// Instead of what is left, once something failed.
    SyncFail,
    /// Before the objects of a deleted application go.
    PreDelete,
    /// After they have gone.
    PostDelete,
}

impl Phase {
    /// The word as Argo CD writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PreSync => "PreSync",
            Self::Sync => "Sync",
            Self::PostSync => "PostSync",
            Self::SyncFail => "SyncFail",
            Self::PreDelete => "PreDelete",
            Self::PostDelete => "PostDelete",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let all = [Self::PreSync, Self::Sync, Self::PostSync, Self::SyncFail, Self::PreDelete, Self::PostDelete];
        all.into_iter().find(|phase| phase.as_str() == text)
    }
}

/// When a hook is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeleteWhen {
    /// Before one of the same name is made.
    pub before: bool,
    /// Once it succeeded.
    pub succeeded: bool,
    /// Once it failed.
    pub failed: bool,
}

/// What an object is to a sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// One of the objects that are kept in sync.
    Member,
    /// Made anew in these phases by each sync.
    Hook(Vec<Phase>),
    /// Left alone.
    Skipped,
}

/// What an object is to a sync.
///
/// # Errors
///
/// A sentence, where the annotation says something that is not supported.
pub fn part(object: &Value) -> Result<Part, String> {
    let Some(text) = object::annotation(object, HOOK) else { return Ok(Part::Member) };
    let mut phases = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match Phase::parse(word) {
            Some(phase) => phases.push(phase),
            None if word == "Skip" => return Ok(Part::Skipped),
            None => {
                let id = ObjectId::of(object);
                return Err(format!(
                    "{id}: {HOOK}: {word:?} is none of PreSync, Sync, PostSync, SyncFail, PreDelete, PostDelete, Skip"
                ));
            }
        }
    }
    Ok(if phases.is_empty() { Part::Member } else { Part::Hook(phases) })
}

/// When a hook is deleted; before the next of its name where nothing is said.
#[must_use]
pub fn delete_when(object: &Value) -> DeleteWhen {
    let text = object::annotation(object, HOOK_DELETE).unwrap_or_default();
    let says = |word: &str| text.split(',').any(|part| part.trim() == word);
    let (succeeded, failed) = (says("HookSucceeded"), says("HookFailed"));
    DeleteWhen { before: says("BeforeHookCreation") || !(succeeded || failed), succeeded, failed }
}

/// Everything that happens at once: the next step begins when all of this is healthy.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The phase.
    pub phase: Phase,
    /// The wave inside it.
    pub wave: i64,
    /// What is applied, in order.
    pub members: Vec<Value>,
    /// What is made.
    pub hooks: Vec<Value>,
}

/// The steps of a sync, in order, and those of the phase SyncFail apart.
///
/// # Errors
///
/// Everything that is not supported, a sentence each.
pub fn arrange(objects: &[Value]) -> Result<(Vec<Step>, Vec<Step>), Vec<String>> {
    let mut steps: BTreeMap<(Phase, i64), Step> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut sorted: Vec<&Value> = objects.iter().collect();
    sorted.sort_by_cached_key(|object| order::place(object));
    for object in sorted {
        let wave = order::wave(object);
        match part(object) {
            Ok(Part::Member) => step(&mut steps, Phase::Sync, wave).members.push(object.clone()),
            Ok(Part::Hook(phases)) => {
                for phase in phases {
                    step(&mut steps, phase, wave).hooks.push(object.clone());
                }
            }
            Ok(Part::Skipped) => {}
            Err(reason) => wrong.push(reason),
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    steps.retain(|(phase, _), _| *phase <= Phase::SyncFail);
    Ok(steps.into_values().partition(|step| step.phase != Phase::SyncFail))
}

/// The steps of one phase, for what happens outside of syncs: the hooks alone, wave by wave.
#[must_use]
pub fn of_phase(objects: &[Value], phase: Phase) -> Vec<Step> {
    let mut steps: BTreeMap<(Phase, i64), Step> = BTreeMap::new();
    let mut sorted: Vec<&Value> = objects.iter().collect();
    sorted.sort_by_cached_key(|object| order::place(object));
    for object in sorted {
        if matches!(part(object), Ok(Part::Hook(phases)) if phases.contains(&phase)) {
            step(&mut steps, phase, order::wave(object)).hooks.push(object.clone());
        }
    }
    steps.into_values().collect()
}

fn step(steps: &mut BTreeMap<(Phase, i64), Step>, phase: Phase, wave: i64) -> &mut Step {
    let empty = || Step { phase, wave, members: Vec::new(), hooks: Vec::new() };
    steps.entry((phase, wave)).or_insert_with(empty)
}

/// What is to be deleted, latest wave and last kind first.
#[must_use]
pub fn pruning_order(mut objects: Vec<Value>) -> Vec<Value> {
    order::sort(&mut objects);
    objects.reverse();
    objects
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(name: &str, annotations: Value) -> Value {
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "annotations": annotations } })
    }

    fn shown(steps: &[Step]) -> Vec<String> {
        let names = |objects: &[Value]| objects.iter().map(object::name).collect::<Vec<_>>().join(",");
        steps
            .iter()
            .map(|s| format!("{} {} {}|{}", s.phase.as_str(), s.wave, names(&s.members), names(&s.hooks)))
            .collect()
    }

    #[test]
    fn phases_come_first_then_waves() {
        let objects = [
            object("late", json!({ order::WAVE: "3" })),
            object("plain", json!({})),
            object("before", json!({ HOOK: "PreSync", order::WAVE: "9" })),
            object("both", json!({ HOOK: "PreSync,PostSync" })),
            object("amid", json!({ HOOK: "Sync", order::WAVE: "3" })),
            object("mourn", json!({ HOOK: "SyncFail" })),
            object("gone", json!({ HOOK: "Skip" })),
        ];
        let (steps, failing) = arrange(&objects).expect("all is known");
        let wanted = ["PreSync 0 |both", "PreSync 9 |before", "Sync 0 plain|", "Sync 3 late|amid", "PostSync 0 |both"];
        assert_eq!(shown(&steps), wanted);
        assert_eq!(shown(&failing), ["SyncFail 0 |mourn"]);
        let error = arrange(&[object("x", json!({ HOOK: "PreLunch" }))]).expect_err("unknown");
        assert!(error[0].contains("PreLunch"), "{error:?}");
        // What belongs to the end has no part in a sync.
        let ends = [
            object("first", json!({ HOOK: "PreDelete", order::WAVE: "-1" })),
            object("bye", json!({ HOOK: "PreDelete,PostDelete" })),
        ];
        let (steps, failing) = arrange(&ends).expect("all is known");
        assert!(steps.is_empty() && failing.is_empty());
        assert_eq!(shown(&of_phase(&ends, Phase::PreDelete)), ["PreDelete -1 |first", "PreDelete 0 |bye"]);
        assert_eq!(shown(&of_phase(&ends, Phase::PostDelete)), ["PostDelete 0 |bye"]);
    }

    #[test]
    fn hooks_go_when_they_say() {
        let when = |text: Option<&str>| {
            let when = delete_when(&object("x", text.map_or(json!({}), |text| json!({ HOOK_DELETE: text }))));
            (when.before, when.succeeded, when.failed)
        };
        assert_eq!(when(None), (true, false, false));
        assert_eq!(when(Some("HookSucceeded")), (false, true, false));
        assert_eq!(when(Some("BeforeHookCreation, HookFailed")), (true, false, true));
    }

    #[test]
    fn pruning_goes_backwards() {
        let objects = vec![
            object("a", json!({})),
            object("late", json!({ order::WAVE: "5" })),
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "n" } }),
        ];
        let names: Vec<String> = pruning_order(objects).iter().map(|one| object::name(one).to_owned()).collect();
        assert_eq!(names, ["late", "a", "n"]);
    }
}
