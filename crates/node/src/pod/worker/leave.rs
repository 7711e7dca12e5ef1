//! How a Pod lets go: of its network once it has ended for good, and of all else when its object goes.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};

use super::super::plan::Plan;
use super::{Ending, Worker};

/// How long the last status may take to be written.
const FLUSH: Duration = Duration::from_secs(5);

impl Worker {
    /// Gives back what a Pod that has ended for good needs no more, its network and its address above all. The status goes on naming
    /// the address, as upstream's does.
    pub(super) fn release(&mut self, plan: &Plan) {
        if plan.phase.over() && plan.quiet && self.setup.take().is_some() {
            tracing::debug!(pod = self.name(), "ended for good; its network is given back");
        }
    }

    /// The last of it: nothing runs any more.
    pub(super) async fn leave(mut self) {
        self.keepers.shutdown().await;
        let Some((ending, _)) = self.ending else { return };
        if ending != Ending::Gone {
            self.publisher.flush(FLUSH).await;
        }
        if ending == Ending::Deleted {
            self.delete().await;
        }
        if ending == Ending::Shutdown {
            return;
        }
        self.context.logs.forget(&self.directory);
        self.context.ports.release(&self.uid);
        let directory = self.directory.clone();
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(&directory)).await;
        if let Ok(Err(error)) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, pod = self.name(), "the directory of a Pod could not be removed");
        }
    }

    /// Takes the object away, now that nothing of the Pod is left.
    async fn delete(&self) {
        let meta = &self.pod.metadata;
        let api: Api<Pod> =
            Api::namespaced(self.context.client.clone(), meta.namespace.as_deref().unwrap_or("default"));
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(self.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        let mut wait = Duration::from_millis(100);
        for _ in 0..6 {
            match api.delete(meta.name.as_deref().unwrap_or_default(), &params).await {
                Ok(_) => return,
                Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => return,
                Err(error) => {
                    tracing::warn!(%error, pod = self.name(), "an ended Pod could not be deleted; trying again")
                }
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
    }
}
