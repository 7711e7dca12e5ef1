//! Many streams over one connection: reads the client's frames and hands each stream to who serves it.
//!
//! Invariants: the number of streams is bounded, and what waits on each; a stream whose server does not read holds up the whole connection,
//! because the protocol's windows are nobody's (see [`super::frame`]).

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

use super::frame::{self, Frame, Violation};
use super::header::Unpacker;
use crate::streaming::link::{self, Watch};
use crate::streaming::relay::{Inlet, Mark, Outlet, WAITING};

/// How many streams of a connection may be open at once.
const STREAMS: usize = 512;
/// How many may wait to be served.
pub(super) const UNSERVED: usize = 16;

/// A stream that a client opened.
pub(super) struct Stream {
    headers: Vec<(String, String)>,
    pub(super) input: Inlet,
    pub(super) output: Outlet,
}

impl Stream {
    /// What a header says; nothing where it is not there.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str()).unwrap_or_default()
    }
}

/// What is known of a connection.
struct State {
    unpacker: Unpacker,
    open: HashMap<u32, mpsc::Sender<Bytes>>,
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
    let mut state = State { unpacker: Unpacker::new(), open: HashMap::new(), last: 0, replied: false, streams, frames };
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
    /// Takes in one frame; false where there is nobody left to read for.
    async fn take(&mut self, frame: Frame, watch: &Watch) -> Result<bool, Violation> {
        match frame {
            Frame::Open { stream, last, block } => return self.open(stream, last, &block).await,
            Frame::Data { stream, last, payload } => {
                if !watch.said() {
                    return Ok(false);
                }
                // What comes on a stream that nobody reads any more is let go.
                if let Some(to) = self.open.get(&stream)
                    && !payload.is_empty()
                    && to.send(payload).await.is_err()
                {
                    self.open.remove(&stream);
                }
                if last {
                    self.open.remove(&stream);
                }
            }
            Frame::Reset { stream } => {
                self.open.remove(&stream);
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

    async fn open(&mut self, id: u32, last: bool, block: &[u8]) -> Result<bool, Violation> {
        let headers = self.unpacker.headers(block)?;
        if id.is_multiple_of(2) || id <= self.last {
            return Err(Violation("a stream whose number is not the next"));
        }
        self.last = id;
        self.open.retain(|_, to| !to.is_closed());
        let Some(frames) = self.frames.upgrade() else { return Ok(false) };
        if self.open.len() >= STREAMS {
            return Ok(frames.send(frame::refuse(id)).await.is_ok());
        }
        let (to, input) = mpsc::channel(WAITING);
        if !last {
            self.open.insert(id, to);
        }
        let first = !std::mem::replace(&mut self.replied, true);
        if frames.send(frame::reply(id, first)).await.is_err() {
            return Ok(false);
        }
        let stream = Stream { headers, input, output: Outlet::new(Mark::Stream(id), frames) };
        Ok(self.streams.send(stream).await.is_ok())
    }

    async fn say(&self, frame: Bytes) -> bool {
        match self.frames.upgrade() {
            Some(frames) => frames.send(frame).await.is_ok(),
            None => false,
        }
    }
}
