//! The contract of a store, as a trait. [`crate::conformance`] (feature `test-support`) holds an implementation to it.

use std::pin::Pin;

use crate::{Compacted, Entry, ListError, Listing, Op, Watch, WriteError};

/// A write under way. It resolves when the write is durable, or refused.
pub type WriteFuture = Pin<Box<dyn Future<Output = Result<u64, WriteError>> + Send + 'static>>;

/// A revisioned key space.
///
/// **Revisions.** One counter over all keys. It is at least 1, each committed write takes the next number, and there are
/// no gaps: each revision after the first has exactly one event. It never goes back, also not over a restart.
///
/// **Reads** never wait for the disk. Each read is consistent: the data and the revision that comes with it belong together,
/// and contain every write that was acknowledged before the read began. Nothing is seen that is not durable.
///
/// **Writes** are compare-and-swap on one key. A failed precondition is the failure of that write alone. A write whose future
/// was dropped may still happen; a future that was never polled has written nothing. Two writes in a row by
/// one caller who awaits the first happen in that order.
///
/// **History** is bounded. Within it, older states can be listed and watches can begin; it survives a restart. Before it,
/// both answer [`Compacted`] with the oldest revision that works.
pub trait Store: Send + Sync + 'static {
    /// The last committed revision; at least 1.
    fn revision(&self) -> u64;

    /// What the key holds, and the revision at which that was the truth.
    fn get(&self, key: &str) -> (Option<Entry>, u64);

    /// The entries whose keys begin with `prefix`, in byte-wise order of keys.
    ///
    /// `after` leaves out every key up to and including it (the last key of the page before; it need not exist).
    /// `limit` is the most entries to give, 0 for all of them. `at` asks for an older revision: with the
    /// revision of the first page, all the pages together are one consistent listing.
    ///
    /// # Errors
    /// [`ListError::Compacted`] when `at` is before the history, [`ListError::Future`] when it is not there yet.
    fn list(&self, prefix: &str, after: Option<&str>, limit: usize, at: Option<u64>) -> Result<Listing, ListError>;

    /// Writes one key. Resolves to the revision of the write, after it is durable and can be read.
    ///
    /// # Errors
    /// See [`WriteError`]. After each of them but `Closed`, nothing was changed.
    fn write(&self, op: Op) -> WriteFuture;

    /// The events of keys that begin with `prefix` and whose revision is greater than `after`, in order, each once.
    ///
    /// An `after` in the future is allowed; the watch waits until revisions greater than it come.
    ///
    /// # Errors
    /// [`Compacted`] when events after `after` are no longer in the history.
    fn watch(&self, prefix: &str, after: u64) -> Result<Watch, Compacted>;
}
