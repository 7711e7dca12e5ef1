//! The certificates of listeners, and those that Gateways show to backends: references to Secrets, followed and looked at.
//!
//! Invariant: a certificate that is served goes on being served while its Secret is there, may be referred to and holds none that is better.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use proxy::secured::ClientCertificate;
use proxy::snapshot::{Listener, ListenerProtocol};
use resources::gateway::gateways::{Gateway, GatewayListenersTlsCertificateRefs};

use super::index::{Index, Subject, key};
use super::routes::GROUP;
use super::verdict::{Fault, reason};
use crate::world::Rejected;

/// The type of Secrets that hold a certificate.
pub(crate) const SECRET_TYPE: &str = "kubernetes.io/tls";
const CHAIN: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Namespace, name and resource version of a Secret.
pub type SecretVersion = (String, String, String);

/// A certificate and the Secret that it is from.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) secret: SecretVersion,
    pub(super) chain: Arc<[u8]>,
    pub(super) key: Arc<[u8]>,
}

/// The certificates that the proxy serves, by namespace and name of their Secrets: where one becomes unfit, the last that was good.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Served(BTreeMap<(String, String), Found>);

impl Served {
    /// What a snapshot has that the proxy has taken. `sources` says which Secret each certificate of a listener is from.
    #[must_use]
    pub fn of(listeners: &[Listener], sources: &BTreeMap<Arc<str>, Vec<SecretVersion>>) -> Self {
        let each = listeners.iter().flat_map(|listener| {
            let certificates = match &listener.protocol {
                ListenerProtocol::Https { certificates, .. } | ListenerProtocol::Tls { certificates, .. } => {
                    certificates.as_slice()
                }
                _ => &[],
            };
            certificates.iter().zip(sources.get(&listener.id).into_iter().flatten())
        });
        let found = each.map(|(certificate, secret)| {
            let (chain, key) = (Arc::clone(&certificate.chain), Arc::clone(&certificate.key));
            ((secret.0.clone(), secret.1.clone()), Found { secret: secret.clone(), chain, key })
        });
        Self(found.collect())
    }
}

/// Without the keys.
impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.values().map(|found| &found.secret)).finish()
    }
}

/// Follows every reference of a Gateway's listener; the good ones, and the first fault.
pub(super) fn find(
    refs: &[GatewayListenersTlsCertificateRefs],
    gateway: Subject<'_>,
    index: &Index<'_>,
    rejected: &Rejected,
) -> (Vec<Found>, Option<Fault>) {
    let mut found = Vec::with_capacity(refs.len());
    let mut first_fault = None;
    for to in refs {
        let secret = match follow(to, gateway, index) {
            Ok(secret) => secret,
            Err(fault) => {
                first_fault.get_or_insert(fault);
                continue;
            }
        };
        match read(secret, rejected) {
            Ok(certificate) => found.push(certificate),
            Err(mut fault) => {
                if let Some(before) = before(secret, rejected) {
                    fault.message.push_str("; the last one that could be is served meanwhile");
                    found.push(before.clone());
                }
                first_fault.get_or_insert(fault);
            }
        }
    }
    (found, first_fault)
}

/// What a Secret had that is served still.
fn before<'r>(secret: &Secret, rejected: &'r Rejected) -> Option<&'r Found> {
    let (namespace, name, _) = version(secret);
    let before = rejected.served.0.get(&(namespace, name))?;
    // The proxy may see today what it did not yesterday.
    (!rejected.certificates.contains_key(&before.secret)).then_some(before)
}

fn find_one(
    to: &GatewayListenersTlsCertificateRefs,
    gateway: Subject<'_>,
    index: &Index<'_>,
    rejected: &Rejected,
) -> Result<Found, Fault> {
    read(follow(to, gateway, index)?, rejected)
}

fn invalid(message: String) -> Fault {
    Fault::new(reason::INVALID_CERTIFICATE_REF, message)
}

