//! Which resources a patch or a replacement is for.
//!
//! Invariants: patterns are anchored at both ends; an empty part accepts anything; a name or namespace matches when it is or
//! was the resource's. It must not know: what is done with those chosen.

use super::error::{Error, Result};
use super::id::Gvk;
use super::resource::Resource;
use regex::Regex;
use rules::select::LabelSelector;

/// A selector as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selector {
    pub(super) gvk: Gvk,
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) labels: String,
    pub(super) annotations: String,
}

/// A selector whose patterns are read.
pub(super) struct Chosen {
    group: Pattern,
    version: Pattern,
    kind: Pattern,
    name: Pattern,
    namespace: Pattern,
    labels: Option<LabelSelector>,
    annotations: Option<LabelSelector>,
}

struct Pattern(Option<Regex>);

impl Pattern {
    fn new(field: &str, text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let problem = |error| Error::new(format!("{field}: `{text}` is not a regular expression: {error}"));
        Regex::new(&format!("^(?:{text})$")).map(|regex| Self(Some(regex))).map_err(problem)
    }

    fn accepts(&self, text: &str) -> bool {
        self.0.as_ref().is_none_or(|regex| regex.is_match(text))
    }
}

/// A label selector's text; none when it is empty.
pub(super) fn labels(field: &str, text: &str) -> Result<Option<LabelSelector>> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let problem = |error| Error::new(format!("{field}: `{text}` is not a selector: {error}"));
    LabelSelector::parse(text).map(Some).map_err(problem)
}

impl Selector {
    /// Reads the patterns.
    pub(super) fn compile(&self) -> Result<Chosen> {
        Ok(Chosen {
            group: Pattern::new("target.group", &self.gvk.group)?,
            version: Pattern::new("target.version", &self.gvk.version)?,
            kind: Pattern::new("target.kind", &self.gvk.kind)?,
            name: Pattern::new("target.name", &self.name)?,
            namespace: Pattern::new("target.namespace", &self.namespace)?,
            labels: labels("target.labelSelector", &self.labels)?,
            annotations: labels("target.annotationSelector", &self.annotations)?,
        })
    }
}

impl Chosen {
    pub(super) fn accepts(&self, resource: &Resource) -> bool {
        let (group, version) = super::id::split_api_version(resource.api_version());
        if !(self.group.accepts(group) && self.version.accepts(version) && self.kind.accepts(resource.kind())) {
            return false;
        }
        let either = |pattern: &Pattern, now: &str, first: &str| pattern.accepts(first) || pattern.accepts(now);
        let (now, first) = (resource.id(), resource.original_id());
        either(&self.name, &now.name, &first.name)
            && either(&self.namespace, now.effective_namespace(), first.effective_namespace())
            && self.labels.as_ref().is_none_or(|labels| labels.matches(&resource.labels()))
            && self.annotations.as_ref().is_none_or(|labels| labels.matches(&resource.annotations()))
    }
}
