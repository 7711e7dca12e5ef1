//! WebSocket (RFC 6455), the server's side: the handshake's answer, frames and messages. Pure.
//!
//! Invariants: a message is bounded; what a client must not send (unmasked frames, unknown bits, broken fragments) is an error that
//! ends the connection. Extensions are never agreed on, so no bit of them is taken.

use base64::Engine as _;
use bytes::{Buf, Bytes, BytesMut};

/// The longest message that is taken, in bytes.
pub(crate) const LONGEST: usize = 1024 * 1024;
/// What a client's key is answered with is made with this.
const SALT: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Bytes, in one piece.
    Data(Bytes),
    /// It wants to know whether somebody is there.
    Ping(Bytes),
    /// An answer to our own question.
    Pong,
    /// It says good-bye.
    Close,
}

/// A client that does not keep to the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client broke the WebSocket protocol: {0}")]
pub(crate) struct Violation(&'static str);

/// The `Sec-WebSocket-Accept` for a client's key.
pub(crate) fn accept(key: &str) -> String {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key.as_bytes());
    digest.update(SALT);
    base64::engine::general_purpose::STANDARD.encode(digest.finish())
}

/// Puts messages together from what arrives.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// The beginning of a message whose end is not there yet.
    begun: Option<BytesMut>,
}

struct Frame {
    end: bool,
    kind: u8,
    payload: BytesMut,
}

impl Decoder {
    /// The next message, where all of it is there.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Message>, Violation> {
        while let Some(frame) = frame(buffer)? {
            if let Some(message) = self.take(frame)? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    fn take(&mut self, Frame { end, kind, payload }: Frame) -> Result<Option<Message>, Violation> {
        if kind >= CLOSE {
            return match kind {
                CLOSE => Ok(Some(Message::Close)),
                PING => Ok(Some(Message::Ping(payload.freeze()))),
                PONG => Ok(Some(Message::Pong)),
                _ => Err(Violation("a control frame of an unknown kind")),
            };
        }
        let whole = match (kind, self.begun.take()) {
            (CONTINUATION, Some(mut begun)) => {
                if begun.len() + payload.len() > LONGEST {
                    return Err(Violation("a message of more than 1 MiB"));
                }
                begun.extend_from_slice(&payload);
                begun
            }
            (TEXT | BINARY, None) => payload,
            (CONTINUATION, None) => return Err(Violation("a continuation of nothing")),
            (TEXT | BINARY, Some(_)) => return Err(Violation("a message within a message")),
            _ => return Err(Violation("a frame of an unknown kind")),
        };
        if end {
            return Ok(Some(Message::Data(whole.freeze())));
        }
        self.begun = Some(whole);
        Ok(None)
    }
}

/// Takes one frame off the front, where all of it is there.
fn frame(buffer: &mut BytesMut) -> Result<Option<Frame>, Violation> {
    let &[first, second, ref rest @ ..] = &buffer[..] else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err(Violation("bits of an extension that was not agreed on"));
    }
    if second & 0x80 == 0 {
        return Err(Violation("a frame without a mask"));
    }
    let (end, kind) = (first & 0x80 != 0, first & 0x0f);
    let (length, head) = match second & 0x7f {
        126 => match rest.first_chunk::<2>() {
            Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 4),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(bytes) => (u64::from_be_bytes(*bytes), 10),
            None => return Ok(None),
        },
        short => (u64::from(short), 2),
    };
    if kind >= CLOSE && (length > 125 || !end) {
        return Err(Violation("a control frame that is long or in pieces"));
    }
    let length = usize::try_from(length).ok().filter(|length| *length <= LONGEST);
    let Some(length) = length else { return Err(Violation("a message of more than 1 MiB")) };
    if buffer.len() < head + 4 + length {
        return Ok(None);
    }
    buffer.advance(head);
    let mask: [u8; 4] = [buffer[0], buffer[1], buffer[2], buffer[3]];
    buffer.advance(4);
    let mut payload = buffer.split_to(length);
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Ok(Some(Frame { end, kind, payload }))
}

