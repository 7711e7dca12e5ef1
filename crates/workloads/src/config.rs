//! What the controllers can be told from outside.
//!
//! Invariants: every field has a default that suits one machine; nothing here is read from the environment.

/// Settings of the built-in controllers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The certificate of the authority that signed the API server's certificate, in PEM. Copied into every namespace as
    /// ConfigMap `kube-root-ca.crt`. Empty: no such ConfigMap is made.
    pub ca_pem: String,
    /// How many Pods that have ended (phase Succeeded or Failed) may stay before the oldest are deleted.
    pub ended_pods: usize,
    /// How many keys a controller works on at the same time.
    pub concurrency: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { ca_pem: String::new(), ended_pods: 1000, concurrency: 8 }
    }
}
