//! Waiting until what a controller looks at has been listed once. Before that, what is missing may only not have been read yet.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

/// Something that is empty until its first list.
pub(crate) trait Syncs: Send + Sync + 'static {
    /// Resolves after the first list.
    fn synced(self: Arc<Self>) -> BoxFuture<'static, ()>;
}

/// Resolves when every one of them has been listed.
pub(crate) fn all_synced<const N: usize>(sources: [Arc<dyn Syncs>; N]) -> BoxFuture<'static, ()> {
    async move {
        for source in sources {
            source.synced().await;
        }
    }
    .boxed()
}
