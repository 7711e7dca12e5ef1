//! Policies as plain data, as a snapshot has them.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};

pub use super::jwt::Condition;
use crate::snapshot::{BackendId, HeaderMatch, PathMatch};

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
    /// Whose tokens are believed. Who brings one that is not is refused, whether a rule asks for one or not.
    pub jwt: Option<Jwt>,
    /// The keys that clients have. Who brings one that nobody has is refused.
    pub keys: Option<ApiKeys>,
    /// A service that is asked about every request that the rules let in.
    pub external: Option<External>,
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
    /// A token that must be there.
    pub token: Option<TokenMatch>,
    /// A key of one of these clients must be there; of any where there is none.
    pub clients: Option<Vec<Arc<str>>>,
}

/// A condition on tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenMatch {
    /// The issuer; any that the policy believes where there is none.
    pub issuer: Option<Arc<str>>,
    /// Claims by name, or by a path of names with dots, all of which must hold.
    pub claims: Vec<(Arc<str>, Condition)>,
}

/// Whose JSON Web Tokens are believed (RFC 7519).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Jwt {
    /// The issuers. A token is verified as one of the issuer that it names.
    pub issuers: Vec<Issuer>,
}

/// Somebody who issues tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// What tokens must have as `iss`.
    pub name: Arc<str>,
    /// How `sub` must begin, where not everybody is this issuer's to speak of.
    pub subjects: Option<Arc<str>>,
    /// Any of these must be in `aud`; not looked at where there is none.
    pub audiences: Vec<Arc<str>>,
    /// What verifies them.
    pub keys: Keys,
    /// Where tokens are looked for; `Authorization: Bearer` where there is nothing.
    pub from: Vec<TokenFrom>,
    /// How far clocks may be apart.
    pub leeway: Duration,
    /// Whether the backend gets the token too.
    pub forward: bool,
    /// Claims that the backend gets as headers. Clients cannot send these headers themselves.
    pub told: Vec<(Arc<str>, HeaderName)>,
}

/// Where a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenFrom {
    /// In a header, after a prefix such as `Bearer `, whose letter case does not matter.
    Header(HeaderName, Arc<str>),
    /// In a query parameter.
    Query(Arc<str>),
}

/// A JSON Web Key Set (RFC 7517).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Keys {
    /// The set itself, as JSON.
    Here(Arc<str>),
    /// It is fetched, kept, and fetched again.
    There(RemoteKeys),
}

/// A key set that is fetched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RemoteKeys {
    /// From whom.
    pub at: Origin,
    /// The path and query.
    pub path: Arc<str>,
    /// How long a fetch may take; a request that needs keys that are not there waits no longer than one.
    pub timeout: Duration,
    /// How long a set is kept before it is fetched again.
    pub refresh: Duration,
    /// The shortest time between a fetch and one that an unknown key asks for.
    pub pause: Duration,
}

/// A server of HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// An endpoint of a backend; it must be in [`crate::Snapshot::backends`]. Plain HTTP/1.1.
    Backend(BackendId),
    /// A host outside, by name or address, and port.
    Host {
        /// Its name.
        host: Arc<str>,
        /// Its port.
        port: u16,
        /// Whether by TLS.
        tls: bool,
        /// The only authorities that are trusted, as PEM; those of the system where there are none.
        roots: Option<Arc<str>>,
    },
}

/// A service that decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// Who is asked; it must be in [`crate::Snapshot::backends`].
    pub backend: BackendId,
    /// The path that is asked for.
    pub path: Arc<str>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Whether requests pass where there is no answer.
    pub fail_open: bool,
    /// Headers of the answer that the backend gets. Clients cannot send them themselves.
    pub to_backend: Vec<HeaderName>,
}

/// Keys of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeys {
    /// The header that keys come in.
    pub header: Option<HeaderName>,
    /// The query parameter that keys come in.
    pub query: Option<Arc<str>>,
    /// Whether the backend gets the key too.
    pub forward: bool,
    /// The header in which the backend gets the client's name. Clients cannot send it themselves.
    pub told: Option<HeaderName>,
    /// The clients, with the SHA-256 of a key of theirs. One may have several.
    pub keys: Vec<(Arc<str>, [u8; 32])>,
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
