//! HTTP/2 connections to endpoints: one carries all requests, and has a task of its own.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Stream;
use super::pool::Http2Sender;

/// Runs what hyper wants to have run, under an owner who waits for it.
#[derive(Clone)]
pub(crate) struct Tasks(pub(crate) TaskTracker);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// Begins to speak on a new connection. Its task belongs to `tasks` and ends with `stop`, or when nobody holds the sender any more.
pub(crate) async fn connect(
    stream: Stream,
    address: SocketAddr,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> io::Result<Http2Sender> {
    let (sender, connection) = http2::Builder::new(Tasks(tasks.clone()))
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_header_list_size(256 * 1024)
        .adaptive_window(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tasks.spawn(async move {
        tokio::select! {
            ended = connection => if let Err(error) = ended {
                tracing::debug!(%address, %error, "connection to an endpoint ended");
            },
            () = stop.cancelled() => {}
        }
    });
    Ok(sender)
}
