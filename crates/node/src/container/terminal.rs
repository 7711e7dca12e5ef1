//! A pseudo-terminal between a client and a program: this end of it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe;

/// This end of a terminal; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Terminal {
    end: Arc<OwnedFd>,
}

impl Terminal {
    /// A new terminal, and where the program finds its end of it.
    pub(crate) fn open() -> io::Result<(Self, PathBuf)> {
        let end = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&end, true)?;
        grantpt(&end)?;
        unlockpt(&end)?;
        let name = ptsname(&end, Vec::new())?.into_string().map_err(io::Error::other)?;
        Ok((Self { end: Arc::new(end) }, PathBuf::from(name)))
    }

    /// What the program writes. Of a pipe's type, which reads and writes what it is given.
    pub(crate) fn output(&self) -> io::Result<Output> {
        pipe::Receiver::from_owned_fd_unchecked(self.end.try_clone()?).map(Output)
    }

    /// What the program reads.
    pub(crate) fn input(&self) -> io::Result<pipe::Sender> {
        pipe::Sender::from_owned_fd_unchecked(self.end.try_clone()?)
    }

    /// Tells the program how large it is.
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // One that nobody holds any more has no size.
        let _ = tcsetwinsize(&self.end, size);
    }
}

/// What a program writes to its terminal.
#[derive(Debug)]
pub(crate) struct Output(pipe::Receiver);

impl AsyncRead for Output {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(cx, buffer) {
            // Nobody holds the other end any more.
            Poll::Ready(Err(error)) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => Poll::Ready(Ok(())),
            read => read,
        }
    }
}
