//! CustomResourceDefinitions as values: complete them, judge them, read what they serve, write their conditions.
//!
//! Invariants: pure functions over one definition (and, for names, those already taken); a definition that passes
//! [`validate`] can be read by [`served`] without loss. Must not know how definitions or their objects are stored.

mod check;
mod conditions;

use serde_json::{Value, json};

use crate::schema::{Schema, SchemaError};

pub use check::{validate, validate_update};
pub use conditions::{Taken, establish};

/// Where the `scale` subresource of a custom resource looks, as paths without the leading dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomScale {
    /// The wanted number of replicas, e.g. `spec.replicas`.
    pub spec: String,
    /// The observed number of replicas.
    pub status: String,
    /// The label selector as text, if declared.
    pub selector: Option<String>,
}

/// One served version of a custom resource.
#[derive(Clone, Debug)]
pub struct CustomResource {
    /// API group.
    pub group: String,
    /// Version name.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Kind of lists.
    pub list_kind: String,
    /// Name in paths.
    pub plural: String,
    /// Singular name.
    pub singular: String,
    /// Abbreviations.
    pub short_names: Vec<String>,
    /// Groups of resources, e.g. `all`.
    pub categories: Vec<String>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether objects are stored in this version.
    pub storage: bool,
    /// What to warn users of, when the version is deprecated.
    pub deprecation: Option<String>,
    /// Whether there is a `status` subresource.
    pub status: bool,
    /// The `scale` subresource, if there is one.
    pub scale: Option<CustomScale>,
    /// `additionalPrinterColumns`, `Null` when none are declared.
    pub columns: Value,
    /// Fields that field selectors may use, as paths without the leading dot.
    pub selectable: Vec<String>,
    /// Name of the published schema, e.g. `com.example.v1.Widget`.
    pub schema_name: String,
    /// `openAPIV3Schema` as declared.
    pub open_api: Value,
    /// The same, to work with.
    pub schema: Schema,
}

/// Fills in what a definition may leave out: list kind, singular, conversion.
pub fn complete(definition: &mut Value) {
    let Some(spec) = definition.get_mut("spec").filter(|spec| spec.is_object()) else {
        return;
    };
    let kind = spec["names"]["kind"].as_str().unwrap_or_default().to_owned();
    if spec["names"].is_object() && !kind.is_empty() {
        let names = &mut spec["names"];
        if text(names, "listKind").is_empty() {
            names["listKind"] = format!("{kind}List").into();
        }
        if text(names, "singular").is_empty() {
            names["singular"] = kind.to_lowercase().into();
        }
    }
    if spec["conversion"].is_null() {
        spec["conversion"] = json!({"strategy": "None"});
    }
}

/// Every served version of a definition.
pub fn served(definition: &Value) -> Result<Vec<CustomResource>, SchemaError> {
    list(&definition["spec"]["versions"])
        .iter()
        .filter(|version| version["served"] == true)
        .map(|version| resource(definition, version))
        .collect()
}

/// The version objects are stored in.
pub fn storage_version(definition: &Value) -> Option<&str> {
    list(&definition["spec"]["versions"])
        .iter()
        .find(|version| version["storage"] == true)
        .and_then(|version| version["name"].as_str())
}

/// Whether a condition of the definition (`Established`, `NamesAccepted`, `Terminating`) is true.
pub fn condition(definition: &Value, kind: &str) -> bool {
    list(&definition["status"]["conditions"]).iter().any(|c| c["type"] == kind && c["status"] == "True")
}

fn resource(definition: &Value, version: &Value) -> Result<CustomResource, SchemaError> {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let open_api = version["schema"]["openAPIV3Schema"].clone();
    let schema = if open_api.is_null() { Schema::any() } else { Schema::from_crd(&open_api)? };
    let (group, kind) = (text(spec, "group"), text(names, "kind"));
    let or = |given: &str, other: String| if given.is_empty() { other } else { given.to_owned() };
    let scale = &version["subresources"]["scale"];
    let warning = || {
        let standard = || format!("{group}/{} {kind} is deprecated", text(version, "name"));
        or(text(version, "deprecationWarning"), standard())
    };
    Ok(CustomResource {
        group: group.to_owned(),
        version: text(version, "name").to_owned(),
        kind: kind.to_owned(),
        list_kind: or(text(names, "listKind"), format!("{kind}List")),
        plural: text(names, "plural").to_owned(),
        singular: or(text(names, "singular"), kind.to_lowercase()),
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        storage: version["storage"] == true,
        deprecation: (version["deprecated"] == true).then(warning),
        status: version["subresources"]["status"].is_object(),
        scale: scale.is_object().then(|| CustomScale {
            spec: path(text(scale, "specReplicasPath")),
            status: path(text(scale, "statusReplicasPath")),
            selector: scale["labelSelectorPath"].as_str().filter(|p| !p.is_empty()).map(path),
        }),
        columns: version["additionalPrinterColumns"].clone(),
        selectable: list(&version["selectableFields"])
            .iter()
            .filter_map(|field| field["jsonPath"].as_str())
            .map(path)
            .collect(),
        schema_name: schema_name(group, text(version, "name"), kind),
        open_api,
        schema,
    })
}

/// The name under which a custom kind's schema is published: the group's parts backwards, then version and kind.
pub fn schema_name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').rev().collect();
    parts.extend([version, kind]);
    parts.join(".")
}

fn path(declared: &str) -> String {
    declared.strip_prefix('.').unwrap_or(declared).to_owned()
}

pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn texts(value: &Value) -> Vec<String> {
    list(value).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests;
