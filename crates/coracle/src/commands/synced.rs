//! What the Git sync has applied, told by the commands that tell of sets: its history, the way back, what goes on now.

use anyhow::Context;
use delivery::api::Api;
use delivery::applyset::Set;
use delivery::config::origin::Brought;
use delivery::history::{Provenance, Revision, State};
use delivery::object::ObjectId;
use futures::StreamExt;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::Form;
use crate::commands::results;
use crate::{colour, exit};

/// How long a way back may take.
const WITHIN: Duration = Duration::from_secs(600);
/// Kind, collection, and the words for it.
pub(crate) const KINDS: [(&str, &str, &[&str]); 2] = [
    ("Application", "/apis/argoproj.io/v1alpha1/applications", &["application", "applications", "app"]),
    (
        "Kustomization",
        "/apis/kustomize.toolkit.fluxcd.io/v1/kustomizations",
        &["kustomization", "kustomizations", "ks"],
    ),
];

/// An application of the sync.
pub(crate) struct Synced {
    pub(crate) kind: &'static str,
    pub(crate) object: Value,
}

/// A revision in the words of a history.
pub(crate) struct Told {
    /// What it is asked for by; none for what was never applied to its end.
    pub(crate) number: Option<u64>,
    pub(crate) revision: Revision,
}

impl From<Revision> for Told {
    fn from(revision: Revision) -> Self {
        Self { number: Some(revision.number), revision }
    }
}

impl Told {
    /// As JSON, in which a number that is not there is null.
    pub(crate) fn value(&self) -> Value {
        let mut value = json!(self.revision);
        value["number"] = json!(self.number);
        value
    }
}

fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object["metadata"][name].as_str().unwrap_or_default()
}

impl Synced {
    fn path(&self) -> String {
        let collection = KINDS.iter().find(|(kind, ..)| *kind == self.kind).map_or("", |(_, collection, _)| collection);
        let (group, plural) = collection.rsplit_once('/').unwrap_or((collection, ""));
        format!("{group}/namespaces/{}/{plural}/{}", text(&self.object, "namespace"), text(&self.object, "name"))
    }

    pub(crate) fn label(&self) -> String {
        let (namespace, name) = (text(&self.object, "namespace"), text(&self.object, "name"));
        format!("{} {name} in {namespace}", self.kind.to_lowercase())
    }

    /// The set of its objects.
    pub(crate) fn set(&self) -> Set {
        Set::new(
            text(&self.object, "namespace"),
            format!("{}.{}", self.kind.to_lowercase(), text(&self.object, "name")),
        )
    }

    /// Why nothing was ever brought; none where something was.
    pub(crate) fn nothing_yet(&self) -> Option<String> {
        if !self.history().is_empty() {
            return None;
        }
        let conditions = self.object["status"]["conditions"].as_array().into_iter().flatten();
        let why = conditions.filter_map(|one| one["message"].as_str()).find(|message| !message.is_empty());
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        Some(format!("{} has brought nothing yet{why}", self.label()))
    }

    /// What it keeps: Argo CD's list of resources, or Flux's inventory (`NAMESPACE_NAME_GROUP_KIND`).
    pub(crate) fn members(&self) -> Vec<ObjectId> {
        let status = &self.object["status"];
        let of_argo = status["resources"].as_array().into_iter().flatten().map(|one| ObjectId {
            group: words(&one["group"]),
            kind: words(&one["kind"]),
            namespace: words(&one["namespace"]),
            name: words(&one["name"]),
        });
        let of_flux = status["inventory"]["entries"].as_array().into_iter().flatten().filter_map(|one| {
            let parts: Vec<&str> = one["id"].as_str()?.split('_').collect();
            let [namespace, name, group, kind] = parts.as_slice() else { return None };
            let text = |part: &str| part.to_owned();
            Some(ObjectId { group: text(group), kind: text(kind), namespace: text(namespace), name: text(name) })
        });
        of_argo.chain(of_flux).collect()
    }

