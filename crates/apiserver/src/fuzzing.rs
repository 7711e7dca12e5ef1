//! What fuzz targets need of what is not public. It is there under `--cfg fuzzing` only, which cargo-fuzz sets.

use bytes::BytesMut;

use crate::streaming::spdy::frame::{self, Frame};
use crate::streaming::spdy::header::Unpacker;
use crate::streaming::websocket::{self, Decoder, Message};

/// What was read, one thing after the other, and why no more was.
pub type Read = (Vec<String>, Option<String>);

/// The messages of a client of WebSocket whose bytes come in pieces of this length.
#[must_use]
pub fn messages(bytes: &[u8], piece: usize) -> Read {
    let (mut decoder, mut buffer, mut all) = (Decoder::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece.max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(message)) => {
                    if let Message::Data(bytes) = &message {
                        assert!(bytes.len() <= websocket::LONGEST);
                    }
                    all.push(format!("{message:?}"));
                }
                Ok(None) => break,
                Err(violation) => return (all, Some(violation.to_string())),
            }
        }
    }
    (all, None)
}

/// The frames of a client of SPDY, and the headers in them, likewise. What can be written again is read as the same.
#[must_use]
pub fn frames(bytes: &[u8], piece: usize) -> Read {
    let (mut unpacker, mut buffer, mut all) = (Unpacker::new(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece.max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            let frame = match frame::next(&mut buffer) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(violation) => return (all, Some(violation.to_string())),
            };
            all.push(format!("{frame:?}"));
            let written = match &frame {
                Frame::Data { stream, last, payload } => Some(frame::data(*stream, payload, *last)),
                Frame::Ping { id } => Some(frame::ping(*id)),
                _ => None,
            };
            if let Some(written) = written {
                assert_eq!(frame::next(&mut BytesMut::from(&written[..])), Ok(Some(frame.clone())));
            }
            if let Frame::Open { block, .. } | Frame::Headers { block } = &frame {
                match unpacker.headers(block) {
                    Ok(headers) => all.push(format!("{headers:?}")),
                    Err(violation) => return (all, Some(violation.to_string())),
                }
            }
        }
    }
    (all, None)
}
