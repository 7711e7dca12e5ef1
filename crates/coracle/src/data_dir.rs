//! The data directory: who holds it, and what it says about the running instance.
//!
//! One Coracle at a time holds a directory, by an exclusive lock that the kernel releases however the holder ends.
//! The holder writes its pid and addresses into a file beside the lock, so that a second one can say who is there. That file is
//! replaced as a whole: whoever reads it sees one state or the next.

use crate::exit;
use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The name of a data directory where none is given: beside the manifests, or in the current directory.
pub(crate) const DEFAULT: &str = ".coracle";

const LOCK: &str = "lock";
const HOLDER: &str = "holder.json";

/// Whoever asks whether a directory is held takes its lock for a moment; so often is it tried again, and after such a pause.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// What the holder of a data directory says about itself.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    /// The API's base URL, once it is served.
    #[serde(default)]
    pub(crate) api: Option<String>,
    /// The first gateway's base URL, once there is one.
    #[serde(default)]
    pub(crate) gateway: Option<String>,
    /// The Git remote's base URL, once it is served; `/NAME.git` follows.
    #[serde(default)]
    pub(crate) git: Option<String>,
}

/// A data directory held by this process.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl DataDir {
    /// Makes the directory where needed (mode 0700) and takes its lock.
    pub(crate) fn hold(path: &Path) -> anyhow::Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| exit::bad_input(format!("cannot make the data directory {}: {error}", path.display())))?;
        let path = path.canonicalize().with_context(|| format!("cannot resolve {}", path.display()))?;
        let lock = path.join(LOCK);
        refuse_foreign(&path, &lock)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .with_context(|| format!("cannot open {}", lock.display()))?;
        match lock_exclusively(file) {
            Ok(lock) => {
                let this = Self { path, _lock: lock };
                this.announce(&Holder { pid: std::process::id(), api: None, gateway: None, git: None })?;
                Ok(this)
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(exit::bad_input(taken(&path))),
            Err((_, errno)) => Err(anyhow::anyhow!("cannot lock {}: {errno}", lock.display())),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Says who holds the directory and where it answers.
    pub(crate) fn announce(&self, holder: &Holder) -> anyhow::Result<()> {
        let text = serde_json::to_vec(holder)?;
        let (file, new) = (self.path.join(HOLDER), self.path.join("holder.json.new"));
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&text)?;
            file.sync_data()
        };
        write().and_then(|()| std::fs::rename(&new, &file)).with_context(|| {
            format!(
                "cannot write to the data directory {}; is the disk full? Free space or choose another with --data",
                self.path.display()
            )
        })
    }
}

fn lock_exclusively(mut file: File) -> Result<Flock<File>, (File, nix::errno::Errno)> {
    for _ in 1..TRIES {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((back, nix::errno::Errno::EWOULDBLOCK)) => file = back,
            outcome => return outcome,
        }
        std::thread::sleep(PAUSE);
    }
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
}

/// A directory with somebody's files in it is not taken: what is Coracle's may be deleted as a whole one day.
fn refuse_foreign(path: &Path, lock: &Path) -> anyhow::Result<()> {
    let mut entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    if lock.exists() || entries.next().is_none() {
        return Ok(());
    }
    Err(exit::bad_input(format!(
        "{} is not empty and no data directory of Coracle; nothing was changed there. Name a new or empty one with --data",
        path.display()
    )))
}

fn taken(path: &Path) -> String {
    let who = holder(path).map_or_else(
        || "another Coracle".to_owned(),
        |holder| match holder.api {
            Some(api) => format!("a Coracle with process id {} (its API is {api})", holder.pid),
            None => format!("a Coracle with process id {}", holder.pid),
        },
    );
    format!(
        "the data directory {} is in use by {who}; stop it with `coracle down --data {}`, or choose another with --data",
        path.display(),
        path.display()
    )
}

/// What the holder's file says; it may be of a Coracle that has ended.
fn holder(path: &Path) -> Option<Holder> {
    let mut text = String::new();
    File::open(path.join(HOLDER)).ok()?.take(64 * 1024).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// The Coracle that holds this directory now, if one does.
pub(crate) fn running(path: &Path) -> Option<Holder> {
    let file = File::open(path.join(LOCK)).ok()?;
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_unlocked) => None,
        Err(_) => holder(path),
    }
}

/// Blocks until nobody holds the directory.
pub(crate) fn wait_until_free(path: &Path) -> anyhow::Result<()> {
    let Ok(file) = File::open(path.join(LOCK)) else { return Ok(()) };
    Flock::lock(file, FlockArg::LockShared)
        .map(drop)
        .map_err(|(_, errno)| anyhow::anyhow!("cannot wait for {}: {errno}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_somebody_elses_is_not_taken() {
        let temporary = tempfile::tempdir().unwrap();
        std::fs::write(temporary.path().join("thesis.txt"), "dear").unwrap();
        let refusal = DataDir::hold(temporary.path()).unwrap_err().to_string();
        assert!(refusal.contains("not empty") && refusal.contains("--data"), "{refusal}");
        assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 1, "nothing was added");
    }

    #[test]
    fn a_second_holder_is_refused_with_the_firsts_name_and_the_way_out() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("data");
        assert_eq!(running(&path), None);
        let first = DataDir::hold(&path).unwrap();
        first
            .announce(&Holder { pid: 4711, api: Some("https://127.0.0.1:9".into()), gateway: None, git: None })
            .unwrap();
        let refusal = DataDir::hold(&path).unwrap_err().to_string();
        assert!(refusal.contains("4711") && refusal.contains("https://127.0.0.1:9"), "{refusal}");
        assert!(refusal.contains("coracle down --data"), "{refusal}");
        assert_eq!(running(&path).map(|h| h.pid), Some(4711));
        drop(first);
        assert_eq!(running(&path), None);
        DataDir::hold(&path).unwrap();
    }
}
