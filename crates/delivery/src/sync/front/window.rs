//! When an AppProject lets its applications be synced: `syncWindows`, as Argo CD has them.
//!
//! Pure. Where a window that forbids is open, or there are windows that allow and none is open, nothing is begun; by hand only where
//! all those windows say `manualSync`. What was begun goes on to its end.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::cron::Schedule;
use super::project::matches;
use super::{text, texts};
use crate::sync::application::{Application, duration};

/// One window.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    allows: bool,
    written: String,
    schedule: Schedule,
    duration: SignedDuration,
    zone: TimeZone,
    applications: Vec<String>,
    namespaces: Vec<String>,
    clusters: Vec<String>,
    manual: bool,
    all: bool,
}

/// Whether a sync may begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    /// Whether it may by itself.
    pub automated: bool,
    /// Whether it may where somebody asks.
    pub manual: bool,
    /// Why not.
    pub why: String,
    /// When that may be different.
    pub until: Option<Timestamp>,
}

impl Window {
    /// Reads one entry of `spec.syncWindows`.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong.
    pub fn read(entry: &Value) -> Result<Self, String> {
        let allows = match text(entry, "kind") {
            "allow" => true,
            "deny" => false,
            other => return Err(format!("kind {other:?} is neither allow nor deny")),
        };
        let zone = Some(text(entry, "timeZone")).filter(|zone| !zone.is_empty()).unwrap_or("UTC");
        let lasts = duration(text(entry, "duration")).and_then(|time| SignedDuration::try_from(time).ok());
        let lasts = lasts.filter(|time| *time > SignedDuration::ZERO && *time <= SignedDuration::from_hours(24 * 366));
        Ok(Self {
            allows,
            written: format!(
                "{} {} {} {}",
                text(entry, "kind"),
                text(entry, "schedule"),
                zone,
                text(entry, "duration")
            ),
            schedule: Schedule::parse(text(entry, "schedule"))?,
            duration: lasts
                .ok_or_else(|| format!("duration {:?} is no time up to a year; write 1h", text(entry, "duration")))?,
            zone: TimeZone::get(zone).map_err(|error| format!("timeZone {zone:?} is not known here: {error}"))?,
            applications: texts(&entry["applications"]),
            namespaces: texts(&entry["namespaces"]),
            clusters: texts(&entry["clusters"]),
            manual: entry["manualSync"] == true,
            all: entry["useAndOperator"] == true,
        })
    }

    fn means(&self, application: &Application) -> bool {
        let fits = |patterns: &[String], texts: &[&str]| {
            let any = patterns.iter().any(|pattern| texts.iter().any(|text| matches(pattern, text)));
            (!patterns.is_empty()).then_some(any)
        };
        let found = [
            fits(&self.applications, &[&application.id.name]),
            fits(&self.namespaces, &[&application.namespace]),
            fits(&self.clusters, &["in-cluster", "https://kubernetes.default.svc"]),
        ];
        let mut said = found.into_iter().flatten().peekable();
        if said.peek().is_none() {
            return false;
        }
        if self.all { said.all(|fits| fits) } else { said.any(|fits| fits) }
    }

    /// When it closes, where it is open.
    fn open_until(&self, now: Timestamp) -> Option<Timestamp> {
        let last = self.schedule.last(now, &self.zone, self.duration)?;
        last.checked_add(self.duration).ok()
    }
}

