//! `coracle version`.

use crate::cli::{Form, Version};
use crate::commands::say;
use resources::names::KUBERNETES_VERSION;
use std::process::ExitCode;

/// The version with the Kubernetes version whose API is spoken.
pub(crate) const LONG: &str = concat!(env!("CARGO_PKG_VERSION"), " (Kubernetes API 1.33)");

pub(crate) fn run(arguments: &Version) -> anyhow::Result<ExitCode> {
    match arguments.answer.output {
        Form::Text => say(&format!("coracle {LONG}")),
        Form::Json => {
            say(&serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "kubernetes": KUBERNETES_VERSION.2 })
                .to_string())
        }
    }
    Ok(ExitCode::SUCCESS)
}
