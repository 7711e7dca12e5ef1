//! The running proxy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::error::{Refused, RunError};
use crate::handle::{Applied, Handle};
use crate::snapshot::Snapshot;
use crate::stats::{Registry, Stats};

pub(crate) enum Command {
    Apply {
        snapshot: Snapshot,
        reply: oneshot::Sender<Result<Applied, Refused>>,
    },
}

pub(crate) struct Shared {
    stats: Registry,
}

impl Shared {
    pub(crate) async fn drained(&self, _address: SocketAddr, _limit: Duration) -> bool {
        true
    }
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            series: self.stats.read(),
            ..Stats::default()
        }
    }
}

/// The proxy, ready to run.
pub struct Proxy {
    commands: mpsc::Receiver<Command>,
}

/// Makes a proxy that serves nothing yet.
#[must_use]
pub fn build(settings: Settings) -> (Proxy, Handle) {
    let (commands, received) = mpsc::channel(16);
    let (_bound, bound) = watch::channel(Arc::default());
    let shared = Arc::new(Shared {
        stats: Registry::new(settings.max_series),
    });
    (
        Proxy { commands: received },
        Handle {
            commands,
            shared,
            bound,
        },
    )
}

impl Proxy {
    /// Serves until `shutdown`, then lets connections end for as long as [`Settings::drain`] says.
    ///
    /// # Errors
    ///
    /// Connections that did not end in that time; they were closed.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), RunError> {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                command = self.commands.recv() => match command {
                    Some(Command::Apply { reply, snapshot }) => { drop(snapshot); let _ = reply.send(Err(Refused::Closed)); }
                    None => return Ok(()),
                }
            }
        }
    }
}
