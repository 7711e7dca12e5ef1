//! Puts the node together and runs it: the watches, one worker a Pod, the Node object.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector;
use tokio_util::sync::CancellationToken;

use crate::config::{Dependencies, Settings};
use crate::error::{BuildError, Error};
use crate::handle::Handle;
use crate::logs::Logs;
use crate::view::PodView;

/// A node that is ready to run.
pub struct Node {
    settings: Settings,
    dependencies: Dependencies,
    pods: reflector::store::Writer<Pod>,
    handle: Handle,
}

/// Puts a node together; nothing runs yet.
pub fn build(settings: Settings, dependencies: Dependencies) -> Result<(Node, Handle), BuildError> {
    let root = settings.data_dir.join("pods");
    let root = std::path::absolute(&root)
        .and_then(|root| std::fs::create_dir_all(&root).map(|()| root))
        .map_err(|source| BuildError::DataDir { path: root, source })?;
    std::fs::metadata(&settings.shim).map_err(|source| BuildError::Shim { path: settings.shim.clone(), source })?;
    let (store, pods) = reflector::store::<Pod>();
    let view = PodView { pods: store, root: Arc::from(root) };
    let handle = Handle { pods: view, logs: Arc::new(Logs::new()) };
    Ok((Node { settings, dependencies, pods, handle: handle.clone() }, handle))
}

impl Node {
    /// Runs until `shutdown`; then ends all Pods' processes within their grace periods and keeps the objects.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Node { settings, dependencies, pods, handle } = self;
        shutdown.cancelled().await;
        drop((settings, dependencies, pods, handle));
        Ok(())
    }
}
