//! SPDY/3.1's frames, as far as streams need them. Pure.
//!
//! Invariant: a frame is bounded. Flow control is not taken part in: the clients that there are (all of one library) neither send nor
//! heed windows, so that one would wait forever; what holds up a fast client is its TCP connection.

use bytes::{Buf, Bytes, BytesMut};

/// The longest frame that is taken, in bytes.
pub(crate) const LONGEST: usize = 1024 * 1024;
/// The longest control frame: one with a few headers.
const LONGEST_CONTROL: usize = 16 * 1024;
const HEAD: usize = 8;
const VERSION: u16 = 3;
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

/// Why a stream is reset: there are too many.
const REFUSED: u32 = 3;

/// What a client says. `block` is compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Open {
        stream: u32,
        last: bool,
        block: Bytes,
    },
    Data {
        stream: u32,
        last: bool,
        payload: Bytes,
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    /// No more streams will be opened.
    GoAway,
    /// More headers of a stream; they mean nothing here, but the state of the compression goes on with them.
    Headers {
        block: Bytes,
    },
    /// What need not be known.
    Other,
}

/// A client that does not keep to the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client broke the SPDY protocol: {0}")]
pub(crate) struct Violation(pub(crate) &'static str);

/// Takes one frame off the front, where all of it is there.
pub(crate) fn next(buffer: &mut BytesMut) -> Result<Option<Frame>, Violation> {
    let Some(head) = buffer.first_chunk::<HEAD>().copied() else { return Ok(None) };
    let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let flags = head[4];
    let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
    let control = first & 0x8000_0000 != 0;
    if length > if control { LONGEST_CONTROL } else { LONGEST } {
        return Err(Violation("a frame that is too long"));
    }
    if buffer.len() < HEAD + length {
        return Ok(None);
    }
    buffer.advance(HEAD);
    let mut payload = buffer.split_to(length).freeze();
    let last = flags & FIN != 0;
    if !control {
        return Ok(Some(Frame::Data { stream: first, last, payload }));
    }
    let [version, kind] = [first >> 16 & 0x7fff, first & 0xffff].map(|half| u16::try_from(half).unwrap_or_default());
    if version != VERSION {
        return Err(Violation("another version than 3"));
    }
    let number = |payload: &mut Bytes| match payload.len() {
        4.. => Ok(payload.get_u32() & 0x7fff_ffff),
        _ => Err(Violation("a frame that is too short")),
    };
    Ok(Some(match kind {
        SYN_STREAM => {
            let stream = number(&mut payload)?;
            // The stream that it belongs to, its priority and a slot.
            if payload.len() < 6 {
                return Err(Violation("a frame that is too short"));
            }
            payload.advance(6);
            Frame::Open { stream, last, block: payload }
        }
        RST_STREAM => Frame::Reset { stream: number(&mut payload)? },
        PING => match payload.len() {
            4 => Frame::Ping { id: payload.get_u32() },
            _ => return Err(Violation("a ping of another length than 4")),
        },
        GOAWAY => Frame::GoAway,
        // The answer to a stream of ours, of which there are none, or more headers to one of theirs.
        SYN_REPLY | 8 => {
            number(&mut payload)?;
            Frame::Headers { block: payload }
        }
        _ => Frame::Other,
    }))
}

fn control(kind: u16, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(HEAD + payload.len());
    out.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    let length = u32::try_from(payload.len()).unwrap_or_default();
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(payload);
    out.into()
}

/// Bytes of a stream; `last`: nothing more comes.
pub(crate) fn data(stream: u32, payload: &[u8], last: bool) -> Bytes {
    let mut out = Vec::with_capacity(HEAD + payload.len());
    out.extend_from_slice(&stream.to_be_bytes());
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    out.extend_from_slice(&[u8::from(last), length[1], length[2], length[3]]);
    out.extend_from_slice(payload);
    out.into()
}

/// The answer to an opened stream, without headers. `first`: of this connection, with which the compression begins.
///
/// The block is not compressed, which is one way of being compressed: four bytes that say that there are no headers, stored as they are, and
/// an empty piece behind them upon which a reader hands on what it has.
pub(crate) fn reply(stream: u32, first: bool) -> Bytes {
    const BEGIN: [u8; 2] = [0x78, 0x01];
    const NONE: [u8; 14] = [0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    let mut payload = stream.to_be_bytes().to_vec();
    if first {
        payload.extend_from_slice(&BEGIN);
    }
    payload.extend_from_slice(&NONE);
    control(SYN_REPLY, &payload)
}

/// Does not take a stream.
pub(crate) fn refuse(stream: u32) -> Bytes {
    control(RST_STREAM, &[stream.to_be_bytes(), REFUSED.to_be_bytes()].concat())
}

/// A question whether the client is there (even numbers are ours), or the answer to one.
pub(crate) fn ping(id: u32) -> Bytes {
    control(PING, &id.to_be_bytes())
}

/// Says that no further stream will be answered.
pub(crate) fn go_away(last: u32) -> Bytes {
    control(GOAWAY, &[last.to_be_bytes(), [0; 4]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<Frame>, Violation> {
        let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
        for byte in bytes {
            buffer.extend_from_slice(&[*byte]);
            while let Some(frame) = next(&mut buffer)? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn frames_byte_by_byte() {
        let open = control(SYN_STREAM, b"\0\0\0\x05\0\0\0\0\0\0blk");
        let bytes = [
            open,
            data(5, b"hello", false),
            data(5, b"", true),
            ping(3),
            control(4, b"\0\0\0\0"),
            control(9, &[0; 8]),
            refuse(5),
            go_away(5),
        ]
        .concat();
        let data = |payload, last| Frame::Data { stream: 5, last, payload: Bytes::from_static(payload) };
        let expected = [
            Frame::Open { stream: 5, last: false, block: Bytes::from_static(b"blk") },
            data(b"hello", false),
            data(b"", true),
            Frame::Ping { id: 3 },
            Frame::Other,
            Frame::Other,
            Frame::Reset { stream: 5 },
            Frame::GoAway,
        ];
        assert_eq!(all(&bytes), Ok(expected.to_vec()));
    }

    #[test]
    fn what_a_client_must_not_send() {
        for (bytes, why) in [
            (&b"\0\0\0\x01\0\xff\xff\xff"[..], "too long"),
            (b"\x80\x03\0\x01\0\xff\0\0", "too long"),
            (b"\x80\x02\0\x01\0\0\0\0", "version"),
            (b"\x80\x03\0\x01\0\0\0\x04\0\0\0\x01", "too short"),
            (b"\x80\x03\0\x03\0\0\0\x01\0", "too short"),
            (b"\x80\x03\0\x06\0\0\0\x05\0\0\0\0\0", "ping"),
        ] {
            assert!(all(bytes).expect_err(why).to_string().contains(why), "{why}");
        }
    }
}
