//! The CustomResourceDefinition of Istio's PeerAuthentication, in our words and with its names.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use resources::istio::PeerAuthentication;

/// The definition, served as `v1` and as `v1beta1`, in which many manifests are still written.
pub(crate) fn peer_authentication() -> CustomResourceDefinition {
    let columns =
        [("Mode", "string", ".spec.mtls.mode", 0), super::ACCEPTED, ("Age", "date", ".metadata.creationTimestamp", 0)];
    let mut crd = PeerAuthentication::crd();
    crd.spec.names.categories = Some(vec!["istio-io".to_owned(), "security-istio-io".to_owned()]);
    crd.spec.names.list_kind = Some("PeerAuthenticationList".to_owned());
    for version in &mut crd.spec.versions {
        version.additional_printer_columns = Some(columns.iter().map(super::column).collect());
        if let Some(schema) = version.schema.as_mut().and_then(|validation| validation.open_api_v3_schema.as_mut()) {
            super::tidy(schema, true);
        }
    }
    let beta = crd.spec.versions.first().map(super::beta);
    crd.spec.versions.extend(beta);
    crd
}
