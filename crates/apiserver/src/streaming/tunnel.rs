//! A stream of bytes inside the messages of a WebSocket, on which another protocol is spoken.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use super::link::{self, Watch};
use super::relay::{PIECE, WAITING};
use super::websocket::{self, Decoder, Message};

/// Carries what is said on `inner` over a connection, to the end of either.
pub(super) async fn carry(io: impl AsyncRead + AsyncWrite, inner: DuplexStream, watch: &Watch) {
    let (mut from, mut out) = tokio::io::split(io);
    let (inner_from, inner_to) = tokio::io::split(inner);
    let (frames, queue) = mpsc::channel(WAITING);
    let answers = frames.downgrade();
    let done = tokio::select! {
        done = async { tokio::try_join!(pack(inner_from, frames), link::write(&mut out, queue, watch, websocket::ping())) } => done.is_ok(),
        () = unpack(&mut from, inner_to, answers) => false,
    };
    if done {
        link::leave(from, out, &websocket::close()).await;
    }
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
    from: &mut (impl AsyncRead + Unpin),
    mut to: impl AsyncWrite + Unpin,
    answers: mpsc::WeakSender<Bytes>,
) {
    let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
    loop {
        match decoder.next(&mut buffer) {
            Ok(Some(Message::Data(message))) => {
                if to.write_all(&message).await.is_err() {
                    return;
                }
            }
            Ok(Some(Message::Ping(payload))) => {
                if let Some(answers) = answers.upgrade() {
                    let _ = answers.send(websocket::pong(&payload)).await;
                }
            }
            Ok(Some(Message::Pong)) => {}
            Ok(Some(Message::Close)) => return,
            Ok(None) => {
                if !link::read(from, &mut buffer).await {
                    return;
                }
            }
            Err(violation) => return tracing::debug!(%violation, "a tunnel is cut"),
        }
    }
}
