//! `coracle git add-remote`: the running Coracle as a remote of the repository here.

use crate::cli::{Form, Git, GitCommand};
use crate::commands::say;
use crate::{connect, data_dir, exit};
use anyhow::Context;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, ExitCode};

pub(crate) fn run(arguments: &Git) -> anyhow::Result<ExitCode> {
    let GitCommand::AddRemote { name, remote, repository, target, answer } = &arguments.what;
    let data = connect::data_of(target)?;
    let holder = data_dir::running(&data);
    let url = holder.and_then(|holder| holder.git).ok_or_else(|| {
        exit::not_running(format!("no Coracle with a Git remote is running with the data directory {}", data.display()))
    })?;
    let directory = repository.canonicalize().with_context(|| format!("cannot find {}", repository.display()))?;
    let own = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = name.clone().unwrap_or(own);
    if !delivery::sync::is_repository_name(&name) {
        return Err(exit::bad_input(format!(
            "{name:?} is no name of a repository: take up to 53 letters, digits, - and _: coracle git add-remote NAME"
        )));
    }
    let url = format!("{url}/{name}.git");
    let known = git(&directory, &["remote"])?.lines().any(|line| line == remote);
    git(&directory, &["remote", if known { "set-url" } else { "add" }, remote, &url])?;
    // A header of this one URL, in this repository's own configuration, which only its owner reads.
    let header = format!("http.{url}.extraHeader");
    git(&directory, &["config", "--local", &header, &format!("Authorization: Bearer {}", token(target)?)])?;
    if answer.output == Form::Json {
        let told = json!({ "remote": remote, "url": url, "repository": directory.display().to_string() });
        say(&serde_json::to_string_pretty(&told)?);
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!("remote {remote} is {url}; now: git push {remote} HEAD:main"));
    Ok(ExitCode::SUCCESS)
}

/// The token of the kubeconfig.
fn token(target: &crate::cli::Target) -> anyhow::Result<String> {
    let path = connect::kubeconfig_of(target)?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let config: Value = serde_saphyr::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
    let token = config["users"][0]["user"]["token"].as_str();
    Ok(token.with_context(|| format!("{} holds no token", path.display()))?.to_owned())
}

fn git(directory: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("git").arg("-C").arg(directory).args(arguments).output();
    let output = output.context("cannot run git; is it installed?")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(exit::bad_input(format!("git {}: {said}", arguments.first().copied().unwrap_or_default())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
