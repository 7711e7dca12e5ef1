//! Where what comes from sockets is put before it is known what it is: one place for each thread, so that a connection that waits has none.
//!
//! Invariant: what is there is looked at, and copied where it is to last, before anything else is read.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// How much is read at once.
const READ: usize = 16 * 1024;

thread_local! {
    static LANDING: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// Reads once, and has what came looked at. Nothing means the end of what the other side sends. Whoever looks reads nothing more.
pub(crate) fn poll_read<S: AsyncRead + Unpin, T>(
    stream: &mut S,
    cx: &mut Context<'_>,
    look: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<T>> {
    LANDING.with_borrow_mut(|landing| {
        let mut landed = ReadBuf::new(landing);
        ready!(Pin::new(stream).poll_read(cx, &mut landed))?;
        Poll::Ready(Ok(look(landed.filled())))
    })
}
