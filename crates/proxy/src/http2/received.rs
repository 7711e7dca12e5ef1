//! The body of a message of HTTP/2, as it comes.
//!
//! Invariants: what was taken may be sent again by the other side (its window opens); a body that is cut off is an error, however
//! kindly the other side says so.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use hyper::body::{Frame, SizeHint};

/// A body.
pub(crate) struct Received {
    stream: RecvStream,
    /// How much is still to come, where that was said. That it was no lie is checked by `h2`.
    left: Option<u64>,
    /// Whether only trailers can follow.
    data_ended: bool,
}

impl Received {
    pub(crate) fn new(stream: RecvStream, headers: &HeaderMap) -> Self {
        let left = if stream.is_end_stream() { Some(0) } else { length(headers) };
        Self { stream, left, data_ended: false }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(bytes)) => {
                    // It fails where the stream is closed, which does not need the room any more.
                    let _ = self.stream.flow_control().release_capacity(bytes.len());
                    self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_ended = true,
            }
        }
        self.stream.poll_trailers(cx).map(|trailers| trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// What a message says of its length; nothing where it says two things.
fn length(headers: &HeaderMap) -> Option<u64> {
    let mut said = headers.get_all(CONTENT_LENGTH).iter();
    let first = said.next()?;
    if said.any(|other| other != first) {
        return None;
    }
    first.to_str().ok()?.parse().ok()
}
