//! The bytes of an HTTP/2 connection on their way out, gathered.
//!
//! `h2` writes each part of a body of 256 bytes or more by itself. Here they wait until whoever drives the connection has no more to
//! do for it, and leave together.
//!
//! Invariants: no more waits than [`ROOM`], and nothing once [`Line::flush`] is done; what is larger is written without being copied;
//! a connection that has nothing to say holds no buffer.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How many bytes are gathered. A body's part of 16 KiB, which is the largest in most cases, is not worth the copy.
const ROOM: usize = 16 * 1024;
/// How many parts one write has at most.
const PARTS: usize = 16;
/// How much is kept of what the other side begins with.
const FIRST: usize = 5;

thread_local! {
    /// A buffer for whoever has something to gather: those of a thread take turns.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct Corked<S> {
    stream: S,
    waiting: Vec<u8>,
    /// How much of it has been written.
    written: usize,
    /// Whether anything was written that the stream may still hold.
    dirty: bool,
    /// Whether anything was read since somebody asked.
    heard: bool,
    /// The first bytes that were ever read, and how many there are of them.
    first: ([u8; FIRST], u8),
}

/// The end that `h2` has.
pub(crate) struct Cork<S>(Arc<Mutex<Corked<S>>>);

/// The end of whoever drives the connection.
pub(crate) struct Line<S>(Arc<Mutex<Corked<S>>>);

/// Both ends of a stream.
pub(crate) fn cork<S>(stream: S) -> (Cork<S>, Line<S>) {
    let both = Arc::new(Mutex::new(Corked {
        stream,
        waiting: Vec::new(),
        written: 0,
        dirty: false,
        heard: false,
        first: ([0; FIRST], 0),
    }));
    (Cork(Arc::clone(&both)), Line(both))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    /// Writes what waits.
    pub(crate) fn flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().flush(cx)
    }

    /// What the other side began with: up to so many bytes, and those that have come.
    pub(crate) fn first(&self) -> ([u8; FIRST], usize) {
        let (bytes, count) = self.0.lock().first;
        (bytes, usize::from(count))
    }

    /// Whether anything was heard from the other side since this was asked last.
    pub(crate) fn heard(&self) -> bool {
        std::mem::take(&mut self.0.lock().heard)
    }
}

impl<S: AsyncWrite + Unpin> Corked<S> {
    fn left(&self) -> &[u8] {
        &self.waiting[self.written..]
    }

