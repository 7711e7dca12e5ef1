//! Repositories through the installed `git`: fetched into mirrors of our own, read without a checkout, and never trusted.
//!
//! Invariants: no hook, filter, pager, prompt or helper of a user's or a repository's configuration ever runs; only the
//! transports `https`, `http`, `ssh` and `file` are used; every run has a limit of time and of output, and what it may write is
//! bounded; credentials are in the environment or in files of mode 0600, never on a command line or in an error.
//!
//! It must not know: Applications, clusters, or why a revision is wanted.

mod credential;
mod error;
mod mirror;
mod reference;
mod run;
mod signature;
mod tree;

pub use credential::Credential;
pub(crate) use credential::Held;
pub use error::GitError;
pub(crate) use error::shown;
pub(crate) use mirror::remove_leftovers;
pub use mirror::{Commit, Mirror};
pub use reference::{Reference, Refs, Resolved, Wanted};
pub(crate) use run::Doing;
pub use run::{Git, Limits};
pub use signature::{Keys, Verdict};
pub use tree::{Export, LeftOut};

#[cfg(test)]
mod tests;
