//! Looks at every set that was applied with `coracle apply`, whenever one of its members changes: the condition `Drifted` stands as an
//! annotation on the set's record (a Secret has no status), its number on the board, and its coming and going in Events.
//!
//! Invariants: nothing is looked at without a change to a member or a record; of what changes only names are kept; while a set is being
//! applied nothing is said of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::board::{Board, Subject, Turn, event};
use super::{DriftError, drift, summary};
use crate::api::{Api, ApiError};
use crate::applyset::{self, Set, split_group_kind};
use crate::history::{self, State};
use crate::object;
use crate::sync::report::stamp;

/// The annotation on a set's record that holds the condition.
const CONDITION: &str = "coracle.dev/drifted";
/// Who applies sets.
const APPLIER: &str = "coracle";
/// Who writes the condition.
const MANAGER: &str = "coracle-drift";
/// Changes within so long are looked at together.
const QUIET: Duration = Duration::from_millis(500);
/// But they are looked at after so long at the latest.
const PATIENCE: Duration = Duration::from_secs(5);
/// After a look that failed it is tried again after so long.
const AGAIN: Duration = Duration::from_secs(20);
/// How many sets are followed.
const SETS: usize = 200;

/// A set that is followed.
struct Followed {
    /// The names of its revisions.
    records: BTreeSet<String>,
    wake: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

/// Follows every applied set until stopped.
pub(crate) async fn run(client: kube::Client, board: Arc<Board>, stop: CancellationToken) {
    let secrets: kube::Api<PartialObjectMeta<Secret>> = kube::Api::all(client.clone());
    let config = watcher::Config::default().labels(&format!("{},{}=0", history::SET_ID, history::PART));
    let mut events = watcher(secrets, config).default_backoff().boxed();
    let mut all: BTreeMap<Set, Followed> = BTreeMap::new();
    let mut listed: BTreeMap<Set, BTreeSet<String>> = BTreeMap::new();
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => event,
        };
        match event {
            None => return,
            Some(Err(error)) => tracing::debug!(%error, "the watch of applied sets is begun again"),
            Some(Ok(watcher::Event::Init)) => listed.clear(),
            Some(Ok(watcher::Event::InitApply(record))) => {
                if let Some((set, name)) = read(&record) {
                    listed.entry(set.clone()).or_default().insert(name.clone());
                    there(&mut all, &client, &board, set, name);
                }
            }
            Some(Ok(watcher::Event::InitDone)) => {
                let gone: Vec<Set> = all.keys().filter(|set| !listed.contains_key(set)).cloned().collect();
                gone.iter().for_each(|set| forget(&mut all, &board, set));
            }
            Some(Ok(watcher::Event::Apply(record))) => {
                if let Some((set, name)) = read(&record) {
                    there(&mut all, &client, &board, set, name);
                }
            }
            Some(Ok(watcher::Event::Delete(record))) => {
                let Some((set, name)) = read(&record) else { continue };
                let Some(followed) = all.get_mut(&set) else { continue };
                followed.records.remove(&name);
                if followed.records.is_empty() {
                    forget(&mut all, &board, &set);
                }
            }
        }
    }
}

/// The set that a record is of, and the record's name.
fn read(record: &PartialObjectMeta<Secret>) -> Option<(Set, String)> {
    let name = record.metadata.name.clone()?;
    let (set, _) = name.rsplit_once(".r")?;
    let set = Set::new(record.metadata.namespace.clone()?, set);
    let label = record.metadata.labels.as_ref()?.get(history::SET_ID)?;
    (*label == set.id()).then_some((set, name))
}

fn there(all: &mut BTreeMap<Set, Followed>, client: &kube::Client, board: &Arc<Board>, set: Set, name: String) {
    if let Some(followed) = all.get_mut(&set) {
        followed.records.insert(name);
        followed.wake.notify_one();
        return;
    }
    if all.len() >= SETS {
        tracing::warn!(set = set.name, "there are {SETS} applied sets already; drift of this one is not looked at");
        return;
    }
    let wake = Arc::new(Notify::new());
    wake.notify_one();
    let follower = Follower {
        api: Api::over(client.clone()),
        set: set.clone(),
        board: Arc::clone(board),
        wake: Arc::clone(&wake),
        kinds: BTreeSet::new(),
        watches: JoinSet::new(),
    };
    let task = AbortOnDropHandle::new(tokio::spawn(follower.run()));
    all.insert(set, Followed { records: BTreeSet::from([name]), wake, _task: task });
}

