//! A client's connection of HTTP/2, with all of its requests in one task.
//!
//! Invariants: what has arrived is begun before anything is finished; what all parts have to say in one turn leaves in one write; a turn
//! has an end, whatever the parts tell each other.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use h2::server::{Builder, Connection, Handshake};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Bell, CLIENT_WINDOW, Cork, Desk, Line, MISTAKES, Pulse, REMEMBERED, REMEMBERED_FOR, SEND_BUFFER, STREAM_WINDOW,
    TAKEN_BACK, cork, stream,
};
use crate::config::Settings;
use crate::patience::Patience;
use crate::request::Caller;

/// How often the parts are looked at in one turn before others get one.
const ROUNDS: usize = 4;
/// How many places of requests are kept for others.
const SPARE: usize = 4;

/// A connection being served.
pub(crate) struct Serving<S, F> {
    caller: Arc<Caller>,
    answer: fn(Arc<Caller>, http::Request<h2::RecvStream>, h2::server::SendResponse<Bytes>, Patience) -> F,
    connection: State<S>,
    line: Line<S>,
    streams: FuturesUnordered<Place<F>>,
    /// Places of requests that were answered, for the next ones, and what those waited with.
    spare: Vec<Spare<F>>,
    desk: Arc<Desk>,
    /// Of the connection, of the requests, and of the watch over it.
    bells: [Arc<Bell>; 3],
    wakers: [Waker; 3],
    /// None before the handshake, which has a limit of its own.
    pulse: Option<Pulse>,
    finishing: bool,
}

/// A place, and a clock that may be entered already.
type Spare<F> = (Pin<Box<Option<F>>>, Patience);

/// Where a request is worked on. It is given back with the end, for the next one.
struct Place<F>(Option<Pin<Box<Option<F>>>>);

impl<F: Future<Output = Patience>> Future for Place<F> {
    type Output = Option<Spare<F>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let under_way = self.0.as_mut().and_then(|place| place.as_mut().as_pin_mut());
        let patience = match under_way.map(|request| request.poll(cx)) {
            Some(Poll::Pending) => return Poll::Pending,
            Some(Poll::Ready(patience)) => patience,
            None => return Poll::Ready(None),
        };
        Poll::Ready(self.0.take().map(|mut place| {
            place.set(None);
            (place, patience)
        }))
    }
}

enum State<S> {
    Beginning(Handshake<Cork<S>, Bytes>),
    Open(Connection<Cork<S>, Bytes>),
}

/// Serves a connection.
pub(crate) fn serve<S>(
    stream: S,
    caller: Arc<Caller>,
    settings: &Settings,
) -> Serving<S, impl Future<Output = Patience> + Send + use<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (corked, line) = cork(stream);
    let handshake = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CLIENT_WINDOW)
        .max_concurrent_streams(settings.max_streams)
        .max_header_list_size(u32::try_from(settings.max_head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(TAKEN_BACK)
        .max_local_error_reset_streams(Some(MISTAKES))
        .max_concurrent_reset_streams(REMEMBERED)
        .reset_stream_duration(REMEMBERED_FOR)
        .handshake(corked);
    let desk = Desk::new();
    let bells = [desk.bell(), desk.bell(), desk.bell()];
    let wakers = bells.each_ref().map(|bell| Waker::from(Arc::clone(bell)));
    Serving {
        caller,
        answer: stream::answer,
        connection: State::Beginning(handshake),
        line,
        streams: FuturesUnordered::new(),
        spare: Vec::new(),
        desk,
        bells,
        wakers,
        pulse: None,
        finishing: false,
    }
}

impl<S, F> Serving<S, F>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Patience>,
{
    /// Takes no more requests, and ends when those that there are have been answered.
    pub(crate) fn finish(self: Pin<&mut Self>) {
        let this = self.get_mut();
        this.finishing = true;
        if let State::Open(connection) = &mut this.connection {
            connection.graceful_shutdown();
            this.bells[0].ring();
        }
    }

    /// Reads and writes, and begins the requests that came. Ready when the connection has ended.
    fn turn(&mut self) -> Poll<Result<(), h2::Error>> {
        let mut cx = Context::from_waker(&self.wakers[0]);
        loop {
            match &mut self.connection {
                State::Beginning(handshake) => match Pin::new(handshake).poll(&mut cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Ready(Ok(mut connection)) => {
                        if self.finishing {
                            connection.graceful_shutdown();
                        }
                        self.pulse = Some(Pulse::new(connection.ping_pong()));
                        self.bells[2].ring();
                        self.connection = State::Open(connection);
                    }
                },
                State::Open(connection) => match connection.poll_accept(&mut cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                    Poll::Ready(Some(Ok((request, respond)))) => {
                        let spare = self.spare.pop();
                        let (mut place, patience) = spare.unwrap_or_else(|| (Box::pin(None), Patience::default()));
                        place.set(Some((self.answer)(Arc::clone(&self.caller), request, respond, patience)));
                        self.streams.push(Place(Some(place)));
                        self.bells[1].ring();
                    }
                },
            }
        }
    }

    /// Looks at the parts until none has anything to do, or for long enough.
    fn rounds(&mut self) -> Poll<io::Result<()>> {
        for _ in 0..ROUNDS {
            let mut quiet = true;
            if self.bells[0].take() {
                quiet = false;
                if let Poll::Ready(ended) = self.turn() {
                    return Poll::Ready(ended.map_err(io::Error::other));
                }
            }
            if self.bells[1].take() {
                quiet = false;
                let mut cx = Context::from_waker(&self.wakers[1]);
                while let Poll::Ready(Some(spare)) = self.streams.poll_next_unpin(&mut cx) {
                    self.spare.extend(spare.filter(|_| self.spare.len() < SPARE));
                }
            }
            if self.bells[2].take()
                && let Some(pulse) = &mut self.pulse
            {
                let mut cx = Context::from_waker(&self.wakers[2]);
                pulse.poll(&mut cx, || self.line.heard(), || true).map_err(io::Error::other)?;
                // Every now and then, so that a connection which waits comes to hold nothing.
                self.spare = Vec::new();
            }
            if quiet {
                break;
            }
        }
        Poll::Pending
    }
}

impl<S, F> Future for Serving<S, F>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Patience>,
{
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.desk.attend(cx);
        let ended = this.rounds();
        // When it can be written later, the connection's bell rings.
        let written = this.line.flush(&mut Context::from_waker(&this.wakers[0]));
        let [connection, streams, pulse] = &this.bells;
        this.desk.leave(&[connection, streams, pulse], cx);
        match (ended, written) {
            (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (ended, _) => ended,
        }
    }
}
