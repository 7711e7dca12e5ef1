//! Answers to calls that have a deadline, on connections of HTTP/1.1 that hyper writes: cut off then, also where the client takes nothing of them.
//!
//! hyper asks a body for more only when it has room, so that where its client reads nothing the body is not asked, and cannot tell that its time has
//! passed. What is written is seen here on its way out: where the socket takes none of it, the deadline is waited for beside it.
//!
//! Invariants: a connection is cut off here only where a write finds no room, and its answer has a deadline that has passed and has not been handed over whole by
//! then: what waits of one that was is left to the client's pace. It must not look at bytes, nor know whose deadline it is.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::deadline;
use crate::heads::{Term, hears};

/// A client's connection.
pub(crate) struct Taken<S> {
    stream: S,
    term: Arc<Term>,
    /// None until a deadline was waited for.
    clock: Option<Pin<Box<Sleep>>>,
}

/// A client's connection as hyper gets it, wherever it serves one: heads that come and answers that go have their times.
/// Who answers says which by [`crate::body::Body::is_taken_by`].
pub(crate) fn watched<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    term: &Arc<Term>,
) -> Taken<impl AsyncRead + AsyncWrite + Unpin + use<S>> {
    Taken { stream: hears(stream, term), term: Arc::clone(term), clock: None }
}

impl<S> Taken<S> {
    /// What comes of a write for which there is no room.
    fn waits<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let Some(until) = self.term.answer_due().map(Instant::from_std) else { return Poll::Pending };
        let clock = self.clock.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if clock.deadline() != until {
            clock.as_mut().reset(until);
        }
        ready!(clock.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, deadline::Passed)))
    }

    fn or_waits<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_pending() { self.waits(cx) } else { polled }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Taken<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Taken<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.or_waits(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.or_waits(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.or_waits(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use http::{Request, Response};
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;
    use crate::body::Body;

    fn term() -> Arc<Term> {
        Arc::new(Term::new(Duration::from_secs(3600), std::time::Instant::now()))
    }

    #[tokio::test]
    async fn what_finds_no_room_is_given_up_at_the_deadline_of_an_answer_and_never_without() {
        let term = term();
        let (ours, _theirs) = duplex(4);
        let mut stream = watched(ours, &term);
        let passed = Some(std::time::Instant::now());
        term.answers_by(passed);
        stream.write_all(b"room").await.expect("there is room");
        let error = stream.write_all(b"more").await.expect_err("there is none");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        term.answers_by(None);
        assert!(futures::poll!(std::pin::pin!(stream.write_all(b"more"))).is_pending());
    }

    #[tokio::test]
    async fn an_answer_has_its_deadline_until_it_is_handed_over() {
        let until = std::time::Instant::now() + Duration::from_secs(3600);
        // Echoes: of all that was announced, and of a part of it. The client reads nothing of them.
        for (came, waits) in [("hello", false), ("he", true)] {
            let term = term();
            let answers = Arc::clone(&term);
            let service = service_fn(move |request: Request<Incoming>| {
                let mut body = Body::Outside(request.into_body()).until(until, false);
                body.is_taken_by(&answers);
                async { Ok::<_, Infallible>(Response::new(body)) }
            });
            // Too little for the head of the answer.
            let (ours, mut theirs) = duplex(64);
            let wire = TokioIo::new(watched(ours, &term));
            let mut connection = std::pin::pin!(http1::Builder::new().serve_connection(wire, service));
            let asked = format!("POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\n{came}");
            theirs.write_all(asked.as_bytes()).await.expect("there is room");
            for _ in 0..100 {
                assert!(futures::poll!(connection.as_mut()).is_pending(), "nothing was read");
            }
            assert_eq!(term.answer_due().is_some(), waits, "{came}");
        }
    }
}
