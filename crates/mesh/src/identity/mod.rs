//! Who workloads are, and how they prove it: a certificate authority, X.509-SVIDs, bundles, and whom to trust.
//!
//! One way of information: the Pods there are -> [`plan`] (pure: what to issue, what to forget, how bad things are) -> the
//! [`Authority`] signs -> everything is written to the disk -> the proxy and the Workload API use it.
//!
//! Invariants: a private key is only in memory and in files of mode 0600; what is used is on the disk first, so that a start
//! without any authority serves as before; whom to trust is decided by certificates and time alone, never by an address.
//!
//! It must not know: how connections are made (the proxy owns the trait that [`Handle`] implements), nor how Pods run.

mod accept;
mod authority;
mod bundle;
mod cache;
mod certificate;
mod credentials;
pub mod federation;
mod handle;
mod judge;
mod keeper;
mod plan;
mod spiffe;
mod steward;
mod token;
pub mod workload_api;

#[cfg(test)]
mod tests;

pub use authority::{Authority, AuthorityError, Issuer, Svid};
pub use bundle::{Bundle, BundleError, Bundles};
pub use cache::{Cache, CacheError};
pub use certificate::{Facts, facts};
pub use handle::{Clock, Gauge, Handle, Report};
pub use judge::{Trust, Untrusted, judge};
pub use keeper::{Keeper, Settings, Turn, build};
pub use plan::{Alarm, Held, Plan, Policy, alarm, plan, roots_plan};
pub use spiffe::{BadId, SpiffeId, TrustDomain};
pub(crate) use steward::foreign_bundle;
pub use steward::{
    Away, BUNDLE_KEY, BUNDLE_LABEL, DOMAIN_KEY, INJECT, OWN_BUNDLE, SPIFFE_KEY, STATUS_KEY, Steward, identity, in_mesh,
};

/// The namespace of what is the platform's own: its identities, its bundle, and the bundles of others.
pub const SYSTEM_NAMESPACE: &str = "coracle-system";
/// The service account of the proxy itself; it is nobody's that calls.
pub const PROXY_ACCOUNT: &str = "proxy";
/// The service account that Gateways call with.
pub const GATEWAY_ACCOUNT: &str = "gateway";
