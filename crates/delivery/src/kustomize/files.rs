//! Where a kustomization's files come from: a disk, or any tree that can be read by path.
//!
//! Invariants: paths given to [`Files`] are absolute and clean; what [`Files::canonical`] gives has no symbolic link left,
//! so that a prefix test says whether a file is below a folder. Reads are bounded by [`FILE_LIMIT`].
//!
//! It must not know: YAML, kustomizations.

use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

/// The largest file that is read, bytes.
pub const FILE_LIMIT: u64 = 16 * 1024 * 1024;

/// A tree of files. Paths are absolute in the tree's own terms (`/` is the root of a Git tree, say).
pub trait Files {
    /// The whole content of a file of at most [`FILE_LIMIT`] bytes.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Whether a folder is there.
    fn is_dir(&self, path: &Path) -> bool;

    /// The same place without `.`, `..` and symbolic links; an error when nothing is there.
    fn canonical(&self, path: &Path) -> io::Result<PathBuf>;
}

/// This machine's disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = std::fs::File::open(path)?;
        let mut bytes = Vec::new();
        file.take(FILE_LIMIT + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_LIMIT {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("the file is larger than {} MiB", FILE_LIMIT >> 20),
            ));
        }
        Ok(bytes)
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        path.canonicalize()
    }
}

/// `base` joined with `path`, with `.` and `..` taken out by their spelling alone.
pub(super) fn join(base: &Path, path: &str) -> PathBuf {
    let mut joined = PathBuf::new();
    for part in base.join(path).components() {
        match part {
            Component::ParentDir => {
                joined.pop();
            }
            Component::CurDir => {}
            other => joined.push(other),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_join_by_spelling() {
        for (path, wanted) in
            [("c", "/a/b/c"), ("../c", "/a/c"), ("./x/../y", "/a/b/y"), ("/z", "/z"), ("../../..", "/")]
        {
            assert_eq!(join(Path::new("/a/b"), path), Path::new(wanted), "{path}");
        }
    }
}
