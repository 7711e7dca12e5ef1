//! CustomResourceDefinitions: admitted, turned into resources of the catalog, and taken away with their instances.
//!
//! Invariants: a definition that is stored can be served; its resources are there when the write that made it is
//! answered; a definition goes only after its last instance.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rules::crd::{self, CustomResource, Taken};
use rules::table::CrdColumns;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

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
struct Parsed {
    revision: u64,
    resources: Vec<Arc<Resource>>,
    /// Cancelled when the definition is gone, whatever it was changed to before.
    gone: CancellationToken,
}

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
            let known = match parsed.remove(&key) {
                Some(known) if known.revision == entry.revision => Ok(known),
                other => parse(&entry, other.map(|other| other.gone).unwrap_or_default()),
            };
            match known {
                Ok(known) => {
                    custom.extend(known.resources.iter().map(|resource| (resource.clone(), known.revision)));
                    fresh.insert(key, known);
                }
                Err(reason) => tracing::error!(key, reason, "a stored definition is not served"),
            }
        }
        parsed.values().for_each(|left| left.gone.cancel());
        *parsed = fresh;
        place.store(Arc::new(Catalog::new(&self.builtins, &custom)));
    }

    /// A catalog without definitions.
    pub(crate) fn empty(&self) -> Catalog {
        Catalog::new(&self.builtins, &[])
    }
}

fn parse(entry: &store::Entry, gone: CancellationToken) -> Result<Parsed, String> {
    let definition: Value = serde_json::from_slice(&entry.value).map_err(|error| error.to_string())?;
    let resources = read(&definition, &gone)?.into_iter().map(Arc::new).collect();
    Ok(Parsed { revision: entry.revision, resources, gone })
}

/// The resources that a definition makes: one a served version, none before its names are accepted.
fn read(definition: &Value, gone: &CancellationToken) -> Result<Vec<Resource>, String> {
    if !crd::condition(definition, "Established") {
        return Ok(Vec::new());
    }
    let served = crd::served(definition).map_err(|error| error.to_string())?;
    Ok(served.into_iter().map(|version| resource(definition, version, gone)).collect())
}

fn resource(definition: &Value, version: CustomResource, gone: &CancellationToken) -> Resource {
    Resource {
        api_version: catalog::api_version(&version.group, &version.version),
        prefix: catalog::prefix(&version.group, &version.plural),
        group: version.group,
        version: version.version,
        kind: version.kind,
        list_kind: version.list_kind,
        plural: version.plural,
        singular: version.singular,
        short_names: version.short_names,
        categories: version.categories,
        namespaced: version.namespaced,
        status: version.status,
        scale: version.scale.map(|scale| Scale { spec: scale.spec, status: scale.status, selector: scale.selector }),
        acted_on: true,
        review: false,
        schema: version.schema,
        schema_name: version.schema_name,
        custom: Some(Custom {
            definition: object::name(definition).into(),
            terminating: object::is_terminating(definition),
            columns: CrdColumns::parse(&version.columns),
            selectable: version.selectable,
            open_api: version.open_api,
            deprecation: version.deprecation,
            gone: gone.clone(),
        }),
    }
}

/// Checks a definition and writes the conditions that say it is served.
pub(crate) fn admit(write: &Write<'_>, call: &mut Call, definition: &mut Value) -> Answer<()> {
    if !write.resource.is(GROUP, PLURAL) {
        return Ok(());
    }
    crd::complete(definition);
    let name = object::name(definition).to_owned();
    let errors = match write.old {
        Some(old) => crd::validate_update(old, definition),
        None => crd::validate(definition),
    };
    if !errors.is_empty() {
        return Err(Failure::invalid(write.resource, &name, &errors));
    }
    if definition["spec"]["conversion"]["strategy"] == "Webhook" {
        call.warn("conversion webhooks are not called in this version: versions are converted by name only");
    }
    crd::establish(definition, &taken(&write.server.catalog.load(), definition), &object::time(call.now));
    if write.old.is_none() {
        hold(definition);
    }
    Ok(())
}

