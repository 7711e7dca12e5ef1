//! Carries a session's streams between a client and a program, whatever protocol the client speaks.
//!
//! Invariants: nothing is buffered but a few pieces in each direction, bounded in bytes, so that a slow side holds up the other; the program has ended, or
//! is ended, when this has.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::asked::{Sizes, outcome};
use super::spdy::frame as spdy;
use super::websocket;
use crate::sessions::{Beginning, Input, Output, Session};

/// How much is sent in one piece.
pub(super) const PIECE: usize = 32 * 1024;
/// How many pieces wait for a slow program, for each stream, and how many for a slow client.
pub(super) const WAITING: usize = 16;
/// How long more output is waited for once the program has ended: others may hold the other end of its pipe. What has come is sent, however
/// long the client takes.
const REST: Duration = Duration::from_secs(5);

/// How many bytes of a client may wait on one stream of a WebSocket.
const ROOM: usize = 256 * 1024;

/// What a client sends on one stream; it ends when the client says so.
pub(super) type Inlet = mpsc::Receiver<Bytes>;

/// The client's end of an [`Inlet`].
pub(super) struct Inflow {
    to: mpsc::Sender<Bytes>,
    room: Arc<Semaphore>,
}

/// A stream of a client, of which so much may wait as there is [`ROOM`].
pub(super) fn inflow() -> (Inflow, Inlet) {
    let (to, inlet) = mpsc::channel(WAITING);
    (Inflow { to, room: Arc::new(Semaphore::new(ROOM)) }, inlet)
}

impl Inflow {
    /// Hands on a message, piece by piece, as there is room. False where nobody reads any more.
    pub(super) async fn hand(&self, message: &[u8]) -> bool {
        for piece in message.chunks(PIECE) {
            if !hand(&self.to, &self.room, piece).await {
                return false;
            }
        }
        true
    }
}

/// A piece that waits, and its part of what may.
struct Held {
    piece: Box<[u8]>,
    _part: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

/// Hands on a piece as soon as there is room for it. False where nobody reads any more.
pub(super) async fn hand(to: &mpsc::Sender<Bytes>, room: &Arc<Semaphore>, piece: &[u8]) -> bool {
    let Ok(bytes) = u32::try_from(piece.len()) else { return false };
    let part = tokio::select! {
        part = Arc::clone(room).acquire_many_owned(bytes) => part.ok(),
        () = to.closed() => None,
    };
    let Some(part) = part else { return false };
    // Copied, so that a short piece does not hold all that was read with it.
    to.send(Bytes::from_owner(Held { piece: piece.into(), _part: part })).await.is_ok()
}

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
        Ok(session) => run(session, stdin, resize, (stdout.as_ref(), stderr.as_ref()), REST).await,
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
    rest: Duration,
) -> Result<i32, String> {
    let Session { stdin: input, stdout: out, stderr: err, resize: fit, mut ended } = session;
    let inward = async {
        tokio::join!(feed(stdin, input), sizes(resize, fit));
        std::future::pending::<()>().await;
    };
    let over = CancellationToken::new();
    let outward = async { tokio::join!(drain(out, stdout, &over, rest), drain(err, stderr, &over, rest)) };
    tokio::pin!(inward, outward);
    let mut open = true;
    let code = loop {
        tokio::select! {
            code = &mut ended => break code,
            _ = &mut outward, if open => open = false,
            () = &mut inward => {}
        }
    };
    over.cancel();
    if open {
        tokio::select! {
            _ = outward => {}
            () = &mut inward => {}
        }
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
async fn drain(from: Option<Output>, to: Option<&Outlet>, over: &CancellationToken, rest: Duration) {
    let Some(mut from) = from else { return };
    let mut piece = vec![0; PIECE];
    loop {
        let read = tokio::select! {
            biased;
            read = from.read(&mut piece) => read,
            () = async { over.cancelled().await; tokio::time::sleep(rest).await } => return,
        };
        let Ok(read @ 1..) = read else { return };
        if let Some(to) = to
            && to.send(&piece[..read]).await.is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that has written `pieces` and ended.
    async fn ended(pieces: usize, kept_open: bool) -> (Session, Option<tokio::io::DuplexStream>) {
        let (mut program, out) = tokio::io::duplex(pieces * PIECE);
        program.write_all(&vec![b'x'; pieces * PIECE]).await.expect("there is room");
        let session = Session {
            stdin: None,
            stdout: Some(Box::new(out)),
            stderr: None,
            resize: None,
            ended: Box::pin(async { Ok(0) }),
        };
        (session, kept_open.then_some(program))
    }

    #[tokio::test]
    async fn what_waits_on_a_stream_is_bounded_in_bytes() {
        let (inflow, mut inlet) = inflow();
        let message = vec![7; 1024 * 1024];
        let mut handing = Box::pin(inflow.hand(&message));
        let (mut read, mut most) = (0, 0);
        while read < message.len() {
            // It goes as far as there is room.
            let handed = futures::poll!(&mut handing);
            let mut waiting = 0;
            while let Ok(piece) = inlet.try_recv() {
                waiting += piece.len();
            }
            assert!(handed.is_pending() || read + waiting == message.len());
            (read, most) = (read + waiting, most.max(waiting));
        }
        assert_eq!(most, ROOM);
        drop(handing);
        drop(inlet);
        assert!(!inflow.hand(&message).await, "nobody reads");
    }

    #[tokio::test]
    async fn a_slow_client_gets_all_of_the_output() {
        const PIECES: usize = 4 * WAITING;
        for kept_open in [false, true] {
            let rest = Duration::from_millis(1);
            let (session, _held) = ended(PIECES, kept_open).await;
            let (frames, mut queue) = mpsc::channel::<Bytes>(WAITING);
            let client = async {
                while queue.len() < WAITING {
                    tokio::task::yield_now().await;
                }
                // Longer than more output is waited for; how much longer does not matter.
                tokio::time::sleep(rest * 50).await;
                let mut got = 0;
                while let Some(frame) = queue.recv().await {
                    got += frame.len() - 8; // Its head.
                }
                got
            };
            let server = async {
                let stdout = Outlet::new(Mark::Stream(1), frames);
                run(session, None, None, (Some(&stdout), None), rest).await
            };
            let both = async { tokio::join!(server, client) };
            let (code, got) = tokio::time::timeout(Duration::from_secs(60), both).await.expect("it ends");
            assert_eq!((code, got), (Ok(0), PIECES * PIECE), "another process holds the pipe: {kept_open}");
        }
    }
}
