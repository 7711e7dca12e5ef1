//! The store on SQLite: opens it, owns the writer thread, and reads from memory.
//!
//! Invariant: the lock on the file is held from before it is opened until after it is closed, by the writer thread.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

use tokio::sync::watch::{self, Receiver};

use crate::{
    CloseError, Compacted, Entry, ListError, Listing, Op, OpenError, Settings, Store, Watch, WriteFuture,
    disk::{self, Disk},
    queue::Queue,
    state::Shared,
    writer::{SizeLimit, Writer},
};

/// A store in a SQLite file. Cheap to clone; all clones are the same store.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    limit: Arc<SizeLimit>,
}

/// The owner of the store's writer thread. To be kept until the end, and then [closed](StoreTask::close).
///
/// Dropping it closes the store too: it blocks until the writes that wait are done and the file is closed.
#[derive(Debug)]
pub struct StoreTask {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
    ended: Receiver<()>,
    path: PathBuf,
}

impl SqliteStore {
    /// Opens the store, or makes a new one, and reads all of it into memory.
    ///
    /// This blocks on the disk for as long as the reading takes.
    ///
    /// # Errors
    /// See [`OpenError`]; after each of them the file is as it was.
    pub fn open(settings: Settings) -> Result<(SqliteStore, StoreTask), OpenError> {
        settings.check()?;
        let lock = lock(&settings.path)?;
        let (disk, state) = Disk::open(&settings)?;
        let shared = Arc::new(Shared::new(state));
        let queue = Arc::new(Queue::new(&settings));
        let limit = Arc::new(SizeLimit::new(settings.max_bytes));
        let writer = Writer::new(disk, Arc::clone(&shared), Arc::clone(&queue), Arc::clone(&limit));
        let (alive, ended) = watch::channel(());
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                let _alive = alive;
                let _lock = lock;
                writer.run();
            })
            .map_err(|source| OpenError::Unreachable {
                action: "starting the writer thread for",
                path: settings.path.clone(),
                source,
            })?;
        let task = StoreTask { queue: Arc::clone(&queue), thread: Some(thread), ended, path: settings.path };
        let store = SqliteStore { shared, queue, limit };
        Ok((store, task))
    }

    /// Changes [`Settings::max_bytes`] while the store runs, from the next commit on.
    pub fn set_max_bytes(&self, max_bytes: Option<u64>) {
        self.limit.set(max_bytes);
    }
}

impl Store for SqliteStore {
    fn revision(&self) -> u64 {
        self.shared.state.read().revision()
    }

    fn get(&self, key: &str) -> (Option<Entry>, u64) {
        let state = self.shared.state.read();
        (state.get(key).cloned(), state.revision())
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize, at: Option<u64>) -> Result<Listing, ListError> {
        self.shared.state.read().list(prefix, after, limit, at)
    }

    fn write(&self, op: Op) -> WriteFuture {
        let queue = Arc::clone(&self.queue);
        Box::pin(async move { queue.submit(op).await })
    }

    fn watch(&self, prefix: &str, after: u64) -> Result<Watch, Compacted> {
        Watch::new(&self.shared, prefix, after)
    }
}

impl StoreTask {
    /// Waits for the shutdown (or for the writer to end before it), and closes the store.
    ///
    /// # Errors
    /// See [`CloseError`].
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), CloseError> {
        tokio::select! {
            () = shutdown => {}
            () = end_of(&mut self.ended) => {}
        }
        self.close().await
    }

    /// Refuses further writes, does those that wait, writes everything back and closes the file. Reads go on to work.
    ///
    /// # Errors
    /// See [`CloseError`].
    pub async fn close(mut self) -> Result<(), CloseError> {
        self.queue.close();
        end_of(&mut self.ended).await;
        self.join()
    }

    fn join(&mut self) -> Result<(), CloseError> {
        self.queue.close();
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        thread.join().map_err(|panic| {
            let reason = panic
                .downcast_ref::<&str>()
                .map(|reason| (*reason).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "no reason given".to_owned());
            CloseError::Panicked { path: self.path.clone(), reason }
        })
    }
}

impl Drop for StoreTask {
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            tracing::error!(%error, "the store did not end well");
        }
    }
}

/// Resolves when the writer thread has ended.
async fn end_of(ended: &mut Receiver<()>) {
    while ended.changed().await.is_ok() {}
}

/// Takes the lock beside the database file, so that a second opener is told who holds it.
fn lock(path: &Path) -> Result<File, OpenError> {
    let unreachable = |action, path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Unreachable { action, path, source }
    };
    let directory = disk::directory(path);
    fs::create_dir_all(directory).map_err(unreachable("making the directory", directory))?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let beside = PathBuf::from(beside);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    disk::private(&mut options);
    let mut file = options.open(&beside).map_err(unreachable("opening the lock file", &beside))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Who holds it is a courtesy; that it is held is what counts.
            let _ = file.read_to_string(&mut holder);
            return Err(OpenError::Locked { path: path.to_owned(), holder: holder.trim().parse().ok() });
        }
        Err(TryLockError::Error(source)) => {
            return Err(unreachable("locking", &beside)(source));
        }
    }
    // On a full disk the number cannot be written; the store is to open all the same.
    let _ = file.set_len(0).and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
    Ok(file)
}

#[cfg(test)]
mod tests;
