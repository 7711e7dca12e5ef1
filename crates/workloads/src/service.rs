//! Puts the controllers together and runs them.
//!
//! Invariants: [`Workloads::run`] owns every task. They end in order: controllers, then Events, then watches.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::controllers::{Caches, Context};
use crate::error::Error;
use crate::garbage::graph::Graph;
use crate::machinery::recorder::{RecorderTask, recorder};
use crate::machinery::runner::Controller;

/// All built-in controllers, ready to run.
pub struct Workloads {
    caches: Arc<Caches>,
    graph: Arc<Graph>,
    controllers: Vec<Controller>,
    recorder: RecorderTask,
    watcher: kube::Client,
}

/// Puts the controllers together.
///
/// `client` gives the client that a controller of that name uses, so that each has an identity of its own. The names are
/// those of Kubernetes' controllers (`deployment-controller`, ...), and `workloads-cache` and `event-recorder` for what they share.
pub fn build(settings: Settings, client: impl Fn(&str) -> kube::Client) -> Workloads {
    let (voice, recorder) = recorder(client("event-recorder"));
    let context = Context::new(settings, voice, &client);
    let controllers = context.controllers();
    Workloads {
        caches: context.caches.clone(),
        graph: context.graph.clone(),
        controllers,
        recorder,
        watcher: client("workloads-cache"),
    }
}

impl Workloads {
    /// Runs until the token is cancelled.
    ///
    /// # Errors
    ///
    /// When a task panicked; all others have been ended then.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let (end_controllers, end_events, end_watches) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let mut watches = JoinSet::new();
        self.caches.spawn(&mut watches, &self.watcher, &end_watches);
        watches.spawn(crate::garbage::monitor::run(self.graph, self.watcher, end_watches.clone()));
        let mut events = JoinSet::new();
        events.spawn(self.recorder.run(end_events.clone()));
        let mut controllers = JoinSet::new();
        for controller in self.controllers {
            controllers.spawn(controller.run(end_controllers.clone()));
        }
        // None of these ends by itself but by a panic.
        let mut outcome = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            Some(ended) = controllers.join_next() => ended,
            Some(ended) = events.join_next() => ended,
            Some(ended) = watches.join_next() => ended,
        };
        end_controllers.cancel();
        outcome = drain(&mut controllers, outcome).await;
        end_events.cancel();
        outcome = drain(&mut events, outcome).await;
        end_watches.cancel();
        outcome = drain(&mut watches, outcome).await;
        outcome.map_err(|source| Error::Task { source })
    }
}

async fn drain(
    tasks: &mut JoinSet<()>,
    mut outcome: Result<(), tokio::task::JoinError>,
) -> Result<(), tokio::task::JoinError> {
    while let Some(ended) = tasks.join_next().await {
        outcome = outcome.and(ended);
    }
    outcome
}
