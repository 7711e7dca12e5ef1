//! Which data directories belong to a running Coracle of this user, so that `coracle get` works from any directory.
//!
//! The list is a directory of symbolic links under the user's state directory. It is a convenience: an entry counts only
//! while its data directory is locked, and a list that can't be written does no harm.

use crate::data_dir;
use std::path::{Path, PathBuf};

fn folder() -> Option<PathBuf> {
    let state = match std::env::var_os("XDG_STATE_HOME").filter(|s| !s.is_empty()) {
        Some(state) => PathBuf::from(state),
        None => PathBuf::from(std::env::var_os("HOME").filter(|h| !h.is_empty())?).join(".local/state"),
    };
    Some(state.join("coracle/running"))
}

/// An entry in the list, removed when dropped.
#[derive(Debug)]
pub(crate) struct Entry(Option<PathBuf>);

/// Adds a data directory to the list.
pub(crate) fn add(data: &Path) -> Entry {
    let link = folder().and_then(|folder| {
        std::fs::create_dir_all(&folder).ok()?;
        let link = folder.join(std::process::id().to_string());
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(data, &link).ok()?;
        Some(link)
    });
    Entry(link)
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(link) = &self.0 {
            let _ = std::fs::remove_file(link);
        }
    }
}

/// The data directories of Coracles that run now.
pub(crate) fn running() -> Vec<PathBuf> {
    let Some(entries) = folder().and_then(|folder| std::fs::read_dir(folder).ok()) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter(|data| data_dir::running(data).is_some())
        .collect();
    found.sort();
    found.dedup();
    found
}
