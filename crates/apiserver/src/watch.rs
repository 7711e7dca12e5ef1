//! Watching: changes of a resource as a stream of JSON lines.
//!
//! Invariants: events come in the order of their revisions, each once; a bookmark never runs ahead of the events; an
//! object that leaves the selection is DELETED to the watcher, one that enters it is ADDED. There is no queue and no
//! task per watcher: the stream reads the store's history as fast as its client reads the stream. Who loses the right to
//! watch sees nothing that is written after that.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};
use store::{Entry, Event, WatchItem};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::body;
use crate::call::{Call, Reply};
use crate::catalog::Resource;
use crate::encode::View;
use crate::list::resource_version;
use crate::object::{self, Stored};
use crate::query::Query;
use crate::right::{self, Right};
use crate::route::Target;
use crate::selection::Selection;
use crate::server::Server;
use crate::status::{Answer, Failure};

/// How much of the initial state goes into one chunk.
const CHUNK: usize = 64 * 1024;

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// With the state there is, then changes; `true` marks the end of the state by a bookmark.
    State(bool),
    /// With the changes after now.
    Now,
    /// With the changes after a revision.
    After(u64),
}

fn start(query: &Query) -> Answer<Start> {
    let forbid = |field: &str, why: &str| Failure::bad_option("ListOptions", field, &format!("Forbidden: {why}"));
    let version = resource_version(query)?;
    let initial = query.has("sendInitialEvents").then(|| query.flag("sendInitialEvents"));
    match (initial, query.get("resourceVersionMatch")) {
        (None, Some(_)) => {
            return Err(forbid(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        (Some(_), Some("NotOlderThan")) | (None, None) => {}
        (Some(_), _) => {
            return Err(forbid(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
    }
    Ok(match (initial, version) {
        (Some(true), _) => Start::State(true),
        (None, None | Some(0)) => Start::State(false),
        (Some(false), None | Some(0)) => Start::Now,
        (_, Some(version)) => Start::After(version),
    })
}

/// `watch`
pub(crate) fn watch(
    server: &Server,
    call: &Call,
    resource: &Arc<Resource>,
    target: &Target,
    (permit, right): (OwnedSemaphorePermit, Right),
) -> Answer<Reply> {
    if server.stopping.is_cancelled() {
        return Err(Failure::unavailable("the API server is shutting down"));
    }
    let selection = Selection::parse(&call.query, resource)?;
    let view = View::of(call)?;
    let start = start(&call.query)?;
    let prefix = match (selection.name(), &target.namespace) {
        (Some(name), Some(_)) => resource.key(target.namespace.as_deref(), name),
        (Some(name), None) if !resource.namespaced => resource.key(None, name),
        _ => resource.keys_in(target.namespace.as_deref()),
    };
    let (initial, after) = match start {
        Start::State(marked) => {
            let listing = server
                .store
                .list(&prefix, None, 0, None)
                .map_err(|error| Failure::internal(format!("listing before a watch: {error}")))?;
            let asked = resource_version(&call.query)?.unwrap_or(0);
            if marked && asked > listing.revision {
                return Err(Failure::future_version(asked, listing.revision));
            }
            (listing.entries, listing.revision)
        }
        Start::Now => (Vec::new(), server.store.revision()),
        Start::After(version) => (Vec::new(), version),
    };
    let (changes, expired) = match server.store.watch(&prefix, after) {
        Ok(changes) => (Some(changes), None),
        Err(compacted) => (None, Some(Failure::expired(after, compacted.oldest))),
    };
    let bookmarks = call.query.flag("allowWatchBookmarks");
    let seconds = call.query.number::<u64>("timeoutSeconds")?.filter(|seconds| *seconds > 0);
    // Spread, so that watches which began together do not all end together.
    let seconds = seconds.unwrap_or_else(|| fastrand::u64(1800..3600)).min(24 * 3600);
    let lasts = right::lasts(Duration::from_secs(seconds), &call.user, call.now);
    let mut period = tokio::time::interval(server.settings.limits.bookmark_period);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    period.reset();
    let feed = Feed {
        resource: resource.clone(),
        selection,
        view,
        initial: initial.into_iter(),
        mark: (start == Start::State(true)).then_some(after),
        changes,
        expired,
        bookmarks,
        period,
        end: Instant::now() + lasts,
        right,
        stopping: server.stopping.clone(),
        gone: resource.custom.as_ref().map(|custom| custom.gone.clone()).unwrap_or_default(),
        columns: true,
        _permit: permit,
    };
    let lines = stream::unfold(Some(Box::new(feed)), |feed| async move {
        let mut feed = feed?;
        let (line, more) = feed.next().await?;
        Some((Ok::<_, std::io::Error>(line), more.then_some(feed)))
    });
    Ok(Reply::Stream { media: "application/json", body: body::stream(lines) })
}

struct Feed {
    resource: Arc<Resource>,
    selection: Selection,
    view: View,
    initial: std::vec::IntoIter<Entry>,
    mark: Option<u64>,
    changes: Option<store::Watch>,
    expired: Option<Failure>,
    bookmarks: bool,
    period: Interval,
    end: Instant,
    right: Right,
    stopping: CancellationToken,
    gone: CancellationToken,
    columns: bool,
    _permit: OwnedSemaphorePermit,
}

impl Feed {
    /// The next lines, and whether more may follow.
    async fn next(&mut self) -> Option<(Bytes, bool)> {
        if let Some(failure) = self.expired.take() {
            return Some((error_line(&failure), false));
        }
        if let Some(chunk) = self.initial_chunk() {
            return Some((chunk, true));
        }
        if let Some(revision) = self.mark.take() {
            return Some((self.bookmark(revision, true), true));
        }
        loop {
            let changes = self.changes.as_mut()?;
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return None,
                item = changes.next() => match item {
                    Ok(WatchItem::Event(event)) => {
                        if let Some(line) = self.change(&event) {
                            return Some(self.permitted(line));
                        }
                    }
                    Ok(_) => {}
                    Err(compacted) => {
                        let failure = Failure::expired(changes.progress(), compacted.oldest);
                        return Some((error_line(&failure), false));
                    }
                },
                () = self.right.may_be_lost() => {
                    if let Err(failure) = self.right.confirm() {
                        return Some((error_line(&failure), false));
                    }
                }
                // After the changes, so that the last instances are seen going.
                () = self.gone.cancelled() => return None,
                () = tokio::time::sleep_until(self.end) => {
                    // A last bookmark saves the client from looking at everything again.
                    let revision = changes.progress();
                    return self.bookmarks.then(|| (self.bookmark(revision, false), false));
                }
                _ = self.period.tick(), if self.bookmarks => {
                    let revision = changes.progress();
                    let bookmark = self.bookmark(revision, false);
                    return Some(self.permitted(bookmark));
                }
            }
        }
    }

    /// The line, or the end where its reader has lost the right to it.
    fn permitted(&mut self, line: Bytes) -> (Bytes, bool) {
        match self.right.confirm() {
            Ok(()) => (line, true),
            Err(failure) => (error_line(&failure), false),
        }
    }

    fn initial_chunk(&mut self) -> Option<Bytes> {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK {
            let Some(entry) = self.initial.next() else { break };
            let stored = object::of(&entry);
            let written = match self.selection.selects(&self.resource, stored) {
                Ok(true) => self.write(&mut chunk, "ADDED", stored),
                Ok(false) => Ok(()),
                Err(failure) => Err(failure),
            };
            if let Err(failure) = written {
                tracing::error!(key = %entry.key, reason = %failure.message, "left out of a watch");
            }
        }
        (!chunk.is_empty()).then(|| chunk.into())
    }

    fn change(&mut self, event: &Event) -> Option<Bytes> {
        let mut line = Vec::new();
        let written = plan(&self.resource, &self.selection, event).and_then(|planned| match planned {
            Some((kind, bytes)) => self.write(&mut line, kind, (&event.key, bytes, event.revision)),
            None => Ok(()),
        });
        if let Err(failure) = written {
            tracing::error!(key = %event.key, reason = %failure.message, "left out of a watch");
            return None;
        }
        (!line.is_empty()).then(|| line.into())
    }

    /// Appends the line of one change; nothing when the object can't be read.
    fn write(&mut self, out: &mut Vec<u8>, kind: &str, stored: Stored<'_>) -> Answer<()> {
        let start = out.len();
        out.reserve(stored.1.len() + 96);
        out.extend_from_slice(format!("{{\"type\":\"{kind}\",\"object\":").as_bytes());
        if let Err(failure) = self.view.write(out, &self.resource, stored, self.columns) {
            out.truncate(start);
            return Err(failure);
        }
        self.columns = false;
        out.extend_from_slice(b"}\n");
        Ok(())
    }

    fn bookmark(&self, revision: u64, initial_end: bool) -> Bytes {
        let mut metadata = json!({ "creationTimestamp": null, "resourceVersion": revision.to_string() });
        if initial_end {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let object =
            json!({ "kind": self.resource.kind, "apiVersion": self.resource.api_version, "metadata": metadata });
        line("BOOKMARK", &object)
    }
}

/// What a change is to a watcher with this selection, and the state that it is shown.
fn plan<'a>(resource: &Resource, selection: &Selection, event: &'a Event) -> Answer<Option<(&'static str, &'a Bytes)>> {
    let selected = |bytes: &'a Bytes| {
        let selects = selection.selects(resource, (&event.key, bytes, event.revision))?;
        Ok::<_, Failure>(selects.then_some(bytes))
    };
    let now = event.value.as_ref().map(selected).transpose()?.flatten();
    let before = || Ok(event.previous.as_ref().map(|entry| selected(&entry.value)).transpose()?.flatten());
    Ok(match now {
        Some(bytes) if event.previous.is_none() => Some(("ADDED", bytes)),
        Some(bytes) if before()?.is_some() => Some(("MODIFIED", bytes)),
        Some(bytes) => Some(("ADDED", bytes)),
        // A DELETED event shows the last state, as of the revision at which it went.
        None => before()?.map(|bytes| ("DELETED", bytes)),
    })
}

fn line(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n"))
}

fn error_line(failure: &Failure) -> Bytes {
    line("ERROR", &failure.to_value())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;

    #[test]
    fn where_a_watch_begins() {
        let is = |query: &str| start(&Query::parse(Some(query))).map_err(|failure| failure.code);
        for (query, expected) in [
            ("watch=1", Ok(Start::State(false))),
            ("resourceVersion=0", Ok(Start::State(false))),
            ("resourceVersion=5", Ok(Start::After(5))),
            ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", Ok(Start::State(true))),
            ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=0", Ok(Start::State(true))),
            ("sendInitialEvents=false&resourceVersionMatch=NotOlderThan", Ok(Start::Now)),
            ("sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=3", Ok(Start::After(3))),
            ("sendInitialEvents=true", Err(422)),
            ("sendInitialEvents=true&resourceVersionMatch=Exact", Err(422)),
            ("resourceVersionMatch=NotOlderThan&resourceVersion=1", Err(422)),
        ] {
            assert_eq!(is(query), expected, "{query}");
        }
    }

    #[test]
    fn a_selection_turns_changes_into_additions_and_deletions() {
        let catalog = Catalog::new(&Catalog::builtins(), &[]);
        let resource = catalog.core("configmaps");
        let all = Selection::parse(&Query::default(), resource).expect("a selection");
        let red = Selection::parse(&Query::parse(Some("labelSelector=color%3Dred")), resource).expect("a selection");
        let bytes = |color: &str| {
            Bytes::from(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a", "labels": { "color": color } } }).to_string())
        };
        let event = |before: Option<&str>, after: Option<&str>| Event {
            revision: 9,
            key: "/core/configmaps/x/a".into(),
            value: after.map(bytes),
            previous: before.map(|color| Entry {
                key: "/core/configmaps/x/a".into(),
                value: bytes(color),
                revision: 8,
                created: 8,
            }),
        };
        for (before, after, everyone, reds) in [
            (None, Some("red"), Some("ADDED"), Some("ADDED")),
            (None, Some("blue"), Some("ADDED"), None),
            (Some("red"), Some("red"), Some("MODIFIED"), Some("MODIFIED")),
            (Some("red"), Some("blue"), Some("MODIFIED"), Some("DELETED")),
            (Some("blue"), Some("red"), Some("MODIFIED"), Some("ADDED")),
            (Some("blue"), None, Some("DELETED"), None),
            (Some("red"), None, Some("DELETED"), Some("DELETED")),
        ] {
            let event = event(before, after);
            let seen = |selection| plan(resource, selection, &event).expect("a plan");
            assert_eq!(seen(&all).map(|(kind, _)| kind), everyone, "{before:?} {after:?}");
            let shown = seen(&red);
            assert_eq!(shown.as_ref().map(|(kind, _)| *kind), reds, "{before:?} {after:?}");
            if let Some((kind, bytes)) = shown {
                let object: Value = serde_json::from_slice(bytes).expect("JSON");
                assert_eq!(object["metadata"]["labels"]["color"], "red", "{kind} shows what matched");
            }
        }
    }
}
