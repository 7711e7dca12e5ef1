//! The channels of a session in the messages of one WebSocket: the first byte of each says whose the rest is.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::link::Watch;
use super::messages::{self, Left, Messages};
use super::relay::{self, Channels, Inflow, Mark, Outlet, WAITING, inflow};
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
    let (from, mut out) = tokio::io::split(io);
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
    let mut client = Messages::new(from);
    let left = messages::carry(&mut out, queue, watch, carried, read(&mut client, inward, answers, watch)).await;
    messages::leave(client, out, left).await;
}

/// Takes what the client sends, until it leaves.
pub(super) async fn read(
    client: &mut Messages<impl AsyncRead + Unpin>,
    mut inward: Inward,
    answers: mpsc::WeakSender<Bytes>,
    watch: &Watch,
) -> Left {
    loop {
        match client.next(&answers).await {
            Ok(message) if watch.said() => inward.take(message).await,
            Ok(_) => return Left::Gone,
            Err(left) => return left,
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
