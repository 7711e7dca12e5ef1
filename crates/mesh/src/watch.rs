//! The objects that decide what is served, kept up to date by watches.
//!
//! Invariants: a list that is under way does not show until it is whole; an object that cannot be read is left out, with a
//! warning, and stops no other; whether a change matters is told by what it changed, not by its being one.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, SelectAll};
use futures::{StreamExt, future};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ObjectMeta};
use kube::core::{DeserializeGuard, error_boundary::InvalidObject};
use kube::runtime::utils::{Backoff, StreamBackoff};
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Client, Resource, ResourceExt};
use resources::access::AccessPolicy;
use resources::dapr::Resiliency;
use resources::gateway::backendtlspolicies::BackendTlsPolicy;
use resources::gateway::gatewayclasses::GatewayClass;
use resources::gateway::gateways::Gateway;
use resources::gateway::grpcroutes::GrpcRoute;
use resources::gateway::httproutes::HttpRoute;
use resources::gateway::listenersets::ListenerSet;
use resources::gateway::referencegrants::ReferenceGrant;
use resources::gateway::tlsroutes::TlsRoute;
use resources::istio::PeerAuthentication;
use resources::names::{
    EGRESS_ALLOW_ANNOTATION, EGRESS_LOCAL_ANNOTATION, MTLS_ANNOTATION, PEER_ANNOTATION, PROGRAM_TLS_ANNOTATION,
};
use resources::traffic::TrafficPolicy;
use serde::de::DeserializeOwned;

use crate::carrier;
use crate::compile::{SECRET_TYPE, key};
use crate::identity::{BUNDLE_LABEL, DOMAIN_KEY};
use crate::world::{Rejected, World};

/// The longest value of a Secret or a ConfigMap that is kept, in bytes.
const LONGEST_VALUE: usize = 256 * 1024;

/// How much a change matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// Nothing that anyone here looks at.
    Nothing,
    /// What has been said about objects, not what is to be served.
    Status,
    /// What is to be served.
    Content,
}

/// A kind of object, and what of it matters.
pub(crate) trait Matters:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static
{
    /// Whether both would be compiled to the same.
    fn same(&self, other: &Self) -> bool;

    /// Removes what is of no use here and may be large.
    fn trim(&mut self) {}
}

fn same_generation(one: &ObjectMeta, other: &ObjectMeta) -> bool {
    one.uid == other.uid && one.generation == other.generation
}

fn same_annotation(one: &ObjectMeta, other: &ObjectMeta, name: &str) -> bool {
    let of = |meta: &ObjectMeta| meta.annotations.as_ref().and_then(|all| all.get(name).cloned());
    of(one) == of(other)
}

