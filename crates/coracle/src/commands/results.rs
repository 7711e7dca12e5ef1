//! What became of objects, one after the other: a line each for people as it happens, one document at the end for scripts, also of what
//! ended early. The document is described in docs/plan-and-apply.md, and stable.

use crate::cli::Form;
use crate::commands::say;
use crate::exit;
use crate::kinds::Resource;
use serde_json::{Value, json};

/// What became of them so far.
pub(crate) struct Results {
    form: Form,
    objects: Vec<Value>,
}

impl Results {
    pub(crate) fn new(form: Form) -> Self {
        Self { form, objects: Vec::new() }
    }

    /// Takes in what became of one; `line` is what people read of it.
    pub(crate) fn add(&mut self, resource: &Resource, namespace: &str, name: &str, result: &str, line: Option<&str>) {
        match (self.form, line) {
            (Form::Text, Some(line)) => say(line),
            (Form::Text, None) => {}
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
        if self.form == Form::Json {
            let mut told = json!({ "objects": self.objects });
            if let Err(error) = &outcome {
                told["error"] = exit::sentence(error).into();
            }
            say(&serde_json::to_string_pretty(&told)?);
        }
        outcome
    }
}
