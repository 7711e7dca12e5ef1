//! When an AppProject lets its applications be synced: `syncWindows`, as Argo CD has them.
//!
//! Pure. Where a window that forbids is open, or there are windows that allow and none is open, nothing is begun; by hand only where
//! all those windows say `manualSync`. What began by itself goes on where all of them say `syncOverrun`.
//!
//! A window is open when the clock on the wall of its zone shows a time less than its duration after a time of its schedule. So
//! where that clock leaps over the beginning the window is open from the leap on, and where an hour comes twice it opens twice.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::cron::Schedule;
use super::project::matches;
use super::{text, texts};
use crate::sync::application::{Application, duration};

/// How many beginnings of a window that is open already are followed to tell its end.
const JOINED: usize = 100;

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
    overrun: bool,
    all: bool,
}

/// Whether a sync may begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    /// Whether it may by itself.
    pub automated: bool,
    /// Whether it may where somebody asks.
    pub manual: bool,
    /// Whether one that began by itself goes on.
    pub overrun: bool,
    /// Why not.
    pub why: String,
    /// When that may be different.
    pub until: Option<Timestamp>,
    /// When to look again: then, or where a clock is put forward or back before.
    pub look: Option<Timestamp>,
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
            overrun: entry["syncOverrun"] == true,
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

    /// Whether it is open, and until when it is, or is not.
    fn state(&self, now: Timestamp) -> (bool, Option<Timestamp>) {
        let local = self.zone.to_datetime(now);
        let begin_after = |at: DateTime| self.schedule.next(at.checked_sub(self.duration).ok()?);
        let Some(begin) = begin_after(local) else { return (false, None) };
        if begin > local {
            return (false, self.instant(begin, now));
        }
        let mut end = begin.checked_add(self.duration).ok();
        // Where it begins again before it ends, it goes on.
        for _ in 0..JOINED {
            let Some(next) = end.and_then(begin_after).filter(|next| end.is_some_and(|end| *next <= end)) else {
                break;
            };
            end = next.checked_add(self.duration).ok();
        }
        (true, end.and_then(|end| self.instant(end, now)))
    }

    /// When the clock on the wall shows this next.
    fn instant(&self, at: DateTime, now: Timestamp) -> Option<Timestamp> {
        let first = self.zone.to_ambiguous_timestamp(at).compatible().ok()?;
        if first > now { Some(first) } else { self.zone.to_ambiguous_timestamp(at).later().ok() }
    }

    /// When that clock is put forward or back next.
    fn leap(&self, now: Timestamp) -> Option<Timestamp> {
        self.zone.following(now).next().map(|leap| leap.timestamp())
    }
}

