//! The writer thread: takes what waits, decides it, commits it in one transaction, publishes it, answers. Tidies the file up when
//! nothing waits.
//!
//! Invariant: nothing is published or answered before its commit is durable; answers come after the publication, so who
//! was answered reads his write.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    WriteError,
    disk::{Disk, DiskError},
    plan::{Verdict, plan},
    queue::{Command, Queue, Taken},
    state::Shared,
};

/// The largest size of the file, changeable while the store runs; 0 for none.
#[derive(Debug, Default)]
pub(crate) struct SizeLimit(AtomicU64);

impl SizeLimit {
    /// Begins with this limit.
    pub(crate) fn new(bytes: Option<u64>) -> Self {
        SizeLimit(AtomicU64::new(bytes.unwrap_or(0)))
    }

    /// Changes it from the next commit on.
    pub(crate) fn set(&self, bytes: Option<u64>) {
        self.0.store(bytes.unwrap_or(0), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the thread works with.
pub(crate) struct Writer {
    disk: Disk,
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    limit: Arc<SizeLimit>,
    limited_to: u64,
}

impl Writer {
    /// A writer for an open file whose content is in `shared`.
    pub(crate) fn new(disk: Disk, shared: Arc<Shared>, queue: Arc<Queue>, limit: Arc<SizeLimit>) -> Self {
        let limited_to = limit.get();
        Writer { disk, shared, queue, limit, limited_to }
    }

    /// Works until the queue is closed and empty; then closes the file.
    pub(crate) fn run(mut self) {
        // However the thread ends, nobody is to wait for an answer that cannot come.
        let _abandon = Abandon(Arc::clone(&self.queue));
        loop {
            let floor = self.history_floor();
            match self.queue.take(!self.disk.untidy(floor)) {
                Taken::Batch(batch) => {
                    self.commit(batch);
                    if self.disk.overdue() {
                        self.disk.tidy(self.history_floor());
                    }
                }
                Taken::Idle => self.disk.tidy(floor),
                Taken::Closed => break,
            }
        }
        self.disk.close();
    }

    fn history_floor(&self) -> u64 {
        self.shared.state.read().ring().floor()
    }

    fn commit(&mut self, batch: Vec<Command>) {
        self.apply_limit();
        let plan = plan(&self.shared.state.read(), batch.iter().map(|command| &command.op));
        let failure = if plan.events.is_empty() {
            None
        } else {
            let floor = self.history_floor();
            self.disk.commit(&plan.events, floor).err()
        };
        match &failure {
            None => self.shared.publish(plan.events),
            Some(error) => {
                tracing::error!(store = %self.disk.path().display(), writes = plan.events.len(), ?error, "cannot commit; the writes were refused and nothing was changed");
            }
        }
        for (command, verdict) in batch.into_iter().zip(plan.verdicts) {
            let answer = self.answer(&command, verdict, failure.as_ref());
            // Who no longer listens has dropped the future; the write is done all the same.
            let _ = command.reply.send(answer);
        }
    }

    fn answer(&self, command: &Command, verdict: Verdict, failure: Option<&DiskError>) -> Result<u64, WriteError> {
        let key = command.op.key().to_owned();
        let path = || self.disk.path().clone();
        match (verdict, failure) {
            (Verdict::Commit(revision), None) => Ok(revision),
            (Verdict::Conflict { current, .. }, None) | (Verdict::Conflict { current, staged: false }, _) => {
                Err(WriteError::Conflict { key, current })
            }
            (_, Some(DiskError::Full)) => Err(WriteError::Full { key, path: path() }),
            (_, Some(DiskError::Io(reason))) => Err(WriteError::Io { key, path: path(), reason: reason.clone() }),
        }
    }

    fn apply_limit(&mut self) {
        let wanted = self.limit.get();
        if wanted == self.limited_to {
            return;
        }
        match self.disk.limit((wanted > 0).then_some(wanted)) {
            Ok(()) => self.limited_to = wanted,
            Err(error) => {
                tracing::warn!(store = %self.disk.path().display(), %error, "cannot change the size limit; trying again at the next write");
            }
        }
    }
}

/// Closes the queue when the thread ends.
struct Abandon(Arc<Queue>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.abandon();
    }
}
