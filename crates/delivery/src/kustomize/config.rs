//! Where names, labels, images and so on stand in objects: built in, added to by `configurations` and `crds`.
//!
//! Invariants: what a base adds holds for its overlays too. It must not know: resources.

use super::error::{At, Result};
use super::fields::Field;
use super::fieldspec::{FieldSpec, FieldSpecs, merge_all, merge_one};
use super::id::Gvk;
use super::read::{self, Twice};
use super::settings::field_spec;
use serde_json::Value;
use std::sync::{Arc, LazyLock};

/// The fields that hold the name of a kind of object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NameReference {
    /// What is named.
    pub(super) target: Gvk,
    /// Where its name stands.
    pub(super) fields: FieldSpecs,
}

/// All places by purpose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) name_prefix: FieldSpecs,
    pub(super) name_suffix: FieldSpecs,
    pub(super) namespace: FieldSpecs,
    pub(super) common_labels: FieldSpecs,
    pub(super) labels: FieldSpecs,
    pub(super) template_labels: FieldSpecs,
    pub(super) common_annotations: FieldSpecs,
    pub(super) name_reference: Vec<NameReference>,
    pub(super) var_reference: FieldSpecs,
    pub(super) images: FieldSpecs,
    pub(super) replicas: FieldSpecs,
}

static DEFAULT: LazyLock<Arc<Config>> = LazyLock::new(|| Arc::new(super::defaults::config()));

/// What is built in.
pub(super) fn builtin() -> Arc<Config> {
    DEFAULT.clone()
}

impl Config {
    /// Both together. Places that disagree about being made are refused.
    pub(super) fn merge(own: &Arc<Config>, more: &Arc<Config>) -> Result<Arc<Config>> {
        if Arc::ptr_eq(own, more) {
            return Ok(own.clone());
        }
        let mut merged = Config::clone(own);
        merged.absorb(more)?;
        Ok(Arc::new(merged))
    }

    fn absorb(&mut self, more: &Config) -> Result<()> {
        let lists = [
            (&mut self.name_prefix, &more.name_prefix, "namePrefix"),
            (&mut self.name_suffix, &more.name_suffix, "nameSuffix"),
            (&mut self.namespace, &more.namespace, "namespace"),
            (&mut self.common_labels, &more.common_labels, "commonLabels"),
            (&mut self.labels, &more.labels, "labels"),
            (&mut self.template_labels, &more.template_labels, "templateLabels"),
            (&mut self.common_annotations, &more.common_annotations, "commonAnnotations"),
            (&mut self.var_reference, &more.var_reference, "varReference"),
            (&mut self.images, &more.images, "images"),
            (&mut self.replicas, &more.replicas, "replicas"),
        ];
        for (own, more, name) in lists {
            merge_all(own, more).at(|| name.to_owned())?;
            own.sort_by_cached_key(|spec| spec.gvk.rank());
        }
        for reference in &more.name_reference {
            self.absorb_reference(reference).at(|| "nameReference".to_owned())?;
        }
        self.name_reference.sort_by_cached_key(|reference| reference.target.rank());
        Ok(())
    }

    fn absorb_reference(&mut self, more: &NameReference) -> Result<()> {
        match self.name_reference.iter_mut().find(|own| own.target == more.target) {
            Some(own) => merge_all(&mut own.fields, &more.fields),
            None => {
                self.name_reference.push(more.clone());
                Ok(())
            }
        }
    }

