//! CustomResourceDefinitions: admitted, turned into resources of the catalog, and taken away with their instances.
//!
//! Invariants: a definition that is stored can be served; its resources are there when the write that made it is
//! answered; a definition goes only after its last instance.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rules::field::FieldError;
use rules::schema::Schema;
use rules::table::CrdColumns;
use serde_json::{Value, json};

use crate::admission::Write;
use crate::call::Call;
use crate::catalog::{self, Catalog, Custom, Resource, Scale};
use crate::object;
use crate::route::Target;
use crate::server::Server;
use crate::status::{Answer, Failure};
use crate::verb::change::{Change, Part, change};
use crate::verb::delete::{self, Options};

pub(crate) const GROUP: &str = "apiextensions.k8s.io";
pub(crate) const PLURAL: &str = "customresourcedefinitions";
/// Holds a definition until its instances are gone.
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// A definition's resources, kept as long as the definition does not change.
type Parsed = (u64, Vec<Arc<Resource>>);

/// The built-in resources and what was read from definitions before.
pub(crate) struct Definitions {
    builtins: Vec<Arc<Resource>>,
    parsed: Mutex<HashMap<String, Parsed>>,
}

impl Definitions {
    pub(crate) fn new() -> Self {
        Self { builtins: Catalog::builtins(), parsed: Mutex::default() }
    }

    /// Puts the catalog of the stored definitions in place. A definition that can't be read is left out, and said.
    pub(crate) fn refresh(&self, store: &dyn store::Store, place: &ArcSwap<Catalog>) {
        // The lock is held from the reading to the swap, so that the last swap shows the newest state.
        let mut parsed = self.parsed.lock();
        let entries = match store.list(&catalog::prefix(GROUP, PLURAL), None, 0, None) {
            Ok(listing) => listing.entries,
            Err(error) => {
                tracing::error!(%error, "the custom resource definitions can't be listed");
                return;
            }
        };
        let mut fresh = HashMap::new();
        let mut custom = Vec::new();
        for entry in entries {
            let key = entry.key.to_string();
            let kept = parsed.remove(&key).filter(|(revision, _)| *revision == entry.revision);
            let (revision, resources) = match kept.map(Ok).unwrap_or_else(|| parse(&entry)) {
                Ok(kept) => kept,
                Err(reason) => {
                    tracing::error!(key, reason, "a stored definition is not served");
                    continue;
                }
            };
            custom.extend(resources.iter().map(|resource| (resource.clone(), revision)));
            fresh.insert(key, (revision, resources));
        }
        *parsed = fresh;
        place.store(Arc::new(Catalog::new(&self.builtins, &custom)));
    }

    /// A catalog without definitions.
    pub(crate) fn empty(&self) -> Catalog {
        Catalog::new(&self.builtins, &[])
    }
}

fn parse(entry: &store::Entry) -> Result<Parsed, String> {
    let definition: Value = serde_json::from_slice(&entry.value).map_err(|error| error.to_string())?;
    Ok((entry.revision, read(&definition)?.into_iter().map(Arc::new).collect()))
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

/// The resources that a definition makes: one a served version.
fn read(definition: &Value) -> Result<Vec<Resource>, String> {
    let versions = definition["spec"]["versions"].as_array().cloned().unwrap_or_default();
    versions.iter().filter(|version| version["served"] == true).map(|version| resource(definition, version)).collect()
}

fn resource(definition: &Value, version: &Value) -> Result<Resource, String> {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let schema = match &version["schema"]["openAPIV3Schema"] {
        Value::Null => Schema::any(),
        schema => Schema::from_crd(schema).map_err(|error| error.to_string())?,
    };
    let (group, kind, plural) = (text(spec, "group"), text(names, "kind"), text(names, "plural"));
    let or = |given: &str, other: String| if given.is_empty() { other } else { given.to_owned() };
    let subresources = &version["subresources"];
    let scale = subresources["scale"].is_object().then(|| Scale {
        spec: text(&subresources["scale"], "specReplicasPath").into(),
        status: text(&subresources["scale"], "statusReplicasPath").into(),
        selector: subresources["scale"]["labelSelectorPath"].as_str().map(str::to_owned),
    });
    let selectable = version["selectableFields"].as_array().into_iter().flatten();
    Ok(Resource {
        group: group.into(),
        version: text(version, "name").into(),
        api_version: catalog::api_version(group, text(version, "name")),
        kind: kind.into(),
        list_kind: or(text(names, "listKind"), format!("{kind}List")),
        plural: plural.into(),
        singular: or(text(names, "singular"), kind.to_lowercase()),
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        status: subresources["status"].is_object(),
        scale,
        acted_on: true,
        review: false,
        schema,
        schema_name: definition_name(group, text(version, "name"), kind),
        custom: Some(Custom {
            definition: object::name(definition).into(),
            terminating: object::is_terminating(definition),
            columns: CrdColumns::parse(&version["additionalPrinterColumns"]),
            selectable: selectable
                .filter_map(|field| field["jsonPath"].as_str())
                .map(|path| path.trim_start_matches('.').to_owned())
                .collect(),
            open_api: version["schema"]["openAPIV3Schema"].clone(),
        }),
        prefix: catalog::prefix(group, plural),
    })
}

/// The name of the kind's schema in OpenAPI documents: the group's parts backwards, as upstream.
fn definition_name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').rev().collect();
    parts.extend([version, kind]);
    parts.join(".")
}

