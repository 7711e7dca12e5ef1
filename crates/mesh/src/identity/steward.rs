//! Watches who is there and who else is trusted, has the [`Keeper`] take its turns, and tells the API what came of it.
//!
//! Invariants: nothing here stands between a certificate and its use: where the API is not to be had, turns are taken all the same;
//! a turn is taken at once when something has changed, and when one is due.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, StreamExt, future};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Event, EventSource, Namespace, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Config, watcher};
use kube::runtime::{WatchStreamExt, utils::StreamBackoff};
use kube::{Client, ResourceExt};
use resources::names::NODE;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::SYSTEM_NAMESPACE;
use super::bundle::{Bundle, Bundles};
use super::handle::{Clock, Handle, Report};
use super::keeper::{Keeper, Turn};
use super::plan::Alarm;
use super::spiffe::{SpiffeId, TrustDomain};

/// The ConfigMap with our own bundle.
pub const OWN_BUNDLE: &str = "trust-bundle";
/// Label on ConfigMaps of [`SYSTEM_NAMESPACE`] that hold another trust domain's bundle; its value is `foreign`.
pub const BUNDLE_LABEL: &str = "mesh.coracle.dev/trust-bundle";
/// The value of that label.
pub(crate) const FOREIGN: &str = "foreign";
/// The key of a bundle's ConfigMap that names the trust domain.
pub const DOMAIN_KEY: &str = "trust-domain";
/// The key of a bundle's ConfigMap that holds it, as PEM or as a JWK Set.
pub const BUNDLE_KEY: &str = "bundle";
/// The key of our own bundle's ConfigMap that holds it as SPIFFE's JWK Set, keys for tokens included.
pub const SPIFFE_KEY: &str = "bundle.json";
/// The key of our own bundle's ConfigMap that says how things are.
pub const STATUS_KEY: &str = "status.json";
/// The label or annotation by which a Pod stays outside of the mesh, as Istio has it, with the value `false`.
pub const INJECT: &str = "sidecar.istio.io/inject";

const MANAGER: &str = "coracle-identity";
/// How long one write to the API may take.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// How much is taken in before a turn.
const BURST: usize = 4096;

/// Runs a keeper.
pub struct Steward {
    keeper: Keeper,
    handle: Handle,
    client: Client,
    clock: Clock,
    pods: Tracked<SpiffeId>,
    foreign: Tracked<(TrustDomain, Bundle)>,
    /// Where our bundle is served.
    endpoint: Option<std::net::SocketAddr>,
    /// What the API was told last.
    told: Option<(Bundle, Report)>,
}

/// Something of each object, by namespace and name.
struct Tracked<T> {
    objects: BTreeMap<(String, String), T>,
    arriving: BTreeMap<(String, String), T>,
    synced: bool,
}

impl<T> Default for Tracked<T> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), arriving: BTreeMap::new(), synced: false }
    }
}

impl<T> Tracked<T> {
    /// Takes a step in. Whether the picture is whole and may have changed.
    fn take<K: ResourceExt>(&mut self, event: watcher::Event<K>, what: impl Fn(&K) -> Option<T>) -> bool {
        let key = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
        match event {
            watcher::Event::Init => self.arriving.clear(),
            watcher::Event::InitApply(object) => {
                what(&object).map(|value| self.arriving.insert(key(&object), value));
            }
            watcher::Event::InitDone => {
                self.objects = std::mem::take(&mut self.arriving);
                self.synced = true;
            }
            watcher::Event::Apply(object) => {
                match what(&object) {
                    Some(value) => self.objects.insert(key(&object), value),
                    None => self.objects.remove(&key(&object)),
                };
            }
            watcher::Event::Delete(object) => drop(self.objects.remove(&key(&object))),
        }
        self.synced
    }
}

enum Seen {
    Pod(Box<watcher::Event<Pod>>),
    Bundle(Box<watcher::Event<ConfigMap>>),
}

