//! Runs `git` with nothing of its surroundings, and ends it when it takes too long or says too much.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::credential::Held;
use super::error::{GitError, shown};

/// How much of what git says against us is kept, from its end.
const COMPLAINT: usize = 4 * 1024;

/// Bounds on what is taken from repositories.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long one exchange with a server may take.
    pub network_time: Duration,
    /// How long one reading of a mirror may take.
    pub local_time: Duration,
    /// The largest pack that is fetched, in bytes.
    pub pack: u64,
    /// The most that a mirror may hold, in bytes; beyond it is made anew.
    pub mirror: u64,
    /// The largest file that is read out of a commit, in bytes.
    pub file: u64,
    /// The most that is read out of one commit, in bytes.
    pub tree: u64,
    /// How many files one commit may have.
    pub files: usize,
    /// The longest answer of git in memory, in bytes (lists of references and of files).
    pub answer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            network_time: Duration::from_secs(90),
            local_time: Duration::from_secs(30),
            pack: 512 * 1024 * 1024,
            mirror: 2 * 1024 * 1024 * 1024,
            file: 4 * 1024 * 1024,
            tree: 128 * 1024 * 1024,
            files: 20_000,
            answer: 32 * 1024 * 1024,
        }
    }
}

/// The installed `git`, run in an environment of our own. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Git {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    home: PathBuf,
    limits: Limits,
}

/// What is told of a failing run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Doing<'a> {
    pub(crate) attempt: &'static str,
    pub(crate) repository: &'a str,
}

/// Settings that nothing in a repository or a user's home can change. The command scope beats every file.
const SETTINGS: &[(&str, &str)] = &[
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.askPass", ""),
    ("credential.helper", ""),
    ("submodule.recurse", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("fetch.fsckObjects", "false"),
    ("transfer.bundleURI", "false"),
    ("gc.autoDetach", "false"),
    ("maintenance.autoDetach", "false"),
    ("http.followRedirects", "initial"),
    ("http.lowSpeedLimit", "1000"),
    ("http.lowSpeedTime", "30"),
    ("init.defaultBranch", "main"),
    ("protocol.version", "2"),
];

impl Git {
    /// Keeps what it needs below `home`, which is made where needed (mode 0700).
    ///
    /// # Errors
    ///
    /// When the directory cannot be made.
    pub fn new(home: &Path, limits: Limits) -> Result<Self, GitError> {
        use std::os::unix::fs::DirBuilderExt;
        for folder in [home.to_owned(), home.join("keys")] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|error| GitError::Disk {
                attempt: "make the directory",
                path: folder.display().to_string(),
                reason: error.to_string(),
            })?;
        }
        Ok(Self { inner: Arc::new(Inner { home: home.to_owned(), limits }) })
    }

    pub(crate) fn home(&self) -> &Path {
        &self.inner.home
    }

    /// The bounds.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// A command of git that knows nothing of this user. `bytes` bounds every file that it writes.
    pub(crate) fn command(&self, arguments: &[&str], held: &Held, bytes: u64) -> Command {
        // The shell is there for its limit alone; the arguments are passed on as they are.
        let mut command = Command::new("/bin/sh");
        let blocks = (bytes / 512).max(1);
        command.arg("-c").arg(format!("ulimit -f {blocks}; exec git \"$@\"")).arg("git").args(arguments);
        command.env_clear();
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        let nowhere = "/dev/null";
        for (name, value) in [
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", nowhere),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", ""),
            ("SSH_ASKPASS", ""),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_NO_LAZY_FETCH", "1"),
            ("GIT_ALLOW_PROTOCOL", "https:http:ssh:file"),
        ] {
            command.env(name, value);
        }
        command.env("HOME", self.home()).env("XDG_CONFIG_HOME", self.home());
        let settings = SETTINGS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings: Vec<(String, String)> = settings.chain(held.settings().iter().cloned()).collect();
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (index, (name, value)) in settings.into_iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{index}"), name).env(format!("GIT_CONFIG_VALUE_{index}"), value);
        }
        command.env("GIT_SSH_COMMAND", held.ssh());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        command
    }

    /// Runs to the end; what it wrote on stdout.
    pub(crate) async fn run(&self, arguments: &[&str], doing: Doing<'_>, input: Vec<u8>) -> Result<Vec<u8>, GitError> {
        let command = self.command(arguments, &Held::default(), self.limits().pack);
        let outcome = collect(command, doing, input, self.limits().local_time, self.limits().answer as u64).await?;
        outcome.or_refused(doing)
    }

    /// Runs with a credential and the time that a network needs.
    pub(crate) async fn exchange(
        &self,
        arguments: &[&str],
        doing: Doing<'_>,
        held: &Held,
    ) -> Result<Vec<u8>, GitError> {
        let limits = self.limits();
        let command = self.command(arguments, held, limits.pack);
        let outcome = collect(command, doing, Vec::new(), limits.network_time, limits.answer as u64).await?;
        // The limit ends git itself or a process that it started, and it tells of that one.
        let too_large = format!("signal {}", Signal::SIGXFSZ as i32);
        if !outcome.succeeded
            && (outcome.signal == Some(Signal::SIGXFSZ as i32) || outcome.complaint.contains(&too_large))
        {
            return Err(GitError::TooLarge {
                attempt: doing.attempt,
                repository: shown(doing.repository),
                what: "what the server sends".to_owned(),
                limit: limits.pack,
            });
        }
        outcome.or_refused(doing)
    }
}

