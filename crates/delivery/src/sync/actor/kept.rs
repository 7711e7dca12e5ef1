//! Comparisons with what is there: of what the repository says, and of the last good content where that is kept in its place. And the
//! way back to it.
//!
//! Invariants: a comparison changes nothing; what is kept is watched and healed as what the repository says would be.

use serde_json::Value;

use super::Actor;
use super::target::{NoTarget, Rendered};
use crate::kinds::Kinds;
use crate::sync::application::Application;
use crate::sync::engine::compare::{self, Desired, Memo, Question, State};
use crate::sync::engine::decide::Why;

/// A good content that cannot be rendered is tried again after so many seconds.
const AGAIN: i64 = 60;
/// How many objects are named that cannot be brought.
const NAMED: usize = 5;

impl Actor {
    /// Compares objects with what is there. None where that cannot be asked.
    pub(super) async fn compare_with(
        &mut self,
        memo: &mut Memo,
        desired: &Desired,
        kinds: &Kinds,
    ) -> Option<Vec<State>> {
        let application = self.application.clone()?;
        let (Ok(project), Ok(api)) = (self.project(), self.guarded(kinds)) else { return None };
        let (view, set) = (self.live.view(), self.set.id());
        let question = Question {
            api: &api,
            kinds,
            live: &view,
            set: &set,
            ignore: &application.ignore,
            project: &project,
            options: &application.policy.options,
            coming: compare::coming(desired),
        };
        Some(memo.compare(&question, desired).await)
    }

    /// What the API refuses of what is to be brought; it is asked now, unless this turn has asked already.
    ///
    /// # Errors
    ///
    /// When it could not be asked.
    pub(super) async fn refusals(
        &mut self,
        rendered: &Rendered,
        desired: &Desired,
        kinds: &Kinds,
    ) -> Result<Option<String>, ()> {
        let fresh = match self.rehearsed.as_ref() == Some(&rendered.content) {
            true => None,
            false => Some(self.compare_with(&mut Memo::default(), desired, kinds).await.ok_or(())?),
        };
        let states = fresh.as_ref().unwrap_or(&self.report.states);
        let shown: Vec<&str> = compare::troubles(states).take(NAMED).collect();
        Ok((!shown.is_empty()).then(|| shown.join("; ")))
    }

    /// What the repository says that cannot be brought, and why, as far as that is known.
    pub(super) fn refused_target(&self) -> Option<String> {
        let target = self.report.target.as_ref()?;
        let known = [&self.wrong, &self.unmade].into_iter().flatten().find(|(content, _)| content == target);
        let rehearsed = self.rehearsed.as_ref() == Some(target);
        let trouble = || compare::troubles(&self.report.states).next().filter(|_| rehearsed).map(str::to_owned);
        known.map(|(_, reason)| reason.clone()).or_else(trouble)
    }

    /// Compares the last good content with what is there, where it is kept in place of what the repository says.
    pub(super) async fn compare_kept(&mut self, object: &Value) {
        let memory = &self.report.memory;
        let (Some(target), Some(good)) = (&self.report.target, memory.good.as_ref().map(|good| &good.content)) else {
            return;
        };
        let brought = memory.last().is_some_and(|last| last.succeeded && last.content == *good);
        let away = memory.failure(target).is_some() || self.refused_target().is_some();
        if self.barred.is_some() || self.running.is_some() || target == good || !brought || !away {
            return;
        }
        let Some(application) = self.application.clone() else { return };
        // Why it cannot be had is said where it is to be put back.
        let Ok(good) = self.render_good(&application).await else { return };
        let Some(kinds) = self.kinds(&good.objects).await else { return };
        let Ok(desired) = compare::prepare(&good.objects, &kinds, &application.namespace, &self.set.id()) else {
            return;
        };
        self.follow(&kinds).await;
        let mut memo = std::mem::take(&mut self.good_memo);
        let states = self.compare_with(&mut memo, &desired, &kinds).await;
        self.good_memo = memo;
        if let Some(states) = states {
            self.kept = Some(compare::difference(&states, desired.all.len(), self.approved(object)));
            self.report.drift = self.drift_of(&good.content, &states);
        }
    }

    /// Brings the last good content back.
    pub(super) async fn put_back(&mut self, application: &Application, object: &Value, now: jiff::Timestamp) {
        match self.render_good(application).await {
            Ok(good) => self.start(&good, true, Why::New, object, now).await,
            Err(Some(reason)) => self.cannot_put_back(&reason),
            Err(None) => {}
        }
    }

    pub(super) fn cannot_put_back(&mut self, reason: &str) {
        let Some(good) = &self.report.memory.good else { return };
        let message = format!("the last good revision {} cannot be put back: {reason}", good.content.short());
        self.report.conditions.push(("SyncError", message));
        self.look_later(AGAIN);
    }

    /// The last good content, rendered; else why not, or nothing where it is on its way.
    async fn render_good(&mut self, application: &Application) -> Result<Rendered, Option<String>> {
        let content = self.report.memory.good.as_ref().map(|good| good.content.clone()).ok_or(None)?;
        if let Some(good) = self.good.as_ref().filter(|good| good.content == content && !self.is_lost(good)) {
            return Ok(good.clone());
        }
        if let Some((_, reason)) = self.unmade.as_ref().filter(|(unmade, _)| *unmade == content) {
            return Err(Some(reason.clone()));
        }
        if self.making_of(&content).is_some() {
            return Err(None);
        }
        let Some(resolved) = self.sources.again(application, &content) else {
            return Err(Some("its path or options were others then".to_owned()));
        };
        match self.sources.render(&self.shared, application, &resolved).await {
            Ok(rendered) => {
                self.good = Some(rendered.clone());
                Ok(rendered)
            }
            Err(NoTarget::Later(reason) | NoTarget::Wrong(_, reason)) => Err(Some(reason)),
            Err(NoTarget::Make(content, orders)) => {
                self.make(content, orders);
                Err(None)
            }
            Err(NoTarget::NotYet) => Err(None),
        }
    }
}
