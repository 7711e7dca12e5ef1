//! Writes statuses and Events, beside the way from a change to the proxy so that it never waits for this.
//!
//! Invariants: a status is written only where it differs from what is there, and only onto the version that it was made
//! for; the newest work replaces older work that is not done yet; one Event for one fact.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Event, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use resources::access::AccessPolicy;
use resources::gateway::backendtlspolicies::{BackendTlsPolicy, BackendTlsPolicyStatus};
use resources::gateway::gatewayclasses::{GatewayClass, GatewayClassStatus};
use resources::gateway::gateways::{Gateway, GatewayStatus};
use resources::gateway::grpcroutes::GrpcRoute;
use resources::gateway::httproutes::{HttpRoute, HttpRouteStatus};
use resources::gateway::listenersets::{ListenerSet, ListenerSetStatus};
use resources::gateway::tlsroutes::TlsRoute;
use resources::istio::{PeerAuthentication, PeerAuthenticationStatus};
use resources::names::{GATEWAY_CONTROLLER, NODE};
use resources::traffic::TrafficPolicy;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::compile::{Compiled, Notice, PolicyKind, RouteKind, key};
use crate::status::{self, Outcome};
use crate::world::World;

/// Under which name the status fields are owned.
const MANAGER: &str = "coracle-mesh";
/// How many writes are under way at once; the store commits them together.
const CONCURRENT: usize = 8;
/// How long to wait after a failure that trying again may mend.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long one write may take.
const WRITE_WITHIN: Duration = Duration::from_secs(10);

/// Everything to say about a compiled picture.
#[derive(Clone)]
pub(crate) struct Work {
    pub(crate) compiled: Arc<Compiled>,
    pub(crate) world: Arc<World>,
    pub(crate) outcome: Outcome,
}

type Key = (String, String);

/// What was written onto which version, so that it is not written again before the watch has shown it.
type Sent<S> = HashMap<Key, (String, S)>;