fn forget(all: &mut BTreeMap<Set, Followed>, board: &Board, set: &Set) {
    all.remove(set);
    board.forget(&subject(set));
}

fn subject(set: &Set) -> Subject {
    Subject { kind: "ApplySet", namespace: set.namespace.clone(), name: set.name.clone() }
}

struct Follower {
    api: Api,
    set: Set,
    board: Arc<Board>,
    wake: Arc<Notify>,
    kinds: BTreeSet<String>,
    watches: JoinSet<()>,
}

impl Follower {
    async fn run(mut self) {
        loop {
            self.wake.notified().await;
            let quiet = async { while tokio::time::timeout(QUIET, self.wake.notified()).await.is_ok() {} };
            let _ = tokio::time::timeout(PATIENCE, quiet).await;
            if let Err(error) = self.look().await {
                tracing::debug!(set = self.set.name, %error, "drift could not be looked for; it is tried again");
                tokio::time::sleep(AGAIN).await;
                self.wake.notify_one();
            }
        }
    }

    async fn look(&mut self) -> Result<(), DriftError> {
        let all = history::list(self.api.client().clone(), &self.set).await?;
        // Its end is a change to its record.
        let settled = all.first().is_some_and(|last| last.state != State::Applying);
        let Some(parent) = self.api.find(&self.set.path()).await?.filter(|_| settled) else { return Ok(()) };
        self.follow(&parent).await?;
        let drift = match drift(self.api.client().clone(), &self.set, APPLIER).await {
            Err(DriftError::NeverApplied(_)) => return Ok(()),
            other => other?,
        };
        let (status, reason, message, objects) = summary(&drift);
        let before = object::annotation(&parent, CONDITION).and_then(|text| serde_json::from_str::<Value>(text).ok());
        let before = before.unwrap_or_default();
        let subject = subject(&self.set);
        if before["status"] == "True" && !self.board.all().contains_key(&subject) {
            self.board.known(&subject);
        }
        let turn = self.board.set(&subject, objects);
        if before["status"] != status || before["message"] != message.as_str() {
            let since = Some(before["lastTransitionTime"].clone()).filter(|_| before["status"] == status);
            let since = since.unwrap_or_else(|| stamp(Timestamp::now()).into());
            let condition = json!({ "type": "Drifted", "status": status, "reason": reason, "message": message,
                "lastTransitionTime": since });
            let patch = json!({ "metadata": { "annotations": { CONDITION: condition.to_string() } } });
            self.api.merge(&self.set.path(), &patch, MANAGER).await?;
        }
        if let Some(turn) = turn {
            let told = match turn {
                Turn::Appeared => message,
                Turn::Gone => "every object is as it was applied again".to_owned(),
            };
            event(&self.api, &parent, turn, &told).await;
        }
        Ok(())
    }

    /// Follows the kinds that may have members, by their names alone.
    async fn follow(&mut self, parent: &Value) -> Result<(), ApiError> {
        let Ok(contents) = self.set.contents(parent) else { return Ok(()) };
        let new: Vec<String> = contents.kinds.difference(&self.kinds).cloned().collect();
        if new.is_empty() {
            return Ok(());
        }
        let kinds = self.api.kinds().await?;
        for text in new {
            let (group, kind) = split_group_kind(&text);
            let Some(resource) = kinds.of_group(group, kind) else { continue };
            let resource = ApiResource {
                group: resource.group.clone(),
                version: resource.version.clone(),
                api_version: resource.api_version(),
                kind: resource.kind.clone(),
                plural: resource.plural.clone(),
            };
            let api: kube::Api<PartialObjectMeta<DynamicObject>> =
                kube::Api::all_with(self.api.client().clone(), &resource);
            let config = watcher::Config::default().labels(&format!("{}={}", applyset::PART_OF, self.set.id()));
            let wake = Arc::clone(&self.wake);
            self.watches.spawn(async move {
                let mut events = watcher(api, config).default_backoff().boxed();
                while let Some(event) = events.next().await {
                    if matches!(
                        event,
                        Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_) | watcher::Event::InitDone)
                    ) {
                        wake.notify_one();
                    }
                }
            });
            self.kinds.insert(text);
        }
        Ok(())
    }
}
