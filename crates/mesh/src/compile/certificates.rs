//! The certificates of listeners, and those that Gateways show to backends: references to Secrets, followed and looked at.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use proxy::secured::ClientCertificate;
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
#[derive(Clone)]
pub(super) struct Found {
    pub(super) secret: SecretVersion,
    pub(super) chain: Arc<[u8]>,
    pub(super) key: Arc<[u8]>,
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
        match find_one(to, gateway, index, rejected) {
            Ok(certificate) => found.push(certificate),
            Err(fault) => {
                first_fault.get_or_insert(fault);
            }
        }
    }
    (found, first_fault)
}

fn find_one(
    to: &GatewayListenersTlsCertificateRefs,
    gateway: Subject<'_>,
    index: &Index<'_>,
    rejected: &Rejected,
) -> Result<Found, Fault> {
    let invalid = |message: String| Fault::new(reason::INVALID_CERTIFICATE_REF, message);
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
    let secret = index
        .secret(namespace, &to.name)
        .ok_or_else(|| invalid(format!("{name} does not exist, or is not of type {SECRET_TYPE}")))?;
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
