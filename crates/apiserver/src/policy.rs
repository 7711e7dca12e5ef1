//! ValidatingAdmissionPolicies: which are bound to a write, with which parameters, and what comes of what they say.
//!
//! Invariants: policies see the object as it would be stored; those about admission itself are not subject to policies, so that a
//! wrong one can be mended, nor is what this server writes itself, so that none keeps it from starting; an expression is read once per
//! version of its policy.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rules::policy::{Attributes, Judgement, Operation, Policy};
use rules::select::LabelSelector;
use serde_json::Value;

use crate::admission::Write;
use crate::call::{Call, Origin};
use crate::catalog::{Catalog, Resource};
use crate::object;
use crate::server::Server;
use crate::status::{Answer, Failure};

const GROUP: &str = "admissionregistration.k8s.io";
/// How many policies are kept read.
const KEPT: usize = 256;
/// How many objects a selector of parameters may find.
const MOST_PARAMS: usize = 64;

/// Policies that have been read, by identity and version.
#[derive(Default)]
pub(crate) struct Policies {
    read: Mutex<HashMap<(String, String), Arc<Policy>>>,
}

impl Policies {
    fn get(&self, policy: &Value) -> Result<Arc<Policy>, String> {
        let key = (object::meta(policy, "uid").to_owned(), object::meta(policy, "resourceVersion").to_owned());
        if let Some(read) = self.read.lock().get(&key) {
            return Ok(read.clone());
        }
        let read =
            Policy::compile(policy).map_err(|errors| errors.iter().map(|e| e.body()).collect::<Vec<_>>().join("; "))?;
        let read = Arc::new(read);
        let mut kept = self.read.lock();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(key, read.clone());
        Ok(read)
    }
}

/// A policy that can't be read is refused.
pub(crate) fn admit(write: &Write<'_>, _: &mut Call, object: &mut Value) -> Answer<()> {
    if !write.resource.is(GROUP, "validatingadmissionpolicies") {
        return Ok(());
    }
    match Policy::compile(object) {
        Ok(_) => Ok(()),
        Err(errors) => Err(Failure::invalid(write.resource, object::name(object), &errors)),
    }
}

/// A write about which the policies are asked.
pub(crate) struct Question<'a> {
    pub(crate) resource: &'a Resource,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) name: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) operation: Operation,
    pub(crate) new: Option<&'a Value>,
    pub(crate) old: Option<&'a Value>,
    pub(crate) dry: bool,
}

/// Asks every policy that is bound; the first refusal is the answer.
pub(crate) fn judge(server: &Server, call: &mut Call, question: &Question<'_>) -> Answer<()> {
    if call.origin != Origin::Client {
        return Ok(());
    }
    let catalog = server.catalog.load();
    let (Some(bindings), Some(policies)) = (
        catalog.get(GROUP, "v1", "validatingadmissionpolicybindings"),
        catalog.get(GROUP, "v1", "validatingadmissionpolicies"),
    ) else {
        return Ok(());
    };
    if question.resource.group == GROUP || question.resource.review {
        return Ok(());
    }
    let bound = all(server, bindings, None, usize::MAX)?;
    if bound.is_empty() {
        return Ok(());
    }
    let space = match question.namespace {
        Some(name) => find(server, catalog.core("namespaces"), None, name)?,
        None => None,
    };
    let user = call.user.clone();
    let write = Attributes {
        operation: question.operation,
        group: &question.resource.group,
        version: &question.resource.version,
        resource: &question.resource.plural,
        subresource: question.subresource,
        kind: match question.operation {
            // What is connected to is asked for with an object of a kind of its own.
            Operation::Connect => question.new.and_then(|asked| asked["kind"].as_str()).unwrap_or_default(),
            _ => &question.resource.kind,
        },
        name: question.name,
        namespace: question.namespace,
        namespace_object: space.as_ref(),
        object: question.new,
        old: question.old,
        user: &user.name,
        groups: &user.groups,
        dry_run: question.dry,
    };
    let mut judgement = Judgement::default();
    for binding in &bound {
        let name = binding["spec"]["policyName"].as_str().unwrap_or_default();
        let Some(declared) = find(server, policies, None, name)? else { continue };
        let policy = server.policies.get(&declared).map_err(|why| {
            Failure::internal(format!(
                "ValidatingAdmissionPolicy {name:?} can't be evaluated: {why}; mend or delete it"
            ))
        })?;
        if policy.applies(binding, &write) {
            judgement.add(with_params(server, &catalog, (&policy, &declared), binding, &write)?);
        }
    }
    for audit in &judgement.audits {
        tracing::info!(target: "apiserver::audit", user = %user.name, resource = %question.resource.qualified(),
            namespace = question.namespace, name = question.name, "{audit}");
    }
    for warning in judgement.warnings {
        call.warn(warning);
    }
    match judgement.denials.into_iter().next() {
        Some(denial) => Err(Failure::denied(question.resource, question.name, &denial.reason, &denial.message)),
        None => Ok(()),
    }
}

/// What a policy says with each object that its binding names as parameters.
fn with_params(
    server: &Server,
    catalog: &Catalog,
    (policy, declared): (&Policy, &Value),
    binding: &Value,
    write: &Attributes<'_>,
) -> Answer<Judgement> {
    let (kind, reference) = (&declared["spec"]["paramKind"], &binding["spec"]["paramRef"]);
    if kind.is_null() || reference.is_null() {
        return Ok(policy.judge(binding, None, write));
    }
    let params = params(server, catalog, kind, reference, write)?;
    if params.is_empty() {
        return Ok(policy.without_params(binding));
    }
    let mut judgement = Judgement::default();
    for params in &params {
        judgement.add(policy.judge(binding, Some(params), write));
    }
    Ok(judgement)
}

fn params(
    server: &Server,
    catalog: &Catalog,
    kind: &Value,
    reference: &Value,
    write: &Attributes<'_>,
) -> Answer<Vec<Value>> {
    let is = |resource: &&Arc<Resource>| {
        kind["apiVersion"] == resource.api_version.as_str() && kind["kind"] == resource.kind.as_str()
    };
    let Some(resource) = catalog.resources().iter().find(is) else { return Ok(Vec::new()) };
    let namespace = reference["namespace"].as_str().or(write.namespace);
    if let Some(name) = reference["name"].as_str() {
        return Ok(find(server, resource, namespace, name)?.into_iter().collect());
    }
    let selector = LabelSelector::from_object(&reference["selector"])
        .map_err(|error| Failure::internal(format!("the selector of a policy binding's parameters: {error}")))?;
    let listed = all(server, resource, namespace, MOST_PARAMS)?;
    Ok(listed.into_iter().filter(|object| selector.matches_object(object)).collect())
}

fn find(server: &Server, resource: &Resource, namespace: Option<&str>, name: &str) -> Answer<Option<Value>> {
    let entry = server.store.get(&resource.key(namespace, name)).0;
    entry.map(|entry| object::read(resource, &entry)).transpose()
}

fn all(server: &Server, resource: &Resource, namespace: Option<&str>, most: usize) -> Answer<Vec<Value>> {
    let listing = server.store.list(&resource.keys_in(namespace), None, 0, None);
    let listing = listing.map_err(|error| Failure::internal(error.to_string()))?;
    listing.entries.iter().take(most).map(|entry| object::read(resource, entry)).collect()
}
