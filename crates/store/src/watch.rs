//! A watch: a position in the shared history and a prefix. There is no queue per watcher: a watch that is slow costs
//! nothing, and one that falls behind the history is told so.
//!
//! Must not know the disk or the writer.

use std::sync::Arc;

use tokio::sync::watch::Receiver;

use crate::{
    Compacted, Event,
    state::{Shared, State},
};

/// What a watch gives.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchItem {
    /// A change.
    Event(Arc<Event>),
    /// All events up to and including this revision were looked at, and those of the prefix handed out. Only after
    /// [`Watch::report_progress`].
    Progress(u64),
}

/// The events of a prefix from a revision on. See [`crate::Store::watch`].
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    published: Receiver<u64>,
    prefix: Box<str>,
    position: u64,
    report: bool,
    reported: u64,
}

impl Watch {
    /// Begins after a revision.
    pub(crate) fn new(shared: &Arc<Shared>, prefix: &str, after: u64) -> Result<Self, Compacted> {
        // The receiver comes first: a commit between the two lines is then seen as a change.
        let published = shared.published.subscribe();
        let oldest = shared.state.read().ring().floor();
        if after < oldest {
            return Err(Compacted { oldest });
        }
        Ok(Watch {
            shared: Arc::clone(shared),
            published,
            prefix: prefix.into(),
            position: after,
            report: false,
            reported: after,
        })
    }

    /// Also give [`WatchItem::Progress`] whenever the watch has caught up with revisions that brought it nothing.
    pub fn report_progress(&mut self, report: bool) {
        self.report = report;
    }

    /// The next event, as soon as there is one. Cancel safe: an event is either returned or still to come.
    ///
    /// It waits for ever once the store is closed.
    ///
    /// # Errors
    /// [`Compacted`] when the watch has fallen behind the history; events were missed, list again.
    pub async fn next(&mut self) -> Result<WatchItem, Compacted> {
        loop {
            self.published.mark_unchanged();
            if let Some(item) = self.look()? {
                return Ok(item);
            }
            if self.published.changed().await.is_err() {
                // The sender lives in what `self.shared` holds, so this does not happen; waiting is right all the same.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The next event, if there is one already. [`Watch::next`] without the wait.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub fn try_next(&mut self) -> Result<Option<WatchItem>, Compacted> {
        self.look()
    }

    /// The highest revision up to which every event of the prefix has been handed out: a bookmark may say it.
    pub fn progress(&self) -> u64 {
        let state = self.shared.state.read();
        if self.position < state.ring().floor() {
            return self.position;
        }
        match self.first(&state) {
            Some(event) => event.revision - 1,
            None => self.position.max(state.revision()),
        }
    }

    /// Looks at what is new, without waiting.
    fn look(&mut self) -> Result<Option<WatchItem>, Compacted> {
        let state = self.shared.state.read();
        let oldest = state.ring().floor();
        if self.position < oldest {
            return Err(Compacted { oldest });
        }
        if let Some(event) = self.first(&state).cloned() {
            self.position = event.revision;
            self.reported = event.revision;
            return Ok(Some(WatchItem::Event(event)));
        }
        self.position = self.position.max(state.revision());
        if self.report && self.reported < self.position {
            self.reported = self.position;
            return Ok(Some(WatchItem::Progress(self.position)));
        }
        Ok(None)
    }

    /// The first event of the prefix after the position.
    fn first<'a>(&self, state: &'a State) -> Option<&'a Arc<Event>> {
        state.ring().after(self.position).find(|event| event.key.starts_with(&*self.prefix))
    }
}
