//! `coracle get`: tables as the server makes them, or objects as JSON and YAML.

use crate::cli::{Get, GetOutput};
use crate::commands::{references, say};
use crate::connect::Api;
use crate::exit;
use crate::kinds::Resource;
use futures::StreamExt;
use serde_json::{Value, json};
use std::io::Write;
use std::process::ExitCode;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

pub(crate) async fn run(arguments: Get) -> anyhow::Result<ExitCode> {
    let api = Api::of(&arguments.at.target).await?;
    if let Some(path) = &arguments.raw {
        return raw(&api, path).await;
    }
    let kinds = api.kinds().await?;
    let mut wanted = Vec::new();
    for (kind, name) in references(&arguments.what)? {
        wanted.push((kinds.find(&kind)?, name));
    }
    if arguments.watch {
        let [(resource, name)] = wanted.as_slice() else {
            return Err(exit::bad_input("--watch takes one kind, or one object"));
        };
        return watch(&api, &arguments, resource, name.as_deref()).await;
    }
    match arguments.output {
        None | Some(GetOutput::Wide) => tables(&api, &arguments, &wanted).await?,
        Some(form) => objects(&api, &arguments, &wanted, form).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn raw(api: &Api, path: &str) -> anyhow::Result<ExitCode> {
    if !path.starts_with('/') {
        return Err(exit::bad_input(format!("{path:?} is no path; it begins with a slash, as in /metrics")));
    }
    let mut chunks = Box::pin(api.stream(path).await?);
    while let Some(chunk) = chunks.next().await {
        let mut out = std::io::stdout().lock();
        if out.write_all(&chunk?).and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(api: &Api, arguments: &Get, resource: &Resource, name: Option<&str>) -> String {
    let namespace = (!arguments.all_namespaces || name.is_some()).then(|| api.namespace(&arguments.at.scope));
    let mut path = resource.path(namespace.as_deref(), name);
    if let Some(selector) = &arguments.selector {
        path.push_str(&format!("?labelSelector={}", percent(selector)));
    }
    path
}

/// Percent-encodes a query value.
pub(crate) fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

async fn tables(api: &Api, arguments: &Get, wanted: &[(Resource, Option<String>)]) -> anyhow::Result<()> {
    let wide = arguments.output == Some(GetOutput::Wide);
    let mut printed = 0;
    for (resource, name) in wanted {
        let table = api.get_as(&path(api, arguments, resource, name.as_deref()), TABLE).await?;
        let lines = layout(&rows(&table, wide, arguments.all_namespaces && resource.namespaced, true));
        if lines.len() < 2 {
            continue;
        }
        if printed > 0 {
            say("");
        }
        lines.iter().for_each(|line| say(line));
        printed += 1;
    }
    if printed == 0 {
        let place = if arguments.all_namespaces {
            String::new()
        } else {
            format!(" in {} namespace", api.namespace(&arguments.at.scope))
        };
        eprintln!("No resources found{place}.");
    }
    Ok(())
}

/// The cells of a Table object, a header first where asked for.
pub(crate) fn rows(table: &Value, wide: bool, namespaces: bool, header: bool) -> Vec<Vec<String>> {
    let columns: Vec<(usize, &Value)> = table["columnDefinitions"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
        .filter(|(_, column)| wide || column["priority"].as_i64().unwrap_or(0) == 0)
        .collect();
    let mut rows = Vec::new();
    if header {
        let first = namespaces.then(|| "NAMESPACE".to_owned());
        let names = columns.iter().map(|(_, column)| column["name"].as_str().unwrap_or_default().to_uppercase());
        rows.push(first.into_iter().chain(names).collect());
    }
    for row in table["rows"].as_array().into_iter().flatten() {
        let first = namespaces.then(|| cell(&row["object"]["metadata"]["namespace"]));
        rows.push(first.into_iter().chain(columns.iter().map(|(place, _)| cell(&row["cells"][*place]))).collect());
    }
    rows
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "<none>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Pads the cells of each column to its widest, three spaces between.
pub(crate) fn layout(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |place: usize| rows.iter().filter_map(|r| r.get(place)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    rows.iter()
        .map(|row| {
            let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            padded.collect::<Vec<_>>().join("   ").trim_end().to_owned()
        })
        .collect()
}

async fn objects(
    api: &Api,
    arguments: &Get,
    wanted: &[(Resource, Option<String>)],
    form: GetOutput,
) -> anyhow::Result<()> {
    let mut found = Vec::new();
    for (resource, name) in wanted {
        let mut answer = api.get(&path(api, arguments, resource, name.as_deref())).await?;
        match answer["items"].take() {
            Value::Array(items) => found.extend(items.into_iter().map(|mut item| {
                // A list names its items' kind once; alone they must name it themselves.
                item["apiVersion"] = resource.api_version().into();
                item["kind"] = resource.kind.as_str().into();
                (resource, item)
            })),
            _ => {
                if let Some(object) = answer.as_object_mut() {
                    object.remove("items");
                }
                found.push((resource, answer));
            }
        }
    }
    if form == GetOutput::Name {
        for (resource, object) in &found {
            say(&format!("{}/{}", resource.label(), cell(&object["metadata"]["name"])));
        }
        return Ok(());
    }
    let named = wanted.len() == 1 && wanted[0].1.is_some();
    let answer = if named && found.len() == 1 {
        found.remove(0).1
    } else {
        let items: Vec<Value> = found.into_iter().map(|(_, object)| object).collect();
        json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": "" }, "items": items })
    };
    say(render(&answer, form)?.trim_end());
    Ok(())
}

fn render(value: &Value, form: GetOutput) -> anyhow::Result<String> {
    Ok(match form {
        GetOutput::Yaml => serde_saphyr::to_string(value)?,
        _ => serde_json::to_string_pretty(value)?,
    })
}

/// Prints what is there, then each change; widths stay those of the first table.
async fn watch(api: &Api, arguments: &Get, resource: &Resource, name: Option<&str>) -> anyhow::Result<ExitCode> {
    let table = !matches!(arguments.output, Some(GetOutput::Json | GetOutput::Yaml | GetOutput::Name));
    let accept = if table { TABLE } else { "application/json" };
    let wide = arguments.output == Some(GetOutput::Wide);
    let namespaces = arguments.all_namespaces && resource.namespaced;
    let base = path(api, arguments, resource, None);
    let mut query = format!("{}watch=true", if base.contains('?') { '&' } else { '?' });
    if let Some(name) = name {
        query.push_str(&format!("&fieldSelector={}", percent(&format!("metadata.name={name}"))));
    }
    let mut first = true;
    let mut events = Box::pin(api.watch(&format!("{base}{query}"), accept).await?);
    while let Some(event) = events.next().await {
        let event = event?;
        let object = &event["object"];
        match (event["type"].as_str(), arguments.output) {
            (Some("ERROR"), _) => anyhow::bail!("the watch ended: {}", cell(&object["message"])),
            (Some("BOOKMARK"), _) => {}
            (_, Some(GetOutput::Name)) => say(&format!("{}/{}", resource.label(), cell(&object["metadata"]["name"]))),
            (_, Some(form @ (GetOutput::Json | GetOutput::Yaml))) => say(&render(object, form)?),
            _ => {
                layout(&rows(object, wide, namespaces, first)).iter().for_each(|line| say(line));
                first = false;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_laid_out_in_columns() {
        let table = json!({
            "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Ready", "priority": 0}, {"name": "IP", "priority": 1}],
            "rows": [{"cells": ["orders-1", "1/1", "127.0.0.1"], "object": {"metadata": {"namespace": "shop"}}},
                     {"cells": ["a", "0/1", null], "object": {"metadata": {"namespace": "x"}}}]});
        assert_eq!(layout(&rows(&table, false, false, true)), ["NAME       READY", "orders-1   1/1", "a          0/1"]);
        assert_eq!(
            layout(&rows(&table, true, true, true)),
            [
                "NAMESPACE   NAME       READY   IP",
                "shop        orders-1   1/1     127.0.0.1",
                "x           a          0/1     <none>"
            ]
        );
    }

    #[test]
    fn query_values_are_encoded() {
        assert_eq!(percent("app=a,b!=c d"), "app%3Da%2Cb%21%3Dc%20d");
    }
}