/// Checks a definition and writes the conditions that say it is served.
pub(crate) fn admit(write: &Write<'_>, call: &mut Call, definition: &mut Value) -> Answer<()> {
    if !write.resource.is(GROUP, PLURAL) {
        return Ok(());
    }
    complete(definition);
    let name = object::name(definition).to_owned();
    let errors = check(&write.server.catalog.load(), definition);
    if !errors.is_empty() {
        return Err(Failure::invalid(write.resource, &name, &errors));
    }
    if definition["spec"]["conversion"]["strategy"] == "Webhook" {
        call.warn("conversion webhooks are not called in this version: versions are converted by name only");
    }
    establish(definition, &object::time(call.now));
    if write.old.is_none() {
        hold(definition);
    }
    Ok(())
}

fn complete(definition: &mut Value) {
    let names = &mut definition["spec"]["names"];
    let kind = text(names, "kind").to_owned();
    if text(names, "listKind").is_empty() {
        names["listKind"] = format!("{kind}List").into();
    }
    if text(names, "singular").is_empty() {
        names["singular"] = kind.to_lowercase().into();
    }
    if definition["spec"]["conversion"].is_null() {
        definition["spec"]["conversion"] = json!({ "strategy": "None" });
    }
}

fn check(catalog: &Catalog, definition: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &definition["spec"];
    let (group, plural, kind) = (text(spec, "group"), text(&spec["names"], "plural"), text(&spec["names"], "kind"));
    let name = object::name(definition);
    for (path, value) in [("spec.group", group), ("spec.names.plural", plural), ("spec.names.kind", kind)] {
        if value.is_empty() {
            errors.push(FieldError::required(path, ""));
        }
    }
    if name != format!("{plural}.{group}") {
        errors.push(FieldError::invalid("metadata.name", name, "must be spec.names.plural+\".\"+spec.group"));
    }
    if !matches!(text(spec, "scope"), "Namespaced" | "Cluster") {
        errors.push(FieldError::not_supported("spec.scope", text(spec, "scope"), &["Cluster", "Namespaced"]));
    }
    let versions = spec["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        errors.push(FieldError::invalid("spec.versions", spec["versions"].clone(), "must have exactly one version marked as storage version"));
    }
    for (index, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{index}]");
        if versions[..index].iter().any(|earlier| earlier["name"] == version["name"]) {
            errors.push(FieldError::invalid(format!("{path}.name"), version["name"].clone(), "must be unique"));
        }
        let schema = &version["schema"]["openAPIV3Schema"];
        if schema.is_null() {
            errors.push(FieldError::required(format!("{path}.schema.openAPIV3Schema"), "schemas are required"));
        } else if let Err(error) = Schema::from_crd(schema) {
            errors.push(FieldError::invalid(format!("{path}.schema.openAPIV3Schema"), "", error.to_string()));
        }
    }
    let taken = catalog.resources().iter().find(|other| {
        let mine = other.custom.as_ref().is_some_and(|custom| custom.definition == name);
        !mine && other.group == group && (other.plural == plural || other.kind == kind)
    });
    if let Some(other) = taken {
        let why = format!("{} ({}) is served already", other.qualified(), other.kind);
        errors.push(FieldError::invalid("spec.names", plural, why));
    }
    errors
}

