//! What can go wrong: while the controllers run ([`Error`]) and while one key is looked after ([`ReconcileError`]).
//!
//! Invariants: a `ReconcileError` is never fatal; the key is tried again after a growing pause. It says what was attempted on
//! which object.

use std::time::Duration;

/// Why the controllers stopped before they were asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A task of the controllers panicked. The others were ended in order.
    #[error("a controller task ended unexpectedly: {source}; restart Coracle, and report the panic printed above")]
    Task {
        /// The panic.
        source: tokio::task::JoinError,
    },
}

/// One request to the API that failed.
#[derive(Debug, thiserror::Error)]
#[error("could not {verb} {object}: {source}")]
pub(crate) struct WriteError {
    pub(crate) verb: &'static str,
    pub(crate) object: String,
    pub(crate) source: Box<kube::Error>,
}

impl WriteError {
    pub(crate) fn new(verb: &'static str, object: String, source: kube::Error) -> WriteError {
        WriteError { verb, object, source: Box::new(source) }
    }

    fn status(&self) -> Option<&kube::core::Status> {
        match &*self.source {
            kube::Error::Api(status) => Some(status),
            _ => None,
        }
    }

    fn has_reason(&self, reason: &str) -> bool {
        self.status().is_some_and(|status| status.reason == reason)
    }

    /// The object is not there (any more).
    pub(crate) fn is_not_found(&self) -> bool {
        self.has_reason("NotFound")
    }

    /// Somebody else wrote first, or it is another object of the same name by now.
    pub(crate) fn is_conflict(&self) -> bool {
        self.has_reason("Conflict")
    }

    /// An object of that name is there already.
    pub(crate) fn is_already_exists(&self) -> bool {
        self.has_reason("AlreadyExists")
    }

    /// The namespace is being deleted, so nothing can be created in it; trying again is pointless.
    pub(crate) fn is_namespace_terminating(&self) -> bool {
        self.status().is_some_and(|status| {
            let named = status
                .details
                .iter()
                .flat_map(|details| &details.causes)
                .any(|cause| cause.reason == "NamespaceTerminating");
            named || (status.reason == "Forbidden" && status.message.contains("is being terminated"))
        })
    }

    /// What the API said, without the wrapping: what an Event or a condition shows.
    pub(crate) fn message(&self) -> String {
        match self.status() {
            Some(status) if !status.message.is_empty() => status.message.clone(),
            _ => self.source.to_string(),
        }
    }
}

/// Why looking after one key failed this time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// A request failed.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The cache did not catch up with our own writes in time.
    #[error(
        "the cache of {kind} has not caught up with this controller's own writes within {waited:?}; trying again later"
    )]
    Lagging { kind: String, waited: Duration },
    /// Waiting for others to finish; said so that it is tried again.
    #[error("{object}: {what}")]
    Waiting { object: String, what: String },
}

impl ReconcileError {
    /// Part of ordinary operation: worth a retry, not a line in the log.
    pub(crate) fn is_routine(&self) -> bool {
        match self {
            ReconcileError::Write(error) => {
                error.is_conflict() || error.is_not_found() || error.is_namespace_terminating()
            }
            ReconcileError::Waiting { .. } => true,
            ReconcileError::Lagging { .. } => false,
        }
    }
}
