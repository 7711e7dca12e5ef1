//! One turn: take in what changed, compare, judge, decide, act, say.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::judge::{Judge, Look};
use super::{Actor, Stage};
use crate::applyset::split_group_kind;
use crate::kinds::Kinds;
use crate::object::{self, ObjectId};
use crate::sync::application::{Application, Front};
use crate::sync::engine::compare::{self, Code};
use crate::sync::engine::decide::{self, Action, Content, Last, Picture};
use crate::sync::front::project::Project;
use crate::sync::front::{argo, flux};

/// After what was refused in the rehearsal it is asked again, at first after so many seconds.
pub(super) const ASK_AGAIN: i64 = 5;
/// And at last so seldom.
const ASK_SELDOM: i64 = 60;
/// The annotation by which Argo CD's users ask for a look.
const REFRESH: &str = "argocd.argoproj.io/refresh";

/// When the next turn is due.
pub(super) enum Next {
    /// At that time, if nothing happens before.
    At(Option<Timestamp>),
}

impl Actor {
    pub(super) async fn turn(&mut self) -> Next {
        let now = Timestamp::now();
        let object = self.object.borrow_and_update().clone();
        self.next_look = None;
        self.report.conditions.clear();
        self.report.waiting = None;
        self.report.building = None;
        (self.rehearsed, self.difference, self.kept) = (None, None, None);
        self.finish(now).await;
        self.read_spec(&object);
        if !object["metadata"]["deletionTimestamp"].is_null() {
            return self.leave(&object).await;
        }
        self.keep_finalizer(&object).await;
        self.take_requests(&object).await;
        self.keep_account().await;
        let target = self.find_target().await;
        if target.is_some() {
            self.keep_hook_finalizers(&object).await;
        }
        let compared = match &target {
            Some(_) => self.compare(&object).await,
            None => false,
        };
        if let Some(target) = target.as_ref().filter(|_| compared) {
            self.report.drift = self.drift_of(target, &self.report.states);
        }
        self.compare_kept(&object).await;
        if let Some(waits) = self.waits.borrow().clone() {
            self.report.conditions.push(("SyncLocked", waits));
        }
        if compared {
            self.judge_what_is_there(now);
        }
        self.judge_revision(now).await;
        self.decide(&object, now).await;
        self.forget_lock();
        self.record_acts(now);
        self.hold_programs();
        let standing = self.conclude();
        self.tell_drift(&object).await;
        self.write(&object, now).await;
        self.publish(standing);
        Next::At(self.next_look)
    }

    pub(super) fn project(&self) -> Result<Project, String> {
        let Some(application) = &self.application else { return Ok(Project::open("")) };
        if self.id.front == Front::Flux {
            return Ok(Project::open(""));
        }
        let projects = self.shared.projects.borrow();
        if !projects.listed {
            return Err("the AppProjects are not read yet".to_owned());
        }
        let of = |namespace: &str| projects.all.get(&(namespace.to_owned(), application.project.clone())).cloned();
        // Projects stand beside their Applications; those of Argo CD's own namespace hold for all.
        let found = of(&self.id.namespace).or_else(|| of("argocd"));
        match (found, application.project.as_str()) {
            (Some(project), _) => Ok(project),
            (None, "default") => Ok(Project::open("default")),
            (None, name) => Err(format!(
                "there is no AppProject {name} in {} or argocd; make it, or name another",
                self.id.namespace
            )),
        }
    }

    /// Whether the projects were read since the start.
    pub(super) fn project_is_known(&self) -> bool {
        self.id.front == Front::Flux || self.shared.projects.borrow().listed
    }

