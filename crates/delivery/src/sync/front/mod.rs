//! The kinds in which users say what is to be in sync: Argo CD's `Application`, Flux's `GitRepository` and `Kustomization`.
//!
//! Pure: objects as JSON in, one [`Application`](super::application::Application) or sentences out. What is not supported
//! is refused by its name.

pub mod argo;
pub mod cron;
pub mod flux;
pub mod project;
pub mod window;

use serde_json::Value;

/// A text field; empty where there is none.
pub(crate) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// The texts of a list.
pub(crate) fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What an application says of the building of recipes.
fn build(object: &Value) -> Option<bool> {
    match crate::object::annotation(object, super::programs::BUILD) {
        Some("enabled" | "true") => Some(true),
        Some("disabled" | "false") => Some(false),
        _ => None,
    }
}
