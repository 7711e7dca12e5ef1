//! The channels of a session in the messages of one WebSocket: the first byte of each says whose the rest is.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::link::{self, Watch};
use super::relay::{self, Channels, Inflow, Mark, Outlet, WAITING, inflow};
use super::websocket::{self, Decoder, Message};
use crate::sessions::{Beginning, SessionOptions};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Of version 5: the channel that the next byte names has ended.
const CLOSE: u8 = 255;

/// Where the client's channels lead, by their numbers. `closes`: the client can say that one has ended.
pub(super) struct Inward {
    pub(super) to: HashMap<u8, Inflow>,
    pub(super) closes: bool,
}

/// Serves one session over a connection, to the end of either. `closes`: the client can say that its input has ended.
pub(super) async fn serve(
    io: impl AsyncRead + AsyncWrite,
    options: &SessionOptions,
    closes: bool,
    beginning: Beginning,
    watch: &Watch,
) {
    let (mut from, mut out) = tokio::io::split(io);
    let (frames, queue) = mpsc::channel(WAITING);
    let mut to = HashMap::new();
    let mut pipe = |wanted: bool, channel| {
        wanted.then(|| {
            let (inflow, inlet) = inflow();
            to.insert(channel, inflow);
            inlet
        })
    };
    let (stdin, resize) = (pipe(options.stdin, STDIN), pipe(options.tty, RESIZE));
    let outlet = |channel| Outlet::new(Mark::Channel(channel), frames.clone());
    let channels = Channels {
        stdin,
        resize,
        stdout: options.stdout.then(|| outlet(STDOUT)),
        stderr: options.stderr.then(|| outlet(STDERR)),
        error: outlet(ERROR),
    };
    let inward = Inward { to, closes };
    let answers = frames.downgrade();
    drop(frames);
    let carried = async {
        relay::session(channels, beginning).await;
        Ok(())
    };
    let done = tokio::select! {
        // One that cannot be written to is left at once.
        done = async { tokio::try_join!(carried, link::write(&mut out, queue, watch, websocket::ping())) } => done.is_ok(),
        () = read(&mut from, inward, answers, watch) => false,
    };
    if done {
        link::leave(from, out, &websocket::close()).await;
    }
}

/// Takes what the client sends, until it is gone.
pub(super) async fn read(
    from: &mut (impl AsyncRead + Unpin),
    mut inward: Inward,
    answers: mpsc::WeakSender<Bytes>,
    watch: &Watch,
) {
    let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
    loop {
        match decoder.next(&mut buffer) {
            Ok(Some(Message::Data(message))) if watch.said() => inward.take(message).await,
            Ok(Some(Message::Ping(payload))) => {
                if let Some(answers) = answers.upgrade() {
                    let _ = answers.send(websocket::pong(&payload)).await;
                }
            }
            Ok(Some(Message::Pong)) => {}
            Ok(Some(Message::Close | Message::Data(_))) => return,
            Ok(None) => {
                if !link::read(from, &mut buffer).await {
                    return;
                }
            }
            Err(violation) => return tracing::debug!(%violation, "a session is cut"),
        }
    }
}

impl Inward {
    async fn take(&mut self, mut message: Bytes) {
        if message.is_empty() {
            return;
        }
        let channel = message.split_to(1)[0];
        let done = match self.to.get(&channel) {
            Some(inflow) => (!inflow.hand(&message).await).then_some(channel),
            None if self.closes && channel == CLOSE => message.first().copied(),
            // What nobody asked for is let go.
            None => None,
        };
        if let Some(done) = done {
            self.to.remove(&done);
        }
    }
}
