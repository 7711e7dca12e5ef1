//! One sync, from its first hook to its last deletion. It executes the steps; it decides nothing about revisions.
//!
//! Invariants: nothing is changed where the rehearsal was refused; the set's parent names every kind before its first member is
//! there; dropped midway (a newer commit, an end of the program) nothing is half-owned: the next comparison sees what is there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::cause;
use super::compare::{self, Desired};
use super::live::View;
use super::locked::{Broken, Door};
use super::steps::{self, Phase, Step};
use super::wave;
use crate::api::{Api, ApiError, ApplyMode};
use crate::applyset::{Contents, MANAGER as SET_MANAGER, Set};
use crate::fault;
use crate::health::{self, Status};
use crate::kinds::Kinds;
use crate::object::{self, ObjectId};
use crate::order;
use crate::sync::application::{Ignore, Options, Prune};

/// How many objects of one kind are written at once.
const AT_ONCE: usize = 8;

/// What is to be brought.
#[derive(Clone)]
pub struct Job {
    /// The objects.
    pub desired: Desired,
    /// Members that are as they should be already.
    pub synced: BTreeSet<ObjectId>,
    /// What is there though it should not.
    pub extra: Vec<ObjectId>,
    /// Whether that is deleted.
    pub prune: bool,
    /// Whether a person has agreed to delete what says `Prune=confirm`.
    pub approved: bool,
    /// How objects are applied.
    pub options: Options,
    /// What does not count as a difference.
    pub ignore: Vec<Ignore>,
    /// The namespace of objects that name none.
    pub namespace: String,
    /// The set.
    pub set: Set,
    /// How long each step may take until it is healthy.
    pub deadline: Duration,
}

/// What it is done with.
#[derive(Clone)]
pub struct Tools {
    /// The API as the application.
    pub api: Api,
    /// The API as ourselves, for the set's parent and for judging what runs.
    pub own: Api,
    /// What is there.
    pub live: View,
    /// The kinds of the API, as they were last seen.
    pub kinds: Kinds,
    /// How the set is locked.
    pub door: Door,
}

/// What is told on the way.
#[derive(Debug, Clone, PartialEq)]
pub enum Note {
    /// What goes on, in words.
    Doing(String),
    /// What became of one object.
    Object(Done),
}

/// What became of one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// Which.
    pub id: ObjectId,
    /// The version in which it is written.
    pub version: String,
    /// `Synced`, `SyncFailed`, `Pruned` or `PruneSkipped`.
    pub status: &'static str,
    /// In words.
    pub message: String,
    /// The phase.
    pub phase: Phase,
    /// For a hook: `Running`, `Succeeded` or `Failed`.
    pub hook: Option<&'static str>,
}

/// Runs a sync to its end, under the set's lock; a sentence where it failed.
///
/// # Errors
///
/// The causes, in words for people.
pub async fn run(job: &Job, tools: &Tools, notes: &mpsc::Sender<Note>) -> Result<(), Broken> {
    tools.door.under(&job.set, bring(job, tools, notes)).await
}

async fn bring(job: &Job, tools: &Tools, notes: &mpsc::Sender<Note>) -> Result<(), String> {
    let (steps, failing) = steps::arrange(&job.desired.all).map_err(|wrong| wrong.join("; "))?;
    let mut running = Running { job, tools, notes, kinds: tools.kinds.clone() };
    let outcome = running.steps(&steps).await;
    if outcome.is_err() {
        for step in &failing {
            if let Err(error) = running.step(step, false).await {
                tracing::warn!(error, "a hook of the phase SyncFail failed");
            }
        }
    }
    outcome
}

/// Runs hooks alone, outside of a sync.
///
/// # Errors
///
/// As [`run`].
pub async fn run_hooks(steps: &[Step], job: &Job, tools: &Tools) -> Result<(), Broken> {
    // Nobody listens.
    let (notes, _) = mpsc::channel(1);
    let mut running = Running { job, tools, notes: &notes, kinds: tools.kinds.clone() };
    let work = async {
        for step in steps {
            running.step(step, false).await?;
        }
        Ok(())
    };
    tools.door.under(&job.set, work).await
}

