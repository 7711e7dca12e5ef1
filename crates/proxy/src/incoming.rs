//! The body of a client's request, whoever reads the client's bytes.
//!
//! Invariant: it knows nothing of what becomes of it.

use std::pin::Pin;
use std::task::{Context, Poll};

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
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Hyper(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Hyper(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}
