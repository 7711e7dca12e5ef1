//! What differs between what a repository wants and what is there, as the API itself says it: each object is applied as a
//! rehearsal (server-side, `dryRun=All`), so that defaults, admission and policies have their say.
//!
//! Invariants: nothing is changed; an object is rehearsed again only when it, or what is wanted of it, changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use futures::StreamExt;
use serde_json::Value;

use super::decide::Difference;
use super::live::View;
use super::{cause, steps};
use crate::api::{Api, ApplyMode};
use crate::applyset::PART_OF;
use crate::diff::{self, FieldChange};
use crate::health::{self, Health, Status};
use crate::kinds::{Kinds, Resource};
use crate::object::{self, ObjectId};
use crate::order;
use crate::sync::application::{COMPARE_ANNOTATION, Ignore, Options, Prune};
use crate::sync::front::project::Project;

/// The name under which synced fields are owned.
pub const MANAGER: &str = "coracle-sync";
/// How many fields of an object that differ are told.
const FIELDS: usize = 20;
/// How many objects are rehearsed at once.
const AT_ONCE: usize = 16;

/// How an object is, compared with what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// As it should be.
    Synced,
    /// Not as it should be, or not there, or there though it should not.
    OutOfSync,
    /// It cannot be told.
    Unknown,
}

impl Code {
    /// The word as Argo CD writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Synced => "Synced",
            Self::OutOfSync => "OutOfSync",
            Self::Unknown => "Unknown",
        }
    }
}

/// One object, compared.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Which.
    pub id: ObjectId,
    /// The version in which it is written.
    pub version: String,
    /// How it differs.
    pub code: Code,
    /// How it is; none for what has no health.
    pub health: Option<Health>,
    /// Whether it is to be deleted.
    pub extra: bool,
    /// Its wave.
    pub wave: i64,
    /// Why it cannot be brought.
    pub trouble: Option<String>,
    /// What is not as the rehearsal would have it; not every field where there are many.
    pub fields: Vec<FieldChange>,
    /// When it may be deleted.
    pub prune: Prune,
}

impl State {
    /// Whether a sync with pruning deletes it.
    #[must_use]
    pub fn goes(&self, approved: bool) -> bool {
        let allowed = match self.prune {
            Prune::Yes => true,
            Prune::Confirm => approved,
            Prune::No => false,
        };
        self.extra && self.trouble.is_none() && allowed
    }
}

/// How much of a comparison a sync would change.
#[must_use]
pub fn difference(states: &[State], wanted: usize, approved: bool) -> Difference {
    Difference {
        changed: states.iter().filter(|state| !state.extra && state.code != Code::Synced).count(),
        extra: states.iter().filter(|state| state.goes(approved)).count(),
        wanted,
    }
}

/// What cannot be brought of a comparison, and why.
pub fn troubles(states: &[State]) -> impl Iterator<Item = &str> {
    states.iter().filter(|state| !state.extra).filter_map(|state| state.trouble.as_deref())
}

/// Objects as they are to be applied: with their namespace and the label of their set.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// The members of the set, in order.
    pub members: Vec<Value>,
    /// Members and hooks, for the steps of a sync.
    pub all: Vec<Value>,
}

/// Everything that a comparison asks.
pub struct Question<'a> {
    /// The API, as the application.
    pub api: &'a Api,
    /// The kinds that it has.
    pub kinds: &'a Kinds,
    /// What is there.
    pub live: &'a View,
    /// The id of the set.
    pub set: &'a str,
    /// What does not count.
    pub ignore: &'a [Ignore],
    /// What may be written.
    pub project: &'a Project,
    /// How it is applied.
    pub options: &'a Options,
    /// Groups and kinds whose definitions are in the same set.
    pub coming: BTreeSet<(String, String)>,
}

/// The groups and kinds that a set's own definitions bring.
#[must_use]
pub fn coming(desired: &Desired) -> BTreeSet<(String, String)> {
    let definitions = desired.members.iter().filter(|one| object::kind(one) == "CustomResourceDefinition");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    definitions.map(|one| (text(&one["spec"]["group"]), text(&one["spec"]["names"]["kind"]))).collect()
}

