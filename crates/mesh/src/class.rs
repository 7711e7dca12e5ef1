//! The GatewayClass that is there from the start, and what it says that it can do.

use kube::api::ObjectMeta;
use resources::gateway::gatewayclasses::{GatewayClass, GatewayClassSpec};
use resources::names::{GATEWAY_CLASS, GATEWAY_CONTROLLER};

/// The features of Gateway API that are claimed, by their conformance names, in the order that the API wants.
pub(crate) const SUPPORTED_FEATURES: &[&str] = &[
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayBackendClientCertificate",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayPort8080",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "ReferenceGrant",
    "TLSRoute",
    "TLSRouteModeTerminate",
];

/// The GatewayClass `coracle`.
pub fn gateway_class() -> GatewayClass {
    GatewayClass {
        metadata: ObjectMeta { name: Some(GATEWAY_CLASS.to_owned()), ..ObjectMeta::default() },
        spec: GatewayClassSpec {
            controller_name: GATEWAY_CONTROLLER.to_owned(),
            description: Some("Coracle's own proxy, on this machine".to_owned()),
            parameters_ref: None,
        },
        status: None,
    }
}
