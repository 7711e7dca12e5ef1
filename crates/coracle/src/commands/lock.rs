//! `coracle lock list|release`: who is applying which set.

use crate::cli::{Form, Lock, LockCommand};
use crate::commands::{say, synced};
use crate::{connect, exit};
use delivery::applyset::Set;
use delivery::lock;
use std::process::ExitCode;

pub(crate) async fn run(arguments: Lock) -> anyhow::Result<ExitCode> {
    match arguments.what {
        LockCommand::List { target, output } => {
            let client = connect::client_of(&target).await?;
            let held = lock::list(client.clone(), None).await?;
            if output == Form::Json {
                say(&serde_json::to_string_pretty(&held)?);
                return Ok(ExitCode::SUCCESS);
            }
            let syncs = synced::under_way(&client).await?;
            syncs.iter().for_each(|line| say(line));
            if held.is_empty() && syncs.is_empty() {
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
        LockCommand::Release { set, scope, target } => {
            let set = Set::new(scope.namespace, set);
            match lock::release(connect::client_of(&target).await?, &set).await? {
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
