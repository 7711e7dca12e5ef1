//! Bytes, as a client's, to a listener that passes plain requests on by hand and to one that leaves all to hyper: the endpoint is asked
//! for the same, header for header, as often, and in the same order.

#![no_main]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use proxy::Settings;
use proxy::fuzzing::forwarding;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

/// Who announces a long body and sends none is waited for by both; that tells nothing.
const LIMIT: Duration = Duration::from_millis(500);

/// What an endpoint reads of one head at most, bytes.
const LONGEST: usize = 256 * 1024;

/// Ends what the input leaves open, and then the connection.
const LAST: &[u8] = b"\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

type Heads = Rc<RefCell<Vec<Vec<String>>>>;

struct Side {
    address: SocketAddr,
    heads: Heads,
    _handle: proxy::Handle,
}

struct Served {
    runtime: Runtime,
    tasks: LocalSet,
    ours: Side,
    hypers: Side,
}

/// The lines of a head in order, without what differs between any two requests.
fn lines(head: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(head);
    let own = ["x-request-id: ", "traceparent: ", "host: 127.0.0.1:"];
    let mut lines: Vec<String> = text
        .split("\r\n")
        .filter(|line| !line.is_empty() && !own.iter().any(|start| line.starts_with(start)))
        .map(str::to_owned)
        .collect();
    lines[1..].sort();
    lines
}

/// Notes the head of each connection's only request, reads what comes with it and answers.
async fn endpoint(listener: TcpListener, heads: Heads) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let heads = Rc::clone(&heads);
        tokio::task::spawn_local(async move {
            let (mut read, mut part) = (Vec::new(), [0; 16 * 1024]);
            let end = loop {
                if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                    break at;
                }
                match stream.read(&mut part).await {
                    Ok(count @ 1..) if read.len() < LONGEST => read.extend_from_slice(&part[..count]),
                    _ => return,
                }
            };
            heads.borrow_mut().push(lines(&read[..end]));
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await;
            let _ = stream.shutdown().await;
            // A reset would take the answer away.
            while matches!(stream.read(&mut part).await, Ok(1..)) {}
        });
    }
}

fn serve() -> Served {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let tasks = LocalSet::new();
    let one = |by_hand| {
        let heads = Heads::default();
        let (proxy, handle) =
            proxy::build(Settings { by_hand, threads: 0, ..Settings::default() }, proxy::Dependencies::default());
        tasks.spawn_local(proxy.run(CancellationToken::new()));
        let noted = Rc::clone(&heads);
        let address = tasks.block_on(&runtime, async {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
            let to = listener.local_addr().expect("an address");
            tokio::task::spawn_local(endpoint(listener, noted));
            handle.apply(forwarding(to)).await.expect("a good snapshot");
            handle.bound("fuzz").expect("a listener").expect("bound")
        });
        Side { address, heads, _handle: handle }
    };
    let (ours, hypers) = (one(true), one(false));
    Served { runtime, tasks, ours, hypers }
}

thread_local! {
    static SERVED: RefCell<Served> = RefCell::new(serve());
}

/// The heads that the endpoint got; none where the connection does not end in time.
async fn asked(side: &Side, bytes: &[u8]) -> Option<Vec<Vec<String>>> {
    side.heads.borrow_mut().clear();
    let exchange = async {
        let mut stream = TcpStream::connect(side.address).await.expect("it listens");
        // It may close before all is sent.
        let _ = stream.write_all(bytes).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    tokio::time::timeout(LIMIT, exchange).await.ok()?;
    Some(side.heads.take())
}

fuzz_target!(|data: &[u8]| {
    SERVED.with_borrow(|served| {
        let bytes = [data, LAST].concat();
        let both = async { tokio::join!(asked(&served.ours, &bytes), asked(&served.hypers, &bytes)) };
        if let (Some(ours), Some(hypers)) = served.tasks.block_on(&served.runtime, both) {
            assert_eq!(ours, hypers, "{:?}", String::from_utf8_lossy(&bytes));
        }
    });
});
