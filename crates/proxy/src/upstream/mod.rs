//! Connections to endpoints: made, kept, reused, and thrown away.
//!
//! Invariants: an HTTP/1 connection carries one request at a time and is driven by that request's own task, so that an answer
//! crosses no channel between threads; a connection is only kept when it is known to be between two messages.

mod chunks;
mod head;
mod http1;
mod http2;
mod pool;
mod prompt;
mod question;
mod roots;
mod secure;
mod stream;
mod upload;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::incoming::Incoming;
use crate::mirror::{Copy, Tee};
use crate::traffic::Reader;

pub(crate) use head::Plain;
#[cfg(test)]
pub(crate) use head::{plain, read, room};
pub(crate) use http1::{Answer, AskError, Http1, Reading};
pub(crate) use http2::{Answered, CallError, Http2Sender, NotHttp2, answers_http1, connect as connect_http2};
pub(crate) use pool::{BELIEVED, BELIEVED_OF_CALLS, Pool, Pools};
pub(crate) use question::Asker;
pub use roots::client_config;
pub(crate) use secure::{Secure, Secured};
pub(crate) use stream::{Dial, Stream};
pub(crate) use upload::{SendError, Upload};

/// The body of a request on its way to an endpoint.
pub(crate) enum RequestBody {
    Empty,
    Stream(Incoming),
    /// Streams, and adds up how much.
    Counted(Incoming, Arc<AtomicU64>),
    /// Streams, and is copied as it does.
    Teed(Box<Tee>),
    /// The copy.
    Copy(Copy),
    /// Streams, and is kept so that it can be sent again.
    Again(Reader),
}

/// Why the body of a request broke off.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Stream(body) => Pin::new(body).poll_frame(cx),
            Self::Counted(body, bytes) => {
                let polled = Pin::new(body).poll_frame(cx);
                if let Poll::Ready(Some(Ok(frame))) = &polled {
                    let data = frame.data_ref().map_or(0, Bytes::len);
                    bytes.fetch_add(data as u64, Ordering::Relaxed);
                }
                polled
            }
            Self::Teed(tee) => tee.poll_frame(cx),
            Self::Copy(copy) => copy.poll_frame(cx),
            Self::Again(reader) => reader.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(body) | Self::Counted(body, _) => body.is_end_stream(),
            Self::Teed(tee) => tee.is_end_stream(),
            Self::Copy(_) => false,
            Self::Again(reader) => reader.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(body) | Self::Counted(body, _) => body.size_hint(),
            Self::Teed(tee) => tee.size_hint(),
            Self::Copy(copy) => copy.size_hint(),
            Self::Again(reader) => reader.size_hint(),
        }
    }
}
