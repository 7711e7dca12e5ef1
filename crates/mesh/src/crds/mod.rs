//! The CustomResourceDefinitions of Gateway API's standard channel.
//!
//! The structural schemas come from the `gateway-api` crate's types; what Rust types cannot say (list keys, defaults,
//! patterns, bounds) is laid over them from the table in `constraints`.
//!
//! Invariants: names, printer columns, categories and annotations are upstream's, so that a cluster's own definitions
//! and these can replace each other; every schema is structural (`rules` can read it); nothing here does IO.

mod constraints;
mod istio;
mod own;
#[cfg(test)]
mod tests;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionVersion, JSONSchemaProps,
};
use kube::CustomResourceExt;
use resources::gateway;

pub use own::{foreign_crds, own_crds};

/// The Gateway API release whose kinds are installed.
pub const BUNDLE_VERSION: &str = "v1.5.1";
/// The release channel whose kinds are installed.
pub const CHANNEL: &str = "standard";
/// Annotation on a definition: which release it belongs to.
pub const BUNDLE_VERSION_ANNOTATION: &str = "gateway.networking.k8s.io/bundle-version";
/// Annotation on a definition: which channel it belongs to.
pub const CHANNEL_ANNOTATION: &str = "gateway.networking.k8s.io/channel";

/// Groups ending in `k8s.io` need this annotation, else the API marks the definition as not approved.
const APPROVED_ANNOTATION: &str = "api-approved.kubernetes.io";
const APPROVED_BY: &str = "https://github.com/kubernetes-sigs/gateway-api/pull/4530";

/// What a definition has beside its schema.
struct Naming {
    short_names: &'static [&'static str],
    /// Printer columns: name, type, JSON path, priority.
    columns: &'static [(&'static str, &'static str, &'static str, i32)],
    labels: &'static [(&'static str, &'static str)],
    /// Whether the kind is served as `v1beta1` too, in which many manifests are still written.
    beta: bool,
}

const AGE: (&str, &str, &str, i32) = ("Age", "date", ".metadata.creationTimestamp", 0);
const HOSTNAMES: (&str, &str, &str, i32) = ("Hostnames", "string", ".spec.hostnames", 0);
const ACCEPTED: (&str, &str, &str, i32) =
    ("Accepted", "string", r#".status.conditions[?(@.type=="Accepted")].status"#, 0);
const PROGRAMMED: (&str, &str, &str, i32) =
    ("Programmed", "string", r#".status.conditions[?(@.type=="Programmed")].status"#, 0);

const ROUTE: Naming = Naming { short_names: &[], columns: &[HOSTNAMES, AGE], labels: &[], beta: false };

/// The definitions of every kind in Gateway API's standard channel, in the order in which to install them.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        definition::<gateway::gatewayclasses::GatewayClass>(&Naming {
            short_names: &["gc"],
            columns: &[
                ("Controller", "string", ".spec.controllerName", 0),
                ACCEPTED,
                AGE,
                ("Description", "string", ".spec.description", 1),
            ],
            labels: &[],
            beta: true,
        }),
        definition::<gateway::gateways::Gateway>(&Naming {
            short_names: &["gtw"],
            columns: &[
                ("Class", "string", ".spec.gatewayClassName", 0),
                ("Address", "string", ".status.addresses[*].value", 0),
                PROGRAMMED,
                AGE,
            ],
            labels: &[],
            beta: true,
        }),
        definition::<gateway::httproutes::HttpRoute>(&Naming { beta: true, ..ROUTE }),
        definition::<gateway::grpcroutes::GrpcRoute>(&ROUTE),
        definition::<gateway::tlsroutes::TlsRoute>(&Naming { columns: &[AGE], ..ROUTE }),
        definition::<gateway::listenersets::ListenerSet>(&Naming {
            short_names: &["lset"],
            columns: &[ACCEPTED, PROGRAMMED, AGE],
            labels: &[],
            beta: false,
        }),
        definition::<gateway::referencegrants::ReferenceGrant>(&Naming {
            short_names: &["refgrant"],
            columns: &[AGE],
            labels: &[],
            beta: true,
        }),
        definition::<gateway::backendtlspolicies::BackendTlsPolicy>(&Naming {
            short_names: &["btlspolicy"],
            columns: &[AGE],
            labels: &[("gateway.networking.k8s.io/policy", "Direct")],
            beta: false,
        }),
    ]
}