/// Gives every object its namespace and the set's label.
///
/// # Errors
///
/// Everything that is wrong with the set as such, a sentence each.
pub fn prepare(objects: &[Value], kinds: &Kinds, namespace: &str, set: &str) -> Result<Desired, Vec<String>> {
    let (mut wrong, mut seen, mut desired) = (Vec::new(), BTreeSet::new(), Desired::default());
    let mut sorted = objects.to_vec();
    order::sort(&mut sorted);
    for mut object in sorted {
        // A kind that is not there yet is taken to be in a namespace, as nearly all are.
        let resource = kinds.of(object::api_version(&object), object::kind(&object));
        let namespaced = resource.map_or_else(|| !is_cluster_wide(&object), |resource| resource.namespaced);
        if !namespaced {
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("namespace");
            }
        } else if object::namespace(&object).is_empty() {
            let namespace = if namespace.is_empty() { "default" } else { namespace };
            object["metadata"]["namespace"] = namespace.into();
        }
        let id = ObjectId::of(&object);
        if !seen.insert(id.clone()) {
            wrong.push(format!("{id} is there twice; remove one"));
            continue;
        }
        match steps::part(&object) {
            Ok(steps::Part::Member) => {
                object::metadata_map(&mut object, "labels").insert(PART_OF.to_owned(), set.into());
                desired.members.push(object.clone());
                desired.all.push(object);
            }
            Ok(steps::Part::Hook(_)) => desired.all.push(object),
            Ok(steps::Part::Skipped) => {}
            Err(reason) => wrong.push(reason),
        }
    }
    if wrong.is_empty() { Ok(desired) } else { Err(wrong) }
}

fn is_cluster_wide(object: &Value) -> bool {
    matches!(object::kind(object), "Namespace" | "CustomResourceDefinition" | "ClusterRole" | "ClusterRoleBinding")
}

/// What was rehearsed, and what came of it.
#[derive(Default)]
pub struct Memo {
    known: HashMap<ObjectId, (u64, String, Outcome)>,
}

#[derive(Debug, Clone)]
struct Outcome {
    code: Code,
    trouble: Option<String>,
    fields: Vec<FieldChange>,
}

impl Outcome {
    fn of(code: Code) -> Self {
        Self { code, trouble: None, fields: Vec::new() }
    }
}

impl Memo {
    /// Compares every member, and finds what is there though it should not be.
    pub async fn compare(&mut self, question: &Question<'_>, desired: &Desired) -> Vec<State> {
        let mut states: Vec<State> = Vec::with_capacity(desired.members.len());
        let mut open = Vec::new();
        for object in &desired.members {
            let id = ObjectId::of(object);
            let live = question.live.get(&id);
            let version = live.as_deref().map(object::resource_version).unwrap_or_default().to_owned();
            let wanted = digest(object, question.options);
            match self.known.get(&id) {
                // What was in trouble may have come out of it by something else.
                Some((known, at, outcome))
                    if *known == wanted && *at == version && live.is_some() && outcome.trouble.is_none() =>
                {
                    states.push(state(question, object, live.as_deref(), outcome.clone()));
                }
                _ => open.push((object.clone(), live, wanted)),
            }
        }
        let rehearsals = open.into_iter().map(|one| rehearsal(question, one));
        let done: Vec<_> = futures::stream::iter(rehearsals).buffer_unordered(AT_ONCE).collect().await;
        for (object, live, wanted, outcome) in done {
            let version = live.as_deref().map(object::resource_version).unwrap_or_default().to_owned();
            self.known.insert(ObjectId::of(&object), (wanted, version, outcome.clone()));
            states.push(state(question, &object, live.as_deref(), outcome));
        }
        let wanted: BTreeSet<ObjectId> = desired.members.iter().map(ObjectId::of).collect();
        self.known.retain(|id, _| wanted.contains(id));
        let extra = question.live.all().into_iter().filter(|(id, _)| !wanted.contains(id));
        states.extend(extra.filter_map(|(_, object)| self::extra(question, &object)));
        states.sort_by(|a, b| (a.wave, order::rank(&a.id.kind), &a.id).cmp(&(b.wave, order::rank(&b.id.kind), &b.id)));
        states
    }
}

type Open = (Value, Option<Arc<Value>>, u64);

async fn rehearsal(question: &Question<'_>, (object, live, wanted): Open) -> (Value, Option<Arc<Value>>, u64, Outcome) {
    let (live, outcome) = rehearse(question, &object, live).await;
    (object, live, wanted, outcome)
}

fn digest(object: &Value, options: &Options) -> u64 {
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    object.to_string().hash(&mut hasher);
    format!("{options:?}").hash(&mut hasher);
    hasher.finish()
}

