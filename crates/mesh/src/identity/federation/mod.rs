//! Bundles that are handed on by network (SPIFFE Federation): ours is served, those of others are fetched and kept up to date.
//!
//! Invariants: what is fetched counts only from the endpoint that was named, proved by a certificate, and for the trust domain that
//! it was named for; a fetch that fails changes nothing; times, sizes and connections are bounded.

mod fetch;
mod follow;
mod schedule;
mod serve;

pub use fetch::{FetchError, Fetched, Profile, Source, fetch};
pub use follow::{ENDPOINT_CA_KEY, ENDPOINT_ID_KEY, ENDPOINT_KEY, Follower, PROFILE_KEY};
pub use serve::{BindError, BundleEndpoint};

/// How often a bundle is to be asked for again, in seconds (SPIFFE Trust Domain and Bundle, section 4.1.2).
pub const REFRESH_HINT: u64 = 300;
