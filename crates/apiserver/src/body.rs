//! Response bodies: whole or streamed, one type for both so that TLS and in-process callers get the same.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};

/// Any error that ends a body early.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of every response.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// A body that is there as a whole.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that is produced as it is read. An error ends it abnormally, so that a client can tell it from a clean end.
pub(crate) fn stream<E>(chunks: impl Stream<Item = Result<Bytes, E>> + Send + 'static) -> Body
where
    E: Into<BoxError>,
{
    StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data).map_err(Into::into))).boxed_unsync()
}