impl Matters for GatewayClass {
    fn same(&self, other: &Self) -> bool {
        same_generation(&self.metadata, &other.metadata) && self.spec == other.spec
    }
}
impl Matters for Gateway {
    fn same(&self, other: &Self) -> bool {
        same_generation(&self.metadata, &other.metadata) && self.spec == other.spec
    }
}
impl Matters for ListenerSet {
    fn same(&self, other: &Self) -> bool {
        same_generation(&self.metadata, &other.metadata) && self.spec == other.spec
    }
}
impl Matters for HttpRoute {
    fn same(&self, other: &Self) -> bool {
        same_generation(&self.metadata, &other.metadata) && self.spec == other.spec
    }
}
impl Matters for GrpcRoute {
    fn same(&self, other: &Self) -> bool {
        same_generation(&self.metadata, &other.metadata) && self.spec == other.spec
    }
}
impl Matters for TlsRoute {
    fn same(&self, other: &Self) -> bool {
        same_generation(&self.metadata, &other.metadata) && self.spec == other.spec
    }
}
impl Matters for BackendTlsPolicy {
    fn same(&self, other: &Self) -> bool {
        same_generation(&self.metadata, &other.metadata) && self.spec == other.spec
    }
}
impl Matters for AccessPolicy {
    fn same(&self, other: &Self) -> bool {
        same_generation(&self.metadata, &other.metadata) && self.spec == other.spec
    }
}
impl Matters for Resiliency {
    fn same(&self, other: &Self) -> bool {
        self.metadata.uid == other.metadata.uid && self.spec == other.spec && self.scopes == other.scopes
    }
}
impl Matters for TrafficPolicy {
    fn same(&self, other: &Self) -> bool {
        same_generation(&self.metadata, &other.metadata) && self.spec == other.spec
    }
}
impl Matters for ReferenceGrant {
    fn same(&self, other: &Self) -> bool {
        self.spec == other.spec
    }
}
impl Matters for Service {
    fn same(&self, other: &Self) -> bool {
        self.metadata.uid == other.metadata.uid
            && self.spec == other.spec
            && same_annotation(&self.metadata, &other.metadata, MTLS_ANNOTATION)
            && same_annotation(&self.metadata, &other.metadata, PROGRAM_TLS_ANNOTATION)
    }
}
impl Matters for EndpointSlice {
    fn same(&self, other: &Self) -> bool {
        self.endpoints == other.endpoints
            && self.ports == other.ports
            && self.metadata.labels == other.metadata.labels
            && same_annotation(&self.metadata, &other.metadata, PEER_ANNOTATION)
    }
}
impl Matters for Namespace {
    fn same(&self, other: &Self) -> bool {
        self.metadata.labels == other.metadata.labels
            && same_annotation(&self.metadata, &other.metadata, MTLS_ANNOTATION)
            && same_annotation(&self.metadata, &other.metadata, EGRESS_ALLOW_ANNOTATION)
            && same_annotation(&self.metadata, &other.metadata, EGRESS_LOCAL_ANNOTATION)
    }
}
impl Matters for Pod {
    fn same(&self, other: &Self) -> bool {
        self.metadata.labels == other.metadata.labels
    }
}
impl Matters for PeerAuthentication {
    fn same(&self, other: &Self) -> bool {
        self.spec == other.spec
    }
}
impl Matters for Secret {
    fn same(&self, other: &Self) -> bool {
        self.data == other.data && self.type_ == other.type_
    }

    fn trim(&mut self) {
        if let Some(data) = &mut self.data {
            data.retain(|_, value| value.0.len() <= LONGEST_VALUE);
        }
    }
}
impl Matters for ConfigMap {
    fn same(&self, other: &Self) -> bool {
        let label = |map: &Self| map.labels().get(BUNDLE_LABEL).cloned();
        self.data == other.data && label(self) == label(other)
    }

    /// What is neither a key set nor a certificate, nor says whose those are, is of no use here.
    fn trim(&mut self) {
        self.binary_data = None;
        if let Some(data) = &mut self.data {
            let useful = |value: &str| value.contains("\"keys\"") || value.contains("-----BEGIN CERTIFICATE-----");
            data.retain(|key, value| value.len() <= LONGEST_VALUE && (key == DOMAIN_KEY || useful(value)));
        }
    }
}

type Objects<K> = BTreeMap<(String, String), Arc<K>>;

/// The objects of one kind.
pub(crate) struct Watched<K> {
    objects: Objects<K>,
    /// A list that is under way.
    arriving: Objects<K>,
    synced: bool,
}

impl<K> Default for Watched<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), arriving: BTreeMap::new(), synced: false }
    }
}

impl<K: Matters> Watched<K> {
    fn take(&mut self, event: Event<DeserializeGuard<K>>) -> Change {
        match event {
            Event::Init => {
                self.arriving.clear();
                Change::Nothing
            }
            Event::InitApply(object) => {
                if let Some((key, object)) = readable(object) {
                    self.arriving.insert(key, object);
                }
                Change::Nothing
            }
            Event::InitDone => self.replace(),
            Event::Apply(object) => self.put(object),
            Event::Delete(object) => self.remove(&owned_key(object.meta())),
        }
    }

    fn replace(&mut self) -> Change {
        let new = std::mem::take(&mut self.arriving);
        let first = !std::mem::replace(&mut self.synced, true);
        let same = !first
            && self.objects.len() == new.len()
            && self
                .objects
                .iter()
                .zip(&new)
                .all(|((old_key, old), (new_key, new))| old_key == new_key && old.same(new));
        self.objects = new;
        if same { Change::Status } else { Change::Content }
    }

    fn put(&mut self, object: DeserializeGuard<K>) -> Change {
        let key = owned_key(object.meta());
        let Some((key, object)) = readable(object) else { return self.remove(&key) };
        match self.objects.insert(key, Arc::clone(&object)) {
            Some(old) if old.same(&object) => Change::Status,
            _ => Change::Content,
        }
    }

