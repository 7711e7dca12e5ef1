//! Who may apply a set now: a Lease with the holder, its machine, its reason, and an end that comes by itself.
//!
//! Invariants: a lock is taken only over the version that was seen; a holder that stops renewing loses it after
//! [`TERM`], and one whose process on this machine is gone at once; whoever loses it is told. Nothing has to be removed
//! by hand. People who apply a set and the Git sync take the same one; whoever needs several takes them in the sets' order.

use crate::api::{Api, ApiError, escape};
use crate::applyset::Set;
use crate::object;
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// How long a holder keeps a lock without renewing it.
pub const TERM: Duration = Duration::from_secs(15);
/// The label of our Leases.
const LABEL: &str = "coracle.dev/lock";
const REASON: &str = "coracle.dev/lock-reason";
const HOST: &str = "coracle.dev/lock-host";
const PID: &str = "coracle.dev/lock-pid";
const SET: &str = "coracle.dev/lock-set";
const MANAGER: &str = "coracle-lock";

/// Who wants a lock.
#[derive(Debug, Clone)]
pub struct Request {
    /// The person or the part of a program.
    pub holder: String,
    /// The machine.
    pub host: String,
    /// The process.
    pub pid: u32,
    /// What for.
    pub reason: String,
    /// How long to wait for another holder's end; nothing where nobody waits.
    pub wait: Option<Duration>,
    /// A name by which a holder that goes on and on knows itself: what it held before and has not given back it takes at once.
    pub life: Option<String>,
    /// Whether a process of this machine runs.
    pub is_alive: fn(u32) -> bool,
}

impl Request {
    /// What this process asks for, without waiting.
    #[must_use]
    pub fn of_this_process(holder: String, reason: String) -> Self {
        let host = nix::unistd::gethostname();
        Self {
            holder,
            host: host.map_or_else(|_| "somewhere".to_owned(), |name| name.to_string_lossy().into_owned()),
            pid: std::process::id(),
            reason,
            wait: None,
            life: None,
            is_alive,
        }
    }

    fn identity(&self, now: Timestamp) -> String {
        let life = self.life.clone().unwrap_or_else(|| now.as_nanosecond().to_string());
        format!("{}@{}:{}:{life}", self.holder, self.host, self.pid)
    }
}

fn is_alive(pid: u32) -> bool {
    let Ok(pid) = i32::try_from(pid) else { return false };
    !matches!(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None), Err(nix::errno::Errno::ESRCH))
}

/// A lock as it stands in the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    #[serde(skip)]
    identity: String,
    /// The set.
    pub set: String,
    /// The set's namespace.
    pub namespace: String,
    /// Who holds it.
    pub holder: String,
    /// On which machine.
    pub host: String,
    /// In which process.
    pub pid: u32,
    /// What for.
    pub reason: String,
    /// Since when (RFC 3339).
    pub since: String,
    /// When it ends unless it is renewed (RFC 3339).
    pub expires: String,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { holder, host, pid, set, since, reason, .. } = self;
        write!(f, "{holder} on {host} (process {pid}) is applying the set {set} since {since}: {reason}")
    }
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("{0}; wait for it with --lock-wait, or see `coracle lock list`")]
    Held(Box<Held>),
    /// The API does not give Leases.
    #[error("cannot lock the set: {0}")]
    Api(#[from] ApiError),
}

/// A lock that is held. Dropping it stops its renewal, so that it ends by itself; [`Lock::release`] ends it at once.
pub struct Lock {
    api: Api,
    path: String,
    identity: String,
    lost: CancellationToken,
    stop: CancellationToken,
    renewal: AbortOnDropHandle<()>,
}

fn path_of(set: &Set) -> String {
    format!("{}/{}", collection(&set.namespace), lease_name(set))
}

fn collection(namespace: &str) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")
}

fn lease_name(set: &Set) -> String {
    format!("applyset-{}", set.name)
}

/// Takes the lock of a set. Where it waits, it tells for whom.
///
/// # Errors
/// [`LockError::Held`] when somebody else has it, and still has it after the wait.
pub async fn acquire(
    client: kube::Client,
    set: &Set,
    request: &Request,
    waits: &(dyn Fn(&Held) + Send + Sync),
) -> Result<Lock, LockError> {
    let api = Api::over(client);
    let identity = match request.wait {
        Some(wait) => match tokio::time::timeout(wait, take(&api, set, request, waits)).await {
            Ok(taken) => taken?,
            Err(_) => try_once(&api, set, request).await?.map_err(|held| LockError::Held(Box::new(held)))?,
        },
        None => try_once(&api, set, request).await?.map_err(|held| LockError::Held(Box::new(held)))?,
    };
    let (lost, stop) = (CancellationToken::new(), CancellationToken::new());
    let path = path_of(set);
    let renewal = tokio::spawn(renew(api.clone(), path.clone(), identity.clone(), lost.clone(), stop.clone()));
    Ok(Lock { api, path, identity, lost, stop, renewal: AbortOnDropHandle::new(renewal) })
}

