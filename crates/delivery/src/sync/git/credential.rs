//! What is shown to a repository's server: as Argo CD's repository Secrets and Flux's `secretRef` Secrets write it.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::error::GitError;

/// A credential for one repository. Its `Debug` form says no secret.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Credential {
    username: Option<String>,
    password: Option<String>,
    bearer: Option<String>,
    identity: Option<String>,
    known_hosts: Option<String>,
    authority: Option<String>,
    insecure_tls: bool,
    insecure_host: bool,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self {
            Self { identity: Some(_), .. } => "ssh",
            Self { bearer: Some(_), .. } => "bearer",
            Self { password: Some(_), .. } => "basic",
            _ => "none",
        };
        write!(f, "Credential({kind})")
    }
}

impl Credential {
    /// Reads a Secret's decoded data. Keys of Argo CD: `username`, `password`, `bearerToken`, `sshPrivateKey`, `insecure`,
    /// `insecureIgnoreHostKey`; of Flux: `username`, `password`, `bearerToken`, `identity`, `known_hosts`, `ca.crt`.
    #[must_use]
    pub fn of_secret(data: &BTreeMap<String, String>) -> Self {
        let text =
            |names: &[&str]| names.iter().find_map(|name| data.get(*name)).filter(|text| !text.is_empty()).cloned();
        let flag = |name: &str| data.get(name).is_some_and(|value| value.trim() == "true");
        Self {
            username: text(&["username"]),
            password: text(&["password"]),
            bearer: text(&["bearerToken"]),
            identity: text(&["identity", "sshPrivateKey"]),
            known_hosts: text(&["known_hosts", "sshKnownHosts"]),
            authority: text(&["ca.crt", "caFile"]),
            insecure_tls: flag("insecure"),
            insecure_host: flag("insecureIgnoreHostKey"),
        }
    }

    /// The same with known hosts from elsewhere, where it has none of its own.
    #[must_use]
    pub fn or_known_hosts(mut self, known: Option<String>) -> Self {
        self.known_hosts = self.known_hosts.or(known);
        self
    }

    /// Writes what git needs, for as long as the answer is held.
    pub(crate) fn hold(&self, home: &Path) -> Result<Held, GitError> {
        let mut held = Held::default();
        if let Some(token) = &self.bearer {
            held.settings.push(("http.extraHeader".to_owned(), format!("Authorization: Bearer {token}")));
        } else if let Some(password) = &self.password {
            // A token alone is given with any name; this is the one that servers document.
            let name = self.username.as_deref().unwrap_or("git");
            let basic = STANDARD.encode(format!("{name}:{password}"));
            held.settings.push(("http.extraHeader".to_owned(), format!("Authorization: Basic {basic}")));
        }
        if self.insecure_tls {
            held.settings.push(("http.sslVerify".to_owned(), "false".to_owned()));
        }
        if let Some(authority) = &self.authority {
            let file = held.write(home, authority)?;
            held.settings.push(("http.sslCAInfo".to_owned(), file.display().to_string()));
        }
        held.ssh = self.ssh(home, &mut held)?;
        Ok(held)
    }

    fn ssh(&self, home: &Path, held: &mut Held) -> Result<String, GitError> {
        let mut ssh = "ssh -F /dev/null -o BatchMode=yes -o ConnectTimeout=15 -o IdentityAgent=none".to_owned();
        if let Some(identity) = &self.identity {
            // OpenSSH wants the last newline, which YAML often loses.
            let file = held.write(home, &format!("{}\n", identity.trim_end()))?;
            ssh.push_str(&format!(" -o IdentitiesOnly=yes -i {}", quoted(&file)));
        }
        if self.insecure_host {
            ssh.push_str(" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null");
        } else {
            let known = held.write(home, self.known_hosts.as_deref().unwrap_or_default())?;
            ssh.push_str(&format!(
                " -o StrictHostKeyChecking=yes -o GlobalKnownHostsFile=/dev/null -o UserKnownHostsFile={}",
                quoted(&known)
            ));
        }
        Ok(ssh)
    }
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// A credential laid out for one run of git; its files go when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Held {
    settings: Vec<(String, String)>,
    ssh: String,
    files: Vec<PathBuf>,
}

impl Held {
    /// Settings without a credential.
    pub(crate) fn with_settings(settings: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { settings: settings.into_iter().collect(), ssh: String::new(), files: Vec::new() }
    }

    pub(crate) fn settings(&self) -> &[(String, String)] {
        &self.settings
    }

    /// What ssh is called with. Without a credential it trusts no host.
    pub(crate) fn ssh(&self) -> &str {
        if self.ssh.is_empty() { "false" } else { &self.ssh }
    }

    fn write(&mut self, home: &Path, text: &str) -> Result<PathBuf, GitError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = home.join("keys").join(name);
        let failed = |error: std::io::Error| GitError::Disk {
            attempt: "write",
            path: path.display().to_string(),
            reason: error.to_string(),
        };
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        self.files.push(path.clone());
        file.write_all(text.as_bytes()).map_err(failed)?;
        Ok(path)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for file in &self.files {
            let _ = std::fs::remove_file(file);
        }
    }
}