    fn remove(&mut self, key: &(String, String)) -> Change {
        if self.objects.remove(key).is_some() { Change::Content } else { Change::Nothing }
    }

    fn list(&self) -> Vec<Arc<K>> {
        self.objects.values().cloned().collect()
    }
}

fn owned_key(metadata: &ObjectMeta) -> (String, String) {
    let (namespace, name) = key(metadata);
    (namespace.to_owned(), name.to_owned())
}

/// The object without what is of no use here. None, with a warning, where it cannot be read.
fn readable<K: Matters>(object: DeserializeGuard<K>) -> Option<((String, String), Arc<K>)> {
    let key = owned_key(object.meta());
    match object.0 {
        Ok(mut object) => {
            object.managed_fields_mut().clear();
            object.trim();
            Some((key, Arc::new(object)))
        }
        Err(invalid) => {
            let kind = K::kind(&());
            tracing::warn!(%kind, namespace = key.0, name = key.1, error = invalid.error, "left out: the object cannot be read");
            None
        }
    }
}

/// A step of a watch whose objects are kept in another form.
fn carried<K: Matters>(
    event: Event<DeserializeGuard<K>>,
    carry: fn(&K) -> Result<HttpRoute, serde_json::Error>,
) -> Event<DeserializeGuard<HttpRoute>> {
    let convert = |object: DeserializeGuard<K>| {
        DeserializeGuard(match object.0 {
            Ok(object) => match carry(&object) {
                Ok(route) => Ok(route),
                Err(error) => Err(InvalidObject { error: error.to_string(), metadata: object.meta().clone() }),
            },
            Err(invalid) => Err(invalid),
        })
    };
    match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(object) => Event::InitApply(convert(object)),
        Event::Apply(object) => Event::Apply(convert(object)),
        Event::Delete(object) => Event::Delete(convert(object)),
    }
}

/// One step of one watch.
pub(crate) enum Seen {
    Class(Event<DeserializeGuard<GatewayClass>>),
    Gateway(Event<DeserializeGuard<Gateway>>),
    Set(Event<DeserializeGuard<ListenerSet>>),
    Route(Event<DeserializeGuard<HttpRoute>>),
    GrpcRoute(Event<DeserializeGuard<GrpcRoute>>),
    TlsRoute(Event<DeserializeGuard<TlsRoute>>),
    Grant(Event<DeserializeGuard<ReferenceGrant>>),
    Service(Event<DeserializeGuard<Service>>),
    Slice(Event<DeserializeGuard<EndpointSlice>>),
    Namespace(Event<DeserializeGuard<Namespace>>),
    Secret(Event<DeserializeGuard<Secret>>),
    Opaque(Event<DeserializeGuard<Secret>>),
    ConfigMap(Event<DeserializeGuard<ConfigMap>>),
    Traffic(Event<DeserializeGuard<TrafficPolicy>>),
    Resiliency(Event<DeserializeGuard<Resiliency>>),
    BackendTls(Event<DeserializeGuard<BackendTlsPolicy>>),
    Access(Event<DeserializeGuard<AccessPolicy>>),
    Pod(Box<Event<DeserializeGuard<Pod>>>),
    PeerAuthentication(Event<DeserializeGuard<PeerAuthentication>>),
}

/// Everything that is watched.
#[derive(Default)]
pub(crate) struct Cluster {
    classes: Watched<GatewayClass>,
    gateways: Watched<Gateway>,
    sets: Watched<ListenerSet>,
    routes: Watched<HttpRoute>,
    grpc_routes: Watched<HttpRoute>,
    tls_routes: Watched<HttpRoute>,
    grants: Watched<ReferenceGrant>,
    services: Watched<Service>,
    slices: Watched<EndpointSlice>,
    namespaces: Watched<Namespace>,
    secrets: Watched<Secret>,
    opaque: Watched<Secret>,
    config_maps: Watched<ConfigMap>,
    traffic: Watched<TrafficPolicy>,
    resiliencies: Watched<Resiliency>,
    backend_tls: Watched<BackendTlsPolicy>,
    access: Watched<AccessPolicy>,
    pods: Watched<Pod>,
    peer_authentications: Watched<PeerAuthentication>,
}