    /// The commits that it brought to their end.
    pub(crate) fn brought(&self) -> Vec<Brought> {
        let entries = self.object["status"]["history"].as_array().into_iter().flatten();
        let either = |entry: &Value, argo: &str, flux: &str| {
            words(if entry["id"].is_u64() { &entry[argo] } else { &entry[flux] })
        };
        let status = &self.object["status"];
        let one = |entry: &Value| {
            let Provenance { commit, author, .. } = revision(0, entry, status).provenance;
            let (begun, ended) =
                (either(entry, "deployStartedAt", "firstReconciled"), either(entry, "deployedAt", "lastReconciled"));
            Brought { begun, ended, commit, author }
        };
        entries.map(one).collect()
    }

    /// What it applied, the newest first, in the words of a set's history.
    pub(crate) fn history(&self) -> Vec<Told> {
        let status = &self.object["status"];
        let entries = status["history"].as_array().into_iter().flatten().enumerate();
        let mut all: Vec<Told> = entries.map(|(at, entry)| revision(at, entry, status).into()).collect();
        if self.kind == "Application" {
            all.reverse();
        }
        let known: Vec<String> = all.iter().map(|one| one.revision.provenance.commit.clone()).collect();
        // What was never applied to its end, newest first already.
        let failed = status["coracle"]["failed"].as_array().into_iter().flatten();
        let failed = failed.filter(|one| !known.iter().any(|commit| one["content"]["revisions"][0] == commit.as_str()));
        let never = |one: &Value| Told { number: None, revision: failed_revision(one) };
        let mut failed: Vec<Told> = failed.map(never).collect();
        failed.append(&mut all);
        failed.sort_by(|a, b| b.revision.time.cmp(&a.revision.time));
        failed
    }
}

