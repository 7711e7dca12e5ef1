//! `coracle delete`: by name, by label or by manifest; waits until the objects are gone.

use crate::cli::{Cascade, Delete};
use crate::commands::get::percent;
use crate::commands::references;
use crate::commands::results::Results;
use crate::connect::{self, Api};
use crate::kinds::Resource;
use crate::{exit, manifests, order};
use delivery::protect::Confirmation;
use futures::StreamExt;
use serde_json::{Value, json};
use std::process::ExitCode;

struct Victim {
    resource: Resource,
    namespace: String,
    name: String,
}

pub(crate) async fn run(arguments: Delete) -> anyhow::Result<ExitCode> {
    let api = Api::of(&arguments.at.target).await?;
    let victims =
        if arguments.files.is_empty() { named(&api, &arguments).await? } else { listed(&api, &arguments).await? };
    let mut options = json!({
        "kind": "DeleteOptions", "apiVersion": "v1",
        "propagationPolicy": match arguments.cascade {
            Cascade::Background => "Background",
            Cascade::Foreground => "Foreground",
            Cascade::Orphan => "Orphan",
        },
    });
    if let Some(seconds) = arguments.grace_period {
        options["gracePeriodSeconds"] = seconds.into();
    }
    let mut results = Results::new(arguments.answer.output);
    let outcome = one_by_one(&api, &victims, &arguments, &options, &mut results).await;
    results.end(outcome)
}

async fn one_by_one(
    api: &Api,
    victims: &[Victim],
    arguments: &Delete,
    options: &Value,
    results: &mut Results,
) -> anyhow::Result<ExitCode> {
    if arguments.at.target.kubeconfig.is_some() || arguments.at.target.context.is_some() {
        hold(api, victims, arguments).await?;
    }
    let mut gone = Vec::new();
    let mut missing = 0;
    for victim in victims {
        let mut add =
            |result, line: Option<&str>| results.add(&victim.resource, &victim.namespace, &victim.name, result, line);
        let path = victim.resource.path(Some(&victim.namespace), Some(&victim.name));
        if let Some(reason) = arguments.reason.as_ref().filter(|_| arguments.confirm_delete.contains(&victim.name)) {
            let confirmation = Confirmation { object: String::new(), reason: reason.clone() };
            match api.merge(&path, &confirmation.patch(&victim.name)).await {
                Ok(_) => {}
                Err(error) if connect::is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        match api.delete(&path, options).await {
            Ok(answer) => {
                add("deleted", Some(&format!("{} \"{}\" deleted", victim.resource.label(), victim.name)));
                let uid = answer["metadata"]["uid"].as_str().or(answer["details"]["uid"].as_str()).unwrap_or_default();
                gone.push((victim, uid.to_owned()));
            }
            Err(error) if connect::is_not_found(&error) => {
                eprintln!("{} \"{}\" is not there", victim.resource.label(), victim.name);
                add("missing", None);
                missing += 1;
            }
            Err(error) => return Err(error),
        }
    }
    if !arguments.no_wait {
        for (victim, uid) in gone {
            wait_until_gone(api, victim, &uid).await?;
        }
    }
    Ok(if missing > 0 { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// Refuses what is protected before anything is deleted: another cluster may have nobody else who does.
async fn hold(api: &Api, victims: &[Victim], arguments: &Delete) -> anyhow::Result<()> {
    let reason = arguments.reason.as_deref().unwrap_or_default();
    let objects = delivery::api::Api::over(api.client().clone());
    let kinds = objects.kinds().await?;
    for victim in victims {
        if arguments.confirm_delete.contains(&victim.name) && !reason.trim().is_empty() {
            continue;
        }
        let path = victim.resource.path(Some(&victim.namespace), Some(&victim.name));
        let Some(live) = objects.find(&path).await? else { continue };
        if let Some(why) = delivery::protect::held::why(&objects, &kinds, &live).await? {
            let (label, name) = (victim.resource.label(), &victim.name);
            anyhow::bail!(
                "{label} \"{name}\": {why}; nothing was deleted; to delete it nevertheless: coracle delete {label}/{name} --confirm-delete {name} --reason WHY"
            );
        }
    }
    Ok(())
}

async fn named(api: &Api, arguments: &Delete) -> anyhow::Result<Vec<Victim>> {
    let kinds = api.kinds().await?;
    let namespace = api.namespace(&arguments.at.scope);
    let mut victims = Vec::new();
    for (kind, name) in references(&arguments.what)? {
        let resource = kinds.find(&kind)?;
        match (name, &arguments.selector) {
            (Some(name), _) => victims.push(Victim { resource, namespace: namespace.clone(), name }),
            (None, Some(selector)) => {
                let path = format!("{}?labelSelector={}", resource.path(Some(&namespace), None), percent(selector));
                let list = api.get(&path).await?;
                for item in list["items"].as_array().into_iter().flatten() {
                    let name = item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                    victims.push(Victim { resource: resource.clone(), namespace: namespace.clone(), name });
                }
            }
            (None, None) => {
                return Err(exit::bad_input(format!("which {kind}? Write {kind}/NAME, or select some with -l")));
            }
        }
    }
    Ok(victims)
}

async fn listed(api: &Api, arguments: &Delete) -> anyhow::Result<Vec<Victim>> {
    let mut found = manifests::read(&arguments.files)?;
    order::for_apply(&mut found, |manifest| &manifest.object);
    let kinds = api.kinds().await?;
    let default = api.namespace(&arguments.at.scope);
    // The reverse of applying, so that nothing refers to what is gone.
    let victim = |manifest: &manifests::Manifest| {
        if manifest.name().is_empty() {
            return Err(exit::bad_input(format!(
                "{} has no metadata.name that is text, so it names no object; nothing was deleted",
                manifest.label()
            )));
        }
        let Some(resource) = kinds.of(manifest.api_version(), manifest.kind()).cloned() else {
            return Err(exit::bad_input(format!(
                "the API has no kind {} in {}, which {} is of; nothing was deleted",
                manifest.kind(),
                manifest.api_version(),
                manifest.label()
            )));
        };
        let namespace = manifest.namespace().unwrap_or(&default).to_owned();
        Ok(Victim { resource, namespace, name: manifest.name().to_owned() })
    };
    found.iter().rev().map(victim).collect()
}

/// Waits for the object of this uid to go; another one of the same name is not it.
async fn wait_until_gone(api: &Api, victim: &Victim, uid: &str) -> anyhow::Result<()> {
    let selector = percent(&format!("metadata.name={}", victim.name));
    let base = victim.resource.path(Some(&victim.namespace), None);
    let is_it = |object: &Value| object["metadata"]["uid"] == uid;
    loop {
        let list = api.get(&format!("{base}?fieldSelector={selector}")).await?;
        if !list["items"].as_array().into_iter().flatten().any(is_it) {
            return Ok(());
        }
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("0");
        let path = format!("{base}?watch=true&fieldSelector={selector}&resourceVersion={version}&timeoutSeconds=300");
        let mut events = Box::pin(api.watch(&path, "application/json").await?);
        while let Some(event) = events.next().await {
            let event = event?;
            if event["type"] == "DELETED" && is_it(&event["object"]) {
                return Ok(());
            }
            if event["type"] == "ERROR" {
                break;
            }
        }
    }
}