impl Cluster {
    pub(crate) fn take(&mut self, seen: Seen) -> Change {
        match seen {
            Seen::Class(event) => self.classes.take(event),
            Seen::Gateway(event) => self.gateways.take(event),
            Seen::Set(event) => self.sets.take(event),
            Seen::Route(event) => self.routes.take(event),
            Seen::GrpcRoute(event) => self.grpc_routes.take(carried(event, carrier::grpc)),
            Seen::TlsRoute(event) => self.tls_routes.take(carried(event, carrier::tls)),
            Seen::Grant(event) => self.grants.take(event),
            Seen::Service(event) => self.services.take(event),
            Seen::Slice(event) => self.slices.take(event),
            Seen::Namespace(event) => self.namespaces.take(event),
            Seen::Secret(event) => self.secrets.take(event),
            Seen::Opaque(event) => self.opaque.take(event),
            Seen::ConfigMap(event) => self.config_maps.take(event),
            Seen::Traffic(event) => self.traffic.take(event),
            Seen::Resiliency(event) => self.resiliencies.take(event),
            Seen::BackendTls(event) => self.backend_tls.take(event),
            Seen::Access(event) => self.access.take(event),
            // Nothing is ever said about a Pod from here.
            Seen::Pod(event) => match self.pods.take(*event) {
                Change::Status => Change::Nothing,
                change => change,
            },
            Seen::PeerAuthentication(event) => self.peer_authentications.take(event),
        }
    }

    /// Whether every kind has been listed once. Before that, what is missing may just not have arrived.
    pub(crate) fn synced(&self) -> bool {
        self.classes.synced
            && self.gateways.synced
            && self.sets.synced
            && self.routes.synced
            && self.grpc_routes.synced
            && self.tls_routes.synced
            && self.grants.synced
            && self.services.synced
            && self.slices.synced
            && self.namespaces.synced
            && self.secrets.synced
            && self.opaque.synced
            && self.config_maps.synced
            && self.traffic.synced
            && self.resiliencies.synced
            && self.backend_tls.synced
            && self.access.synced
            && self.pods.synced
            && self.peer_authentications.synced
    }

    pub(crate) fn world(&self, bundle_version: Option<String>, rejected: Rejected) -> World {
        World {
            classes: self.classes.list(),
            gateways: self.gateways.list(),
            sets: self.sets.list(),
            routes: self.routes.list(),
            grpc_routes: self.grpc_routes.list(),
            tls_routes: self.tls_routes.list(),
            grants: self.grants.list(),
            services: self.services.list(),
            slices: self.slices.list(),
            namespaces: self.namespaces.list(),
            secrets: self.secrets.list(),
            opaque: self.opaque.list(),
            config_maps: self.config_maps.list(),
            traffic: self.traffic.list(),
            resiliencies: self.resiliencies.list(),
            backend_tls: self.backend_tls.list(),
            access: self.access.list(),
            pods: self.pods.list(),
            peer_authentications: self.peer_authentications.list(),
            bundle_version,
            rejected,
        }
    }
}

/// All watches, as one stream that never ends.
pub(crate) fn watches(client: &Client) -> SelectAll<BoxStream<'static, Seen>> {
    let all = Config::default();
    let certificates = Config::default().fields(&format!("type={SECRET_TYPE}"));
    futures::stream::select_all([
        watch(client, all.clone(), Seen::Class),
        watch(client, all.clone(), Seen::Gateway),
        watch(client, all.clone(), Seen::Set),
        watch(client, all.clone(), Seen::Route),
        watch(client, all.clone(), Seen::GrpcRoute),
        watch(client, all.clone(), Seen::TlsRoute),
        watch(client, all.clone(), Seen::Grant),
        watch(client, all.clone(), Seen::Service),
        watch(client, all.clone(), Seen::Slice),
        watch(client, all.clone(), Seen::Namespace),
        watch(client, all.clone(), Seen::Traffic),
        watch(client, all.clone(), Seen::Resiliency),
        watch(client, all.clone(), Seen::BackendTls),
        watch(client, all.clone(), Seen::Access),
        watch(client, all.clone(), |event| Seen::Pod(Box::new(event))),
        watch(client, all, Seen::PeerAuthentication),
        watch(client, certificates, Seen::Secret),
        watch(client, Config::default().fields("type=Opaque"), Seen::Opaque),
        watch(client, Config::default(), Seen::ConfigMap),
    ])
}

