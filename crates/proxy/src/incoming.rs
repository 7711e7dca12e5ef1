//! The body of a client's request, whoever reads the client's bytes.
//!
//! Invariant: it knows nothing of what becomes of it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::http2::Received;
use crate::upstream::BodyError;

/// What a client sends after the head of its request.
pub(crate) enum Incoming {
    /// Nothing, beyond doubt.
    Nothing,
    /// Read by hyper.
    Hyper(hyper::body::Incoming),
    /// Of HTTP/2.
    Http2(Received),
    /// One that is watched.
    Watched(Box<Incoming>, Arc<Watch>),
}

/// Tells whether it is the client whom a request waits for, so that nobody else is blamed for it.
pub(crate) struct Watch {
    began: Instant,
    /// Whether the client is waited for, in the last bit; before it since when that is so, or when it last sent something, in milliseconds since
    /// it began.
    state: AtomicU64,
}

impl Watch {
    fn new() -> Self {
        Self { began: Instant::now(), state: AtomicU64::new(0) }
    }

    fn polled(&self, pending: bool) {
        // Who is waited for already has sent nothing since.
        if !(pending && self.waits()) {
            let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.state.store(now << 1 | u64::from(pending), Ordering::Relaxed);
        }
    }

    /// Whether it is the client who is waited for.
    pub(crate) fn waits(&self) -> bool {
        self.state.load(Ordering::Relaxed) & 1 == 1
    }

    /// The same, and since when it is so; where it is not, when something of the body was last taken.
    pub(crate) fn state(&self) -> (bool, Instant) {
        let state = self.state.load(Ordering::Relaxed);
        (state & 1 == 1, self.began + Duration::from_millis(state >> 1))
    }
}

impl Incoming {
    /// The same, watched if there is anything to come.
    pub(crate) fn watched(self) -> (Self, Option<Arc<Watch>>) {
        if self.is_end_stream() {
            return (self, None);
        }
        let watch = Arc::new(Watch::new());
        (Self::Watched(Box::new(self), Arc::clone(&watch)), Some(watch))
    }
}

impl From<hyper::body::Incoming> for Incoming {
    fn from(body: hyper::body::Incoming) -> Self {
        Self::Hyper(body)
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Nothing => Poll::Ready(None),
            Self::Hyper(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Http2(body) => body.poll_frame(cx).map_err(Into::into),
            Self::Watched(body, watch) => {
                let polled = Pin::new(&mut **body).poll_frame(cx);
                watch.polled(polled.is_pending());
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Hyper(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::Watched(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Hyper(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::Watched(body, _) => body.size_hint(),
        }
    }
}
