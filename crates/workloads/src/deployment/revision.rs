//! Revisions of a Deployment: which ReplicaSet is the new one, what its name and annotations are, which old ones may go.
//!
//! Invariants: two templates that say the same have the same hash, whatever is written empty or left out; a revision
//! number only grows; a ReplicaSet that has or wants Pods is never cleaned up.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

pub(crate) const HASH_LABEL: &str = "pod-template-hash";
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(crate) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(crate) const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
const HISTORY_CHARACTERS: usize = 2000;

/// Annotations of a Deployment that its ReplicaSets don't get.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAXIMUM,
];

fn without_empties(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(map) => {
            let map: serde_json::Map<String, Value> =
                map.into_iter().filter_map(|(name, value)| Some((name, without_empties(value)?))).collect();
            (!map.is_empty()).then_some(Value::Object(map))
        }
        Value::Array(items) if items.is_empty() => None,
        Value::Array(items) => {
            // Positions matter, so nothing is dropped from a list itself.
            Some(Value::Array(items.into_iter().map(|item| without_empties(item).unwrap_or(Value::Null)).collect()))
        }
        value => Some(value),
    }
}

/// What a template says, apart from the label that names its revision.
fn canonical(template: &PodTemplateSpec) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    if let Some(meta) = &mut template.metadata {
        meta.creation_timestamp = None;
    }
    serde_json::to_value(template).ok().and_then(without_empties).unwrap_or(Value::Null)
}

/// The name of a template's revision: a hash in letters that spell no words.
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut text = canonical(template).to_string();
    if let Some(count) = collisions {
        text.push('/');
        text.push_str(&count.to_string());
    }
    // FNV-1a, 32 bits.
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.to_string().bytes().map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()])).collect()
}

pub(crate) fn annotation<'a>(set: &'a ReplicaSet, name: &str) -> Option<&'a str> {
    set.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

pub(crate) fn revision_of(set: &ReplicaSet) -> i64 {
    annotation(set, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub(crate) fn created(set: &ReplicaSet) -> (Option<jiff::Timestamp>, &str) {
    (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.metadata.name.as_deref().unwrap_or(""))
}

/// Whether a ReplicaSet was made from this template.
pub(crate) fn has_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let own = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    own.is_some_and(|own| canonical(own) == canonical(template))
}

/// Splits the ReplicaSets of a Deployment into the one that has its template (the oldest, should there be several) and the rest.
pub(crate) fn split<'a>(
    template: &PodTemplateSpec,
    sets: &[&'a ReplicaSet],
) -> (Option<&'a ReplicaSet>, Vec<&'a ReplicaSet>) {
    let wanted = canonical(template);
    let mut sorted = sets.to_vec();
    sorted.sort_by(|a, b| created(a).cmp(&created(b)));
    let new = sorted
        .iter()
        .position(|set| {
            set.spec.as_ref().and_then(|spec| spec.template.as_ref()).map(canonical).as_ref() == Some(&wanted)
        })
        .map(|index| sorted.remove(index));
    (new, sorted)
}

/// The revision that the newest ReplicaSet should have.
pub(crate) fn next_revision(old: &[&ReplicaSet]) -> i64 {
    old.iter().map(|set| revision_of(set)).max().unwrap_or(0) + 1
}

/// The annotations that the new ReplicaSet lacks or has otherwise.
pub(crate) fn annotations_to_set(
    deployment: &Deployment,
    current: &BTreeMap<String, String>,
    revision: i64,
) -> BTreeMap<String, String> {
    let mut set = BTreeMap::new();
    for (name, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&name.as_str()) && current.get(name) != Some(value) {
            set.insert(name.clone(), value.clone());
        }
    }
    let known = current.get(REVISION);
    let before: i64 = known.and_then(|text| text.parse().ok()).unwrap_or(0);
    if before < revision {
        set.insert(REVISION.to_owned(), revision.to_string());
        if let Some(known) = known {
            // It is being rolled back to: the number it had stays on record.
            let history = extended_history(current.get(REVISION_HISTORY).map_or("", String::as_str), known);
            set.insert(REVISION_HISTORY.to_owned(), history);
        }
    }
    set
}

fn extended_history(history: &str, revision: &str) -> String {
    let mut revisions: Vec<&str> = history.split(',').filter(|text| !text.is_empty()).collect();
    revisions.push(revision);
    let length = |revisions: &[&str]| revisions.iter().map(|text| text.len() + 1).sum::<usize>();
    while revisions.len() > 1 && length(&revisions) > HISTORY_CHARACTERS {
        revisions.remove(0);
    }
    revisions.join(",")
}

/// The old ReplicaSets beyond the history that is kept, oldest revision first.
pub(crate) fn beyond_history<'a>(deployment: &Deployment, old: &[&'a ReplicaSet]) -> Vec<&'a ReplicaSet> {
    let limit = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit);
    let Some(limit) = limit.filter(|limit| *limit != i32::MAX) else {
        return Vec::new();
    };
    let mut alive: Vec<&ReplicaSet> =
        old.iter().copied().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
    let excess = alive.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    alive.sort_by(|a, b| (revision_of(a), created(a)).cmp(&(revision_of(b), created(b))));
    alive.truncate(excess);
    alive.retain(|set| {
        let status = set.status.as_ref();
        let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let present = status.map_or(0, |status| status.replicas);
        let observed = status.and_then(|status| status.observed_generation).unwrap_or(0);
        wanted == 0 && present == 0 && set.metadata.generation.unwrap_or(0) <= observed
    });
    alive
}
