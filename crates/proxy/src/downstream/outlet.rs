//! What is on its way to a client: the bytes of an answer, until the socket takes them.
//!
//! Invariants: it holds no more than about what is read of a body at once, as a body is asked for more only while there is room; it
//! ends a body where its framing says, or fails.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::answer::Framing;

/// Room for a head and a small body.
const ROOM: usize = 2048;
/// How much memory is kept for the next answer of a thread.
const MOST_SPARE: usize = 16 * 1024;
/// Up to this, copying a piece is cheaper than writing it from where it is.
const SMALL: usize = 2048;
/// How much waits for the socket before a body is asked for more.
const MUCH: usize = 64 * 1024;
/// How many pieces are written at once.
const PIECES: usize = 16;

const LINE_END: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Bytes that are still to be written.
pub(super) struct Outlet {
    /// They go first.
    flat: Vec<u8>,
    /// How many of those have gone.
    gone: usize,
    pieces: VecDeque<Bytes>,
    held: usize,
}

thread_local! {
    /// The memory of the last one, for the next.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Drop for Outlet {
    fn drop(&mut self) {
        if self.flat.capacity() <= MOST_SPARE {
            self.flat.clear();
            SPARE.set(std::mem::take(&mut self.flat));
        }
    }
}

impl Outlet {
    pub(super) fn new() -> Self {
        let mut flat = SPARE.take();
        flat.reserve(ROOM);
        Self { flat, gone: 0, pieces: VecDeque::new(), held: 0 }
    }

    /// Where a head is written to.
    pub(super) fn head(&mut self) -> &mut Vec<u8> {
        &mut self.flat
    }

    pub(super) fn is_empty(&self) -> bool {
        self.gone == self.flat.len() && self.pieces.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.flat.len() - self.gone + self.held < MUCH && self.pieces.len() < PIECES
    }

    /// Takes a part of a body.
    pub(super) fn take(&mut self, framing: &mut Framing, data: Bytes) -> io::Result<()> {
        match framing {
            // An empty chunk would be the last.
            _ if data.is_empty() => {}
            Framing::Nothing => {}
            Framing::Length(left) => {
                let more = left.checked_sub(data.len() as u64);
                *left = more.ok_or_else(|| io::Error::other("the body is longer than its head says"))?;
                self.push(data);
            }
            Framing::Chunked => {
                let mut size = [0; 18];
                let mut rest = &mut size[..];
                write!(rest, "{:X}\r\n", data.len())?;
                let unused = rest.len();
                self.copy(&size[..size.len() - unused]);
                self.push(data);
                self.stand(LINE_END);
            }
        }
        Ok(())
    }

    /// Ends a body.
    pub(super) fn end(&mut self, framing: Framing) -> io::Result<()> {
        match framing {
            Framing::Nothing | Framing::Length(0) => {}
            Framing::Length(_) => return Err(io::Error::other("the body is shorter than its head says")),
            Framing::Chunked => self.stand(LAST_CHUNK),
        }
        Ok(())
    }

    fn push(&mut self, data: Bytes) {
        if data.len() <= SMALL && self.pieces.is_empty() {
            self.flat.extend_from_slice(&data);
        } else {
            self.held += data.len();
            self.pieces.push_back(data);
        }
    }

    fn copy(&mut self, bytes: &[u8]) {
        if self.pieces.is_empty() {
            self.flat.extend_from_slice(bytes);
        } else {
            self.push(Bytes::copy_from_slice(bytes));
        }
    }

    fn stand(&mut self, bytes: &'static [u8]) {
        if self.pieces.is_empty() {
            self.flat.extend_from_slice(bytes);
        } else {
            self.push(Bytes::from_static(bytes));
        }
    }

