//! HTTP/2 connections to endpoints: one carries all requests of a thread and has a task of its own; a request and its answer are
//! passed on by the task of the request.
//!
//! Invariants: a request of which nothing was sent is given back; an endpoint that answers before it has read all of a request is heard
//! out (RFC 9113, section 8.1); nothing is sent to one that has shown that it speaks something else; an answer that ends before its request ends it; nobody who has no request under way is asked whether
//! he is there.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use http::{Method, Request, Response};
use hyper::body::{Body as _, Frame, SizeHint};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{BodyError, Http1, RequestBody, Stream};
use crate::glance::glance;
use crate::headers::{self, make_lawful};
use crate::http2::{
    Bell, Cork, Desk, ENDPOINT_WINDOW, Line, MISTAKES, Pipe, Pulse, REMEMBERED, REMEMBERED_FOR, Received, SEND_BUFFER,
    STREAM_WINDOW, cork,
};

/// The longest head of an answer.
const HEAD: u32 = 256 * 1024;
/// How often the parts of a connection are looked at in one turn before others get one.
const ROUNDS: usize = 4;

/// What is known of a connection by those who use it.
#[derive(Default)]
struct State {
    ended: AtomicBool,
    /// Requests under way.
    calls: AtomicUsize,
}

/// Sends requests over a shared connection, which ends when nobody holds one of these or has a request under way.
#[derive(Clone)]
pub(crate) struct Http2Sender {
    requests: SendRequest<Bytes>,
    state: Arc<State>,
}

/// Why no answer came.
pub(crate) enum CallError {
    /// Nothing was sent; here is the request.
    Unsent(Box<Request<RequestBody>>),
    Failed(h2::Error),
}

/// Counts a request of a connection.
struct Call(Arc<State>);

