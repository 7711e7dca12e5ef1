//! Many streams over one connection: reads the client's frames and hands each stream to who serves it.
//!
//! Invariants: the number of streams is bounded, and what waits on each and on all of them; a stream whose server does not read holds up the
//! whole connection, because the protocol's windows are nobody's (see [`super::frame`]).

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::frame::{self, Frame, Violation};
use super::header::Unpacker;
use crate::streaming::link::{self, Watch};
use crate::streaming::relay::{self, Inlet, Mark, Outlet, WAITING};

/// How many streams of a connection may be open at once.
const STREAMS: usize = 512;
/// How many may wait to be served.
pub(super) const UNSERVED: usize = 16;
/// How many bytes of a connection may wait on all its streams together; a frame fits in.
const HELD: usize = 4 * frame::LONGEST;

/// Serves a client until it is gone or may not go on, or what carries its streams has ended; then it is told so. As long as that holds what
/// it is given first, and any stream, there may be more to write.
pub(super) async fn serve(
    io: impl AsyncRead + AsyncWrite,
    watch: &Watch,
    carry: impl AsyncFnOnce(mpsc::Sender<Bytes>, mpsc::Receiver<Stream>) -> io::Result<()>,
) {
    let (mut from, mut out) = tokio::io::split(io);
    let (frames, queue) = mpsc::channel(WAITING);
    let (opened, streams) = mpsc::channel(UNSERVED);
    let answers = frames.downgrade();
    let carried = carry(frames, streams);
    let done = tokio::select! {
        done = async { tokio::try_join!(carried, link::write(&mut out, queue, watch, frame::ping(2))) } => done.is_ok(),
        () = read(&mut from, opened, answers, watch) => false,
    };
    if done {
        link::leave(from, out, &frame::go_away(0)).await;
    }
}

/// A stream that a client opened.
pub(super) struct Stream {
    headers: Vec<(String, String)>,
    pub(super) input: Inlet,
    pub(super) output: Outlet,
    reset: oneshot::Receiver<()>,
}

