//! The gRPC health check: one unary call whose messages are small enough to be written by hand.

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

const ANSWER_LIMIT: usize = 4096;

/// Whether the server says that the service is SERVING.
pub(super) async fn check(stream: TcpStream, port: u16, service: &str) -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| format!("timeout: failed to connect service \"127.0.0.1:{port}\": {e}");
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|e| failed(&e))?;
    let request = http::Request::post(format!("http://127.0.0.1:{port}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(question(service)))
        .map_err(|e| failed(&e))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
        let refused = response.headers().get("grpc-status").is_some_and(|s| s != "0");
        let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await.map_err(|e| failed(&e))?;
        let refused = refused || body.trailers().is_some_and(|t| t.get("grpc-status").is_some_and(|s| s != "0"));
        if refused {
            return Err("error: health rpc failed: the server does not know the service".to_owned());
        }
        match serving(&body.to_bytes()) {
            true => Ok(()),
            false => Err("service unhealthy (responded with \"NOT_SERVING\")".to_owned()),
        }
    };
    let driver = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = answer => result,
        () = driver => Err(failed(&"the connection was closed")),
    }
}

/// `HealthCheckRequest { service }`, framed.
fn question(service: &str) -> Bytes {
    let name = &service.as_bytes()[..service.len().min(127)];
    let mut message = BytesMut::new();
    if !name.is_empty() {
        message.put_u8(0x0a);
        message.put_u8(name.len() as u8);
        message.put_slice(name);
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    frame.freeze()
}

/// `HealthCheckResponse { status }` with 1 for SERVING, behind the frame's five bytes.
fn serving(answer: &[u8]) -> bool {
    answer.get(5..7) == Some(&[0x08, 0x01])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_framed() {
        assert_eq!(question(""), Bytes::from_static(&[0, 0, 0, 0, 0]));
        assert_eq!(question("ab"), Bytes::from_static(&[0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']));
        assert!(serving(&[0, 0, 0, 0, 2, 8, 1]));
        assert!(!serving(&[0, 0, 0, 0, 2, 8, 2]));
        assert!(!serving(&[0, 0, 0, 0, 0]));
    }
}
