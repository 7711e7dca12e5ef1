//! A running shim, seen from Coracle: what it says, and what it is told.
//!
//! Dropping it closes its control socket, upon which the shim kills everything below it.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use crate::owners::{Launcher, Owned};
use crate::shim::{Config, Order, Report, SUBCOMMAND};

/// How much of a command's output is kept for a message.
const OUTPUT_LIMIT: u64 = 10 << 10;
/// How long what was killed may take to be gone.
const GONE: Duration = Duration::from_secs(15);

/// A shim and, below it, a program.
pub(crate) struct Process {
    /// Goes first: what is below the shim is the Pod's only as long as the shim's number is its own.
    owned: Option<Owned>,
    child: Child,
    reports: Lines<BufReader<OwnedReadHalf>>,
    orders: OwnedWriteHalf,
}

impl Process {
    /// Starts a shim and tells it what to run.
    pub(crate) async fn spawn(launcher: &Launcher, config: &Config) -> io::Result<(Process, ChildStdout, ChildStderr)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let mut child = Command::new(&launcher.shim)
            .arg(SUBCOMMAND)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let owned = launcher.own(child.id().and_then(|id| i32::try_from(id).ok()));
        let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(io::Error::other("the shim has no outputs"));
        };
        ours.set_nonblocking(true)?;
        let (reader, mut orders) = UnixStream::from_std(ours)?.into_split();
        let mut line = serde_json::to_vec(config).map_err(io::Error::from)?;
        line.push(b'\n');
        orders.write_all(&line).await?;
        Ok((Process { owned, child, reports: BufReader::new(reader).lines(), orders }, out, err))
    }

    /// The shim's process number.
    pub(crate) fn id(&self) -> Option<i32> {
        self.child.id().and_then(|id| i32::try_from(id).ok())
    }

    /// What the shim says next; `None` when it is gone. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Report> {
        loop {
            match self.reports.next_line().await {
                Ok(Some(line)) => match serde_json::from_str(&line) {
                    Ok(report) => return Some(report),
                    Err(error) => tracing::debug!(%error, "the shim said something that is no report"),
                },
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Tells the shim something. One that is gone needs no orders.
    pub(crate) async fn order(&mut self, order: Order) {
        if let Ok(mut line) = serde_json::to_vec(&order) {
            line.push(b'\n');
            let _ = self.orders.write_all(&line).await;
        }
    }

    /// Takes the shim's own end, so that nothing is left of it.
    pub(crate) async fn finish(mut self) {
        drop((self.orders, self.owned));
        let _ = tokio::time::timeout(GONE, self.child.wait()).await;
    }
}

/// How a command ended that was run beside a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ran {
    /// With this exit code and output.
    Exited(i32, String),
    /// Not within the time; it was killed.
    TimedOut,
    /// It could not be run.
    Failed(String),
}

/// Runs a command as its container would see it, for at most `limit`.
pub(crate) async fn exec(launcher: &Launcher, config: &Config, limit: Duration) -> Ran {
    let (mut process, out, err) = match Process::spawn(launcher, config).await {
        Ok(spawned) => spawned,
        Err(error) => return Ran::Failed(format!("can't start the shim {}: {error}", launcher.shim.display())),
    };
    let output = async {
        let (mut text, mut rest) = (Vec::new(), Vec::new());
        let (mut out, mut err) = (out.take(OUTPUT_LIMIT), err.take(OUTPUT_LIMIT));
        let _ = tokio::join!(out.read_to_end(&mut text), err.read_to_end(&mut rest));
        text.extend(rest);
        // What is beyond is read too: a full pipe would hold the command up.
        let (mut out, mut err) = (out.into_inner(), err.into_inner());
        let (mut sink, mut other) = (tokio::io::sink(), tokio::io::sink());
        let _ = tokio::join!(tokio::io::copy(&mut out, &mut sink), tokio::io::copy(&mut err, &mut other));
        String::from_utf8_lossy(&text).trim_end().to_owned()
    };
    let end = async {
        loop {
            match process.next().await {
                Some(Report::Exited { code, signal }) => return Ok(code.unwrap_or(128 + signal.unwrap_or(9))),
                Some(Report::Failed(why)) => return Err(why),
                Some(_) => {}
                None => return Err("the shim ended without a word".to_owned()),
            }
        }
    };
    let ran = match tokio::time::timeout(limit, async { tokio::join!(end, output) }).await {
        Ok((Ok(code), text)) => Ran::Exited(code, text),
        Ok((Err(why), _)) => Ran::Failed(why),
        Err(_) => Ran::TimedOut,
    };
    process.finish().await;
    ran
}
