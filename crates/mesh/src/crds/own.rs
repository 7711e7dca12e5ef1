//! The definitions of our own kinds, and of one of Istio's, beside Gateway API's.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionNames, CustomResourceDefinitionSpec,
    CustomResourceDefinitionVersion, CustomResourceValidation, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{CustomResourceExt, Resource};
use resources::access::AccessPolicy;
use resources::dapr::Resiliency;
use resources::traffic::TrafficPolicy;

use super::{AGE, column, tidy};

/// The definitions of our own kinds and of PeerAuthentication, in the order in which to install them.
pub fn own_crds() -> Vec<CustomResourceDefinition> {
    vec![policy::<TrafficPolicy>(), policy::<AccessPolicy>(), super::istio::peer_authentication()]
}

/// A definition of Dapr's Resiliency, for where Dapr has not installed its own. It takes whatever it is given; what cannot be
/// followed is told when it is translated.
pub fn foreign_crds() -> Vec<CustomResourceDefinition> {
    let anything = || JSONSchemaProps {
        type_: Some("object".to_owned()),
        x_kubernetes_preserve_unknown_fields: Some(true),
        ..JSONSchemaProps::default()
    };
    let scopes = JSONSchemaProps {
        type_: Some("array".to_owned()),
        items: Some(JSONSchemaPropsOrArray::Schema(Box::new(JSONSchemaProps {
            type_: Some("string".to_owned()),
            ..JSONSchemaProps::default()
        }))),
        ..JSONSchemaProps::default()
    };
    let properties = [("spec", anything()), ("scopes", scopes)];
    let schema = JSONSchemaProps {
        description: Some("Dapr's resiliency policies, translated where a TrafficPolicy says the same.".to_owned()),
        type_: Some("object".to_owned()),
        properties: Some(properties.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()),
        ..JSONSchemaProps::default()
    };
    let version = CustomResourceDefinitionVersion {
        name: Resiliency::version(&()).into_owned(),
        served: true,
        storage: true,
        schema: Some(CustomResourceValidation { open_api_v3_schema: Some(schema) }),
        ..CustomResourceDefinitionVersion::default()
    };
    let (group, plural) = (Resiliency::group(&()).into_owned(), Resiliency::plural(&()).into_owned());
    vec![CustomResourceDefinition {
        metadata: ObjectMeta { name: Some(format!("{plural}.{group}")), ..ObjectMeta::default() },
        spec: CustomResourceDefinitionSpec {
            group,
            names: CustomResourceDefinitionNames {
                kind: Resiliency::kind(&()).into_owned(),
                list_kind: Some("ResiliencyList".to_owned()),
                plural,
                singular: Some("resiliency".to_owned()),
                ..CustomResourceDefinitionNames::default()
            },
            scope: "Namespaced".to_owned(),
            versions: vec![version],
            ..CustomResourceDefinitionSpec::default()
        },
        status: None,
    }]
}

/// The definition of a policy: the type's schema, and columns that say what it is attached to and whether it is followed.
fn policy<K: CustomResourceExt>() -> CustomResourceDefinition {
    let mut crd = K::crd();
    let labels = crd.metadata.labels.get_or_insert_default();
    labels.insert("gateway.networking.k8s.io/policy".to_owned(), "Direct".to_owned());
    let names = &mut crd.spec.names;
    names.categories = Some(vec!["coracle".to_owned()]);
    names.list_kind = Some(format!("{}List", names.kind));
    const COLUMNS: [(&str, &str, &str, i32); 3] = [
        ("Target", "string", ".spec.targetRefs[*].name", 0),
        ("Accepted", "string", r#".status.ancestors[*].conditions[?(@.type=="Accepted")].status"#, 0),
        AGE,
    ];
    for version in &mut crd.spec.versions {
        version.additional_printer_columns = Some(COLUMNS.iter().map(column).collect());
        if let Some(schema) = version.schema.as_mut().and_then(|validation| validation.open_api_v3_schema.as_mut()) {
            tidy(schema, true);
        }
    }
    crd
}