    /// Reads the object again where it says something else than before.
    fn read_spec(&mut self, object: &Value) {
        let repository = match self.id.front {
            Front::Argo => None,
            Front::Flux => {
                let known = self.shared.flux.borrow();
                let missing = || Err("spec.sourceRef: there is no such GitRepository".to_owned());
                Some(flux::source_of(object).and_then(|key| known.get(&key).cloned()).unwrap_or_else(missing))
            }
        };
        let key = (json!([object["spec"], object["metadata"]["annotations"]]), repository.clone());
        if self.read.as_ref() != Some(&key) || self.application.is_none() {
            let read = match (&self.id.front, repository) {
                (Front::Argo, _) => argo::read(object),
                (_, Some(Ok(repository))) => flux::kustomization(object, &repository),
                (_, Some(Err(reason))) => Err(vec![reason]),
                (Front::Flux, None) => Err(vec!["spec.sourceRef is missing".to_owned()]),
            };
            self.read = Some(key);
            match read {
                Ok(application) => {
                    if let Err(reason) = self.sources.follow(&self.shared, &application) {
                        self.report.conditions.push(("InvalidSpecError", reason));
                    }
                    self.application = Some(application);
                }
                Err(wrong) => {
                    self.application = None;
                    self.report.conditions.push(("InvalidSpecError", wrong.join("; ")));
                }
            }
        }
        if let Some(application) = &self.application {
            self.report.conditions.extend(application.warnings.iter().map(|one| ("SpecWarning", one.clone())));
        }
    }

    /// Looks at the repositories at once, where somebody asks.
    pub(super) async fn take_requests(&mut self, object: &Value) {
        let asked = match self.id.front {
            Front::Argo => object::annotation(object, REFRESH).map(str::to_owned),
            Front::Flux => flux::requested_at(object).map(str::to_owned),
        };
        if asked.is_none() || asked == self.handled {
            self.handled = asked;
            return;
        }
        self.handled = asked;
        self.sources.poke();
        // What failed for a reason outside of the repository may go well now.
        self.unmade = None;
        self.left.retain(|_, outcome| outcome.is_ok());
        if self.id.front == Front::Argo {
            let patch = json!({ "metadata": { "annotations": { REFRESH: null } } });
            match self.shared.api.merge(&self.id.path(), &patch, compare::MANAGER).await {
                // The next one may read the same, and come before its absence is seen.
                Ok(_) => self.handled = None,
                Err(error) => tracing::debug!(%error, "the request for a refresh could not be taken away"),
            }
        }
    }

    /// The kinds of the API; asked for again where one of these objects' is missing.
    pub(super) async fn kinds(&mut self, objects: &[Value]) -> Option<Kinds> {
        let lacks = |kinds: &Kinds| {
            let missing = |one: &Value| kinds.of(object::api_version(one), object::kind(one)).is_none();
            objects.iter().any(missing)
        };
        if let Some(kinds) = self.kinds.as_ref().filter(|kinds| !lacks(kinds)) {
            return Some(kinds.clone());
        }
        match self.shared.api.kinds().await {
            Ok(kinds) => {
                self.kinds = Some(kinds.clone());
                Some(kinds)
            }
            Err(error) => {
                self.report.conditions.push(("ComparisonError", error.to_string()));
                self.look_later(ASK_AGAIN);
                None
            }
        }
    }

    /// Compares what is wanted with what is there. False where that could not be done.
    async fn compare(&mut self, object: &Value) -> bool {
        let Some(rendered) = self.rendered.clone() else { return false };
        // While it is being applied there is nothing to be learned from comparing.
        if self.running.as_ref().is_some_and(|running| running.content == rendered.content) {
            return false;
        }
        let Some(kinds) = self.kinds(&rendered.objects).await else { return false };
        self.follow(&kinds).await;
        let (mut memo, desired) = (std::mem::take(&mut self.memo), std::mem::take(&mut self.desired));
        let states = self.compare_with(&mut memo, &desired, &kinds).await;
        (self.memo, self.desired) = (memo, desired);
        let Some(states) = states else { return false };
        self.difference = Some(compare::difference(&states, self.desired.all.len(), self.approved(object)));
        self.report.states = states;
        self.report.compared = true;
        self.rehearsed = Some(rendered.content);
        let trouble: Vec<String> = self.report.states.iter().filter_map(|state| state.trouble.clone()).collect();
        if !trouble.is_empty() {
            let shown = trouble.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
            self.report.conditions.push(("ComparisonError", shown));
            self.look_later(ASK_SELDOM);
        }
        true
    }

