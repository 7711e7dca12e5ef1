//! Which of several matches that fit a request wins, exactly as Gateway API says.
//!
//! Exact path, then the longest prefix, then a method, then most headers, then most query parameters, then the oldest route,
//! then its name, then the order of rules and matches. Where Gateway API leaves regular expressions open, they come
//! after exact paths and before prefixes: who writes one beside a catch-all prefix means it to be seen. Of gRPC calls, those to
//! a service come before those to a method of any service.

use std::cmp::Reverse;

use proxy::snapshot::{Match, PathMatch};

use super::kind::RouteKind;

/// Smaller ranks win. The fields compare in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    path_kind: u8,
    path_length: Reverse<usize>,
    without_method: bool,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    /// Position of the route among all routes by age, namespace and name.
    route: usize,
    /// Position of the rule in its route.
    rule: usize,
    /// Position of the match in its rule.
    position: usize,
}

impl Rank {
    pub(super) fn new(kind: RouteKind, matches: &Match, route: usize, rule: usize, position: usize) -> Self {
        let (path_kind, length) = match &matches.path {
            // Of calls, one to a service comes before one by its method alone.
            PathMatch::Regex(expression) if kind == RouteKind::Grpc => (3, expression.len()),
            PathMatch::Prefix(root) if kind == RouteKind::Grpc && &**root == "/" => (4, 0),
            PathMatch::Exact(path) => (0, path.len()),
            PathMatch::Regex(expression) => (1, expression.len()),
            // A trailing slash makes no difference to what is matched, so it makes none here.
            PathMatch::Prefix(prefix) => (2, prefix.trim_end_matches('/').len()),
        };
        Self {
            path_kind,
            path_length: Reverse(length),
            without_method: matches.method.is_none(),
            headers: Reverse(matches.headers.len()),
            query: Reverse(matches.query.len()),
            route,
            rule,
            position,
        }
    }
}