async fn kinds(api: &Api) -> Result<Kinds, String> {
    api.kinds().await.map_err(|error| format!("cannot read the kinds of the API: {error}"))
}

struct Running<'a> {
    job: &'a Job,
    tools: &'a Tools,
    notes: &'a mpsc::Sender<Note>,
    kinds: Kinds,
}

impl Running<'_> {
    async fn note(&self, note: Note) {
        // Whoever listened may be gone; the work goes on.
        let _ = self.notes.send(note).await;
    }

    async fn steps(&mut self, steps: &[Step]) -> Result<(), String> {
        let ids: Vec<ObjectId> = self.job.desired.members.iter().map(ObjectId::of).collect();
        let wanted = Contents::of(&self.job.set, &ids);
        let before = self.claim(&wanted).await?;
        fault::point("sync.claimed");
        self.make_namespace().await?;
        let last_sync = steps.iter().rposition(|step| step.phase == Phase::Sync);
        let mut left = None;
        for (index, step) in steps.iter().enumerate() {
            if left.is_none() && step.phase > Phase::Sync {
                left = Some(self.prune().await?);
            }
            let prune_next = self.job.options.prune_last && Some(index) == last_sync && !self.job.extra.is_empty();
            self.step(step, index + 1 < steps.len() || prune_next).await?;
        }
        let left = match left {
            Some(left) => left,
            None => self.prune().await?,
        };
        // A kind is forgotten only once nothing of it is left to find.
        let needed = wanted.union(&Contents::of(&self.job.set, &left));
        if before != needed {
            self.write_parent(&needed).await?;
        }
        fault::point("sync.done");
        Ok(())
    }

    /// Makes sure that the set's parent names every kind and namespace that is about to hold a member.
    async fn claim(&self, wanted: &Contents) -> Result<Contents, String> {
        let set = &self.job.set;
        let parent = self.tools.own.find(&set.path()).await.map_err(|error| error.to_string())?;
        let known = match &parent {
            Some(parent) => set.contents(parent).map_err(|foreign| foreign.to_string())?,
            None => Contents::default(),
        };
        let both = known.union(wanted);
        if parent.is_none() || both != known {
            self.write_parent(&both).await?;
        }
        Ok(both)
    }

    async fn write_parent(&self, contents: &Contents) -> Result<(), String> {
        let set = &self.job.set;
        let mode = ApplyMode { manager: SET_MANAGER, force: true, dry_run: false };
        let written = self.tools.own.apply(&set.path(), &set.parent_object(contents), mode).await;
        written.map(drop).map_err(|error| format!("cannot write the inventory {}: {error}", set.name))
    }

    async fn make_namespace(&self) -> Result<(), String> {
        let namespace = &self.job.namespace;
        if !self.job.options.create_namespace || namespace.is_empty() {
            return Ok(());
        }
        let path = format!("/api/v1/namespaces/{namespace}");
        if self.tools.api.find(&path).await.map_err(|error| error.to_string())?.is_some() {
            return Ok(());
        }
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
        let made = self.tools.api.apply(&path, &object, compare::mode(false)).await;
        made.map(drop).map_err(|error| cause::of_refusal(&ObjectId::of(&object), &error))
    }

    /// One step; with `wait` until all of it is healthy.
    async fn step(&mut self, step: &Step, wait: bool) -> Result<(), String> {
        self.note(Note::Doing(format!("{} wave {}", step.phase.as_str(), step.wave))).await;
        for group in by_rank(&step.members) {
            self.write_group(group, step.phase).await?;
        }
        let mut hooks = Vec::new();
        for hook in &step.hooks {
            hooks.push(self.start_hook(hook, step.phase).await?);
        }
        for (object, path) in &hooks {
            self.finish_hook(object, path, step.phase).await?;
        }
        if wait && !step.members.is_empty() {
            let ids: Vec<ObjectId> = step.members.iter().map(ObjectId::of).collect();
            let doing = format!("{} wave {}", step.phase.as_str(), step.wave);
            wave::healthy(self.tools, self.job.deadline, &doing, &ids, self.notes).await?;
        }
        Ok(())
    }

    async fn write_group(&mut self, group: &[Value], phase: Phase) -> Result<(), String> {
        let open = |object: &&Value| {
            let options = self.job.options.for_object(object);
            !(options.only_out_of_sync && self.job.synced.contains(&ObjectId::of(object)))
        };
        let group: Vec<Value> = group.iter().filter(open).cloned().collect();
        if group.iter().any(|object| compare::resource(&self.kinds, object).is_err()) {
            // An earlier step may have brought its definition.
            self.kinds = kinds(&self.tools.own).await?;
        }
        let this = &*self;
        let writes = group.into_iter().map(|object| this.write_one(object));
        let done: Vec<_> = futures::stream::iter(writes).buffer_unordered(AT_ONCE).collect().await;
        let mut failures = Vec::new();
        for (object, outcome) in done {
            let (status, message) = match &outcome {
                Ok(message) => ("Synced", message.clone()),
                Err(reason) => ("SyncFailed", reason.clone()),
            };
            self.note(Note::Object(done_with(&object, status, message, phase))).await;
            failures.extend(outcome.err());
        }
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
    }

    async fn write_one(&self, object: Value) -> (Value, Result<String, String>) {
        let outcome = self.write(&object).await;
        (object, outcome)
    }

    async fn write(&self, object: &Value) -> Result<String, String> {
        let id = ObjectId::of(object);
        let resource = compare::resource(&self.kinds, object)?;
        let path = crate::api::path_of(resource, &id);
        let options = self.job.options.for_object(object);
        let api = &self.tools.api;
        let refused = |error: &ApiError| cause::of_refusal(&id, error);
        let live = self.tools.live.get(&id);
        let kept = match &live {
            Some(live) if options.respect_ignored => compare::keep_ignored(object, live, &self.job.ignore),
            _ => object.clone(),
        };
        if live.is_none() {
            self.still_free(&path, &id).await?;
        }
        if options.replace {
            return self.replace(&path, &kept, &options).await.map_err(|error| refused(&error));
        }
        match apply(api, &path, &kept, options.validate).await {
            Ok(written) => {
                fault::point("sync.object");
                Ok(self.written(written, live.as_deref()))
            }
            Err(error) if options.force && matches!(error.code, Some(409 | 422)) => {
                self.anew(&path, &kept).await.map_err(|error| refused(&error))
            }
            Err(error) => Err(refused(&error)),
        }
    }

    /// Refuses what went to another set since it was compared: an earlier wave or a hook may have taken minutes.
    async fn still_free(&self, path: &str, id: &ObjectId) -> Result<(), String> {
        let found = self.tools.api.find(path).await.map_err(|error| cause::of_refusal(id, &error))?;
        match found.as_ref().and_then(|object| compare::of_another(object, &self.job.set.id())) {
            Some(reason) => Err(reason),
            None => Ok(()),
        }
    }

    fn written(&self, object: Value, before: Option<&Value>) -> String {
        let id = ObjectId::of(&object);
        let same = before.is_some_and(|before| object::resource_version(before) == object::resource_version(&object));
        let word = match (before, same) {
            (None, _) => "created",
            (_, true) => "unchanged",
            _ => "configured",
        };
        self.tools.live.wrote(object);
        format!("{}/{} {word}", id.group_kind().to_lowercase(), id.name)
    }

    /// The whole object, over whatever is there.
    async fn replace(&self, path: &str, object: &Value, options: &Options) -> Result<String, ApiError> {
        let api = &self.tools.api;
        let Some(live) = api.find(path).await? else {
            let written = api.create(collection(path), object, compare::MANAGER).await?;
            return Ok(self.written(written, None));
        };
        let mut whole = object.clone();
        whole["metadata"]["resourceVersion"] = object::resource_version(&live).into();
        match api.replace(path, &whole, compare::MANAGER).await {
            Ok(written) => Ok(self.written(written, Some(&live))),
            Err(error) if options.force && error.code == Some(422) => self.anew(path, object).await,
            Err(error) => Err(error),
        }
    }

    /// Deletes an object, waits until it is gone, and makes it again.
    async fn anew(&self, path: &str, object: &Value) -> Result<String, ApiError> {
        let api = &self.tools.api;
        if let Some(live) = api.find(path).await? {
            api.delete(path, object::uid(&live)).await?;
            gone(api, path, self.job.deadline).await?;
        }
        let written = api.create(collection(path), object, compare::MANAGER).await?;
        Ok(self.written(written, None).replace(" created", " deleted and made anew"))
    }

    async fn start_hook(&self, hook: &Value, phase: Phase) -> Result<(Value, String), String> {
        let id = ObjectId::of(hook);
        let refused = |error: &ApiError| cause::of_refusal(&id, error);
        let path = crate::api::path_of(compare::resource(&self.kinds, hook)?, &id);
        let api = &self.tools.api;
        if let Some(old) = api.find(&path).await.map_err(|error| refused(&error))? {
            if let Some(reason) = compare::of_another(&old, &self.job.set.id()) {
                return Err(reason);
            }
            // Without that policy it stays, and an apply of it says what differs.
            if steps::delete_when(hook).before || object::kind(&old) == "Job" {
                match api.delete(&path, object::uid(&old)).await {
                    Err(error) if !error.is_not_found() => return Err(refused(&error)),
                    _ => gone(api, &path, self.job.deadline).await.map_err(|error| refused(&error))?,
                }
            }
        }
        let made = apply(api, &path, hook, self.job.options.validate).await.map_err(|error| refused(&error))?;
        fault::point("sync.hook");
        self.note(Note::Object(Done { hook: Some("Running"), ..done_with(hook, "Synced", String::new(), phase) }))
            .await;
        Ok((made, path))
    }

    async fn finish_hook(&self, hook: &Value, path: &str, phase: Phase) -> Result<(), String> {
        let waited = tokio::time::timeout(self.job.deadline, ended(&self.tools.api, hook, path)).await;
        let outcome = waited.unwrap_or_else(|_| Err(format!("it did not end within {:?}", self.job.deadline)));
        let (word, message) = match &outcome {
            Ok(message) => ("Succeeded", message.clone()),
            Err(message) => ("Failed", message.clone()),
        };
        self.note(Note::Object(Done { hook: Some(word), ..done_with(hook, "Synced", message, phase) })).await;
        let when = steps::delete_when(hook);
        if (outcome.is_ok() && when.succeeded) || (outcome.is_err() && when.failed) {
            match self.tools.api.delete(path, "").await {
                Err(error) if !error.is_not_found() => tracing::warn!(%error, "a hook could not be deleted"),
                _ => {}
            }
        }
        let id = ObjectId::of(hook);
        outcome
            .map(drop)
            .map_err(|message| format!("the {} hook {} {} failed: {message}", phase.as_str(), id.kind, id.name))
    }

    /// Deletes what may be deleted; what is there all the same.
    async fn prune(&self) -> Result<Vec<ObjectId>, String> {
        let objects: Vec<Value> =
            self.job.extra.iter().filter_map(|id| self.tools.live.get(id)).map(Arc::unwrap_or_clone).collect();
        let (mut failures, mut left) = (Vec::new(), Vec::new());
        for object in steps::pruning_order(objects) {
            let id = ObjectId::of(&object);
            let allowed = match (self.job.prune, self.job.options.for_object(&object).prune) {
                (false, _) => Err("pruning is off"),
                (_, Prune::No) => Err("the object says Prune=false"),
                (_, Prune::Confirm) if !self.job.approved => Err(
                    "the object says Prune=confirm: agree with the annotation argocd.argoproj.io/deletion-approved on the application",
                ),
                _ => Ok(()),
            };
            let outcome = match allowed {
                Err(why) => {
                    left.push(id);
                    ("PruneSkipped", format!("ignored (requires pruning): {why}"))
                }
                Ok(()) => match self.delete(&object, &id).await {
                    Ok(()) => {
                        fault::point("sync.pruned");
                        // It goes once others let it go.
                        if object["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty()) {
                            left.push(id);
                        }
                        ("Pruned", "pruned".to_owned())
                    }
                    Err(reason) => {
                        failures.push(reason.clone());
                        ("SyncFailed", reason)
                    }
                },
            };
            self.note(Note::Object(done_with(&object, outcome.0, outcome.1, Phase::Sync))).await;
        }
        if failures.is_empty() { Ok(left) } else { Err(failures.join("; ")) }
    }

    async fn delete(&self, object: &Value, id: &ObjectId) -> Result<(), String> {
        let path = crate::api::path_of(compare::resource(&self.kinds, object)?, id);
        match self.tools.api.delete(&path, object::uid(object)).await {
            Err(error) if !error.is_not_found() => Err(cause::of_refusal(id, &error)),
            _ => Ok(()),
        }
    }
}

