//! HTTP/2 over the `h2` crate, which knows frames, streams and their limits: clients' connections, and what both sides share.
//!
//! Invariants: whatever a connection has to say when it is polled leaves in as few writes as it fits (`cork.rs`); all requests of a
//! client's connection are worked on in its own task (`server.rs`), which is polled for what has happened and not for more
//! (`bell.rs`); every defence of `h2` is set here or left at what it has by itself, never off.

mod bell;
mod cork;
mod date;
mod direct;
mod pipe;
mod pulse;
mod received;
mod server;
mod stream;

pub(crate) use bell::{Bell, Desk};
pub(crate) use cork::{Cork, Line, cork};
pub(crate) use pipe::Pipe;
pub(crate) use pulse::Pulse;
pub(crate) use received::Received;
pub(crate) use server::serve;

use std::time::Duration;

use crate::deadline::Passed;

/// What may be on its way to us of one stream, and so how much of it can lie in memory unread.
pub(crate) const STREAM_WINDOW: u32 = 256 * 1024;
/// The same of a client's connection.
const CLIENT_WINDOW: u32 = 1024 * 1024;
/// The same of a connection to an endpoint, which many clients share: those who do not read hold up the others only together.
pub(crate) const ENDPOINT_WINDOW: u32 = 16 * 1024 * 1024;
/// How much of one stream waits to be sent, beyond the part that is there at once.
pub(crate) const SEND_BUFFER: usize = 256 * 1024;
/// How many streams the other side may have us reset for its mistakes before the connection ends.
pub(crate) const MISTAKES: usize = 1024;
/// Of how many streams that we reset we still know, and for how long: what was on its way to them then is no mistake of the other side.
pub(crate) const REMEMBERED: usize = 1024;
pub(crate) const REMEMBERED_FOR: Duration = Duration::from_secs(5);
/// How many streams a client may reset before they were looked at (rapid reset).
const TAKEN_BACK: usize = 20;

/// Why a stream is reset when a body breaks off: as the other side said it, where it did. What is cut off is an error though
/// it was cut off kindly, as some take NO_ERROR for the end of a body.
fn reason(mut error: &(dyn std::error::Error + 'static)) -> h2::Reason {
    loop {
        if error.is::<Passed>() {
            return h2::Reason::CANCEL;
        }
        if let Some(reason) = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason) {
            return if reason == h2::Reason::NO_ERROR { h2::Reason::INTERNAL_ERROR } else { reason };
        }
        match error.source() {
            Some(source) => error = source,
            None => return h2::Reason::INTERNAL_ERROR,
        }
    }
}