/// What the windows of a project say about an application now; none where no window is about it.
#[must_use]
pub fn permission(windows: &[Window], application: &Application, now: Timestamp) -> Option<Permission> {
    let ours: Vec<(&Window, Option<Timestamp>)> =
        windows.iter().filter(|one| one.means(application)).map(|one| (one, one.open_until(now))).collect();
    if ours.is_empty() {
        return None;
    }
    let turn = |(window, open): &(&Window, Option<Timestamp>)| match open {
        Some(until) => Some(*until),
        None => window.schedule.next(now, &window.zone),
    };
    let until = ours.iter().filter_map(turn).min();
    let denies: Vec<&Window> =
        ours.iter().filter(|(one, open)| !one.allows && open.is_some()).map(|(one, _)| *one).collect();
    let allows: Vec<&(&Window, Option<Timestamp>)> = ours.iter().filter(|(one, _)| one.allows).collect();
    let closed: Vec<&Window> = if denies.is_empty() && allows.iter().all(|(_, open)| open.is_none()) {
        allows.iter().map(|(one, _)| *one).collect()
    } else {
        denies.clone()
    };
    let written = closed.iter().map(|one| one.written.as_str()).collect::<Vec<_>>().join(", ");
    let why = if denies.is_empty() {
        format!("no window that allows syncs is open: {written}")
    } else {
        format!("a window that denies syncs is open: {written}")
    };
    Some(Permission { automated: closed.is_empty(), manual: closed.iter().all(|one| one.manual), why, until })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn windows(entries: &Value) -> Vec<Window> {
        entries.as_array().expect("a list").iter().map(|one| Window::read(one).expect("a window")).collect()
    }

    #[test]
    fn windows_allow_and_deny_as_in_argo() {
        let object = json!({ "metadata": { "name": "shop-prod", "namespace": "argocd" }, "spec": {
            "source": { "repoURL": "/x" }, "destination": { "namespace": "shop" } } });
        let application = super::super::argo::read(&object).expect("it is right");
        // A Thursday, 12:00 in London.
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().expect("a time");
        let one = |kind: &str, schedule: &str, more: Value| {
            let mut entry = json!({ "kind": kind, "schedule": schedule, "duration": "1h", "applications": ["*-prod"] });
            for (name, value) in more.as_object().into_iter().flatten() {
                entry[name] = value.clone();
            }
            entry
        };
        let (open, shut) = ("30 11 * * *", "0 22 * * *");
        for (entries, wanted) in [
            (json!([]), None),
            (json!([one("deny", open, json!({ "applications": ["other"] }))]), None),
            (json!([one("allow", open, json!({}))]), Some((true, true))),
            (json!([one("allow", shut, json!({}))]), Some((false, false))),
            (json!([one("allow", shut, json!({ "manualSync": true }))]), Some((false, true))),
            (json!([one("deny", open, json!({}))]), Some((false, false))),
            (json!([one("deny", open, json!({ "manualSync": true }))]), Some((false, true))),
            (json!([one("deny", shut, json!({}))]), Some((true, true))),
            (json!([one("allow", open, json!({})), one("deny", open, json!({}))]), Some((false, false))),
            (json!([one("allow", open, json!({})), one("allow", shut, json!({}))]), Some((true, true))),
            (json!([one("deny", open, json!({ "applications": [], "namespaces": ["sh*"] }))]), Some((false, false))),
            (json!([one("deny", open, json!({ "namespaces": ["other"], "useAndOperator": true }))]), None),
            (
                json!([one("deny", open, json!({ "applications": [], "clusters": ["in-cluster"] }))]),
                Some((false, false)),
            ),
            // 12:00 in London is 13:00 in Amsterdam.
            (json!([one("deny", "30 12 * * *", json!({ "timeZone": "Europe/Amsterdam" }))]), Some((false, false))),
        ] {
            let said = permission(&windows(&entries), &application, now);
            assert_eq!(said.as_ref().map(|said| (said.automated, said.manual)), wanted, "{entries}");
        }
        let said = permission(&windows(&json!([one("deny", open, json!({}))])), &application, now).expect("one");
        assert_eq!(said.until, Some("2026-01-01T12:30:00Z".parse().expect("a time")));
        assert!(said.why.contains("deny 30 11 * * * UTC 1h"), "{}", said.why);
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for (entry, words) in [
            (json!({ "kind": "maybe" }), "neither allow nor deny"),
            (json!({ "kind": "deny", "schedule": "* *", "duration": "1h" }), "five"),
            (json!({ "kind": "deny", "schedule": "* * * * *", "duration": "soon" }), "soon"),
            (json!({ "kind": "deny", "schedule": "* * * * *", "duration": "1h", "timeZone": "Nowhere/X" }), "Nowhere"),
        ] {
            let error = Window::read(&entry).expect_err("refused");
            assert!(error.contains(words), "{error}");
        }
    }
}
