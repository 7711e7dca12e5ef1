//! The shim: the small process between Coracle and one container's program (or one probe's command). The same executable,
//! re-executed.
//!
//! Two steps, each single-threaded and synchronous, so that namespaces can be changed and no runtime is needed:
//! - *supervise* ([`supervise`]) adopts every descendant (child subreaper), watches its control socket, reports the
//!   program's pid and end, and kills all descendants when the program has ended, when told, and when the socket closes because
//!   Coracle is gone.
//! - *start* ([`start`]) is supervise's child: it prepares the namespaces, becomes a session leader, and turns
//!   into the program.
//!
//! The control socket is standard input; standard output and error are the program's own. It must not know Pods, the API or
//! the async runtime.
//!
//! The same hidden subcommand is the pod network's helper, which has the same needs (see `network`).

mod mounts;
mod reap;
mod start;
mod supervise;
pub(crate) mod user;

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use reap::{Process, marked, parent, seeing, tree, trees};

/// The hidden subcommand of the executable.
pub const SUBCOMMAND: &str = "container-shim";
/// The argument that makes a shim the second step.
const START: &str = "start";
/// The argument that makes a shim the one who says who is who in a user namespace.
const MAP: &str = "map";
/// The argument that makes a shim the pod network's helper.
pub(crate) const NETWORK: &str = "network";
/// No control line is longer: an environment is bounded by the kernel well below.
const LINE_LIMIT: u64 = 16 << 20;

/// What to run, as the first line that the shim reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Config {
    /// Program and arguments.
    pub command: Vec<String>,
    /// The whole environment: nothing is inherited.
    pub env: Vec<(String, String)>,
    /// Where the program starts, as it sees the file system.
    pub working_dir: PathBuf,
    /// What appears where in the program's view of the file system.
    pub mounts: Vec<Mount>,
    /// An empty directory to build that view on.
    pub staging: PathBuf,
    /// See the file system as this process does, instead of building a view.
    pub join: Option<i32>,
    /// The soft limit of open files; as it is where none is said.
    #[serde(default)]
    pub open_files: Option<u64>,
    /// What it reads.
    #[serde(default)]
    pub stdin: Stdin,
    /// What the machine is called, as the program sees it, where it has a network of its own.
    #[serde(default)]
    pub hostname: Option<String>,
    /// The network namespace to be in; the machine's own where there is none.
    pub network: Option<Network>,
}

/// What a program reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stdin {
    #[default]
    Nothing,
    /// A pipe.
    Pipe(PathBuf),
    /// A terminal, to which it writes as well.
    Terminal(PathBuf),
}

/// A network namespace of a Pod's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Network {
    /// The user namespace that it belongs to.
    pub user: PathBuf,
    /// The namespace.
    pub net: PathBuf,
}

/// One directory or file of the host at another place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mount {
    pub source: PathBuf,
    pub target: PathBuf,
    pub read_only: bool,
}

/// What the shim says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Report {
    /// Something is not as asked, but the program runs: the file system's view could not be made.
    Plain(String),
    /// The number of the mount namespace that was made for the program, in which it will begin.
    View(u64),
    /// The program runs.
    Started(i32),
    /// The program could not be started.
    Failed(String),
    /// The program has ended and nothing of it is left.
    Exited { code: Option<i32>, signal: Option<i32> },
}

/// What the shim is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Order {
    /// SIGTERM to the program's process group.
    Terminate,
    /// SIGKILL to everything.
    Kill,
}

/// The body of the hidden `container-shim` subcommand; `args` are those behind the subcommand's name. The result is the exit
/// status.
pub fn main(args: impl Iterator<Item = OsString>) -> i32 {
    let mut args = args.into_iter();
    let what = args.next();
    let done = match what.as_deref().and_then(OsStr::to_str) {
        Some(MAP) => user::run(args.next().and_then(|pid| pid.to_str()?.parse().ok())),
        Some(NETWORK) => control().and_then(|socket| crate::network::help(&socket)),
        Some(START) => control().and_then(start::run),
        _ => control().and_then(supervise::run),
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            // Standard error is the container's log: the one place where this can still be read.
            let _ = writeln!(io::stderr(), "container-shim: {error}");
            125
        }
    }
}

/// Standard input as the control socket, under a descriptor of its own that a program never inherits.
fn control() -> io::Result<UnixStream> {
    use std::os::fd::AsFd;
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Reads the one line that says what to run.
fn read_config(socket: &mut BufReader<UnixStream>) -> io::Result<(Config, String)> {
    let mut line = String::new();
    io::Read::take(&mut *socket, LINE_LIMIT).read_line(&mut line)?;
    let config = serde_json::from_str(&line).map_err(io::Error::from)?;
    Ok((config, line))
}

/// Says something; a listener that is gone is noticed elsewhere.
fn say(mut socket: &UnixStream, report: &Report) {
    if let Ok(mut line) = serde_json::to_vec(report) {
        line.push(b'\n');
        let _ = socket.write_all(&line);
    }
}
