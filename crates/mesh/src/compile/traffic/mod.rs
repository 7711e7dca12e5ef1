//! TrafficPolicies: what each is attached to, and what holds for a rule's requests to a backend in the end.
//!
//! The most specific policy that has a part gives it: for a route's rule, for the route, for the Service's port, for the Service, for
//! its namespace. The parts of a route's policy are shared by what the policy is for (the rule, or the whole route); those of
//! the others by a backend.
//!
//! Invariants: of two policies for the same thing the older one is followed and the other says so; a policy of which a
//! field cannot be read is not followed at all.

mod admission;
mod dapr;
mod read;

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ServicePort;
use kube::Resource;
use proxy::policy::{
    Balancing, Breaker, Concurrency, Fallback, Injection, Outliers, Policy, RateLimit, Retries, Scoped, Shedding,
    TryTimeouts,
};
use resources::traffic::{TrafficPolicy, TrafficPolicyTargetRef};

use super::Notice;
use super::index::{Index, by_age, key};
use super::kind::RouteKind;
use super::plan::{AncestorPlan, PolicyKind, PolicyPlan};
use super::routes::GROUP;
use super::speech::{Speech, speech};
use super::verdict::{Fault, Verdict, condition, reason};
use crate::world::World;

/// A policy's parts, without whom they are shared by.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Parts {
    timeouts: TryTimeouts,
    retries: Option<Retries>,
    breaker: Option<Breaker>,
    concurrency: Option<Concurrency>,
    limits: Option<Vec<RateLimit>>,
    shedding: Option<Shedding>,
    balancing: Option<Balancing>,
    outliers: Option<Outliers>,
    injections: Option<Vec<Injection>>,
    fallback: Option<Fallback>,
}

/// Something that a policy can be for, by the names that ids are made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Target {
    /// The id of a rule.
    Rule(String),
    /// What the ids of a route's rules begin with, up to the last `/`.
    Route(String),
    /// The id of a backend.
    Port(String),
    /// Namespace and name.
    Service(String),
    /// The same, for what another product's object says of it.
    App(String),
    Namespace(String),
}

/// Policies by rule and backend.
type Made = HashMap<(Arc<str>, Arc<str>), Option<Arc<Policy>>>;

/// All that is followed.
#[derive(Default)]
pub(super) struct Traffic {
    followed: HashMap<Target, Arc<Parts>>,
    /// What has been put together before, by rule and backend.
    made: RefCell<Made>,
}

impl Traffic {
    /// Attaches every policy, oldest first, and says what became of each.
    pub(super) fn new(world: &World, index: &Index<'_>) -> (Self, Vec<PolicyPlan>) {
        let mut traffic = Self::default();
        let mut owners: HashMap<Target, String> = HashMap::new();
        let mut plans: Vec<Option<PolicyPlan>> = vec![None; world.traffic.len()];
        for position in by_age(&world.traffic) {
            let policy = &world.traffic[position];
            let parts = read::parts(&policy.spec).map(Arc::new);
            let attach = |to| traffic.attach(policy, &parts, to, world, index, &mut owners);
            let ancestors = policy.spec.target_refs.iter().map(attach).collect();
            plans[position] = Some(PolicyPlan::new(PolicyKind::Traffic, &policy.metadata, ancestors));
        }
        (traffic, plans.into_iter().flatten().collect())
    }

    /// Follows Dapr's Resiliencies, oldest first, below the policies of Services; tells what of them cannot be followed.
    pub(super) fn translate(&mut self, world: &World, index: &Index<'_>) -> Vec<Notice> {
        let mut notices = Vec::new();
        for position in by_age(&world.resiliencies) {
            let resiliency = &world.resiliencies[position];
            let namespace = key(&resiliency.metadata).0;
            let (apps, mut missed) = dapr::translate(resiliency);
            for (app, parts) in apps {
                let target = Target::App(format!("{namespace}/{app}"));
                if index.service(namespace, app).is_none() {
                    missed.push(format!("targets.apps.{app}: Service {namespace}/{app} does not exist"));
                    continue;
                }
                match self.followed.entry(target) {
                    Entry::Vacant(free) => {
                        free.insert(Arc::new(parts));
                    }
                    Entry::Occupied(_) => {
                        missed.push(format!("targets.apps.{app}: an older Resiliency is for it and followed"));
                    }
                }
            }
            if !missed.is_empty() {
                let note = format!("not followed: {}; a TrafficPolicy may say it", missed.join("; "));
                notices.push(Notice::warning(resiliency.object_ref(&()), "NotTranslated", shorten(note)));
            }
        }
        notices
    }

