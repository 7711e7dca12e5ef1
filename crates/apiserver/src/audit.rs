//! The audit trail: one line of JSON (audit.k8s.io/v1, level Metadata) for each request that changes something, and for each that is
//! refused to somebody who is known.
//!
//! Invariants: the files take a bounded room, the oldest lines go first; a line is in the kernel's hands before its request is answered, so
//! that the end of this process loses none; what is in an object is never in the trail. A trail that can't be written is said once, and
//! holds up nobody.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rules::rbac::{Attributes, Target};
use serde_json::{Value, json};

use crate::call::Reply;
use crate::error::BuildError;
use crate::files;
use crate::identity::User;
use crate::object;
use crate::route::Route;
use crate::status::Failure;

/// How large a file becomes.
const FILE_BYTES: u64 = 16 * 1024 * 1024;
/// How many full ones are kept beside the one that is written.
const FULL_FILES: u32 = 3;
/// The name of the one that is written; `.1` is the one before.
const NAME: &str = "audit.log";
/// The longest text of a client's that is kept.
const TEXT: usize = 512;

/// What is written all the time and decides nothing: it would leave no room for the rest.
const LEFT_OUT: [(&str, &str); 3] = [("coordination.k8s.io", "leases"), ("", "events"), ("events.k8s.io", "events")];

/// Where the lines go.
pub(crate) struct Trail {
    path: PathBuf,
    file_bytes: u64,
    file: Mutex<Option<(File, u64)>>,
}

/// What is known of a request so far.
#[derive(Default)]
pub(crate) struct Record {
    id: String,
    begun: jiff::Timestamp,
    user: Option<Arc<User>>,
    impersonated: Option<Arc<User>>,
    verb: String,
    uri: String,
    agent: String,
    object: Value,
    /// It changes nothing, whatever its verb.
    harmless: bool,
}

impl Record {
    pub(crate) fn new(id: String, begun: jiff::Timestamp) -> Self {
        Self { id, begun, ..Self::default() }
    }

    /// Who asks; strangers are nobody.
    pub(crate) fn by(&mut self, user: Option<&Arc<User>>) {
        self.user = user.cloned();
    }

    /// For whom they are taken.
    pub(crate) fn taken_for(&mut self, other: &Arc<User>) {
        self.impersonated = Some(other.clone());
    }

    /// What is asked. `rehearsed`: nothing is to be changed.
    pub(crate) fn asks(&mut self, head: &http::request::Parts, route: &Route, asked: &Attributes<'_>, rehearsed: bool) {
        let short = |text: &str| text.chars().take(TEXT).collect::<String>();
        self.verb = asked.verb.to_owned();
        self.uri = short(&head.uri.to_string());
        let agent = head.headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok());
        self.agent = short(agent.unwrap_or_default());
        self.harmless = rehearsed;
        let (Target::Resource { group, resource, subresource, namespace, name }, Route::Resource(target)) =
            (asked.target, route)
        else {
            return;
        };
        self.harmless |=
            LEFT_OUT.contains(&(group, resource)) || matches!(group, "authorization.k8s.io" | "authentication.k8s.io");
        self.object = json!({ "resource": resource, "apiVersion": target.version });
        for (field, text) in
            [("apiGroup", group), ("subresource", subresource), ("namespace", namespace), ("name", name)]
        {
            if !text.is_empty() {
                self.object[field] = text.into();
            }
        }
    }

    /// Whether the trail is to have it.
    fn counts(&self, code: u16) -> bool {
        let changes = matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection");
        // Who is refused is told of whatever they wanted, but strangers would fill the trail with nothing.
        self.user.is_some() && (code == 403 || (changes && !self.harmless))
    }

    fn line(&self, code: u16, reason: &str, now: jiff::Timestamp) -> String {
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": self.id,
            "stage": "ResponseComplete", "requestURI": self.uri, "verb": self.verb,
            "user": self.user.as_ref().map(|user| user.to_value()), "userAgent": self.agent,
            "responseStatus": { "metadata": {}, "code": code },
            "requestReceivedTimestamp": time(self.begun), "stageTimestamp": time(now),
            "annotations": { "authorization.k8s.io/decision": if code == 403 { "forbid" } else { "allow" } },
        });
        if let Some(user) = &self.impersonated {
            event["impersonatedUser"] = user.to_value();
        }
        if !self.object.is_null() {
            event["objectRef"] = self.object.clone();
        }
        if !reason.is_empty() {
            event["responseStatus"]["reason"] = reason.into();
            event["responseStatus"]["status"] = "Failure".into();
        }
        format!("{event}\n")
    }
}

