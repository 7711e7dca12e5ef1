//! The ports of the Pod that a client was let to, and what is carried between one and the client. Both protocols forward with it.
//!
//! Invariant: it is the Pod of the request, by its uid: another that has its name later is never connected to.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::relay::{Inlet, Outlet, PIECE};
use crate::sessions::{Connection, PodKey, PodSessions};

/// Which Pod's ports.
#[derive(Clone)]
pub(super) struct Pod {
    sessions: Arc<dyn PodSessions>,
    key: PodKey,
    exists: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Pod {
    /// `exists` says whether it is there, whether or not it runs.
    pub(super) fn new(
        sessions: Arc<dyn PodSessions>,
        key: PodKey,
        exists: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { sessions, key, exists: Arc::new(exists) }
    }

    /// Begins when it is first waited for.
    pub(super) fn connect(&self, port: u16) -> BoxFuture<'static, Result<Box<dyn Connection>, String>> {
        self.sessions.connect(&self.key, port)
    }

    /// It was deleted, and will not be there again.
    pub(super) fn is_gone(&self) -> bool {
        !(self.exists)()
    }

    /// What a client is told that can't be connected to a port.
    pub(super) fn refusal(&self, port: &str, why: &str) -> String {
        let PodKey { name, uid, .. } = &self.key;
        if self.is_gone() {
            return format!(
                "error forwarding port {port} to pod {name}: the Pod (uid {uid}) is gone; another of its name is another Pod: \
                 begin anew to reach it"
            );
        }
        format!("error forwarding port {port} to pod {name}: {why}")
    }
}

/// To the end of the Pod's side.
pub(super) async fn carry(connection: Box<dyn Connection>, input: Inlet, output: &Outlet) {
    let (read, write) = tokio::io::split(connection);
    let inward = async {
        inward(input, write).await;
        // The Pod's side may still have much to say.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = outward(read, output) => {}
        () = inward => {}
    }
}

async fn inward(mut from: Inlet, mut to: impl AsyncWrite + Unpin) {
    while let Some(piece) = from.recv().await {
        if to.write_all(&piece).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

async fn outward(mut from: impl AsyncRead + Unpin, to: &Outlet) {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece).await {
            Ok(read @ 1..) if to.send(&piece[..read]).await.is_ok() => {}
            Ok(_) => return,
            Err(error) => return tracing::debug!(%error, "a forwarded connection broke"),
        }
    }
}
