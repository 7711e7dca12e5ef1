//! What plan, apply and rollback share: which set, where from, the question, and what is told on the way and at the end.

use crate::cli::{Form, Release, Wanted};
use crate::commands::results;
use crate::connect::MANAGER;
use crate::{colour, connect, exit};
use anyhow::Context;
use delivery::apply::Event;
use delivery::applyset::Set;
use delivery::history::Provenance;
use delivery::plan::show::{self, Paint};
use delivery::plan::{Action, Plan};
use delivery::protect::Confirmation;
use delivery::release::{Options, ReleaseError, Released};
use delivery::{history, lock};
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// The form of what is told at the end for scripts.
pub(crate) const FORMAT: &str = "coracle.dev/release/v1";

/// Plans what the paths hold.
pub(crate) async fn plan(
    client: &kube::Client,
    paths: &[PathBuf],
    wanted: &Wanted,
    source: &str,
) -> anyhow::Result<Plan> {
    let namespace = connect::namespace_of(client, &wanted.at.scope);
    let desired = delivery::render::render_all(paths).map_err(|error| exit::bad_input(error.to_string()))?;
    let set = set_of(paths, wanted, &namespace)?;
    let reason = wanted.reason.clone().unwrap_or_default();
    let confirmed =
        wanted.confirm_delete.iter().map(|object| Confirmation { object: object.clone(), reason: reason.clone() });
    let options = delivery::plan::Options {
        manager: MANAGER.to_owned(),
        namespace,
        prune: !wanted.no_prune,
        allow_empty: wanted.allow_empty,
        take_over: wanted.take_over,
        confirmed: confirmed.collect(),
        ask_all: wanted.ask_all,
        source: source.to_owned(),
        ..delivery::plan::Options::default()
    };
    Ok(delivery::plan::plan(client.clone(), desired, &set, &options).await?)
}

/// The set that is meant: the named one, or the directory's name.
fn set_of(paths: &[PathBuf], wanted: &Wanted, namespace: &str) -> anyhow::Result<Set> {
    let name = match &wanted.set.set {
        Some(name) => name.clone(),
        None => {
            derived(paths).ok_or_else(|| exit::bad_input("no set can be named after what was given; say --set NAME"))?
        }
    };
    Ok(Set::new(namespace, name))
}

/// `deploy/` -> `deploy`, `app.yaml` -> `app`: as a name that the API takes.
pub(crate) fn derived(paths: &[PathBuf]) -> Option<String> {
    let [path] = paths else { return None };
    let path = path.canonicalize().ok()?;
    let name = if path.is_dir() { path.file_name()? } else { path.file_stem()? };
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = name.to_string_lossy().chars().map(plain).collect();
    let name = name.trim_matches('-').to_owned();
    (!name.is_empty()).then_some(name)
}

/// Where the manifests are, as the next person would say it: repository and path, or machine and path.
pub(crate) fn source_of(paths: &[PathBuf]) -> String {
    let [path] = paths else { return String::new() };
    let Ok(path) = path.canonicalize() else { return String::new() };
    let folder = if path.is_dir() { path.clone() } else { path.parent().map(Path::to_owned).unwrap_or_default() };
    let file = if path.is_dir() {
        String::new()
    } else {
        path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    };
    match (git(&folder, &["config", "--get", "remote.origin.url"]), git(&folder, &["rev-parse", "--show-prefix"])) {
        (Some(url), Some(prefix)) => format!("{}//{prefix}{file}", without_password(&url)),
        _ => format!("{}:{}", host(), path.display()),
    }
}

/// A URL's credentials are nobody's business.
fn without_password(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => match rest.split_once('/') {
            Some((authority, path)) => {
                format!("{scheme}://{}/{path}", authority.rsplit('@').next().unwrap_or(authority))
            }
            None => url.to_owned(),
        },
        None => url.to_owned(),
    }
}

fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(folder).args(arguments).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Who applies what from where.
pub(crate) fn provenance(directory: Option<&Path>, plan: &Plan) -> Provenance {
    let log = directory.and_then(|directory| git(directory, &["log", "-1", "--format=%H%n%an <%ae>%n%s", "--", "."]));
    let mut lines = log.as_deref().unwrap_or_default().lines().map(str::to_owned);
    // What is not committed came from no commit.
    let clean = directory
        .and_then(|directory| git(directory, &["status", "--porcelain", "--", "."]))
        .is_some_and(|s| s.is_empty());
    let commit = lines.next().unwrap_or_default();
    Provenance {
        applied_by: who(),
        source: plan.source.clone(),
        commit: if clean || commit.is_empty() { commit } else { format!("{commit}-dirty") },
        author: lines.next().unwrap_or_default(),
        message: lines.next().unwrap_or_default(),
    }
}

/// Who runs this, for the record.
pub(crate) fn who() -> String {
    format!("{}@{}", user(), host())
}

fn user() -> String {
    nix::unistd::User::from_uid(nix::unistd::getuid())
        .ok()
        .flatten()
        .map_or_else(|| "somebody".to_owned(), |user| user.name)
}

