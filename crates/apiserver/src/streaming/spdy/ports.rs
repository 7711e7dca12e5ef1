//! Port forwarding: for every connection that a client took, a pair of streams, one for bytes and one for what went wrong.
//!
//! Invariants: a pair ends with the Pod's side of its connection, or with the client's; the number of pairs is bounded, and how long one half
//! waits for the other. What is said on a stream of errors ends the client's whole forwarding, so only a connection that can't be had is.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connection::{self, Stream};
use crate::sessions::Connection;
use crate::streaming::link::Watch;
use crate::streaming::pod_ports::{Pod, carry};

/// How many connections one client may have at once.
const PAIRS: usize = 128;
/// How long a stream waits for the other of its pair.
const MATCHED: Duration = Duration::from_secs(30);

/// Serves a client until it is gone, or the Pod is.
pub(in crate::streaming) async fn serve(io: impl AsyncRead + AsyncWrite, pod: &Pod, watch: &Watch) {
    connection::serve(io, watch, async |held, mut streams| {
        forward(&mut streams, pod, MATCHED).await;
        // Nothing more is answered: streams answer on it.
        drop(held);
        // Those that nobody served yet could be answered on, too.
        streams.close();
        while streams.recv().await.is_some() {}
        Ok(())
    })
    .await;
}

/// Puts streams together and serves each pair in a task that ends with this.
async fn forward(streams: &mut mpsc::Receiver<Stream>, pod: &Pod, matched: Duration) {
    let mut waiting: HashMap<String, (Stream, Instant)> = HashMap::new();
    let mut pairs = JoinSet::new();
    loop {
        let next = waiting.values().map(|(_, until)| *until).min();
        let stream = tokio::select! {
            stream = streams.recv() => match stream {
                Some(stream) => stream,
                None => return,
            },
            // The Pod that is meant will not come back.
            Some(ended) = pairs.join_next(), if !pairs.is_empty() => match ended {
                Ok(true) => return,
                _ => continue,
            },
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
            Some(port) if pairs.len() < PAIRS => pod.connect(port),
            Some(_) => Box::pin(async { Err(format!("more than {PAIRS} connections at once")) }),
            None => Box::pin(async { Err("that is no port".to_owned()) }),
        };
        let (pod, port) = (pod.clone(), data.header("port").to_owned());
        pairs.spawn(async move {
            let mut gone = false;
            if let Err(why) = pair(connecting, data).await {
                gone = pod.is_gone();
                let _ = error.output.send(pod.refusal(&port, &why).as_bytes()).await;
            }
            error.output.finish().await;
            gone
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::connection::UNSERVED;
    use super::*;
    use crate::sessions::{Beginning, PodKey, PodSessions, SessionError, SessionOptions};
    use crate::streaming::relay::WAITING;

    struct Nobody;

    impl PodSessions for Nobody {
        fn session(&self, _: &PodKey, options: SessionOptions) -> Result<Beginning, SessionError> {
            Err(SessionError::NotRunning { container: options.container })
        }

        fn connect(&self, _: &PodKey, _: u16) -> BoxFuture<'static, Result<Box<dyn Connection>, String>> {
            Box::pin(async { Err("nobody is there".to_owned()) })
        }
    }

    #[tokio::test]
    async fn a_stream_waits_for_its_other_half_for_a_while() {
        let pod = Pod::new(Arc::new(Nobody), PodKey { name: "a".into(), ..PodKey::default() }, || true);
        let (opened, mut streams) = mpsc::channel(UNSERVED);
        let (frames, _queue) = mpsc::channel(WAITING);
        let (half, to) = Stream::half(&[("streamtype", "data"), ("port", "80"), ("requestid", "0")], frames);
        assert!(opened.send(half).await.is_ok());
        tokio::select! {
            () = forward(&mut streams, &pod, Duration::from_millis(1)) => panic!("the client is there"),
            gone = tokio::time::timeout(Duration::from_secs(60), to.closed()) => gone.expect("it is dropped"),
        }
    }
}