/// Whether a Pod is one of the mesh.
#[must_use]
pub fn in_mesh(labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> bool {
    labels.get(INJECT).or_else(|| annotations.get(INJECT)).is_none_or(|inject| inject != "false")
}

/// Who a Pod is; none where it stays outside of the mesh or has ended.
#[must_use]
pub fn identity(domain: &TrustDomain, pod: &Pod) -> Option<SpiffeId> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if !in_mesh(pod.labels(), pod.annotations()) || matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    let account = account.filter(|account| !account.is_empty()).unwrap_or("default");
    domain.account(&pod.namespace()?, account).ok()
}

fn read(map: &ConfigMap) -> Result<(TrustDomain, Bundle), String> {
    let data = map.data.as_ref().ok_or("it has no data")?;
    let field = |key: &str| data.get(key).ok_or_else(|| format!("it has no {key}"));
    let domain = field(DOMAIN_KEY)?.trim().parse().map_err(|error: super::BadId| error.to_string())?;
    let bundle = Bundle::read(field(BUNDLE_KEY)?.as_bytes()).map_err(|error| error.to_string())?;
    Ok((domain, bundle))
}

fn foreign(map: &ConfigMap) -> Option<(TrustDomain, Bundle)> {
    let name = map.name_any();
    read(map)
        .inspect_err(|reason| tracing::error!(name, reason, "a trust bundle is left out: nobody in it is trusted"))
        .ok()
}

/// The bundle of another trust domain, as a steward takes it from these ConfigMaps: of those that are labelled, and all together.
pub(crate) fn foreign_bundle<'a>(maps: impl Iterator<Item = &'a ConfigMap>, domain: &TrustDomain) -> Option<Bundle> {
    let labelled = maps.filter(|map| map.labels().get(BUNDLE_LABEL).is_some_and(|of| of == FOREIGN));
    let of_domain: Vec<_> = labelled.filter_map(|map| read(map).ok()).filter(|(of, _)| of == domain).collect();
    merged(of_domain.iter()).remove(domain)
}

/// The bundles of all, those of one trust domain together.
fn merged<'a>(all: impl Iterator<Item = &'a (TrustDomain, Bundle)>) -> Bundles {
    let mut roots: BTreeMap<TrustDomain, (Vec<_>, Vec<_>)> = BTreeMap::new();
    for (domain, bundle) in all {
        let (roots, keys) = roots.entry(domain.clone()).or_default();
        roots.extend(bundle.roots().iter().cloned());
        keys.extend(bundle.keys().iter().cloned());
    }
    roots
        .into_iter()
        .filter_map(|(domain, (roots, keys))| Some((domain, Bundle::new(roots).ok()?.with_keys(keys))))
        .collect()
}

impl Steward {
    /// A steward for a keeper and its handle.
    #[must_use]
    pub fn new((keeper, handle): (Keeper, Handle), client: Client, clock: Clock) -> Self {
        let (pods, foreign) = (Tracked::default(), Tracked::default());
        Self { keeper, handle, client, clock, pods, foreign, endpoint: None, told: None }
    }

