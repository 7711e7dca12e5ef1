//! How many files and sockets this process may have open: as many as it is allowed to, as Go programs do.
//!
//! A proxy has two sockets for each connection, and the soft limit that programs are commonly started with, 1024, is for those that
//! use `select`. Programs of Pods get back what Coracle was started with.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit to the hard one. The soft limit that was there before, where it can be told.
pub(crate) fn raise() -> Option<u64> {
    let (before, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if before < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, before, hard, "the limit of open files could not be raised; start Coracle with a higher one (ulimit -n)");
    }
    Some(before)
}
