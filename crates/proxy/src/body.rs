//! The bodies of answers: the proxy's own, and those that stream from an endpoint.
//!
//! Invariants: a body is read from the endpoint only as fast as the client takes it; the request counts at its endpoint until its
//! body has ended; a connection goes back to the pool the moment it is free; what has a deadline is given up then, and its endpoint told.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep_until};

use crate::deadline;
use crate::endpoint::Ticket;
use crate::heads::Term;
use crate::upstream::{Answered, BodyError, Http1, Pool, Reading, Upload};

/// A body on its way to the client.
pub(crate) enum Body {
    /// All at once, or nothing.
    Fixed(Option<Bytes>),
    /// Over an HTTP/1 connection, which this body reads.
    Read(Box<Read>),
    /// Over an HTTP/1 connection that still takes the request, and that this body drives.
    Driven(Box<Driven>),
    /// Over a stream of HTTP/2 that still takes the request, and that this body drives.
    Called(Box<Called>),
    /// Any of these, until the caller's deadline.
    Due(Box<Due>),
    /// Over a connection with a task of its own.
    Outside(Incoming),
    /// The same of an endpoint.
    Streamed(Incoming, #[expect(dead_code, reason = "counts until dropped")] Ticket),
}

/// An answer that is read by the task that passes it on.
pub(crate) struct Read {
    pub(crate) reading: Reading,
    /// None when the answer has ended.
    pub(crate) lease: Option<Lease>,
}

/// The same, while its request may still be sent.
pub(crate) struct Driven {
    pub(crate) body: Incoming,
    pub(crate) connection: Upload,
    /// None when the answer has ended.
    pub(crate) lease: Option<Lease>,
}

/// An answer over HTTP/2, while its request may still be sent.
pub(crate) struct Called {
    pub(crate) body: Answered,
    #[expect(dead_code, reason = "counts until dropped")]
    pub(crate) ticket: Ticket,
}

/// The use of a connection by one request.
pub(crate) struct Lease {
    #[expect(dead_code, reason = "counts until dropped")]
    pub(crate) ticket: Ticket,
    pub(crate) pool: Arc<Pool>,
    pub(crate) pool_size: usize,
}

impl Lease {
    /// Puts a connection back that is fit to be used again.
    pub(crate) fn release(self, connection: Option<Box<Http1>>) {
        if connection.is_some() {
            self.release_at(connection, Instant::now());
        }
    }

    /// The same for whoever knows what time it is.
    pub(crate) fn release_at(self, connection: Option<Box<Http1>>, now: Instant) {
        if let Some(connection) = connection {
            self.pool.put(connection, self.pool_size, now);
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

    /// The same, until then. `says` is whether it can end with trailers that say why.
    pub(crate) fn until(self, until: Instant, says: bool) -> Self {
        Self::Due(Box::new(Due { body: self, until, clock: None, term: None, says, over: false }))
    }

    /// Goes on with the request while nobody can take more of the answer: whoever answers may wait for it. Whether the answer has been given
    /// up meanwhile.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Called(called) => {
                called.body.drive(cx);
                false
            }
            Self::Due(due) => due.drive(cx),
            _ => false,
        }
    }

    /// Says to a connection that hyper writes by when it has to take this: no longer once all of it has been handed over.
    pub(crate) fn is_taken_by(&mut self, term: &Arc<Term>) {
        term.answers_by(self.due());
        if let Self::Due(due) = self {
            due.term = Some(Arc::clone(term));
        }
    }

    /// When it is given up, if ever.
    pub(crate) fn due(&self) -> Option<Instant> {
        if let Self::Due(due) = self { Some(due.until) } else { None }
    }

    /// Why it was given up, where it was the proxy that did.
    pub(crate) fn given_up(&self) -> Option<&'static str> {
        matches!(self, Self::Due(due) if due.over).then_some(deadline::REASON)
    }

    /// Shares static text without copying.
    pub(crate) fn shared(text: &Arc<str>) -> Self {
        Self::text(Bytes::from_owner(Text(Arc::clone(text))))
    }
}

/// An answer with a deadline.
pub(crate) struct Due {
    body: Body,
    until: Instant,
    /// None until somebody has waited.
    clock: Option<Pin<Box<Sleep>>>,
    /// Who has to take it until then.
    term: Option<Arc<Term>>,
    says: bool,
    over: bool,
}

impl Drop for Due {
    fn drop(&mut self) {
        if let Some(term) = self.term.take().filter(|_| !self.over) {
            term.answers_by(None);
        }
    }
}

impl Due {
    /// Gives the answer up if its time has passed, and is woken when it does.
    fn passes(&mut self, cx: &mut Context<'_>) -> bool {
        let until = self.until.into();
        let clock = self.clock.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if clock.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.give_up();
        true
    }

    fn give_up(&mut self) {
        // Whoever answers is told by that.
        self.body = Body::empty();
        self.over = true;
    }

    fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        self.body.drive(cx);
        self.over || self.passes(cx)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Pending if self.passes(cx) => {}
            // Also one that is never waited for has to end.
            Poll::Ready(Some(Ok(frame))) if frame.is_data() && self.until <= Instant::now() => self.give_up(),
            _ => return polled,
        }
        Poll::Ready(Some(if self.says {
            Ok(Frame::trailers(deadline::trailers()))
        } else {
            Err(deadline::Passed.into())
        }))
    }
}

struct Text(Arc<str>);

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Read {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.lease.is_none() {
            return Poll::Ready(None);
        }
        let polled = self.reading.poll_frame(cx);
        let ended = match &polled {
            Poll::Ready(Some(Ok(_))) => self.reading.ended(),
            Poll::Ready(_) => true,
            Poll::Pending => false,
        };
        if ended && let Some(lease) = self.lease.take() {
            lease.release(self.reading.back());
        }
        polled
    }
}

impl Driven {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.lease.is_none() {
            return Poll::Ready(None);
        }
        let polled = self.connection.poll_body(&mut self.body, cx);
        let ended = match &polled {
            Poll::Ready(Some(Ok(_))) => self.body.is_end_stream(),
            Poll::Ready(_) => true,
            Poll::Pending => false,
        };
        if ended && let Some(lease) = self.lease.take() {
            lease.release(self.connection.back());
        }
        polled.map_err(Into::into)
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Fixed(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Read(read) => read.poll(cx),
            Self::Driven(driven) => driven.poll(cx),
            Self::Called(called) => called.body.poll_frame(cx),
            Self::Due(due) => due.poll(cx),
            Self::Outside(body) | Self::Streamed(body, _) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Fixed(text) => text.is_none(),
            Self::Read(read) => read.lease.is_none(),
            Self::Driven(driven) => driven.lease.is_none(),
            Self::Called(called) => called.body.is_end_stream(),
            Self::Due(due) => due.body.is_end_stream(),
            Self::Outside(body) | Self::Streamed(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Fixed(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Read(read) => read.reading.size_hint(),
            Self::Driven(driven) => driven.body.size_hint(),
            Self::Called(called) => called.body.size_hint(),
            Self::Due(due) => due.body.size_hint(),
            Self::Outside(body) | Self::Streamed(body, _) => body.size_hint(),
        }
    }
}
