//! A stream of bytes inside the messages of a WebSocket, on which another protocol is spoken.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use super::link::Watch;
use super::messages::{self, Left, Messages};
use super::relay::{PIECE, WAITING};
use super::websocket;

/// Carries what is said on `inner` over a connection, to the end of either.
pub(super) async fn carry(io: impl AsyncRead + AsyncWrite, inner: DuplexStream, watch: &Watch) {
    let (from, mut out) = tokio::io::split(io);
    let (inner_from, inner_to) = tokio::io::split(inner);
    let (frames, queue) = mpsc::channel(WAITING);
    let answers = frames.downgrade();
    let mut client = Messages::new(from);
    let (packed, unpacked) = (pack(inner_from, frames), unpack(&mut client, inner_to, answers));
    let left = messages::carry(&mut out, queue, watch, packed, unpacked).await;
    messages::leave(client, out, left).await;
}

async fn pack(mut from: impl AsyncRead + Unpin, frames: mpsc::Sender<Bytes>) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece).await? {
            0 => return Ok(()),
            read if frames.send(websocket::data(&[], &piece[..read])).await.is_err() => return Ok(()),
            _ => {}
        }
    }
}

async fn unpack(
    client: &mut Messages<impl AsyncRead + Unpin>,
    mut to: impl AsyncWrite + Unpin,
    answers: mpsc::WeakSender<Bytes>,
) -> Left {
    loop {
        match client.next(&answers).await {
            // Where nobody takes it any more, all will have been said soon.
            Ok(message) => drop(to.write_all(&message).await),
            Err(left) => return left,
        }
    }
}
