//! What the API server needs to answer `pods/log`: a trait that whoever keeps the logs implements.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

/// Which part of a container's log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// The container; resolved against the Pod before [`PodLogs::logs`] is called, so always set then.
    pub container: Option<String>,
    /// Go on with what is written from now on, until the container ends.
    pub follow: bool,
    /// The log of the previous run of the container.
    pub previous: bool,
    /// Only this many lines from the end.
    pub tail_lines: Option<u64>,
    /// Only what was written in this many seconds before now.
    pub since_seconds: Option<i64>,
    /// Only what was written after this time (RFC 3339).
    pub since_time: Option<jiff::Timestamp>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// End after this many bytes.
    pub limit_bytes: Option<u64>,
}

/// Why there is no log to read.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The Pod or container is not known to the node.
    #[error("no log of this container is kept on this node")]
    NotFound,
    /// The container has not run yet.
    #[error("the container is waiting to start: {reason}")]
    NotStarted {
        /// What it is waiting for.
        reason: String,
    },
    /// The container has run at most once, so that there is no earlier run.
    #[error("the container has no earlier run")]
    NoPrevious,
    /// The log could not be read.
    #[error("the log could not be read: {0}")]
    Io(#[from] std::io::Error),
}

/// Where the logs of Pods are to be had.
pub trait PodLogs: Send + Sync {
    /// The chosen part of one container's log, as it is read. Dropping the stream ends the reading.
    fn logs(
        &self,
        namespace: &str,
        pod: &str,
        options: LogOptions,
    ) -> BoxFuture<'static, Result<BoxStream<'static, std::io::Result<Bytes>>, LogsError>>;
}
