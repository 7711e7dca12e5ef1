//! `coracle break-glass`: suspends syncing for a person's own hands, shows what was done, hands back.
//!
//! It needs the API alone: a sync that is broken, or not running, is held all the same.

use crate::cli::{BreakGlass, Form};
use crate::commands::release::who;
use crate::commands::{say, synced};
use crate::{connect, exit};
use delivery::api::{Api, ApplyMode};
use delivery::object;
use delivery::sync::break_glass::{Glass, PATH, SESSIONS, Session};
use serde_json::{Value, json};
use std::process::ExitCode;

pub(crate) async fn run(arguments: BreakGlass) -> anyhow::Result<ExitCode> {
    let api = Api::over(connect::client_of(&arguments.target).await?);
    if api.kinds().await?.of_group("argoproj.io", "Application").is_none() {
        return Err(exit::bad_input("nothing is kept from Git there; only a Coracle keeps applications in sync"));
    }
    let map = api.find(PATH).await?.unwrap_or_default();
    let glass = Glass::read(&map);
    match &arguments.reason {
        Some(reason) => begin(&api, &glass, &arguments, reason).await,
        None if arguments.end => end(&api, &glass, &arguments).await,
        None => {
            show(&glass, arguments.answer.output);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn now() -> anyhow::Result<String> {
    let now = jiff::Timestamp::now();
    Ok(jiff::Timestamp::from_second(now.as_second())?.to_string())
}

/// Refuses a name that nothing has, as holding that would hold nothing. Where they cannot be listed, nobody is kept from acting.
async fn is_there(api: &Api, named: &str) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for (_, collection, _) in synced::KINDS {
        match api.list(collection, "").await {
            Ok(some) => all.extend(some),
            Err(error) if error.is_not_found() => {}
            Err(_) => return Ok(()),
        }
    }
    let names = |object: &Value| {
        let (namespace, name) = (object::namespace(object), object::name(object));
        [name.to_owned(), format!("{namespace}/{name}")]
    };
    if all.iter().flat_map(names).any(|name| name == *named) {
        return Ok(());
    }
    let known: Vec<String> = all.iter().take(10).map(|object| names(object)[1].clone()).collect();
    let known = if known.is_empty() { "there is none".to_owned() } else { format!("there is {}", known.join(", ")) };
    Err(exit::bad_input(format!("there is no application {named}; {known}")))
}

/// Adds to the record. Only the keys that are named change.
async fn write(api: &Api, data: Value) -> anyhow::Result<()> {
    let metadata = json!({ "name": "coracle-break-glass", "namespace": "kube-system" });
    if api.find(PATH).await?.is_none() {
        let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata });
        let mode = ApplyMode { manager: connect::MANAGER, force: true, dry_run: false };
        api.apply(PATH, &object, mode).await?;
    }
    api.merge(PATH, &json!({ "data": data }), connect::MANAGER).await?;
    Ok(())
}

async fn begin(api: &Api, glass: &Glass, arguments: &BreakGlass, reason: &str) -> anyhow::Result<ExitCode> {
    if reason.trim().is_empty() {
        return Err(exit::bad_input("say why with --reason; it is kept with what is done"));
    }
    if let Some(named) = &arguments.app {
        is_there(api, named).await?;
    }
    let application = arguments.app.clone().unwrap_or_else(|| "*".to_owned());
    let since = now()?;
    let session = Session {
        reason: reason.to_owned(),
        by: who(),
        application: application.clone(),
        since: since.clone(),
        ended: None,
        ended_by: None,
    };
    let id = format!("{}-{}", since.replace([':', 'T'], "-").trim_end_matches('Z'), std::process::id());
    let mut data = json!({ format!("{id}.session"): serde_json::to_string(&session)? });
    // The oldest that were handed back make room.
    let closed = glass.sessions.iter().filter(|(_, session)| session.ended.is_some()).map(|(id, _)| id);
    for old in closed.take((glass.sessions.len() + 1).saturating_sub(SESSIONS)) {
        data[format!("{old}.session")] = Value::Null;
        data[format!("{old}.acts")] = Value::Null;
    }
    write(api, data).await?;
    let what = if application == "*" { "every application".to_owned() } else { application };
    if arguments.answer.output == Form::Json {
        say(&json!({ "session": id, "application": what }).to_string());
    } else {
        say(&format!("Git no longer changes {what}; act with kubectl or coracle, all of it is recorded"));
        say("hand back with: coracle break-glass --end");
    }
    Ok(ExitCode::SUCCESS)
}

async fn end(api: &Api, glass: &Glass, arguments: &BreakGlass) -> anyhow::Result<ExitCode> {
    let meant = |session: &Session| arguments.app.as_ref().is_none_or(|app| *app == session.application);
    let open: Vec<_> = glass.sessions.iter().filter(|(_, session)| session.ended.is_none() && meant(session)).collect();
    if open.is_empty() {
        return Err(exit::bad_input(
            "no break-glass session is open; `coracle break-glass --list` shows those that were",
        ));
    }
    let mut data = json!({});
    for (id, session) in &open {
        let session = Session { ended: Some(now()?), ended_by: Some(who()), ..(*session).clone() };
        data[format!("{id}.session")] = serde_json::to_string(&session)?.into();
    }
    write(api, data).await?;
    if arguments.answer.output == Form::Json {
        let ids: Vec<_> = open.iter().map(|(id, _)| id).collect();
        say(&json!({ "ended": ids }).to_string());
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!(
        "handed back: Git holds again ({} session{} ended)",
        open.len(),
        if open.len() == 1 { "" } else { "s" }
    ));
    Ok(ExitCode::SUCCESS)
}

fn show(glass: &Glass, form: Form) {
    if form == Form::Json {
        let sessions = glass.sessions.iter().map(|(id, session)| {
            json!({ "id": id, "session": session, "acts": glass.acts.get(id).cloned().unwrap_or_default() })
        });
        return say(&json!(sessions.collect::<Vec<_>>()).to_string());
    }
    if glass.sessions.is_empty() {
        return say("there was no break-glass session yet");
    }
    for (id, session) in &glass.sessions {
        let end = session.ended.as_ref().map_or_else(|| "open".to_owned(), |end| format!("ended {end}"));
        say(&format!(
            "{} {} by {} since {} ({end}): {}",
            id, session.application, session.by, session.since, session.reason
        ));
        for act in glass.acts.get(id).into_iter().flatten() {
            say(&format!("  {} {} {} by {}", act.at, act.object, act.what, act.manager));
        }
    }
}