impl Lock {
    /// Cancelled when the lock is no longer ours.
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Gives the lock back.
    ///
    /// # Errors
    /// When the API cannot be told; the lock then ends by itself.
    pub async fn release(self) -> Result<(), ApiError> {
        self.stop.cancel();
        // The renewal under way, if any, ends before the Lease is touched.
        let _ = self.renewal.await;
        give_back(&self.api, &self.path, &self.identity).await
    }
}

/// Gives back what a holder with a name of its own ([`Request::life`]) has left, where it has.
///
/// # Errors
/// When the API cannot be told; the lock then ends by itself.
pub async fn leave(client: kube::Client, set: &Set, request: &Request) -> Result<(), ApiError> {
    give_back(&Api::over(client), &path_of(set), &request.identity(Timestamp::now())).await
}

async fn give_back(api: &Api, path: &str, identity: &str) -> Result<(), ApiError> {
    loop {
        let Some(mut lease) = api.find(path).await? else { return Ok(()) };
        if lease["spec"]["holderIdentity"] != identity {
            return Ok(());
        }
        lease["spec"]["holderIdentity"] = Value::Null;
        match api.replace(path, &lease, MANAGER).await {
            // A last renewal of its own, or somebody who took it: the next look says.
            Err(error) if error.is_conflict() => {}
            Err(error) if !error.is_not_found() => return Err(error),
            _ => return Ok(()),
        }
    }
}

