//! BackendTLSPolicies: which ports of which Services are spoken to by TLS, whom to trust there, and what is said about each.
//!
//! A policy for a port by its name comes before one for the whole Service; of two for the same thing the older one is followed.
//! What it is for holds for all callers: those that come through Gateways, and Services.
//!
//! Invariants: a port that a policy is for is never spoken to in the clear, also where the policy cannot be followed: then
//! it is not spoken to at all. What is said is said at the Gateways that lead to the Service; where none does, at the Service.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use proxy::secured::{Authorities, BackendTls, SubjectName, Trust};
use resources::gateway::backendtlspolicies::{
    BackendTlsPolicy, BackendTlsPolicySpec, BackendTlsPolicyTargetRefs, BackendTlsPolicyValidation,
    BackendTlsPolicyValidationSubjectAltNames as AltName, BackendTlsPolicyValidationSubjectAltNamesType as AltNameType,
};

use super::index::{Index, by_age, key};
use super::plan::{AncestorPlan, PolicyKind, PolicyPlan};
use super::routes::GROUP;
use super::verdict::{Fault, Verdict, condition, reason};
use crate::world::World;

/// Where certificates of authorities are in a ConfigMap or Secret.
const CA: &str = "ca.crt";

/// A Service's port, by namespace, name and number.
pub(super) type Port = (String, String, u16);

/// Which Gateways lead to which ports of Services, by namespace and name.
pub(super) type Ways = BTreeMap<Port, BTreeSet<(String, String)>>;

/// What a policy is for: a Service, and one of its ports where only that is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Target {
    namespace: String,
    name: String,
    port: Option<u16>,
}

/// What is said about one of a policy's targets.
struct Judged {
    target: Target,
    section: Option<String>,
    accepted: Verdict,
}

/// What is said about a policy.
struct Said<'w> {
    policy: &'w BackendTlsPolicy,
    resolved: Verdict,
    targets: Vec<Judged>,
}

/// All policies.
#[derive(Default)]
pub(super) struct BackendTlsPolicies<'w> {
    /// The TLS that is spoken; None where a policy cannot be followed.
    followed: HashMap<Target, Option<Arc<BackendTls>>>,
    /// In order of namespace and name.
    said: Vec<Said<'w>>,
}

/// What a policy asks for, and what of it is wrong.
struct Asked {
    tls: Result<Arc<BackendTls>, Fault>,
    resolved: Verdict,
}

impl<'w> BackendTlsPolicies<'w> {
    /// Attaches every policy, oldest first.
    pub(super) fn new(world: &'w World, index: &Index<'_>) -> Self {
        let mut policies = Self::default();
        let mut owners = HashMap::new();
        let mut said: Vec<Option<Said<'w>>> = world.backend_tls.iter().map(|_| None).collect();
        for position in by_age(&world.backend_tls) {
            let policy = &*world.backend_tls[position];
            let asked = read(key(&policy.metadata).0, &policy.spec, index);
            let judge = |to| policies.judge(policy, &asked, to, index, &mut owners);
            let targets = policy.spec.target_refs.iter().map(judge).collect();
            said[position] = Some(Said { policy, resolved: asked.resolved, targets });
        }
        policies.said = said.into_iter().flatten().collect();
        policies
    }

    fn judge(
        &mut self,
        policy: &BackendTlsPolicy,
        asked: &Asked,
        to: &BackendTlsPolicyTargetRefs,
        index: &Index<'_>,
        owners: &mut HashMap<Target, String>,
    ) -> Judged {
        let (namespace, name) = key(&policy.metadata);
        let whole = || Target { namespace: namespace.to_owned(), name: to.name.clone(), port: None };
        let (target, accepted) = match find(namespace, to, index) {
            Err(fault) => (whole(), Err(fault)),
            Ok(port) => {
                let target = Target { port, ..whole() };
                let accepted = match owners.get(&target) {
                    Some(owner) => {
                        let message = format!(
                            "BackendTLSPolicy {owner} is for the same and older; it is followed, this one is not"
                        );
                        Err(Fault::new(reason::CONFLICTED, message))
                    }
                    None => {
                        owners.insert(target.clone(), name.to_owned());
                        self.followed.insert(target.clone(), asked.tls.clone().ok());
                        asked.tls.clone().map(|_| ())
                    }
                };
                (target, accepted)
            }
        };
        let accepted = match accepted {
            Ok(()) => Verdict::yes(condition::ACCEPTED, reason::ACCEPTED, "Policy is accepted"),
            Err(fault) => Verdict::no(condition::ACCEPTED, fault.reason, fault.message),
        };
        Judged { target, section: to.section_name.clone(), accepted }
    }

