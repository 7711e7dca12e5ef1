//! `coracle config KEY`, `coracle config check` and `coracle config diff`: configuration across environments.

use crate::cli::{Config, Form};
use crate::commands::{say, synced};
use crate::{connect, exit};
use delivery::api::Api;
use delivery::applyset::{PART_OF, Set};
use delivery::config::check::{self, Finding};
use delivery::config::diff;
use delivery::config::origin::{self, Brought, Origin};
use delivery::config::{self, Environment, Variable};
use delivery::history::{self, Revision, State};
use delivery::object::{self, ObjectId};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

/// The kinds that configuration is read from.
const KINDS: [(&str, &str); 8] = [
    ("", "ConfigMap"),
    ("", "Secret"),
    ("", "Pod"),
    ("apps", "Deployment"),
    ("apps", "StatefulSet"),
    ("apps", "DaemonSet"),
    ("batch", "Job"),
    ("batch", "CronJob"),
];

pub(crate) async fn run(arguments: Config) -> anyhow::Result<ExitCode> {
    let told = match arguments.key.as_str() {
        "check" => check_all(&arguments).await,
        "diff" => differences(&arguments).await,
        _ => one(&arguments).await,
    };
    match told {
        Ok(code) => Ok(code),
        Err(error) => {
            exit::report(&error);
            Ok(ExitCode::from(1))
        }
    }
}

async fn environments(arguments: &Config) -> anyhow::Result<(Vec<Environment>, Option<Api>)> {
    let directories = arguments.directories.iter();
    let mut all = directories.map(|directory| rendered(directory)).collect::<anyhow::Result<Vec<_>>>()?;
    if !arguments.directories.is_empty() && arguments.namespaces.is_empty() {
        return Ok((all, None));
    }
    let api = Api::over(connect::client_of(&arguments.target).await?);
    all.extend(living(&api, &arguments.namespaces).await?);
    Ok((all, Some(api)))
}

/// A directory as an environment.
fn rendered(directory: &Path) -> anyhow::Result<Environment> {
    Ok(without_namespaces(directory, manifests(directory)?))
}

fn manifests(directory: &Path) -> anyhow::Result<Vec<Value>> {
    delivery::render(directory).map_err(|error| exit::bad_input(error.to_string()))
}

/// The one namespace that manifests of workloads and configuration say; nothing where they say none or several.
fn own_namespace(objects: &[Value]) -> Option<String> {
    let ours = objects.iter().filter(|object| KINDS.contains(&(object::group(object), object::kind(object))));
    let said: BTreeSet<&str> = ours.map(object::namespace).filter(|namespace| !namespace.is_empty()).collect();
    said.first().filter(|_| said.len() == 1).map(|namespace| (*namespace).to_owned())
}

fn without_namespaces(directory: &Path, objects: Vec<Value>) -> Environment {
    let name =
        directory.file_name().map_or_else(|| directory.display().to_string(), |n| n.to_string_lossy().into_owned());
    // Namespaces are the environment's, not the manifest's.
    Environment { name, objects: objects.into_iter().map(without_namespace).collect() }
}

/// Namespaces as environments; without names, all that hold something.
async fn living(api: &Api, namespaces: &[String]) -> anyhow::Result<Vec<Environment>> {
    for namespace in namespaces {
        // Whoever may not look at namespaces is told nothing of them.
        let there = api.get(&format!("/api/v1/namespaces/{}", delivery::api::escape(namespace))).await;
        if there.is_err_and(|error| error.is_not_found()) {
            let what = format!("there is no namespace {namespace}; say one that is there with -n");
            return Err(exit::bad_input(what));
        }
    }
    let kinds = api.kinds().await?;
    let mut by_namespace: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (group, kind) in KINDS {
        let Some(resource) = kinds.of_group(group, kind) else { continue };
        let asked: Vec<Option<&str>> = match namespaces {
            [] => vec![None],
            some => some.iter().map(|namespace| Some(namespace.as_str())).collect(),
        };
        for namespace in asked {
            for object in api.list(&resource.path(namespace, None), "").await? {
                by_namespace.entry(object::namespace(&object).to_owned()).or_default().push(object);
            }
        }
    }
    Ok(by_namespace.into_iter().map(|(name, objects)| Environment { name, objects }).collect())
}