fn whole(kind: u8, before: &[u8], payload: &[u8]) -> Bytes {
    let length = before.len() + payload.len();
    let mut out = Vec::with_capacity(length + 10);
    out.push(0x80 | kind);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => out.push(short),
        (_, Ok(middle)) => {
            out.push(126);
            out.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(before);
    out.extend_from_slice(payload);
    out.into()
}

/// A message of some bytes, with those of `before` in front of them.
pub(crate) fn data(before: &[u8], payload: &[u8]) -> Bytes {
    whole(BINARY, before, payload)
}

/// The answer to a ping.
pub(crate) fn pong(payload: &[u8]) -> Bytes {
    whole(PONG, &[], payload)
}

/// A question whether the client is there.
pub(crate) fn ping() -> Bytes {
    whole(PING, &[], &[])
}

/// A good-bye when all has been said.
pub(crate) fn close() -> Bytes {
    whole(CLOSE, &[], &1000_u16.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's frame.
    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        match payload.len() {
            short @ 0..=125 => out.push(0x80 | u8::try_from(short).expect("short")),
            middle @ 126..=0xffff => {
                out.push(0x80 | 126);
                out.extend(u16::try_from(middle).expect("short").to_be_bytes());
            }
            long => {
                out.push(0x80 | 127);
                out.extend((long as u64).to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        out.extend(mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        out
    }

    fn all(bytes: &[u8]) -> Result<Vec<Message>, Violation> {
        // Byte by byte, as a slow network would bring it.
        let (mut decoder, mut buffer, mut messages) = (Decoder::default(), BytesMut::new(), Vec::new());
        for byte in bytes {
            buffer.extend_from_slice(&[*byte]);
            while let Some(message) = decoder.next(&mut buffer)? {
                messages.push(message);
            }
        }
        Ok(messages)
    }

    #[test]
    fn the_answer_of_the_standard_to_its_key() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn messages_whole_and_in_pieces() {
        let long = vec![7; 70_000];
        let mut bytes = masked(0x82, b"one");
        bytes.extend(masked(0x01, b"tw"));
        bytes.extend(masked(0x89, b"?"));
        bytes.extend(masked(0x80, b"o"));
        bytes.extend(masked(0x82, &long[..300]));
        bytes.extend(masked(0x8a, b""));
        bytes.extend(masked(0x88, b"\x03\xe8"));
        let data = |bytes: &[u8]| Message::Data(Bytes::copy_from_slice(bytes));
        let expected = [
            data(b"one"),
            Message::Ping(Bytes::from_static(b"?")),
            data(b"two"),
            data(&long[..300]),
            Message::Pong,
            Message::Close,
        ];
        assert_eq!(all(&bytes), Ok(expected.to_vec()));
        assert_eq!(all(&masked(0x82, &long)), Ok(vec![data(&long)]));
    }

    #[test]
    fn what_a_client_must_not_send() {
        let mut huge = vec![0x82, 0xff];
        huge.extend(u64::MAX.to_be_bytes());
        let mut pieces = masked(0x02, &vec![0; LONGEST]);
        pieces.extend(masked(0x80, b"x"));
        for (bytes, why) in [
            (vec![0x82, 0x01, 0x00], "mask"),
            (masked(0xc2, b""), "extension"),
            (masked(0x80, b""), "nothing"),
            (masked(0x83, b""), "unknown"),
            (masked(0x8b, b""), "unknown"),
            (masked(0x09, b""), "pieces"),
            (masked(0x89, &[0; 126]), "long"),
            ([masked(0x02, b""), masked(0x82, b"")].concat(), "within"),
            (huge, "1 MiB"),
            (pieces, "1 MiB"),
        ] {
            let mut buffer = BytesMut::from(&bytes[..]);
            let mut decoder = Decoder::default();
            let refused = std::iter::from_fn(|| decoder.next(&mut buffer).transpose()).find_map(Result::err);
            assert!(refused.expect(why).to_string().contains(why), "{why}");
        }
    }

    #[test]
    fn lengths_of_what_is_sent() {
        for (length, head) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            assert_eq!(data(&[], &vec![0; length]).len(), head + length);
        }
        assert_eq!(&data(&[2], b"x")[..], b"\x82\x02\x02x");
        assert_eq!(&close()[..], b"\x88\x02\x03\xe8");
    }
}
