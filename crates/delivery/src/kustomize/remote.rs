//! Bases and files on the network: repositories through the installed `git`, single files by HTTP.
//!
//! Invariants: nothing of a repository is run (no hooks, no filters, no submodules' commands of other protocols); every
//! command and download ends after a time; a clone is deleted when the build is done. It must not know: kustomizations.

use super::error::{Error, Result, fail};
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

/// How long one command may take when the address says nothing else.
const TIMEOUT: Duration = Duration::from_secs(27);

/// A folder in a repository, from an address such as `https://github.com/org/repo//path?ref=v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spec {
    /// What git is given.
    pub(super) repository: String,
    /// The folder in it.
    pub(super) path: String,
    /// Branch, tag or commit; empty for the repository's own head.
    pub(super) reference: String,
    submodules: bool,
    timeout: Duration,
}

/// Whether a path is the address of a file on the network.
pub(super) fn is_url(path: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| starts(path, scheme))
}

/// Whether such an address looks like that of a manifest, not of a repository.
pub(super) fn is_file(address: &str) -> bool {
    let path = address.split(['?', '#']).next().unwrap_or(address);
    [".yaml", ".yml", ".json"].iter().any(|ending| path.ends_with(ending)) || matches!(Spec::parse(address), Ok(None))
}

fn starts(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
}

impl Spec {
    /// Reads an address; nothing when it is a path on disk.
    pub(super) fn parse(address: &str) -> Result<Option<Self>> {
        if address.starts_with('/') {
            return Ok(None);
        }
        let (place, query) = address.split_once('?').unwrap_or((address, ""));
        let Some((host, rest)) = host(place) else { return Ok(None) };
        let Some((repository, path)) = split(&rest, host == "file://") else { return Ok(None) };
        if repository.is_empty() {
            return Ok(None);
        }
        let path = path.trim_start_matches('/').to_owned();
        if Path::new(&path).components().fold(0i32, depth) < 0 {
            return Ok(None);
        }
        let mut spec = Self {
            repository: format!("{host}{repository}"),
            path,
            reference: String::new(),
            submodules: true,
            timeout: TIMEOUT,
        };
        spec.read_query(query);
        if spec.repository.starts_with('-') || spec.reference.starts_with('-') {
            return fail(format!("{address}: neither the repository nor the reference may begin with `-`"));
        }
        Ok(Some(spec))
    }

    fn read_query(&mut self, query: &str) {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let mut version = String::new();
        for (name, value) in pairs.map(|(name, value)| (name, decode(value))) {
            match name {
                "ref" if self.reference.is_empty() => self.reference = value,
                "version" if version.is_empty() => version = value,
                "timeout" => self.timeout = duration(&value).unwrap_or(self.timeout),
                "submodules" => {
                    self.submodules = !matches!(value.as_str(), "0" | "f" | "F" | "false" | "False" | "FALSE")
                }
                _ => {}
            }
        }
        if self.reference.is_empty() {
            self.reference = version;
        }
    }

    pub(super) fn same_commit(&self, other: &Self) -> bool {
        self.repository == other.repository && self.reference == other.reference && self.submodules == other.submodules
    }
}