fn host() -> String {
    nix::unistd::gethostname().map_or_else(|_| "somewhere".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Says on stderr when the last apply was cut short.
pub(crate) async fn note_interrupted(client: &kube::Client, set: &Set) {
    let Ok(all) = history::list(client.clone(), set).await else { return };
    if let Some(revision) = history::interrupted(&all) {
        eprintln!(
            "{} revision {} by {} at {} was not applied to its end, or is being applied now",
            colour::error("note:"),
            revision.number,
            revision.provenance.applied_by,
            revision.time
        );
    }
}

/// Shows the plan, asks, and applies it.
pub(crate) async fn run(
    client: &kube::Client,
    plan: &Plan,
    how: &Release,
    force_conflicts: bool,
    agreed: bool,
    reason: Option<String>,
    provenance: Provenance,
) -> anyhow::Result<ExitCode> {
    note_interrupted(client, &plan.set).await;
    let json = how.answer.output == Form::Json;
    let paint = if colour::paints_stdout() && !json { Paint::Colours } else { Paint::Plain };
    match json {
        false => crate::commands::tell(&show::text(plan, paint))?,
        // Who is asked has to see it.
        true if !agreed => eprintln!("{}", show::text(plan, paint)),
        true => {}
    }
    if !plan.problems.is_empty() {
        let refused = Err(exit::bad_input("the plan has problems, and nothing was changed"));
        return if json { results::ended(&document(plan, "refused", Vec::new()), refused) } else { refused };
    }
    if !plan.is_empty() && !agreed && !asked()? {
        return Err(exit::bad_input("nothing was changed"));
    }
    let options = Options {
        apply: delivery::apply::Options {
            force_conflicts,
            wait: (!how.no_wait).then(|| Duration::from_secs(how.timeout)),
            ..delivery::apply::Options::default()
        },
        lock: lock::Request {
            wait: how.lock_wait.map(Duration::from_secs),
            ..lock::Request::of_this_process(user(), reason.unwrap_or_else(|| "apply".to_owned()))
        },
        provenance,
        keep: how.keep,
        rollback: how.rollback,
    };
    let objects = Mutex::new(Vec::new());
    let progress = |event: Event| {
        if let (true, Some(entry), Ok(mut all)) = (json, entry(&event), objects.lock()) {
            all.push(entry);
        }
        tell(event);
    };
    let released = delivery::release::release(client.clone(), plan, &options, &progress).await;
    if let Ok(Released { outcome, revision: Some(revision) }) = &released {
        eprintln!("{} revision {}: {} done", colour::good("applied"), revision.number, outcome.done);
    }
    let told = json.then(|| ended(plan, &released, objects.into_inner().unwrap_or_default()));
    let outcome = released.map(|_| ExitCode::SUCCESS).map_err(anyhow::Error::from);
    match told {
        Some(told) => results::ended(&told, outcome),
        None => outcome,
    }
}

/// How a release ended, for scripts: documented in docs/plan-and-apply.md, and stable.
fn document(plan: &Plan, state: &str, objects: Vec<Value>) -> Value {
    json!({ "format": FORMAT, "state": state, "plan": show::json(plan), "objects": objects })
}

fn ended(plan: &Plan, released: &Result<Released, ReleaseError>, objects: Vec<Value>) -> Value {
    let state = match released {
        Ok(Released { revision: Some(_), .. }) => "applied",
        Ok(_) => "unchanged",
        Err(error) if error.changed_nothing() => "refused",
        Err(_) => "failed",
    };
    let mut told = document(plan, state, objects);
    match released {
        Ok(Released { revision: Some(revision), .. }) => told["revision"] = revision.number.into(),
        Ok(_) => {}
        Err(error) => told["cause"] = error.to_string().into(),
    }
    if let Err(ReleaseError::Apply { back: Some(back), .. }) = released {
        told["restored"] = (*back).into();
    }
    told
}

/// What was done with an object, for scripts.
fn entry(event: &Event) -> Option<Value> {
    match event {
        Event::Done { action, object } => Some(json!({ "action": action, "object": object })),
        Event::Kept { object, why } => Some(json!({ "action": Action::Keep, "object": object, "note": why })),
        Event::Health { .. } | Event::Waits { .. } => None,
    }
}

/// The question, on a terminal.
fn asked() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(exit::bad_input(
            "there is nobody to ask; apply with --yes, or keep the plan with `coracle plan --out`",
        ));
    }
    eprint!("Apply this? Only `yes` is yes: ");
    std::io::stderr().flush().context("cannot ask")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    Ok(answer.trim() == "yes")
}

fn tell(event: Event) {
    match event {
        Event::Done { action, object } => {
            let word = match action {
                Action::Create => "created",
                Action::Change => "changed",
                Action::Adopt => "adopted",
                Action::Replace => "replaced",
                Action::Move => "made under its new name",
                Action::Delete => "deleted",
                Action::Keep => "kept",
            };
            eprintln!("{object} {word}");
        }
        Event::Health { object, health } => {
            let said = format!("{object} {} {}", health.status.as_str().to_lowercase(), health.message);
            eprintln!("{}", colour::dim(said.trim_end()));
        }
        Event::Waits { held } => eprintln!("{}", colour::dim(&format!("waiting: {held}"))),
        Event::Kept { object, why } => eprintln!("{object} kept: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_no_part_of_a_source() {
        assert_eq!(without_password("https://mia:token@git.example/x/y.git"), "https://git.example/x/y.git");
        assert_eq!(without_password("git@git.example:x/y.git"), "git@git.example:x/y.git");
    }

    #[test]
    fn a_set_is_named_after_its_directory() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("My_Shop");
        std::fs::create_dir(&inner).unwrap();
        assert_eq!(derived(&[inner]).as_deref(), Some("my-shop"));
        assert_eq!(derived(&[PathBuf::from("-")]), None);
    }
}