    /// Tells the API, too, where our bundle is served.
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: Option<std::net::SocketAddr>) -> Self {
        self.endpoint = endpoint;
        self
    }

    /// Takes turns until `shutdown`. Certificates stay as they are when this ends.
    ///
    /// # Errors
    ///
    /// When a turn breaks, which is a defect.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), crate::RunError> {
        let mut seen = watches(&self.client);
        loop {
            let turn;
            (self.keeper, turn) = take_turn(self.keeper, (self.clock)()).await?;
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                () = tell(&self.client, &self.handle, self.endpoint, &mut self.told, &turn) => {}
            }
            let wait = (self.clock)().duration_until(turn.next).max(SignedDuration::from_secs(1));
            let mut due = std::pin::pin!(tokio::time::sleep(wait.unsigned_abs()));
            loop {
                let step = tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return Ok(()),
                    Some(step) = seen.next() => step,
                    () = &mut due => break,
                };
                let mut changed = self.take(step);
                for _ in 0..BURST {
                    let Some(Some(step)) = seen.next().now_or_never() else { break };
                    changed |= self.take(step);
                }
                if changed {
                    break;
                }
            }
        }
    }

    /// Takes a step in. Whether a turn should follow.
    fn take(&mut self, seen: Seen) -> bool {
        match seen {
            Seen::Pod(event) => {
                let domain = self.handle.domain();
                let synced = self.pods.take(*event, |pod| identity(domain, pod));
                let wanted: BTreeSet<SpiffeId> = self.pods.objects.values().cloned().collect();
                synced && self.keeper.want(wanted)
            }
            Seen::Bundle(event) => {
                let synced = self.foreign.take(*event, foreign);
                synced && self.keeper.trust(merged(self.foreign.objects.values()))
            }
        }
    }
}

async fn take_turn(mut keeper: Keeper, now: Timestamp) -> Result<(Keeper, Turn), crate::RunError> {
    let work = tokio::task::spawn_blocking(move || {
        let turn = keeper.turn(now);
        (keeper, turn)
    });
    work.await.map_err(|error| crate::RunError::Task { task: "keeping certificates", reason: error.to_string() })
}

fn watches(client: &Client) -> SelectAll<BoxStream<'static, Seen>> {
    let pods = watcher(Api::<Pod>::all(client.clone()), Config::default());
    let labelled = Config::default().labels(&format!("{BUNDLE_LABEL}={FOREIGN}"));
    let bundles = watcher(Api::<ConfigMap>::namespaced(client.clone(), SYSTEM_NAMESPACE), labelled);
    let pods = StreamBackoff::new(pods, watcher::DefaultBackoff::default());
    let bundles = bundles.default_backoff();
    let said = |what: &'static str| move |error: &watcher::Error| tracing::warn!(what, %error, "a watch was interrupted and is begun again");
    let (of_pods, of_bundles) = (said("Pods"), said("trust bundles"));
    futures::stream::select_all([
        pods.filter_map(move |event| {
            future::ready(event.inspect_err(&of_pods).ok().map(|event| Seen::Pod(Box::new(event))))
        })
        .boxed(),
        bundles
            .filter_map(move |event| {
                future::ready(event.inspect_err(&of_bundles).ok().map(|event| Seen::Bundle(Box::new(event))))
            })
            .boxed(),
    ])
}

/// Says what a turn did, in the log and to the API.
async fn tell(
    client: &Client,
    handle: &Handle,
    endpoint: Option<std::net::SocketAddr>,
    told: &mut Option<(Bundle, Report)>,
    turn: &Turn,
) {
    let report = handle.report();
    if let Some(alarm) = turn.alarm {
        log(alarm, &report);
        within("an Event about certificates", event(client, alarm, &report)).await;
    }
    let Some(bundle) = handle.bundle() else { return };
    let new = (bundle, report);
    if told.as_ref() != Some(&new) && within("the trust bundle", publish(client, handle, endpoint, &new)).await {
        *told = Some(new);
    }
}

async fn within(what: &str, write: impl Future<Output = Result<(), kube::Error>>) -> bool {
    match tokio::time::timeout(WRITE_WITHIN, write).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => tracing::warn!(%error, "cannot write {what}; it is tried again with the next turn"),
        Err(_) => tracing::warn!("writing {what} takes too long; it is tried again with the next turn"),
    }
    false
}

fn log(alarm: Alarm, report: &Report) {
    let text = words(alarm, report);
    match alarm {
        Alarm::Quiet => tracing::info!("{text}"),
        _ => tracing::error!(level = alarm.level(), "{text}"),
    }
}

