//! The connection below a client's streams: what both protocols need of it.
//!
//! Invariants: a connection over which nothing is said ends in time, and one whose client takes nothing of what is said; one whose client is gone is noticed though nothing is read from it,
//! because it is written to; one whose client may no longer do what it does ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::relay::PIECE;
use crate::right::Right;

/// How often a client is asked whether it is there.
const BEAT: Duration = Duration::from_secs(15);
/// How long a client may take to close a connection on which all has been said.
pub(super) const GOODBYE: Duration = Duration::from_secs(5);
/// How long a client may take to make room for one frame.
const STALLED: Duration = Duration::from_mins(10);

/// Whether a connection may go on.
pub(super) struct Watch {
    right: Mutex<Right>,
    last: Mutex<Instant>,
    /// How long nothing may be said.
    idle: Duration,
}

impl Watch {
    pub(super) fn new(right: Right, idle: Duration) -> Arc<Self> {
        Arc::new(Self { right: Mutex::new(right), last: Mutex::new(Instant::now()), idle })
    }

    /// Takes note that something was said. Whether the client may go on.
    pub(super) fn said(&self) -> bool {
        *self.last.lock() = Instant::now();
        self.right.lock().confirm().is_ok()
    }

    fn goes_on(&self) -> bool {
        self.last.lock().elapsed() < self.idle
    }
}

/// Writes frames until there are no more, and `ping` now and then. It ends early where the client is gone or may not go on.
pub(super) async fn write(
    out: &mut (impl AsyncWrite + Unpin),
    mut frames: mpsc::Receiver<Bytes>,
    watch: &Watch,
    ping: Bytes,
) -> std::io::Result<()> {
    let mut beat = tokio::time::interval(BEAT);
    beat.reset();
    loop {
        let frame = tokio::select! {
            frame = frames.recv() => match frame {
                Some(frame) if watch.said() => frame,
                Some(_) => return Err(std::io::ErrorKind::PermissionDenied.into()),
                None => return Ok(()),
            },
            _ = beat.tick() => {
                if !watch.goes_on() {
                    return Err(std::io::ErrorKind::TimedOut.into());
                }
                ping.clone()
            }
        };
        let written = async {
            out.write_all(&frame).await?;
            if frames.is_empty() { out.flush().await } else { Ok(()) }
        };
        tokio::time::timeout(STALLED, written).await??;
    }
}

/// Reads more into `buffer`; false at the end, however it came.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> bool {
    buffer.reserve(PIECE);
    matches!(from.read_buf(buffer).await, Ok(1..))
}

/// Says the last, and waits a moment for the client to close.
pub(super) async fn leave(mut from: impl AsyncRead + Unpin, mut out: impl AsyncWrite + Unpin, last: &[u8]) {
    let leaving = async {
        if out.write_all(last).await.is_ok() && out.flush().await.is_ok() {
            let mut rest = BytesMut::new();
            while read(&mut from, &mut rest).await {
                rest.clear();
            }
        }
        let _ = out.shutdown().await;
    };
    // One that does not close is cut.
    let _ = tokio::time::timeout(GOODBYE, leaving).await;
}
