//! ListenerSets: which Gateway each belongs to, and whether it may.
//!
//! A set that may is compiled like a Gateway of its own, after all Gateways, so that theirs come first where listeners conflict.

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};
use resources::gateway::gateways::{Gateway, GatewayAllowedListenersNamespacesFrom as From};

use super::index::{Index, by_age, key};
use super::routes::GROUP;
use super::verdict::{Fault, reason};
use crate::carrier;
use crate::world::World;

/// A ListenerSet of one of our Gateways.
pub(super) struct Set {
    /// Its listeners, as those of a Gateway.
    pub(super) gateway: Gateway,
    /// Namespace and name of its Gateway.
    pub(super) parent: (String, String),
    /// Why the Gateway does not take it.
    pub(super) fault: Option<Fault>,
}

/// The ListenerSets of our Gateways, oldest first.
pub(super) fn find(world: &World, index: &Index<'_>, classes: &HashSet<&str>) -> Vec<Set> {
    let ours = world.gateways.iter().filter(|gateway| classes.contains(gateway.spec.gateway_class_name.as_str()));
    let parents: BTreeMap<_, _> = ours.map(|gateway| (key(&gateway.metadata), &**gateway)).collect();
    let mut found = Vec::new();
    for position in by_age(&world.sets) {
        let set = &world.sets[position];
        let to = &set.spec.parent_ref;
        let here = key(&set.metadata).0;
        let namespace = to.namespace.as_deref().unwrap_or(here);
        let is_gateway =
            to.group.as_deref().unwrap_or(GROUP) == GROUP && to.kind.as_deref().unwrap_or("Gateway") == "Gateway";
        let Some(parent) = parents.get(&(namespace, to.name.as_str())).filter(|_| is_gateway) else { continue };
        match carrier::listener_set(set, parent) {
            Ok(gateway) => {
                let fault = (!allowed(parent, namespace, here, index)).then(|| {
                    let message = format!(
                        "Gateway {namespace}/{} takes no ListenerSets from namespace {here}; see its spec.allowedListeners",
                        to.name
                    );
                    Fault::new(reason::NOT_ALLOWED, message)
                });
                found.push(Set { gateway, parent: (namespace.to_owned(), to.name.clone()), fault });
            }
            Err(error) => {
                let (namespace, name) = key(&set.metadata);
                tracing::warn!(namespace, name, %error, "left out: the ListenerSet cannot be read");
            }
        }
    }
    found
}

/// Whether a Gateway takes ListenerSets from a namespace; by default it takes none.
fn allowed(gateway: &Gateway, home: &str, here: &str, index: &Index<'_>) -> bool {
    let namespaces = gateway.spec.allowed_listeners.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
    match namespaces.and_then(|namespaces| namespaces.from.as_ref()) {
        None | Some(From::None) => false,
        Some(From::All) => true,
        Some(From::Same) => home == here,
        Some(From::Selector) => {
            let written = namespaces.and_then(|namespaces| namespaces.selector.as_ref());
            let selector = written
                .and_then(|written| serde_json::to_value(written).ok())
                .and_then(|written| serde_json::from_value::<LabelSelector>(written).ok())
                .and_then(|written| Selector::try_from(written).ok());
            let labels = index.namespace_labels(here).cloned().unwrap_or_default();
            selector.is_some_and(|selector| selector.matches(&labels))
        }
    }
}
