//! How many objects of each application and each applied set have drifted, and the Events that say when that begins and ends.
//!
//! Invariants: who drifts all the time is told of seldom ([`PAUSE`]), and an end is told only of what was told to begin.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::api::Api;
use crate::object;

/// The shortest time between two Events of one subject that say that it drifts.
const PAUSE: Duration = Duration::from_secs(30);
/// The longest message of an Event, in characters.
const LONGEST: usize = 1000;

/// Whose objects are counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// `Application`, `Kustomization` or `ApplySet`.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

#[derive(Default)]
struct Entry {
    objects: usize,
    told_at: Option<Instant>,
    told: bool,
}

/// The numbers. See the module's header.
#[derive(Default)]
pub struct Board {
    all: Mutex<BTreeMap<Subject, Entry>>,
}

/// What is worth an Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It drifts, and did not before.
    Appeared,
    /// It does no longer.
    Gone,
}

impl Board {
    /// Every subject, with how many of its objects have drifted.
    #[must_use]
    pub fn all(&self) -> BTreeMap<Subject, usize> {
        self.all.lock().iter().map(|(subject, entry)| (subject.clone(), entry.objects)).collect()
    }

    /// What an earlier life has told of already.
    pub(crate) fn known(&self, subject: &Subject) {
        let mut all = self.all.lock();
        let entry = all.entry(subject.clone()).or_default();
        (entry.objects, entry.told) = (entry.objects.max(1), true);
    }

    /// Sets a number.
    pub(crate) fn set(&self, subject: &Subject, objects: usize) -> Option<Turn> {
        self.set_at(subject, objects, Instant::now())
    }

    fn set_at(&self, subject: &Subject, objects: usize, now: Instant) -> Option<Turn> {
        let mut all = self.all.lock();
        let entry = all.entry(subject.clone()).or_default();
        let before = std::mem::replace(&mut entry.objects, objects);
        if objects == 0 {
            return std::mem::take(&mut entry.told).then_some(Turn::Gone);
        }
        let recent = entry.told_at.is_some_and(|at| now.duration_since(at) < PAUSE);
        if before > 0 || entry.told || recent {
            return None;
        }
        (entry.told, entry.told_at) = (true, Some(now));
        Some(Turn::Appeared)
    }

    /// It is not there any more.
    pub(crate) fn forget(&self, subject: &Subject) {
        self.all.lock().remove(subject);
    }
}

/// Writes an Event about an object.
pub(crate) async fn event(api: &Api, about: &Value, turn: Turn, message: &str) {
    let (reason, kind) = match turn {
        Turn::Appeared => ("Drifted", "Warning"),
        Turn::Gone => ("DriftGone", "Normal"),
    };
    let now = Timestamp::now();
    let at = crate::sync::report::stamp(now);
    let (namespace, name) = (object::namespace(about), object::name(about));
    let message: String = message.chars().take(LONGEST).collect();
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": { "name": format!("{name}.{:x}", now.as_nanosecond()), "namespace": namespace },
        "involvedObject": { "apiVersion": about["apiVersion"], "kind": about["kind"], "namespace": namespace, "name": name,
            "uid": object::uid(about) },
        "reason": reason, "type": kind, "message": message, "count": 1, "firstTimestamp": at, "lastTimestamp": at,
        "source": { "component": "coracle-sync" },
    });
    let path = format!("/api/v1/namespaces/{namespace}/events");
    if let Err(error) = api.create(&path, &event, "coracle-sync").await {
        tracing::debug!(%error, "an Event about drift could not be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_told_once_and_so_is_its_end() {
        let (board, start) = (Board::default(), Instant::now());
        let subject = Subject { kind: "ApplySet", namespace: "n".into(), name: "s".into() };
        let at = |seconds| start + Duration::from_secs(seconds);
        for (objects, second, wanted) in [
            (0, 0, None),
            (2, 1, Some(Turn::Appeared)),
            (3, 2, None),
            (0, 3, Some(Turn::Gone)),
            // Again and again: seldom told, and no end of what was not told.
            (1, 4, None),
            (0, 5, None),
            (1, 40, Some(Turn::Appeared)),
            (0, 41, Some(Turn::Gone)),
        ] {
            assert_eq!(board.set_at(&subject, objects, at(second)), wanted, "at {second}");
            assert_eq!(board.all()[&subject], objects);
        }
        board.known(&subject);
        assert_eq!(board.set_at(&subject, 1, at(100)), None, "an earlier life has told it");
        assert_eq!(board.set_at(&subject, 0, at(101)), Some(Turn::Gone));
        board.forget(&subject);
        assert!(board.all().is_empty());
    }
}
