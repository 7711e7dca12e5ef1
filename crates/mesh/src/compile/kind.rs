//! The kinds of routes that are followed.

use std::sync::Arc;

use resources::gateway::httproutes::HttpRoute;

use super::index::seniority;
use crate::world::World;

/// A kind of route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// HTTPRoute.
    Http,
    /// GRPCRoute.
    Grpc,
    /// TLSRoute.
    Tls,
}

impl RouteKind {
    /// As it is written in manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
            Self::Tls => "TLSRoute",
        }
    }

    /// What the ids of its rules begin with.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Http => "",
            Self::Grpc => "grpc:",
            Self::Tls => "tls:",
        }
    }

    /// The kind that a rule's id is of, and the rest of the id.
    pub(super) fn of_id(id: &str) -> (Self, &str) {
        for kind in [Self::Grpc, Self::Tls] {
            if let Some(rest) = id.strip_prefix(kind.prefix()) {
                return (kind, rest);
            }
        }
        (Self::Http, id)
    }
}

impl World {
    /// The routes of one kind.
    pub(crate) fn routes_of(&self, kind: RouteKind) -> &[Arc<HttpRoute>] {
        match kind {
            RouteKind::Http => &self.routes,
            RouteKind::Grpc => &self.grpc_routes,
            RouteKind::Tls => &self.tls_routes,
        }
    }
}

/// All routes in order of kind, namespace and name.
pub(super) fn all(world: &World) -> Vec<(RouteKind, &HttpRoute)> {
    let kinds = [RouteKind::Http, RouteKind::Grpc, RouteKind::Tls];
    kinds.iter().flat_map(|kind| world.routes_of(*kind).iter().map(|route| (*kind, &**route))).collect()
}

/// The positions of `routes`, oldest first.
pub(super) fn by_age(routes: &[(RouteKind, &HttpRoute)]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..routes.len()).collect();
    order.sort_by_cached_key(|position| seniority(&routes[*position].1.metadata));
    order
}
