//! The backend's process: as little as can answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::Fallible;
use crate::parties::Wire;

/// Answers every request with so many bytes, at so many addresses, and says which.
pub(crate) async fn serve(wire: Wire, body: usize, addresses: usize) -> Fallible<()> {
    let mut listeners = Vec::with_capacity(addresses);
    for _ in 0..addresses {
        listeners.push(TcpListener::bind("127.0.0.1:0").await?);
    }
    let names: Result<Vec<_>, _> =
        listeners.iter().map(|listener| listener.local_addr().map(|at| at.to_string())).collect();
    println!("{}", names?.join(","));
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\nserver: bench\r\ncontent-length: {body}\r\n\r\n"
    );
    let answer: Arc<[u8]> = [head.into_bytes(), vec![b'x'; body]].concat().into();
    let message = message(body);
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, wire, Arc::clone(&answer), message.clone()));
    }
    // None ends but by an error.
    accepting.join_next().await.ok_or("it listens nowhere")??
}

async fn accept(listener: TcpListener, wire: Wire, answer: Arc<[u8]>, message: Bytes) -> Fallible<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        if wire == Wire::Grpc {
            connections.spawn(grpc(stream, message.clone()));
        } else {
            connections.spawn(http1(stream, Arc::clone(&answer)));
        }
    }
}

async fn http1(mut stream: TcpStream, answer: Arc<[u8]>) {
    let mut buffer = vec![0; 16 * 1024];
    let mut filled = 0;
    // The end of a connection, in whatever way, is the end of its task.
    while let Ok(read @ 1..) = stream.read(&mut buffer[filled..]).await {
        filled += read;
        if buffer[..filled].ends_with(b"\r\n\r\n") {
            filled = 0;
            if stream.write_all(&answer).await.is_err() {
                break;
            }
        }
    }
}

/// A message as gRPC frames it: a byte that says it is not compressed, its length, itself.
fn message(length: usize) -> Bytes {
    let prefix = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [&[0][..], &prefix, &vec![b'x'; length]].concat().into()
}

async fn grpc(stream: TcpStream, message: Bytes) {
    let service = service_fn(move |request: Request<Incoming>| {
        let mut response = Response::new(Answer { message: Some(message.clone()), ended: false });
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        async move {
            // An answer before the end of the request would be followed by a reset of the stream.
            let mut body = request.into_body();
            while let Some(Ok(_)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {}
            Ok::<_, Infallible>(response)
        }
    });
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    // As above: its end is the end.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// One message and the trailers that say all is well.
struct Answer {
    message: Option<Bytes>,
    ended: bool,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        if std::mem::replace(&mut self.ended, true) {
            return Poll::Ready(None);
        }
        let trailers = HeaderMap::from_iter(
            [("grpc-status".parse().ok(), HeaderValue::from_static("0"))]
                .into_iter()
                .filter_map(|(name, value)| Some((name?, value))),
        );
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}
