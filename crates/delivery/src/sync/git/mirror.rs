//! A bare repository of ours for one URL: what was fetched stays readable when the server is gone or its branch was
//! pushed over.
//!
//! Invariants: only the commits that were asked for are fetched, each without its history; a mirror that a killed run left
//! behind, or that is broken, is mended or made anew; one fetch at a time.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use super::credential::{Credential, Held};
use super::error::{GitError, shown};
use super::reference::{Reference, Refs, Resolved};
use super::run::{Doing, Git};

/// How many commits are kept from git's own clean-up.
const KEPT: usize = 50;

/// One commit, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// All the digits of its name.
    pub sha: String,
    /// The digits of its tree's name.
    pub tree: String,
    /// `Name <address>` of its author.
    pub author: String,
    /// When it was written, RFC 3339.
    pub date: String,
    /// Its message, cut after 2,000 characters.
    pub message: String,
}

/// The mirror of one repository.
#[derive(Debug)]
pub struct Mirror {
    pub(crate) git: Git,
    url: String,
    remote: String,
    dir: PathBuf,
    /// One fetch at a time. True once the directory was looked after.
    ready: Mutex<bool>,
}

impl Mirror {
    /// The mirror for a URL (`https`, `http`, `ssh`, `file`, `user@host:path`) or an absolute path. Does nothing yet.
    ///
    /// # Errors
    ///
    /// When the URL is none that is taken.
    pub fn new(git: &Git, url: &str) -> Result<Self, GitError> {
        let remote = remote(url)?;
        let digest = Sha256::digest(remote.as_bytes());
        let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let dir = git.home().join("mirrors").join(name);
        Ok(Self { git: git.clone(), url: url.to_owned(), remote, dir, ready: Mutex::new(false) })
    }

