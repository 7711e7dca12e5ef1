//! Every revision that was applied: the rendered set as it was, who applied it, when, from which commit, and how it ended.
//!
//! A revision is kept in Secrets (the set may hold secrets), compressed, in pieces that fit.
//!
//! Invariants: a revision is there before its first object is written, so that one that was cut short is seen; at most
//! a given number is kept, and the last healthy one always.

use crate::api::{Api, ApiError, escape};
use crate::applyset::Set;
use crate::object;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};

/// How many revisions are kept unless told otherwise.
pub const KEPT: usize = 10;
/// The most bytes of a compressed set in one Secret, whose limit is 1 MiB with base64.
const PIECE: usize = 600 * 1024;
/// The largest set that is read back, bytes.
const LARGEST: u64 = 512 * 1024 * 1024;
/// The type of our Secrets.
const TYPE: &str = "coracle.dev/revision";
pub(crate) const SET_ID: &str = "coracle.dev/set";
const NUMBER: &str = "coracle.dev/revision";
pub(crate) const PART: &str = "coracle.dev/part";
const RECORD: &str = "coracle.dev/record";
const MANAGER: &str = "coracle-history";
/// What a revision that goes back is called, before the number.
const BACK_TO: &str = "back to revision ";

/// Where a set came from, and who applied it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Provenance {
    /// Who applied it.
    pub applied_by: String,
    /// The directory or repository.
    pub source: String,
    /// The commit, where it is known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub commit: String,
    /// The commit's author.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// The first line of the commit's message.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// How a revision ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is being applied, or was cut short.
    Applying,
    /// It was applied, and worked.
    Healthy,
    /// It failed.
    Failed,
}

/// A revision without its objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// Its number; the first is 1.
    pub number: u64,
    /// How it ended.
    pub state: State,
    /// When it was begun (RFC 3339).
    pub time: String,
    /// Where it came from.
    #[serde(flatten)]
    pub provenance: Provenance,
    /// How many objects it has.
    pub objects: usize,
    /// What it changed, in words.
    pub summary: String,
    /// A digest of the rendered set.
    pub digest: String,
    /// In how many pieces it is kept.
    pub pieces: usize,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cause: String,
}

/// Why a revision cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The API refused.
    #[error("cannot read or write the history: {0}")]
    Api(#[from] ApiError),
    /// There is no such revision.
    #[error("the set has no revision {number}; it has {have}")]
    Missing {
        /// Which was wanted.
        number: u64,
        /// Which there are.
        have: String,
    },
    /// There is none to go back to.
    #[error("the set has no healthy revision before the present one")]
    NoneHealthy,
    /// What is kept cannot be read.
    #[error("revision {number} cannot be read: {reason}")]
    Damaged {
        /// Which.
        number: u64,
        /// Why.
        reason: String,
    },
}

fn collection(set: &Set) -> String {
    format!("/api/v1/namespaces/{}/secrets", set.namespace)
}

fn piece_name(set: &Set, number: u64, piece: usize) -> String {
    if piece == 0 { format!("{}.r{number}", set.name) } else { format!("{}.r{number}.{piece}", set.name) }
}

