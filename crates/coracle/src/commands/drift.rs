//! `coracle drift`: what is no longer as it was applied. Exit code 0: nothing, 2: something, 1: an error.

use crate::cli::{Drift, Form};
use crate::commands::say;
use crate::connect::{self, MANAGER};
use crate::exit;
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
    let client = connect::client_of(&arguments.target).await?;
    let set = Set::new(connect::namespace_of(&client, &arguments.scope), arguments.set.clone());
    let found = drift::drift(client, &set, MANAGER).await?;
    match arguments.output {
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
