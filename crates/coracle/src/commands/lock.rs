//! `coracle lock list|release`: who is applying which set, syncs from Git included.

use crate::cli::{Form, Lock, LockCommand};
use crate::commands::{say, synced};
use crate::{connect, exit};
use delivery::applyset::Set;
use delivery::lock;
use std::process::ExitCode;

pub(crate) async fn run(arguments: Lock) -> anyhow::Result<ExitCode> {
    match arguments.what {
        LockCommand::List { target, answer } => {
            let client = connect::client_of(&target).await?;
            let held = lock::list(client, None).await?;
            if answer.output == Form::Json {
                say(&serde_json::to_string_pretty(&held)?);
                return Ok(ExitCode::SUCCESS);
            }
            if held.is_empty() {
                say("nobody is applying anything");
            }
            for one in held {
                let at = format!("{} on {} (process {})", one.holder, one.host, one.pid);
                say(&format!(
                    "{}/{}: {at} since {}, until {} unless renewed: {}",
                    one.namespace, one.set, one.since, one.expires, one.reason
                ));
            }
        }
        LockCommand::Release { set, at, answer } => {
            let client = connect::client_of(&at.target).await?;
            let namespace = connect::namespace_of(&client, &at.scope);
            let synced = if set.contains('/') { synced::find(&client, &set, &namespace).await? } else { None };
            let set = synced.map_or_else(|| Set::new(namespace, set), |synced| synced.set());
            match lock::release(client, &set).await? {
                Some(held) if answer.output == Form::Json => say(&serde_json::to_string_pretty(&held)?),
                Some(held) => {
                    say(&format!("the lock of {} is free; {} on {} had it", set.name, held.holder, held.host))
                }
                None => {
                    return Err(exit::bad_input(format!("nobody holds the lock of {} in {}", set.name, set.namespace)));
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