    /// The TLS that is spoken to a Service's port: none where no policy is for it, Some(None) where one is that cannot be followed.
    pub(super) fn of(&self, namespace: &str, name: &str, port: u16) -> Option<Option<&Arc<BackendTls>>> {
        if self.followed.is_empty() {
            return None;
        }
        let target = |port| Target { namespace: namespace.to_owned(), name: name.to_owned(), port };
        let found = self.followed.get(&target(Some(port))).or_else(|| self.followed.get(&target(None)));
        found.map(Option::as_ref)
    }

    /// What is to be said about each, at the Gateways that lead to what it is for.
    pub(super) fn plans(&self, ways: &Ways) -> Vec<PolicyPlan> {
        let plan =
            |said: &Said<'_>| PolicyPlan::new(PolicyKind::BackendTls, &said.policy.metadata, ancestors(said, ways));
        self.said.iter().map(plan).collect()
    }
}

/// One entry for each Gateway; where several of a policy's targets lead to one, what is wrong comes first.
fn ancestors(said: &Said<'_>, ways: &Ways) -> Vec<AncestorPlan> {
    let mut at_gateways: BTreeMap<(&str, &str), &Verdict> = BTreeMap::new();
    let mut at_services = Vec::new();
    for judged in &said.targets {
        let Target { namespace, name, port } = &judged.target;
        let ports = ways.iter().filter(|((in_namespace, service, number), _)| {
            in_namespace == namespace && service == name && port.is_none_or(|port| port == *number)
        });
        let mut any = false;
        for (namespace, gateway) in ports.flat_map(|(_, gateways)| gateways) {
            any = true;
            let verdict = at_gateways.entry((namespace, gateway)).or_insert(&judged.accepted);
            if verdict.holds {
                *verdict = &judged.accepted;
            }
        }
        if !any {
            at_services.push(AncestorPlan {
                group: String::new(),
                kind: "Service".to_owned(),
                namespace: namespace.clone(),
                name: name.clone(),
                section: judged.section.clone(),
                verdicts: vec![judged.accepted.clone(), said.resolved.clone()],
            });
        }
    }
    let gateways = at_gateways.into_iter().map(|((namespace, name), accepted)| AncestorPlan {
        group: GROUP.to_owned(),
        kind: "Gateway".to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        section: None,
        verdicts: vec![accepted.clone(), said.resolved.clone()],
    });
    gateways.chain(at_services).collect()
}

/// The port that is meant, where only one is.
fn find(namespace: &str, to: &BackendTlsPolicyTargetRefs, index: &Index<'_>) -> Result<Option<u16>, Fault> {
    if !to.group.is_empty() || to.kind != "Service" {
        let message = format!("targetRefs has kind {:?} of group {:?}; only Service is followed", to.kind, to.group);
        return Err(Fault::new(reason::INVALID, message));
    }
    let missing = |message| Fault::new(reason::TARGET_NOT_FOUND, message);
    let service: &Service = index
        .service(namespace, &to.name)
        .ok_or_else(|| missing(format!("Service {namespace}/{} does not exist", to.name)))?;
    let Some(section) = to.section_name.as_deref() else { return Ok(None) };
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let port = ports.iter().find(|port| port.name.as_deref() == Some(section));
    let number = port.and_then(|port| u16::try_from(port.port).ok());
    match number {
        Some(number) => Ok(Some(number)),
        None => Err(missing(format!("Service {namespace}/{} has no port named {section}", to.name))),
    }
}

fn read(namespace: &str, spec: &BackendTlsPolicySpec, index: &Index<'_>) -> Asked {
    let (trust, unresolved) = trust(namespace, &spec.validation, index);
    let resolved = match unresolved {
        Some(fault) => Verdict::no(condition::RESOLVED_REFS, fault.reason, fault.message),
        None => Verdict::yes(condition::RESOLVED_REFS, reason::RESOLVED_REFS, "All references are resolved"),
    };
    let tls = trust.and_then(|trust| {
        let names = spec.validation.subject_alt_names.iter().flatten().map(alt_name).collect::<Result<Vec<_>, _>>()?;
        let name = spec.validation.hostname.to_ascii_lowercase();
        if rustls_pki_types::DnsName::try_from(name.as_str()).is_err() {
            return Err(Fault::new(reason::INVALID, format!("validation.hostname {name:?} is no host name")));
        }
        Ok(Arc::new(BackendTls { name: name.into(), trust, names }))
    });
    Asked { tls, resolved }
}

