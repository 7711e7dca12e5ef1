//! A program's input and output, seen from Coracle: pipes, or a terminal.
//!
//! The shim opens the program's end by a path, before it changes any namespace. What is held here for that is let go once it has.

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::process::{ChildStderr, ChildStdout};

use super::terminal::Terminal;
use crate::shim::Stdin;

/// Bytes to a program.
pub type Input = Box<dyn AsyncWrite + Send + Unpin>;
/// Bytes of a program.
pub type Output = Box<dyn AsyncRead + Send + Unpin>;

/// What a program that is to be started gets.
pub(crate) struct Ends {
    /// For the shim.
    pub stdin: Stdin,
    pub input: Option<Input>,
    pub terminal: Option<Terminal>,
    /// The program's end of a pipe, until it has it.
    held: Option<pipe::Receiver>,
}

impl Ends {
    /// A terminal where `tty` asks for one; a pipe where there is to be input.
    pub(crate) fn make(stdin: bool, tty: bool) -> io::Result<Self> {
        if tty {
            let (terminal, path) = Terminal::open()?;
            let input = if stdin { Some(Box::new(terminal.input()?) as Input) } else { None };
            return Ok(Self { stdin: Stdin::Terminal(path), input, terminal: Some(terminal), held: None });
        }
        if !stdin {
            return Ok(Self { stdin: Stdin::Nothing, input: None, terminal: None, held: None });
        }
        let (to, from) = pipe::pipe()?;
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), from.as_raw_fd()));
        Ok(Self { stdin: Stdin::Pipe(path), input: Some(Box::new(to)), terminal: None, held: Some(from) })
    }

    /// The program runs, and has what is its own.
    pub(crate) fn taken(&mut self) {
        self.held = None;
    }

    /// What the program writes: its terminal has it all.
    pub(crate) fn outputs(&self, out: ChildStdout, err: ChildStderr) -> io::Result<(Output, Output)> {
        Ok(match &self.terminal {
            Some(terminal) => (Box::new(terminal.output()?), Box::new(err)),
            None => (Box::new(out), Box::new(err)),
        })
    }
}
