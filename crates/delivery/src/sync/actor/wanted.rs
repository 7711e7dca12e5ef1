//! What an application is to be now: its limits held against its project, its commits resolved and rendered.

use super::Actor;
use super::target::{NoTarget, Rendered};
use crate::sync::application::Application;
use crate::sync::engine::compare;
use crate::sync::engine::decide::Content;

/// What could not be had is asked for again after so many seconds.
const ASK_AGAIN: i64 = 5;

impl Actor {
    /// What the repositories say, rendered. None where nothing can be said.
    pub(super) async fn find_target(&mut self) -> Option<Content> {
        let application = self.application.clone()?;
        self.barred = self.objections(&application);
        if let Some(objections) = &self.barred {
            if self.project_is_known() {
                self.report.conditions.push(("InvalidSpecError", objections.clone()));
            }
            // What was rendered while it was allowed is not brought any more.
            (self.report.target, self.report.compared) = (None, false);
            (self.rendered, self.asked, self.making) = (None, None, None);
            return None;
        }
        if let Some(trouble) = self.sources.trouble() {
            self.report.conditions.push(("SourceError", trouble));
        }
        let resolved = match self.sources.resolve() {
            Ok(resolved) => resolved,
            Err(NoTarget::NotYet | NoTarget::Make(..)) => return None,
            Err(NoTarget::Later(reason) | NoTarget::Wrong(_, reason)) => {
                if !self.report.conditions.iter().any(|(kind, _)| *kind == "SourceError") {
                    self.report.conditions.push(("ComparisonError", reason));
                }
                return None;
            }
        };
        let content = super::target::content(&application, &resolved);
        self.report.target = Some(content.clone());
        if let Some((wrong, reason)) = self.wrong.as_ref().filter(|(wrong, _)| *wrong == content) {
            self.report.conditions.push(("ComparisonError", format!("revision {}: {reason}", wrong.short())));
            self.report.compared = false;
            return None;
        }
        self.drop_stale_making(&content);
        if let Some((_, reason)) = self.unmade.as_ref().filter(|(unmade, _)| *unmade == content) {
            self.report.conditions.push(("ComparisonError", format!("revision {}: {reason}", content.short())));
            self.report.compared = false;
            return None;
        }
        if self.is_being_made(&content) {
            return None;
        }
        // Variables from ConfigMaps may change though the commit does not.
        let substitutes =
            application.sources.iter().any(|one| one.build.substitute.as_ref().is_some_and(|s| !s.from.is_empty()));
        let known = self.rendered.as_ref().is_some_and(|known| known.content == content && !self.is_lost(known));
        if !known || substitutes {
            match self.sources.render(&self.shared, &application, &resolved).await {
                Ok(rendered) => self.take_rendered(rendered, &application).await?,
                Err(NoTarget::NotYet) => return None,
                Err(NoTarget::Make(content, orders)) => {
                    self.make(content.clone(), orders);
                    self.is_being_made(&content);
                    return None;
                }
                Err(NoTarget::Later(reason)) => {
                    self.report.conditions.push(("ComparisonError", reason));
                    self.look_later(ASK_AGAIN);
                    return None;
                }
                Err(NoTarget::Wrong(content, reason)) => {
                    self.report.conditions.push(("ComparisonError", reason.clone()));
                    self.wrong = content.map(|content| (content, reason));
                    self.report.compared = false;
                    return None;
                }
            }
        }
        Some(content)
    }

    /// What its project does not allow.
    fn objections(&self, application: &Application) -> Option<String> {
        let objections = match self.project() {
            Ok(project) => project.objections(application),
            Err(reason) => vec![reason],
        };
        (!objections.is_empty()).then(|| objections.join("; "))
    }

    /// Whether the programs of a content are being made, which is said then.
    fn is_being_made(&mut self, content: &Content) -> bool {
        self.report.building = self.making_of(content);
        // What was compared before was not this.
        self.report.compared &= self.report.building.is_none();
        self.report.building.is_some()
    }

    async fn take_rendered(&mut self, rendered: Rendered, application: &Application) -> Option<()> {
        let kinds = self.kinds(&rendered.objects).await?;
        match compare::prepare(&rendered.objects, &kinds, &application.namespace, &self.set.id()) {
            Ok(desired) => {
                self.report.made = Some(rendered.made);
                self.report.commit = rendered.commit.clone();
                self.report.flux_revision = rendered.flux_revision.clone();
                self.desired = desired;
                self.rendered = Some(rendered);
                self.wrong = None;
                Some(())
            }
            Err(wrong) => {
                let reason = wrong.join("; ");
                self.report.conditions.push(("ComparisonError", reason.clone()));
                self.wrong = Some((rendered.content, reason));
                self.report.compared = false;
                None
            }
        }
    }
}