impl Call {
    fn begin(state: &Arc<State>) -> Self {
        state.calls.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(state))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer, while its request may still be sent.
pub(crate) struct Answered {
    body: Received,
    /// None once all of it is on its way, or nobody wants it.
    upload: Option<Pipe<RequestBody>>,
    #[expect(dead_code, reason = "counts until dropped")]
    call: Call,
}

impl Http2Sender {
    /// Whether the connection is there.
    pub(crate) fn is_ready(&self) -> bool {
        !self.state.ended.load(Ordering::Relaxed)
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn ask(mut self, request: Box<Request<RequestBody>>) -> Result<Response<Answered>, CallError> {
        if poll_fn(|cx| self.requests.poll_ready(cx)).await.is_err() {
            // It has ended, or said that it is about to.
            self.state.ended.store(true, Ordering::Relaxed);
            return Err(CallError::Unsent(request));
        }
        let (mut parts, body) = request.into_parts();
        make_lawful(&mut parts.headers);
        // What is new with every request has no place in the table of those that come again, and would push them out.
        for name in &headers::UNIQUE {
            if let Some(value) = parts.headers.get_mut(name) {
                value.set_sensitive(true);
            }
        }
        let ended = body.is_end_stream();
        let sent = self.requests.send_request(Request::from_parts(parts, ()), ended);
        let (mut answer, stream) = sent.map_err(CallError::Failed)?;
        let call = Call::begin(&self.state);
        let mut upload = (!ended).then(|| Pipe::new(body, stream));
        let answered = poll_fn(|cx| {
            drive(&mut upload, cx);
            Pin::new(&mut answer).poll(cx)
        });
        let response = glance(answered).await.map_err(CallError::Failed)?;
        let (parts, body) = response.into_parts();
        let body = Received::new(body, &parts.headers);
        Ok(Response::from_parts(parts, Answered { body, upload, call }))
    }
}

fn drive(upload: &mut Option<Pipe<RequestBody>>, cx: &mut Context<'_>) {
    if upload.as_mut().is_some_and(|upload| upload.poll(cx, |_, _| false).is_ready()) {
        *upload = None;
    }
}

impl Answered {
    /// Goes on with the request; the answer is not asked for.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.upload, cx);
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.drive(cx);
        self.body.poll_frame(cx).map_err(Into::into)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What an endpoint says first is no HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotHttp2 {
    /// It answers in HTTP/1.1, most likely that it does not understand.
    #[error("it speaks HTTP/1.1 and not HTTP/2")]
    Http1,
    #[error("it began with what is no HTTP/2")]
    Other,
    /// It goes without a word, as one that speaks HTTP/1.1 alone may do (hyper's own server does), and one that is about to end as well.
    #[error("it closed the connection without a word when HTTP/2 was begun")]
    Silent,
}

impl NotHttp2 {
    /// Whether that is why there is no connection.
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        error.get_ref().and_then(|error| error.downcast_ref::<Self>()).copied()
    }
}

impl From<NotHttp2> for io::Error {
    fn from(error: NotHttp2) -> Self {
        Self::new(io::ErrorKind::Unsupported, error)
    }
}

/// What the first bytes of an endpoint show; none where it takes more of them to tell, and they may come.
fn told(first: &[u8], ended: bool) -> Option<Result<(), NotHttp2>> {
    const HTTP1: &[u8] = b"HTTP/";
    match first {
        [] => ended.then_some(Err(NotHttp2::Silent)),
        // The first byte of a frame's length, which is small.
        [0, ..] => Some(Ok(())),
        // A page without a head, as HTTP has had it before 1.0. Python's own server says in one that it knows no such version.
        [b'<', ..] => Some(Err(NotHttp2::Http1)),
        _ if first.starts_with(HTTP1) => Some(Err(NotHttp2::Http1)),
        _ if HTTP1.starts_with(first) && !ended => None,
        _ => Some(Err(NotHttp2::Other)),
    }
}

/// Waits for what an endpoint says first, which is a frame with its settings; one that says nothing for longer than `limit` is spoken to all the same. Ours have gone by then, so that one that answers them takes no longer.
///
/// Requests could be sent before (RFC 9113, section 3.4: a client may send frames right after its preface). But then the first ones would be spent on
/// programs that speak something else, and the body of a call, which is there once, with them: none could be asked of another endpoint. What it costs is
/// the rest of a round trip for each new connection, which carries all requests of a thread.
async fn greeted(
    connection: &mut Connection<Cork<Stream>, Bytes>,
    line: &Line<Stream>,
    limit: Duration,
) -> io::Result<()> {
    let greeting = poll_fn(|cx| {
        let ended = Pin::new(&mut *connection).poll(cx);
        let written = line.flush(cx);
        let (first, count) = line.first();
        let broken = ended.is_ready() || matches!(written, Poll::Ready(Err(_)));
        let over = if count == 0 { left(&ended, &written) } else { broken };
        match (told(&first[..count], over), ended, written) {
            (Some(Err(other)), ..) => Poll::Ready(Err(other.into())),
            (Some(Ok(())), Poll::Pending, _) => Poll::Ready(Ok(())),
            (_, Poll::Ready(Err(error)), _) => Poll::Ready(Err(io::Error::other(error))),
            (_, Poll::Ready(Ok(())), _) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            (_, _, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (None, Poll::Pending, _) => Poll::Pending,
        }
    });
    tokio::time::timeout(limit, greeting).await.unwrap_or(Ok(()))
}

/// Whether the other side has closed the connection, or reset it. What else ends one (a refusal by TLS, say) speaks for itself.
fn left(ended: &Poll<Result<(), h2::Error>>, written: &Poll<io::Result<()>>) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    let gone = |kind| matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof);
    let ended = match ended {
        Poll::Ready(Err(error)) => error.get_io().is_some_and(|error| gone(error.kind())),
        Poll::Ready(Ok(())) => true,
        Poll::Pending => false,
    };
    ended || matches!(written, Poll::Ready(Err(error)) if gone(error.kind()))
}

/// Asks one that went without a word whether it speaks HTTP/1.1, by the request that is for no resource and does nothing (RFC 9110, section 9.3.7).
pub(crate) async fn answers_http1(stream: Stream, address: SocketAddr, limit: Duration) -> bool {
    let asked = Http1::new(stream, Duration::ZERO);
    let question = format!("OPTIONS * HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let answer = asked.ask(&Method::OPTIONS, question.as_bytes());
    tokio::time::timeout(limit, answer).await.is_ok_and(|answer| answer.is_ok())
}

/// Begins to speak on a new connection, on which the first word is waited for as long as `greeting`. Its task belongs to `tasks` and ends with `stop`, or when nobody holds the sender any more.
pub(crate) async fn connect(
    stream: Stream,
    address: SocketAddr,
    greeting: Duration,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> io::Result<Http2Sender> {
    // Where it was agreed on, both have said so before.
    let unsure = stream.alpn() != Some(b"h2");
    let (corked, line) = cork(stream);
    let mut handshake = std::pin::pin!(
        Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(ENDPOINT_WINDOW)
            .max_header_list_size(HEAD)
            .max_send_buffer_size(SEND_BUFFER)
            .max_local_error_reset_streams(Some(MISTAKES))
            .max_concurrent_reset_streams(REMEMBERED)
            .reset_stream_duration(REMEMBERED_FOR)
            .handshake(corked)
    );
    let (requests, mut connection) = poll_fn(|cx| handshake.as_mut().poll(cx)).await.map_err(io::Error::other)?;
    if unsure {
        greeted(&mut connection, &line, greeting).await?;
    }
    let state = Arc::<State>::default();
    let desk = Desk::new();
    let bells = [desk.bell(), desk.bell()];
    let wakers = bells.each_ref().map(|bell| Waker::from(Arc::clone(bell)));
    let pulse = Pulse::new(connection.ping_pong());
    let driver = Driver { connection, line, pulse, desk, bells, wakers, state: Arc::clone(&state) };
    tasks.spawn(async move {
        tokio::select! {
            ended = driver => if let Err(error) = ended {
                tracing::debug!(%address, %error, "connection to an endpoint ended");
            },
            () = stop.cancelled() => {}
        }
    });
    Ok(Http2Sender { requests, state })
}

/// Reads and writes for all requests of a connection.
struct Driver {
    connection: Connection<Cork<Stream>, Bytes>,
    line: Line<Stream>,
    pulse: Pulse,
    desk: Arc<Desk>,
    /// Of the connection, and of the watch over it.
    bells: [Arc<Bell>; 2],
    wakers: [Waker; 2],
    state: Arc<State>,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
    }
}

impl Driver {
    fn rounds(&mut self) -> Poll<io::Result<()>> {
        for _ in 0..ROUNDS {
            let mut quiet = true;
            if self.bells[0].take() {
                quiet = false;
                let mut cx = Context::from_waker(&self.wakers[0]);
                if let Poll::Ready(ended) = Pin::new(&mut self.connection).poll(&mut cx) {
                    return Poll::Ready(ended.map_err(io::Error::other));
                }
            }
            if self.bells[1].take() {
                let mut cx = Context::from_waker(&self.wakers[1]);
                let wanted = || self.state.calls.load(Ordering::Relaxed) > 0;
                self.pulse.poll(&mut cx, || self.line.heard(), wanted).map_err(io::Error::other)?;
            }
            if quiet {
                break;
            }
        }
        Poll::Pending
    }
}

impl Future for Driver {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.desk.attend(cx);
        let ended = this.rounds();
        // When it can be written later, the connection's bell rings.
        let written = this.line.flush(&mut Context::from_waker(&this.wakers[0]));
        let [connection, pulse] = &this.bells;
        this.desk.leave(&[connection, pulse], cx);
        match (ended, written) {
            (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (ended, _) => ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_endpoint_speaks_is_told_by_its_first_bytes() {
        let (http1, other) = (Some(Err(NotHttp2::Http1)), Some(Err(NotHttp2::Other)));
        for (first, ended, expected) in [
            (&b""[..], false, None),
            (b"", true, Some(Err(NotHttp2::Silent))),
            (b"\0\0\x12\x04\0", false, Some(Ok(()))),
            (b"H", false, None),
            (b"HTTP", false, None),
            (b"HTTP", true, other),
            (b"HTTP/", false, http1),
            (b"<!DOC", false, http1),
            // SSH, a refusal of TLS, a database.
            (b"SSH-2", false, other),
            (b"\x15\x03\x01\0\x02", false, other),
            (b"J\0\0\0\x0a", false, other),
        ] {
            assert_eq!(told(first, ended), expected, "{first:?}, ended: {ended}");
        }
    }
}
