//! Where objects came from and what changed them, as annotations for those who ask by `buildMetadata`.
//!
//! Invariants: paths are relative to the kustomization that is built. It must not know: files.

use super::remote::Spec;
use super::resource::{ORIGIN, Resource, TRANSFORMATIONS};
use std::path::Path;

/// Where something is from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) path: String,
    repo: String,
    reference: String,
    configured_in: String,
    /// apiVersion, kind, name and namespace of what configured it.
    configured_by: [String; 4],
}

impl Origin {
    /// What this one names by a path.
    pub(super) fn join(&self, path: &str) -> Self {
        let mut origin = self.clone();
        if let Ok(Some(spec)) = Spec::parse(path) {
            origin.repo = spec.repository;
            origin.reference = spec.reference;
            origin.path = clean("", if spec.path.is_empty() { "notCloned" } else { &spec.path });
            return origin;
        }
        origin.path = clean(&self.path, path);
        origin
    }

    /// A built-in generator or transformer of the kustomization at this place.
    pub(super) fn builtin(&self, file: &str, kind: &str) -> Self {
        Self {
            path: String::new(),
            configured_in: clean(&self.path, file),
            configured_by: ["builtin".to_owned(), kind.to_owned(), String::new(), String::new()],
            ..self.clone()
        }
    }

    /// A generator or transformer that is configured by an object of its own.
    pub(super) fn of_plugin(config: &Resource) -> Option<Self> {
        let origin = read(config.annotation(ORIGIN)?);
        let texts = [config.api_version(), config.kind(), config.name(), config.namespace()].map(str::to_owned);
        Some(Self { path: String::new(), configured_in: origin.path.clone(), configured_by: texts, ..origin })
    }

    /// As an annotation's text.
    pub(super) fn text(&self) -> String {
        self.lines().iter().map(|line| format!("{line}\n")).collect()
    }

    fn lines(&self) -> Vec<String> {
        let pairs = [
            ("path", &self.path),
            ("repo", &self.repo),
            ("ref", &self.reference),
            ("configuredIn", &self.configured_in),
        ];
        let mut lines: Vec<String> = (pairs.iter().filter(|(_, value)| !value.is_empty()))
            .map(|(name, value)| format!("{name}: {}", scalar(value)))
            .collect();
        if self.configured_by.iter().any(|text| !text.is_empty()) {
            lines.push("configuredBy:".to_owned());
            for (name, value) in ["apiVersion", "kind", "name", "namespace"].iter().zip(&self.configured_by) {
                if !value.is_empty() {
                    lines.push(format!("  {name}: {}", scalar(value)));
                }
            }
        }
        lines
    }
}

/// An annotation's text as an origin.
fn read(text: &str) -> Origin {
    let value = super::read::configuration(text, super::read::Twice::LastWins).unwrap_or_default();
    let get = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let by = |name: &str| value["configuredBy"][name].as_str().unwrap_or_default().to_owned();
    Origin {
        path: get("path"),
        repo: get("repo"),
        reference: get("ref"),
        configured_in: get("configuredIn"),
        configured_by: ["apiVersion", "kind", "name", "namespace"].map(by),
    }
}

/// A scalar of an annotation's own YAML.
fn scalar(text: &str) -> String {
    let yaml = super::write::to_yaml(&[serde_json::Value::String(text.to_owned())]);
    yaml.trim_end().to_owned()
}

/// Both paths together, without `.` and `..` where that can be.
fn clean(base: &str, path: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in Path::new(base).join(path).components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir if parts.last().is_some_and(|last| last != "..") => {
                parts.pop();
            }
            other => parts.push(other.as_os_str().to_string_lossy().into_owned()),
        }
    }
    parts.join("/")
}

/// Notes where a resource is from, unless that is known.
pub(super) fn note(resource: &mut Resource, origin: &Origin) {
    if resource.annotation(ORIGIN).is_none() {
        resource.set_annotation(ORIGIN, &origin.text());
    }
}

/// Notes that a step was applied to a resource; one that has no origin is taken as made by it.
pub(super) fn note_step(resource: &mut Resource, origin: &Origin) {
    if resource.annotation(ORIGIN).is_none() {
        return resource.set_annotation(ORIGIN, &origin.text());
    }
    let mut text = resource.annotation(TRANSFORMATIONS).unwrap_or_default().to_owned();
    for (at, line) in origin.lines().iter().enumerate() {
        text.push_str(if at == 0 { "- " } else { "  " });
        text.push_str(line);
        text.push('\n');
    }
    resource.set_annotation(TRANSFORMATIONS, &text);
}
