//! Lets in gRPC's C core, which Python, Ruby, PHP and C++ use: over a Unix socket it names the socket's path as `:authority`,
//! percent-encoded. RFC 3986 allows that (section 3.2.2), and the HTTP library does not.
//!
//! Each `%` in a literal `:authority` becomes a `-`, which nobody here looks at. Its length stays, so the header table of both
//! ends stays the same (RFC 7541, section 4.1). Nothing else is touched, and whatever is not understood goes on as it is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const FRAME_HEAD: usize = 9;
/// The longest frame that a client may send before it was told of another limit (RFC 9113, section 6.5.2).
const LONGEST: usize = 16_384;

/// A client's bytes with an authority that can be read.
pub(super) struct Tidied<S> {
    stream: S,
    incoming: BytesMut,
    ready: BytesMut,
    preface: usize,
    /// Nothing is looked at any more.
    raw: bool,
}

impl<S> Tidied<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, incoming: BytesMut::new(), ready: BytesMut::new(), preface: PREFACE, raw: false }
    }

    /// Makes ready what is whole.
    fn tidy(&mut self) {
        let begun = self.preface.min(self.incoming.len());
        self.preface -= begun;
        self.ready.extend_from_slice(&self.incoming.split_to(begun));
        while !self.raw && self.preface == 0 && self.incoming.len() >= FRAME_HEAD {
            let length = self.incoming[..3].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            self.raw = length > LONGEST;
            if self.raw || self.incoming.len() < FRAME_HEAD + length {
                break;
            }
            let mut frame = self.incoming.split_to(FRAME_HEAD + length);
            tidy_frame(&mut frame);
            self.ready.extend_from_slice(&frame);
        }
        if self.raw {
            self.ready.extend_from_slice(&self.incoming.split());
        }
    }
}

fn tidy_frame(frame: &mut [u8]) {
    const HEADERS: u8 = 1;
    const END_HEADERS: u8 = 0x4;
    const PADDED: u8 = 0x8;
    const PRIORITY: u8 = 0x20;
    let (kind, flags) = (frame[3], frame[4]);
    if kind != HEADERS || flags & END_HEADERS == 0 || flags & PADDED != 0 {
        return;
    }
    let begin = FRAME_HEAD + if flags & PRIORITY == 0 { 0 } else { 5 };
    if let Some(block) = frame.get_mut(begin..) {
        // None is for the HTTP library to judge.
        let _ = tidy_block(block);
    }
}

/// An integer with a prefix of so many bits (RFC 7541, section 5.1), and where it ends.
fn integer(block: &[u8], at: usize, bits: u32) -> Option<(usize, usize)> {
    let most = (1usize << bits) - 1;
    let first = usize::from(*block.get(at)?) & most;
    if first < most {
        return Some((first, at + 1));
    }
    let (mut value, mut at) = (most, at + 1);
    for shift in [0, 7, 14, 21] {
        let byte = usize::from(*block.get(at)?);
        value += (byte & 0x7f) << shift;
        at += 1;
        if byte & 0x80 == 0 {
            return Some((value, at));
        }
    }
    None
}

/// Where a text begins and ends, and whether it is compressed (RFC 7541, section 5.2).
fn text(block: &[u8], at: usize) -> Option<(usize, usize, bool)> {
    let compressed = block.get(at)? & 0x80 != 0;
    let (length, begin) = integer(block, at, 7)?;
    let end = begin.checked_add(length).filter(|end| *end <= block.len())?;
    Some((begin, end, compressed))
}

/// Walks a header block (RFC 7541, section 6).
fn tidy_block(block: &mut [u8]) -> Option<()> {
    const AUTHORITY: usize = 1;
    let mut at = 0;
    while at < block.len() {
        let bits = match block[at] {
            indexed if indexed & 0x80 != 0 => {
                at = integer(block, at, 7)?.1;
                continue;
            }
            literal if literal & 0x40 != 0 => 6,
            size if size & 0x20 != 0 => {
                at = integer(block, at, 5)?.1;
                continue;
            }
            _ => 4,
        };
        let (index, mut value) = integer(block, at, bits)?;
        let mut named = index == AUTHORITY;
        if index == 0 {
            let (begin, end, compressed) = text(block, value)?;
            named = !compressed && block[begin..end] == *b":authority";
            value = end;
        }
        let (begin, end, compressed) = text(block, value)?;
        if named && !compressed {
            block[begin..end].iter_mut().filter(|byte| **byte == b'%').for_each(|byte| *byte = b'-');
        }
        at = end;
    }
    Some(())
}

impl<S: AsyncRead + Unpin> AsyncRead for Tidied<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.ready.is_empty() {
            let mut room = [0; 4096];
            let mut read = ReadBuf::new(&mut room);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                // What is left will never be whole.
                this.ready.extend_from_slice(&this.incoming.split());
                break;
            }
            this.incoming.extend_from_slice(read.filled());
            this.tidy();
        }
        let length = this.ready.len().min(buffer.remaining());
        buffer.put_slice(&this.ready[..length]);
        this.ready.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tidied<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    /// A HEADERS frame: `:method: POST`, a size update, `:authority` by its index or spelled out, and another name.
    fn headers(name: &[u8], authority: &[u8], other: &[u8]) -> Vec<u8> {
        let mut block = [&[0x83, 0x20], name, &[u8::try_from(authority.len()).unwrap()]].concat();
        block.extend_from_slice(authority);
        block.extend_from_slice(&[0x40, 1, b'x', u8::try_from(other.len()).unwrap()]);
        block.extend_from_slice(other);
        let mut frame = vec![0, 0, u8::try_from(block.len()).unwrap(), 1, 4, 0, 0, 0, 1];
        frame.extend_from_slice(&block);
        frame
    }

    async fn through(bytes: &[u8]) -> Vec<u8> {
        let (mut out, mut sent) = (Vec::new(), std::io::Cursor::new(bytes.to_vec()));
        Tidied::new(&mut sent).read_to_end(&mut out).await.unwrap();
        out
    }

    #[tokio::test]
    async fn only_the_authority_is_changed_and_keeps_its_length() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for name in [&[0x41][..], b"\x40\x0a:authority", b"\x01", b"\x10\x0a:authority"] {
            let sent = [preface.clone(), headers(name, b"%2Ftmp%2Fa", b"50%"), headers(name, b"localhost", b"%")];
            let expected = [preface.clone(), headers(name, b"-2Ftmp-2Fa", b"50%"), headers(name, b"localhost", b"%")];
            assert_eq!(through(&sent.concat()).await, expected.concat(), "{name:?}");
        }
    }

    #[tokio::test]
    async fn what_is_not_understood_goes_on_as_it_is() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        for tail in [
            &b""[..],
            &[0, 0, 3, 1, 4, 0, 0, 0, 1, 0x41, 0x7f, 0xff],
            &[0, 0, 9, 1, 4, 0, 0, 0, 1, 0x41],
            &[0xff, 0xff, 0xff, 1, 4, 0, 0, 0, 1, b'%'],
            &[0, 0, 2, 0, 0, 0, 0, 0, 1, b'%', b'%'],
        ] {
            let sent = [&preface[..], tail].concat();
            assert_eq!(through(&sent).await, sent, "{tail:?}");
        }
        assert_eq!(through(b"GET / HT").await, b"GET / HT");
    }
}
