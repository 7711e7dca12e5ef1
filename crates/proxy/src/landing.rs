//! Where what comes from sockets is put before it is known what it is: one place for each thread, so that a connection that waits has none.
//!
//! Invariant: what is there is looked at, and copied where it is to last, before anything else is read.

use std::cell::RefCell;
use std::io::{self, Read};
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

/// The same of a socket that no runtime watches. None where nothing has come.
pub(crate) fn read_now<T>(mut socket: &std::net::TcpStream, look: impl FnOnce(&[u8]) -> T) -> io::Result<Option<T>> {
    LANDING.with_borrow_mut(|landing| match socket.read(landing) {
        Ok(length) => Ok(Some(look(&landing[..length]))),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    })
}