    /// The URL without credentials.
    #[must_use]
    pub fn shown(&self) -> String {
        shown(&self.url)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn doing(&self, attempt: &'static str) -> Doing<'_> {
        Doing { attempt, repository: &self.url }
    }

    fn hold(&self, credential: &Credential) -> Result<Held, GitError> {
        credential.hold(self.git.home())
    }

    /// What the repository offers now.
    ///
    /// # Errors
    ///
    /// When it cannot be asked.
    pub async fn refs(&self, credential: &Credential) -> Result<Refs, GitError> {
        let held = self.hold(credential)?;
        let arguments = ["ls-remote", "--symref", "--", &self.remote];
        let listing = self.git.exchange(&arguments, self.doing("read the references of"), &held).await?;
        Ok(Refs::parse(&String::from_utf8_lossy(&listing)))
    }

    /// Makes sure that the commit is here, and tells of it.
    ///
    /// # Errors
    ///
    /// When it cannot be fetched.
    pub async fn obtain(&self, wanted: &Resolved, credential: &Credential) -> Result<Commit, GitError> {
        let mut ready = self.ready.lock().await;
        if !*ready {
            self.look_after().await?;
            *ready = true;
        }
        // What was fetched has a reference of ours, and looking for that file takes no process.
        if self.dir.join("refs/kept").join(&wanted.commit).is_file()
            && let Ok(commit) = self.read(&wanted.commit).await
        {
            return Ok(commit);
        }
        let held = self.hold(credential)?;
        if let Err(error) = self.fetch(wanted, &held).await {
            if !matches!(error, GitError::Refused { .. }) {
                *ready = false;
                return Err(error);
            }
            // A mirror is only a copy: whatever is wrong with it, a new one has not.
            self.discard()?;
            self.look_after().await?;
            self.fetch(wanted, &held).await?;
        }
        self.forget_oldest().await;
        self.read(&wanted.commit).await
    }

    async fn fetch(&self, wanted: &Resolved, held: &Held) -> Result<(), GitError> {
        let dir = self.dir.display().to_string();
        let kept = format!("refs/kept/{}", wanted.commit);
        let by = |source: &str| format!("+{source}:{kept}");
        let fetch = |spec: String| {
            let arguments = [
                "-C",
                &dir,
                "fetch",
                "--quiet",
                "--depth=1",
                "--no-tags",
                "--no-write-fetch-head",
                "--no-auto-maintenance",
            ]
            .map(str::to_owned);
            let mut arguments = arguments.to_vec();
            arguments.extend(["--".to_owned(), self.remote.clone(), spec]);
            async move {
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                self.git.exchange(&arguments, self.doing("fetch from"), held).await
            }
        };
        let first = fetch(by(&wanted.commit)).await;
        match (first, &wanted.reference) {
            (Ok(_), _) => Ok(()),
            // Old servers give out only what a reference names.
            (Err(GitError::Refused { .. }), Reference::Named(name)) => fetch(by(name)).await.map(drop),
            (Err(error), _) => Err(error),
        }
    }

    /// What a commit says of itself.
    pub(crate) async fn read(&self, commit: &str) -> Result<Commit, GitError> {
        let dir = self.dir.display().to_string();
        let format = "--format=%H%x00%T%x00%an <%ae>%x00%aI%x00%B";
        let arguments = ["-C", &dir, "show", "--no-patch", "--no-show-signature", format, commit, "--"];
        let text = self.git.run(&arguments, self.doing("read a commit of"), Vec::new()).await?;
        let text = String::from_utf8_lossy(&text);
        let mut fields = text.splitn(5, '\0').map(str::to_owned);
        let mut next = || fields.next().unwrap_or_default();
        let (sha, tree, author, date, message) = (next(), next(), next(), next(), next());
        if sha != commit {
            let reason = "that is no commit".to_owned();
            return Err(GitError::NoRevision { repository: self.shown(), wanted: commit.to_owned(), reason });
        }
        Ok(Commit { sha, tree, author, date, message: message.trim_end().chars().take(2000).collect() })
    }

    /// Makes the directory where needed, and removes what a killed run left.
    async fn look_after(&self) -> Result<(), GitError> {
        if size(&self.dir) > self.git.limits().mirror {
            self.discard()?;
        }
        remove_leftovers(&self.dir, 0);
        if self.dir.join("HEAD").is_file() && self.dir.join("objects").is_dir() {
            let dir = self.dir.display().to_string();
            // Fetches leave this out, because a push waits for them. What fails here is found by the next fetch.
            let tidied = self
                .git
                .run(&["-C", &dir, "gc", "--auto", "--quiet"], self.doing("tidy a mirror of"), Vec::new())
                .await;
            if let Err(error) = tidied {
                tracing::debug!(%error, "a mirror could not be tidied");
            }
            return Ok(());
        }
        self.discard()?;
        std::fs::create_dir_all(&self.dir).map_err(|error| self.disk("make", &error))?;
        let dir = self.dir.display().to_string();
        self.git.run(&["init", "--quiet", "--bare", "--", &dir], self.doing("make a mirror of"), Vec::new()).await?;
        Ok(())
    }

    fn discard(&self) -> Result<(), GitError> {
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(self.disk("remove", &error)),
            _ => Ok(()),
        }
    }

    fn disk(&self, attempt: &'static str, error: &std::io::Error) -> GitError {
        GitError::Disk { attempt, path: self.dir.display().to_string(), reason: error.to_string() }
    }

    /// Lets go of the commits that were fetched longest ago; git removes them in its own time.
    async fn forget_oldest(&self) {
        let folder = self.dir.join("refs/kept");
        let Ok(entries) = std::fs::read_dir(&folder) else { return };
        let age = |entry: &std::fs::DirEntry| entry.metadata().and_then(|meta| meta.modified()).ok();
        let mut kept: Vec<_> = entries.flatten().map(|entry| (age(&entry), entry.path())).collect();
        kept.sort();
        for (_, path) in kept.iter().rev().skip(KEPT) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The URL as git is given it.
fn remote(url: &str) -> Result<String, GitError> {
    let refused = |reason| Err(GitError::Url { url: shown(url), reason });
    if url.is_empty() || url.len() > 2048 || url.chars().any(char::is_control) {
        return refused("it is empty, too long, or has control characters");
    }
    if url.starts_with('-') || url.contains("::") {
        return refused("git would take it for something else than a repository");
    }
    if let Some((scheme, rest)) = url.split_once("://") {
        let known = matches!(scheme, "https" | "http" | "ssh" | "file");
        return match (known, rest.starts_with('-') || rest.is_empty()) {
            (true, false) => Ok(url.to_owned()),
            (true, true) => refused("it names no host"),
            (false, _) => refused("write https://, http://, ssh://, file://, user@host:path or an absolute path"),
        };
    }
    if url.starts_with('/') {
        // As a file:// URL, so that the limits of a fetch hold for it too.
        return Ok(format!("file://{}", url.replace('%', "%25")));
    }
    match url.split_once(':') {
        Some((host, path)) if !host.contains('/') && !host.is_empty() && !path.is_empty() => Ok(url.to_owned()),
        _ => refused("write https://, http://, ssh://, file://, user@host:path or an absolute path"),
    }
}

/// The bytes below a directory, as far as they can be read.
fn size(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => size(&entry.path()),
        _ => entry.metadata().map_or(0, |meta| meta.len()),
    };
    entries.flatten().map(of).sum()
}

/// Locks and half-written packs. Only one process uses a mirror, and it is not at work when this is called.
pub(crate) fn remove_leftovers(dir: &Path, depth: usize) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < 8 => remove_leftovers(&path, depth + 1),
            Ok(kind) if kind.is_file() && (name.ends_with(".lock") || name.starts_with("tmp_")) => {
                let _ = std::fs::remove_file(path);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_repositories_are_taken_for_such() {
        for (url, wanted) in [
            ("https://example.com/a.git", Some("https://example.com/a.git")),
            ("ssh://git@example.com/a.git", Some("ssh://git@example.com/a.git")),
            ("git@example.com:team/a.git", Some("git@example.com:team/a.git")),
            ("/srv/50%/a.git", Some("file:///srv/50%25/a.git")),
            ("file:///srv/a.git", Some("file:///srv/a.git")),
            ("", None),
            ("a.git", None),
            ("./a:b", None),
            ("--upload-pack=touch /tmp/x", None),
            ("ext::sh -c touch% /tmp/x", None),
            ("git://example.com/a.git", None),
            ("ssh://-oProxyCommand=x/a", None),
            ("https://", None),
            ("https://a\nb", None),
        ] {
            assert_eq!(remote(url).ok().as_deref(), wanted, "{url:?}");
        }
    }

    #[test]
    fn no_password_is_ever_shown() {
        assert_eq!(shown("https://me:secret@example.com/a.git"), "https://example.com/a.git");
        assert_eq!(shown("https://me@example.com"), "https://example.com");
        let error = remote("oci://me:secret@example.com/a").expect_err("no git").to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
