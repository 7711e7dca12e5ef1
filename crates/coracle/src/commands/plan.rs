//! `coracle plan`: what applying would change. Exit code 0: nothing, 2: something, 1: an error.

use crate::cli::{Form, Plan};
use crate::commands::{release, say};
use crate::{colour, connect, exit};
use anyhow::Context;
use delivery::plan::show::{self, Paint};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

pub(crate) async fn run(arguments: Plan) -> anyhow::Result<ExitCode> {
    match planned(&arguments).await {
        Ok(code) => Ok(code),
        // Wrong input is an error here like any other: 2 says that there are changes.
        Err(error) => {
            exit::report(&error);
            Ok(ExitCode::from(1))
        }
    }
}

async fn planned(arguments: &Plan) -> anyhow::Result<ExitCode> {
    let paths = match &arguments.directory {
        Some(directory) => vec![directory.clone()],
        None => arguments.files.clone(),
    };
    let client = connect::client_of(&arguments.wanted.at.target).await?;
    let source = release::source_of(&paths);
    let plan = release::plan(&client, &paths, &arguments.wanted, &source).await?;
    match arguments.answer.output {
        Form::Text => {
            let paint = if colour::paints_stdout() { Paint::Colours } else { Paint::Plain };
            release::note_interrupted(&client, &plan.set).await;
            say(&show::text(&plan, paint));
        }
        Form::Json => say(&serde_json::to_string_pretty(&show::json(&plan))?),
    }
    if !plan.problems.is_empty() {
        return Ok(ExitCode::from(1));
    }
    if let Some(file) = &arguments.out {
        keep(file, &plan).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(if plan.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// Writes the plan so that nobody else reads it, whole or not at all.
fn keep(file: &Path, plan: &delivery::plan::Plan) -> anyhow::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let beside = Path::new(&name);
    let mut open = std::fs::OpenOptions::new();
    let mut written = open.write(true).create(true).truncate(true).mode(0o600).open(beside)?;
    serde_json::to_writer(&mut written, plan)?;
    written.flush()?;
    written.sync_all()?;
    std::fs::rename(beside, file)?;
    Ok(())
}