    /// Writes until nothing is left, or the socket takes no more for now.
    pub(super) fn poll_write<S>(&mut self, mut stream: Pin<&mut S>, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncWrite,
    {
        while !self.is_empty() {
            let flat = &self.flat[self.gone..];
            let written = if self.pieces.is_empty() {
                ready!(stream.as_mut().poll_write(cx, flat))?
            } else {
                let mut slices = [IoSlice::new(&[]); PIECES + 1];
                let mut count = 0;
                if !flat.is_empty() {
                    (slices[0], count) = (IoSlice::new(flat), 1);
                }
                for piece in self.pieces.iter().take(PIECES) {
                    slices[count] = IoSlice::new(piece);
                    count += 1;
                }
                ready!(stream.as_mut().poll_write_vectored(cx, &slices[..count]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        let flat = written.min(self.flat.len() - self.gone);
        self.gone += flat;
        written -= flat;
        if self.gone == self.flat.len() {
            self.flat.clear();
            self.gone = 0;
        } else if self.gone >= MUCH {
            // A client that never quite catches up.
            self.flat.drain(..self.gone);
            self.gone = 0;
        }
        while let Some(piece) = self.pieces.front_mut() {
            if written < piece.len() {
                self.held -= written;
                return piece.advance(written);
            }
            written -= piece.len();
            self.held -= piece.len();
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes so many bytes at a time.
    struct Narrow(Vec<u8>, usize);

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let most = self.1.min(bytes.len());
            self.0.extend_from_slice(&bytes[..most]);
            Poll::Ready(Ok(most))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(self.1).collect();
            self.0.extend_from_slice(&all);
            Poll::Ready(Ok(all.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// What is written of a body of such parts, after the head `h`.
    fn written(mut framing: Framing, sizes: &[usize], most: usize) -> io::Result<Vec<u8>> {
        let mut outlet = Outlet::new();
        outlet.head().push(b'h');
        for size in sizes {
            outlet.take(&mut framing, Bytes::from(vec![b'x'; *size]))?;
        }
        outlet.end(framing)?;
        let mut narrow = Narrow(Vec::new(), most);
        let done = outlet.poll_write(Pin::new(&mut narrow), &mut Context::from_waker(Waker::noop()));
        assert!(matches!(done, Poll::Ready(Ok(()))) && outlet.is_empty() && outlet.held == 0);
        Ok(narrow.0)
    }

    #[test]
    fn all_of_a_body_arrives_in_order() {
        let sizes = [1, SMALL + 1, 0, 5, MUCH, 16];
        let mut chunked = b"h".to_vec();
        for size in sizes.into_iter().filter(|size| *size > 0) {
            chunked.extend_from_slice(format!("{size:X}\r\n{}\r\n", "x".repeat(size)).as_bytes());
        }
        chunked.extend_from_slice(LAST_CHUNK);
        let all = sizes.iter().sum::<usize>();
        let plain = ["h", &"x".repeat(all)].concat().into_bytes();
        for most in [1, 7, 2000, usize::MAX] {
            assert_eq!(written(Framing::Chunked, &sizes, most).expect("a body"), chunked);
            assert_eq!(written(Framing::Length(all as u64), &sizes, most).expect("a body"), plain);
        }
        assert_eq!(written(Framing::Length(0), &[], 1).expect("none"), b"h");
    }

    #[test]
    fn small_pieces_fill_it_too() {
        for framing in [Framing::Chunked, Framing::Length(u64::MAX)] {
            let (mut outlet, mut framing) = (Outlet::new(), framing);
            // The client takes a little less than comes, for as long as one likes.
            for _ in 0..20 {
                let mut taken = 0;
                while outlet.has_room() {
                    outlet.take(&mut framing, Bytes::from_static(&[b'x'; 100])).expect("a part");
                    taken += 1;
                    assert!(taken <= MUCH / 100 + 1, "there is room without end");
                }
                outlet.advance(MUCH - 1);
                assert!(!outlet.is_empty() && outlet.flat.len() < 3 * MUCH, "{}", outlet.flat.len());
            }
        }
    }

    #[test]
    fn a_body_that_is_not_as_announced_is_cut() {
        assert!(written(Framing::Length(2), &[1], 9).is_err(), "shorter");
        assert!(written(Framing::Length(2), &[1, 2], 9).is_err(), "longer");
    }
}
