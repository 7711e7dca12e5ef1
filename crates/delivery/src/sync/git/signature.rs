//! Whether a commit is signed by one of the keys that a policy names: SSH keys through `ssh-keygen`, OpenPGP through `gpg`.
//!
//! Invariants: only the keys that are given count, never a user's own key ring; a key ring lives as long as one question.

use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use tokio::process::Command;

use super::credential::Held;
use super::error::GitError;
use super::mirror::Mirror;
use super::run::{Doing, collect};

/// Keys that may sign.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Keys {
    /// Public SSH keys, a line each: `ssh-ed25519 AAAA…`, or with principals before it as in an `allowed_signers` file.
    pub ssh: Vec<String>,
    /// OpenPGP public keys in their armour.
    pub pgp: Vec<String>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// One of the keys has signed it; git's own words say which.
    Good(String),
    /// It is not signed, or by another key; why.
    Bad(String),
}

/// A folder that goes when dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Keys {
    /// Sorts texts into SSH and OpenPGP keys by how they begin.
    #[must_use]
    pub fn of(texts: impl IntoIterator<Item = String>) -> Self {
        let mut keys = Self::default();
        for text in texts {
            if text.contains("BEGIN PGP PUBLIC KEY") {
                keys.pgp.push(text);
            } else {
                let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
                keys.ssh.extend(lines.map(str::to_owned));
            }
        }
        keys
    }

    /// The lines of an `allowed_signers` file (ssh-keygen(1)).
    fn allowed_signers(&self) -> String {
        let line = |key: &String| {
            let bare = ["ssh-", "ecdsa-", "sk-"].iter().any(|start| key.starts_with(start));
            if bare { format!("* {key}\n") } else { format!("{key}\n") }
        };
        self.ssh.iter().map(line).collect()
    }
}

impl Mirror {
    /// Whether a commit that is here is signed by one of the keys.
    ///
    /// # Errors
    ///
    /// When it cannot be asked; not when the signature is bad.
    pub async fn verify(&self, commit: &str, keys: &Keys) -> Result<Verdict, GitError> {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = Folder(self.git.home().join("keys").join(format!("ring-{}-{number}", std::process::id())));
        let disk = |error: std::io::Error| GitError::Disk {
            attempt: "write",
            path: folder.0.display().to_string(),
            reason: error.to_string(),
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder.0).map_err(disk)?;
        let signers = folder.0.join("allowed_signers");
        std::fs::File::create(&signers)
            .and_then(|mut file| file.write_all(keys.allowed_signers().as_bytes()))
            .map_err(disk)?;
        let doing = self.doing("check the signature of a commit of");
        if !keys.pgp.is_empty() {
            self.import(&folder, keys, doing).await?;
        }
        let (dir, signers) = (self.directory().display().to_string(), signers.display().to_string());
        let signers = format!("gpg.ssh.allowedSignersFile={signers}");
        let arguments =
            ["-C", &dir, "-c", &signers, "-c", "gpg.minTrustLevel=undefined", "verify-commit", "-v", commit];
        let mut command = self.git.command(&arguments, &Held::default(), 1024 * 1024);
        command.env("GNUPGHOME", &folder.0);
        let outcome = collect(command, doing, Vec::new(), self.git.limits().local_time, 1024 * 1024).await?;
        Ok(match (outcome.succeeded, outcome.complaint.is_empty()) {
            (true, _) => Verdict::Good(outcome.complaint),
            (false, true) => Verdict::Bad("it is not signed".to_owned()),
            (false, false) => Verdict::Bad(outcome.complaint),
        })
    }

    async fn import(&self, folder: &Folder, keys: &Keys, doing: Doing<'_>) -> Result<(), GitError> {
        let mut command = Command::new("gpg");
        command.args(["--batch", "--quiet", "--no-autostart", "--import"]).env("GNUPGHOME", &folder.0);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).kill_on_drop(true);
        command.process_group(0);
        let input = keys.pgp.join("\n").into_bytes();
        let outcome = collect(command, doing, input, self.git.limits().local_time, 64 * 1024).await;
        outcome.and_then(|outcome| outcome.or_refused(doing)).map(drop)
    }
}
