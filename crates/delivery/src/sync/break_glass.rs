//! Break-glass: a person suspends syncing, acts by hand, and hands back; what happens meanwhile is recorded.
//!
//! Sessions and records are in the ConfigMap `coracle-break-glass` in `kube-system`: `ID.session` says who, why, since when and
//! for which application (the command line writes it), `ID.acts` what was changed (the sync writes it). Neither overwrites
//! the other. It works without the sync running: a session that is open when it starts holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::application::AppId;
use super::engine::compare::MANAGER;
use crate::object::{self, ObjectId};

/// The path of the ConfigMap.
pub const PATH: &str = "/api/v1/namespaces/kube-system/configmaps/coracle-break-glass";
/// How many acts one session remembers.
const ACTS: usize = 200;
/// How many sessions are kept.
pub const SESSIONS: usize = 50;

/// One session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Why.
    pub reason: String,
    /// `USER@HOST` of whoever began it.
    pub by: String,
    /// `NAMESPACE/NAME` or `NAME` of an application, or `*` for all.
    pub application: String,
    /// When it began.
    pub since: String,
    /// When it was handed back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// Who handed it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<String>,
}

impl Session {
    /// Whether an application is meant.
    #[must_use]
    pub fn means(&self, id: &AppId) -> bool {
        match self.application.split_once('/') {
            Some((namespace, name)) => namespace == id.namespace && name == id.name,
            None => self.application == "*" || self.application == id.name,
        }
    }
}

/// One thing that was done by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// When it was seen.
    pub at: String,
    /// Which object, in words.
    pub object: String,
    /// `created`, `changed` or `deleted`.
    pub what: String,
    /// The field manager that wrote last (the API keeps no names of people).
    pub manager: String,
    /// The application.
    pub application: String,
}

/// All sessions, and what was done in them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Glass {
    /// By id.
    pub sessions: BTreeMap<String, Session>,
    /// By id of the session, oldest first.
    pub acts: BTreeMap<String, Vec<Act>>,
}

impl Glass {
    /// Reads the ConfigMap. What cannot be read is left out.
    #[must_use]
    pub fn read(map: &Value) -> Self {
        let mut glass = Self::default();
        for (name, text) in map["data"].as_object().into_iter().flatten() {
            let text = text.as_str().unwrap_or_default();
            if let Some(id) = name.strip_suffix(".session") {
                match serde_json::from_str(text) {
                    Ok(session) => drop(glass.sessions.insert(id.to_owned(), session)),
                    Err(error) => tracing::warn!(name, %error, "a break-glass session cannot be read"),
                }
            } else if let Some(id) = name.strip_suffix(".acts") {
                glass.acts.insert(id.to_owned(), serde_json::from_str(text).unwrap_or_default());
            }
        }
        glass
    }

    /// Why an application is held; none where it is not.
    #[must_use]
    pub fn holds(&self, id: &AppId) -> Option<String> {
        let open = self.sessions.values().find(|session| session.ended.is_none() && session.means(id))?;
        Some(format!("break-glass by {} since {}: {}", open.by, open.since, open.reason))
    }

    /// Records what differs between two sights of an application's objects. True where there was something.
    pub fn record(
        &mut self,
        id: &AppId,
        before: &BTreeMap<ObjectId, String>,
        after: &BTreeMap<ObjectId, Arc<Value>>,
        now: Timestamp,
    ) -> bool {
        let open = self.sessions.iter().find(|(_, session)| session.ended.is_none() && session.means(id));
        let Some((session, since)) = open.map(|(id, session)| (id.clone(), session.since.clone())) else {
            return false;
        };
        let recorded = self.acts.get(&session).cloned().unwrap_or_default();
        let known = |object: &ObjectId, at: &str| {
            recorded.iter().any(|act| act.object == object.to_string() && act.at.as_str() >= at)
        };
        let mut found = Vec::new();
        let mut tell = |object: &ObjectId, what: &str, manager: String| {
            found.push(Act {
                at: super::report::stamp(now),
                object: object.to_string(),
                what: what.to_owned(),
                manager,
                application: format!("{}/{}", id.namespace, id.name),
            });
        };
        // Nobody looked before: what was done since the session began is told by its times.
        let unseen = before.is_empty();
        for (object, live) in after {
            match before.get(object) {
                None if unseen => {
                    if by_hand(live)
                        && at(live) >= since.as_str()
                        && manager(live) != MANAGER
                        && !known(object, at(live))
                    {
                        tell(object, "changed", manager(live));
                    }
                }
                None => tell(object, "created", manager(live)),
                Some(version) if version != object::resource_version(live) && by_hand(live) => {
                    tell(object, "changed", manager(live))
                }
                Some(_) => {}
            }
        }
        for object in before.keys().filter(|object| !after.contains_key(*object)) {
            tell(object, "deleted", String::new());
        }
        if found.is_empty() {
            return false;
        }
        let acts = self.acts.entry(session).or_default();
        acts.extend(found);
        let over = acts.len().saturating_sub(ACTS);
        acts.drain(..over);
        true
    }