/// Negative as soon as a path leaves where it began.
fn depth(so_far: i32, part: std::path::Component<'_>) -> i32 {
    match part {
        _ if so_far < 0 => so_far,
        std::path::Component::ParentDir => so_far - 1,
        std::path::Component::Normal(_) => so_far + 1,
        _ => so_far,
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = (byte == b'%').then(|| rest.as_slice_text()).flatten();
        match hex {
            Some(value) => {
                rest.next();
                rest.next();
                bytes.push(value);
            }
            None => bytes.push(if byte == b'+' { b' ' } else { byte }),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The byte that the next two hexadecimal digits stand for.
trait Hex {
    fn as_slice_text(&self) -> Option<u8>;
}

impl Hex for std::str::Bytes<'_> {
    fn as_slice_text(&self) -> Option<u8> {
        let pair: Vec<u8> = self.clone().take(2).collect();
        u8::from_str_radix(std::str::from_utf8(&pair).ok().filter(|pair| pair.len() == 2)?, 16).ok()
    }
}

fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok().filter(|number| *number > 0)?;
    let seconds = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    Some(Duration::from_secs(number.checked_mul(seconds)?.min(3600)))
}

/// Scheme, user and host, as git is to be given them, and what follows.
fn host(place: &str) -> Option<(String, String)> {
    let place = if starts(place, "git::") { &place[5..] } else { place };
    let scheme =
        ["ssh://", "https://", "http://", "file://"].into_iter().find(|scheme| starts(place, scheme)).unwrap_or("");
    let rest = &place[scheme.len()..];
    let user = rest.split_once('@').map(|(user, _)| user).filter(|user| {
        user.starts_with(|c: char| c.is_ascii_alphabetic())
            && user.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    });
    let after = user.map_or(rest, |user| &rest[user.len() + 1..]);
    let github = ["github.com/", "github.com:"].iter().any(|host| starts(after, host));
    let scp = scheme.is_empty() && (user.is_some() || github);
    if scheme.is_empty() && !scp {
        return None;
    }
    if scheme == "file://" {
        return Some((scheme.to_owned(), rest.to_owned()));
    }
    let slash = after.find('/');
    let colon = after.find(':').filter(|_| scp);
    let end = match (slash, colon) {
        (Some(slash), Some(colon)) if colon > 0 && colon < slash => colon,
        (None, Some(colon)) => colon,
        (Some(slash), _) => slash,
        (None, None) => return None,
    };
    let (name, path) = after.split_at(end + 1);
    let user = user.map(|user| format!("{user}@")).unwrap_or_default();
    let host = match github {
        true if scheme == "ssh://" || !user.is_empty() => format!("{user}github.com:"),
        true => "https://github.com/".to_owned(),
        false => format!("{scheme}{user}{name}"),
    };
    Some((host, path.to_owned()))
}

/// The repository's part of a path and the folder's.
fn split(path: &str, local: bool) -> Option<(String, String)> {
    if let Some(at) = path.find("_git/") {
        let (head, rest) = path.split_at(at + 5);
        let (name, folder) = rest.split_once('/').unwrap_or((rest, ""));
        return Some((format!("{head}{name}"), folder.to_owned()));
    }
    if let Some((repository, folder)) = path.split_once("//") {
        return Some((repository.to_owned(), folder.to_owned()));
    }
    if let Some(at) = path.find(".git") {
        return Some((path[..at + 4].to_owned(), path[at + 4..].to_owned()));
    }
    if local {
        return Some((path.to_owned(), String::new()));
    }
    let mut parts = path.splitn(3, '/');
    let (owner, name) = (parts.next()?, parts.next()?);
    Some((format!("{owner}/{name}"), parts.next().unwrap_or_default().to_owned()))
}

/// A repository's files, in a folder that goes away with this.
#[derive(Debug)]
pub(super) struct Repository {
    /// Held for its end.
    _temporary: tempfile::TempDir,
    folder: PathBuf,
}

impl Repository {
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Fetches one commit.
    pub(super) fn fetch(spec: &Spec) -> Result<Self> {
        let problem =
            |error: std::io::Error| Error::new(format!("cannot make a folder for {}: {error}", spec.repository));
        let temporary = tempfile::Builder::new().prefix("coracle-kustomize-").tempdir().map_err(problem)?;
        let folder = temporary.path().canonicalize().map_err(problem)?;
        let reference = if spec.reference.is_empty() { "HEAD" } else { &spec.reference };
        let mut steps = vec![
            vec!["init", "--quiet"],
            vec!["remote", "add", "origin", &spec.repository],
            vec!["fetch", "--quiet", "--depth=1", "--", &spec.repository, reference],
            vec!["checkout", "--quiet", "FETCH_HEAD"],
        ];
        if spec.submodules {
            steps.push(vec!["submodule", "--quiet", "update", "--init", "--recursive"]);
        }
        for step in steps {
            git(&folder, &step, spec)?;
        }
        Ok(Self { _temporary: temporary, folder })
    }
}

fn git(folder: &Path, arguments: &[&str], spec: &Spec) -> Result<()> {
    let shown = format!("git {} for {}", arguments[0], spec.repository);
    let mut child = Command::new("git")
        .args(["-c", "core.hooksPath=/dev/null", "-c", "protocol.ext.allow=never"])
        .args(arguments)
        .current_dir(folder)
        .env("GIT_TERMINAL_PROMPT", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| {
            Error::new(format!("cannot run {shown}: {error}; install git, or copy the base into this tree"))
        })?;
    let errors = child.stderr.take();
    // Read aside, so that a program with much to say cannot stand still.
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(errors) = errors {
            let _ = std::io::Read::read_to_string(&mut std::io::Read::take(errors, 64 * 1024), &mut text);
        }
        text
    });
    let ended = ends(&child);
    if matches!(ended.recv_timeout(spec.timeout), Err(RecvTimeoutError::Timeout)) {
        let _ = child.kill();
        let _ = child.wait();
        return fail(format!("{shown} took longer than {:?}; give the address a longer `timeout=`", spec.timeout));
    }
    let status = match child.wait() {
        Ok(status) => status,
        Err(error) => return fail(format!("cannot wait for {shown}: {error}")),
    };
    let said = reader.join().unwrap_or_default();
    if status.success() { Ok(()) } else { fail(format!("{shown} failed: {}", said.trim())) }
}

/// Tells of a program's end. It is waited for aside without being taken away, so that its number stays its own until then.
fn ends(child: &Child) -> Receiver<()> {
    let (tell, hear) = mpsc::sync_channel(1);
    let id = i32::try_from(child.id()).map(Pid::from_raw);
    std::thread::spawn(move || {
        if let Ok(id) = id {
            while waitid(Id::Pid(id), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
        }
        let _ = tell.send(());
    });
    hear
}

/// A file on the network.
pub(super) fn download(address: &str) -> Result<Vec<u8>> {
    fail(format!("{address}: files on the network are not read; copy it into this tree, or name its repository"))
}
