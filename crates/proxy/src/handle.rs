//! The way in for the rest of the program: apply snapshots, ask what is bound, wait until an endpoint is idle, read counters.
//!
//! A handle is cheap to clone and holds nothing that the proxy's end would have to wait for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::error::{BindError, Refused};
use crate::explain::{Explanation, Question};
use crate::service::{Command, Shared};
use crate::snapshot::Snapshot;
use crate::stats::Stats;

/// What every listener of the serving snapshot is bound to, by its id.
pub type Bound = Arc<BTreeMap<Arc<str>, Result<SocketAddr, BindError>>>;

/// What an application did.
#[derive(Clone, Debug)]
pub struct Applied {
    /// What every listener is bound to, or why it is not.
    pub bound: Bound,
}

/// Talks to a running [`crate::Proxy`].
#[derive(Clone)]
pub struct Handle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) bound: watch::Receiver<Bound>,
    pub(crate) beside: watch::Receiver<bool>,
}

impl Handle {
    /// Makes `snapshot` what is served, replacing the one before it, and returns once it serves: its listeners are bound, those
    /// that it does not have are unbound, and an endpoint that it does not have gets no request any more. A listener that
    /// cannot be bound does not stop the others; it is reported in [`Applied`] and tried again with the next application, and now and then.
    ///
    /// Applications are made one after the other, in the order of the calls. It waits until [`crate::Proxy::run`] runs.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the snapshot; nothing has changed then.
    pub async fn apply(&self, snapshot: Snapshot) -> Result<Applied, Refused> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Apply { snapshot, reply }).await.map_err(|_| Refused::Closed)?;
        answer.await.map_err(|_| Refused::Closed)?
    }

    /// What a request would meet at a listener of the serving snapshot. None where that has no such listener.
    pub async fn explain(&self, question: Question) -> Option<Explanation> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Explain { question: Box::new(question), reply }).await.ok()?;
        answer.await.ok()?
    }

    /// What a listener is bound to, or why it is not. None where the serving snapshot does not have it.
    #[must_use]
    pub fn bound(&self, listener: &str) -> Option<Result<SocketAddr, BindError>> {
        self.bound.borrow().get(listener).cloned()
    }

    /// Follows what listeners are bound to.
    #[must_use]
    pub fn subscribe_bound(&self) -> watch::Receiver<Bound> {
        self.bound.clone()
    }

    /// Resolves when the endpoint at `address` is in no backend and carries no request, or when `limit` has passed. Says
    /// whether it was the former. Tunnels (upgrades, raw TCP) count as requests until the limit.
    pub async fn drained(&self, address: SocketAddr, limit: Duration) -> bool {
        self.shared.endpoints.drained(address, limit).await
    }

    /// Closes the listeners whose ids are chosen, and resolves when their connections have ended, each after its current
    /// request, or were ended by force after [`crate::Settings::drain`]. Everything else goes on serving.
    pub async fn close(&self, chosen: impl Fn(&str) -> bool + Send) {
        let listeners = self.bound.borrow().keys().filter(|id| chosen(id)).cloned().collect();
        let (reply, answer) = oneshot::channel();
        // An error of either means that the proxy has ended, and all its listeners with it.
        if self.commands.send(Command::Close { listeners, reply }).await.is_err() {
            return;
        }
        for slot in answer.await.unwrap_or_default() {
            slot.tasks.wait().await;
        }
    }

    /// Opens the sockets that stay shut after a start until what was served before answers again: nobody need wait any longer.
    pub async fn open(&self) {
        let (reply, opened) = oneshot::channel();
        // An error of either means that the proxy has ended, and all its listeners with it.
        if self.commands.send(Command::Open { reply }).await.is_ok() {
            let _ = opened.await;
        }
    }

    /// Resolves once all listeners between services are there in the network beside the machine's own, too, but for those whose
    /// address the system does not give: perhaps never.
    pub async fn listens_beside(&self) {
        if self.beside.clone().wait_for(|all| *all).await.is_err() {
            // The proxy has ended, and nothing will be there any more.
            std::future::pending().await
        }
    }

    /// Everything counted so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }
}
