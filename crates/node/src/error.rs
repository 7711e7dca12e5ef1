//! What can go wrong, one enum an operation family.

use std::io;
use std::path::PathBuf;

/// The node could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The data directory can't be used.
    #[error("can't create the directory of Pods {path}: {source}; choose a data directory that you may write to")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The shim's executable is not there.
    #[error("the executable {path} that starts containers can't be found: {source}")]
    Shim {
        /// The executable.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The node stopped for a reason that is not a shutdown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Node object could not be published, so no Pod would ever be bound here.
    #[error("can't register node {name} with the API: {source}")]
    Register {
        /// The node's name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// A watch ended for good.
    #[error("the watch of {what} ended; the node can't follow what is declared any more")]
    WatchEnded {
        /// The kind that was watched.
        what: &'static str,
    },
}

/// Logs can't be given.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is no such Pod on this node.
    #[error("pod {namespace}/{pod} is not on this node")]
    NotFound {
        /// The Pod's namespace.
        namespace: String,
        /// The Pod's name.
        pod: String,
    },
    /// The Pod has no such container, or which one is meant is not said.
    #[error("{message}")]
    Container {
        /// In upstream's words, with the containers to choose from.
        message: String,
    },
    /// The container has not run yet (or not twice, when the previous run is asked for).
    #[error("container \"{container}\" in pod \"{pod}\" is waiting to start: {reason}")]
    NotStarted {
        /// The Pod's name.
        pod: String,
        /// The container's name.
        container: String,
        /// What it waits for.
        reason: String,
    },
    /// There is no earlier run.
    #[error("previous terminated container \"{container}\" in pod \"{pod}\" not found")]
    NoPrevious {
        /// The Pod's name.
        pod: String,
        /// The container's name.
        container: String,
    },
    /// The log's files can't be read.
    #[error("can't read the log {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
