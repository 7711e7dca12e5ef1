//! `coracle history`: the revisions of a set, the newest first.

use crate::cli::{Form, History};
use crate::commands::say;
use crate::{connect, exit};
use delivery::applyset::Set;
use delivery::history::{self, Revision, State};
use std::process::ExitCode;

pub(crate) async fn run(arguments: History) -> anyhow::Result<ExitCode> {
    let client = connect::client_of(&arguments.target).await?;
    let set = Set::new(arguments.scope.namespace.clone(), arguments.set.clone());
    let all = history::list(client, &set).await?;
    if arguments.output == Form::Json {
        say(&serde_json::to_string_pretty(&all)?);
        return Ok(ExitCode::SUCCESS);
    }
    if all.is_empty() {
        let what = format!(
            "the set {} in {} has no history; nothing was applied with `coracle apply DIR`",
            set.name, set.namespace
        );
        return Err(exit::bad_input(what));
    }
    say("REVISION  STATE     TIME                  BY                COMMIT        WHAT");
    for revision in &all {
        say(&line(revision));
    }
    Ok(ExitCode::SUCCESS)
}

fn line(revision: &Revision) -> String {
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
    format!("{:<8}  {state:<8}  {:<20}  {by:<16}  {commit:<12}  {what}", revision.number, revision.time)
}
