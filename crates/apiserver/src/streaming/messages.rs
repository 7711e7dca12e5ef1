//! What the client of a WebSocket says, message by message, and how both sides take leave (RFC 6455, section 7).
//!
//! Invariants: a client's good-bye is answered with one, behind all that was said before; after our own nothing but the client's is waited
//! for; both take a bounded time.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::link::{self, GOODBYE, Watch};
use super::websocket::{self, Decoder, Message};

/// How a connection comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// All has been said to the client.
    Said,
    /// The client has said good-bye.
    Closed,
    /// The client is gone, does what it must not, or may not go on.
    Gone,
}

/// A client's messages.
pub(super) struct Messages<R> {
    from: R,
    decoder: Decoder,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Messages<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, decoder: Decoder::default(), buffer: BytesMut::new() }
    }

    /// The next message of bytes; where none comes any more, why.
    pub(super) async fn next(&mut self, answers: &mpsc::WeakSender<Bytes>) -> Result<Bytes, Left> {
        loop {
            match self.decoder.next(&mut self.buffer) {
                Ok(Some(Message::Data(message))) => return Ok(message),
                Ok(Some(Message::Ping(payload))) => {
                    if let Some(answers) = answers.upgrade() {
                        let _ = answers.send(websocket::pong(&payload)).await;
                    }
                }
                Ok(Some(Message::Pong)) => {}
                Ok(Some(Message::Close)) => return Err(Left::Closed),
                Ok(None) => {
                    if !link::read(&mut self.from, &mut self.buffer).await {
                        return Err(Left::Gone);
                    }
                }
                Err(violation) => {
                    tracing::debug!(%violation, "a connection is cut");
                    return Err(Left::Gone);
                }
            }
        }
    }
}

/// Carries both directions to the end of either: `carried` fills the queue, `read` takes what the client says.
pub(super) async fn carry(
    out: &mut (impl AsyncWrite + Unpin),
    queue: mpsc::Receiver<Bytes>,
    watch: &Watch,
    carried: impl Future<Output = std::io::Result<()>>,
    read: impl Future<Output = Left>,
) -> Left {
    let mut writing = pin!(link::write(out, queue, watch, websocket::ping()));
    let left = tokio::select! {
        done = async { tokio::try_join!(carried, writing.as_mut()) } => {
            if done.is_ok() { Left::Said } else { Left::Gone }
        }
        left = read => left,
    };
    if left != Left::Closed {
        return left;
    }
    // Nobody fills the queue any more. What is in it is written: a good-bye in the middle of a frame would be none.
    match tokio::time::timeout(GOODBYE, writing).await {
        Ok(Ok(())) => Left::Closed,
        Ok(Err(_)) | Err(_) => Left::Gone,
    }
}

/// Says good-bye, where somebody is there to hear it.
pub(super) async fn leave(client: Messages<impl AsyncRead + Unpin>, out: impl AsyncWrite + Unpin, left: Left) {
    leave_within(client, out, left, GOODBYE).await;
}

async fn leave_within(
    mut client: Messages<impl AsyncRead + Unpin>,
    mut out: impl AsyncWrite + Unpin,
    left: Left,
    limit: Duration,
) {
    if left == Left::Gone {
        return;
    }
    let leaving = async {
        let told = out.write_all(&websocket::close()).await.is_ok() && out.flush().await.is_ok();
        if told && left == Left::Said {
            // With its answer the connection is ours to close.
            let answers = mpsc::channel(1).0.downgrade();
            while client.next(&answers).await.is_ok() {}
        }
        let _ = out.shutdown().await;
    };
    // One that does not answer is cut.
    let _ = tokio::time::timeout(limit, leaving).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn a_connection_ends_with_both_good_byes_and_waits_for_nothing_else() {
        // The client keeps its side open, and waits for ours to end.
        for (left, said) in [(Left::Said, &b"\x82\x81\0\0\0\0x\x88\x80\0\0\0\0"[..]), (Left::Closed, b"")] {
            let (mut client, server) = tokio::io::duplex(1024);
            client.write_all(said).await.expect("there is room");
            let (from, out) = tokio::io::split(server);
            let leaving = leave_within(Messages::new(from), out, left, Duration::MAX);
            tokio::time::timeout(Duration::from_secs(60), leaving).await.expect("it waits for nothing else");
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.expect("read");
            assert_eq!(heard, b"\x88\x02\x03\xe8");
        }
    }
}