    fn attach(
        &mut self,
        policy: &TrafficPolicy,
        parts: &Result<Arc<Parts>, String>,
        to: &TrafficPolicyTargetRef,
        world: &World,
        index: &Index<'_>,
        owners: &mut HashMap<Target, String>,
    ) -> AncestorPlan {
        let (namespace, name) = key(&policy.metadata);
        let accepted = find(namespace, to, world, index).and_then(|target| {
            let parts = parts.as_ref().map_err(|why| Fault::new(reason::INVALID, why.clone()))?;
            if let Some(owner) = owners.get(&target) {
                let message =
                    format!("TrafficPolicy {owner} is for the same and older; it is followed, this one is not");
                return Err(Fault::new(reason::CONFLICTED, message));
            }
            owners.insert(target.clone(), name.to_owned());
            self.followed.insert(target, Arc::clone(parts));
            Ok(())
        });
        let verdict = match accepted {
            Ok(()) => {
                let message = idle(namespace, to, index).unwrap_or_else(|| "Policy is accepted".to_owned());
                Verdict::yes(condition::ACCEPTED, reason::ACCEPTED, message)
            }
            Err(fault) => Verdict::no(condition::ACCEPTED, fault.reason, fault.message),
        };
        AncestorPlan {
            group: to.group.clone(),
            kind: to.kind.clone(),
            namespace: namespace.to_owned(),
            name: to.name.clone(),
            section: to.section_name.clone(),
            verdicts: vec![verdict],
        }
    }

    /// What holds for the requests of a rule to a backend. A rule that belongs to no route has its backend's id.
    pub(super) fn of(&self, rule: &Arc<str>, backend: &Arc<str>) -> Option<Arc<Policy>> {
        if self.followed.is_empty() {
            return None;
        }
        let key = (Arc::clone(rule), Arc::clone(backend));
        if let Some(made) = self.made.borrow().get(&key) {
            return made.clone();
        }
        let made = self.make(rule, backend).map(Arc::new);
        self.made.borrow_mut().insert(key, made.clone());
        made
    }

    fn make(&self, rule: &Arc<str>, backend: &Arc<str>) -> Option<Policy> {
        let mut policy = Policy::default();
        let mut any = false;
        for (target, scope) in targets(rule, backend) {
            let Some(parts) = self.followed.get(&target) else { continue };
            any = true;
            policy.timeouts.request = policy.timeouts.request.or(parts.timeouts.request);
            policy.timeouts.per_try = policy.timeouts.per_try.or(parts.timeouts.per_try);
            fill(&mut policy.retries, &parts.retries, &scope);
            fill(&mut policy.breaker, &parts.breaker, &scope);
            fill(&mut policy.concurrency, &parts.concurrency, &scope);
            fill(&mut policy.limits, &parts.limits, &scope);
            fill(&mut policy.shedding, &parts.shedding, &scope);
            fill(&mut policy.balancing, &parts.balancing, &scope);
            fill(&mut policy.outliers, &parts.outliers, &scope);
            fill(&mut policy.injections, &parts.injections, &scope);
            fill(&mut policy.fallback, &parts.fallback, &scope);
        }
        any.then_some(policy)
    }
}

/// Events take notes of up to 1024 bytes.
fn shorten(note: String) -> String {
    const MOST: usize = 1_000;
    match note.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= MOST).last() {
        Some(end) if end < note.len() => format!("{}...", &note[..end]),
        _ => note,
    }
}

fn fill<T: Clone>(part: &mut Option<Scoped<T>>, from: &Option<T>, scope: &Arc<str>) {
    if part.is_none() {
        *part = from.clone().map(|settings| Scoped { scope: Arc::clone(scope), settings });
    }
}

