//! A revisioned key space with watch and compaction, on SQLite.
//!
//! What it is: keys (strings) to opaque bytes, one revision counter over all of them, a bounded history of events, and
//! durable compare-and-swap writes. The API server keeps its objects here.
//!
//! Invariants:
//! - **Acknowledged means durable.** A write resolves only after the commit that holds it was synced to the disk.
//! - **One order.** Revisions are given out by the one writer thread, without gaps, and never go back. Events are
//!   published after their commit, in order, together with the live entries under one lock, so that what is read and the
//!   revision it claims always agree.
//! - **Everything is bounded**: the queue of writes, a batch, the history (events and bytes), the write-ahead log.
//! - **A failed write changes nothing.** A commit that fails is rolled back whole; reads go on from memory.
//!
//! What it must not know: kinds, namespaces, JSON, HTTP. A value is bytes, a key is a string, a prefix is a prefix.
//!
//! Where things are: [`Store`] is the contract; [`SqliteStore`] the implementation; `plan` decides what a batch does
//! (pure); `state` and `ring` are what is in memory; `disk` is the file; `writer` is the thread that ties them.

mod contract;
mod disk;
mod entry;
mod error;
mod plan;
mod queue;
mod ring;
mod settings;
mod sqlite;
mod state;
mod watch;
mod writer;

#[cfg(any(test, feature = "test-support"))]
pub mod conformance;

pub use contract::{Store, WriteFuture};
pub use entry::{Entry, Event, Listing, Op, Precondition};
pub use error::{CloseError, Compacted, ListError, OpenError, WriteError};
pub use settings::Settings;
pub use sqlite::{SqliteStore, StoreTask};
pub use watch::{Watch, WatchItem};
