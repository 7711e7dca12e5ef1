//! The Workload API, asked by SPIFFE's own library for Python.

use std::sync::Arc;

use jiff::SignedDuration;
use mesh::identity::SpiffeId;
use mesh::identity::workload_api::{Attestor, WorkloadApi};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::harness::{Instance, LIMIT, Time};

/// Says the same of every process.
struct All(Option<SpiffeId>);

impl Attestor for All {
    fn attest(&self, pid: i32) -> Option<SpiffeId> {
        assert!(pid > 0, "the kernel says whose it is");
        self.0.clone()
    }
}

/// Prints what the library gets, and again with every change.
const FOLLOW: &str = r#"
import sys
from spiffe import WorkloadApiClient
with WorkloadApiClient() as client:
    try:
        svid = client.fetch_x509_svid()
        bundles = client.fetch_x509_bundles()
        domains = sorted(bundle.trust_domain.name for bundle in bundles.bundles)
        print(svid.spiffe_id, len(svid.cert_chain), *domains, flush=True)
    except Exception as error:
        print("refused:", error, flush=True)
        sys.exit()
    token = client.fetch_jwt_svid(audience={"shop", "bank"})
    keys = client.fetch_jwt_bundles()
    domains = sorted(bundle.trust_domain.name for bundle in keys._bundles.values())
    seen = client.validate_jwt_svid(token.token, "shop")
    print("jwt:", token.spiffe_id, sorted(token.audience), *domains, seen.spiffe_id, flush=True)
    for what in [lambda: client.validate_jwt_svid(token.token, "other"), lambda: client.validate_jwt_svid(token.token[:-4] + "AAAA", "shop")]:
        try:
            print("believed:", what(), flush=True)
        except Exception as error:
            print("not believed:", error, flush=True)
    client.stream_x509_contexts(
        lambda context: print("serial", context.default_svid.leaf.serial_number, flush=True),
        lambda error: print("error", error, flush=True),
    )
    sys.stdin.read()
"#;

fn follow(socket: &str) -> Child {
    let python = std::env::var("CORACLE_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut command = Command::new(python);
    command.args(["-c", FOLLOW]).env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{socket}")).kill_on_drop(true);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().expect("python3 starts")
}

async fn line(lines: &mut tokio::io::Lines<BufReader<tokio::process::ChildStdout>>) -> String {
    let next = tokio::time::timeout(LIMIT, lines.next_line()).await.expect("a line in time");
    next.expect("a pipe").expect("a line")
}

#[tokio::test]
#[ignore = "needs python3 with the package spiffe"]
async fn spiffes_own_library_gets_a_certificate_and_every_renewal() {
    let time = Time::new();
    let (mut b, a) = (Instance::start("b.test", None, &time), Instance::start("a.test", None, &time));
    b.trusts(&a);
    let id = b.domain.account("shop", "web").expect("an id");
    let path = b.folder.path().join("workload.sock");
    let api = WorkloadApi::bind(path.clone(), b.handle.clone(), Arc::new(All(Some(id)))).expect("a socket");
    let stop = CancellationToken::new();
    let running = tokio::spawn(api.run(stop.clone()));
    let mut python = follow(path.to_str().expect("UTF-8"));
    let mut lines = BufReader::new(python.stdout.take().expect("a pipe")).lines();
    assert_eq!(line(&mut lines).await, "spiffe://b.test/ns/shop/sa/web 1 a.test b.test");
    let jwt = line(&mut lines).await;
    let id = "spiffe://b.test/ns/shop/sa/web";
    assert_eq!(jwt, format!("jwt: {id} ['bank', 'shop'] a.test b.test {id}"));
    for why in ["somebody else", "signature is wrong"] {
        let said = line(&mut lines).await;
        assert!(said.starts_with("not believed:") && said.contains(why), "{said}");
    }
    let first = line(&mut lines).await;
    assert!(first.starts_with("serial "), "{first}");
    time.pass(SignedDuration::from_hours(15));
    b.keeper.turn(time.now());
    let second = line(&mut lines).await;
    assert!(second.starts_with("serial ") && second != first, "{first}, then {second}");
    stop.cancel();
    tokio::time::timeout(LIMIT, running).await.expect("an end in time").expect("a good one");
    assert!(!path.exists(), "the socket is gone");
}

#[tokio::test]
#[ignore = "needs python3 with the package spiffe"]
async fn a_process_of_nobody_learns_nothing() {
    let time = Time::new();
    let b = Instance::start("b.test", None, &time);
    let path = b.folder.path().join("workload.sock");
    let api = WorkloadApi::bind(path.clone(), b.handle.clone(), Arc::new(All(None))).expect("a socket");
    let stop = CancellationToken::new();
    let running = tokio::spawn(api.run(stop.clone()));
    let mut python = follow(path.to_str().expect("UTF-8"));
    let mut lines = BufReader::new(python.stdout.take().expect("a pipe")).lines();
    let said = line(&mut lines).await;
    assert!(said.starts_with("refused:") && said.contains("is in no Pod"), "{said}");
    stop.cancel();
    running.await.expect("a good end");
}
