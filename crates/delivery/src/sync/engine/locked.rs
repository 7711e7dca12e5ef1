//! What a sync does, under the lock of its set: the same Lease that a person's apply takes.
//!
//! Invariants: nothing is changed without the lock, and the work ends when it is lost; another holder is waited for within
//! [`WAIT`], woken by its end, and named meanwhile. An actor has one life: what it held when it dropped its work is its own still.

use std::time::Duration;

use tokio::sync::watch;

use crate::applyset::Set;
use crate::fault;
use crate::lock::{self, LockError, Request};

/// How long another holder is waited for.
pub const WAIT: Duration = Duration::from_secs(120);

/// Why a sync did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Something of what it brings failed.
    #[error("{0}")]
    Failed(String),
    /// Its lock was not to be had, and nothing was done. That says nothing about what it brings.
    #[error("{0}")]
    Locked(String),
    /// Its lock was lost in the middle. That neither.
    #[error("{0}")]
    Lost(String),
}

/// How a lock is asked for.
#[derive(Clone)]
pub struct Door {
    /// The API as ourselves.
    pub client: kube::Client,
    /// Who asks, and what for.
    pub request: Request,
    /// For whom is waited; nothing where the lock is held or not asked for.
    pub waits: watch::Sender<Option<String>>,
}

impl Door {
    /// Does this under the set's lock.
    ///
    /// # Errors
    ///
    /// What the work says, or why there is no lock.
    pub async fn under(&self, set: &Set, work: impl Future<Output = Result<(), String>>) -> Result<(), Broken> {
        let tell = |said: Option<String>| {
            self.waits.send_if_modified(|known| {
                let changed = *known != said;
                *known = said;
                changed
            });
        };
        let request = Request { wait: Some(WAIT), ..self.request.clone() };
        let waits = |held: &lock::Held| tell(Some(format!("waiting for the lock: {held}")));
        let lock = match lock::acquire(self.client.clone(), set, &request, &waits).await {
            Ok(lock) => lock,
            Err(error) => {
                let reason = match error {
                    LockError::Held(held) => format!("the lock was not free within {} s: {held}", WAIT.as_secs()),
                    LockError::Api(error) => format!("the set cannot be locked: {error}"),
                };
                tell(Some(reason.clone()));
                return Err(Broken::Locked(reason));
            }
        };
        tell(None);
        fault::point("sync.locked");
        let lost = lock.lost();
        let outcome = tokio::select! {
            outcome = work => outcome.map_err(Broken::Failed),
            () = lost.cancelled() => {
                let reason = "the lock was lost (somebody ended it, or it could not be renewed), so the rest was left".to_owned();
                tell(Some(reason.clone()));
                Err(Broken::Lost(reason))
            }
        };
        if let Err(error) = lock.release().await {
            tracing::warn!(set = set.name, %error, "a lock could not be given back, and ends by itself");
        }
        outcome
    }
}
