//! One listener of a Gateway, looked at by itself: protocol, kinds, namespaces, certificates.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::core::{Selector, SelectorExt};
use proxy::secured::Clients as Asked;
use proxy::snapshot::HostMatch;
use resources::gateway::gateways::{
    Gateway, GatewayListeners, GatewayListenersAllowedRoutes, GatewayListenersAllowedRoutesNamespacesFrom as From,
    GatewayListenersAllowedRoutesNamespacesSelector, GatewayListenersTlsMode,
};

use super::certificates::{self, Found};
use super::frontend::{self, Clients};
use super::hosts;
use super::index::{Index, Subject, key};
use super::kind::RouteKind;
use super::routes::GROUP;
use super::verdict::{Fault, reason};
use crate::world::Rejected;

/// The kinds of routes that are followed, by what listeners speak.
const HTTP_KINDS: &[&str] = &["HTTPRoute", "GRPCRoute"];
const TLS_KINDS: &[&str] = &["TLSRoute"];

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    Https,
    /// Handed on as it is.
    Tls,
    /// What is in it is handed on.
    EndedTls,
}

/// Whose routes may attach.
enum Namespaces {
    All,
    Same,
    Selected(Selector),
}

/// A listener, and what is wrong with it.
pub(super) struct Lane {
    pub(super) name: String,
    /// As written, for those who read it.
    pub(super) written_protocol: String,
    pub(super) hostname: Option<String>,
    pub(super) host: HostMatch,
    pub(super) port: u16,
    /// None where it is not one that is served.
    pub(super) protocol: Option<Protocol>,
    pub(super) kinds: Vec<&'static str>,
    pub(super) certificates: Vec<Found>,
    /// What clients are asked to show.
    pub(super) clients: Option<Asked>,
    /// Why it cannot be accepted.
    pub(super) refused: Option<Fault>,
    /// What it shares with another listener that it must not.
    pub(super) conflict: Option<Fault>,
    /// The first reference that could not be followed.
    pub(super) unresolved: Option<Fault>,
    /// The merged listeners that serve it, one for each address.
    pub(super) groups: Vec<usize>,
    /// How many routes are attached.
    pub(super) attached: i32,
    /// The hosts of the routes that are attached.
    pub(super) hosts: Vec<(RouteKind, HostMatch)>,
    namespaces: Namespaces,
}

impl Lane {
    /// Looks at a listener of a `kind`: of a Gateway, or of a set that belongs to the Gateway `home`.
    pub(super) fn new(
        kind: &str,
        (gateway, home): (&Gateway, &Gateway),
        listener: &GatewayListeners,
        index: &Index<'_>,
        rejected: &Rejected,
    ) -> Self {
        let mut refused = None;
        let protocol = match listener.protocol.as_str() {
            "HTTP" => Some(Protocol::Http),
            "HTTPS" => Some(Protocol::Https),
            "TLS" => match listener.tls.as_ref().and_then(|tls| tls.mode.as_ref()) {
                Some(GatewayListenersTlsMode::Passthrough) => Some(Protocol::Tls),
                Some(GatewayListenersTlsMode::Terminate) | None => Some(Protocol::EndedTls),
            },
            other => {
                let message = format!("protocol {other} is not supported; HTTP, HTTPS and TLS are");
                refused = Some(Fault::new(reason::UNSUPPORTED_PROTOCOL, message));
                None
            }
        };
        let port = u16::try_from(listener.port).unwrap_or_default();
        if port == 0 {
            let message = format!("{} is not a port; use 1 to 65535", listener.port);
            refused.get_or_insert(Fault::new(reason::PORT_UNAVAILABLE, message));
        }
        let allowed = listener.allowed_routes.as_ref();
        let (kinds, mut unresolved) = kinds(protocol, allowed);
        let namespaces = namespaces(allowed).unwrap_or_else(|message| {
            refused.get_or_insert(Fault::new(reason::INVALID, message));
            Namespaces::Same
        });
        let mut found = Vec::new();
        let mut clients = Clients::default();
        if matches!(protocol, Some(Protocol::Https | Protocol::EndedTls)) {
            let (certificates, fault) = tls(kind, gateway, listener, index, rejected, &mut refused);
            found = certificates;
            unresolved = unresolved.or(fault);
        }
        if protocol == Some(Protocol::Https) {
            clients = frontend::clients(home, port, index);
            refused = refused.or(clients.refused);
            unresolved = unresolved.or(clients.unresolved);
        }
        Self {
            name: listener.name.clone(),
            written_protocol: listener.protocol.clone(),
            hostname: listener.hostname.clone().filter(|hostname| !hostname.is_empty()),
            host: HostMatch::parse(listener.hostname.as_deref().unwrap_or_default()),
            port,
            protocol,
            kinds,
            certificates: found,
            clients: clients.asked,
            refused,
            conflict: None,
            unresolved,
            groups: Vec::new(),
            attached: 0,
            hosts: Vec::new(),
            namespaces,
        }
    }

