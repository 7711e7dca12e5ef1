//! Role-based access control: who may do what, decided from Roles, ClusterRoles and their bindings.
//!
//! [`Index`] holds what those objects say in the form that a question needs; its caller keeps it in step with the store.
//! [`rule`] is one rule: what it allows, and whether it covers another. [`escalation`] says what somebody would give away
//! without having it. [`bootstrap`] is the policy that every cluster begins with.
//!
//! Invariants: nothing is allowed but by a rule; an object that can't be read allows nothing. Must not know: how a
//! request becomes a question, where the objects are kept.

pub mod bootstrap;
pub mod escalation;
mod index;
mod question;
pub mod rule;

#[cfg(test)]
mod tests;

pub use index::{Decision, Held, Index, RoleRef};
pub use question::{Attributes, Subject, Target};
pub use rule::Rule;

/// The API group of the objects that say who may do what.
pub const GROUP: &str = "rbac.authorization.k8s.io";
/// The group whose members may do everything, whatever the objects say.
pub const MASTERS: &str = "system:masters";
/// The group of everybody who is known.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of strangers.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";

/// The name and the namespace of the service account that a user name means.
pub fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// The user name of a service account.
pub fn account_user(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// The groups of a service account.
pub fn account_groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}"), AUTHENTICATED.into()]
}
