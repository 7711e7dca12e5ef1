//! What others changed of an application that was brought: found by the comparison, said as a condition, a number and Events.
//!
//! Invariant: only what was applied once, and differs now, has drifted; a commit that is still to be brought has not.

use serde_json::Value;

use super::Actor;
use crate::drift::board::{Subject, Turn, event};
use crate::drift::{Drift, What, summary};
use crate::sync::engine::compare::{Code, MANAGER, State};
use crate::sync::engine::decide::Content;

/// How many differences are kept of one application.
const MOST: usize = 100;

impl Actor {
    pub(super) fn subject(&self) -> Subject {
        Subject { kind: self.id.kind(), namespace: self.id.namespace.clone(), name: self.id.name.clone() }
    }

    /// What has drifted, by the comparison with a content.
    pub(super) fn drift_of(&self, content: &Content, states: &[State]) -> Vec<Drift> {
        let memory = &self.report.memory;
        // What is taken back differs by our own doing.
        let left =
            memory.failure(content).is_some() && memory.good.as_ref().is_some_and(|good| good.content != *content);
        let applied = !left && memory.last().is_some_and(|last| last.succeeded && last.content == *content);
        let states = states.iter().filter(|state| applied && !state.extra);
        states.flat_map(of_state).take(MOST).collect()
    }

    /// Says what has drifted.
    pub(super) async fn tell_drift(&mut self, object: &Value) {
        let (_, _, message, objects) = summary(&self.report.drift);
        let Some(turn) = self.shared.drifts.set(&self.subject(), objects) else { return };
        let message = match turn {
            Turn::Appeared => message,
            Turn::Gone => "every object is as the repository says again".to_owned(),
        };
        event(&self.shared.api, object, turn, &message).await;
    }
}

fn of_state(state: &State) -> Vec<Drift> {
    if state.code != Code::OutOfSync || state.trouble.is_some() {
        return Vec::new();
    }
    let whole = |what| Drift {
        object: state.id.clone(),
        what,
        field: String::new(),
        applied: None,
        live: None,
        manager: String::new(),
        time: None,
    };
    let missing = state.health.as_ref().is_some_and(|health| health.status == crate::health::Status::Missing);
    if state.fields.is_empty() {
        return vec![whole(if missing { What::Missing } else { What::Released })];
    }
    let one = |field: &crate::diff::FieldChange| {
        // Who applied it last did not make it drift.
        let other = field.owners.iter().find(|owner| owner.manager != MANAGER).or(field.owners.first());
        Drift {
            field: field.path.clone(),
            applied: field.after.clone(),
            live: field.before.clone(),
            manager: other.map(|owner| owner.manager.clone()).unwrap_or_default(),
            time: other.and_then(|owner| owner.time.clone()),
            ..whole(What::Changed)
        }
    };
    state.fields.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Health, Status};
    use crate::object::ObjectId;
    use serde_json::json;

    #[test]
    fn fields_are_told_with_who_changed_them() {
        let id = ObjectId { group: String::new(), kind: "ConfigMap".into(), namespace: "n".into(), name: "a".into() };
        let health = |status| Some(Health { status, message: String::new() });
        let mut state = State {
            id,
            version: "v1".into(),
            code: Code::OutOfSync,
            health: health(Status::Healthy),
            extra: false,
            wave: 0,
            trouble: None,
            prune: crate::sync::application::Prune::Yes,
            fields: serde_json::from_value(json!([{ "path": ".data.x", "before": "hand", "after": "git",
                "owners": [{ "manager": MANAGER, "operation": "Apply" },
                    { "manager": "kubectl-edit", "operation": "Update", "time": "2026-01-01T00:00:00Z" }] }]))
            .expect("fields"),
        };
        let found = of_state(&state);
        assert_eq!((found[0].manager.as_str(), found[0].field.as_str()), ("kubectl-edit", ".data.x"));
        assert_eq!((&found[0].applied, &found[0].live), (&Some(json!("git")), &Some(json!("hand"))));
        state.fields.clear();
        assert_eq!(of_state(&state)[0].what, What::Released);
        state.health = health(Status::Missing);
        assert_eq!(of_state(&state)[0].what, What::Missing);
        state.code = Code::Synced;
        assert!(of_state(&state).is_empty());
    }
}