/// The status of a definition that is served: at once, because serving takes effect with the write.
fn establish(definition: &mut Value, now: &str) {
    let spec = &definition["spec"];
    let names = spec["names"].clone();
    let storage = spec["versions"].as_array().into_iter().flatten().find(|version| version["storage"] == true);
    let storage = storage.map(|version| text(version, "name").to_owned()).unwrap_or_default();
    let status = &mut definition["status"];
    if !status.is_object() {
        *status = json!({});
    }
    status["acceptedNames"] = names;
    let stored = &mut status["storedVersions"];
    if !stored.is_array() {
        *stored = json!([]);
    }
    if let Some(all) = stored.as_array_mut().filter(|all| !all.iter().any(|one| *one == storage)) {
        all.push(storage.into());
    }
    for (kind, reason, message) in [
        ("NamesAccepted", "NoConflicts", "no conflicts found"),
        ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
    ] {
        let conditions = &mut status["conditions"];
        if !conditions.is_array() {
            *conditions = json!([]);
        }
        if let Some(all) = conditions.as_array_mut().filter(|all| !all.iter().any(|one| one["type"] == kind)) {
            all.push(json!({ "type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now }));
        }
    }
}

fn hold(definition: &mut Value) {
    if object::finalizers(definition).contains(&FINALIZER) {
        return;
    }
    let mut finalizers = texts(&definition["metadata"]["finalizers"]);
    finalizers.push(FINALIZER.into());
    definition["metadata"]["finalizers"] = finalizers.into();
}

/// Deletes the instances of a definition that is being deleted, and lets it go when none is left. Instances with
/// finalizers of their own stay until those are done; the last one to go calls this again.
pub(crate) async fn clean_up(server: &Arc<Server>, name: &str) {
    let catalog = server.catalog.load_full();
    let instances: Vec<Arc<Resource>> = catalog
        .resources()
        .iter()
        .filter(|resource| resource.custom.as_ref().is_some_and(|custom| custom.definition == name && custom.terminating))
        .cloned()
        .collect();
    let now = jiff::Timestamp::now();
    let Some(resource) = instances.first() else { return };
    let entries = server.store.list(&resource.prefix, None, 0, None).map(|listing| listing.entries).unwrap_or_default();
    for entry in entries {
        let place = &entry.key[resource.prefix.len()..];
        let (namespace, instance) = match place.split_once('/') {
            Some((namespace, instance)) => (Some(namespace), instance),
            None => (None, place),
        };
        let marked = serde_json::from_slice::<Value>(&entry.value).is_ok_and(|object| object::is_terminating(&object));
        if marked {
            continue;
        }
        if let Err(failure) = delete::one(server, now, resource, namespace, instance, &Options::default()).await {
            if failure.code != 404 {
                tracing::warn!(key = %entry.key, reason = %failure.message, "an instance of a definition that goes could not be deleted");
            }
        }
    }
    let left = server.store.list(&resource.prefix, None, 1, None).map_or(true, |listing| !listing.entries.is_empty());
    if left {
        return;
    }
    let Some(definitions) = catalog.get(GROUP, "v1", PLURAL) else { return };
    if let Err(failure) = release(server, definitions, name, now).await {
        tracing::warn!(definition = name, reason = %failure.message, "a definition without instances could not be let go");
    }
}

async fn release(server: &Arc<Server>, definitions: &Arc<Resource>, name: &str, now: jiff::Timestamp) -> Answer<()> {
    let target = Target { name: Some(name.to_owned()), ..Target::default() };
    let mut call = Call::internal("coracle-definitions", now);
    let how = Change { part: Part::Through("finalize"), applied: false };
    change(server, &mut call, (definitions, &target), how, &mut |_, current| {
        let mut new = current.clone();
        let finalizers: Vec<&str> = object::finalizers(current).into_iter().filter(|one| *one != FINALIZER).collect();
        new["metadata"]["finalizers"] = finalizers.into();
        Ok(new)
    })
    .await
    .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widget() -> Value {
        json!({ "metadata": { "name": "widgets.example.com" }, "spec": { "group": "example.com", "scope": "Namespaced",
            "names": { "plural": "widgets", "kind": "Widget", "shortNames": ["wd"] },
            "versions": [
                { "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": { "type": "object" } }, "subresources": { "status": {} } },
                { "name": "v1beta1", "served": false, "storage": false, "schema": { "openAPIV3Schema": { "type": "object" } } },
            ] } })
    }

    #[test]
    fn a_definition_becomes_resources() {
        let mut definition = widget();
        complete(&mut definition);
        let resources = read(&definition).expect("resources");
        assert_eq!(resources.len(), 1, "only what is served");
        let resource = &resources[0];
        assert_eq!((resource.api_version.as_str(), resource.list_kind.as_str()), ("example.com/v1", "WidgetList"));
        assert_eq!((resource.singular.as_str(), resource.status), ("widget", true));
        assert_eq!(resource.schema_name, "com.example.v1.Widget");
        establish(&mut definition, "t");
        establish(&mut definition, "u");
        assert_eq!(definition["status"]["conditions"].as_array().map(Vec::len), Some(2));
        assert_eq!(definition["status"]["storedVersions"], json!(["v1"]));
    }

    #[test]
    fn what_can_not_be_served_is_refused() {
        let catalog = Catalog::new(&Catalog::builtins(), &[]);
        assert_eq!(check(&catalog, &widget()), []);
        for (pointer, value, path) in [
            ("/metadata/name", json!("other"), "metadata.name"),
            ("/spec/scope", json!("Galaxy"), "spec.scope"),
            ("/spec/versions/0/storage", json!(false), "spec.versions"),
            ("/spec/versions/0/schema/openAPIV3Schema", Value::Null, "spec.versions[0].schema.openAPIV3Schema"),
            ("/spec/versions/1/name", json!("v1"), "spec.versions[1].name"),
        ] {
            let mut wrong = widget();
            *wrong.pointer_mut(pointer).expect("the field") = value;
            let errors = check(&catalog, &wrong);
            assert!(errors.iter().any(|error| error.path == path), "{pointer}: {errors:?}");
        }
        let mut clash = widget();
        clash["metadata"]["name"] = "deployments.apps".into();
        clash["spec"]["group"] = "apps".into();
        clash["spec"]["names"]["plural"] = "deployments".into();
        assert!(check(&catalog, &clash).iter().any(|error| error.path == "spec.names"));
    }
}
