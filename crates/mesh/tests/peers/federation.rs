//! Bundles over the network: whom to believe, and what is refused.

use std::net::SocketAddr;

use jiff::SignedDuration;
use mesh::identity::Issuer;
use mesh::identity::federation::{BundleEndpoint, FetchError, Fetched, Profile, Source, fetch};
use tokio_util::sync::CancellationToken;

use crate::harness::{Instance, Time};

async fn ask(of: &Instance, address: SocketAddr, profile: &Profile) -> Result<Fetched, FetchError> {
    fetch(&Source { url: format!("https://{address}/"), profile: profile.clone() }, &of.handle).await
}

#[tokio::test]
async fn a_bundle_is_fetched_from_the_one_that_was_named_and_follows_its_roots() {
    let time = Time::new();
    let (mut a, mut b) = (Instance::start("a.test", None, &time), Instance::start("b.test", None, &time));
    let endpoint = BundleEndpoint::bind("127.0.0.1:0".parse().expect("an address"), b.handle.clone()).await;
    let endpoint = endpoint.expect("a socket");
    let address = endpoint.address().expect("an address");
    let stop = CancellationToken::new();
    let running = tokio::spawn(endpoint.run(stop.clone()));
    let proxy = Profile::Spiffe("spiffe://b.test/ns/coracle-system/sa/proxy".into());
    // Nobody can say who it is before the first bundle was brought by hand.
    let refused = ask(&a, address, &proxy).await.expect_err("it is not trusted");
    assert!(refused.to_string().contains("not trusted here"), "{refused}");
    a.trusts(&b);
    let first = ask(&a, address, &proxy).await.expect("a bundle");
    assert_eq!(Some(&first.bundle), b.handle.bundle().as_ref());
    assert!(first.sequence.is_some() && !first.bundle.keys().is_empty());
    let other = Profile::Spiffe("spiffe://b.test/ns/shop/sa/web".into());
    let refused = ask(&a, address, &other).await.expect_err("it is the proxy");
    assert!(refused.to_string().contains("answers where"), "{refused}");
    // An SVID is no certificate of the web.
    ask(&a, address, &Profile::Web(Some(b.handle.bundle().expect("a bundle").to_pem().into())))
        .await
        .expect_err("it has no name");
    time.pass(SignedDuration::from_hours(1));
    b.issuer.authority.rotate_root(time.now()).expect("a root");
    b.keeper.turn(time.now());
    let second = ask(&a, address, &proxy).await.expect("a bundle");
    assert_eq!(second.bundle.roots().len(), 2);
    assert!(second.sequence > first.sequence, "{:?} {:?}", first.sequence, second.sequence);
    assert!(b.issuer.roots().iter().all(|root| second.bundle.roots().contains(root)));
    stop.cancel();
    running.await.expect("a good end");
    ask(&a, address, &proxy).await.expect_err("it is gone");
}
