//! Port forwarding: for every connection that a client took, a pair of streams, one for bytes and one for what went wrong.
//!
//! Invariants: a pair ends with the Pod's side of its connection, or with the client's; the number of pairs is bounded, and how long one half
//! waits for the other. What is said on a stream of errors ends the client's whole forwarding, so only a connection that can't be had is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connection::{self, Stream, UNSERVED};
use super::frame;
use crate::sessions::{Connection, PodSessions};
use crate::streaming::link::{self, Watch};
use crate::streaming::relay::{Inlet, Outlet, PIECE, WAITING};

/// How many connections one client may have at once.
const PAIRS: usize = 128;
/// How long a stream waits for the other of its pair.
const MATCHED: Duration = Duration::from_secs(30);

/// Which Pod's ports.
pub(in crate::streaming) struct Pod {
    pub(in crate::streaming) sessions: Arc<dyn PodSessions>,
    pub(in crate::streaming) namespace: String,
    pub(in crate::streaming) name: String,
}

/// Serves a client until it is gone.
pub(in crate::streaming) async fn serve(io: impl AsyncRead + AsyncWrite, pod: &Pod, watch: &Watch) {
    let (mut from, mut out) = tokio::io::split(io);
    let (frames, queue) = mpsc::channel(WAITING);
    let (opened, streams) = mpsc::channel(UNSERVED);
    let answers = frames.downgrade();
    tokio::select! {
        () = forward(streams, pod, MATCHED) => {}
        // Either ends when the client is gone or may not go on.
        _ = link::write(&mut out, queue, watch, frame::ping(2)) => {}
        () = connection::read(&mut from, opened, answers, watch) => {}
    }
    drop(frames);
}

/// Puts streams together and serves each pair in a task that ends with this.
async fn forward(mut streams: mpsc::Receiver<Stream>, pod: &Pod, matched: Duration) {
    let mut waiting: HashMap<String, (Stream, Instant)> = HashMap::new();
    let mut pairs = JoinSet::new();
    loop {
        let next = waiting.values().map(|(_, until)| *until).min();
        let stream = tokio::select! {
            stream = streams.recv() => match stream {
                Some(stream) => stream,
                None => return,
            },
            Some(_) = pairs.join_next(), if !pairs.is_empty() => continue,
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                waiting.retain(|_, (_, until)| *until > Instant::now());
                continue;
            }
        };
        let key = format!("{}/{}", stream.header("requestid"), stream.header("port"));
        let Some((other, _)) = waiting.remove(&key) else {
            waiting.insert(key, (stream, Instant::now() + matched));
            // So many halves of which the rest does not come are somebody's intent.
            if waiting.len() > PAIRS {
                return;
            }
            continue;
        };
        let (error, data) = match (other.header("streamtype"), stream.header("streamtype")) {
            ("error", "data") => (other, stream),
            ("data", "error") => (stream, other),
            _ => return,
        };
        let port = data.header("port").parse::<u16>().ok().filter(|port| *port > 0);
        let connecting = match port {
            Some(port) if pairs.len() < PAIRS => pod.sessions.connect(&pod.namespace, &pod.name, port),
            Some(_) => Box::pin(async { Err(format!("more than {PAIRS} connections at once")) }),
            None => Box::pin(async { Err("that is no port".to_owned()) }),
        };
        let what = format!("error forwarding port {} to pod {}", data.header("port"), pod.name);
        pairs.spawn(async move {
            if let Err(why) = pair(connecting, data).await {
                let _ = error.output.send(format!("{what}: {why}").as_bytes()).await;
            }
            error.output.finish().await;
        });
    }
}

/// One connection, from its beginning to the end of the Pod's side, or to the client's loss of interest. Fails where it can't be had.
async fn pair(
    connecting: BoxFuture<'static, Result<Box<dyn Connection>, String>>,
    mut data: Stream,
) -> Result<(), String> {
    let (_none, none) = mpsc::channel(1);
    let (input, output) = (std::mem::replace(&mut data.input, none), data.output.clone());
    let carried = async {
        let connected = connecting.await;
        let ended = match connected {
            Ok(connection) => {
                carry(connection, input, &output).await;
                Ok(())
            }
            Err(why) => Err(why),
        };
        output.finish().await;
        ended
    };
    tokio::select! {
        ended = carried => ended,
        () = data.was_reset() => Ok(()),
    }
}

/// To the end of the Pod's side.
async fn carry(connection: Box<dyn Connection>, input: Inlet, output: &Outlet) {
    let (read, write) = tokio::io::split(connection);
    let inward = async {
        inward(input, write).await;
        // The Pod's side may still have much to say.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = outward(read, output) => {}
        () = inward => {}
    }
}

async fn inward(mut from: Inlet, mut to: impl AsyncWrite + Unpin) {
    while let Some(piece) = from.recv().await {
        if to.write_all(&piece).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

async fn outward(mut from: impl AsyncRead + Unpin, to: &Outlet) {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece).await {
            Ok(read @ 1..) if to.send(&piece[..read]).await.is_ok() => {}
            Ok(_) => return,
            Err(error) => return tracing::debug!(%error, "a forwarded connection broke"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::{Beginning, SessionError, SessionOptions};

    struct Nobody;

    impl PodSessions for Nobody {
        fn session(&self, _: &str, _: &str, options: SessionOptions) -> Result<Beginning, SessionError> {
            Err(SessionError::NotRunning { container: options.container })
        }

        fn connect(&self, _: &str, _: &str, _: u16) -> BoxFuture<'static, Result<Box<dyn Connection>, String>> {
            Box::pin(async { Err("nobody is there".to_owned()) })
        }
    }

    #[tokio::test]
    async fn a_stream_waits_for_its_other_half_for_a_while() {
        let pod = Pod { sessions: Arc::new(Nobody), namespace: "default".into(), name: "a".into() };
        let (opened, streams) = mpsc::channel(UNSERVED);
        let (frames, _queue) = mpsc::channel(WAITING);
        let (half, to) = Stream::half(&[("streamtype", "data"), ("port", "80"), ("requestid", "0")], frames);
        assert!(opened.send(half).await.is_ok());
        tokio::select! {
            () = forward(streams, &pod, Duration::from_millis(1)) => panic!("the client is there"),
            gone = tokio::time::timeout(Duration::from_secs(60), to.closed()) => gone.expect("it is dropped"),
        }
    }
}