/// What an alarm says to people.
fn words(alarm: Alarm, report: &Report) -> String {
    let why = report.trouble.as_deref().unwrap_or("certificates have not been renewed");
    match alarm {
        Alarm::Quiet => "Certificates are issued again; nothing is left to do.".to_owned(),
        Alarm::Failing { ends: Some(ends), .. } => {
            format!("No certificates can be issued: {why}. Those in use are good until {ends}.")
        }
        Alarm::Failing { ends: None, .. } => format!("No certificates can be issued, and none are in use: {why}."),
        Alarm::Grace { until } => {
            format!("Certificates have expired and are used in their grace until {until}: {why}.")
        }
        Alarm::Lost { since } => format!("Certificates have been of no use to anybody since {since}: {why}."),
    }
}

async fn event(client: &Client, alarm: Alarm, report: &Report) -> Result<(), kube::Error> {
    let quiet = alarm == Alarm::Quiet;
    let now = k8s_openapi::jiff::Timestamp::now();
    let about = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        name: Some(NODE.into()),
        ..ObjectReference::default()
    };
    let event = Event {
        metadata: ObjectMeta { generate_name: Some("identity-".into()), ..ObjectMeta::default() },
        involved_object: about,
        reason: Some(if quiet { "CertificatesIssued" } else { "CertificatesNotIssued" }.into()),
        message: Some(words(alarm, report)),
        type_: Some(if quiet { "Normal" } else { "Warning" }.into()),
        source: Some(EventSource { component: Some(MANAGER.into()), host: Some(NODE.into()) }),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    };
    let api: Api<Event> = Api::namespaced(client.clone(), "default");
    api.create(&PostParams::default(), &event).await.map(drop)
}

/// Puts our own bundle, and how things are, where everybody can read it.
async fn publish(
    client: &Client,
    handle: &Handle,
    endpoint: Option<std::net::SocketAddr>,
    (bundle, report): &(Bundle, Report),
) -> Result<(), kube::Error> {
    let params = PatchParams::apply(MANAGER).force();
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": SYSTEM_NAMESPACE } });
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.patch(SYSTEM_NAMESPACE, &params, &Patch::Apply(namespace)).await?;
    let status = json!({
        "alarm": report.alarm.level(), "trouble": report.trouble, "certificates": report.certificates,
        "firstExpiry": report.ends.map(|ends| ends.to_string()), "roots": report.roots,
        "foreignTrustDomains": report.foreign, "says": words(report.alarm, report),
        "bundleEndpoint": endpoint.map(|at| format!("https://{at}/")),
    });
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": OWN_BUNDLE, "labels": { BUNDLE_LABEL: "own" } },
        "data": {
            DOMAIN_KEY: handle.domain().as_str(), BUNDLE_KEY: bundle.to_pem(),
            SPIFFE_KEY: handle.document().unwrap_or_default().to_string(), STATUS_KEY: status.to_string(),
        },
    });
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    maps.patch(OWN_BUNDLE, &params, &Patch::Apply(map)).await.map(drop)
}

/// The authority's place while there is none: whoever signs is away, and says why.
pub struct Away(pub Arc<str>);

impl super::Issuer for Away {
    fn check(&self, _: Timestamp) -> Result<(), super::AuthorityError> {
        Err(super::AuthorityError::Away { reason: self.0.to_string() })
    }

    fn issue(&self, _: &SpiffeId, now: Timestamp) -> Result<super::Svid, super::AuthorityError> {
        self.check(now).and_then(|()| Err(super::AuthorityError::Away { reason: self.0.to_string() }))
    }

    fn roots(&self) -> Vec<rustls_pki_types::CertificateDer<'static>> {
        Vec::new()
    }

    fn sign_token(&self, _: &SpiffeId, _: &[String], _: Timestamp) -> Result<String, super::AuthorityError> {
        Err(super::AuthorityError::Away { reason: self.0.to_string() })
    }

    fn token_keys(&self) -> Vec<serde_json::Value> {
        Vec::new()
    }
}