fn words(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn blank(number: u64, state: State, commit: String) -> Revision {
    Revision {
        number,
        state,
        time: String::new(),
        provenance: Provenance { commit, ..Provenance::default() },
        objects: 0,
        summary: String::new(),
        digest: String::new(),
        pieces: 0,
        cause: String::new(),
    }
}

fn revision(at: usize, entry: &Value, status: &Value) -> Revision {
    let commit = entry["revision"].as_str().or_else(|| entry["metadata"]["revision"].as_str()).unwrap_or_default();
    let failed = status["coracle"]["failed"].as_array().into_iter().flatten();
    let failed = failed.clone().find(|one| one["content"]["revisions"][0] == commit);
    let number = entry["id"].as_u64().unwrap_or(at as u64);
    let mut revision = blank(number, if failed.is_some() { State::Failed } else { State::Healthy }, commit.to_owned());
    revision.time = words(&entry["deployedAt"]);
    if revision.time.is_empty() {
        revision.time = words(&entry["lastReconciled"]);
    }
    let by = &entry["initiatedBy"];
    let by_hand = entry["id"].is_u64() && by["automated"] != true;
    let nobody = if by_hand { "by hand" } else { "git sync" };
    revision.provenance.applied_by = by["username"].as_str().unwrap_or(nobody).to_owned();
    let commit = &entry[if entry["id"].is_u64() { "commit" } else { "metadata" }];
    revision.provenance.author = words(&commit["author"]);
    revision.provenance.source = words(&entry["source"]["repoURL"]);
    revision.summary = words(&commit["message"]).lines().next().unwrap_or_default().to_owned();
    revision.cause = failed.map(|one| words(&one["reason"])).unwrap_or_default();
    revision
}

fn failed_revision(one: &Value) -> Revision {
    let mut revision = blank(0, State::Failed, words(&one["content"]["revisions"][0]));
    (revision.time, revision.cause) = (words(&one["at"]), words(&one["reason"]));
    revision.provenance.applied_by = "git sync".to_owned();
    revision
}

/// The application that is meant by `application/NAME`, or by a plain name.
pub(crate) async fn find(client: &kube::Client, named: &str, namespace: &str) -> anyhow::Result<Option<Synced>> {
    let api = Api::over(client.clone());
    let (word, name) = named.split_once('/').map_or((None, named), |(word, name)| (Some(word), name));
    let mut found = Vec::new();
    for (kind, collection, words) in KINDS {
        if word.is_some_and(|word| !words.contains(&word)) {
            continue;
        }
        let query = format!("fieldSelector=metadata.name%3D{}", delivery::api::escape(name));
        match api.list(collection, &query).await {
            Ok(all) => found.extend(all.into_iter().map(|object| Synced { kind, object })),
            // A cluster without the sync has no such kind.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    if found.len() > 1 {
        found.retain(|one| text(&one.object, "namespace") == namespace);
        if found.len() != 1 {
            return Err(exit::bad_input(format!("there are several called {named}; say which with -n NAMESPACE")));
        }
    }
    if found.is_empty() && word.is_some() {
        return Err(exit::bad_input(format!("there is no {named} in any namespace")));
    }
    Ok(found.pop())
}

/// Brings an earlier commit of an application back, where that lasts.
pub(crate) async fn roll_back(
    client: &kube::Client,
    synced: &Synced,
    number: Option<u64>,
    form: Form,
) -> anyhow::Result<ExitCode> {
    let (namespace, name) = (text(&synced.object, "namespace"), text(&synced.object, "name"));
    let mut told = json!({ "format": crate::commands::release::FORMAT,
        "application": { "kind": synced.kind, "namespace": namespace, "name": name } });
    let outcome = bring_back(client, synced, number, &mut told).await;
    if form == Form::Text {
        let (commit, number) = outcome?;
        crate::commands::say(&format!("{} is back at {commit} (revision {number})", synced.label()));
        return Ok(ExitCode::SUCCESS);
    }
    told["state"] = match &outcome {
        Ok(_) => "applied",
        // It was not asked for.
        Err(_) if told["commit"].is_null() => "refused",
        Err(_) => "failed",
    }
    .into();
    if let Err(error) = &outcome {
        told["cause"] = exit::sentence(error).into();
    }
    results::ended(&told, outcome.map(|_| ExitCode::SUCCESS))
}

/// Chooses, asks and waits; the commit and the number that it is back at, which are noted once they are asked for.
async fn bring_back(
    client: &kube::Client,
    synced: &Synced,
    number: Option<u64>,
    told: &mut Value,
) -> anyhow::Result<(String, u64)> {
    let label = synced.label();
    let automated = &synced.object["spec"]["syncPolicy"]["automated"];
    let by_itself = synced.kind == "Kustomization" || automated.is_object() && automated["enabled"] != false;
    if by_itself {
        return Err(exit::bad_input(format!(
            "{label} follows its repository by itself and would undo it: `git revert COMMIT` and push, which is live in a moment; a commit that does not become healthy is taken back without being asked"
        )));
    }
    let all = synced.history();
    let now = synced.object["status"]["operationState"]["syncResult"]["revision"].as_str().unwrap_or_default();
    let chosen = choose(&all, number, now).map_err(|reason| exit::bad_input(format!("{label} {reason}")))?;
    let api = Api::over(client.clone());
    let by = crate::commands::release::who();
    let operation = json!({ "operation": { "initiatedBy": { "username": by },
        "sync": { "revision": chosen.provenance.commit, "prune": true } } });
    (told["revision"], told["commit"]) = (json!(chosen.number), json!(chosen.provenance.commit));
    let asked = api.merge(&synced.path(), &operation, crate::connect::MANAGER).await?;
    let before = &synced.object["status"]["operationState"];
    let state = tokio::time::timeout(WITHIN, ended(&api, synced, &asked, before))
        .await
        .with_context(|| format!("{label} was not back within {} s; it goes on", WITHIN.as_secs()))??;
    let message = state["message"].as_str().unwrap_or_default();
    if state["phase"] != "Succeeded" {
        return Err(anyhow::anyhow!("{label} could not be brought back: {message}"));
    }
    Ok((chosen.provenance.commit.clone(), chosen.number))
}

/// The revision to go back to: one that was healthy, by its number, or the newest that is not there now.
fn choose<'a>(all: &'a [Told], number: Option<u64>, now: &str) -> Result<&'a Revision, String> {
    let healthy = |one: &&Told| one.revision.state == State::Healthy && one.number.is_some();
    let have = || {
        let numbers: Vec<String> = all.iter().filter(healthy).filter_map(|one| Some(one.number?.to_string())).collect();
        if numbers.is_empty() { "none that was healthy".to_owned() } else { numbers.join(", ") }
    };
    let Some(number) = number else {
        let found = all.iter().filter(healthy).find(|one| one.revision.provenance.commit != now);
        let missing = || format!("has no other revision to go back to; it has {}", have());
        return found.map(|one| &one.revision).ok_or_else(missing);
    };
    match all.iter().find(|one| one.number == Some(number)) {
        Some(one) if healthy(&one) => Ok(&one.revision),
        Some(one) => Err(format!(
            "cannot go back to revision {number}, which was bad: {}; it has {}",
            one.revision.cause,
            have()
        )),
        None => Err(format!("has no revision {number} to go back to; it has {}", have())),
    }
}