pub(crate) struct Writer {
    client: Client,
    classes: Sent<GatewayClassStatus>,
    gateways: Sent<GatewayStatus>,
    sets: Sent<ListenerSetStatus>,
    /// By kind.
    routes: HashMap<&'static str, Sent<HttpRouteStatus>>,
    traffic: Sent<BackendTlsPolicyStatus>,
    access: Sent<BackendTlsPolicyStatus>,
    admissions: Sent<PeerAuthenticationStatus>,
    backend_tls: Sent<BackendTlsPolicyStatus>,
    told: HashSet<(String, &'static str, String)>,
}

/// A status to be written.
struct Write {
    api: Api<DynamicObject>,
    kind: &'static str,
    key: Key,
    body: Value,
}

impl Writer {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            classes: HashMap::new(),
            gateways: HashMap::new(),
            sets: HashMap::new(),
            routes: HashMap::new(),
            traffic: HashMap::new(),
            access: HashMap::new(),
            admissions: HashMap::new(),
            backend_tls: HashMap::new(),
            told: HashSet::new(),
        }
    }

    /// Writes until `stop`. What is under way then is finished.
    pub(crate) async fn run(mut self, mut work: watch::Receiver<Option<Work>>, stop: CancellationToken) {
        let mut retry = false;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = work.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY_AFTER), if retry => {}
            }
            let Some(current) = work.borrow_and_update().clone() else { continue };
            let newer = || work.has_changed().unwrap_or(true) || stop.is_cancelled();
            let statuses = self.statuses(&current, newer).await;
            let told = self.tell(&current).await;
            retry = !(statuses && told);
        }
    }

    /// Writes the statuses that differ. False where some should be tried again.
    async fn statuses(&mut self, work: &Work, newer: impl Fn() -> bool) -> bool {
        let writes = self.differences(work, &Time(now()));
        let failed = AtomicBool::new(false);
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let undone: Vec<(&'static str, Key)> = futures::stream::iter(writes)
            .map(|write| {
                let (params, failed, newer) = (&params, &failed, &newer);
                async move {
                    // Newer work says the same better; it finds these again.
                    let done = !newer() && put(&write, params, failed).await;
                    (!done).then_some((write.kind, write.key))
                }
            })
            .buffer_unordered(CONCURRENT)
            .filter_map(futures::future::ready)
            .collect()
            .await;
        for (kind, key) in undone {
            match kind {
                "GatewayClass" => drop(self.classes.remove(&key)),
                "Gateway" => drop(self.gateways.remove(&key)),
                "ListenerSet" => drop(self.sets.remove(&key)),
                "TrafficPolicy" => drop(self.traffic.remove(&key)),
                "AccessPolicy" => drop(self.access.remove(&key)),
                "PeerAuthentication" => drop(self.admissions.remove(&key)),
                "BackendTLSPolicy" => drop(self.backend_tls.remove(&key)),
                kind => drop(self.routes.get_mut(kind).and_then(|sent| sent.remove(&key))),
            }
        }
        !failed.into_inner()
    }

    /// The statuses that are not as they should be.
    fn differences(&mut self, work: &Work, now: &Time) -> Vec<Write> {
        let Work { compiled, world, outcome } = work;
        let mut writes = Vec::new();
        let classes: HashMap<_, _> = world.classes.iter().map(|class| (key(&class.metadata).1, class)).collect();
        let client = &self.client;
        let plans = compiled.classes.iter().filter_map(|plan| Some((plan, *classes.get(plan.name.as_str())?)));
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<GatewayClass>(&()));
        self.classes = differing(
            "GatewayClass",
            plans,
            std::mem::take(&mut self.classes),
            &mut writes,
            |_| api.clone(),
            |plan, class, sent| Some(status::class(plan, sent.or(class.status.as_ref()), now)),
            |class| class.status.as_ref(),
        );
        let gateways: HashMap<_, _> = world.gateways.iter().map(|gateway| (key(&gateway.metadata), gateway)).collect();
        let plans = compiled
            .gateways
            .iter()
            .filter(|plan| !plan.set)
            .filter_map(|plan| Some((plan, *gateways.get(&(plan.namespace.as_str(), plan.name.as_str()))?)));
        self.gateways = differing(
            "Gateway",
            plans,
            std::mem::take(&mut self.gateways),
            &mut writes,
            |namespace| namespaced::<Gateway>(client, namespace),
            |plan, gateway, sent| Some(status::gateway(plan, sent.or(gateway.status.as_ref()), outcome, now)),
            |gateway| gateway.status.as_ref(),
        );
        let sets: HashMap<_, _> = world.sets.iter().map(|set| (key(&set.metadata), set)).collect();
        let plans = compiled.gateways.iter().filter(|plan| plan.set);
        let plans = plans.filter_map(|plan| Some((plan, *sets.get(&(plan.namespace.as_str(), plan.name.as_str()))?)));
        self.sets = differing(
            "ListenerSet",
            plans,
            std::mem::take(&mut self.sets),
            &mut writes,
            |namespace| namespaced::<ListenerSet>(client, namespace),
            |plan, set, sent| Some(status::listener_set(plan, sent.or(set.status.as_ref()), outcome, now)),
            |set| set.status.as_ref(),
        );
        for kind in [RouteKind::Http, RouteKind::Grpc, RouteKind::Tls] {
            let live = world.routes_of(kind).iter();
            let live: HashMap<_, _> = live.map(|route| (key(&route.metadata), route)).collect();
            let plans = compiled.routes.iter().filter(|plan| plan.kind == kind);
            let plans =
                plans.filter_map(|plan| Some((plan, *live.get(&(plan.namespace.as_str(), plan.name.as_str()))?)));
            let sent = self.routes.remove(kind.name()).unwrap_or_default();
            let kept = differing(
                kind.name(),
                plans,
                sent,
                &mut writes,
                |namespace| routes_of(client, kind, namespace),
                |plan, route, sent| status::route(plan, sent.or(route.status.as_ref()), now),
                |route| route.status.as_ref(),
            );
            self.routes.insert(kind.name(), kept);
        }
        let policies: HashMap<_, _> = world.traffic.iter().map(|policy| (key(&policy.metadata), policy)).collect();
        let plans = compiled.policies.iter().filter(|plan| plan.kind == PolicyKind::Traffic);
        let plans =
            plans.filter_map(|plan| Some((plan, *policies.get(&(plan.namespace.as_str(), plan.name.as_str()))?)));
        self.traffic = differing(
            "TrafficPolicy",
            plans,
            std::mem::take(&mut self.traffic),
            &mut writes,
            |namespace| namespaced::<TrafficPolicy>(client, namespace),
            |plan, policy, sent| status::policy(plan, sent.or(policy.status.as_ref()), now),
            |policy| policy.status.as_ref(),
        );
        let policies: HashMap<_, _> = world.access.iter().map(|policy| (key(&policy.metadata), policy)).collect();
        let plans = compiled.policies.iter().filter(|plan| plan.kind == PolicyKind::Access);
        let plans =
            plans.filter_map(|plan| Some((plan, *policies.get(&(plan.namespace.as_str(), plan.name.as_str()))?)));
        self.access = differing(
            "AccessPolicy",
            plans,
            std::mem::take(&mut self.access),
            &mut writes,
            |namespace| namespaced::<AccessPolicy>(client, namespace),
            |plan, policy, sent| status::policy(plan, sent.or(policy.status.as_ref()), now),
            |policy| policy.status.as_ref(),
        );
        let live: HashMap<_, _> =
            world.peer_authentications.iter().map(|policy| (key(&policy.metadata), policy)).collect();
        let plans = compiled.admissions.iter();
        let plans = plans.filter_map(|plan| Some((plan, *live.get(&(plan.namespace.as_str(), plan.name.as_str()))?)));
        self.admissions = differing(
            "PeerAuthentication",
            plans,
            std::mem::take(&mut self.admissions),
            &mut writes,
            |namespace| namespaced::<PeerAuthentication>(client, namespace),
            |plan, policy, sent| Some(status::admission(plan, sent.or(policy.status.as_ref()), now)),
            |policy| policy.status.as_ref(),
        );
        let policies: HashMap<_, _> = world.backend_tls.iter().map(|policy| (key(&policy.metadata), policy)).collect();
        let plans = compiled.policies.iter().filter(|plan| plan.kind == PolicyKind::BackendTls);
        let plans =
            plans.filter_map(|plan| Some((plan, *policies.get(&(plan.namespace.as_str(), plan.name.as_str()))?)));
        self.backend_tls = differing(
            "BackendTLSPolicy",
            plans,
            std::mem::take(&mut self.backend_tls),
            &mut writes,
            |namespace| namespaced::<BackendTlsPolicy>(client, namespace),
            |plan, policy, sent| status::policy(plan, sent.or(policy.status.as_ref()), now),
            |policy| policy.status.as_ref(),
        );
        writes
    }

    /// Makes an Event for every fact that has none yet. False where some should be tried again.
    async fn tell(&mut self, work: &Work) -> bool {
        let notices = notices(work);
        let facts: HashSet<_> = notices.iter().map(fact).collect();
        self.told.retain(|told| facts.contains(told));
        let mut all = true;
        for notice in notices {
            if self.told.contains(&fact(&notice)) {
                continue;
            }
            let namespace = notice.about.namespace.clone().unwrap_or_else(|| "default".to_owned());
            let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
            let event = event(&notice, &namespace);
            match timely(api.create(&PostParams::default(), &event)).await {
                Ok(()) => {
                    self.told.insert(fact(&notice));
                }
                Err(Failure::Gone) => {}
                Err(Failure::Other(error)) => {
                    tracing::warn!(
                        error,
                        reason = notice.reason,
                        note = notice.note,
                        "cannot make an Event; trying again"
                    );
                    all = false;
                }
            }
        }
        all
    }
}