    /// The patch that keeps the records.
    #[must_use]
    pub fn acts_patch(&self) -> Value {
        let acts = self.acts.iter().map(|(id, acts)| (format!("{id}.acts"), json!(json!(acts).to_string())));
        json!({ "data": acts.collect::<serde_json::Map<String, Value>>() })
    }
}

/// The entry of managedFields that was written last, status left out.
fn latest(live: &Value) -> Option<&Value> {
    let entries = live["metadata"]["managedFields"].as_array()?.iter();
    entries.max_by_key(|entry| entry["time"].as_str().unwrap_or_default())
}

/// A controller that writes a status does not act by hand.
fn by_hand(live: &Value) -> bool {
    latest(live).is_none_or(|entry| entry["subresource"].as_str().unwrap_or_default() != "status")
}

/// When it was written last (RFC 3339, UTC); nothing where nobody says.
fn at(live: &Value) -> &str {
    latest(live).and_then(|entry| entry["time"].as_str()).unwrap_or_default()
}

fn manager(live: &Value) -> String {
    latest(live).and_then(|entry| entry["manager"].as_str()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::application::Front;

    fn id(name: &str) -> AppId {
        AppId { front: Front::Argo, namespace: "argocd".into(), name: name.into() }
    }

    fn session(application: &str, ended: Option<&str>) -> String {
        let session = Session {
            reason: "the site is down".into(),
            by: "ann@desk".into(),
            application: application.into(),
            since: "2026-01-01T00:00:00Z".into(),
            ended: ended.map(str::to_owned),
            ended_by: None,
        };
        serde_json::to_string(&session).expect("JSON")
    }

    #[test]
    fn open_sessions_hold_what_they_mean() {
        let glass =
            |application: &str, ended| Glass::read(&json!({ "data": { "a.session": session(application, ended) } }));
        for (application, ended, held) in [
            ("*", None, true),
            ("shop", None, true),
            ("argocd/shop", None, true),
            ("other/shop", None, false),
            ("blog", None, false),
            ("*", Some("2026-01-02T00:00:00Z"), false),
        ] {
            assert_eq!(glass(application, ended).holds(&id("shop")).is_some(), held, "{application}");
        }
    }

    #[test]
    fn what_is_done_by_hand_is_recorded_and_bounded() {
        let mut glass = Glass::read(&json!({ "data": { "a.session": session("*", None) } }));
        let object = |name: &str| ObjectId {
            group: String::new(),
            kind: "ConfigMap".into(),
            namespace: "n".into(),
            name: name.into(),
        };
        let live = |version: &str, subresource: &str| {
            Arc::new(json!({ "metadata": { "resourceVersion": version,
                "managedFields": [{ "manager": "kubectl-edit", "time": "2", "subresource": subresource }] } }))
        };
        let before = BTreeMap::from([
            (object("a"), "1".to_owned()),
            (object("b"), "1".to_owned()),
            (object("c"), "1".to_owned()),
        ]);
        let after = BTreeMap::from([
            (object("a"), live("2", "")),
            (object("b"), live("2", "status")),
            (object("d"), live("1", "")),
        ]);
        assert!(glass.record(&id("shop"), &before, &after, Timestamp::UNIX_EPOCH));
        let acts: Vec<String> =
            glass.acts["a"].iter().map(|act| format!("{} {} {}", act.object, act.what, act.manager)).collect();
        assert_eq!(
            acts,
            [
                "configmap/a in n changed kubectl-edit",
                "configmap/d in n created kubectl-edit",
                "configmap/c in n deleted "
            ]
        );
        for _ in 0..100 {
            glass.record(&id("shop"), &before, &after, Timestamp::UNIX_EPOCH);
        }
        assert_eq!(glass.acts["a"].len(), ACTS);
        let again = Glass::read(&glass.acts_patch());
        assert_eq!(again.acts, glass.acts);
    }
}