/// How the operation that was asked for ended. It is told from the one before by all that is said of it: two may begin within
/// the second that times are told to.
async fn ended(api: &Api, synced: &Synced, asked: &Value, before: &Value) -> anyhow::Result<Value> {
    let path = synced.path();
    let (collection, name) = path.rsplit_once('/').unwrap_or((path.as_str(), ""));
    let version = asked["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let query = format!("fieldSelector=metadata.name%3D{name}&resourceVersion={version}");
    let mut events = Box::pin(api.watch(collection, &query).await?);
    let mut told = before["message"].clone();
    while let Some(event) = events.next().await {
        let object = event?["object"].take();
        let state = &object["status"]["operationState"];
        if state["message"] != told {
            told = state["message"].clone();
            eprintln!("{}", colour::dim(told.as_str().unwrap_or_default()));
        }
        let over = matches!(state["phase"].as_str(), Some("Succeeded" | "Failed" | "Error"));
        if object["operation"].is_null() && over && (state != before || state["phase"] == "Error") {
            return Ok(state.clone());
        }
    }
    anyhow::bail!("the API ended before {} was back", synced.label())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sync_applied_is_told_as_a_history() {
        let object = json!({ "metadata": { "name": "shop", "namespace": "argocd" }, "status": {
            "history": [
                { "id": 0, "revision": "aaa", "deployedAt": "2026-01-01T00:00:00Z", "initiatedBy": { "automated": true },
                    "commit": { "author": "Ann", "message": "First\nmore" } },
                { "id": 1, "revision": "bbb", "deployedAt": "2026-01-02T00:00:00Z", "initiatedBy": { "username": "bob@desk" } },
            ],
            "coracle": { "failed": [
                { "content": { "revisions": ["ccc"], "parameters": "p" }, "reason": "quota", "at": "2026-01-03T00:00:00Z" },
                { "content": { "revisions": ["bbb"], "parameters": "p" }, "reason": "crashed", "at": "2026-01-02T00:01:00Z" },
            ] } } });
        let history = Synced { kind: "Application", object }.history();
        let wanted = [
            (None, "ccc", State::Failed, "git sync", "", "quota"),
            (Some(1), "bbb", State::Failed, "bob@desk", "", "crashed"),
            (Some(0), "aaa", State::Healthy, "git sync", "First", ""),
        ];
        assert_eq!(history.len(), wanted.len());
        for (told, wanted) in history.iter().zip(wanted) {
            let one = &told.revision;
            let by = (one.provenance.applied_by.as_str(), one.summary.as_str(), one.cause.as_str());
            assert_eq!((told.number, one.provenance.commit.as_str(), one.state, by.0, by.1, by.2), wanted);
        }
        assert_eq!((&history[0].value()["number"], &history[2].value()["number"]), (&Value::Null, &json!(0)));
        // What was bad is never the way back, whether it was applied to its end or not.
        let chosen = |number, now| choose(&history, number, now).map(|one| one.provenance.commit.as_str());
        assert_eq!(chosen(Some(0), "ddd"), Ok("aaa"));
        assert_eq!(chosen(None, "ddd"), Ok("aaa"));
        assert!(chosen(Some(1), "ddd").is_err_and(|said| said.contains("crashed") && said.contains("it has 0")));
        assert!(chosen(Some(2), "ddd").is_err_and(|said| said.contains("no revision 2")));
        assert!(chosen(None, "aaa").is_err());
    }
}