/// Removes the Lease of a set that is no more, unless somebody holds it.
///
/// # Errors
/// As the API answers.
pub async fn forget(client: kube::Client, set: &Set) -> Result<(), ApiError> {
    let (api, path) = (Api::over(client), path_of(set));
    let Some(lease) = api.find(&path).await?.filter(|lease| read(lease).is_none()) else { return Ok(()) };
    match api.delete(&path, object::uid(&lease)).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Tries until it is taken, woken by the Lease's changes and its end.
async fn take(
    api: &Api,
    set: &Set,
    request: &Request,
    waits: &(dyn Fn(&Held) + Send + Sync),
) -> Result<String, LockError> {
    loop {
        let held = match try_once(api, set, request).await? {
            Ok(identity) => return Ok(identity),
            Err(held) => held,
        };
        waits(&held);
        let query = format!("fieldSelector={}", escape(&format!("metadata.name={}", lease_name(set))));
        let mut events = Box::pin(api.watch(&collection(&set.namespace), &query).await?);
        let left = held.expires.parse::<Timestamp>().map_or(TERM, |at| remaining(at, Timestamp::now()));
        // Any change or the end of its term: then it is looked at again. A watch begins with what is there.
        let changed = async {
            let mut first = true;
            while let Some(event) = events.next().await {
                if !std::mem::take(&mut first) || event.is_err() {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(left.max(Duration::from_millis(100)), changed).await;
    }
}

fn remaining(until: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(now)).unwrap_or_default()
}

/// Takes the lock where it is free. Also taken is what another write changed meanwhile: then it is looked at once more.
async fn try_once(api: &Api, set: &Set, request: &Request) -> Result<Result<String, Held>, ApiError> {
    loop {
        let now = Timestamp::now();
        let identity = request.identity(now);
        let found = api.find(&path_of(set)).await?;
        let written = match &found {
            None => api.create(&collection(&set.namespace), &lease(set, request, &identity, now, None), MANAGER).await,
            Some(lease) => match read(lease).filter(|held| !is_over(held, request, now)) {
                Some(held) => return Ok(Err(held)),
                None => {
                    api.replace(&path_of(set), &self::lease(set, request, &identity, now, found.as_ref()), MANAGER)
                        .await
                }
            },
        };
        match written {
            Ok(_) => return Ok(Ok(identity)),
            Err(error) if error.is_conflict() || error.is_not_found() && found.is_some() => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether a lock is no longer held: its term is over, its process was of this machine and is gone, or it is the asker's own.
fn is_over(held: &Held, request: &Request, now: Timestamp) -> bool {
    let expired = held.expires.parse::<Timestamp>().is_ok_and(|at| at <= now);
    let own = request.life.is_some() && held.identity == request.identity(now);
    expired || own || (held.host == request.host && held.pid != 0 && !(request.is_alive)(held.pid))
}

/// The lock that a Lease is; nothing where nobody holds it.
fn read(lease: &Value) -> Option<Held> {
    let spec = &lease["spec"];
    let identity = spec["holderIdentity"].as_str().filter(|text| !text.is_empty())?;
    let text = |name: &str| object::annotation(lease, name).unwrap_or_default().to_owned();
    let since = spec["acquireTime"].as_str().unwrap_or_default().to_owned();
    let renewed = spec["renewTime"].as_str().unwrap_or(&since).parse::<Timestamp>().unwrap_or_default();
    let term = SignedDuration::from_secs(spec["leaseDurationSeconds"].as_i64().unwrap_or(0));
    let host = text(HOST);
    let holder = identity.split_once(&format!("@{host}:")).map_or(identity, |(holder, _)| holder);
    Some(Held {
        identity: identity.to_owned(),
        set: text(SET),
        namespace: object::namespace(lease).to_owned(),
        holder: holder.to_owned(),
        pid: text(PID).parse().unwrap_or(0),
        reason: text(REASON),
        expires: renewed.checked_add(term).unwrap_or(renewed).to_string(),
        since,
        host,
    })
}

fn micro(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

fn lease(set: &Set, request: &Request, identity: &str, now: Timestamp, before: Option<&Value>) -> Value {
    let mut lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": lease_name(set), "namespace": set.namespace, "labels": { LABEL: "apply" },
            "annotations": { REASON: request.reason, HOST: request.host, PID: request.pid.to_string(), SET: set.name },
        },
        "spec": {
            "holderIdentity": identity, "leaseDurationSeconds": TERM.as_secs(),
            "acquireTime": micro(now), "renewTime": micro(now),
            "leaseTransitions": before.map_or(0, |lease| lease["spec"]["leaseTransitions"].as_i64().unwrap_or(0) + 1),
        },
    });
    if let Some(before) = before {
        lease["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
    }
    lease
}

/// Renews until told to stop; tells when the lock is lost.
async fn renew(api: Api, path: String, identity: String, lost: CancellationToken, stop: CancellationToken) {
    let mut last = tokio::time::Instant::now();
    let mut tick = tokio::time::interval(TERM / 3);
    tick.tick().await;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        match renew_once(&api, &path, &identity).await {
            Ok(true) => last = tokio::time::Instant::now(),
            Ok(false) => return lost.cancel(),
            Err(error) => {
                tracing::warn!(%error, "the lock could not be renewed");
                if last.elapsed() >= TERM {
                    return lost.cancel();
                }
            }
        }
    }
}

/// Whether the lock is still ours.
async fn renew_once(api: &Api, path: &str, identity: &str) -> Result<bool, ApiError> {
    let Some(mut lease) = api.find(path).await? else { return Ok(false) };
    if lease["spec"]["holderIdentity"] != identity {
        return Ok(false);
    }
    lease["spec"]["renewTime"] = micro(Timestamp::now()).into();
    match api.replace(path, &lease, MANAGER).await {
        Ok(_) => Ok(true),
        // Somebody took it or ended it by hand between the two; the next look says.
        Err(error) if error.is_conflict() => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Every lock that is held, of one namespace or of all.
///
/// # Errors
/// As the API answers.
pub async fn list(client: kube::Client, namespace: Option<&str>) -> Result<Vec<Held>, ApiError> {
    let path = namespace.map_or_else(|| "/apis/coordination.k8s.io/v1/leases".to_owned(), collection);
    let leases = Api::over(client).list(&path, &format!("labelSelector={LABEL}")).await?;
    Ok(leases.iter().filter_map(read).collect())
}

/// Ends a lock by hand, whoever holds it. Returns who held it.
///
/// # Errors
/// As the API answers.
pub async fn release(client: kube::Client, set: &Set) -> Result<Option<Held>, ApiError> {
    let api = Api::over(client);
    let path = path_of(set);
    loop {
        let Some(mut lease) = api.find(&path).await? else { return Ok(None) };
        let Some(held) = read(&lease) else { return Ok(None) };
        lease["spec"]["holderIdentity"] = Value::Null;
        match api.replace(&path, &lease, MANAGER).await {
            Ok(_) => return Ok(Some(held)),
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_with_its_term_or_its_process() {
        let set = Set::new("default", "shop");
        let request = |host: &str, alive: fn(u32) -> bool| Request {
            holder: "mia".into(),
            host: host.into(),
            pid: 7,
            reason: "release".into(),
            wait: None,
            life: None,
            is_alive: alive,
        };
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let held = read(&lease(&set, &request("a", |_| true), "mia@a:7:1", start, None)).unwrap();
        assert_eq!(
            (held.holder.as_str(), held.host.as_str(), held.pid, held.reason.as_str()),
            ("mia", "a", 7, "release")
        );
        let at = |seconds: i64| start + SignedDuration::from_secs(seconds);
        assert!(!is_over(&held, &request("a", |_| true), at(14)));
        assert!(is_over(&held, &request("a", |_| true), at(15)));
        assert!(is_over(&held, &request("a", |_| false), at(1)), "its process is gone");
        assert!(!is_over(&held, &request("b", |_| false), at(1)), "another machine's processes are not known here");

        // Who goes on and on takes what it left; nobody else's, and not that of an earlier life.
        let living = |life: &str| Request { life: Some(life.into()), ..request("a", |_| true) };
        let left = read(&lease(&set, &living("x"), &living("x").identity(start), start, None)).unwrap();
        assert!(is_over(&left, &living("x"), at(1)));
        assert!(!is_over(&left, &living("y"), at(1)));
        assert!(!is_over(&left, &request("a", |_| true), at(1)));
    }
}
