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
    /// When the client was last waited for, in milliseconds since then; [`WAITS`] while it is.
    heard: AtomicU64,
}

const WAITS: u64 = u64::MAX;

impl Watch {
    fn new() -> Self {
        Self { began: Instant::now(), heard: AtomicU64::new(0) }
    }

    fn polled(&self, pending: bool) {
        if pending {
            self.heard.store(WAITS, Ordering::Relaxed);
        } else if self.heard.load(Ordering::Relaxed) == WAITS {
            let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(WAITS - 1);
            self.heard.store(now, Ordering::Relaxed);
        }
    }

    /// Since when the client is not waited for any more; none where it is now.
    pub(crate) fn heard(&self) -> Option<Instant> {
        let heard = self.heard.load(Ordering::Relaxed);
        (heard != WAITS).then(|| self.began + Duration::from_millis(heard))
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
