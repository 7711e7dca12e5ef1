//! Drains a controller's queue.
//!
//! Invariants: a key is worked on by one worker at a time; a failed key is tried again after a growing pause; at the end a
//! key under way is given a moment to finish, which is a courtesy only: every controller survives being cut off anywhere.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::key::Key;
use super::queue::Queue;
use crate::error::ReconcileError;

/// How long a key under way may take to end.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long one attempt at a key may take at all.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(120);

/// What a controller does about one key. `Some(time)` asks to be called again after it.
pub(crate) trait Reconcile: Send + Sync + 'static {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Duration>, ReconcileError>>;
}

/// A controller ready to run.
pub(crate) struct Controller {
    /// As it calls itself to the API, such as `replicaset-controller`.
    pub(crate) name: &'static str,
    pub(crate) queue: Arc<Queue<Key>>,
    pub(crate) workers: usize,
    /// Ends when all it reads has been listed.
    pub(crate) ready: BoxFuture<'static, ()>,
    pub(crate) reconcile: Arc<dyn Reconcile>,
}

impl Controller {
    /// Works until the token is cancelled.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        tokio::select! {
            () = self.ready => {}
            () = shutdown.cancelled() => return,
        }
        let mut workers = JoinSet::new();
        for _ in 0..self.workers.max(1) {
            workers.spawn(work(self.name, self.queue.clone(), self.reconcile.clone(), shutdown.clone()));
        }
        while let Some(ended) = workers.join_next().await {
            if let Err(error) = ended
                && let Ok(panic) = error.try_into_panic()
            {
                // Passed on: the owner of this task sees a panic as a panic.
                std::panic::resume_unwind(panic);
            }
        }
    }
}

async fn work(name: &'static str, queue: Arc<Queue<Key>>, reconcile: Arc<dyn Reconcile>, shutdown: CancellationToken) {
    loop {
        let key = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            key = queue.next() => key,
        };
        let attempt = tokio::time::timeout(LONGEST_ATTEMPT, reconcile.reconcile(&key));
        let outcome = tokio::select! {
            outcome = attempt => outcome,
            () = async { shutdown.cancelled().await; tokio::time::sleep(FAREWELL).await } => return,
        };
        match outcome {
            Ok(Ok(again)) => {
                queue.forget(&key);
                if let Some(after) = again {
                    queue.add_after(key.clone(), after);
                }
            }
            Ok(Err(error)) => {
                if error.is_routine() {
                    tracing::debug!(controller = name, %key, %error, "trying again");
                } else {
                    tracing::warn!(controller = name, %key, %error, "failed, trying again");
                }
                queue.retry(key.clone());
            }
            Err(_) => {
                tracing::warn!(controller = name, %key, "gave up after {LONGEST_ATTEMPT:?}, trying again");
                queue.retry(key.clone());
            }
        }
        queue.done(&key);
    }
}
