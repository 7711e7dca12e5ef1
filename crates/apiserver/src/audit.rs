//! The audit trail: one line of JSON (audit.k8s.io/v1, level Metadata) for each request that changes something, and for each that is
//! refused to somebody who is known.
//!
//! Invariants: the files take a bounded room, the oldest lines go first; what was refused is in files of its own, so that nobody who may do
//! nothing can push out what was done; a line is in the kernel's hands before its request is answered, so that the end of this process
//! loses none; what is in an object is never in the trail, and a line is short whatever a client sends. A trail that can't be written is said
//! once, and holds up nobody.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use http::HeaderMap;
use rules::rbac::{Attributes, Target};
use serde_json::{Value, json};

use crate::call::Reply;
use crate::error::BuildError;
use crate::files;
use crate::identity::User;
use crate::lines::Lines;
use crate::object;
use crate::route::Route;
use crate::status::Failure;

/// The file of changes, and how large it becomes.
const CHANGES: (&str, u64) = ("audit.log", 16 * 1024 * 1024);
/// The file of what was refused.
const REFUSALS: (&str, u64) = ("refused.log", 4 * 1024 * 1024);
/// The longest text of a client's that is kept, in characters.
const TEXT: usize = 512;
/// The most that is kept of a user's groups and extra values, in bytes.
const GROUPS: usize = 2048;

/// The most addresses that a request is said to have come by.
const SOURCES: usize = 16;

/// What is written all the time and decides nothing: it would leave no room for the rest.
const LEFT_OUT: [(&str, &str); 3] = [("coordination.k8s.io", "leases"), ("", "events"), ("events.k8s.io", "events")];

/// Where the lines go.
pub(crate) struct Trail {
    changes: Lines,
    refusals: Lines,
}

/// Which file a line is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Change,
    Refusal,
}

/// From where a request's connection is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// The addresses by which a request came, as Kubernetes' audit events have them: what `X-Forwarded-For` says, `X-Real-Ip` where that is
/// another, and the connection's own, which alone is not the client's word. None where there is no connection.
fn sources(headers: &HeaderMap, peer: Option<&Peer>) -> Vec<String> {
    let Some(Peer(peer)) = peer else { return Vec::new() };
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let address = |text: &str| text.trim().parse::<IpAddr>().ok();
    let mut all: Vec<IpAddr> = text("x-forwarded-for").split(',').filter_map(address).collect();
    all.extend(address(text("x-real-ip")).filter(|address| !all.contains(address)));
    if all.last() != Some(peer) {
        all.push(*peer);
    }
    all[all.len().saturating_sub(SOURCES)..].iter().map(IpAddr::to_string).collect()
}

/// What is known of a request so far.
#[derive(Default)]
pub(crate) struct Record {
    id: String,
    begun: jiff::Timestamp,
    user: Option<Arc<User>>,
    impersonated: Option<Arc<User>>,
    /// What the authorizer decided, where it was asked.
    allowed: Option<bool>,
    verb: String,
    uri: String,
    agent: String,
    sources: Vec<String>,
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

    /// For whom they want to be taken.
    pub(crate) fn taken_for(&mut self, other: &Arc<User>) {
        self.impersonated = Some(other.clone());
    }

    /// What the authorizer decided.
    pub(crate) fn decided(&mut self, allowed: bool) {
        self.allowed = Some(allowed);
    }

    /// Whether its body says that nothing is to be changed.
    pub(crate) fn is_rehearsal(&mut self, rehearsed: bool) {
        self.harmless |= rehearsed;
    }