/// What the windows of a project say about an application now; none where no window is about it.
#[must_use]
pub fn permission(windows: &[Window], application: &Application, now: Timestamp) -> Option<Permission> {
    let ours: Vec<(&Window, (bool, Option<Timestamp>))> =
        windows.iter().filter(|one| one.means(application)).map(|one| (one, one.state(now))).collect();
    if ours.is_empty() {
        return None;
    }
    let until = ours.iter().filter_map(|(_, (_, until))| *until).min();
    let look = ours.iter().filter_map(|(one, _)| one.leap(now)).chain(until).min();
    let denies: Vec<&Window> =
        ours.iter().filter(|(one, (open, _))| !one.allows && *open).map(|(one, _)| *one).collect();
    let allows: Vec<(&Window, bool)> =
        ours.iter().filter(|(one, _)| one.allows).map(|(one, (open, _))| (*one, *open)).collect();
    let closed: Vec<&Window> = if denies.is_empty() && allows.iter().all(|(_, open)| !open) {
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
    let automated = closed.is_empty();
    let (manual, overrun) = (closed.iter().all(|one| one.manual), closed.iter().all(|one| one.overrun));
    Some(Permission { automated, manual, overrun, why, until, look })
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
    fn what_goes_on_when_a_window_closes_is_as_in_argo() {
        let object = json!({ "metadata": { "name": "shop", "namespace": "argocd" }, "spec": {
            "source": { "repoURL": "/x" }, "destination": { "namespace": "shop" } } });
        let application = super::super::argo::read(&object).expect("it is right");
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().expect("a time");
        let one = |kind: &str, open: bool, overrun: bool| {
            json!({ "kind": kind, "schedule": if open { "30 11 * * *" } else { "0 22 * * *" }, "duration": "1h",
                "applications": ["*"], "syncOverrun": overrun })
        };
        for (entries, goes_on) in [
            (json!([one("deny", true, true)]), true),
            (json!([one("deny", true, false)]), false),
            (json!([one("deny", true, true), one("deny", true, false)]), false),
            (json!([one("allow", false, true), one("deny", true, true)]), true),
            (json!([one("allow", false, true), one("deny", true, false)]), false),
            (json!([one("allow", false, false), one("deny", true, true)]), true),
            (json!([one("allow", false, true)]), true),
            (json!([one("allow", false, true), one("allow", false, false)]), false),
            (json!([one("allow", false, false), one("allow", true, false)]), true),
        ] {
            let said = permission(&windows(&entries), &application, now).expect("there are some");
            assert_eq!(said.automated || said.overrun, goes_on, "{entries}");
        }
    }

    #[test]
    fn windows_follow_the_clock_on_the_wall() {
        let window = |schedule: &str, lasts: &str| {
            let entry = json!({ "kind": "deny", "schedule": schedule, "duration": lasts, "timeZone": "Europe/Berlin" });
            Window::read(&entry).expect("a window")
        };
        let at = |text: &str| -> Timestamp { text.parse().expect("a time") };
        for (schedule, lasts, now, open, until) in [
            ("30 1 * * *", "1h", "2026-01-10T00:29:59Z", false, "2026-01-10T00:30:00Z"),
            ("30 1 * * *", "1h", "2026-01-10T00:30:00Z", true, "2026-01-10T01:30:00Z"),
            ("30 1 * * *", "1h", "2026-01-10T01:30:00Z", false, "2026-01-11T00:30:00Z"),
            // One begins before the other ends: it is one long one.
            ("0,30 8 * * *", "1h", "2026-01-10T07:40:00Z", true, "2026-01-10T08:30:00Z"),
            ("0 0 * * *", "24h", "2026-01-10T07:40:00Z", true, "2026-04-20T22:00:00Z"),
            // On 2026-03-29 the clock goes from 2:00 to 3:00 (at 1:00 UTC). What was to begin at 2:30 is open from there on.
            ("30 2 * * *", "1h", "2026-03-29T00:59:59Z", false, "2026-03-29T01:30:00Z"),
            ("30 2 * * *", "1h", "2026-03-29T01:00:00Z", true, "2026-03-29T01:30:00Z"),
            ("30 2 * * *", "1h", "2026-03-29T01:30:00Z", false, "2026-03-30T00:30:00Z"),
            // What began before the leap ends by the clock, an hour early.
            ("30 1 * * *", "2h", "2026-03-29T00:45:00Z", true, "2026-03-29T01:30:00Z"),
            ("30 1 * * *", "2h", "2026-03-29T01:30:00Z", false, "2026-03-29T23:30:00Z"),
            // On 2026-10-25 the clock goes from 3:00 back to 2:00 (at 1:00 UTC): 2:30 is at 0:30 and at 1:30 UTC.
            ("30 2 * * *", "15m", "2026-10-25T00:29:59Z", false, "2026-10-25T00:30:00Z"),
            ("30 2 * * *", "15m", "2026-10-25T00:30:00Z", true, "2026-10-25T00:45:00Z"),
            ("30 2 * * *", "15m", "2026-10-25T01:00:00Z", false, "2026-10-25T01:30:00Z"),
            ("30 2 * * *", "15m", "2026-10-25T01:30:00Z", true, "2026-10-25T01:45:00Z"),
            ("30 2 * * *", "1h", "2026-10-25T00:59:59Z", true, "2026-10-25T02:30:00Z"),
            ("30 2 * * *", "1h", "2026-10-25T01:00:00Z", false, "2026-10-25T01:30:00Z"),
            ("30 2 * * *", "1h", "2026-10-25T02:29:59Z", true, "2026-10-25T02:30:00Z"),
        ] {
            assert_eq!(
                window(schedule, lasts).state(at(now)),
                (open, Some(at(until))),
                "{schedule} for {lasts} at {now}"
            );
        }
        // The clock's own leaps are looked at, whatever is said of the end.
        assert_eq!(window("30 2 * * *", "1h").leap(at("2026-10-25T00:59:59Z")), Some(at("2026-10-25T01:00:00Z")));
        // What never comes is never open.
        assert_eq!(window("0 0 31 2 *", "1h").state(at("2026-01-01T00:00:00Z")), (false, None));
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