/// What the manifests would change of what lives in their namespace.
async fn differences(arguments: &Config) -> anyhow::Result<ExitCode> {
    let [directory] = arguments.directories.as_slice() else {
        return Err(exit::bad_input("say one directory: coracle config diff DIR [-n NAMESPACE]"));
    };
    let objects = manifests(directory)?;
    let own = own_namespace(&objects);
    let next = without_namespaces(directory, objects);
    let client = connect::client_of(&arguments.target).await?;
    let namespace = match arguments.namespaces.as_slice() {
        [] => own.unwrap_or_else(|| client.default_namespace().to_owned()),
        [one] => one.clone(),
        _ => return Err(exit::bad_input("a directory is held against one namespace; say one -n")),
    };
    let api = Api::over(client);
    let now = living(&api, std::slice::from_ref(&namespace)).await?.pop();
    let now = now.unwrap_or_else(|| Environment { name: namespace.clone(), objects: Vec::new() });
    let mut known = Known::default();
    let mut told = Vec::new();
    for change in diff::diff(&now, &next) {
        let origin = match &change.before {
            Some(before) => of(&api, &now, before, &mut known).await?,
            None => Origin::default(),
        };
        told.push((change, origin));
    }
    match arguments.answer.output {
        Form::Json => {
            let all: Vec<Value> = told.iter().map(|(change, set)| json!({ "change": change, "origin": set })).collect();
            say(&serde_json::to_string_pretty(&all)?);
        }
        Form::Text if told.is_empty() => say(&format!("no variable of what is in {namespace} changes")),
        Form::Text => told.iter().for_each(|(change, origin)| say(&changed(change, origin))),
    }
    Ok(if told.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn changed(change: &diff::Change, origin: &Origin) -> String {
    let value = |v: &Option<Variable>| v.as_ref().map_or_else(|| "nothing".to_owned(), |v| v.value.to_string());
    let from = change.after.as_ref().or(change.before.as_ref());
    let from = from.map(|v| format!("  from {}{}", v.from, key_of(v))).unwrap_or_default();
    let (before, after) = (value(&change.before), value(&change.after));
    let mut said = format!("{}  {}  {before} -> {after}{from}", change.service, change.variable);
    if change.before.is_some() {
        said.push_str(&set_by(origin));
    }
    if let Some(odd) = &change.suspicious {
        said.push_str(&format!("\n  suspicious: {odd}"));
    }
    if change.at_the_next_start {
        said.push_str("\n  Pods that run keep the old value until they are made anew");
    }
    said
}

fn key_of(variable: &Variable) -> String {
    if variable.key.is_empty() { String::new() } else { format!(" key {}", variable.key) }
}

fn without_namespace(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("namespace");
    }
    object
}

async fn check_all(arguments: &Config) -> anyhow::Result<ExitCode> {
    let (environments, _) = environments(arguments).await?;
    let found = check::check(&environments);
    match arguments.answer.output {
        Form::Json => say(&serde_json::to_string_pretty(&found)?),
        Form::Text if found.is_empty() => say("nothing is missing, extra, suspicious or unresolved"),
        Form::Text => found.iter().for_each(|finding| say(&line(finding))),
    }
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn line(finding: &Finding) -> String {
    let kind = serde_json::to_value(finding.kind).unwrap_or_default();
    let kind = kind.as_str().unwrap_or_default().to_owned();
    format!("{kind:<10}  {}  {}  {}: {}", finding.environment, finding.service, finding.variable, finding.message)
}

async fn one(arguments: &Config) -> anyhow::Result<ExitCode> {
    let (environments, api) = environments(arguments).await?;
    let mut known = Known::default();
    let mut told = Vec::new();
    for environment in &environments {
        for variable in config::variables(environment).into_iter().filter(|variable| variable.name == arguments.key) {
            let origin = match &api {
                Some(api) => of(api, environment, &variable, &mut known).await?,
                None => Origin::default(),
            };
            told.push((variable, origin));
        }
    }
    if told.is_empty() {
        let names: BTreeSet<String> = environments.iter().flat_map(config::variables).map(|v| v.name).collect();
        let key = arguments.key.to_lowercase();
        let near: Vec<String> = names.into_iter().filter(|name| name.to_lowercase().contains(&key)).take(5).collect();
        let hint = if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(", ")) };
        return Err(exit::bad_input(format!("no container has a variable {}{hint}", arguments.key)));
    }
    match arguments.answer.output {
        Form::Json => {
            let all: Vec<Value> =
                told.iter().map(|(variable, origin)| json!({ "variable": variable, "origin": origin })).collect();
            say(&serde_json::to_string_pretty(&all)?);
        }
        Form::Text => told.iter().for_each(|(variable, origin)| say(&sentence(variable, origin))),
    }
    Ok(ExitCode::SUCCESS)
}

