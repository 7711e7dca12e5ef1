//! Bundles that are followed: what is fetched for one ConfigMap does not end in what has taken its place.

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use mesh::identity::federation::{BundleEndpoint, Follower};
use mesh::identity::{self, Authority, Bundle, Handle, Keeper, Policy};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::{Cluster, LIMIT};

const SYSTEM: &str = "coracle-system";

/// A trust domain's certificates.
fn domain(name: &str, folder: &tempfile::TempDir) -> (Keeper, Handle) {
    let (domain, now) = (name.parse().expect("a trust domain"), Timestamp::now());
    let place = |what: &str| folder.path().join(format!("{name}-{what}"));
    let authority = Authority::open(place("authority"), domain, Policy::default(), now).expect("an authority");
    let domain = name.parse().expect("a trust domain");
    let settings = identity::Settings { cache: place("cache"), domain, policy: Policy::default() };
    let (mut keeper, handle) = identity::build(settings, Arc::new(authority), Arc::new(Timestamp::now));
    keeper.turn(now);
    (keeper, handle)
}

fn map(name: &str, data: &Value) -> ConfigMap {
    let meta = json!({"name": name, "labels": {"mesh.coracle.dev/trust-bundle": "foreign"}});
    serde_json::from_value(json!({"metadata": meta, "data": data})).expect("a map")
}

/// What becomes of a ConfigMap while a bundle is fetched for it.
#[derive(Clone, Copy)]
enum Meanwhile {
    Replaced,
    Repointed,
    Noted,
}

impl Meanwhile {
    async fn happens(self, maps: &Api<ConfigMap>) {
        let name = self.name();
        let change = |data: Value| async move {
            let patch = Patch::Merge(json!({ "data": data }));
            maps.patch(name, &PatchParams::default(), &patch).await.expect("changed");
        };
        match self {
            Meanwhile::Replaced => {
                maps.delete(name, &DeleteParams::default()).await.expect("deleted");
                let other = map(name, &json!({"trust-domain": "c.test", "bundle": "c's"}));
                maps.create(&PostParams::default(), &other).await.expect("made");
            }
            Meanwhile::Repointed => change(json!({"trust-domain": "c.test", "bundle": "c's"})).await,
            Meanwhile::Noted => change(json!({"note": "changed, and asks for the same"})).await,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Meanwhile::Replaced => "replaced",
            Meanwhile::Repointed => "repointed",
            Meanwhile::Noted => "noted",
        }
    }
}

/// A way to the endpoint; a ConfigMap changes whenever somebody takes it.
async fn detour(to: SocketAddr, maps: Api<ConfigMap>, what: Meanwhile) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let pipe = async move {
        while let Ok((mut from, _)) = listener.accept().await {
            what.happens(&maps).await;
            let mut on = TcpStream::connect(to).await.expect("the endpoint");
            let _ = tokio::io::copy_bidirectional(&mut from, &mut on).await;
        }
    };
    (address, AbortOnDropHandle::new(tokio::spawn(pipe)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_written_only_where_it_was_asked_for() {
    let cluster = Cluster::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let ((mut ours, handle), (_theirs, b)) = (domain("a.test", &folder), domain("b.test", &folder));
    let of_b = b.bundle().expect("a bundle");
    // Roots alone, as brought by hand: what is fetched has the keys for tokens besides.
    let known = Bundle::new(of_b.roots().iter().cloned()).expect("a bundle");
    ours.trust([("b.test".parse().expect("a domain"), known.clone())].into());
    ours.turn(Timestamp::now());
    let endpoint = BundleEndpoint::bind("127.0.0.1:0".parse().expect("an address"), b.clone()).await;
    let endpoint = endpoint.expect("a socket");
    let there = endpoint.address().expect("an address");
    let stop = CancellationToken::new();
    let serving = tokio::spawn(endpoint.run(stop.clone()));

    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let system = serde_json::from_value(json!({"metadata": {"name": SYSTEM}})).expect("a namespace");
    namespaces.create(&PostParams::default(), &system).await.expect("made");
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), SYSTEM);
    let asking = |at: SocketAddr| json!({"trust-domain": "b.test", "endpoint": format!("https://{at}/"), "bundle": known.to_pem()});
    let mut ways = Vec::new();
    for what in [Meanwhile::Replaced, Meanwhile::Repointed, Meanwhile::Noted] {
        let (at, way) = detour(there, maps.clone(), what).await;
        maps.create(&PostParams::default(), &map(what.name(), &asking(at))).await.expect("made");
        ways.push(way);
    }
    let following = tokio::spawn(Follower::new(cluster.client.clone(), handle).run(stop.clone()));
    let changed = |map: Option<&ConfigMap>| {
        let data = map.and_then(|map| map.data.as_ref());
        data.is_some_and(|data| data.get("note").is_some() && data["bundle"].contains("\"keys\""))
    };
    let written = tokio::time::timeout(LIMIT, await_condition(maps.clone(), "noted", changed)).await;
    written.expect("what asks for the same still gets it").expect("watched");
    // One fetch at a time: once it is asked anew, or a later one is through, the ones before are.
    maps.create(&PostParams::default(), &map("sync", &asking(there))).await.expect("made");
    let changed = |map: Option<&ConfigMap>| {
        map.and_then(|map| map.data.as_ref()?.get("bundle")).is_some_and(|text| text.contains("\"keys\""))
    };
    let written = tokio::time::timeout(LIMIT, await_condition(maps.clone(), "sync", changed)).await;
    written.expect("the last is fetched in time").expect("watched");
    for name in ["replaced", "repointed"] {
        let data = maps.get(name).await.expect("it is there").data.expect("data");
        assert_eq!((data["trust-domain"].as_str(), data["bundle"].as_str()), ("c.test", "c's"), "{name}");
    }
    stop.cancel();
    following.await.expect("a good end");
    serving.await.expect("a good end");
}