/// What policies may be for that concern a rule's requests to a backend, the most specific first, and who shares them.
fn targets(rule: &Arc<str>, backend: &Arc<str>) -> Vec<(Target, Arc<str>)> {
    let mut targets = Vec::with_capacity(5);
    if let Some((route, _)) = rule.rsplit_once('/').filter(|_| rule != backend) {
        targets.push((Target::Rule(rule.to_string()), Arc::clone(rule)));
        targets.push((Target::Route(route.to_owned()), route.into()));
    }
    // A backend that stands for none has no such id.
    if let (Some((service, _)), Some((namespace, _))) = (backend.rsplit_once(':'), backend.split_once('/')) {
        targets.push((Target::Port(backend.to_string()), Arc::clone(backend)));
        targets.push((Target::Service(service.to_owned()), Arc::clone(backend)));
        targets.push((Target::App(service.to_owned()), Arc::clone(backend)));
        targets.push((Target::Namespace(namespace.to_owned()), Arc::clone(backend)));
    }
    targets
}

/// What a reference is to.
fn find(here: &str, to: &TrafficPolicyTargetRef, world: &World, index: &Index<'_>) -> Result<Target, Fault> {
    let section = to.section_name.as_deref();
    match (to.group.as_str(), to.kind.as_str()) {
        ("", "Service") => service(here, to, section, index),
        ("", "Namespace") if to.name == here && section.is_none() => Ok(Target::Namespace(here.to_owned())),
        ("", "Namespace") => {
            let message = format!("a Namespace is the policy's own ({here}) and has no sections; this is {}", to.name);
            Err(Fault::new(reason::INVALID, message))
        }
        (GROUP, "HTTPRoute") => route(RouteKind::Http, here, to, section, world),
        (GROUP, "GRPCRoute") => route(RouteKind::Grpc, here, to, section, world),
        (group, kind) => {
            let message = format!(
                "targetRefs has kind {kind:?} of group {group:?}; it can be Service or Namespace of group \"\", HTTPRoute or GRPCRoute of group {GROUP:?}"
            );
            Err(Fault::new(reason::INVALID, message))
        }
    }
}

/// What is said of a policy that has nothing to govern: no request is seen where a port carries bytes.
fn idle(here: &str, to: &TrafficPolicyTargetRef, index: &Index<'_>) -> Option<String> {
    let spec = index.service(here, &to.name).filter(|_| to.group.is_empty() && to.kind == "Service")?.spec.as_ref()?;
    let meant = |port: &&ServicePort| {
        let section = to.section_name.as_deref();
        section.is_none_or(|section| port.name.as_deref() == Some(section) || port.port.to_string() == section)
    };
    let mut ports = spec.ports.iter().flatten().filter(meant).peekable();
    ports.peek()?;
    ports.all(|port| speech(port) == Speech::Tcp).then(|| {
        "Policy is accepted, and governs nothing: by name or appProtocol these ports carry bytes, and only requests are governed"
            .to_owned()
    })
}

fn service(here: &str, to: &TrafficPolicyTargetRef, section: Option<&str>, index: &Index<'_>) -> Result<Target, Fault> {
    let Some(found) = index.service(here, &to.name) else {
        return Err(Fault::new(reason::TARGET_NOT_FOUND, format!("Service {here}/{} does not exist", to.name)));
    };
    let Some(section) = section else { return Ok(Target::Service(format!("{here}/{}", to.name))) };
    let ports = found.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let named = ports.iter().find(|port| port.name.as_deref() == Some(section) || port.port.to_string() == section);
    match named {
        Some(port) => Ok(Target::Port(format!("{here}/{}:{}", to.name, port.port))),
        None => {
            let message = format!("Service {here}/{} has no port {section}", to.name);
            Err(Fault::new(reason::TARGET_NOT_FOUND, message))
        }
    }
}

fn route(
    kind: RouteKind,
    here: &str,
    to: &TrafficPolicyTargetRef,
    section: Option<&str>,
    world: &World,
) -> Result<Target, Fault> {
    let found = world.routes_of(kind).iter().find(|route| key(&route.metadata) == (here, to.name.as_str()));
    let Some(found) = found else {
        let message = format!("{} {here}/{} does not exist", kind.name(), to.name);
        return Err(Fault::new(reason::TARGET_NOT_FOUND, message));
    };
    let route = format!("{}{here}/{}", kind.prefix(), to.name);
    let Some(section) = section else { return Ok(Target::Route(route)) };
    let mut rules = found.spec.rules.iter().flatten();
    if rules.any(|rule| rule.name.as_deref() == Some(section)) {
        return Ok(Target::Rule(format!("{route}/{section}")));
    }
    let message = format!("{} {here}/{} has no rule named {section}", kind.name(), to.name);
    Err(Fault::new(reason::TARGET_NOT_FOUND, message))
}
