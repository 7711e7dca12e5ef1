//! A body on its way into a stream of HTTP/2.
//!
//! Invariants: a body is asked for more only when what it gave has a place; no more is claimed of the window than there is to send, and no
//! more handed over than it takes, so that nothing of a stream waits where nobody minds it; when the body breaks off, or the other side takes nothing
//! for longer than it may, the stream is reset.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use hyper::body::Body;
use tokio::time::{Instant, Sleep, sleep_until};

use super::reason;
use crate::upstream::BodyError;

/// A body, and where it goes.
pub(crate) struct Pipe<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// A part that has no place yet, and whether it is the last one.
    held: Option<(Bytes, bool)>,
    /// Whether anything of the window was ever claimed.
    claims: bool,
    /// None where others mind.
    stall: Option<Stall>,
}

/// How long the other side takes nothing of a stream.
struct Stall {
    limit: Duration,
    /// Since when it is waited for.
    since: Option<Instant>,
    /// Entered once, and moved when it ends: most waits are much shorter.
    clock: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    /// Whether it has been too long. Wakes the task when it is.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let due = *self.since.get_or_insert_with(Instant::now) + self.limit;
        let clock = self.clock.get_or_insert_with(|| Box::pin(sleep_until(due)));
        while clock.as_mut().poll(cx).is_ready() {
            if due <= Instant::now() {
                return true;
            }
            clock.as_mut().reset(due);
        }
        false
    }
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Pipe<B> {
    pub(crate) fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, held: None, claims: false, stall: None }
    }

    /// The same. Who takes nothing for so long gets no more.
    pub(crate) fn ending_after(self, limit: Duration) -> Self {
        Self { stall: Some(Stall { limit, since: None, clock: None }), ..self }
    }

    /// The same, after these bytes, which are the last if it says so.
    pub(crate) fn after(mut self, first: Bytes, last: bool) -> Self {
        if !first.is_empty() {
            self.hold(first, last);
        }
        self
    }

    /// Sends what can be sent. Ready when there is nothing more to do: all is on its way, the other side wants no more, or the
    /// stream has been reset. `meanwhile` is done where there is no room, and says whether the body has been given up.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        meanwhile: impl Fn(&mut B, &mut Context<'_>) -> bool,
    ) -> Poll<()> {
        loop {
            if let Some((mut data, last)) = self.held.take() {
                let room = match self.room(cx) {
                    Poll::Ready(Some(room)) => room,
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => {
                        self.held = Some((data, last));
                        if meanwhile(&mut self.body, cx) || self.stall.as_mut().is_some_and(|stall| stall.is_over(cx)) {
                            self.stream.send_reset(Reason::CANCEL);
                            return Poll::Ready(());
                        }
                        return Poll::Pending;
                    }
                };
                let part = data.split_to(room.min(data.len()));
                let last_part = last && data.is_empty();
                if self.stream.send_data(part, last_part).is_err() || last_part {
                    return Poll::Ready(());
                }
                if !data.is_empty() {
                    self.hold(data, last);
                }
                continue;
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                // The wait ends as well when the other side gives up.
                return self.stream.poll_reset(cx).map(|_| ());
            };
            let Some(frame) = frame else {
                // Without an end so far. An error means that nobody waits for it.
                let _ = self.stream.send_data(Bytes::new(), true);
                return Poll::Ready(());
            };
            match frame.map(hyper::body::Frame::into_data) {
                Ok(Ok(data)) => {
                    let last = self.body.is_end_stream();
                    if !data.is_empty() {
                        self.hold(data, last);
                    } else if self.stream.send_data(data, last).is_err() || last {
                        return Poll::Ready(());
                    }
                }
                Ok(Err(frame)) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        if self.claims {
                            self.stream.reserve_capacity(0);
                        }
                        let _ = self.stream.send_trailers(trailers);
                        return Poll::Ready(());
                    }
                }
                Err(error) => {
                    self.stream.send_reset(reason(&*error));
                    return Poll::Ready(());
                }
            }
        }
    }

    /// Keeps a part until there is room, and claims that.
    fn hold(&mut self, data: Bytes, last: bool) {
        self.stream.reserve_capacity(data.len());
        self.claims = true;
        self.held = Some((data, last));
    }

    /// How much of what is held can be sent; none where the other side wants no more.
    fn room(&mut self, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        loop {
            let room = self.stream.capacity();
            if room > 0 {
                if let Some(stall) = &mut self.stall {
                    stall.since = None;
                }
                return Poll::Ready(Some(room));
            }
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(None),
            }
        }
    }
}
