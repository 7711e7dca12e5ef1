//! What clients of HTTPS listeners must show: a certificate of some authorities (Gateway API, GatewayTLSConfig.frontend).
//!
//! Invariants: where a Gateway names authorities and none of them can be used, its listeners serve nobody; the configuration for
//! a port takes the place of the default one as a whole, and both hold for ListenerSets of the Gateway too.

use proxy::secured::{Authorities, Clients as Asked};
use resources::gateway::gateways::{
    Gateway, GatewayTlsFrontendDefaultValidation as Default, GatewayTlsFrontendDefaultValidationMode as DefaultMode,
    GatewayTlsFrontendPerPortTlsValidation as PerPort, GatewayTlsFrontendPerPortTlsValidationMode as PerPortMode,
};

use super::backend_tls::{self, Bundle};
use super::index::{Index, Subject, key};
use super::routes::GROUP;
use super::verdict::{Fault, reason};

/// What the clients of a port must show.
#[derive(Default)]
pub(super) struct Clients {
    /// What they are asked for; nothing where there is none.
    pub(super) asked: Option<Asked>,
    /// Why the listener must serve nobody.
    pub(super) refused: Option<Fault>,
    /// The first reference that cannot be followed.
    pub(super) unresolved: Option<Fault>,
}

/// A reference to authorities: group, kind, namespace and name.
type Reference<'g> = (&'g str, &'g str, Option<&'g str>, &'g str);

/// What a Gateway says about the clients of one port, or of those that it does not speak of.
struct Validation<'g> {
    references: Vec<Reference<'g>>,
    /// Clients are served whatever they show.
    insecure: bool,
}

impl<'g> From<&'g Default> for Validation<'g> {
    fn from(written: &'g Default) -> Self {
        let refs = written.ca_certificate_refs.iter();
        Self {
            references: refs.map(|to| (&*to.group, &*to.kind, to.namespace.as_deref(), &*to.name)).collect(),
            insecure: written.mode == Some(DefaultMode::AllowInsecureFallback),
        }
    }
}

impl<'g> From<&'g PerPort> for Validation<'g> {
    fn from(written: &'g PerPort) -> Self {
        let refs = written.ca_certificate_refs.iter();
        Self {
            references: refs.map(|to| (&*to.group, &*to.kind, to.namespace.as_deref(), &*to.name)).collect(),
            insecure: written.mode == Some(PerPortMode::AllowInsecureFallback),
        }
    }
}

/// What holds for a port: its own configuration, or the default one.
fn validation(gateway: &Gateway, port: u16) -> Option<Validation<'_>> {
    let frontend = gateway.spec.tls.as_ref()?.frontend.as_ref()?;
    match frontend.per_port.iter().flatten().find(|own| own.port == i32::from(port)) {
        Some(own) => own.tls.validation.as_ref().map(Validation::from),
        None => frontend.default.validation.as_ref().map(Validation::from),
    }
}

/// Whether some clients of a Gateway are served whatever they show, although it names authorities.
pub(super) fn is_insecure(gateway: &Gateway) -> bool {
    let Some(frontend) = gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref()) else { return false };
    let default = frontend.default.validation.as_ref().map(Validation::from);
    let own = frontend.per_port.iter().flatten().filter_map(|own| own.tls.validation.as_ref().map(Validation::from));
    own.chain(default).any(|validation| validation.insecure)
}

/// What clients of a Gateway's HTTPS listeners on `port` must show.
pub(super) fn clients(gateway: &Gateway, port: u16, index: &Index<'_>) -> Clients {
    let Some(validation) = validation(gateway, port) else { return Clients::default() };
    let (mut bundles, mut clients) = (Vec::new(), Clients::default());
    for reference in &validation.references {
        match authorities(gateway, *reference, index) {
            Ok(bundle) => bundles.push(bundle),
            Err(fault) => drop(clients.unresolved.get_or_insert(fault)),
        }
    }
    let authorities = Authorities::joined(&bundles);
    clients.asked = authorities.map(|authorities| Asked { authorities, unverified: validation.insecure });
    if clients.asked.is_none() {
        let why = clients.unresolved.as_ref().map_or("there is none", |fault| &fault.message);
        let message = format!("no authority for the certificates of clients can be used: {why}");
        clients.refused = Some(Fault::new(reason::NO_VALID_CA_CERTIFICATE, message));
    }
    clients
}

fn authorities(
    gateway: &Gateway,
    (group, kind, namespace, name): Reference<'_>,
    index: &Index<'_>,
) -> Result<Authorities, Fault> {
    let (home, own) = key(&gateway.metadata);
    let namespace = namespace.unwrap_or(home);
    let from = Subject { group: GROUP, kind: "Gateway", namespace: home, name: own };
    if !index.permitted(from, Subject { group, kind, namespace, name }) {
        let message = format!(
            "{kind} {namespace}/{name} is in another namespace and no ReferenceGrant in {namespace} lets a Gateway of {home} refer to it"
        );
        return Err(Fault::new(reason::REF_NOT_PERMITTED, message));
    }
    backend_tls::authorities(&Bundle { group, kind, namespace, name }, index).map_err(|fault| match fault.reason {
        reason::INVALID_KIND => Fault::new(reason::INVALID_CA_CERTIFICATE_KIND, fault.message),
        _ => fault,
    })
}