fn done_with(object: &Value, status: &'static str, message: String, phase: Phase) -> Done {
    let api_version = object::api_version(object);
    let version = api_version.split_once('/').map_or(api_version, |(_, version)| version).to_owned();
    Done { id: ObjectId::of(object), version, status, message, phase, hook: None }
}

/// Runs of objects whose kinds have the same place, so that what others refer to is there before.
fn by_rank(objects: &[Value]) -> impl Iterator<Item = &[Value]> {
    objects.chunk_by(|a, b| order::rank(object::kind(a)) == order::rank(object::kind(b)))
}

fn collection(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(collection, _)| collection)
}

async fn apply(api: &Api, path: &str, object: &Value, validate: bool) -> Result<Value, ApiError> {
    if validate {
        api.apply(path, object, compare::mode(false)).await
    } else {
        api.apply_unchecked(path, object, compare::mode(false)).await
    }
}

/// Waits until an object is gone.
async fn gone(api: &Api, path: &str, limit: Duration) -> Result<(), ApiError> {
    let waiting = async {
        loop {
            let Some(object) = api.find(path).await? else { return Ok(()) };
            let query = format!(
                "fieldSelector=metadata.name%3D{}&resourceVersion={}",
                object::name(&object),
                object::resource_version(&object)
            );
            let mut events = Box::pin(api.watch(collection(path), &query).await?);
            while let Some(event) = events.next().await {
                if event?["type"] == "DELETED" {
                    return Ok(());
                }
            }
        }
    };
    match tokio::time::timeout(limit, waiting).await {
        Ok(outcome) => outcome,
        Err(_) => match api.find(path).await? {
            None => Ok(()),
            Some(object) => Err(ApiError {
                attempt: format!("delete {path}"),
                message: cause::of_deletion(&object).unwrap_or_else(|| format!("it is still there after {limit:?}")),
                code: None,
                reason: String::new(),
                causes: Vec::new(),
            }),
        },
    }
}

