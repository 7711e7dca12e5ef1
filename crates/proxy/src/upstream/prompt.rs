//! A connection whose reader is known to wait for more, after it has read something.
//!
//! A program that writes a head and a body apart may hold the body back until the head is acknowledged (Nagle's algorithm), which the
//! kernel would do only after 40 ms.
//!
//! Invariant: it is no more than a hint, given once for each time that it was asked for, and only where nothing is there to be read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Stream;

/// Asks for it.
pub(super) struct Prompt(Arc<AtomicBool>);

impl Prompt {
    /// What has been read is acknowledged as soon as there is nothing more.
    pub(super) fn give(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The connection.
pub(super) struct Prompted {
    stream: Stream,
    wanted: Arc<AtomicBool>,
}

impl Prompted {
    pub(super) fn new(stream: Stream) -> (Self, Prompt) {
        let wanted = Arc::<AtomicBool>::default();
        (Self { stream, wanted: Arc::clone(&wanted) }, Prompt(wanted))
    }

    pub(super) fn into_inner(self) -> Stream {
        self.stream
    }
}

impl AsyncRead for Prompted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if polled.is_pending() && self.wanted.load(Ordering::Relaxed) {
            self.wanted.store(false, Ordering::Relaxed);
            self.stream.acknowledge();
        }
        polled
    }
}

impl AsyncWrite for Prompted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
