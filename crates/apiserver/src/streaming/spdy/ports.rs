//! Port forwarding: for every connection that a client took, a pair of streams, one for bytes and one for what went wrong.
//!
//! Invariant: a pair ends with the Pod's side of its connection, or with the client's; the number of pairs is bounded.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::connection::{self, Stream, UNSERVED};
use super::frame;
use crate::sessions::{Connection, PodSessions};
use crate::streaming::link::{self, Watch};
use crate::streaming::relay::{Inlet, Outlet, PIECE, WAITING};

/// How many connections one client may have at once.
const PAIRS: usize = 128;

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
        () = forward(streams, pod) => {}
        // Either ends when the client is gone or may not go on.
        _ = link::write(&mut out, queue, watch, frame::ping(2)) => {}
        () = connection::read(&mut from, opened, answers, watch) => {}
    }
    drop(frames);
}

/// Puts streams together and serves each pair in a task that ends with this.
async fn forward(mut streams: mpsc::Receiver<Stream>, pod: &Pod) {
    let mut waiting: HashMap<String, Stream> = HashMap::new();
    let mut pairs = JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = streams.recv() => match stream {
                Some(stream) => stream,
                None => return,
            },
            Some(_) = pairs.join_next(), if !pairs.is_empty() => continue,
        };
        let key = format!("{}/{}", stream.header("requestid"), stream.header("port"));
        let Some(other) = waiting.remove(&key) else {
            waiting.insert(key, stream);
            // Halves of which the rest never comes are too few to matter, unless somebody wants them to.
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
            if let Err(why) = pair(connecting.await, data).await {
                let _ = error.output.send(format!("{what}: {why}").as_bytes()).await;
            }
            error.output.finish().await;
        });
    }
}

/// One connection, from its beginning to the end of the Pod's side.
async fn pair(connected: Result<Box<dyn Connection>, String>, data: Stream) -> Result<(), String> {
    let Stream { input, output, .. } = data;
    let connection = match connected {
        Ok(connection) => connection,
        Err(why) => {
            output.finish().await;
            return Err(why);
        }
    };
    let (read, write) = tokio::io::split(connection);
    let inward = async {
        inward(input, write).await;
        // The Pod's side may still have much to say.
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = outward(read, &output) => ended,
        () = inward => Ok(()),
    };
    output.finish().await;
    ended
}

async fn inward(mut from: Inlet, mut to: impl AsyncWrite + Unpin) {
    while let Some(piece) = from.recv().await {
        if to.write_all(&piece).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

async fn outward(mut from: impl AsyncRead + Unpin, to: &Outlet) -> Result<(), String> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece).await {
            Ok(0) => return Ok(()),
            Ok(read) if to.send(&piece[..read]).await.is_ok() => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(format!("the connection to the Pod broke: {error}")),
        }
    }
}