fn state(question: &Question<'_>, object: &Value, live: Option<&Value>, outcome: Outcome) -> State {
    let missing = || Health { status: Status::Missing, message: String::new() };
    State {
        id: ObjectId::of(object),
        version: version_of(object),
        code: outcome.code,
        health: Some(live.map_or_else(missing, health::health)),
        extra: false,
        wave: order::wave(object),
        trouble: outcome.trouble,
        fields: outcome.fields,
        prune: question.options.for_object(object).prune,
    }
}

/// Something that nobody wants any more. Hooks and what says so itself do not count.
fn extra(question: &Question<'_>, object: &Value) -> Option<State> {
    let ignored = object::annotation(object, COMPARE_ANNOTATION).is_some_and(|text| text.contains("IgnoreExtraneous"));
    if ignored || !is_root(object) {
        return None;
    }
    Some(State {
        id: ObjectId::of(object),
        version: version_of(object),
        code: Code::OutOfSync,
        health: Some(health::health(object)),
        extra: true,
        wave: order::wave(object),
        trouble: cause::of_deletion(object),
        fields: Vec::new(),
        prune: question.options.for_object(object).prune,
    })
}

/// Whether an object with the set's label is one of its own: neither a hook, nor made and deleted by another object.
pub(crate) fn is_root(object: &Value) -> bool {
    let owned = object["metadata"]["ownerReferences"].as_array().is_some_and(|all| !all.is_empty());
    matches!(steps::part(object), Ok(steps::Part::Member)) && !owned
}

fn version_of(object: &Value) -> String {
    let api_version = object::api_version(object);
    api_version.split_once('/').map_or(api_version, |(_, version)| version).to_owned()
}

/// The kind of an object, or why it cannot be written.
pub(crate) fn resource<'k>(kinds: &'k Kinds, object: &Value) -> Result<&'k Resource, String> {
    let id = ObjectId::of(object);
    kinds.of(object::api_version(object), &id.kind).ok_or_else(|| {
        let other = kinds.of_group(&id.group, &id.kind).map(Resource::api_version);
        cause::missing_kind(&id, object::api_version(object), other.as_deref())
    })
}

async fn rehearse(question: &Question<'_>, object: &Value, live: Option<Arc<Value>>) -> (Option<Arc<Value>>, Outcome) {
    let id = ObjectId::of(object);
    let trouble = |reason: String| Outcome { trouble: Some(reason), ..Outcome::of(Code::OutOfSync) };
    if let Err(reason) = question.project.allows_object(&id) {
        return (live, trouble(format!("{} {}: permission: {reason}", id.group_kind(), id.name)));
    }
    let options = question.options.for_object(object);
    let resource = match resource(question.kinds, object) {
        Ok(resource) => resource,
        Err(_) if options.skip_missing_kinds || question.coming.contains(&(id.group.clone(), id.kind.clone())) => {
            return (None, Outcome::of(Code::OutOfSync));
        }
        Err(reason) => return (None, trouble(reason)),
    };
    let path = crate::api::path_of(resource, &id);
    // Without the label it may be there all the same, made by hand or by another tool.
    let live = match live {
        Some(live) => Some(live),
        None => match question.api.find(&path).await {
            Ok(found) => found.map(Arc::new),
            Err(error) => return (None, trouble(cause::of_refusal(&id, &error))),
        },
    };
    if let Some(reason) = live.as_deref().and_then(|live| of_another(live, question.set)) {
        return (live.clone(), trouble(reason));
    }
    let Some(there) = live.clone() else {
        let trouble = if options.replace { None } else { refused(question, &path, object, &id).await };
        return (None, Outcome { trouble, ..Outcome::of(Code::OutOfSync) });
    };
    if let Some(reason) = cause::of_deletion(&there) {
        return (live, trouble(reason));
    }
    let wanted = if options.respect_ignored { keep_ignored(object, &there, question.ignore) } else { object.clone() };
    match question.api.apply(&path, &wanted, mode(true)).await {
        Ok(after) => {
            if differs(&there, &after, question.ignore).is_none() {
                return (live, Outcome::of(Code::Synced));
            }
            let mut fields = diff::changes(&there, &after);
            fields.truncate(FIELDS);
            (live, Outcome { fields, ..Outcome::of(Code::OutOfSync) })
        }
        // What cannot be changed is replaced, where that is asked for.
        Err(_) if options.replace || options.force => (live, Outcome::of(Code::OutOfSync)),
        Err(error) => (live, trouble(cause::of_refusal(&id, &error))),
    }
}

