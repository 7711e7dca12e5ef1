//! `coracle history`: the revisions of a set, or of what an application synced, the newest first.

use crate::cli::{Form, History};
use crate::commands::say;
use crate::commands::synced::{self, Told};
use crate::{connect, exit};
use delivery::applyset::Set;
use delivery::history::{self, State};
use std::process::ExitCode;

pub(crate) async fn run(arguments: History) -> anyhow::Result<ExitCode> {
    let client = connect::client_of(&arguments.at.target).await?;
    let set = Set::new(connect::namespace_of(&client, &arguments.at.scope), arguments.set.clone());
    let applied = if set.name.contains('/') { Vec::new() } else { history::list(client.clone(), &set).await? };
    let mut all: Vec<Told> = applied.into_iter().map(Told::from).collect();
    if all.is_empty()
        && let Some(synced) = synced::find(&client, &set.name, &set.namespace).await?
    {
        if let Some(reason) = synced.nothing_yet() {
            return Err(exit::bad_input(reason));
        }
        eprintln!("{} is kept as Git says; this is what was synced", synced.label());
        all = synced.history();
    }
    if all.is_empty() {
        return Err(exit::bad_input(nothing_of(&set)));
    }
    if arguments.answer.output == Form::Json {
        say(&serde_json::to_string_pretty(&all.iter().map(Told::value).collect::<Vec<_>>())?);
        return Ok(ExitCode::SUCCESS);
    }
    say("REVISION  STATE     TIME                  BY                COMMIT        WHAT");
    for told in &all {
        say(&line(told));
    }
    Ok(ExitCode::SUCCESS)
}

/// Of a name under which nothing was ever applied.
pub(crate) fn nothing_of(set: &Set) -> String {
    format!(
        "the set {} in {} has no history: nothing was applied with `coracle apply DIR`, or synced from Git under that name",
        set.name, set.namespace
    )
}

fn line(told: &Told) -> String {
    let revision = &told.revision;
    let number = told.number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let state = match revision.state {
        State::Applying => "applying",
        State::Healthy => "healthy",
        State::Failed => "failed",
    };
    let commit: String = revision.provenance.commit.chars().take(12).collect();
    let mut what = revision.summary.clone();
    for more in [&revision.provenance.message, &revision.cause] {
        if let Some(first) = more.lines().next() {
            what.push_str(&format!("; {first}"));
        }
    }
    let by = &revision.provenance.applied_by;
    format!("{:<8}  {state:<8}  {:<20}  {by:<16}  {commit:<12}  {what}", number, revision.time)
}