fn now() -> Timestamp {
    let now = Timestamp::now();
    // Conditions are written with whole seconds.
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn namespaced<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(
    client: &Client,
    namespace: &str,
) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<K>(&()))
}

/// The routes of one kind. Their statuses are alike.
fn routes_of(client: &Client, kind: RouteKind, namespace: &str) -> Api<DynamicObject> {
    match kind {
        RouteKind::Http => namespaced::<HttpRoute>(client, namespace),
        RouteKind::Grpc => namespaced::<GrpcRoute>(client, namespace),
        RouteKind::Tls => namespaced::<TlsRoute>(client, namespace),
    }
}

/// Adds to `writes` the statuses that differ, and returns what is known to have been sent onto the versions that are there.
#[allow(clippy::too_many_arguments)]
fn differing<'p, P: 'p, K, S>(
    kind: &'static str,
    plans: impl Iterator<Item = (&'p P, &'p Arc<K>)>,
    mut sent: Sent<S>,
    writes: &mut Vec<Write>,
    api: impl Fn(&str) -> Api<DynamicObject>,
    wanted: impl Fn(&P, &K, Option<&S>) -> Option<S>,
    is: impl for<'k> Fn(&'k K) -> Option<&'k S>,
) -> Sent<S>
where
    K: Resource<DynamicType = ()> + 'p,
    S: PartialEq + Serialize,
{
    let mut kept = HashMap::new();
    for (plan, live) in plans {
        let (namespace, name) = key(live.meta());
        let key = (namespace.to_owned(), name.to_owned());
        let version = live.meta().resource_version.clone().unwrap_or_default();
        let before = sent.remove(&key).filter(|(onto, _)| *onto == version).map(|(_, status)| status);
        let Some(status) = wanted(plan, live, before.as_ref()) else { continue };
        if before.as_ref().or(is(live)) != Some(&status) {
            let body = json!({
                "apiVersion": K::api_version(&()), "kind": kind,
                "metadata": {"name": name, "resourceVersion": version}, "status": status,
            });
            writes.push(Write { api: api(namespace), kind, key: key.clone(), body });
        } else if before.is_none() {
            continue;
        }
        kept.insert(key, (version, status));
    }
    kept
}

