//! Writes a Pod's status: always the newest, never twice the same, from a task of its own so that the worker never waits for
//! the API.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// The status that is to be written, numbered.
type Wanted = (u64, Option<Value>);

/// One Pod's status, on its way to the API.
pub(super) struct Publisher {
    wanted: watch::Sender<Wanted>,
    written: watch::Receiver<u64>,
    _task: AbortOnDropHandle<()>,
}

impl Publisher {
    pub(super) fn new(api: Api<Pod>, name: String, uid: String) -> Self {
        let (wanted, receiver) = watch::channel((0, None));
        let (done, written) = watch::channel(0);
        let task = AbortOnDropHandle::new(tokio::spawn(write(api, name, uid, receiver, done)));
        Publisher { wanted, written, _task: task }
    }

    /// Has the status written, unless it is what was wanted before.
    pub(super) fn publish(&self, status: Value) {
        self.wanted.send_if_modified(|(number, wanted)| {
            if wanted.as_ref() == Some(&status) {
                return false;
            }
            (*number, *wanted) = (*number + 1, Some(status));
            true
        });
    }

    /// Waits until all that was published is written, or `limit` has passed.
    pub(super) async fn flush(&mut self, limit: Duration) {
        let number = self.wanted.borrow().0;
        let _ = tokio::time::timeout(limit, self.written.wait_for(|written| *written >= number)).await;
    }
}

async fn write(
    api: Api<Pod>,
    name: String,
    uid: String,
    mut wanted: watch::Receiver<Wanted>,
    done: watch::Sender<u64>,
) {
    let mut retry = FIRST_RETRY;
    while wanted.changed().await.is_ok() {
        loop {
            let (number, status) = wanted.borrow_and_update().clone();
            // The uid keeps it from a later Pod of the same name.
            let patch = json!({ "metadata": { "uid": uid }, "status": status });
            match api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
                Ok(_) => {
                    retry = FIRST_RETRY;
                    done.send_replace(number);
                    break;
                }
                Err(kube::Error::Api(answer))
                    if answer.code == 404 || (answer.code == 409 && answer.reason == "Conflict") =>
                {
                    // Gone, or another one by now: nothing is left to be said.
                    done.send_replace(number);
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, pod = name, "a Pod's status could not be written; trying again");
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(LAST_RETRY);
                }
            }
        }
    }
}
