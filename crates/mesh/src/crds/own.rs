//! The definitions of our own kinds, and of one of Istio's, beside Gateway API's.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use resources::access::AccessPolicy;
use resources::traffic::TrafficPolicy;

use super::{AGE, column, tidy};

/// The definitions of our own kinds and of PeerAuthentication, in the order in which to install them.
pub fn own_crds() -> Vec<CustomResourceDefinition> {
    vec![policy::<TrafficPolicy>(), policy::<AccessPolicy>(), super::istio::peer_authentication()]
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