fn watch<K: Matters>(
    client: &Client,
    config: Config,
    wrap: fn(Event<DeserializeGuard<K>>) -> Seen,
) -> BoxStream<'static, Seen> {
    let api: Api<DeserializeGuard<K>> = Api::all(client.clone());
    StreamBackoff::new(watcher(api, config), Pace::default())
        .filter_map(move |event| {
            future::ready(match event {
                Ok(event) => Some(wrap(event)),
                Err(error) => {
                    let kind = K::kind(&());
                    tracing::warn!(%kind, %error, "the watch was interrupted and is begun again");
                    None
                }
            })
        })
        .boxed()
}

/// How long to wait before a watch that failed is begun again: short at first, for the API is mostly in this process.
#[derive(Default)]
struct Pace {
    failures: u32,
}

impl Iterator for Pace {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        const FIRST: Duration = Duration::from_millis(20);
        const LONGEST: Duration = Duration::from_secs(5);
        let wait = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        Some(wait)
    }
}

impl Backoff for Pace {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn namespace(name: &str, labels: serde_json::Value) -> DeserializeGuard<Namespace> {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_list_shows_when_it_is_whole() {
        let mut watched = Watched::<Namespace>::default();
        assert_eq!(watched.take(Event::Init), Change::Nothing);
        assert_eq!(watched.take(Event::InitApply(namespace("a", json!({})))), Change::Nothing);
        assert!(watched.list().is_empty() && !watched.synced);
        assert_eq!(watched.take(Event::InitDone), Change::Content);
        assert_eq!(watched.list().len(), 1);

        // Begun again: the old objects show until the new list is whole, and what is gone then goes.
        watched.take(Event::Init);
        assert_eq!(watched.list().len(), 1);
        assert_eq!(watched.take(Event::InitDone), Change::Content);
        assert!(watched.list().is_empty());
    }

    #[test]
    fn only_what_is_compiled_counts_as_content() {
        let mut watched = Watched::<Namespace>::default();
        assert_eq!(watched.take(Event::InitDone), Change::Content);
        assert_eq!(watched.take(Event::Apply(namespace("a", json!({"x": "1"})))), Change::Content);
        assert_eq!(watched.take(Event::Apply(namespace("a", json!({"x": "1"})))), Change::Status);
        assert_eq!(watched.take(Event::Apply(namespace("a", json!({"x": "2"})))), Change::Content);
        assert_eq!(watched.take(Event::Delete(namespace("a", json!({})))), Change::Content);
        assert_eq!(watched.take(Event::Delete(namespace("a", json!({})))), Change::Nothing);
    }

    #[test]
    fn a_bundle_that_loses_its_label_is_another() {
        let map = |labels: serde_json::Value| -> DeserializeGuard<ConfigMap> {
            let meta = json!({"name": "m", "namespace": "n", "labels": labels});
            serde_json::from_value(json!({"metadata": meta, "data": {"trust-domain": "b.test"}})).unwrap()
        };
        let mut watched = Watched::<ConfigMap>::default();
        assert_eq!(watched.take(Event::Apply(map(json!({BUNDLE_LABEL: "foreign"})))), Change::Content);
        assert_eq!(watched.take(Event::Apply(map(json!({BUNDLE_LABEL: "foreign", "other": "x"})))), Change::Status);
        assert_eq!(watched.take(Event::Apply(map(json!({"other": "x"})))), Change::Content);
    }

    #[test]
    fn an_object_that_cannot_be_read_is_left_out() {
        let mut watched = Watched::<HttpRoute>::default();
        let route = |hostnames: serde_json::Value| -> DeserializeGuard<HttpRoute> {
            serde_json::from_value(json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
                "metadata": {"name": "r", "namespace": "n"}, "spec": {"hostnames": hostnames},
            }))
            .unwrap()
        };
        assert_eq!(watched.take(Event::Apply(route(json!(["a"])))), Change::Content);
        assert_eq!(watched.take(Event::Apply(route(json!("not a list")))), Change::Content);
        assert!(watched.list().is_empty());
    }

    #[test]
    fn waits_grow_up_to_a_limit_and_begin_again() {
        let mut pace = Pace::default();
        let waits: Vec<u128> = pace.by_ref().take(10).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [20, 40, 80, 160, 320, 640, 1280, 2560, 5000, 5000]);
        pace.reset();
        assert_eq!(pace.next(), Some(Duration::from_millis(20)));
    }
}
