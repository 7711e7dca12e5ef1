//! The bodies of answers: the proxy's own, and those that stream from an endpoint.
//!
//! Invariants: a body is read from the endpoint only as fast as the client takes it; the request counts at its endpoint until its
//! body has ended; a connection goes back to the pool the moment it is free.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use crate::endpoint::Ticket;
use crate::upstream::{Http1, Pool};

/// A body on its way to the client.
pub(crate) enum Body {
    /// All at once, or nothing.
    Fixed(Option<Bytes>),
    /// Over an HTTP/1 connection that this body drives.
    Driven(Driven),
    /// Over a connection with a task of its own.
    Outside(Incoming),
    /// The same of an endpoint.
    Streamed(Incoming, #[expect(dead_code, reason = "counts until dropped")] Ticket),
}

/// An answer that is read by the task that passes it on.
pub(crate) struct Driven {
    pub(crate) body: Incoming,
    /// Given back when the answer has ended.
    pub(crate) lease: Option<Lease>,
}

/// The use of a connection by one request.
pub(crate) struct Lease {
    pub(crate) connection: Box<Http1>,
    #[expect(dead_code, reason = "counts until dropped")]
    pub(crate) ticket: Ticket,
    pub(crate) pool: Arc<Pool>,
    pub(crate) pool_size: usize,
}

impl Lease {
    /// Puts the connection back where it is fit to be used again, else closes it.
    pub(crate) fn release(mut self) {
        if self.connection.ready() {
            self.pool.put(self.connection, self.pool_size);
        }
    }
}

impl Body {
    pub(crate) fn empty() -> Self {
        Self::Fixed(None)
    }

    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        Self::Fixed(Some(text.into()).filter(|text: &Bytes| !text.is_empty()))
    }

    /// Shares static text without copying.
    pub(crate) fn shared(text: &Arc<str>) -> Self {
        Self::text(Bytes::from_owner(Text(Arc::clone(text))))
    }
}

struct Text(Arc<str>);

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Driven {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(lease) = &mut self.lease else { return Poll::Ready(None) };
        let polled = lease.connection.poll_body(&mut self.body, cx);
        let ended = match &polled {
            Poll::Ready(Some(Ok(_))) => self.body.is_end_stream(),
            Poll::Ready(_) => true,
            Poll::Pending => false,
        };
        if ended && let Some(lease) = self.lease.take() {
            lease.release();
        }
        polled
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Fixed(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Driven(driven) => driven.poll(cx),
            Self::Outside(body) | Self::Streamed(body, _) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Fixed(text) => text.is_none(),
            Self::Driven(driven) => driven.lease.is_none(),
            Self::Outside(body) | Self::Streamed(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Fixed(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Driven(driven) => driven.body.size_hint(),
            Self::Outside(body) | Self::Streamed(body, _) => body.size_hint(),
        }
    }
}