    fn wait(&mut self, slices: &[IoSlice<'_>]) {
        if self.waiting.capacity() == 0 {
            self.waiting = SPARE.take();
        }
        slices.iter().for_each(|slice| self.waiting.extend_from_slice(slice));
    }

    /// All that waited has been written.
    fn done(&mut self) {
        self.written = 0;
        self.waiting.clear();
        let mut buffer = std::mem::take(&mut self.waiting);
        if buffer.capacity() <= 2 * ROOM {
            SPARE.with_borrow_mut(|spare| std::mem::swap(spare, &mut buffer));
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let slices = &slices[..slices.len().min(PARTS - 1)];
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.waiting.len() + length <= ROOM {
            self.wait(slices);
            return Poll::Ready(Ok(length));
        }
        loop {
            let before = self.waiting.len() - self.written;
            let written = {
                let mut all = [IoSlice::new(&[]); PARTS];
                let first = usize::from(before > 0);
                all[0] = IoSlice::new(&self.waiting[self.written..]);
                all[first..first + slices.len()].copy_from_slice(slices);
                let all = &all[..first + slices.len()];
                ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, all))?
            };
            self.dirty = true;
            if written >= before {
                if before > 0 {
                    self.done();
                }
                if written > before || written == 0 {
                    return Poll::Ready(Ok(written - before));
                }
                // All that waited and nothing of theirs, which may now find room.
                if length <= ROOM {
                    self.wait(slices);
                    return Poll::Ready(Ok(length));
                }
            } else if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            } else {
                self.written += written;
            }
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.left().is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.waiting[self.written..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
            self.dirty = true;
        }
        if !self.dirty {
            return Poll::Ready(Ok(()));
        }
        self.done();
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.dirty = false;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cork<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let corked = &mut *self.0.lock();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut corked.stream).poll_read(cx, buffer);
        let read = &buffer.filled()[before..];
        corked.heard |= !read.is_empty();
        let (first, count) = &mut corked.first;
        for (place, byte) in first.iter_mut().skip(usize::from(*count)).zip(read) {
            *place = *byte;
            *count += 1;
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cork<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Done by [`Line::flush`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let corked = &mut *self.0.lock();
        ready!(corked.flush(cx))?;
        Pin::new(&mut corked.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes so many bytes at a time, and remembers each write.
    struct Slow {
        takes: usize,
        writes: Vec<Vec<u8>>,
        full: bool,
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            if self.full {
                return Poll::Pending;
            }
            let taken = bytes.len().min(self.takes);
            self.writes.push(bytes[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            self.poll_write(cx, &all)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncRead for Slow {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            buffer.put_slice(b"x");
            Poll::Ready(Ok(()))
        }
    }

    /// Writes all of these as `h2` does, and then flushes; the bytes and the writes that they left in.
    fn written(takes: usize, parts: &[Vec<u8>]) -> (Vec<u8>, usize) {
        let (mut cork, line) = cork(Slow { takes, writes: Vec::new(), full: false });
        let mut cx = Context::from_waker(Waker::noop());
        for part in parts {
            let mut part = &part[..];
            while !part.is_empty() {
                let middle = part.len() / 2;
                let slices = [IoSlice::new(&part[..middle]), IoSlice::new(&part[middle..])];
                match Pin::new(&mut cork).poll_write_vectored(&mut cx, &slices) {
                    Poll::Ready(Ok(taken)) => part = &part[taken..],
                    other => panic!("{other:?}"),
                }
                assert!(line.0.lock().waiting.len() <= ROOM);
            }
            assert!(Pin::new(&mut cork).poll_flush(&mut cx).is_ready());
        }
        assert!(line.flush(&mut cx).is_ready());
        let corked = line.0.lock();
        assert_eq!(corked.waiting.capacity(), 0, "it holds no buffer");
        (corked.stream.writes.concat(), corked.stream.writes.len())
    }

    #[test]
    fn what_is_small_leaves_together_and_what_is_large_at_once() {
        let part = |byte: u8, length: usize| vec![byte; length];
        for (takes, parts, most) in [
            (usize::MAX, vec![part(1, 9), part(2, 1024), part(3, 9), part(4, 1024)], 1),
            (usize::MAX, vec![part(1, 100), part(2, 16 * 1024)], 1),
            (usize::MAX, vec![part(1, ROOM), part(2, 1)], 1),
            (usize::MAX, vec![part(1, 40_000), part(2, 50_000), part(3, 10)], 3),
            (1_000, vec![part(1, 9_000), part(2, 9_000), part(3, 3)], 20),
            (9_000, vec![part(1, 9_000), part(2, 9_000)], 3),
            (7, vec![part(1, 30), part(2, 20_000), part(3, 5)], 20_035 / 7 + 3),
        ] {
            let (bytes, writes) = written(takes, &parts);
            assert_eq!(bytes, parts.concat());
            assert!(writes <= most, "{writes} writes instead of {most}");
        }
    }

    #[test]
    fn a_stream_that_takes_nothing_is_waited_for() {
        let (mut cork, line) = cork(Slow { takes: 10, writes: Vec::new(), full: true });
        let mut cx = Context::from_waker(Waker::noop());
        let mut write = |bytes: &[u8]| Pin::new(&mut cork).poll_write(&mut cx, bytes);
        assert!(matches!(write(&[0; ROOM]), Poll::Ready(Ok(ROOM))), "so much waits");
        assert!(write(&[0]).is_pending(), "and no more");
        assert!(line.flush(&mut cx).is_pending());
        assert!(!line.heard());
    }
}
