//! `coracle trace`: the hops of one request as a tree, with the slow one named; or the last requests.

use crate::cli::{Form, Trace};
use crate::colour;
use crate::commands::get::{layout, percent};
use crate::commands::say;
use crate::connect::Api;
use anyhow::Context;
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;
use telemetry::Record;
use telemetry::tree::{Hop, build, slowest};

/// How many of the last requests are shown.
const LAST: usize = 20;

pub(crate) async fn run(arguments: Trace) -> anyhow::Result<ExitCode> {
    let api = Api::of(&arguments.target).await?;
    let Some(id) = &arguments.id else {
        let records = records(&api, &format!("/coracle/v1/records?last={LAST}")).await?;
        if arguments.answer.output == Form::Json {
            say(&serde_json::to_string(&records)?);
        } else {
            layout(&rows(&records)).iter().for_each(|line| say(line));
        }
        return Ok(ExitCode::SUCCESS);
    };
    let found = records(&api, &format!("/coracle/v1/records?id={}", percent(id))).await?;
    anyhow::ensure!(
        !found.is_empty(),
        "no recent request has the id {id:?}. The last 10,000 that were sampled or failed are kept in memory, up to 100 new \
         traces a second; the access log goes further back"
    );
    let roots = build(found);
    let slow = slowest(&roots);
    if arguments.answer.output == Form::Json {
        let hops: Vec<_> = roots.iter().map(as_json).collect();
        say(&json!({ "hops": hops, "slowest": slow.map(as_line) }).to_string());
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![["HOP", "STATUS", "TIME", "OWN", "REQUEST", ""].map(str::to_owned).to_vec()];
    roots.iter().for_each(|root| draw(root, "", "", slow, &mut rows));
    layout(&rows).iter().for_each(|line| say(line));
    say("");
    if let Some(slow) = slow {
        say(&verdict(slow, &roots));
    }
    Ok(ExitCode::SUCCESS)
}

async fn records(api: &Api, path: &str) -> anyhow::Result<Vec<Record>> {
    let answer = api.get(path).await?;
    serde_json::from_value(answer["records"].clone()).context("the records are of another version of Coracle")
}

fn rows(records: &[Record]) -> Vec<Vec<String>> {
    let mut rows =
        vec![["REQUEST ID", "SOURCE", "DESTINATION", "STATUS", "TIME", "REQUEST"].map(str::to_owned).to_vec()];
    for record in records {
        rows.push(vec![
            record.request_id.clone(),
            record.source.clone(),
            record.destination.clone(),
            status(record),
            milliseconds(record.duration),
            format!("{} {}", record.method, record.path),
        ]);
    }
    rows
}

fn status(record: &Record) -> String {
    match &record.reason {
        Some(reason) => format!("{} {reason}", record.status),
        None => record.status.to_string(),
    }
}

/// One line a hop, indented as what it caused.
fn draw(hop: &Hop, prefix: &str, branch: &str, slow: Option<&Hop>, rows: &mut Vec<Vec<String>>) {
    let record = &hop.record;
    let likely = if hop.inferred { " (likely)" } else { "" };
    let mark = if slow.is_some_and(|slow| std::ptr::eq(slow, hop)) { "<- slowest" } else { "" };
    rows.push(vec![
        format!("{prefix}{branch}{} -> {}{likely}", record.source, record.destination),
        status(record),
        milliseconds(record.duration),
        milliseconds(hop.own),
        format!("{} {}", record.method, record.path),
        mark.to_owned(),
    ]);
    let below = match branch {
        "" => prefix.to_owned(),
        "└─ " => format!("{prefix}   "),
        _ => format!("{prefix}│  "),
    };
    for (place, child) in hop.children.iter().enumerate() {
        let branch = if place + 1 == hop.children.len() { "└─ " } else { "├─ " };
        draw(child, &below, branch, slow, rows);
    }
}

fn verdict(slow: &Hop, roots: &[Hop]) -> String {
    let record = &slow.record;
    let all: Duration = roots.iter().map(|root| root.record.duration).max().unwrap_or_default();
    let share = if all.is_zero() { 0.0 } else { slow.own.as_secs_f64() / all.as_secs_f64() * 100.0 };
    let where_to = record.upstream.as_deref().map(|upstream| format!(" at {upstream}")).unwrap_or_default();
    format!(
        "slowest: {} -> {}{where_to}: {} of {} ({share:.0}%) were spent there and not further on",
        record.source,
        colour::by_name(&record.destination, &record.destination, false),
        milliseconds(slow.own),
        milliseconds(all),
    )
}

fn milliseconds(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1_000.0;
    if milliseconds >= 100.0 { format!("{milliseconds:.0} ms") } else { format!("{milliseconds:.1} ms") }
}

fn as_line(hop: &Hop) -> serde_json::Value {
    json!({ "source": hop.record.source, "destination": hop.record.destination, "spanId": hop.record.span_id,
        "ownMs": hop.own.as_secs_f64() * 1_000.0 })
}

fn as_json(hop: &Hop) -> serde_json::Value {
    let children: Vec<_> = hop.children.iter().map(as_json).collect();
    json!({ "record": hop.record, "inferred": hop.inferred, "ownMs": hop.own.as_secs_f64() * 1_000.0, "children": children })
}
