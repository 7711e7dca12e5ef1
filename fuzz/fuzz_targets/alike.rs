//! Bytes, as a client's, to a listener that reads plain requests by hand and to one that leaves all to hyper: both answer alike.

#![no_main]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use libfuzzer_sys::fuzz_target;
use proxy::Settings;
use proxy::fuzzing::answering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

/// Who announces a long body and sends none is waited for by both; that tells nothing.
const LIMIT: Duration = Duration::from_millis(500);

/// Ends what the input leaves open, and then the connection.
const LAST: &[u8] = b"\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

struct Served {
    runtime: Runtime,
    ours: SocketAddr,
    hypers: SocketAddr,
    _handles: [proxy::Handle; 2],
}

fn serve() -> Served {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let one = |by_hand| {
        let (proxy, handle) = proxy::build(Settings { by_hand, ..Settings::default() }, proxy::Dependencies::default());
        runtime.spawn(proxy.run(CancellationToken::new()));
        let address = runtime.block_on(async {
            handle.apply(answering(StatusCode::OK, Arc::from("ok"))).await.expect("a good snapshot");
            handle.bound("fuzz").expect("a listener").expect("bound")
        });
        (address, handle)
    };
    let ((ours, one), (hypers, another)) = (one(true), one(false));
    Served { runtime, ours, hypers, _handles: [one, another] }
}

thread_local! {
    static SERVED: RefCell<Served> = RefCell::new(serve());
}

/// The status lines of what comes back, until the connection ends; none where it does not in time.
async fn answers(address: SocketAddr, bytes: &[u8]) -> Option<Vec<String>> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        // It may close before all is sent.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let text = String::from_utf8_lossy(&answer).into_owned();
        text.split("HTTP/1.").skip(1).map(|rest| rest.chars().take(5).collect()).collect()
    };
    tokio::time::timeout(LIMIT, exchange).await.ok()
}

fuzz_target!(|data: &[u8]| {
    SERVED.with_borrow(|served| {
        let bytes = [data, LAST].concat();
        let (ours, hypers) =
            served.runtime.block_on(async { tokio::join!(answers(served.ours, &bytes), answers(served.hypers, &bytes)) });
        assert_eq!(ours, hypers, "{:?}", String::from_utf8_lossy(&bytes));
    });
});