    /// Whether routes of this kind in `namespace`, with these labels, may attach.
    pub(super) fn allows(&self, kind: &str, gateway: &str, namespace: &str, index: &Index<'_>) -> bool {
        let from_here = match &self.namespaces {
            Namespaces::All => true,
            Namespaces::Same => namespace == gateway,
            Namespaces::Selected(selector) => match index.namespace_labels(namespace) {
                Some(labels) => selector.matches(labels),
                None => selector.matches(&std::collections::BTreeMap::new()),
            },
        };
        from_here && self.kinds.contains(&kind)
    }

    /// Whether a route of another kind has a host in common with these already.
    pub(super) fn taken(&self, kind: RouteKind, hosts: &[HostMatch]) -> bool {
        let others = self.hosts.iter().filter(|(other, _)| *other != kind);
        others.into_iter().any(|(_, host)| hosts.iter().any(|own| hosts::intersection(host, own).is_some()))
    }

    /// Whether it must serve nobody, as it cannot tell whom to let in.
    pub(super) fn shut(&self) -> bool {
        self.refused.as_ref().is_some_and(|fault| fault.reason == reason::NO_VALID_CA_CERTIFICATE)
    }

    /// Whether nothing but its socket can keep it from serving.
    pub(super) fn valid(&self) -> bool {
        let ends = matches!(self.protocol, Some(Protocol::Https | Protocol::EndedTls));
        let has_certificate = !ends || !self.certificates.is_empty();
        self.refused.is_none() && self.conflict.is_none() && has_certificate
    }
}

/// The kinds of routes that are both supported and allowed, and a fault where one is allowed that is not supported.
fn kinds(
    protocol: Option<Protocol>,
    allowed: Option<&GatewayListenersAllowedRoutes>,
) -> (Vec<&'static str>, Option<Fault>) {
    let supported = match protocol {
        Some(Protocol::Http | Protocol::Https) => HTTP_KINDS,
        Some(Protocol::Tls | Protocol::EndedTls) => TLS_KINDS,
        None => &[],
    };
    let asked = allowed.and_then(|allowed| allowed.kinds.as_deref()).unwrap_or_default();
    if asked.is_empty() {
        return (supported.to_vec(), None);
    }
    let ours = |kind: &str, group: Option<&str>| {
        supported.iter().find(|supported| **supported == kind && group.is_none_or(|group| group == GROUP))
    };
    let mut kinds: Vec<&'static str> = Vec::new();
    let mut fault = None;
    for ask in asked {
        match ours(&ask.kind, ask.group.as_deref()) {
            Some(kind) if kinds.contains(kind) => {}
            Some(kind) => kinds.push(kind),
            None => {
                let message = format!("allowedRoutes.kinds has {}, which this listener cannot serve", ask.kind);
                fault.get_or_insert(Fault::new(reason::INVALID_ROUTE_KINDS, message));
            }
        }
    }
    (kinds, fault)
}

fn namespaces(allowed: Option<&GatewayListenersAllowedRoutes>) -> Result<Namespaces, String> {
    let Some(namespaces) = allowed.and_then(|allowed| allowed.namespaces.as_ref()) else {
        return Ok(Namespaces::Same);
    };
    match namespaces.from.as_ref().unwrap_or(&From::Same) {
        From::All => Ok(Namespaces::All),
        From::Same => Ok(Namespaces::Same),
        From::Selector => match &namespaces.selector {
            Some(written) => selector(written).map(Namespaces::Selected),
            None => Err("allowedRoutes.namespaces.from is Selector, so selector must be given".to_owned()),
        },
    }
}

fn selector(written: &GatewayListenersAllowedRoutesNamespacesSelector) -> Result<Selector, String> {
    let expressions = written.match_expressions.as_ref().map(|expressions| {
        let requirements = expressions.iter().map(|expression| LabelSelectorRequirement {
            key: expression.key.clone(),
            operator: expression.operator.clone(),
            values: expression.values.clone(),
        });
        requirements.collect()
    });
    let selector = LabelSelector { match_expressions: expressions, match_labels: written.match_labels.clone() };
    selector.try_into().map_err(|error| format!("allowedRoutes.namespaces.selector: {error}"))
}

/// The certificates of a listener that ends TLS; what it asks for beyond them is refused, for it is asked for to be safe.
fn tls(
    kind: &str,
    gateway: &Gateway,
    listener: &GatewayListeners,
    index: &Index<'_>,
    rejected: &Rejected,
    refused: &mut Option<Fault>,
) -> (Vec<Found>, Option<Fault>) {
    let mut refuse = |message: &str| {
        refused.get_or_insert(Fault::new(reason::INVALID, message));
    };
    let Some(tls) = &listener.tls else {
        refuse("a listener that ends TLS needs tls.certificateRefs");
        return (Vec::new(), None);
    };
    if tls.mode == Some(GatewayListenersTlsMode::Passthrough) {
        refuse("tls.mode Passthrough is for protocol TLS; an HTTPS listener terminates");
    }
    let refs = tls.certificate_refs.as_deref().unwrap_or_default();
    if refs.is_empty() {
        refuse("a listener that ends TLS needs tls.certificateRefs");
    }
    let (namespace, name) = key(&gateway.metadata);
    certificates::find(refs, Subject { group: GROUP, kind, namespace, name }, index, rejected)
}
