//! `coracle describe`: an object as indented text, what matters first, and its events.

use crate::cli::Describe;
use crate::commands::get::{layout, percent};
use crate::commands::{references, say};
use crate::connect::Api;
use crate::exit;
use serde_json::Value;
use std::process::ExitCode;

pub(crate) async fn run(arguments: Describe) -> anyhow::Result<ExitCode> {
    let api = Api::of(&arguments.at.target).await?;
    let kinds = api.kinds().await?;
    let namespace = api.namespace(&arguments.at.scope);
    let namespace = Some(namespace.as_str());
    for (place, (kind, name)) in references(&arguments.what)?.into_iter().enumerate() {
        let resource = kinds.find(&kind)?;
        let Some(name) = name else {
            return Err(exit::bad_input(format!("which {kind}? Write {kind}/NAME; `coracle get {kind}` lists them")));
        };
        let object = api.get(&resource.path(namespace, Some(&name))).await?;
        if place > 0 {
            say("");
        }
        lines(&object).iter().for_each(|line| say(line));
        events(&api, &object, resource.namespaced).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The object as text: names first, then the rest in order; bookkeeping of the API left out; Secrets' values masked.
fn lines(object: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let metadata = &object["metadata"];
    for (title, value) in
        [("Name", &metadata["name"]), ("Namespace", &metadata["namespace"]), ("Kind", &object["kind"])]
    {
        if let Some(text) = value.as_str() {
            out.push(format!("{title}: {text}"));
        }
    }
    for (title, key) in [("Labels", "labels"), ("Annotations", "annotations"), ("Owned by", "ownerReferences")] {
        if !metadata[key].is_null() {
            write(title, &metadata[key], 0, &mut out);
        }
    }
    for (title, key) in [("Created", "creationTimestamp"), ("Deleted", "deletionTimestamp")] {
        if let Some(text) = metadata[key].as_str() {
            out.push(format!("{title}: {text}"));
        }
    }
    let secret = object["kind"] == "Secret";
    for (key, value) in object.as_object().into_iter().flatten() {
        match key.as_str() {
            "metadata" | "kind" | "apiVersion" => {}
            "data" if secret => masked(value, &mut out),
            _ => write(&title(key), value, 0, &mut out),
        }
    }
    out
}

fn masked(data: &Value, out: &mut Vec<String>) {
    out.push("Data:".to_owned());
    for (key, value) in data.as_object().into_iter().flatten() {
        let length = value.as_str().unwrap_or_default().trim_end_matches('=').len() * 3 / 4;
        out.push(format!("  {key}: {length} bytes"));
    }
}

/// `containerPort` -> `Container Port`.
fn title(key: &str) -> String {
    if key.contains(['.', '/', '-']) {
        return key.to_owned();
    }
    let mut out = String::new();
    for (place, letter) in key.chars().enumerate() {
        if letter.is_uppercase() && !out.ends_with(|c: char| c.is_uppercase()) && place > 0 {
            out.push(' ');
        }
        if place == 0 { out.extend(letter.to_uppercase()) } else { out.push(letter) }
    }
    out
}

fn write(name: &str, value: &Value, depth: usize, out: &mut Vec<String>) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) if fields.is_empty() => out.push(format!("{indent}{name}: {{}}")),
        Value::Object(fields) => {
            out.push(format!("{indent}{name}:"));
            let verbatim = name == "Labels" || name == "Annotations" || name == "Data";
            for (key, value) in fields {
                let key = if verbatim { key.clone() } else { title(key) };
                write(&key, value, depth + 1, out);
            }
        }
        Value::Array(items) => {
            let plain = items.iter().all(|item| !item.is_object() && !item.is_array());
            if plain {
                let words: Vec<String> = items.iter().map(text).collect();
                return out.push(format!("{indent}{name}: {}", words.join(" ")));
            }
            out.push(format!("{indent}{name}:"));
            for (place, item) in items.iter().enumerate() {
                let label = ["name", "type", "key", "kind"].iter().find_map(|key| item[*key].as_str());
                let label = label.map_or_else(|| format!("- {}", place + 1), |label| format!("- {label}"));
                write(&label, item, depth + 1, out);
            }
        }
        _ => {
            let words = text(value);
            if words.contains('\n') {
                out.push(format!("{indent}{name}:"));
                out.extend(words.lines().map(|line| format!("{indent}  {line}")));
            } else {
                out.push(format!("{indent}{name}: {words}"));
            }
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

async fn events(api: &Api, object: &Value, namespaced: bool) -> anyhow::Result<()> {
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let namespace = if namespaced { object["metadata"]["namespace"].as_str().unwrap_or("default") } else { "default" };
    let selector = percent(&format!("involvedObject.uid={uid}"));
    let list = api.get(&format!("/api/v1/namespaces/{namespace}/events?fieldSelector={selector}&limit=500")).await?;
    let mut rows = vec![["TYPE", "REASON", "LAST", "FROM", "MESSAGE"].map(str::to_owned).to_vec()];
    let mut items = list["items"].as_array().cloned().unwrap_or_default();
    items.sort_by_key(|event| text(&event["lastTimestamp"]));
    for event in &items {
        let from = event["source"]["component"].as_str().or(event["reportingComponent"].as_str()).unwrap_or_default();
        let count = event["count"].as_i64().filter(|n| *n > 1).map_or_else(String::new, |n| format!(" (x{n})"));
        let last = event["lastTimestamp"].as_str().or(event["eventTime"].as_str()).unwrap_or_default();
        rows.push(vec![
            text(&event["type"]),
            text(&event["reason"]),
            format!("{last}{count}"),
            from.to_owned(),
            text(&event["message"]),
        ]);
    }
    if rows.len() == 1 {
        say("Events: none");
    } else {
        say("Events:");
        layout(&rows).iter().for_each(|line| say(&format!("  {line}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_reads_as_text_and_a_secret_keeps_its_values() {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "n", "labels": {"app": "x"}},
            "data": {"key": "aHVudGVyMg=="}, "type": "Opaque"});
        assert_eq!(
            lines(&secret),
            [
                "Name: s",
                "Namespace: n",
                "Kind: Secret",
                "Labels:",
                "  app: x",
                "Data:",
                "  key: 7 bytes",
                "Type: Opaque"
            ]
        );
        let pod = json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "args": ["a", "b"], "ports": [{"containerPort": 80}]}]}});
        assert_eq!(
            lines(&pod),
            [
                "Name: p",
                "Kind: Pod",
                "Spec:",
                "  Containers:",
                "    - c:",
                "      Args: a b",
                "      Name: c",
                "      Ports:",
                "        - 1:",
                "          Container Port: 80"
            ]
        );
    }
}