fn alt_name(written: &AltName) -> Result<SubjectName, Fault> {
    let (kind, value) = match written.r#type {
        AltNameType::Hostname => ("hostname", written.hostname.as_deref()),
        AltNameType::Uri => ("uri", written.uri.as_deref()),
    };
    match (kind, value.filter(|value| !value.is_empty())) {
        ("hostname", Some(host)) => Ok(SubjectName::Host(host.to_ascii_lowercase().into())),
        (_, Some(uri)) => Ok(SubjectName::Uri(uri.into())),
        (kind, None) => {
            Err(Fault::new(reason::INVALID, format!("validation.subjectAltNames has an entry without {kind}")))
        }
    }
}

/// Whom to trust, and the first reference that could not be followed. What can be followed of several is.
fn trust(
    namespace: &str,
    says: &BackendTlsPolicyValidation,
    index: &Index<'_>,
) -> (Result<Trust, Fault>, Option<Fault>) {
    let refs = says.ca_certificate_refs.as_deref().unwrap_or_default();
    let well_known = says.well_known_ca_certificates.as_deref().filter(|name| !name.is_empty());
    let invalid = |message: String| (Err(Fault::new(reason::INVALID, message)), None);
    match (refs, well_known) {
        ([], Some("System")) => (Ok(Trust::System), None),
        ([], Some(other)) => invalid(format!("validation.wellKnownCACertificates {other:?} is not known; System is")),
        ([], None) => invalid("validation needs caCertificateRefs or wellKnownCACertificates: System".to_owned()),
        (_, Some(_)) => {
            invalid("validation has both caCertificateRefs and wellKnownCACertificates; one may be given".to_owned())
        }
        (refs, None) => {
            let (mut bundles, mut first) = (Vec::new(), None);
            for to in refs {
                let to = Bundle { group: &to.group, kind: &to.kind, namespace, name: &to.name };
                match authorities(&to, index) {
                    Ok(bundle) => bundles.push(bundle),
                    Err(fault) => drop(first.get_or_insert(fault)),
                }
            }
            let trust = Authorities::joined(&bundles).map(Trust::Authorities).ok_or_else(|| {
                let why = first.as_ref().map_or("", |fault: &Fault| fault.message.as_str());
                Fault::new(reason::NO_VALID_CA_CERTIFICATE, format!("no authority can be used: {why}"))
            });
            (trust, first)
        }
    }
}

/// Where certificates of authorities are.
pub(super) struct Bundle<'r> {
    pub(super) group: &'r str,
    pub(super) kind: &'r str,
    pub(super) namespace: &'r str,
    pub(super) name: &'r str,
}

/// The authorities of one reference: in a ConfigMap, or in a Secret.
pub(super) fn authorities(to: &Bundle<'_>, index: &Index<'_>) -> Result<Authorities, Fault> {
    let &Bundle { group, kind, namespace, name } = to;
    let title = format!("{kind} {namespace}/{name}");
    let invalid = |why: String| Fault::new(reason::INVALID_CA_CERTIFICATE_REF, format!("{title} {why}"));
    let pem: &[u8] = match (group, kind) {
        ("", "ConfigMap") => {
            let map = index.config_map(namespace, name).ok_or_else(|| invalid("does not exist".to_owned()))?;
            let value = map.data.as_ref().and_then(|data| data.get(CA));
            value.ok_or_else(|| invalid(format!("has no certificate under {CA}")))?.as_bytes()
        }
        ("", "Secret") => {
            let secret = index.secret(namespace, name).or_else(|| index.opaque(namespace, name));
            let secret = secret.ok_or_else(|| invalid("does not exist".to_owned()))?;
            let value = secret.data.as_ref().and_then(|data| data.get(CA));
            &value.ok_or_else(|| invalid(format!("has nothing under {CA}")))?.0
        }
        (group, kind) => {
            let group = if group.is_empty() { String::new() } else { format!(".{group}") };
            let message = format!("caCertificateRefs has {kind}{group} {name}; ConfigMap is supported, and Secret");
            return Err(Fault::new(reason::INVALID_KIND, message));
        }
    };
    Authorities::read(pem).map_err(|why| invalid(format!("under {CA} {why}")))
}