/// Waits until a hook has ended; what it says then.
async fn ended(api: &Api, hook: &Value, path: &str) -> Result<String, String> {
    let said = |error: ApiError| error.to_string();
    loop {
        let Some(object) = api.find(path).await.map_err(said)? else { return Err("it was deleted".to_owned()) };
        if let Some(outcome) = outcome(&object) {
            return outcome;
        }
        let version = object::resource_version(&object);
        let query = format!("fieldSelector=metadata.name%3D{}&resourceVersion={version}", object::name(hook));
        let mut events = Box::pin(api.watch(collection(path), &query).await.map_err(said)?);
        while let Some(event) = events.next().await {
            let event = event.map_err(said)?;
            match event["type"].as_str() {
                Some("DELETED") => return Err("it was deleted".to_owned()),
                Some("ADDED" | "MODIFIED") => {
                    let mut object = event["object"].clone();
                    object["apiVersion"] = hook["apiVersion"].clone();
                    object["kind"] = hook["kind"].clone();
                    if let Some(outcome) = outcome(&object) {
                        return outcome;
                    }
                }
                _ => {}
            }
        }
    }
}

/// How a hook ended, where it has.
fn outcome(object: &Value) -> Option<Result<String, String>> {
    let health = health::health(object);
    match (object::kind(object), health.status) {
        // A Pod that runs is healthy, but has not ended.
        ("Pod", Status::Healthy) if object["status"]["phase"] != "Succeeded" => None,
        (_, Status::Healthy) => Some(Ok(health.message)),
        (_, Status::Degraded) => Some(Err(health.message)),
        _ => None,
    }
}
