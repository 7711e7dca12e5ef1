//! The Git sync as a role: its kinds, its controller, and its remote on a loopback port.
//!
//! Invariant: when it fails, that is said, and everything else goes on: what was synced keeps running.

use anyhow::Context;
use delivery::drift::board::Board;
use delivery::sync;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use crate::adapters::CommitPrograms;
use crate::cli::GitOptions;

/// How long a pusher waits to hear how it went.
const WAIT: Duration = Duration::from_secs(1200);
/// The port that is tried where none is given, so that a remote's URL holds over restarts.
const PORT: u16 = 9418;

/// The sync, ready to run.
pub(crate) struct GitSync {
    sync: sync::Sync,
    drifts: Arc<Board>,
    server: sync::http::HttpServer,
}

impl GitSync {
    /// Makes the sync and listens. State is below the data directory.
    pub(crate) async fn build(
        data: &Path,
        client: kube::Client,
        options: &GitOptions,
        shelf: node::recipe::Shelf,
    ) -> anyhow::Result<Self> {
        let mut settings = sync::Settings::new(data.join("sync"));
        settings.programs = Some(Arc::new(CommitPrograms(shelf)));
        if let Some(every) = options.git_poll {
            settings.period = sync::repository::Period { every: Duration::from_secs(every), jitter: Duration::ZERO };
        }
        settings.commit_status = endpoint(options)?;
        let limits = settings.limits.clone();
        let (sync, handle) = sync::build(settings, client).context("cannot begin the Git sync")?;
        let drifts = handle.drifts();
        let http = |port: u16| sync::http::HttpSettings {
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            repositories: data.join("git"),
            hook: std::env::current_exe().ok(),
            wait: WAIT,
            limits: limits.clone(),
        };
        let server = match options.git_port {
            Some(port) => sync::http::listen(http(port), handle).await?,
            // Another instance may have it.
            None => match sync::http::listen(http(PORT), handle.clone()).await {
                Ok(server) => server,
                Err(_) => sync::http::listen(http(0), handle).await?,
            },
        };
        Ok(Self { sync, drifts, server })
    }

    /// How much has drifted.
    pub(crate) fn drifts(&self) -> Arc<Board> {
        Arc::clone(&self.drifts)
    }

    /// The base URL of the remote; `/NAME.git` follows.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/git", self.server.address())
    }

    /// Syncs and answers until told to end. It never ends before.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let (sync, server) = tokio::join!(self.sync.run(stop.clone()), self.server.run(stop.clone()));
        let ((), Err(error)) = (server, sync) else { return Ok(()) };
        tracing::error!("{error}");
        stop.cancelled().await;
        Ok(())
    }
}

/// Where commit statuses are told, where that is asked for.
fn endpoint(options: &GitOptions) -> anyhow::Result<Option<sync::Endpoint>> {
    let Some(url) = &options.commit_status_url else { return Ok(None) };
    let url: http::Uri = url.parse().with_context(|| format!("--commit-status-url {url:?} is no URL"))?;
    let mut config = kube::Config::new(url);
    if let Some(token) = &options.commit_status_token {
        config.auth_info.token = Some(token.clone().into());
    }
    let client = kube::Client::try_from(config).context("cannot make a client for commit statuses")?;
    Ok(Some(sync::Endpoint { client, repository: options.commit_status_repository.clone() }))
}
