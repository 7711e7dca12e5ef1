//! What became of objects, one after the other: a line each for people as it happens, one document at the end for scripts, also of what
//! ended early. The document is described in docs/plan-and-apply.md, and stable.

use crate::cli::Form;
use crate::commands::tell;
use crate::exit;
use crate::kinds::Resource;
use serde_json::{Value, json};

/// What became of them so far.
pub(crate) struct Results {
    form: Form,
    objects: Vec<Value>,
    /// Whether all lines could be written.
    written: anyhow::Result<()>,
}

impl Results {
    pub(crate) fn new(form: Form) -> Self {
        Self { form, objects: Vec::new(), written: Ok(()) }
    }

    /// Takes in what became of one; `line` is what people read of it.
    pub(crate) fn add(&mut self, resource: &Resource, namespace: &str, name: &str, result: &str, line: Option<&str>) {
        match (self.form, line) {
            (Form::Text, Some(line)) if self.written.is_ok() => self.written = tell(line),
            (Form::Text, _) => {}
            (Form::Json, _) => {
                let mut object = json!({ "apiVersion": resource.api_version(), "kind": resource.kind, "name": name, "result": result });
                if resource.namespaced {
                    object["namespace"] = namespace.into();
                }
                self.objects.push(object);
            }
        }
    }

    /// Tells scripts all of it, and why it ended early; the outcome stays what it is.
    pub(crate) fn end<T>(self, outcome: anyhow::Result<T>) -> anyhow::Result<T> {
        if self.form == Form::Text {
            return both(outcome, self.written);
        }
        let mut told = json!({ "objects": self.objects });
        if let Err(error) = &outcome {
            told["error"] = exit::sentence(error).into();
        }
        ended(&told, outcome)
    }
}

/// Tells scripts how something ended, which stays what it is; what went well and cannot be told is a failure.
pub(crate) fn ended<T>(told: &Value, outcome: anyhow::Result<T>) -> anyhow::Result<T> {
    let written = serde_json::to_string_pretty(told).map_err(anyhow::Error::from).and_then(|text| tell(&text));
    both(outcome, written)
}

fn both<T>(outcome: anyhow::Result<T>, written: anyhow::Result<()>) -> anyhow::Result<T> {
    match (outcome, written) {
        (Ok(done), Ok(())) => Ok(done),
        (Ok(_), Err(error)) => Err(error),
        (Err(failed), written) => {
            if let Err(error) = written {
                exit::report(&error);
            }
            Err(failed)
        }
    }
}
