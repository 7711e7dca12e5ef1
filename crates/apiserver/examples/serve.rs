//! Runs the API server alone, to try a client against it: `cargo run -p apiserver --example serve -- DATA_DIR [PORT]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use apiserver::{Dependencies, LogOptions, LogsError, PodLogs, Settings};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use store::SqliteStore;
use tokio_util::sync::CancellationToken;

/// There is no node here, so there are no logs.
struct NoLogs;

impl PodLogs for NoLogs {
    fn logs(
        &self,
        _: &str,
        _: &str,
        _: LogOptions,
    ) -> BoxFuture<'static, Result<BoxStream<'static, std::io::Result<Bytes>>, LogsError>> {
        Box::pin(async { Err(LogsError::NotFound) })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let data = PathBuf::from(args.next().ok_or("usage: serve DATA_DIR [PORT]")?);
    let port = args.next().map_or(Ok(0), |port| port.parse())?;
    let (store, task) = SqliteStore::open(store::Settings::new(data.join("state.db")))?;
    let mut settings = Settings::new(&data);
    settings.bind = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (server, handle) = apiserver::build(
        settings,
        Arc::new(store),
        Dependencies { logs: Arc::new(NoLogs), sessions: None, pages: None },
    )?;
    println!("{} {}", handle.url(), handle.kubeconfig_path().display());
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(server.run(shutdown.clone()));
    tokio::signal::ctrl_c().await?;
    shutdown.cancel();
    running.await??;
    task.close().await?;
    Ok(())
}
