//! Who may pass: policies, judged at every place that a request comes by.
//!
//! A *place* is a listener of a Gateway, a route or a Service; each has policies of its own, which are judged together, and a
//! request must be let in by every place on its way. Judging is a pure function of a policy and of what is known about a
//! request (`decide.rs`); everything else here brings the two together.
//!
//! Invariants: where no policy is attached nothing is looked at; what cannot be judged is refused; every refusal has a reason,
//! is counted, and is written down within a bound of lines a second. This module must not know what a place or a policy stands
//! for.

mod compile;
mod decide;
mod evidence;
mod external;
mod jwt;
mod place;
mod policy;
mod refusal;
mod remote;
#[cfg(test)]
mod tests;
mod visit;
mod written;

pub use jwt::{claimed_subject, verify_token};
pub use policy::{
    AccessRule, ApiKeys, Condition, Effect, External, Issuer, Jwt, Keys, Origin, Place, PlaceId, Policy, PolicyId,
    RemoteKeys, Source, TokenFrom, TokenMatch,
};
pub use refusal::Refusals;

pub(crate) use evidence::Changes;
pub(crate) use place::{LivePlace, Places};
pub(crate) use refusal::Audit;
pub(crate) use visit::{Admitted, Stop, Visit, Wait, admits, admits_copy, judge, judge_connection, lets_in};