impl Stream {
    /// What a header says; nothing where it is not there.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn half(headers: &[(&str, &str)], frames: mpsc::Sender<Bytes>) -> (Self, mpsc::Sender<Bytes>) {
        let ((to, input), (_, reset)) = (mpsc::channel(WAITING), oneshot::channel());
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        (Self { headers, input, output: Outlet::new(Mark::Stream(1), frames), reset }, to)
    }

    /// Resolves when the client wants no more of it, in either direction.
    pub(super) async fn was_reset(&mut self) {
        if (&mut self.reset).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// A stream while somebody serves it.
struct Open {
    /// None once the client has said all.
    to: Option<mpsc::Sender<Bytes>>,
    reset: oneshot::Sender<()>,
}

impl Open {
    fn is_served(&self) -> bool {
        !self.reset.is_closed() || self.to.as_ref().is_some_and(|to| !to.is_closed())
    }
}

/// What is known of a connection.
struct State {
    unpacker: Unpacker,
    open: HashMap<u32, Open>,
    room: Arc<Semaphore>,
    /// The last stream that was opened.
    last: u32,
    replied: bool,
    streams: mpsc::Sender<Stream>,
    frames: mpsc::WeakSender<Bytes>,
}

/// Reads what a client sends until it is gone or does what it must not.
pub(super) async fn read(
    from: &mut (impl AsyncRead + Unpin),
    streams: mpsc::Sender<Stream>,
    frames: mpsc::WeakSender<Bytes>,
    watch: &Watch,
) {
    let mut state = State::new(streams, frames);
    let mut buffer = BytesMut::new();
    loop {
        let taken = match frame::next(&mut buffer) {
            Ok(Some(frame)) => state.take(frame, watch).await,
            Ok(None) => Ok(link::read(from, &mut buffer).await),
            Err(violation) => Err(violation),
        };
        match taken {
            Ok(true) => {}
            Ok(false) => return,
            Err(violation) => return tracing::debug!(%violation, "streams are cut"),
        }
    }
}

impl State {
    fn new(streams: mpsc::Sender<Stream>, frames: mpsc::WeakSender<Bytes>) -> Self {
        let room = Arc::new(Semaphore::new(HELD));
        Self { unpacker: Unpacker::new(), open: HashMap::new(), room, last: 0, replied: false, streams, frames }
    }

    /// Takes in one frame; false where there is nobody left to read for. What comes when all has been said is let go, while that is written.
    async fn take(&mut self, frame: Frame, watch: &Watch) -> Result<bool, Violation> {
        match frame {
            Frame::Open { stream, last, block } => return self.open(stream, last, &block).await,
            Frame::Data { stream, last, payload } => {
                if !watch.said() {
                    return Ok(false);
                }
                self.hand(stream, &payload, last).await;
            }
            Frame::Reset { stream } => {
                if let Some(open) = self.open.remove(&stream) {
                    // Whoever served it may be done.
                    let _ = open.reset.send(());
                }
            }
            Frame::Ping { id } if id % 2 == 1 => return Ok(self.say(frame::ping(id)).await),
            Frame::Headers { block } => {
                self.unpacker.headers(&block)?;
            }
            // Those that are open go on; a client that wants no more of them closes the connection.
            Frame::GoAway | Frame::Ping { .. } | Frame::Other => {}
        }
        Ok(true)
    }

    /// Hands on what came on a stream, as soon as there is room for it.
    async fn hand(&mut self, stream: u32, payload: &[u8], last: bool) {
        let Some(open) = self.open.get_mut(&stream) else { return };
        if let Some(to) = &open.to
            && !payload.is_empty()
            && !relay::hand(to, &self.room, payload).await
        {
            // What comes on a stream that nobody reads any more is let go.
            open.to = None;
        }
        if last {
            open.to = None;
        }
    }

    async fn open(&mut self, id: u32, last: bool, block: &[u8]) -> Result<bool, Violation> {
        let headers = self.unpacker.headers(block)?;
        if id.is_multiple_of(2) || id <= self.last {
            return Err(Violation("a stream whose number is not the next"));
        }
        self.last = id;
        self.open.retain(|_, open| open.is_served());
        let Some(frames) = self.frames.upgrade() else { return Ok(true) };
        if self.open.len() >= STREAMS {
            return Ok(frames.send(frame::refuse(id)).await.is_ok());
        }
        let (to, input) = mpsc::channel(WAITING);
        let (reset, told) = oneshot::channel();
        self.open.insert(id, Open { to: (!last).then_some(to), reset });
        let first = !std::mem::replace(&mut self.replied, true);
        if frames.send(frame::reply(id, first)).await.is_err() {
            return Ok(false);
        }
        let stream = Stream { headers, input, output: Outlet::new(Mark::Stream(id), frames), reset: told };
        // Where streams are not served any more, that is all.
        let _ = self.streams.send(stream).await;
        Ok(true)
    }

    async fn say(&self, frame: Bytes) -> bool {
        match self.frames.upgrade() {
            Some(frames) => frames.send(frame).await.is_ok(),
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_on_all_streams_together_is_bounded() {
        let (streams, _served) = mpsc::channel(UNSERVED);
        let (frames, _queue) = mpsc::channel(WAITING);
        let mut state = State::new(streams, frames.downgrade());
        let mut inputs = Vec::new();
        let mut resets = Vec::new();
        for id in [1, 3] {
            let ((to, input), (reset, told)) = (mpsc::channel(WAITING), oneshot::channel());
            state.open.insert(id, Open { to: Some(to), reset });
            inputs.push(input);
            resets.push(told);
        }
        let piece = vec![7; frame::LONGEST];
        for n in 0..HELD / frame::LONGEST {
            state.hand(if n % 2 == 0 { 1 } else { 3 }, &piece, false).await;
        }
        let mut one_more = Box::pin(state.hand(3, &piece, true));
        assert!(futures::poll!(&mut one_more).is_pending(), "there is no room for it");
        assert_eq!(inputs[0].recv().await.as_deref(), Some(&piece[..]), "and now there is");
        one_more.await;
        let mut rest = 0;
        while inputs[1].recv().await.is_some() {
            rest += 1;
        }
        assert_eq!(rest, 3, "nothing is lost");
    }
}
