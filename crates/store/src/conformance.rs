//! What every store must do, as checks that run against any of them. A check that fails panics and says its name.
//!
//! Only for tests (feature `test-support`).

mod histories;
mod reads;
mod watches;
mod writes;

use std::{any::Any, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{Entry, Op, Precondition, Store, Watch, WatchItem, WriteError};

/// Nothing here takes this long, unless it never ends.
const LIMIT: Duration = Duration::from_secs(180);

/// An empty store to check.
pub struct Fixture {
    /// The store.
    pub store: Arc<dyn Store>,
    /// How many events its history keeps; between 4 and 1000, so that it can be overrun.
    pub history: usize,
    /// What has to live as long as the store.
    pub keep: Box<dyn Any>,
}

/// Runs every check, each against a store of its own.
///
/// # Panics
/// When the store does not do what it must.
pub fn suite(make: impl Fn() -> Fixture) {
    let checks = reads::CHECKS.iter().chain(writes::CHECKS).chain(watches::CHECKS).chain(histories::CHECKS);
    for (name, check) in checks {
        let fixture = make();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime for the tests");
        let checked = runtime.block_on(async {
            tokio::time::timeout(LIMIT, check(Checked { store: Arc::clone(&fixture.store), history: fixture.history }))
                .await
        });
        assert!(checked.is_ok(), "`{name}` did not end within {LIMIT:?}");
        drop(fixture.keep);
    }
}

type Check = fn(Checked) -> std::pin::Pin<Box<dyn Future<Output = ()>>>;

/// A store under check, with short ways to use it.
struct Checked {
    store: Arc<dyn Store>,
    history: usize,
}

impl Checked {
    async fn try_put(&self, key: &str, value: &str, when: Precondition) -> Result<u64, WriteError> {
        self.store.write(Op::Put { key: key.to_owned(), value: Bytes::copy_from_slice(value.as_bytes()), when }).await
    }

    async fn put(&self, key: &str, value: &str) -> u64 {
        self.try_put(key, value, Precondition::Any).await.expect("an unconditional put")
    }

    async fn try_delete(&self, key: &str, when: Precondition) -> Result<u64, WriteError> {
        self.store.write(Op::Delete { key: key.to_owned(), when }).await
    }

    async fn delete(&self, key: &str) -> u64 {
        self.try_delete(key, Precondition::Any).await.expect("a delete of what exists")
    }

    /// The keys and values of a listing.
    fn listed(&self, prefix: &str, at: Option<u64>) -> Vec<(String, String)> {
        let listing = self.store.list(prefix, None, 0, at).expect("a listing");
        pairs(&listing.entries)
    }
}

fn pairs(entries: &[Entry]) -> Vec<(String, String)> {
    entries.iter().map(|entry| (entry.key.to_string(), String::from_utf8_lossy(&entry.value).into_owned())).collect()
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The next event of a watch, shortly: `revision key=value` or `revision key deleted`.
async fn next(watch: &mut Watch) -> String {
    match watch.next().await.expect("within the history") {
        WatchItem::Event(event) => match &event.value {
            Some(value) => format!("{} {}={}", event.revision, event.key, String::from_utf8_lossy(value)),
            None => format!("{} {} deleted", event.revision, event.key),
        },
        WatchItem::Progress(revision) => format!("progress {revision}"),
    }
}

/// Whether a watch has nothing to give right now.
async fn silent(watch: &mut Watch) -> bool {
    tokio::select! {
        biased;
        _ = watch.next() => false,
        () = std::future::ready(()) => true,
    }
}
