//! A question: may somebody do something? As Kubernetes' authorizers get it.

use std::fmt;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The user's name.
    pub name: &'a str,
    /// The groups that the user is in.
    pub groups: &'a [String],
}

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// Objects of a resource.
    Resource {
        /// The API group; empty for the core.
        group: &'a str,
        /// The plural name.
        resource: &'a str,
        /// The part of the object that is meant; empty for the whole.
        subresource: &'a str,
        /// The namespace; empty for all, or for what is in none.
        namespace: &'a str,
        /// The object; empty for any.
        name: &'a str,
    },
    /// A path that is no resource's.
    Path(&'a str),
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or one of special use.
    pub verb: &'a str,
    /// What it is done to.
    pub target: Target<'a>,
}

impl<'a> Attributes<'a> {
    /// The namespace; empty for all or none.
    pub fn namespace(&self) -> &'a str {
        match self.target {
            Target::Resource { namespace, .. } => namespace,
            Target::Path(_) => "",
        }
    }

    /// What a refusal of `user` says, in upstream's words.
    pub fn refusal(&self, user: &str) -> String {
        format!("User {user:?} cannot {self}")
    }
}

/// `list resource "pods" in API group "" in the namespace "shop"`
impl fmt::Display for Attributes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = self.verb;
        match self.target {
            Target::Path(path) => write!(f, "{verb} path {path:?}"),
            Target::Resource { group, resource, subresource, namespace, .. } => {
                let slash = if subresource.is_empty() { "" } else { "/" };
                write!(f, "{verb} resource \"{resource}{slash}{subresource}\" in API group {group:?} ")?;
                match namespace {
                    "" => write!(f, "at the cluster scope"),
                    namespace => write!(f, "in the namespace {namespace:?}"),
                }
            }
        }
    }
}