/// Why an object is not ours, where it is another set's.
pub(crate) fn of_another(object: &Value, set: &str) -> Option<String> {
    let other = object::label(object, PART_OF).filter(|other| *other != set)?;
    let id = ObjectId::of(object);
    Some(format!("{} {}: it belongs to another set ({other}); remove it from one of the two", id.group_kind(), id.name))
}

/// Why an object that is not there cannot be made. That its namespace is made first is no reason.
async fn refused(question: &Question<'_>, path: &str, object: &Value, id: &ObjectId) -> Option<String> {
    let error = question.api.apply(path, object, mode(true)).await.err()?;
    let lower = error.message.to_lowercase();
    let namespace = error.is_not_found() && lower.contains("namespaces");
    (!namespace).then(|| cause::of_refusal(id, &error))
}

/// How sync applies.
pub(crate) fn mode(dry_run: bool) -> ApplyMode<'static> {
    ApplyMode { manager: MANAGER, force: true, dry_run }
}

/// The first field in which two versions of an object differ, as a JSON pointer.
#[must_use]
pub fn differs(live: &Value, after: &Value, ignore: &[Ignore]) -> Option<String> {
    let mut pair = [object::without_server_fields(live), object::without_server_fields(after)];
    for rule in ignore.iter().filter(|rule| rule.means(live)) {
        for pointer in &rule.pointers {
            pair.iter_mut().for_each(|one| remove(one, pointer));
        }
        for fields in managed(live, &rule.managers) {
            let [a, b] = &mut pair;
            remove_managed(a, b, &fields);
        }
    }
    first_difference("", &pair[0], &pair[1])
}

fn first_difference(at: &str, a: &Value, b: &Value) -> Option<String> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            let null = Value::Null;
            names.into_iter().find_map(|name| {
                let path = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
                first_difference(&path, a.get(name).unwrap_or(&null), b.get(name).unwrap_or(&null))
            })
        }
        _ => (a != b).then(|| at.to_owned()),
    }
}

/// Removes what a JSON pointer names, where it is there.
fn remove(object: &mut Value, pointer: &str) {
    let Some((parent, last)) = pointer.rsplit_once('/') else { return };
    let last = last.replace("~1", "/").replace("~0", "~");
    match object.pointer_mut(parent) {
        Some(Value::Object(fields)) => drop(fields.remove(&last)),
        Some(Value::Array(items)) => {
            if let Some(at) = last.parse::<usize>().ok().filter(|at| *at < items.len()) {
                items.remove(at);
            }
        }
        _ => {}
    }
}

/// What some managers own, as their managedFields say.
fn managed(live: &Value, managers: &[String]) -> Vec<Value> {
    let entries = live["metadata"]["managedFields"].as_array().into_iter().flatten();
    let named = |entry: &&Value| entry["manager"].as_str().is_some_and(|name| managers.iter().any(|one| one == name));
    entries.filter(named).map(|entry| entry["fieldsV1"].clone()).collect()
}

/// Makes both alike in what a FieldsV1 tree names. Elements of lists count as a whole list.
fn remove_managed(a: &mut Value, b: &mut Value, fields: &Value) {
    for (name, below) in fields.as_object().into_iter().flatten() {
        let Some(name) = name.strip_prefix("f:") else { continue };
        let deeper = below.as_object().is_some_and(|all| all.keys().any(|key| key.starts_with("f:")));
        match (deeper, a.get_mut(name), b.get_mut(name)) {
            (true, Some(a), Some(b)) => remove_managed(a, b, below),
            _ => {
                for one in [&mut *a, &mut *b] {
                    if let Some(map) = one.as_object_mut() {
                        map.remove(name);
                    }
                }
            }
        }
    }
}

/// The object with what is ignored as it is in the cluster.
pub(crate) fn keep_ignored(object: &Value, live: &Value, ignore: &[Ignore]) -> Value {
    let mut kept = object.clone();
    for rule in ignore.iter().filter(|rule| rule.means(object)) {
        for pointer in &rule.pointers {
            match (live.pointer(pointer), kept.pointer(pointer).is_some()) {
                (Some(value), true) => {
                    let value = value.clone();
                    if let Some(place) = kept.pointer_mut(pointer) {
                        *place = value;
                    }
                }
                (None, true) => remove(&mut kept, pointer),
                (_, false) => {}
            }
        }
    }
    kept
}