fn time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

impl Trail {
    /// Opens the trail in a folder.
    pub(crate) fn open(folder: &Path) -> Result<Self, BuildError> {
        files::private_folder(folder)?;
        Ok(Self { path: folder.join(NAME), file_bytes: FILE_BYTES, file: Mutex::new(None) })
    }

    /// Writes down how a request ended.
    pub(crate) fn ended(&self, mut record: Record, answer: Result<&Reply, &Failure>) {
        let (code, reason) = match answer {
            Ok(Reply::Object(code, _, made) | Reply::Plain(code, made)) => {
                name_made(&mut record.object, made);
                (*code, "")
            }
            Ok(Reply::Text(code, _)) => (*code, ""),
            Ok(_) => (200, ""),
            Err(failure) => (failure.code, failure.reason),
        };
        if record.counts(code) {
            self.write(&record.line(code, reason, jiff::Timestamp::now()));
        }
    }

    fn write(&self, line: &str) {
        let mut file = self.file.lock();
        if let Err(error) = self.append(&mut file, line) {
            // Said for each file that can't be had, not for each line.
            if file.take().is_some() || !self.path.exists() {
                tracing::error!(path = %self.path.display(), %error, "the audit trail can't be written");
            }
        }
    }

    fn append(&self, file: &mut Option<(File, u64)>, line: &str) -> std::io::Result<()> {
        if file.as_ref().is_some_and(|(_, size)| size + line.len() as u64 > self.file_bytes) {
            *file = None;
            self.rotate()?;
        }
        if file.is_none() {
            let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
            let size = opened.metadata()?.len();
            *file = Some((opened, size));
        }
        if let Some((opened, size)) = file {
            opened.write_all(line.as_bytes())?;
            *size += line.len() as u64;
        }
        Ok(())
    }

    fn rotate(&self) -> std::io::Result<()> {
        let numbered = |number: u32| self.path.with_file_name(format!("{NAME}.{number}"));
        for number in (1..FULL_FILES).rev() {
            if numbered(number).exists() {
                std::fs::rename(numbered(number), numbered(number + 1))?;
            }
        }
        std::fs::rename(&self.path, numbered(1))
    }
}

/// A name that the server gave.
fn name_made(reference: &mut Value, made: &Value) {
    if reference.is_object() && reference["name"].is_null() && !object::name(made).is_empty() {
        reference["name"] = object::name(made).into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_bounded_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let mut trail = Trail::open(&folder.path().join("audit")).expect("a trail");
        trail.file_bytes = 100;
        for number in 0..50 {
            trail.write(&format!("{{\"line\":{number},\"text\":\"some words\"}}\n"));
        }
        let mut lines = Vec::new();
        let mut count = 0;
        for entry in std::fs::read_dir(folder.path().join("audit")).expect("a folder").flatten() {
            assert!(entry.metadata().expect("a file").len() <= 100);
            assert_eq!(entry.metadata().expect("a file").permissions().mode() & 0o777, 0o600);
            lines.extend(std::fs::read_to_string(entry.path()).expect("text").lines().map(str::to_owned));
            count += 1;
        }
        assert_eq!(count, 1 + FULL_FILES);
        let has = |number: u32| lines.iter().any(|line| line.contains(&format!("\"line\":{number},")));
        assert!(has(49) && has(48) && !has(0), "the newest stay, the oldest go: {lines:?}");
        // A new start goes on where the old one ended.
        let again = Trail::open(&folder.path().join("audit")).expect("a trail");
        again.write("{}\n");
        assert!(std::fs::read_to_string(&again.path).expect("text").lines().count() > 1);
    }
}
