//! `coracle rollback`: an earlier revision, planned and applied like any other set.

use crate::cli::Rollback;
use crate::commands::history::nothing_of;
use crate::commands::{release, synced};
use crate::connect::{self, MANAGER};
use crate::exit;
use delivery::applyset::Set;
use delivery::history::{self, HistoryError, Provenance};
use std::process::ExitCode;

pub(crate) async fn run(arguments: Rollback) -> anyhow::Result<ExitCode> {
    let client = connect::client_of(&arguments.at.target).await?;
    let set = Set::new(connect::namespace_of(&client, &arguments.at.scope), arguments.set.clone());
    let all = if set.name.contains('/') { Vec::new() } else { history::list(client.clone(), &set).await? };
    if all.is_empty()
        && let Some(synced) = synced::find(&client, &set.name, &set.namespace).await?
    {
        return synced::roll_back(&client, &synced, arguments.revision, arguments.release.answer.output).await;
    }
    if all.is_empty() {
        return Err(exit::bad_input(nothing_of(&set)));
    }
    let chosen = history::choose(&all, arguments.revision).map_err(|error| match error {
        HistoryError::Missing { .. } | HistoryError::NoneHealthy => exit::bad_input(error.to_string()),
        other => other.into(),
    })?;
    let desired = delivery::release::manifests_of(client.clone(), &set, chosen).await?;
    let options = delivery::plan::Options {
        manager: MANAGER.to_owned(),
        namespace: set.namespace.clone(),
        ..delivery::plan::Options::default()
    };
    let plan = delivery::plan::plan(client.clone(), desired, &set, &options).await?;
    let now = release::provenance(None, &plan);
    let message = history::back_to(chosen.number);
    let provenance = Provenance { applied_by: now.applied_by, message, ..chosen.provenance.clone() };
    let (how, force) = (&arguments.release, arguments.force_conflicts);
    release::run(&client, &plan, how, force, how.yes, Some("rollback".to_owned()), provenance).await
}
