//! Structured logs: one JSON object a line on stdout, nothing else.

use serde_json::{Map, Value};
use std::io::Write;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

static ORIGIN: OnceLock<(String, String, bool)> = OnceLock::new();

/// Remembers who is speaking. `LOG_LEVEL=debug` also shows each request.
pub(crate) fn init(service: &str) {
    let pod = std::env::var("POD_NAME").unwrap_or_default();
    let debug = std::env::var("LOG_LEVEL").is_ok_and(|level| level.eq_ignore_ascii_case("debug"));
    let _ = ORIGIN.set((service.to_owned(), pod, debug));
}

pub(crate) fn info(message: &str, fields: &[(&str, Value)]) {
    write("info", message, fields);
}

pub(crate) fn error(message: &str, fields: &[(&str, Value)]) {
    write("error", message, fields);
}

pub(crate) fn debug(message: &str, fields: &[(&str, Value)]) {
    if ORIGIN.get().is_some_and(|origin| origin.2) {
        write("debug", message, fields);
    }
}

fn write(level: &str, message: &str, fields: &[(&str, Value)]) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut line = Map::new();
    line.insert("time".into(), (now.as_millis() as u64).into());
    line.insert("level".into(), level.into());
    line.insert("message".into(), message.into());
    if let Some((service, pod, _)) = ORIGIN.get() {
        line.insert("service".into(), service.as_str().into());
        line.insert("pod".into(), pod.as_str().into());
    }
    for (name, value) in fields {
        line.insert((*name).to_owned(), value.clone());
    }
    // A reader that went away is no reason to stop serving.
    let _ = writeln!(std::io::stdout().lock(), "{}", Value::Object(line));
}