    /// What is asked. `rehearsed`: nothing is to be changed.
    pub(crate) fn asks(&mut self, head: &http::request::Parts, route: &Route, asked: &Attributes<'_>, rehearsed: bool) {
        self.verb = short(asked.verb);
        // Over HTTP/2 the URI has the server's own name before the path.
        self.uri = short(head.uri.path_and_query().map_or("/", |path| path.as_str()));
        let agent = head.headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok());
        self.agent = short(agent.unwrap_or_default());
        self.sources = sources(&head.headers, head.extensions.get());
        self.harmless = rehearsed;
        let (Target::Resource { group, resource, subresource, namespace, name }, Route::Resource(target)) =
            (asked.target, route)
        else {
            return;
        };
        self.harmless |=
            LEFT_OUT.contains(&(group, resource)) || matches!(group, "authorization.k8s.io" | "authentication.k8s.io");
        self.object = json!({ "resource": short(resource), "apiVersion": short(&target.version) });
        for (field, text) in
            [("apiGroup", group), ("subresource", subresource), ("namespace", namespace), ("name", name)]
        {
            if !text.is_empty() {
                self.object[field] = short(text).into();
            }
        }
    }

    /// Where the trail is to have it, if at all.
    fn kept(&self, code: u16) -> Option<Kept> {
        // What runs or reaches a program counts as a change, though WebSocket asks for it by GET; of that there is no rehearsal.
        let session = matches!(self.object["subresource"].as_str(), Some("attach" | "exec" | "portforward"));
        let changes = matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection");
        let counts = session || changes && !self.harmless;
        // Who is refused is told of whatever they wanted, but strangers would fill the trail with nothing.
        let known = self.user.is_some();
        match code {
            403 if known => Some(Kept::Refusal),
            _ if counts && (known || self.allowed == Some(true)) => Some(Kept::Change),
            _ => None,
        }
    }

    fn line(&self, code: u16, reason: &str, now: jiff::Timestamp) -> String {
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": self.id,
            "stage": "ResponseComplete", "requestURI": self.uri, "verb": self.verb,
            "user": self.user.as_deref().map_or_else(|| shown(&User::anonymous()), shown), "userAgent": self.agent,
            "responseStatus": { "metadata": {}, "code": code },
            "requestReceivedTimestamp": time(self.begun), "stageTimestamp": time(now),
        });
        if let Some(allowed) = self.allowed {
            event["annotations"] = json!({ "authorization.k8s.io/decision": if allowed { "allow" } else { "forbid" } });
        }
        if !self.sources.is_empty() {
            event["sourceIPs"] = json!(self.sources);
        }
        if let Some(user) = &self.impersonated {
            event["impersonatedUser"] = shown(user);
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

/// The beginning of a client's text.
fn short(text: &str) -> String {
    text.chars().take(TEXT).collect()
}

/// A user without what would make a line long: anybody may ask to be taken for somebody with many groups.
fn shown(user: &User) -> Value {
    let mut room = GROUPS;
    let mut fit = |text: &String| -> Option<String> {
        let text = short(text);
        room = room.checked_sub(text.len())?;
        Some(text)
    };
    let groups = user.groups.iter().map_while(&mut fit).collect();
    let mut extra = BTreeMap::new();
    for (key, values) in &user.extra {
        let Some(key) = fit(key) else { break };
        extra.insert(key, values.iter().map_while(&mut fit).collect());
    }
    User { name: short(&user.name), uid: user.uid.as_deref().map(short), groups, extra, ..User::default() }.to_value()
}

impl Trail {
    /// Opens the trail in a folder.
    pub(crate) fn open(folder: &Path) -> Result<Self, BuildError> {
        files::private_folder(folder)?;
        let [changes, refusals] = [CHANGES, REFUSALS].map(|(name, bytes)| Lines::new(folder.join(name), bytes));
        Ok(Self { changes, refusals })
    }

    /// Writes down how a request ended.
    pub(crate) fn ended(&self, mut record: Record, answer: Result<&Reply, &Failure>) {
        let (code, reason) = match answer {
            Ok(Reply::Object(code, _, made) | Reply::Plain(code, made)) => {
                name_made(&mut record.object, made);
                (*code, "")
            }
            Ok(Reply::Text(code, _)) => (*code, ""),
            Ok(Reply::Switch(_)) => (101, ""),
            Ok(_) => (200, ""),
            Err(failure) => (failure.code, failure.reason),
        };
        let lines = match record.kept(code) {
            Some(Kept::Change) => &self.changes,
            Some(Kept::Refusal) => &self.refusals,
            None => return,
        };
        lines.write(&record.line(code, reason, jiff::Timestamp::now()));
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
    fn the_last_source_is_the_connections_own() {
        let peer = Peer([192, 0, 2, 1].into());
        for (forwarded, real, expected) in [
            (None, None, "192.0.2.1"),
            (Some("203.0.113.9, 10.0.0.1"), None, "203.0.113.9 10.0.0.1 192.0.2.1"),
            (Some("203.0.113.9"), Some("203.0.113.9"), "203.0.113.9 192.0.2.1"),
            (Some("203.0.113.9"), Some("10.0.0.2"), "203.0.113.9 10.0.0.2 192.0.2.1"),
            (Some("nonsense, ::1,, 192.0.2.1"), None, "::1 192.0.2.1"),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [("x-forwarded-for", forwarded), ("x-real-ip", real)] {
                if let Some(value) = value {
                    headers.insert(name, value.parse().expect("a value"));
                }
            }
            assert_eq!(sources(&headers, Some(&peer)).join(" "), expected, "{forwarded:?} {real:?}");
            assert!(sources(&headers, None).is_empty(), "our own parts come from nowhere");
        }
        let many = HeaderMap::from_iter([(
            http::header::HeaderName::from_static("x-forwarded-for"),
            "10.0.0.1,".repeat(100).parse().expect("a value"),
        )]);
        let kept = sources(&many, Some(&peer));
        assert_eq!((kept.len(), kept.last().map(String::as_str)), (SOURCES, Some("192.0.2.1")));
    }

    #[test]
    fn what_is_kept_and_where() {
        let known = || Some(Arc::new(User::admin()));
        for (verb, user, harmless, allowed, code, expected) in [
            ("create", known(), false, Some(true), 201, Some(Kept::Change)),
            ("create", known(), false, Some(true), 409, Some(Kept::Change)),
            ("create", known(), true, Some(true), 201, None),
            ("get", known(), false, Some(true), 200, None),
            ("get", known(), false, Some(false), 403, Some(Kept::Refusal)),
            ("create", known(), true, Some(true), 403, Some(Kept::Refusal)),
            ("get", known(), false, None, 403, Some(Kept::Refusal)),
            ("create", None, false, Some(true), 201, Some(Kept::Change)),
            ("create", None, false, Some(true), 403, Some(Kept::Change)),
            ("create", None, false, Some(false), 401, None),
            ("create", None, false, None, 401, None),
        ] {
            let record = Record { verb: verb.into(), user, harmless, allowed, ..Record::default() };
            assert_eq!(record.kept(code), expected, "{verb} {code} {allowed:?}");
        }
        for (part, expected) in [
            ("exec", Some(Kept::Change)),
            ("attach", Some(Kept::Change)),
            ("portforward", Some(Kept::Change)),
            ("log", None),
        ] {
            for verb in ["create", "get"] {
                let object = json!({ "resource": "pods", "subresource": part });
                let asked = Record { verb: verb.into(), user: known(), harmless: true, object, ..Record::default() };
                assert_eq!(asked.kept(101), expected, "nobody rehearses {verb} of {part}");
            }
        }
    }
}
