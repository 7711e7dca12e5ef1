//! `coracle drift`: what is no longer as it was applied. Exit code 0: nothing, 2: something, 1: an error.

use crate::cli::{Drift, Form};
use crate::commands::say;
use crate::commands::synced::{self, Synced};
use crate::connect::{self, MANAGER};
use crate::exit;
use delivery::api::Api;
use delivery::applyset::Set;
use delivery::drift;
use serde_json::json;
use std::process::ExitCode;

pub(crate) async fn run(arguments: Drift) -> anyhow::Result<ExitCode> {
    match told(&arguments).await {
        Ok(code) => Ok(code),
        Err(error) => {
            exit::report(&error);
            Ok(ExitCode::from(1))
        }
    }
}

async fn told(arguments: &Drift) -> anyhow::Result<ExitCode> {
    let client = connect::client_of(&arguments.at.target).await?;
    let set = Set::new(connect::namespace_of(&client, &arguments.at.scope), arguments.set.clone());
    if set.name.contains('/')
        && let Some(synced) = synced::find(&client, &set.name, &set.namespace).await?
    {
        return of_synced(client, &synced, arguments.answer.output).await;
    }
    let found = drift::drift_to_the_pods(client, &set, MANAGER).await?;
    match arguments.answer.output {
        Form::Json => {
            let (status, reason, message, objects) = drift::summary(&found);
            let condition = json!({ "type": "Drifted", "status": status, "reason": reason, "message": message });
            say(&serde_json::to_string_pretty(&json!({ "condition": condition, "objects": objects, "drift": found }))?);
        }
        Form::Text if found.is_empty() => say("every object is as it was applied"),
        Form::Text => found.iter().for_each(|one| say(&drift::sentence(one))),
    }
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// What the sync says of an application, which it looks at all the time, and what was patched of its Pods.
async fn of_synced(client: kube::Client, synced: &Synced, form: Form) -> anyhow::Result<ExitCode> {
    if let Some(reason) = synced.nothing_yet() {
        return Err(exit::bad_input(reason));
    }
    let status = &synced.object["status"];
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    let drifted = conditions.find(|one| one["type"] == "Drifted" && one["status"] != "False").cloned();
    let pods = drift::pods::patched(&Api::over(client), synced.members().iter()).await?;
    let well = drifted.is_none() && pods.is_empty();
    let said = drifted.as_ref().and_then(|one| one["message"].as_str());
    match form {
        Form::Text if well => say("every object is as the repository says"),
        Form::Text => {
            said.into_iter().for_each(say);
            pods.iter().for_each(|one| say(&drift::sentence(one)));
        }
        Form::Json => {
            let none = || json!({ "type": "Drifted", "status": "False", "reason": "AsApplied" });
            let told = json!({ "condition": drifted.unwrap_or_else(none), "drift": pods });
            say(&serde_json::to_string_pretty(&told)?);
        }
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::from(2) })
}
