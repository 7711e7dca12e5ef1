//! What can go wrong when Gateway API is installed, and while the mesh runs.

/// Gateway API's kinds could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A request to the API failed.
    #[error("preparing the mesh: cannot {verb} {kind} {name}: {source}; see the API server's log, then start again")]
    Request {
        /// What was attempted.
        verb: &'static str,
        /// The kind of the object.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What the API said.
        source: Box<kube::Error>,
    },
    /// A definition was taken, but is not served.
    #[error(
        "installing Gateway API: CustomResourceDefinition {name} was not Established within {limit:?}: {reason}; \
         `kubectl describe crd {name}` says what is wrong with it"
    )]
    NotEstablished {
        /// The definition.
        name: String,
        /// How long was waited.
        limit: std::time::Duration,
        /// The last thing known.
        reason: String,
    },
    /// A definition is not what the API can read.
    #[error("preparing the mesh: cannot write {name} as JSON: {source}; this is a defect of Coracle")]
    Encode {
        /// The object.
        name: String,
        /// Why.
        source: serde_json::Error,
    },
}

/// The mesh ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The proxy is gone, so there is nothing left to do.
    #[error("the mesh ends: the proxy that it feeds has ended; see the proxy's log")]
    ProxyGone,
    /// A part of the mesh failed in a way that it must not.
    #[error("the mesh ends: {task} failed: {reason}; this is a defect of Coracle")]
    Task {
        /// Which part.
        task: &'static str,
        /// What it said.
        reason: String,
    },
}
