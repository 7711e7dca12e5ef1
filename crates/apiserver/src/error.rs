//! Errors of starting and running the server. What a request can fail with is `status::Failure`.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the API server could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The address to listen on was refused.
    #[error("the API server could not listen on {address}: {source}; choose another port, or 0 for any free one")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A key, certificate or kubeconfig could not be read or written.
    #[error("could not {action} {path}: {source}; check the data directory's owner, permissions and free space")]
    File {
        /// "read", "write", "create".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of the key folder holds something else than expected.
    #[error("{path} is not usable: {reason}; move it away and a new one is made at the next start")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate could not be made.
    #[error("could not issue the {name} certificate: {reason}")]
    Certificate {
        /// Which one.
        name: &'static str,
        /// What went wrong.
        reason: String,
    },
    /// A setting makes no sense.
    #[error("the setting {name} is not usable: {reason}")]
    Setting {
        /// The setting's name.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// What is in the store can't be served.
    #[error("the stored object {key} can't be read: {reason}")]
    Stored {
        /// Its key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why the API server stopped other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An object that must be there before serving could not be written.
    #[error("could not create {object} before serving: {reason}")]
    Bootstrap {
        /// The object.
        object: String,
        /// What went wrong.
        reason: String,
    },
    /// A task of the server panicked.
    #[error("the API server's {task} ended unexpectedly: {reason}")]
    Task {
        /// Which one.
        task: &'static str,
        /// How.
        reason: String,
    },
}