    /// Reads a file that `configurations` names.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let value = read::configuration(text, Twice::Refused)?;
        if value.is_null() {
            return Ok(Self::default());
        }
        let known = [
            "namePrefix",
            "nameSuffix",
            "namespace",
            "commonLabels",
            "labels",
            "templateLabels",
            "commonAnnotations",
            "nameReference",
            "varReference",
            "images",
            "replicas",
        ];
        let fields = Field::root(&value, true).fields(&known)?;
        let specs = |name: &str| -> Result<FieldSpecs> {
            let mut specs = fields.each(name, field_spec)?;
            specs.sort_by_cached_key(|spec| spec.gvk.rank());
            Ok(specs)
        };
        let mut name_reference = fields.each("nameReference", name_reference)?;
        name_reference.sort_by_cached_key(|reference| reference.target.rank());
        Ok(Self {
            name_prefix: specs("namePrefix")?,
            name_suffix: specs("nameSuffix")?,
            namespace: specs("namespace")?,
            common_labels: specs("commonLabels")?,
            labels: specs("labels")?,
            template_labels: specs("templateLabels")?,
            common_annotations: specs("commonAnnotations")?,
            name_reference,
            var_reference: specs("varReference")?,
            images: specs("images")?,
            replicas: specs("replicas")?,
        })
    }
}

fn name_reference(field: &Field<'_>) -> Result<NameReference> {
    let fields = field.fields(&["group", "version", "kind", "fieldSpecs"])?;
    let target = Gvk { group: fields.text("group")?, version: fields.text("version")?, kind: fields.text("kind")? };
    Ok(NameReference { target, fields: fields.each("fieldSpecs", field_spec)? })
}

/// Deepest nesting of types that is followed.
const MAX_DEPTH: usize = 20;

/// Reads a file that `crds` names: definitions in the form of OpenAPI, whose extensions say what their fields hold.
pub(super) fn from_crds(text: &str) -> Result<Config> {
    let document = read::configuration(text, Twice::LastWins)?;
    let mut config = Config::default();
    for (name, definition) in document.as_object().into_iter().flatten() {
        let properties = properties(definition);
        if !["kind", "apiVersion", "metadata"].iter().all(|field| properties.get(field).is_some()) {
            continue;
        }
        let kind = name.rsplit('.').next().unwrap_or(name);
        let gvk = Gvk { kind: kind.to_owned(), ..Gvk::default() };
        let mut own = Config::default();
        from_definition(&mut own, &gvk, &document, name, &[])?;
        config.absorb(&own)?;
    }
    Ok(config)
}

fn properties(definition: &Value) -> &Value {
    let schema = definition.get("Schema").or_else(|| definition.get("schema")).unwrap_or(&Value::Null);
    &schema["properties"]
}

fn from_definition(config: &mut Config, gvk: &Gvk, document: &Value, name: &str, path: &[&str]) -> Result<()> {
    let Some(definition) = document.get(name).filter(|_| path.len() < MAX_DEPTH) else { return Ok(()) };
    for (field, property) in properties(definition).as_object().into_iter().flatten() {
        let path: Vec<&str> = path.iter().copied().chain([field.as_str()]).collect();
        let spec = |more: &[&str]| {
            let path: Vec<&str> = path.iter().chain(more).copied().collect();
            FieldSpec { gvk: gvk.clone(), path: path.join("/"), create: false }
        };
        let says = |name: &str| property[name].as_str();
        if says("x-kubernetes-annotation").is_some() {
            merge_one(&mut config.common_annotations, spec(&[]))?;
        }
        if says("x-kubernetes-label-selector").is_some() {
            merge_one(&mut config.common_labels, spec(&[]))?;
        }
        if says("x-kubernetes-identity").is_some() {
            merge_one(&mut config.name_prefix, spec(&[]))?;
        }
        let (version, kind) = (says("x-kubernetes-object-ref-api-version"), says("x-kubernetes-object-ref-kind"));
        if let (Some(version), Some(kind)) = (version, kind) {
            let key = says("x-kubernetes-object-ref-name-key").unwrap_or("name");
            let target = Gvk { group: String::new(), version: version.to_owned(), kind: kind.to_owned() };
            config.absorb_reference(&NameReference { target, fields: vec![spec(&[key])] })?;
        }
        if let Some(reference) = says("$ref") {
            from_definition(config, gvk, document, reference, &path)?;
        }
    }
    Ok(())
}
