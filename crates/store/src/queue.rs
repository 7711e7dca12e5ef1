//! The bounded queue between the callers and the writer thread. Callers wait for room without blocking a thread; the writer
//! takes all that waits, up to the size of a batch.
//!
//! Invariants: what was queued before the close is still taken; what comes after it is refused. A write holds its share of the room until
//! it is answered, so the bound covers the batch under way too.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{Op, Settings, WriteError};

/// Room is counted in units of this many bytes.
const UNIT: usize = 1024;
/// A batch takes no further write once it has this many bytes.
const BATCH_BYTES: usize = 8 << 20;

/// A write and whom to answer.
#[derive(Debug)]
pub(crate) struct Command {
    /// The write.
    pub(crate) op: Op,
    /// Whom to answer. Nobody may be listening any more.
    pub(crate) reply: oneshot::Sender<Result<u64, WriteError>>,
    _room: OwnedSemaphorePermit,
}

/// What the writer finds.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Writes to do.
    Batch(Vec<Command>),
    /// Nothing waits.
    Idle,
    /// Nothing waits, and nothing will.
    Closed,
}

#[derive(Debug, Default)]
struct Pending {
    commands: VecDeque<Command>,
    closed: bool,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pending: Mutex<Pending>,
    wake: Condvar,
    room: Arc<Semaphore>,
    write_bytes: usize,
    batch: usize,
}

impl Queue {
    /// An empty queue with these bounds.
    pub(crate) fn new(settings: &Settings) -> Self {
        Queue {
            pending: Mutex::default(),
            wake: Condvar::new(),
            room: Arc::new(Semaphore::new((settings.queue_bytes / UNIT + 1).min(Semaphore::MAX_PERMITS))),
            write_bytes: settings.write_bytes,
            batch: settings.batch,
        }
    }

    /// Queues a write and waits for its answer.
    pub(crate) async fn submit(&self, op: Op) -> Result<u64, WriteError> {
        let key = op.key().to_owned();
        let size = op.size();
        if size > self.write_bytes {
            return Err(WriteError::TooLarge { key, size, limit: self.write_bytes });
        }
        let units = u32::try_from(size / UNIT + 1).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.room).acquire_many_owned(units).await else {
            return Err(WriteError::Closed { key });
        };
        let (reply, answer) = oneshot::channel();
        let command = Command { op, reply, _room: room };
        if !self.push(command) {
            return Err(WriteError::Closed { key });
        }
        answer.await.unwrap_or(Err(WriteError::Closed { key }))
    }

    fn push(&self, command: Command) -> bool {
        let mut pending = self.pending.lock();
        if pending.closed {
            return false;
        }
        pending.commands.push_back(command);
        drop(pending);
        self.wake.notify_one();
        true
    }

    /// Takes what waits; with `wait`, sleeps until there is something or the queue is closed.
    pub(crate) fn take(&self, wait: bool) -> Taken {
        let mut pending = self.pending.lock();
        loop {
            if !pending.commands.is_empty() {
                return Taken::Batch(cut(&mut pending.commands, self.batch));
            }
            if pending.closed {
                return Taken::Closed;
            }
            if !wait {
                return Taken::Idle;
            }
            self.wake.wait(&mut pending);
        }
    }

    /// Refuses further writes and lets the writer end after those that wait.
    pub(crate) fn close(&self) {
        self.room.close();
        self.pending.lock().closed = true;
        self.wake.notify_all();
    }

    /// Closes and drops what waits; each is answered as closed.
    pub(crate) fn abandon(&self) {
        self.close();
        let dropped = std::mem::take(&mut self.pending.lock().commands);
        drop(dropped);
    }
}

/// Takes writes up to the size of a batch, in order, at least one.
fn cut(commands: &mut VecDeque<Command>, most: usize) -> Vec<Command> {
    let mut count = 0;
    let mut bytes = 0;
    for command in commands.iter().take(most) {
        if bytes >= BATCH_BYTES {
            break;
        }
        bytes += command.op.size();
        count += 1;
    }
    commands.drain(..count).collect()
}
