//! The last good snapshot on disk, and back: so that a proxy serves before whoever makes snapshots is up.
//!
//! What is kept is a snapshot at rest ([`Snapshot::at_rest`]): listeners, certificates and rules, without endpoints. An endpoint is a
//! port of this or another machine, which may be another program's by the time of the next start; a request must never get to
//! the wrong one. So requests for backends, and all that policies guard, are answered 503 with the time to come back (sockets that
//! face the outside are not even opened for that: `service/hold.rs`), while redirects and the proxy's own answers are served.
//!
//! Invariants: the file is replaced as a whole, synced before it is (a crash leaves the one or the other); it is only its owner's to
//! read, as it holds private keys; a file that is torn, changed, of another version or not understood to the last field is
//! refused whole. Writing is off the path of applications, and what would write the same is not written.

pub(crate) mod form;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::snapshot::Snapshot;

/// The first line of the file, before the checksum. A program of another version may mean another thing by the same words.
const HEAD: &str = concat!("coracle snapshot 1 ", env!("CARGO_PKG_VERSION"));
/// The largest file that is read or written, in bytes.
const LIMIT: usize = 256 * 1024 * 1024;

/// Why a kept snapshot is not served.
#[derive(Debug, thiserror::Error)]
#[error("the snapshot kept in {path} is not used: {reason}")]
pub(crate) struct Unusable {
    path: PathBuf,
    reason: String,
}

/// Reads what is kept; nothing where there is no file.
pub(crate) async fn load(path: &Path) -> Result<Option<Snapshot>, Unusable> {
    let own = path.to_owned();
    let read = tokio::task::spawn_blocking(move || match std::fs::read(&own) {
        Ok(bytes) => read(&bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    });
    let outcome = read.await.unwrap_or_else(|error| Err(error.to_string()));
    outcome.map_err(|reason| Unusable { path: path.to_owned(), reason })
}

fn read(bytes: &[u8]) -> Result<Snapshot, String> {
    let end = bytes.iter().take(200).position(|byte| *byte == b'\n').ok_or("it has no first line")?;
    let (first, text) = (&bytes[..end], &bytes[end + 1..]);
    let first = std::str::from_utf8(first).map_err(|_| "its first line is no text")?;
    let (head, sum) = first.rsplit_once(' ').ok_or("its first line is none of ours")?;
    if head != HEAD {
        return Err(format!("it is of another version: {head:?}, not {HEAD:?}"));
    }
    if sum != checksum(text) {
        return Err("its checksum does not fit: it was cut off or changed".to_owned());
    }
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

fn written(snapshot: &Snapshot) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(snapshot)?;
    if text.len() > LIMIT {
        return Err(io::Error::other(format!("it would have {} bytes", text.len())));
    }
    let mut bytes = format!("{HEAD} {}\n", checksum(&text)).into_bytes();
    bytes.extend_from_slice(&text);
    Ok(bytes)
}

/// FNV-1a of 64 bits: it is to find accidents, not malice; whoever can write the file can write its checksum.
fn checksum(bytes: &[u8]) -> String {
    let sum = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{sum:016x}")
}

fn save(path: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let bytes = written(snapshot)?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    // The name is on the disk only with its folder.
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Writes snapshots, the latest only.
pub(crate) struct Keeper(JoinHandle<()>);

impl Keeper {
    /// Begins to keep what is sent, knowing what is kept already. It ends when nobody can send any more.
    pub(crate) fn start(path: PathBuf, kept: Option<Snapshot>) -> (Self, watch::Sender<Option<Snapshot>>) {
        let (sender, latest) = watch::channel(kept.clone());
        (Self(tokio::spawn(run(path, kept, latest))), sender)
    }

    /// Waits until the last one is written.
    pub(crate) async fn ended(self) {
        if let Err(error) = self.0.await {
            tracing::error!(%error, "the keeper of snapshots broke");
        }
    }
}

async fn run(path: PathBuf, mut kept: Option<Snapshot>, mut latest: watch::Receiver<Option<Snapshot>>) {
    loop {
        // An error means that there will be no other; what was sent last is still looked at.
        let last = latest.changed().await.is_err();
        let snapshot = latest.borrow_and_update().clone();
        if snapshot != kept
            && let Some(snapshot) = snapshot
        {
            let own = path.clone();
            let saved = tokio::task::spawn_blocking(move || save(&own, &snapshot).map(|()| snapshot)).await;
            match saved.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(snapshot) => kept = Some(snapshot),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "the snapshot cannot be kept for the next start");
                }
            }
        }
        if last {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