/// The Secret that is referred to.
fn follow<'w>(
    to: &GatewayListenersTlsCertificateRefs,
    gateway: Subject<'_>,
    index: &Index<'w>,
) -> Result<&'w Secret, Fault> {
    let (group, kind) = (to.group.as_deref().unwrap_or_default(), to.kind.as_deref().unwrap_or("Secret"));
    let namespace = to.namespace.as_deref().unwrap_or(gateway.namespace);
    let name = format!("Secret {namespace}/{}", to.name);
    if !group.is_empty() || kind != "Secret" {
        return Err(invalid(format!(
            "certificate {namespace}/{} is of kind {kind}; only Secret is supported",
            to.name
        )));
    }
    if !index.permitted(gateway, Subject { group, kind, namespace, name: &to.name }) {
        let message = format!(
            "{name} is in another namespace and no ReferenceGrant in {namespace} lets a Gateway of {} refer to it",
            gateway.namespace
        );
        return Err(Fault::new(reason::REF_NOT_PERMITTED, message));
    }
    let none = || invalid(format!("{name} does not exist, or is not of type {SECRET_TYPE}"));
    index.secret(namespace, &to.name).ok_or_else(none)
}

/// What a Secret holds.
fn read(secret: &Secret, rejected: &Rejected) -> Result<Found, Fault> {
    let (namespace, name) = key(&secret.metadata);
    let name = format!("Secret {namespace}/{name}");
    let secret_version = version(secret);
    if let Some(why) = rejected.certificates.get(&secret_version) {
        return Err(invalid(format!("{name} cannot be used: {why}")));
    }
    let data = secret.data.as_ref();
    let chain = pem(data, CHAIN, "CERTIFICATE").map_err(|why| invalid(format!("{name} {why}")))?;
    let key = pem(data, KEY, "PRIVATE KEY").map_err(|why| invalid(format!("{name} {why}")))?;
    Ok(Found { secret: secret_version, chain, key })
}

/// What a Gateway shows to backends with TLS that ask for a certificate; none where it has none.
pub(super) fn client(
    gateway: &Gateway,
    index: &Index<'_>,
    rejected: &Rejected,
) -> Result<Option<Arc<ClientCertificate>>, Fault> {
    let backend = gateway.spec.tls.as_ref().and_then(|tls| tls.backend.as_ref());
    let Some(to) = backend.and_then(|backend| backend.client_certificate_ref.clone()) else { return Ok(None) };
    let to =
        GatewayListenersTlsCertificateRefs { group: to.group, kind: to.kind, name: to.name, namespace: to.namespace };
    let (namespace, name) = key(&gateway.metadata);
    let found = find_one(&to, Subject { group: GROUP, kind: "Gateway", namespace, name }, index, rejected);
    let invalid = |message| Fault::new(reason::INVALID_CLIENT_CERTIFICATE_REF, message);
    let found = found.map_err(|fault| match fault.reason {
        reason::REF_NOT_PERMITTED => fault,
        _ => invalid(fault.message),
    })?;
    let read = ClientCertificate::read(&found.chain, &found.key);
    let (in_namespace, secret, _) = &found.secret;
    let read = read.map_err(|why| invalid(format!("Secret {in_namespace}/{secret} cannot be used: {why}")));
    read.map(|certificate| Some(Arc::new(certificate)))
}

fn version(secret: &Secret) -> SecretVersion {
    let (namespace, name) = key(&secret.metadata);
    (namespace.to_owned(), name.to_owned(), secret.metadata.resource_version.clone().unwrap_or_default())
}

/// The PEM under `name`, which must at least look like holding a `label`.
fn pem(data: Option<&BTreeMap<String, ByteString>>, name: &str, label: &str) -> Result<Arc<[u8]>, String> {
    let Some(ByteString(bytes)) = data.and_then(|data| data.get(name)) else {
        return Err(format!("has no {name}"));
    };
    let text = std::str::from_utf8(bytes).map_err(|_| format!("has a {name} that is not PEM"))?;
    let begins = text.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(label));
    if begins { Ok(bytes.as_slice().into()) } else { Err(format!("has a {name} without a PEM block of type {label}")) }
}