    /// Follows the kinds of what is wanted, and of what the inventory says is there.
    pub(super) async fn follow(&mut self, kinds: &Kinds) {
        let mut wanted: BTreeSet<(String, String)> = self
            .desired
            .members
            .iter()
            .map(|one| (object::group(one).to_owned(), object::kind(one).to_owned()))
            .collect();
        if let Ok(Some(parent)) = self.shared.api.find(&self.set.path()).await
            && let Ok(contents) = self.set.contents(&parent)
        {
            wanted.extend(contents.kinds.iter().map(|text| {
                let (group, kind) = split_group_kind(text);
                (group.to_owned(), kind.to_owned())
            }));
        }
        let found: Vec<_> = wanted.iter().filter_map(|(group, kind)| kinds.of_group(group, kind)).collect();
        self.live.follow(found).await;
    }

    /// Good, bad, or not yet.
    async fn judge_revision(&mut self, now: Timestamp) {
        // A newer commit does not wait for this one's health: the judge goes when that begins. Where it cannot begin, this one is to be
        // good, or to be taken back.
        let Some(content) = self.judge.as_ref().map(|judge| judge.content.clone()) else { return };
        match self.look(now).await {
            Some(Look::Good) => {
                self.judge = None;
                self.report.memory.approve(&content, now);
                self.good = self.rendered.clone().filter(|rendered| rendered.content == content);
            }
            Some(Look::Bad(reason)) => {
                self.judge = None;
                tracing::warn!(application = %self.id, revision = content.short(), reason, "a revision is bad");
                self.report.memory.fail(&content, &reason, now);
            }
            Some(Look::Open(at)) => self.look_at(at),
            None => {}
        }
    }

    /// What is as the repository says is brought, whoever did it; whether it is good is judged, also where an earlier life ended before:
    /// what ends again and again is healthy for moments.
    fn judge_what_is_there(&mut self, now: Timestamp) {
        let Some(target) = self.report.target.clone() else { return };
        // A hook may have failed, though every object is there.
        let failing = self.report.memory.last().is_some_and(|last| !last.succeeded && last.content == target);
        let undone = self.report.memory.under_way.is_some() || self.running.is_some() || failing;
        if self.judge.is_some() || undone || self.differs() || self.refused_target().is_some() {
            return;
        }
        if self.report.memory.failure(&target).is_some() {
            return;
        }
        if self.report.memory.last().is_none_or(|last| last.content != target) {
            self.report.memory.synced(&Last { content: target.clone(), succeeded: true, attempts: 1, at: now });
        }
        if self.report.memory.good.as_ref().is_some_and(|good| good.content == target) {
            self.good = self.rendered.clone().filter(|rendered| rendered.content == target);
            return;
        }
        let members = self.desired.members.iter().map(ObjectId::of).collect();
        let deadline = self.application.as_ref().map(|one| one.policy.deadline).unwrap_or_default();
        self.judge = Some(Judge::new(target, members, deadline));
    }

    /// Whether a sync would change anything, as far as is known. What is kept although nobody wants it any more is no change.
    pub(super) fn differs(&self) -> bool {
        let Some(difference) = self.difference else { return self.report.code() != Code::Synced };
        match self.application.as_ref().and_then(|one| one.policy.automated) {
            Some(automated) => difference.open(automated) > 0,
            None => difference.changed + difference.extra > 0,
        }
    }

