//! Why telemetry could not be set up.

use std::path::PathBuf;

/// A setting that cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// The address of the collector is none.
    #[error("{endpoint:?} is no address of a collector: {reason}; write http://HOST:PORT")]
    Endpoint {
        /// As it was given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The access log could not be opened.
    #[error("cannot open the access log {path}: {source}; name another file or turn it off")]
    AccessLog {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
