//! One HTTP/1.1 connection to an endpoint, and requests without a body over it.
//!
//! Such a request is written at once and its answer read in the same task; most have no body, and this path is as short as
//! it can be. A request with a body may be answered while it is still sent, which [`super::Upload`] knows how to do.
//!
//! Invariants: a connection is used again only where its last answer had ended beyond doubt and nothing came after it.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, response};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::chunks::{Chunks, Step};
use super::head::{self, Length, Plain, Unreadable};
use super::{BodyError, Stream};
use crate::glance::glance;
use crate::landing;

/// How much is read at once: of a head, and of a long body.
const READ: usize = 8 * 1024;
const READ_MUCH: usize = 64 * 1024;
/// How many interim answers there may be before the one that counts.
const MOST_INTERIM: usize = 16;

/// A connection between two requests.
pub(crate) struct Http1 {
    pub(super) stream: Stream,
    /// How long it may stay unused.
    pub(crate) keep: Duration,
    /// When it was put away.
    pub(crate) since: Instant,
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// The connection broke before anything of an answer came.
    #[error("the connection broke: {0}")]
    Lost(#[from] io::Error),
    /// The connection broke when the endpoint had begun to answer: it has had the request.
    #[error("the connection broke in the middle of the answer's head: {0}")]
    Cut(io::Error),
    /// What came was no HTTP.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

/// An answer whose body is still to be read.
pub(crate) struct Reading {
    /// None once the answer has ended, or broken off.
    connection: Option<Box<Http1>>,
    buffer: BytesMut,
    rest: Rest,
    keep: bool,
}

enum Rest {
    Bytes(u64),
    Chunked(Chunks),
    UntilClose,
}

/// An answer of which the head has come.
pub(crate) enum Answer<T> {
    /// What was made of it, for how long the connection may be kept where that was said, and the rest.
    Taken(T, Option<u64>, Reading),
    Read(response::Parts, Reading),
}

/// What has landed.
enum Landed<T> {
    /// What was made of a plain answer. Then what came after that, how much is still to come, and whether the connection can be used again.
    Taken(T, Option<u64>, (BytesMut, u64, bool)),
    Bytes(BytesMut),
}

/// Looks at the first bytes of an answer.
fn landed_as<T>(landed: &[u8], method: &Method, take: impl FnOnce(&Plain<'_, '_>, &[u8]) -> Option<T>) -> Landed<T> {
    let mut room = head::room();
    let plain = head::plain(landed, method, &mut room);
    let Some(plain) = plain else { return Landed::Bytes(BytesMut::from(landed)) };
    let rest = &landed[plain.end..];
    let here = usize::try_from(plain.length).unwrap_or(usize::MAX).min(rest.len());
    match take(&plain, &rest[..here]) {
        Some(made) => {
            Landed::Taken(made, plain.keeps, (BytesMut::from(&rest[here..]), plain.length - here as u64, plain.keep))
        }
        None => Landed::Bytes(BytesMut::from(landed)),
    }
}

impl Http1 {
    pub(crate) fn new(stream: Stream, keep: Duration) -> Box<Self> {
        Box::new(Self { stream, keep, since: Instant::now() })
    }

    /// Whether the connection is still open, and silent as it has to be.
    pub(crate) fn ready(&mut self) -> bool {
        let mut quiet = Context::from_waker(Waker::noop());
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        // Outside of the task's budget, as a refusal for want of budget would look like silence.
        let stream = &mut self.stream;
        let look = std::future::poll_fn(|cx| tokio::io::AsyncRead::poll_read(Pin::new(&mut *stream), cx, &mut buffer));
        pin!(tokio::task::unconstrained(look)).poll(&mut quiet).is_pending()
    }

    /// A request without a body, as bytes.
    pub(crate) fn written<B>(request: &Request<B>) -> Vec<u8> {
        head::write(request)
    }

    /// Sends a request of that method, which has no body, and waits for the head of its answer.
    pub(crate) async fn ask(self: Box<Self>, method: &Method, bytes: &[u8]) -> Result<Answer<Infallible>, AskError> {
        self.ask_plainly(method, bytes, |_, _| None).await
    }

    /// The same. Where a plain head comes in one piece, `take` sees it with what came of the body, and may make the answer of it where it
    /// has landed.
    pub(crate) async fn ask_plainly<T>(
        mut self: Box<Self>,
        method: &Method,
        bytes: &[u8],
        take: impl FnOnce(&Plain<'_, '_>, &[u8]) -> Option<T>,
    ) -> Result<Answer<T>, AskError> {
        self.stream.write_all(bytes).await?;
        if !matches!(self.stream, Stream::Plain(_)) {
            std::future::poll_fn(|cx| Pin::new(&mut self.stream).poll_flush(cx)).await?;
        }
        let mut take = Some(take);
        let landed = std::future::poll_fn(|cx| {
            landing::poll_read(&mut self.stream, cx, |landed| match take.take() {
                Some(take) => landed_as(landed, method, take),
                None => Landed::Bytes(BytesMut::from(landed)),
            })
        });
        let mut buffer = match glance(landed).await? {
            Landed::Taken(made, keeps, rest) => {
                let reading = Reading::of(self, rest.0, Rest::Bytes(rest.1), rest.2);
                return Ok(Answer::Taken(made, keeps, reading));
            }
            Landed::Bytes(bytes) if bytes.is_empty() => {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            Landed::Bytes(bytes) => bytes,
        };
        for _ in 0..MOST_INTERIM {
            let found = self.head(&mut buffer, method).await?;
            if found.parts.status.is_informational() && found.parts.status != StatusCode::SWITCHING_PROTOCOLS {
                continue;
            }
            let rest = match found.length {
                Length::Bytes(bytes) => Rest::Bytes(bytes),
                Length::Chunked => Rest::Chunked(Chunks::default()),
                Length::UntilClose => Rest::UntilClose,
            };
            let reading = Reading::of(self, buffer, rest, found.keep);
            return Ok(Answer::Read(found.parts, reading));
        }
        Err(Unreadable("there are interim answers without end").into())
    }

    /// The head of an answer that has begun.
    async fn head(&mut self, buffer: &mut BytesMut, method: &Method) -> Result<head::Head, AskError> {
        loop {
            if !buffer.is_empty()
                && let Some(found) = head::read(buffer, method)?
            {
                return Ok(found);
            }
            buffer.reserve(READ);
            let read = std::future::poll_fn(|cx| poll_read_buf(Pin::new(&mut self.stream), cx, buffer)).await;
            if read.map_err(AskError::Cut)? == 0 {
                return Err(AskError::Cut(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

impl Reading {
    /// What follows a head, of which the buffer has what has come. Where that is nothing, a program that writes head and body apart may hold the
    /// body back until the head is acknowledged, which the kernel would do only after 40 ms.
    fn of(connection: Box<Http1>, buffer: BytesMut, rest: Rest, keep: bool) -> Self {
        let awaits_all = buffer.is_empty() && !matches!(rest, Rest::Bytes(0));
        let reading = Self { connection: Some(connection), buffer, rest, keep };
        if awaits_all && let Some(connection) = &reading.connection {
            connection.stream.acknowledge();
        }
        reading
    }

    /// Keeps the connection for no longer than that.
    pub(crate) fn keep_for(&mut self, keep: Duration) {
        if let Some(connection) = &mut self.connection {
            connection.keep = connection.keep.min(keep);
        }
    }

    /// The whole body, where it has come already.
    pub(crate) fn whole(&mut self) -> Option<Bytes> {
        let Rest::Bytes(length) = self.rest else { return None };
        let length = usize::try_from(length).ok().filter(|length| *length <= self.buffer.len())?;
        self.rest = Rest::Bytes(0);
        Some(self.buffer.split_to(length).freeze())
    }

    /// Whether nothing is to come any more.
    pub(crate) fn ended(&self) -> bool {
        match &self.rest {
            Rest::Bytes(left) => *left == 0,
            Rest::Chunked(chunks) => chunks.ended(),
            Rest::UntilClose => self.connection.is_none(),
        }
    }

    /// The connection, where the answer has ended and it can be used again.
    pub(crate) fn back(&mut self) -> Option<Box<Http1>> {
        let whole = self.ended() && self.keep && self.buffer.is_empty();
        self.connection.take().filter(|_| whole)
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match &self.rest {
            Rest::Bytes(left) => SizeHint::with_exact(*left),
            Rest::Chunked(_) | Rest::UntilClose => SizeHint::default(),
        }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            match self.step() {
                Ok(Step::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Step::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(Step::End) => return Poll::Ready(None),
                Ok(Step::More) => {}
                Err(error) => return self.cut(error.into()),
            }
            let much = match self.rest {
                Rest::Bytes(left) => usize::try_from(left).unwrap_or(READ_MUCH).clamp(READ, READ_MUCH),
                Rest::Chunked(_) | Rest::UntilClose => READ_MUCH / 2,
            };
            let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
            self.buffer.reserve(much);
            match ready!(poll_read_buf(Pin::new(&mut connection.stream), cx, &mut self.buffer)) {
                Ok(0) if matches!(self.rest, Rest::UntilClose) => {
                    self.connection = None;
                    return Poll::Ready(None);
                }
                Ok(0) => return self.cut(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(_) => {}
                Err(error) => return self.cut(error.into()),
            }
        }
    }

    /// What there is in what has been read.
    fn step(&mut self) -> Result<Step, Unreadable> {
        Ok(match &mut self.rest {
            Rest::Bytes(0) => Step::End,
            Rest::Chunked(chunks) => chunks.next(&mut self.buffer)?,
            _ if self.buffer.is_empty() => Step::More,
            Rest::Bytes(left) => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX).min(self.buffer.len());
                *left -= most as u64;
                Step::Data(self.buffer.split_to(most).freeze())
            }
            Rest::UntilClose => Step::Data(self.buffer.split().freeze()),
        })
    }

    /// The answer breaks off, and the connection with it.
    fn cut(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.connection = None;
        Poll::Ready(Some(Err(error)))
    }
}