/// The names in the definition's group that others have.
fn taken(catalog: &Catalog, definition: &Value) -> Taken {
    let (name, group) = (object::name(definition), definition["spec"]["group"].as_str().unwrap_or_default());
    let others = catalog
        .resources()
        .iter()
        .filter(|other| other.group == group && other.custom.as_ref().is_none_or(|custom| custom.definition != name));
    let mut taken = Taken::default();
    for other in others {
        taken.resources.extend([other.plural.clone(), other.singular.clone()]);
        taken.resources.extend(other.short_names.iter().cloned());
        taken.kinds.extend([other.kind.clone(), other.list_kind.clone()]);
    }
    taken
}

fn hold(definition: &mut Value) {
    if object::finalizers(definition).contains(&FINALIZER) {
        return;
    }
    let mut finalizers = object::finalizers(definition);
    finalizers.push(FINALIZER);
    definition["metadata"]["finalizers"] = finalizers.into();
}

/// Deletes the instances of a definition that is being deleted, and lets it go when none is left. Instances with
/// finalizers of their own stay until those are done; the last one to go calls this again.
pub(crate) async fn clean_up(server: &Arc<Server>, name: &str) {
    let catalog = server.catalog.load_full();
    let instances: Vec<Arc<Resource>> = catalog
        .resources()
        .iter()
        .filter(|resource| {
            resource.custom.as_ref().is_some_and(|custom| custom.definition == name && custom.terminating)
        })
        .cloned()
        .collect();
    let now = jiff::Timestamp::now();
    let Some(resource) = instances.first() else { return };
    let entries = server.store.list(&resource.prefix, None, 0, None).map(|listing| listing.entries).unwrap_or_default();
    let mut call = Call::internal("apiserver", now);
    for entry in entries {
        let (namespace, instance) = resource.place(&entry.key);
        let marked = serde_json::from_slice::<Value>(&entry.value).is_ok_and(|object| object::is_terminating(&object));
        if marked {
            continue;
        }
        if let Err(failure) = delete::one(server, &mut call, resource, namespace, instance, &Options::default()).await
            && failure.code != 404
        {
            tracing::warn!(key = %entry.key, reason = %failure.message, "an instance of a definition that goes could not be deleted");
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
    use serde_json::json;

    fn widget() -> Value {
        json!({ "metadata": { "name": "widgets.example.com" }, "spec": { "group": "example.com", "scope": "Namespaced",
            "names": { "plural": "widgets", "kind": "Widget", "shortNames": ["wd"] },
            "versions": [
                { "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": { "type": "object" } }, "subresources": { "status": {} } },
                { "name": "v1beta1", "served": false, "storage": false, "schema": { "openAPIV3Schema": { "type": "object" } } },
            ] } })
    }

    #[test]
    fn a_definition_becomes_resources_once_its_names_are_accepted() {
        let catalog = Catalog::new(&Catalog::builtins(), &[]);
        let mut definition = widget();
        crd::complete(&mut definition);
        assert_eq!(read(&definition, &CancellationToken::new()).expect("resources").len(), 0);
        let others = taken(&catalog, &definition);
        crd::establish(&mut definition, &others, "2026-01-01T00:00:00Z");
        let resources = read(&definition, &CancellationToken::new()).expect("resources");
        assert_eq!(resources.len(), 1, "only what is served");
        let resource = &resources[0];
        assert_eq!((resource.api_version.as_str(), resource.list_kind.as_str()), ("example.com/v1", "WidgetList"));
        assert_eq!((resource.prefix.as_str(), resource.status), ("/example.com/widgets/", true));
        let catalog = Catalog::new(&Catalog::builtins(), &[(Arc::new(resources.into_iter().next().expect("one")), 1)]);
        assert_eq!(taken(&catalog, &definition), Taken::default(), "its own names are free for it");
        definition["metadata"]["name"] = "others.example.com".into();
        assert!(taken(&catalog, &definition).resources.contains(&"wd".to_owned()));
    }
}
