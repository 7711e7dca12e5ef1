//! Bytes, as a client's: over a real socket to a listener that answers by itself. One proxy serves all inputs, so whatever one of
//! them leaves behind hurts the next.

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

/// An input that is not done with by then is stuck.
const LIMIT: Duration = Duration::from_secs(5);

struct Served {
    runtime: Runtime,
    address: SocketAddr,
    handle: proxy::Handle,
}

fn serve() -> Served {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let limits = Settings { header_timeout: Duration::from_millis(50), ..Settings::default() };
    let (proxy, handle) = proxy::build(limits, proxy::Dependencies::default());
    runtime.spawn(proxy.run(CancellationToken::new()));
    let address = runtime.block_on(async {
        handle.apply(answering(StatusCode::OK, Arc::from("ok"))).await.expect("a good snapshot");
        handle.bound("fuzz").expect("a listener").expect("bound")
    });
    Served { runtime, address, handle }
}

thread_local! {
    static SERVED: RefCell<Served> = RefCell::new(serve());
}

fuzz_target!(|data: &[u8]| {
    SERVED.with_borrow(|served| {
        served.runtime.block_on(async {
            let exchange = async {
                let mut stream = TcpStream::connect(served.address).await.expect("it listens");
                // It may close before all is sent.
                let _ = stream.write_all(data).await;
                let _ = stream.shutdown().await;
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer).await;
            };
            tokio::time::timeout(LIMIT, exchange).await.expect("an end");
            let after = async {
                let mut stream = TcpStream::connect(served.address).await.expect("it listens");
                stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.expect("sent");
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.expect("an answer");
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            };
            tokio::time::timeout(LIMIT, after).await.expect("the next client is served");
            assert_eq!(served.handle.stats().in_flight, 0);
        });
    });
});