    async fn decide(&mut self, object: &Value, now: Timestamp) {
        let Some(application) = self.application.clone() else { return };
        if let Some(reason) = self.barred.clone() {
            // A project that is not there may be on its way.
            if object["operation"]["sync"].is_object() && self.project().is_ok() {
                self.refuse_asked(object, reason, now).await;
            }
            return;
        }
        if let Some(waiting) = self.dependencies(&application) {
            self.report.waiting = Some(waiting);
            return;
        }
        let asked = object["operation"]["sync"].is_object();
        if let (false, Some(at)) = (asked, self.lock_is_away()) {
            return self.look_at(at);
        }
        let open = self.windows(&application, asked, now).await;
        if asked && open.1 && self.bring_asked(object, now).await {
            return;
        }
        let glass = self.shared.glass.borrow().holds(&self.id);
        if let Some(reason) = &glass {
            self.report.conditions.push(("BreakGlass", format!("syncing is suspended: {reason}")));
        }
        let refused = self.refused_target();
        let (last, memory) = (self.report.memory.last(), &self.report.memory);
        let failed: Vec<Content> = memory.failed.iter().map(|one| one.content.clone()).collect();
        let rendered = self.rendered.as_ref().map(|rendered| &rendered.content);
        let picture = Picture {
            now,
            suspended: application.suspended || glass.is_some(),
            target: rendered.filter(|one| Some(*one) == self.report.target.as_ref()),
            difference: self.difference,
            refused: refused.is_some(),
            kept: self.kept,
            automated: application.policy.automated,
            retry: &application.policy.retry,
            last: last.as_ref(),
            failed: &failed,
            good: memory.good.as_ref().map(|good| &good.content),
            running: self.running.as_ref().map(|running| &running.content),
            cut: self.running.is_none() && memory.under_way.is_some(),
            asked,
            open,
        };
        let (empties, nothing) = (picture.empties(), picture.target.is_none());
        let action = decide::decide(&picture);
        if empties {
            self.report.conditions.push((
                "SyncError",
                "the repository wants nothing at all any more, and everything would be deleted; nothing was: set syncPolicy.automated.allowEmpty, or put the manifests back".to_owned(),
            ));
        }
        match action {
            Action::Rest | Action::RefuseEmpty => {}
            Action::Wait(at) => self.look_at(at),
            Action::Sync(why) => {
                if let Some(rendered) = self.rendered.clone() {
                    self.start(&rendered, false, why, object, now).await;
                }
            }
            Action::PutBack => self.put_back(&application, object, now).await,
        }
        if let (true, true, true, Some(reason)) = (asked, open.1, nothing, refused) {
            self.refuse_asked(object, reason, now).await;
        }
    }

    /// What is awaited of other applications.
    fn dependencies(&self, application: &Application) -> Option<String> {
        let standings = self.shared.standings.borrow();
        application.depends_on.iter().find_map(|(namespace, name)| {
            let id = crate::sync::application::AppId {
                front: Front::Flux,
                namespace: namespace.clone(),
                name: name.clone(),
            };
            match standings.get(&id) {
                Some(standing) if standing.stage == Stage::Live => None,
                Some(_) => Some(format!("dependency {namespace}/{name} is not ready")),
                None => Some(format!("dependency {namespace}/{name} is not there")),
            }
        })
    }

    fn record_acts(&mut self, now: Timestamp) {
        let all = self.live.view().all();
        let held = self.shared.glass.borrow().holds(&self.id).is_some();
        if held && self.running.is_none() {
            self.shared.glass.send_if_modified(|glass| glass.record(&self.id, &self.seen, &all, now));
        }
        self.seen = all.into_iter().map(|(id, one)| (id, object::resource_version(&one).to_owned())).collect();
    }

    pub(super) fn look_at(&mut self, at: Timestamp) {
        self.next_look = Some(self.next_look.map_or(at, |known| known.min(at)));
    }

    pub(super) fn look_later(&mut self, seconds: i64) {
        let at = Timestamp::now().checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
        self.look_at(at);
    }
}