/// The worst health of a set's objects, and the objects that have it.
#[must_use]
pub fn worst(states: &[State]) -> (Status, Vec<String>) {
    let of = |state: &State| state.health.as_ref().map(|health| health.status);
    let members = || states.iter().filter(|state| !state.extra);
    let worst = health::worst(members().filter_map(of));
    let mut named: BTreeMap<&ObjectId, String> = BTreeMap::new();
    if worst != Status::Healthy {
        for state in members().filter(|state| of(state) == Some(worst)) {
            let message = state.health.as_ref().map(|health| health.message.clone()).unwrap_or_default();
            let colon = if message.is_empty() { "" } else { ": " };
            named.insert(&state.id, format!("{} {}{colon}{message}", state.id.group_kind(), state.id.name));
        }
    }
    (worst, named.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule(pointers: &[&str], managers: &[&str]) -> Ignore {
        let own = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
        Ignore {
            group: "*".into(),
            kind: "*".into(),
            pointers: own(pointers),
            managers: own(managers),
            ..Ignore::default()
        }
    }

    #[test]
    fn only_what_counts_is_a_difference() {
        let live = json!({ "kind": "Deployment", "metadata": { "name": "a", "resourceVersion": "1", "generation": 2,
            "managedFields": [{ "manager": "scaler", "fieldsV1": { "f:spec": { "f:replicas": {} } } }],
            "labels": { "a/b": "1" } }, "spec": { "replicas": 3, "paused": false }, "status": { "x": 1 } });
        let after = |change: fn(&mut Value)| {
            let mut after = live.clone();
            change(&mut after);
            after
        };
        let server: fn(&mut Value) = |o| {
            o["metadata"]["resourceVersion"] = "2".into();
            o["status"]["x"] = 2.into();
        };
        assert_eq!(differs(&live, &after(server), &[]), None);
        let replicas: fn(&mut Value) = |o| o["spec"]["replicas"] = 1.into();
        assert_eq!(differs(&live, &after(replicas), &[]).as_deref(), Some("/spec/replicas"));
        assert_eq!(differs(&live, &after(replicas), &[rule(&["/spec/replicas"], &[])]), None);
        assert_eq!(differs(&live, &after(replicas), &[rule(&[], &["scaler"])]), None);
        assert!(differs(&live, &after(replicas), &[rule(&["/spec/paused"], &["other"])]).is_some());
        let label: fn(&mut Value) = |o| o["metadata"]["labels"]["a/b"] = "2".into();
        assert_eq!(differs(&live, &after(label), &[]).as_deref(), Some("/metadata/labels/a~1b"));
        assert_eq!(differs(&live, &after(label), &[rule(&["/metadata/labels/a~1b"], &[])]), None);
    }

    #[test]
    fn what_is_ignored_stays_as_it_is() {
        let wanted = json!({ "kind": "X", "spec": { "a": 1, "b": 2, "c": 3 } });
        let live = json!({ "kind": "X", "spec": { "a": 9 } });
        let kept = keep_ignored(&wanted, &live, &[rule(&["/spec/a", "/spec/b", "/spec/z"], &[])]);
        assert_eq!(kept, json!({ "kind": "X", "spec": { "a": 9, "c": 3 } }));
    }

    #[test]
    fn objects_are_prepared_with_namespace_and_label() {
        let kinds = Kinds::from_discovery(&[
            json!({ "items": [{ "metadata": {}, "versions": [{ "version": "v1", "resources": [
            { "resource": "configmaps", "scope": "Namespaced", "responseKind": { "kind": "ConfigMap" } },
            { "resource": "namespaces", "scope": "Cluster", "responseKind": { "kind": "Namespace" } }] }] }] }),
        ]);
        let config = |name: &str, more: Value| {
            let mut object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } });
            object["metadata"]["annotations"] = more;
            object
        };
        let objects = [
            config("a", json!({})),
            config("h", json!({ steps::HOOK: "PreSync" })),
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "n", "namespace": "odd" } }),
        ];
        let desired = prepare(&objects, &kinds, "shop", "set-1").expect("it is right");
        assert_eq!((desired.members.len(), desired.all.len()), (2, 3));
        let map = desired.members.iter().find(|one| object::kind(one) == "ConfigMap").expect("it is there");
        assert_eq!((object::namespace(map), object::label(map, PART_OF)), ("shop", Some("set-1")));
        let hook = desired.all.iter().find(|one| object::name(one) == "h").expect("it is there");
        assert_eq!((object::namespace(hook), object::label(hook, PART_OF)), ("shop", None));
        let twice = prepare(&[config("a", json!({})), config("a", json!({}))], &kinds, "shop", "s").expect_err("twice");
        assert!(twice[0].contains("twice"));
    }
}