/// The definition of one kind: the crate's schema, upstream's names, the table's constraints.
fn definition<K: CustomResourceExt>(naming: &Naming) -> CustomResourceDefinition {
    let mut crd = K::crd();
    let annotations = crd.metadata.annotations.get_or_insert_default();
    for (name, value) in
        [(APPROVED_ANNOTATION, APPROVED_BY), (BUNDLE_VERSION_ANNOTATION, BUNDLE_VERSION), (CHANNEL_ANNOTATION, CHANNEL)]
    {
        annotations.insert(name.to_owned(), value.to_owned());
    }
    if !naming.labels.is_empty() {
        let labels = crd.metadata.labels.get_or_insert_default();
        labels.extend(naming.labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    }
    let names = &mut crd.spec.names;
    names.categories = Some(vec!["gateway-api".to_owned()]);
    names.list_kind = Some(format!("{}List", names.kind));
    names.short_names =
        (!naming.short_names.is_empty()).then(|| naming.short_names.iter().map(|name| (*name).to_owned()).collect());
    for version in &mut crd.spec.versions {
        version.additional_printer_columns = Some(naming.columns.iter().map(column).collect());
        if let Some(schema) = version.schema.as_mut().and_then(|validation| validation.open_api_v3_schema.as_mut()) {
            tidy(schema, true);
            constraints::apply(&crd.spec.names.kind, schema);
        }
    }
    if naming.beta {
        let beta = crd.spec.versions.first().map(beta);
        crd.spec.versions.extend(beta);
    }
    crd
}

/// The same as `v1beta1`, as upstream serves it. Its fields are described once, under `v1`.
fn beta(version: &CustomResourceDefinitionVersion) -> CustomResourceDefinitionVersion {
    let mut beta = CustomResourceDefinitionVersion { name: "v1beta1".to_owned(), storage: false, ..version.clone() };
    if let Some(schema) = beta.schema.as_mut().and_then(|validation| validation.open_api_v3_schema.as_mut()) {
        strip_descriptions(schema);
    }
    beta
}

fn strip_descriptions(schema: &mut JSONSchemaProps) {
    schema.description = None;
    for child in children(schema) {
        strip_descriptions(child);
    }
}

fn column(&(name, type_, json_path, priority): &(&str, &str, &str, i32)) -> CustomResourceColumnDefinition {
    CustomResourceColumnDefinition {
        name: name.to_owned(),
        type_: type_.to_owned(),
        json_path: json_path.to_owned(),
        // Upstream leaves zero out; so does this, or server-side apply would see a difference for ever.
        priority: (priority != 0).then_some(priority),
        ..CustomResourceColumnDefinition::default()
    }
}

/// Removes what the schema generator adds and upstream does not have: `nullable` on every optional field (a `null`
/// means "absent" to the API, and is dropped where the schema is not nullable), Rust's own number formats.
fn tidy(schema: &mut JSONSchemaProps, root: bool) {
    schema.nullable = None;
    if schema.type_.as_deref() == Some("integer") {
        schema.minimum = schema.minimum.filter(|minimum| *minimum != 0.0);
    }
    // `null` sneaks into the enum of an optional enumeration.
    if let Some(allowed) = schema.enum_.as_mut() {
        allowed.retain(|value| !value.0.is_null());
    }
    if root {
        schema.title = None;
    }
    for child in children(schema) {
        tidy(child, false);
    }
}

/// The schemas directly below this one.
fn children(schema: &mut JSONSchemaProps) -> Vec<&mut JSONSchemaProps> {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
    };
    let mut found: Vec<&mut JSONSchemaProps> = Vec::new();
    if let Some(properties) = schema.properties.as_mut() {
        found.extend(properties.values_mut());
    }
    match schema.items.as_mut() {
        Some(JSONSchemaPropsOrArray::Schema(items)) => found.push(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => found.extend(items.iter_mut()),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = schema.additional_properties.as_mut() {
        found.push(values);
    }
    found
}