/// Writes one status. False where it has not been written.
async fn put(write: &Write, params: &PatchParams, failed: &AtomicBool) -> bool {
    let (namespace, name) = &write.key;
    match timely(write.api.patch_status(name, params, &Patch::Merge(&write.body))).await {
        Ok(()) => true,
        // The watch brings what it is now, and it is compiled again.
        Err(Failure::Gone) => false,
        Err(Failure::Other(error)) => {
            let kind = write.kind;
            tracing::warn!(kind, namespace, name, error, "cannot write the status; trying again");
            failed.store(true, Ordering::Relaxed);
            false
        }
    }
}

/// Why a write was not made.
enum Failure {
    /// The object was changed or deleted meanwhile.
    Gone,
    /// Something that trying again may mend.
    Other(String),
}

/// Waits for a write, but not for ever.
async fn timely<T>(write: impl Future<Output = Result<T, kube::Error>>) -> Result<(), Failure> {
    match tokio::time::timeout(WRITE_WITHIN, write).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 || status.code == 409 => Err(Failure::Gone),
        Ok(Err(error)) => Err(Failure::Other(error.to_string())),
        Err(_) => Err(Failure::Other(format!("the API did not answer within {WRITE_WITHIN:?}"))),
    }
}

/// What was compiled, and what came of Services' listeners.
fn notices(work: &Work) -> Vec<Notice> {
    let mut notices = work.compiled.notices.clone();
    notices.extend(status::unsaid::notices(&work.compiled, &work.world));
    for port in &work.compiled.services {
        match work.outcome.bound.get(&port.listener) {
            Some(Err(error)) => {
                let note = format!("port {} is not served: {error}", port.port);
                notices.push(Notice::warning(port.service.clone(), "ListenFailed", note));
            }
            Some(Ok(address)) if address.port() != port.port => {
                let note = format!(
                    "port {} of {} may not be bound by this user; it is served on {address} instead, as Pods' environment says",
                    port.port, port.address
                );
                notices.push(Notice::warning(port.service.clone(), "PortMoved", note));
            }
            _ => {}
        }
    }
    notices
}

fn fact(notice: &Notice) -> (String, &'static str, String) {
    (notice.about.uid.clone().unwrap_or_default(), notice.reason, notice.note.clone())
}

fn event(notice: &Notice, namespace: &str) -> Event {
    let now = Timestamp::now();
    let name = notice.about.name.as_deref().unwrap_or("mesh");
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: notice.about.clone(),
        reason: Some(notice.reason.to_owned()),
        message: Some(notice.note.clone()),
        type_: Some("Warning".to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        source: Some(EventSource { component: Some(MANAGER.to_owned()), host: Some(NODE.to_owned()) }),
        reporting_component: Some(GATEWAY_CONTROLLER.to_owned()),
        reporting_instance: Some(NODE.to_owned()),
        ..Event::default()
    }
}
