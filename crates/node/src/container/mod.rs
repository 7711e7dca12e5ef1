//! One run of one container: from its declaration to a process, its hooks and probes, to its end.
//!
//! A run is one task ([`Keeper`]) that tells its Pod's worker what happens, and is told only one thing: to stop. Whether it is
//! started again is the worker's to decide.

mod ends;
mod hooks;
mod keeper;
pub(crate) mod launch;
mod live;
mod prepare;
mod probing;
mod process;
mod terminal;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

pub use ends::{Input as SessionInput, Output as SessionOutput};
pub(crate) use keeper::Keeper;
pub(crate) use launch::Refused;
pub(crate) use live::{Piece, Running};
pub use live::{Session, SessionError, SessionQuery};
pub(crate) use prepare::{MARK, RESOLVER, mark};

use crate::network::Sandbox;
use crate::probe::Kind;

/// What all containers of a Pod share.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// The Pod's directory.
    pub directory: PathBuf,
    /// Container port to host port.
    pub ports: BTreeMap<u16, u16>,
    /// Where each volume lies.
    pub places: BTreeMap<String, PathBuf>,
    /// The Pod's own network; none where it is on the machine's.
    pub sandbox: Option<Arc<Sandbox>>,
}

impl Setup {
    /// The Pod's address.
    pub(crate) fn address(&self) -> IpAddr {
        self.sandbox.as_ref().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |sandbox| sandbox.address())
    }
}

/// An order to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    /// When what is left is killed.
    pub deadline: Instant,
    /// Wait so long at most for the traffic to have gone elsewhere, before anything else.
    pub drain: Option<Duration>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub code: i32,
    pub signal: Option<i32>,
    pub reason: String,
    pub message: Option<String>,
    pub started: Option<Timestamp>,
    pub finished: Timestamp,
    pub id: String,
}

/// What a run tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// It could not be started as declared; nothing ran.
    Refused(Refused),
    /// Its private view of the file system could not be made; it runs without.
    Plain(String),
    /// The program runs.
    Running { id: String, image_id: String, at: Timestamp },
    /// What is to follow the start is done; `Err` says why it failed.
    Hooked(Result<(), String>),
    /// A probe's attempt that counts: why it failed, if it did, and the verdict if a threshold is reached.
    Probed { kind: Kind, failure: Option<String>, verdict: Option<bool> },
    /// It is over.
    Ended(Ended),
}

/// News of one run of one container.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// Which container, in the worker's order.
    pub index: usize,
    /// Which run, so that news of one that is gone is told from the current one's.
    pub run: u64,
    pub news: News,
}
