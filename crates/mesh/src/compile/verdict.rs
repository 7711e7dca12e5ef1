//! What is to be said about an object: a condition without its time.
//!
//! Reasons are Gateway API's own words; tools match on them.

/// A condition as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The condition's type.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// Why, in one of Gateway API's words.
    pub reason: &'static str,
    /// Why, for people: names the object and the way out.
    pub message: String,
}

impl Verdict {
    pub(crate) fn yes(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, holds: true, reason, message: message.into() }
    }

    pub(crate) fn no(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, holds: false, reason, message: message.into() }
    }
}

/// Why something is not as it should be: the reason and the message of a condition that is False.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// The types of conditions.
pub(crate) mod condition {
    pub(crate) const ACCEPTED: &str = "Accepted";
    pub(crate) const PROGRAMMED: &str = "Programmed";
    pub(crate) const RESOLVED_REFS: &str = "ResolvedRefs";
    pub(crate) const CONFLICTED: &str = "Conflicted";
    pub(crate) const INSECURE_FRONTEND: &str = "InsecureFrontendValidationMode";
    pub(crate) const PARTIALLY_INVALID: &str = "PartiallyInvalid";
    pub(crate) const SUPPORTED_VERSION: &str = "SupportedVersion";
}

/// The reasons of conditions.
pub(crate) mod reason {
    pub(crate) const ACCEPTED: &str = "Accepted";
    pub(crate) const NOT_ALLOWED: &str = "NotAllowed";
    pub(crate) const PARENT_NOT_ACCEPTED: &str = "ParentNotAccepted";
    pub(crate) const PROGRAMMED: &str = "Programmed";
    pub(crate) const RESOLVED_REFS: &str = "ResolvedRefs";
    pub(crate) const PENDING: &str = "Pending";
    pub(crate) const INVALID: &str = "Invalid";
    pub(crate) const INVALID_PARAMETERS: &str = "InvalidParameters";
    pub(crate) const SUPPORTED_VERSION: &str = "SupportedVersion";
    pub(crate) const UNSUPPORTED_VERSION: &str = "UnsupportedVersion";
    pub(crate) const LISTENERS_NOT_VALID: &str = "ListenersNotValid";
    pub(crate) const UNSUPPORTED_ADDRESS: &str = "UnsupportedAddress";
    pub(crate) const ADDRESS_NOT_USABLE: &str = "AddressNotUsable";
    pub(crate) const NO_CONFLICTS: &str = "NoConflicts";
    pub(crate) const HOSTNAME_CONFLICT: &str = "HostnameConflict";
    pub(crate) const PROTOCOL_CONFLICT: &str = "ProtocolConflict";
    pub(crate) const PORT_UNAVAILABLE: &str = "PortUnavailable";
    pub(crate) const UNSUPPORTED_PROTOCOL: &str = "UnsupportedProtocol";
    pub(crate) const INVALID_CERTIFICATE_REF: &str = "InvalidCertificateRef";
    pub(crate) const INVALID_CLIENT_CERTIFICATE_REF: &str = "InvalidClientCertificateRef";
    pub(crate) const INVALID_CA_CERTIFICATE_REF: &str = "InvalidCACertificateRef";
    pub(crate) const INVALID_CA_CERTIFICATE_KIND: &str = "InvalidCACertificateKind";
    pub(crate) const NO_VALID_CA_CERTIFICATE: &str = "NoValidCACertificate";
    pub(crate) const INVALID_ROUTE_KINDS: &str = "InvalidRouteKinds";
    pub(crate) const REF_NOT_PERMITTED: &str = "RefNotPermitted";
    pub(crate) const INVALID_KIND: &str = "InvalidKind";
    pub(crate) const BACKEND_NOT_FOUND: &str = "BackendNotFound";
    pub(crate) const UNSUPPORTED_VALUE: &str = "UnsupportedValue";
    pub(crate) const INCOMPATIBLE_FILTERS: &str = "IncompatibleFilters";
    pub(crate) const NO_MATCHING_PARENT: &str = "NoMatchingParent";
    pub(crate) const NOT_ALLOWED_BY_LISTENERS: &str = "NotAllowedByListeners";
    pub(crate) const TARGET_NOT_FOUND: &str = "TargetNotFound";
    pub(crate) const CONFIGURATION_CHANGED: &str = "ConfigurationChanged";
    pub(crate) const CONFLICTED: &str = "Conflicted";
    pub(crate) const NO_MATCHING_LISTENER_HOSTNAME: &str = "NoMatchingListenerHostname";
}
