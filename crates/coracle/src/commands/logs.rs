//! `coracle logs`: a container's log, by Pod or by the workload that owns the Pod.

use crate::cli::Logs;
use crate::commands::get::percent;
use crate::connect::Api;
use crate::exit;
use futures::StreamExt;
use std::io::Write;
use std::process::ExitCode;

pub(crate) async fn run(arguments: Logs) -> anyhow::Result<ExitCode> {
    let api = Api::of(&arguments.at.target).await?;
    let pod = pod_of(&api, &arguments).await?;
    let mut query = vec![format!("follow={}", arguments.follow), format!("previous={}", arguments.previous)];
    query.push(format!("timestamps={}", arguments.timestamps));
    query.extend(arguments.container.as_ref().map(|name| format!("container={}", percent(name))));
    query.extend(arguments.tail.filter(|n| *n >= 0).map(|n| format!("tailLines={n}")));
    query.extend(arguments.since.map(|n| format!("sinceSeconds={n}")));
    let namespace = api.namespace(&arguments.at.scope);
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/log?{}", query.join("&"));
    let mut chunks = Box::pin(api.stream(&path).await?);
    while let Some(chunk) = chunks.next().await {
        let mut out = std::io::stdout().lock();
        if out.write_all(&chunk?).and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The Pod that is meant: itself, or the first of a workload's.
async fn pod_of(api: &Api, arguments: &Logs) -> anyhow::Result<String> {
    let Some((kind, name)) = arguments.pod.split_once('/') else {
        return Ok(arguments.pod.clone());
    };
    let resource = api.resource(kind).await?;
    if resource.kind == "Pod" {
        return Ok(name.to_owned());
    }
    let namespace = api.namespace(&arguments.at.scope);
    let namespace = Some(namespace.as_str());
    let owner = api.get(&resource.path(namespace, Some(name))).await?;
    let Some(labels) = owner["spec"]["selector"]["matchLabels"].as_object() else {
        return Err(exit::bad_input(format!("{} has no Pods to read a log of", arguments.pod)));
    };
    let selector: Vec<String> =
        labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    let pods = api.resource("pods").await?;
    let path = format!("{}?labelSelector={}", pods.path(namespace, None), percent(&selector.join(",")));
    let list = api.get(&path).await?;
    let found =
        list["items"].as_array().and_then(|items| items.first()).and_then(|pod| pod["metadata"]["name"].as_str());
    found.map(str::to_owned).ok_or_else(|| anyhow::anyhow!("{} has no Pods now", arguments.pod))
}
