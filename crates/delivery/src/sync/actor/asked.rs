//! What somebody asks for by `operation`, beyond what the repository says now; and whether the project's windows let anything begin.
//!
//! Invariants: a request that is refused is taken away and says why; where syncs happen by themselves, no other revision is brought, because
//! it would be undone at once.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Actor;
use super::target::{NoTarget, Rendered};
use crate::sync::application::Application;
use crate::sync::engine::compare::MANAGER;
use crate::sync::engine::decide::{Content, Why};
use crate::sync::front::window;
use crate::sync::report::Operation;

/// What became of a request for a revision.
enum Found {
    /// It is what the repository says anyway.
    Target,
    /// It is to be brought.
    Other(Rendered),
    /// It is on its way here.
    Later,
    /// It cannot be brought.
    Refused(String),
}

impl Actor {
    /// Whether the project's windows let a sync begin: by itself, and where somebody asks. One that began by itself ends where none of
    /// them lets it go on, and is done again later.
    pub(super) async fn windows(&mut self, application: &Application, asked: bool, now: Timestamp) -> (bool, bool) {
        let Ok(Ok(windows)) = self.project().map(|project| project.windows) else { return (true, true) };
        let Some(said) = window::permission(&windows, application, now) else { return (true, true) };
        let closed = if asked { !said.manual } else { !said.automated };
        if let Some(look) = said.look {
            self.look_at(look);
        }
        if closed {
            let until = said.until.map_or_else(String::new, |until| format!("; the next change is at {until}"));
            let by_hand = if !asked && said.manual { "; a sync by hand is let through" } else { "" };
            let message = format!("project {}: {}{until}{by_hand}", application.project, said.why);
            self.report.conditions.push(("SyncWindow", message));
        }
        if !said.automated && !said.overrun && self.runs_by_itself() {
            self.end_work().await;
            if let Some(operation) = &mut self.report.operation {
                operation.message =
                    "a sync window (without syncOverrun) stopped it; it is done again when syncs are allowed"
                        .to_owned();
                (operation.phase, operation.finished) = ("Error", Some(now));
            }
        }
        (said.automated, said.manual)
    }

    /// Whether a sync of what the repository says goes on that nobody asked for.
    fn runs_by_itself(&self) -> bool {
        let automated = |operation: &Operation| operation.operation["initiatedBy"]["automated"] == true;
        self.running.as_ref().is_some_and(|running| !running.other)
            && self.report.operation.as_ref().is_some_and(automated)
    }

    /// Brings another revision than the repository's, where somebody asks for one. True where that is the whole answer.
    pub(super) async fn bring_asked(&mut self, object: &Value, now: Timestamp) -> bool {
        let wanted = object["operation"]["sync"]["revision"].as_str().unwrap_or_default().to_owned();
        let Some(application) = self.application.clone().filter(|_| !wanted.is_empty()) else { return false };
        if self.running.is_some() {
            return true;
        }
        match self.find_asked(&application, &wanted).await {
            Found::Target => false,
            Found::Later => true,
            Found::Other(rendered) => {
                self.start(&rendered, true, Why::Asked, object, now).await;
                self.asked = None;
                true
            }
            Found::Refused(reason) => {
                self.refuse_asked(object, reason, now).await;
                true
            }
        }
    }

    async fn find_asked(&mut self, application: &Application, wanted: &str) -> Found {
        let resolved = match self.sources.resolve_at(wanted) {
            Ok(resolved) => resolved,
            Err(NoTarget::NotYet) => return Found::Later,
            Err(NoTarget::Later(reason) | NoTarget::Wrong(_, reason)) => return Found::Refused(reason),
            Err(NoTarget::Make(..)) => return Found::Later,
        };
        let content = super::target::content(application, &resolved);
        if self.report.target.as_ref() == Some(&content) {
            return Found::Target;
        }
        if application.policy.automated.is_some() {
            return Found::Refused(format!(
                "{wanted:?} is not what targetRevision names, and automated syncs would undo it at once: set syncPolicy.automated.enabled to false, or change targetRevision"
            ));
        }
        if let Some((_, reason)) = self.unmade.as_ref().filter(|(unmade, _)| *unmade == content) {
            return Found::Refused(reason.clone());
        }
        self.asked = Some(content.clone());
        self.report.building = self.making_of(&content);
        if self.report.building.is_some() {
            return Found::Later;
        }
        match self.sources.render(&self.shared, application, &resolved).await {
            Ok(rendered) => Found::Other(rendered),
            Err(NoTarget::NotYet) => Found::Later,
            Err(NoTarget::Make(content, orders)) => {
                self.make(content.clone(), orders);
                self.report.building = self.making_of(&content);
                Found::Later
            }
            Err(NoTarget::Later(reason) | NoTarget::Wrong(_, reason)) => Found::Refused(reason),
        }
    }

    /// Takes a request away, and says why.
    pub(super) async fn refuse_asked(&mut self, object: &Value, reason: String, now: Timestamp) {
        self.asked = None;
        let wanted = object["operation"]["sync"]["revision"].as_str().unwrap_or_default();
        let nowhere = || Content { revisions: vec![wanted.to_owned()], parameters: String::new() };
        let target = self.report.target.clone().filter(|target| wanted.is_empty() || target.revisions[0] == wanted);
        self.report.operation = Some(Operation {
            phase: "Error",
            message: reason,
            content: target.unwrap_or_else(nowhere),
            started: now,
            finished: Some(now),
            retries: 0,
            operation: object["operation"].clone(),
            done: Vec::new(),
        });
        // Whoever waits for the request to be gone reads then what became of it.
        self.write(object, now).await;
        let patch = json!({ "operation": null });
        if let Err(error) = self.shared.api.merge(&self.id.path(), &patch, MANAGER).await {
            tracing::warn!(application = %self.id, %error, "the request for a sync could not be taken away");
        }
    }
}
