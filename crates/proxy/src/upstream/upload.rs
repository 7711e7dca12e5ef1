//! An HTTP/1.1 connection to an endpoint while a request with a body is on it, driven by whoever uses it.
//!
//! The connection's own future is polled together with the request's and the answer's, in one task. What passes between
//! them never needs to wake anyone: only the socket does, and it wakes the task through the connection.
//!
//! Invariant: a body of which nobody knows the length goes in chunks, with whatever method: none is left out.
//!
//! An endpoint that writes the head of an answer and its body apart is told at once that it has been read (see `prompt.rs`).

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::prompt::{Prompt, Prompted};
use super::{Http1, RequestBody};
use crate::glance::glance;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Request, Response};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper_util::rt::TokioIo;

type Driver = Connection<TokioIo<Prompted>, RequestBody>;

/// A connection with a request.
pub(crate) struct Upload {
    sender: SendRequest<RequestBody>,
    /// None once the connection has ended.
    driver: Option<Box<Driver>>,
    prompt: Prompt,
    /// How long it may stay unused after this.
    pub(crate) keep: Duration,
}

/// Why no answer came.
pub(crate) enum SendError {
    /// Nothing was sent; here is the request.
    Unsent(Box<Request<RequestBody>>),
    /// The connection broke before the answer's head was whole.
    Lost(hyper::Error),
    /// The request's own body failed.
    Client(hyper::Error),
    /// What came was no HTTP.
    Failed(hyper::Error),
}

impl Upload {
    /// Begins to speak on a connection.
    pub(crate) async fn begin(connection: Box<Http1>) -> io::Result<Self> {
        let Http1 { stream, keep, .. } = *connection;
        let (stream, prompt) = Prompted::new(stream);
        let (sender, driver) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Self { sender, driver: Some(Box::new(driver)), prompt, keep })
    }

    /// The connection, where it is between two messages and can be used again.
    pub(crate) fn back(&mut self) -> Option<Box<Http1>> {
        if !self.ready() {
            return None;
        }
        let parts = self.driver.take()?.into_parts();
        parts.read_buf.is_empty().then(|| Http1::new(parts.io.into_inner().into_inner(), self.keep))
    }

    /// Whether the connection can take a request: it is open and between two messages.
    fn ready(&mut self) -> bool {
        let mut quiet = Context::from_waker(Waker::noop());
        let Some(driver) = &mut self.driver else { return false };
        // Outside of the task's budget, as a refusal for want of budget would look like a busy connection.
        let mut look = pin!(tokio::task::unconstrained(std::future::poll_fn(|cx| driver.poll_without_shutdown(cx))));
        if look.as_mut().poll(&mut quiet).is_ready() {
            self.driver = None;
            return false;
        }
        self.sender.is_ready()
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(&mut self, mut request: Request<RequestBody>) -> Result<Response<Incoming>, SendError> {
        let framed = frame(&mut request);
        let Self { sender, driver, prompt, .. } = self;
        let mut answer = pin!(tokio::task::unconstrained(sender.try_send_request(request)));
        let sent = std::future::poll_fn(|cx| {
            if driver.as_mut().is_some_and(|driver| driver.poll_without_shutdown(cx).is_ready()) {
                // Whatever it still held is given back when it is dropped.
                *driver = None;
            }
            answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        });
        let answered = glance(sent).await;
        // All of the answer may have come with its head; if not, the next look for it finds nothing there.
        prompt.give();
        answered.map_err(|mut error| match error.take_message() {
            Some(mut request) => {
                if framed {
                    request.headers_mut().remove(TRANSFER_ENCODING);
                }
                SendError::Unsent(Box::new(request))
            }
            None => classify(error.into_error()),
        })
    }

    /// Polls the body of an answer that came over this connection.
    pub(crate) fn poll_body(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut quiet = Context::from_waker(Waker::noop());
        if let ready @ Poll::Ready(_) = Pin::new(&mut *body).poll_frame(&mut quiet) {
            return ready;
        }
        if self.driver.as_mut().is_some_and(|driver| driver.poll_without_shutdown(cx).is_ready()) {
            self.driver = None;
        }
        Pin::new(body).poll_frame(&mut quiet)
    }
}

/// Says how a body comes where hyper would send none unless told: with methods that seldom have one, of a length that nobody knows (RFC 9112, section
/// 6.3: without a word of it there is none). True where it has.
fn frame(request: &mut Request<RequestBody>) -> bool {
    let seldom = matches!(*request.method(), Method::GET | Method::HEAD);
    let body = request.body();
    let unsaid = seldom && !body.is_end_stream() && body.size_hint().exact().is_none();
    let frames = unsaid && !request.headers().contains_key(CONTENT_LENGTH);
    if frames {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    frames
}

fn classify(error: hyper::Error) -> SendError {
    if error.is_user() {
        return SendError::Client(error);
    }
    let broken = |error: &io::Error| {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
        matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected)
    };
    let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() || source.is_some_and(broken) {
        SendError::Lost(error)
    } else {
        SendError::Failed(error)
    }
}
