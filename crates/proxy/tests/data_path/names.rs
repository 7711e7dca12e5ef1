//! Backends of names: what they lead to, and what they must not.

use std::time::Duration;

use http::StatusCode;
use proxy::Settings;
use proxy::snapshot::*;

use crate::harness::*;

fn named(host: &str, port: u16, local: bool) -> Backend {
    let name = NamedEndpoint { host: host.into(), port, local, tls: None };
    Backend { names: vec![name], ..Backend::default() }
}

fn sent(backend: Backend) -> proxy::Snapshot {
    let mut snapshot = all_to(&[]);
    snapshot.backends.insert("b".into(), backend);
    snapshot
}

/// Waits until a request is answered so: names are resolved beside the path of requests.
async fn answered(address: std::net::SocketAddr, status: StatusCode) -> Answer {
    soon(async {
        loop {
            let answer = ask(address, get("/")).await;
            if answer.status == status {
                return answer;
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_name_leads_to_all_that_it_stands_for() {
    let upstream = Upstream::named("outside").await;
    let port = upstream.address.port();
    let (running, address) = serving(sent(named("localhost", port, true))).await;
    assert_eq!(answered(address, StatusCode::OK).await.body, "outside");
    // Another snapshot with the same name goes on with what is known.
    let mut snapshot = sent(named("localhost", port, true));
    snapshot.backends.insert("other".into(), Backend::default());
    running.handle.apply(snapshot).await.expect("a good snapshot");
    assert_eq!(ask(address, get("/")).await.status, StatusCode::OK);
    // A name that cannot be resolved has no endpoint.
    running.handle.apply(sent(named("nobody.invalid", port, true))).await.expect("a good snapshot");
    assert_eq!(ask(address, get("/")).await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_name_does_not_lead_to_this_machine_unless_it_may_and_never_to_pods_and_listeners() {
    let (pod, free) = (Upstream::named("pod").await, Upstream::named("free").await);
    let running = start(Settings { resolve_again: Duration::from_millis(10), ..Settings::default() });
    let mut snapshot = sent(named("localhost", free.address.port(), false));
    let listed = Backend { endpoints: vec![Endpoint::plain(pod.address)], ..Backend::default() };
    snapshot.backends.insert("listed".into(), listed);
    // The same name for all, so that what is known by one of them is known by all.
    snapshot.backends.insert("allowed".into(), named("localhost", free.address.port(), true));
    snapshot.backends.insert("taken".into(), named("localhost", pod.address.port(), true));
    let other = |id: &str| listener(id, ListenerProtocol::Http, vec![rule(&[(id, 1)])]);
    snapshot.listeners.extend(["allowed", "taken"].map(other));
    running.handle.apply(snapshot.clone()).await.expect("a good snapshot");
    let [guarded, allowed, taken] = ["l", "allowed", "taken"].map(|id| running.address(id));
    assert_eq!(answered(allowed, StatusCode::OK).await.body, "free");
    assert_eq!(ask(guarded, get("/")).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ask(taken, get("/")).await.status, StatusCode::SERVICE_UNAVAILABLE);
    // A listener's own port: a name that leads there would call the proxy past the caller's identity.
    snapshot.backends.insert("taken".into(), named("localhost", allowed.port(), true));
    running.handle.apply(snapshot).await.expect("a good snapshot");
    assert_eq!(ask(taken, get("/")).await.status, StatusCode::SERVICE_UNAVAILABLE);
}
