//! A body on its way into a stream of HTTP/2.
//!
//! Invariants: a body is asked for more only when what it gave has a place; no more is claimed of the window than there is to send;
//! when the body breaks off, the stream is reset.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::SendStream;
use hyper::body::Body;

use super::reason;
use crate::upstream::BodyError;

/// The last part of a body is handed over without waiting for the window, if it is no larger than this: it is the only one of its
/// stream that can wait there.
const LAST: usize = 16 * 1024;

/// A body, and where it goes.
pub(crate) struct Pipe<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// A part that has no place yet, and whether it is the last one.
    held: Option<(Bytes, bool)>,
    /// Whether anything of the window was ever claimed.
    claims: bool,
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Pipe<B> {
    pub(crate) fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, held: None, claims: false }
    }

    /// Sends what can be sent. Ready when there is nothing more to do: all is on its way, the other side wants no more, or the
    /// stream has been reset.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, meanwhile: impl Fn(&mut B, &mut Context<'_>)) -> Poll<()> {
        loop {
            if self.held.is_some() {
                while self.stream.capacity() == 0 {
                    match self.stream.poll_capacity(cx) {
                        Poll::Ready(Some(Ok(_))) => {}
                        Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                        Poll::Pending => {
                            meanwhile(&mut self.body, cx);
                            return Poll::Pending;
                        }
                    }
                }
                if let Some((data, last)) = self.held.take()
                    && (self.stream.send_data(data, last).is_err() || last)
                {
                    return Poll::Ready(());
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
                    if data.is_empty() || (last && data.len() <= LAST) {
                        if self.stream.send_data(data, last).is_err() || last {
                            return Poll::Ready(());
                        }
                    } else {
                        // A claim, so that there is a window to wait for; what is sent raises it to what it is.
                        self.stream.reserve_capacity(1);
                        self.claims = true;
                        self.held = Some((data, last));
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
}
