//! What can go wrong with a repository.

use std::time::Duration;

/// Why something could not be had from a repository. Every message names the repository (without credentials).
#[derive(Debug, Clone, thiserror::Error)]
pub enum GitError {
    /// There is no `git` on this machine.
    #[error("cannot run git: {reason}; install git (2.31 or later) and it is tried again")]
    NotInstalled {
        /// What the system said.
        reason: String,
    },
    /// git ran and said no.
    #[error("cannot {attempt} {repository}: {reason}")]
    Refused {
        /// What was attempted.
        attempt: &'static str,
        /// The repository's URL, without credentials.
        repository: String,
        /// The last lines that git wrote.
        reason: String,
    },
    /// It took too long and was ended.
    #[error(
        "cannot {attempt} {repository}: not done within {limit:?}, and ended; is the server reachable, or the repository too large?"
    )]
    TooLong {
        /// What was attempted.
        attempt: &'static str,
        /// The repository's URL, without credentials.
        repository: String,
        /// The limit.
        limit: Duration,
    },
    /// It is larger than what is taken.
    #[error("cannot {attempt} {repository}: {what} is larger than the limit of {limit} bytes")]
    TooLarge {
        /// What was attempted.
        attempt: &'static str,
        /// The repository's URL, without credentials.
        repository: String,
        /// What is too large.
        what: String,
        /// The limit, in bytes.
        limit: u64,
    },
    /// There is no such revision.
    #[error("{repository} has no revision {wanted:?}: {reason}")]
    NoRevision {
        /// The repository's URL, without credentials.
        repository: String,
        /// What was asked for.
        wanted: String,
        /// What there is instead.
        reason: String,
    },
    /// The content is one that is not taken.
    #[error("{repository} at {commit}: {path:?} is refused: {reason}")]
    Content {
        /// The repository's URL, without credentials.
        repository: String,
        /// The commit.
        commit: String,
        /// The path inside the repository; what is no UTF-8 in it is replaced.
        path: String,
        /// Why.
        reason: String,
    },
    /// The URL is none that is taken.
    #[error("the repository URL {url:?} is refused: {reason}")]
    Url {
        /// What was written, without credentials.
        url: String,
        /// Why.
        reason: &'static str,
    },
    /// A file of ours could not be read or written.
    #[error("cannot {attempt} {path}: {reason}")]
    Disk {
        /// What was attempted.
        attempt: &'static str,
        /// The path.
        path: String,
        /// What the system said.
        reason: String,
    },
}

impl GitError {
    /// Whether trying again with the same revision may end otherwise: the network, a server, a full disk.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        !matches!(self, Self::Content { .. } | Self::Url { .. } | Self::NoRevision { .. })
    }
}

/// A URL without user and password, as it may be shown.
#[must_use]
pub(crate) fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if path.is_empty() && !rest.contains('/') {
        format!("{scheme}://{host}")
    } else {
        format!("{scheme}://{host}/{path}")
    }
}
