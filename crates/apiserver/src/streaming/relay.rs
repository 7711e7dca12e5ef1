//! Carries a session's streams between a client and a program, whatever protocol the client speaks.
//!
//! Invariants: nothing is buffered but a few pieces in each direction, so that a slow side holds up the other; the program has ended, or
//! is ended, when this has.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::asked::{Sizes, outcome};
use super::spdy::frame as spdy;
use super::websocket;
use crate::sessions::{Beginning, Input, Output, Session};

/// How much is sent in one piece.
pub(super) const PIECE: usize = 32 * 1024;
/// How many pieces wait for a slow program, for each stream, and how many for a slow client.
pub(super) const WAITING: usize = 16;
/// How long the last of the output may take to arrive once the program has ended.
const REST: Duration = Duration::from_secs(5);

/// What a client sends on one stream; it ends when the client says so.
pub(super) type Inlet = mpsc::Receiver<Bytes>;

/// How pieces are marked as a stream's.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark {
    /// A channel of a WebSocket.
    Channel(u8),
    /// A stream of SPDY.
    Stream(u32),
}

/// One stream towards the client.
#[derive(Clone, Debug)]
pub(super) struct Outlet {
    mark: Mark,
    frames: mpsc::Sender<Bytes>,
}

/// The client is gone.
pub(super) struct Gone;

impl Outlet {
    pub(super) fn new(mark: Mark, frames: mpsc::Sender<Bytes>) -> Self {
        Self { mark, frames }
    }

    /// Waits until there is room.
    pub(super) async fn send(&self, piece: &[u8]) -> Result<(), Gone> {
        let frame = match self.mark {
            Mark::Channel(channel) => websocket::data(&[channel], piece),
            Mark::Stream(stream) => spdy::data(stream, piece, false),
        };
        self.frames.send(frame).await.map_err(|_| Gone)
    }

    /// Says that nothing more comes, where the protocol has a word for it.
    pub(super) async fn finish(&self) {
        if let Mark::Stream(stream) = self.mark {
            // One that is gone need not know.
            let _ = self.frames.send(spdy::data(stream, &[], true)).await;
        }
    }
}

/// The streams of a session, on the client's side.
pub(super) struct Channels {
    pub(super) stdin: Option<Inlet>,
    pub(super) resize: Option<Inlet>,
    pub(super) stdout: Option<Outlet>,
    pub(super) stderr: Option<Outlet>,
    pub(super) error: Outlet,
}

/// Begins a session and carries its streams until it has ended and the client has been told how.
pub(super) async fn session(channels: Channels, beginning: Beginning) {
    let Channels { stdin, resize, stdout, stderr, error } = channels;
    let ended = match beginning.await {
        Ok(session) => run(session, stdin, resize, (stdout.as_ref(), stderr.as_ref())).await,
        Err(why) => Err(why),
    };
    // A client that is gone need not be told.
    let _ = error.send(outcome(&ended).to_string().as_bytes()).await;
    for outlet in [Some(error), stdout, stderr].into_iter().flatten() {
        outlet.finish().await;
    }
}

async fn run(
    session: Session,
    stdin: Option<Inlet>,
    resize: Option<Inlet>,
    (stdout, stderr): (Option<&Outlet>, Option<&Outlet>),
) -> Result<i32, String> {
    let Session { stdin: input, stdout: out, stderr: err, resize: fit, mut ended } = session;
    let inward = async {
        tokio::join!(feed(stdin, input), sizes(resize, fit));
        std::future::pending::<()>().await;
    };
    let outward = async { tokio::join!(drain(out, stdout), drain(err, stderr)) };
    tokio::pin!(inward, outward);
    let mut open = true;
    let code = loop {
        tokio::select! {
            code = &mut ended => break code,
            _ = &mut outward, if open => open = false,
            () = &mut inward => {}
        }
    };
    if open {
        let _ = tokio::time::timeout(REST, outward).await;
    }
    code
}

/// What the client sends, to the program; its end is the end of the program's input.
async fn feed(from: Option<Inlet>, to: Option<Input>) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    while let Some(piece) = from.recv().await {
        // A program that reads no more goes on without.
        if to.write_all(&piece).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
}

async fn sizes(from: Option<Inlet>, fit: Option<Box<dyn Fn(u16, u16) + Send + Sync>>) {
    let (Some(mut from), Some(fit)) = (from, fit) else { return };
    let mut sizes = Sizes::default();
    while let Some(piece) = from.recv().await {
        if let Some((columns, rows)) = sizes.take(&piece) {
            fit(columns, rows);
        }
    }
}

/// What the program writes, to the client; what nobody wants is read all the same.
async fn drain(from: Option<Output>, to: Option<&Outlet>) {
    let Some(mut from) = from else { return };
    let mut piece = vec![0; PIECE];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        if let Some(to) = to
            && to.send(&piece[..read]).await.is_err()
        {
            return;
        }
    }
}