fn sentence(variable: &Variable, origin: &Origin) -> String {
    let key = key_of(variable);
    let said =
        format!("{}  {}  {}  from {}{key}", variable.environment, variable.service, variable.value, variable.from);
    said + &set_by(origin)
}

/// Since when a value is there, and by whom.
fn set_by(origin: &Origin) -> String {
    let mut said = String::new();
    if !origin.since.is_empty() {
        said.push_str(&format!("  since {}", origin.since));
    }
    for (word, value) in
        [("by", &origin.manager), ("by", &origin.applied_by), ("commit", &origin.commit), ("author", &origin.author)]
    {
        if !value.is_empty() {
            said.push_str(&format!("  {word} {value}"));
        }
    }
    if let Some(revision) = origin.revision {
        said.push_str(&format!("  revision {revision}"));
    }
    said
}

/// What was read of those who bring objects, by the ids of their sets.
#[derive(Default)]
struct Known {
    histories: BTreeMap<String, Vec<(Revision, Vec<Value>)>>,
    commits: BTreeMap<String, Vec<Brought>>,
}

/// Who set it: the revision that brought it where it is of a set, the commit where it is of an application, else the owner of its field.
async fn of(api: &Api, environment: &Environment, variable: &Variable, known: &mut Known) -> anyhow::Result<Origin> {
    let Some(live) = environment.objects.iter().find(|object| ObjectId::of(object) == variable.from) else {
        return Ok(Origin::default());
    };
    let by_owner = origin::of_live(variable, live);
    let Some(id) = object::label(live, PART_OF) else { return Ok(by_owner) };
    if !known.histories.contains_key(id) {
        let commits = commits_of(api, live).await?;
        // Those whom Git keeps have no revisions of ours.
        let history = if commits.is_some() { Vec::new() } else { history_of(api, id).await? };
        known.histories.insert(id.to_owned(), history);
        known.commits.insert(id.to_owned(), commits.unwrap_or_default());
    }
    let by_set = origin::of_history(variable, live, &known.histories[id]);
    Ok(by_set.unwrap_or_else(|| origin::of_commits(by_owner, &known.commits[id])))
}

/// What the application that keeps an object has brought; nothing where none does.
async fn commits_of(api: &Api, live: &Value) -> anyhow::Result<Option<Vec<Brought>>> {
    let Some(owner) = delivery::ownership::of_object(api, live).await? else { return Ok(None) };
    let named = format!("{}/{}", owner.kind, owner.name);
    // Who may not read applications, or comes when it is gone, is told of the field's owner.
    let found = synced::find(api.client(), &named, &owner.namespace).await.ok().flatten();
    Ok(Some(found.map(|one| one.brought()).unwrap_or_default()))
}

/// The healthy revisions of the set with an id, the newest first.
async fn history_of(api: &Api, id: &str) -> anyhow::Result<Vec<(Revision, Vec<Value>)>> {
    let query = format!("labelSelector={}", delivery::api::escape(&format!("{}={id}", delivery::applyset::ID)));
    let parents = api.list("/api/v1/secrets", &query).await?;
    let Some(parent) = parents.first() else { return Ok(Vec::new()) };
    let set = Set::new(object::namespace(parent), object::name(parent));
    let mut all = Vec::new();
    for revision in history::list(api.client().clone(), &set).await? {
        if revision.state == State::Healthy {
            let objects = history::load(api.client().clone(), &set, &revision).await?;
            all.push((revision, objects));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_say_one_namespace_or_none() {
        let config = |namespace: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "c", "namespace": namespace } });
        let none = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" } });
        let role = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": { "name": "r", "namespace": "kube-system" } });
        for (objects, wanted) in [
            (vec![config("prod"), none.clone(), role.clone(), config("prod")], Some("prod")),
            (vec![config("prod"), config("dev")], None),
            (vec![none, role], None),
        ] {
            assert_eq!(own_namespace(&objects).as_deref(), wanted, "{objects:?}");
        }
    }
}
