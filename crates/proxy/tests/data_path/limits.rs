//! Limits of time: of heads, of calls that have a deadline, of uploads, and of clients that take nothing. They end what they are for and nothing
//! else.

use std::time::{Duration, Instant};

use proxy::Settings;
use proxy::snapshot::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;
use crate::protocols::certificate;
use crate::secure::connect;

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire for S {}

/// How long heads may take here: what ends at one and a half times that, or at half of it, is told apart on a busy machine as well.
const HEAD: Duration = Duration::from_secs(8);

/// Sends a part of a head every now and then, all of it after `whole`; how long it took until there was an answer or an end, and which.
async fn drips(mut stream: Box<dyn Wire>, whole: Duration) -> (bool, Duration) {
    let began = Instant::now();
    stream.write_all(b"GET /slow HTTP/1.1\r\nhost: a.test\r\n").await.expect("sends");
    let (mut answers, mut out) = tokio::io::split(stream);
    let dripping = async {
        while began.elapsed() < whole {
            tokio::time::sleep(Duration::from_millis(200)).await;
            // Where it has ended, that shows in what is read.
            let _ = out.write_all(b"x: y\r\n").await;
        }
        let _ = out.write_all(b"\r\n").await;
        std::future::pending::<()>().await;
    };
    let mut answer = [0; 12];
    let reading = async { answers.read_exact(&mut answer).await.is_ok() };
    let answered = tokio::select! {
        answered = tokio::time::timeout(LIMIT * 2, reading) => answered.expect("an end"),
        () = dripping => false,
    };
    (answered, began.elapsed())
}

/// Has one request answered, and is idle for a while then.
async fn used(mut stream: Box<dyn Wire>, idle: Duration) -> Box<dyn Wire> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await.expect("sends");
    read_until(&mut stream, "[served]").await;
    tokio::time::sleep(idle).await;
    stream
}

/// A proxy with a plain listener `l` and one with TLS, `s`.
async fn both(by_hand: bool, upstream: &Upstream, roots: &mut rustls::RootCertStore) -> Running {
    let mut snapshot = all_to(&[upstream.address]);
    let certificates = vec![certificate("a.test", roots)];
    let protocol = ListenerProtocol::Https { certificates, clients: None, apart: Vec::new() };
    snapshot.listeners.push(listener("s", protocol, vec![rule(&[("b", 1)])]));
    let proxy = start(Settings { by_hand, header_timeout: HEAD, ..Settings::default() });
    proxy.handle.apply(snapshot).await.expect("a good snapshot");
    proxy
}

#[tokio::test]
async fn a_head_has_its_time_from_its_first_byte_to_its_last() {
    let upstream = Upstream::named("[served]").await;
    let mut roots = rustls::RootCertStore::empty();
    let ours = both(true, &upstream, &mut roots).await;
    let hypers = both(false, &upstream, &mut roots).await;
    let (roots, never) = (&roots, HEAD * 10);
    let each = [(&ours, "l"), (&ours, "s"), (&hypers, "l"), (&hypers, "s")];
    let ways = each.into_iter().flat_map(|(proxy, listener)| [false, true].map(|kept| (proxy, listener, kept)));
    let tried = ways.map(|(proxy, listener, kept)| async move {
        let open = async || -> Box<dyn Wire> {
            let address = proxy.address(listener);
            match listener {
                "l" => Box::new(TcpStream::connect(address).await.expect("connects")) as Box<dyn Wire>,
                _ => Box::new(connect(address, "a.test", roots).await.expect("a handshake")),
            }
        };
        let opened = async || if kept { used(open().await, HEAD * 6 / 10).await } else { open().await };
        let in_time = async { drips(opened().await, HEAD * 6 / 10).await };
        let stalled = async { drips(opened().await, never).await };
        let ((answered, _), (late, after)) = tokio::join!(in_time, stalled);
        let which = format!("{listener}, kept: {kept}, {after:?}");
        assert!(answered, "its time was cut short: {which}");
        assert!(!late && after > HEAD * 9 / 10 && after < HEAD * 14 / 10, "{which}");
    });
    futures::future::join_all(tried).await;
}
