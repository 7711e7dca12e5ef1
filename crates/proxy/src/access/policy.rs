//! Policies as plain data, as a snapshot has them.

use std::sync::Arc;

use http::Method;

use crate::snapshot::{HeaderMatch, PathMatch};

/// The name of a policy inside one snapshot, such as `shop/orders`; logs and counters call it so.
pub type PolicyId = Arc<str>;

/// The name of a place inside one snapshot, such as `service/shop/orders:80`.
pub type PlaceId = Arc<str>;

/// The policies of one place. They are judged together: one that denies wins; once one of them allows anything, or has no
/// rules at all, what no rule allows is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Which; each must be in [`crate::Snapshot::policies`].
    pub policies: Vec<PolicyId>,
}

/// What one policy says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Why the policy cannot be followed. Everything at its places is refused then, as nobody knows what it meant to refuse.
    pub broken: Option<Arc<str>>,
    /// Its rules; without any it allows nothing.
    pub rules: Vec<AccessRule>,
}

/// One rule: whom and what it means, and what becomes of it. All conditions must hold; one that is empty always does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRule {
    /// For logs.
    pub name: Arc<str>,
    /// What becomes of what it matches.
    pub effect: Effect,
    /// Callers, any of which it means.
    pub from: Vec<Source>,
    /// Methods, any of which it means.
    pub methods: Vec<Method>,
    /// Paths, any of which it means. A path is looked at as it was sent and as it reads without escapes and dots; what is
    /// allowed must be so both ways, what is denied is so either way.
    pub paths: Vec<PathMatch>,
    /// Headers, all of which must be there.
    pub headers: Vec<HeaderMatch>,
}

/// What becomes of what a rule matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    /// It may pass, unless another rule denies it.
    #[default]
    Allow,
    /// It is refused, whatever other rules say.
    Deny,
}

/// A caller that a rule means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Workloads whose SPIFFE ID is this one; `*` stands for anything within a segment, `**` for anything at all.
    Id(Arc<str>),
    /// What has come through this Gateway. It is looked at behind the Gateway only; workloads whose requests come through one
    /// are not known by their ID there, but rules that deny know them by both.
    Gateway(Arc<str>),
}
