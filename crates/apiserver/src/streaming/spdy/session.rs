//! A session over SPDY: a stream for each of its channels, which say in a header what they are.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::connection::{self, Stream};
use crate::sessions::{Beginning, SessionOptions};
use crate::streaming::link::Watch;
use crate::streaming::relay::{self, Channels, Inlet, Outlet};

/// How long a client may take to open the streams that it asked for.
const OPENED: Duration = Duration::from_secs(30);

/// Serves one session over a connection, to the end of either.
pub(in crate::streaming) async fn serve(
    io: impl AsyncRead + AsyncWrite,
    options: &SessionOptions,
    beginning: Beginning,
    watch: &Watch,
) {
    connection::serve(io, watch, async |held, streams| {
        let (channels, rest) = match tokio::time::timeout(OPENED, gather(options, streams)).await {
            Ok(Some(gathered)) => gathered,
            Ok(None) | Err(_) => return Err(std::io::ErrorKind::TimedOut.into()),
        };
        // The streams have come: they answer on it.
        drop(held);
        relay::session(channels, beginning).await;
        drop(rest);
        Ok(())
    })
    .await;
}

/// Waits for the streams that a session has. The receiver is given back: as long as it is there the client is listened to.
async fn gather(
    options: &SessionOptions,
    mut streams: mpsc::Receiver<Stream>,
) -> Option<(Channels, mpsc::Receiver<Stream>)> {
    let (mut stdin, mut resize, mut stdout, mut stderr, mut error) = (None, None, None, None, None);
    let waits = |wanted: bool, there: bool| wanted && !there;
    while waits(true, error.is_some())
        || waits(options.stdin, stdin.is_some())
        || waits(options.stdout, stdout.is_some())
        || waits(options.stderr, stderr.is_some())
        || waits(options.tty, resize.is_some())
    {
        let stream = streams.recv().await?;
        let kind = stream.header("streamtype").to_owned();
        let (input, output): (Inlet, Outlet) = (stream.input, stream.output);
        match kind.as_str() {
            "stdin" => stdin = Some(input),
            "resize" => resize = Some(input),
            "stdout" => stdout = Some(output),
            "stderr" => stderr = Some(output),
            "error" => error = Some(output),
            _ => return None,
        }
    }
    Some((Channels { stdin, resize, stdout, stderr, error: error? }, streams))
}