/// A digest of a rendered set.
pub fn digest(desired: &[Value]) -> String {
    let mut hash = Sha256::new();
    for object in desired {
        hash.update(object.to_string().as_bytes());
        hash.update(b"\n");
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Every revision of a set, the newest first.
///
/// # Errors
/// As the API answers.
pub async fn list(client: kube::Client, set: &Set) -> Result<Vec<Revision>, HistoryError> {
    revisions(&Api::over(client), set).await
}

async fn revisions(api: &Api, set: &Set) -> Result<Vec<Revision>, HistoryError> {
    let selector = escape(&format!("{SET_ID}={},{PART}=0", set.id()));
    let secrets = api.list(&collection(set), &format!("labelSelector={selector}")).await?;
    let mut all: Vec<Revision> = secrets.iter().filter_map(read).collect();
    all.sort_by_key(|revision| std::cmp::Reverse(revision.number));
    Ok(all)
}

fn read(secret: &Value) -> Option<Revision> {
    serde_json::from_str(object::annotation(secret, RECORD)?).ok()
}

/// Notes that a revision is about to be applied.
///
/// # Errors
/// As the API answers.
pub async fn begin(
    client: kube::Client,
    set: &Set,
    desired: &[Value],
    provenance: &Provenance,
    summary: String,
) -> Result<Revision, HistoryError> {
    let api = Api::over(client);
    let packed = pack(desired);
    let pieces: Vec<&[u8]> = packed.chunks(PIECE).collect();
    let newest = revisions(&api, set).await?.first().map_or(0, |revision| revision.number);
    let revision = Revision {
        number: newest + 1,
        state: State::Applying,
        time: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        provenance: provenance.clone(),
        objects: desired.len(),
        summary,
        digest: digest(desired),
        pieces: pieces.len().max(1),
        cause: String::new(),
    };
    // The first piece is the record; it comes last, so that a record has all its pieces.
    for (index, piece) in pieces.iter().enumerate().rev() {
        let secret = secret(set, &revision, index, piece);
        match api.create(&collection(set), &secret, MANAGER).await {
            Ok(_) => {}
            Err(error) if error.is_conflict() => {
                // A piece of a revision that never got its record.
                api.replace(&format!("{}/{}", collection(set), object::name(&secret)), &secret, MANAGER).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(revision)
}

fn secret(set: &Set, revision: &Revision, index: usize, piece: &[u8]) -> Value {
    let mut secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": TYPE,
        "metadata": {
            "name": piece_name(set, revision.number, index), "namespace": set.namespace,
            "labels": { SET_ID: set.id(), NUMBER: revision.number.to_string(), PART: index.to_string() },
        },
        "data": { "set": STANDARD.encode(piece) },
    });
    if index == 0 {
        secret["metadata"]["annotations"] = json!({ RECORD: record(revision) });
    }
    secret
}

fn record(revision: &Revision) -> String {
    serde_json::to_string(revision).unwrap_or_default()
}

/// Notes how a revision ended, and forgets the oldest beyond `keep`.
///
/// # Errors
/// As the API answers.
pub async fn finish(
    client: kube::Client,
    set: &Set,
    revision: &Revision,
    state: State,
    cause: &str,
    keep: usize,
) -> Result<(), HistoryError> {
    let api = Api::over(client);
    let ended = Revision { state, cause: cause.to_owned(), ..revision.clone() };
    let path = format!("{}/{}", collection(set), piece_name(set, revision.number, 0));
    let patch = json!({ "metadata": { "annotations": { RECORD: record(&ended) } } });
    api.merge(&path, &patch, MANAGER).await?;
    let all = revisions(&api, set).await?;
    for old in forgotten(&all, keep) {
        // The record goes first, so that none stands without its pieces.
        for piece in 0..old.pieces {
            let path = format!("{}/{}", collection(set), piece_name(set, old.number, piece));
            match api.delete(&path, "").await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// The revisions that are no longer kept. `all` begins with the newest.
fn forgotten(all: &[Revision], keep: usize) -> Vec<&Revision> {
    let last_good = all.iter().find(|revision| revision.state == State::Healthy).map(|revision| revision.number);
    all.iter().skip(keep.max(1)).filter(|revision| Some(revision.number) != last_good).collect()
}

/// What a revision that goes back is called.
pub fn back_to(number: u64) -> String {
    format!("{BACK_TO}{number}")
}

/// The revision to go back to: the given one, or the newest healthy one before the present. A way back that was cut short goes on.
///
/// # Errors
/// When there is no such revision.
pub fn choose(all: &[Revision], number: Option<u64>) -> Result<&Revision, HistoryError> {
    match number {
        Some(number) => all.iter().find(|revision| revision.number == number).ok_or_else(|| {
            let have: Vec<String> = all.iter().map(|revision| revision.number.to_string()).collect();
            HistoryError::Missing { number, have: if have.is_empty() { "none".to_owned() } else { have.join(", ") } }
        }),
        None => {
            let cut = interrupted(all);
            let goal = cut.and_then(|cut| cut.provenance.message.strip_prefix(BACK_TO)?.parse::<u64>().ok());
            let goal =
                all.iter().find(|one| Some(one.number) == goal && cut.is_some_and(|cut| cut.digest == one.digest));
            if let Some(goal) = goal {
                return Ok(goal);
            }
            // What is the same as the present one is no way back from it.
            let present = all.first().map(|revision| revision.digest.as_str());
            let healthy = all.iter().skip(1).find(|r| r.state == State::Healthy && Some(r.digest.as_str()) != present);
            healthy.ok_or(HistoryError::NoneHealthy)
        }
    }
}

/// The newest revision, when it was cut short: begun, and never ended.
pub fn interrupted(all: &[Revision]) -> Option<&Revision> {
    all.first().filter(|revision| revision.state == State::Applying)
}

/// The rendered set of a revision.
///
/// # Errors
/// [`HistoryError::Damaged`] when what is kept is not what was written.
pub async fn load(client: kube::Client, set: &Set, revision: &Revision) -> Result<Vec<Value>, HistoryError> {
    let api = Api::over(client);
    let damaged = |reason: String| HistoryError::Damaged { number: revision.number, reason };
    let mut packed = Vec::new();
    for piece in 0..revision.pieces {
        let name = piece_name(set, revision.number, piece);
        let secret = api.get(&format!("{}/{name}", collection(set))).await?;
        let data = secret["data"]["set"].as_str().unwrap_or_default();
        packed.extend(STANDARD.decode(data).map_err(|error| damaged(format!("{name}: {error}")))?);
    }
    let desired = unpack(&packed).map_err(damaged)?;
    if digest(&desired) != revision.digest {
        return Err(damaged("its digest is another than when it was written".to_owned()));
    }
    Ok(desired)
}

fn pack(desired: &[Value]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    for object in desired {
        // Writing into memory does not fail.
        let _ = writeln!(packed, "{object}");
    }
    packed.finish().unwrap_or_default()
}

fn unpack(packed: &[u8]) -> Result<Vec<Value>, String> {
    let mut text = String::new();
    GzDecoder::new(packed).take(LARGEST).read_to_string(&mut text).map_err(|error| error.to_string())?;
    text.lines().map(|line| serde_json::from_str(line).map_err(|error| error.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(number: u64, state: State, digest: &str) -> Revision {
        Revision {
            number,
            state,
            time: String::new(),
            provenance: Provenance::default(),
            objects: 0,
            summary: String::new(),
            digest: digest.to_owned(),
            pieces: 1,
            cause: String::new(),
        }
    }

    #[test]
    fn the_way_back_is_the_last_healthy_one_that_differs() {
        use State::{Applying, Failed, Healthy};
        let all = [
            revision(5, Failed, "e"),
            revision(4, Failed, "d"),
            revision(3, Healthy, "e"),
            revision(2, Healthy, "b"),
            revision(1, Healthy, "a"),
        ];
        assert_eq!(choose(&all, None).unwrap().number, 2);
        assert_eq!(choose(&all, Some(1)).unwrap().number, 1);
        assert!(choose(&all, Some(9)).unwrap_err().to_string().contains("it has 5, 4, 3, 2, 1"));
        assert!(matches!(choose(&all[..2], None), Err(HistoryError::NoneHealthy)));
        // A way back that was cut short is gone to its end: by hand, and after an apply that failed.
        let cut = |digest: &str, message: String| {
            let mut one = revision(6, Applying, digest);
            one.provenance.message = message;
            one
        };
        let after = |cut: Revision, all: &[Revision]| choose(&[&[cut], all].concat(), None).unwrap().number;
        assert_eq!(after(cut("b", back_to(2)), &all), 2);
        assert_eq!(after(cut("e", back_to(3)), &all), 3);
        assert_eq!(after(cut("e", "Mend it".into()), &all), 2);
        assert_eq!(after(cut("x", back_to(2)), &all), 3, "it says so, and is not");
        assert!(interrupted(&all).is_none());
        assert!(interrupted(&[revision(6, Applying, "f")]).is_some());
        let numbers: Vec<u64> = forgotten(&all, 2).iter().map(|r| r.number).collect();
        assert_eq!(numbers, [2, 1], "the last healthy one stays");
    }

    #[test]
    fn a_set_is_read_back_as_it_was() {
        let set = vec![json!({"a": "1\n2"}), json!({"b": [1, null]})];
        assert_eq!(unpack(&pack(&set)).unwrap(), set);
        assert!(unpack(b"nonsense").is_err());
        assert_ne!(digest(&set), digest(&set[..1]));
    }
}
