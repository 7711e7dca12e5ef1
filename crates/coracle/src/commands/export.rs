//! `coracle export`: manifests of what lives, on stdout.

use crate::cli::Export;
use crate::commands::{references, say};
use crate::{connect, exit};
use delivery::api::Api;
use delivery::{export, kustomize, object, order};
use serde_json::Value;
use std::process::ExitCode;

pub(crate) async fn run(arguments: Export) -> anyhow::Result<ExitCode> {
    let client = connect::client_of(&arguments.at.target).await?;
    let namespace = &connect::namespace_of(&client, &arguments.at.scope);
    let api = Api::over(client);
    let kinds = api.kinds().await?;
    let mut found: Vec<Value> = Vec::new();
    if arguments.what.is_empty() {
        for resource in kinds.preferred().filter(|resource| resource.namespaced && resource.can("list")) {
            found.extend(
                api.list(&resource.path(Some(namespace), None), "").await?.into_iter().filter(export::is_wanted),
            );
        }
    } else {
        for (kind, name) in references(&arguments.what)? {
            let resource = kinds.find(&kind)?;
            match name {
                Some(name) => {
                    let live = api.find(&resource.path(Some(namespace), Some(&name))).await?;
                    found.push(
                        live.ok_or_else(|| exit::bad_input(format!("there is no {kind}/{name} in {namespace}")))?,
                    );
                }
                None => {
                    let all = api.list(&resource.path(Some(namespace), None), "").await?;
                    found.extend(all.into_iter().filter(export::is_wanted));
                }
            }
        }
    }
    if found.is_empty() {
        if api.find(&format!("/api/v1/namespaces/{namespace}")).await?.is_none() {
            return Err(exit::bad_input(format!("there is no namespace {namespace}")));
        }
        eprintln!("there is nothing in {namespace} that somebody wrote");
        return Ok(ExitCode::SUCCESS);
    }
    let secret = |object: &Value| object::kind(object) == "Secret";
    if arguments.without_secrets {
        found.retain(|object| !secret(object));
    } else if found.iter().any(secret) {
        eprintln!("the Secrets are written in clear; --without-secrets leaves them out");
    }
    let mut manifests: Vec<Value> = found.iter().map(export::clean).collect();
    order::sort(&mut manifests);
    say(kustomize::to_yaml(&manifests).trim_end());
    Ok(ExitCode::SUCCESS)
}