/// What came of a run.
pub(crate) struct Outcome {
    pub(crate) succeeded: bool,
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) complaint: String,
}

impl Outcome {
    pub(crate) fn or_refused(self, doing: Doing<'_>) -> Result<Vec<u8>, GitError> {
        if self.succeeded {
            return Ok(self.stdout);
        }
        let reason = match (self.complaint.is_empty(), self.signal) {
            (false, _) => self.complaint,
            (true, Some(signal)) => format!("git was ended by signal {signal}"),
            (true, None) => "git failed and said nothing".to_owned(),
        };
        Err(GitError::Refused { attempt: doing.attempt, repository: shown(doing.repository), reason })
    }
}

/// A process with all that it started; dropped midway, all of it is killed.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may be gone by itself.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Runs a command to its end within bounds.
pub(crate) async fn collect(
    mut command: Command,
    doing: Doing<'_>,
    input: Vec<u8>,
    limit: Duration,
    most: u64,
) -> Result<Outcome, GitError> {
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let failed = |reason: String| GitError::NotInstalled { reason };
    let mut group = Group(command.spawn().map_err(|error| failed(error.to_string()))?);
    let (stdin, stdout, stderr) = (group.0.stdin.take(), group.0.stdout.take(), group.0.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A reader that ends early says so in its exit status.
            let _ = stdin.write_all(&input).await;
            let _ = stdin.shutdown().await;
        }
    };
    let work = async {
        let ((), (stdout, whole), complaint) = tokio::join!(feed, read_at_most(stdout, most), last_words(stderr));
        if !whole {
            return (None, stdout, complaint);
        }
        (Some(group.0.wait().await), stdout, complaint)
    };
    let Ok((status, stdout, complaint)) = tokio::time::timeout(limit, work).await else {
        return Err(GitError::TooLong { attempt: doing.attempt, repository: shown(doing.repository), limit });
    };
    match status {
        None => Err(GitError::TooLarge {
            attempt: doing.attempt,
            repository: shown(doing.repository),
            what: "the answer".to_owned(),
            limit: most,
        }),
        Some(Err(error)) => Err(failed(error.to_string())),
        Some(Ok(status)) if status.code() == Some(127) => Err(failed(complaint)),
        Some(Ok(status)) => {
            let signal = std::os::unix::process::ExitStatusExt::signal(&status);
            Ok(Outcome { succeeded: status.success(), signal, stdout, complaint })
        }
    }
}

/// All that comes, unless it is too much: then false.
async fn read_at_most(from: Option<impl AsyncRead + Unpin>, most: u64) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    let Some(from) = from else { return (all, true) };
    // An end by error is seen in the exit status.
    let _ = from.take(most + 1).read_to_end(&mut all).await;
    let whole = all.len() as u64 <= most;
    (all, whole)
}

/// The end of what comes, as text of few lines.
async fn last_words(from: Option<impl AsyncRead + Unpin>) -> String {
    let mut kept = Vec::new();
    let Some(mut from) = from else { return String::new() };
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..count]);
        kept.drain(..kept.len().saturating_sub(COMPLAINT));
    }
    let text = String::from_utf8_lossy(&kept);
    let lines =
        text.lines().map(|line| line.rsplit('\r').next().unwrap_or(line).trim()).filter(|line| !line.is_empty());
    let lines: Vec<&str> = lines.collect();
    lines.join("; ")
}
