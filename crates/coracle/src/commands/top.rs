//! `coracle top`: a live table of who calls whom, how often, how well and how fast.

use crate::cli::{Form, Top};
use crate::commands::get::layout;
use crate::commands::say;
use crate::connect::Api;
use crate::exit;
use crate::seen::{Edge, Window, windows};
use anyhow::Context;
use serde::Deserialize;
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The page that the numbers are from.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    connections: u64,
    in_flight: u64,
    edges: Vec<Edge>,
}

/// What is shown at a time.
struct Picture {
    connections: u64,
    in_flight: u64,
    windows: Vec<Window>,
}

pub(crate) async fn run(arguments: Top) -> anyhow::Result<ExitCode> {
    if !(arguments.interval.is_finite() && (0.1..=3600.0).contains(&arguments.interval)) {
        return Err(exit::bad_input("--interval is between 0.1 and 3600 seconds"));
    }
    let api = Api::of(&arguments.target).await?;
    let terminal = std::io::stdout().is_terminal() && arguments.output == Form::Text && !arguments.once;
    let (mut before, mut looked) = (counts(&api).await?, Instant::now());
    if arguments.total {
        before.edges.clear();
    }
    loop {
        if !arguments.total {
            // Counters wake nobody: they are looked at as often as a person looks.
            tokio::time::sleep(Duration::from_secs_f64(arguments.interval)).await;
        }
        let now = counts(&api).await?;
        let seconds = looked.elapsed().as_secs_f64();
        looked = Instant::now();
        let windows = windows(&before.edges, &now.edges, seconds, arguments.by_route);
        let picture = Picture { connections: now.connections, in_flight: now.in_flight, windows };
        show(&picture, &arguments, terminal)?;
        if arguments.once || arguments.total {
            return Ok(ExitCode::SUCCESS);
        }
        before = now;
    }
}

async fn counts(api: &Api) -> anyhow::Result<Counts> {
    serde_json::from_value(api.get("/coracle/v1/edges").await?).context("the edges are of another version of Coracle")
}

fn show(picture: &Picture, arguments: &Top, terminal: bool) -> anyhow::Result<()> {
    if arguments.output == Form::Json {
        let line =
            json!({ "connections": picture.connections, "inFlight": picture.in_flight, "edges": picture.windows });
        say(&line.to_string());
        return Ok(());
    }
    if terminal {
        // The cursor goes home and all below it is cleared (ECMA-48), which flickers less than clearing first.
        print!("\x1b[H\x1b[J");
    }
    say(&format!("{} connections, {} requests under way", picture.connections, picture.in_flight));
    say("");
    let rows = rows(&picture.windows, arguments.by_route, arguments.total);
    let most = if terminal { height().saturating_sub(4) } else { usize::MAX };
    layout(&rows).iter().take(most).for_each(|line| say(line));
    if picture.windows.is_empty() {
        say("no requests in this time");
    }
    Ok(std::io::stdout().flush()?)
}

/// How many lines the terminal has, as the shell says; tables are cut to it.
fn height() -> usize {
    std::env::var("LINES").ok().and_then(|lines| lines.parse().ok()).unwrap_or(50)
}

fn rows(windows: &[Window], by_route: bool, total: bool) -> Vec<Vec<String>> {
    let mut head = vec!["SOURCE", "DESTINATION"];
    head.extend(by_route.then_some("ROUTE"));
    head.extend([if total { "REQUESTS" } else { "RPS" }, "ERRORS", "P50", "P99", "IN/S", "OUT/S"]);
    if total {
        head.truncate(head.len() - 2);
    }
    // Only where there are any: most edges have requests alone.
    let connections = windows.iter().any(|window| window.connections > 0 || window.open > 0);
    head.extend(connections.then_some(if total { "CONNS" } else { "OPEN" }));
    let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for window in windows {
        let mut row = vec![window.source.clone(), window.destination.clone()];
        row.extend(window.route.clone());
        row.push(if total { window.requests.to_string() } else { format!("{:.1}", window.rate) });
        row.push(format!("{:.1}%", window.errors * 100.0));
        row.extend([window.p50_ms, window.p99_ms].map(milliseconds));
        if !total {
            row.extend([window.request_bytes_rate, window.response_bytes_rate].map(size));
        }
        row.extend(connections.then(|| if total { window.connections } else { window.open }.to_string()));
        rows.push(row);
    }
    rows
}

fn milliseconds(time: Option<f64>) -> String {
    match time {
        None => "-".to_owned(),
        Some(time) if time >= 1_000.0 => format!("{:.1} s", time / 1_000.0),
        Some(time) if time >= 10.0 => format!("{time:.0} ms"),
        Some(time) => format!("{time:.1} ms"),
    }
}

fn size(bytes: f64) -> String {
    match bytes {
        bytes if bytes >= 1e6 => format!("{:.1} MB", bytes / 1e6),
        bytes if bytes >= 1e3 => format!("{:.1} kB", bytes / 1e3),
        bytes => format!("{bytes:.0} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_one_row_an_edge() {
        let window = Window {
            source: "gateway".into(),
            destination: "shop/web".into(),
            route: None,
            requests: 12,
            rate: 6.0,
            errors: 0.25,
            refused: 0.0,
            p50_ms: Some(0.75),
            p99_ms: Some(1_500.0),
            request_bytes_rate: 0.0,
            response_bytes_rate: 2_500_000.0,
            connections: 0,
            open: 0,
        };
        let lines = layout(&rows(std::slice::from_ref(&window), false, false));
        assert_eq!(lines[1], "gateway   shop/web      6.0   25.0%    0.8 ms   1.5 s   0 B    2.5 MB");
        let open = Window { open: 3, ..window.clone() };
        assert_eq!(layout(&rows(&[open], false, false))[1], format!("{}   3", lines[1]));
        let total = layout(&rows(&[window], false, true));
        assert_eq!(total[1], "gateway   shop/web      12         25.0%    0.8 ms   1.5 s");
    }
}
