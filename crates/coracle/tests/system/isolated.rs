//! Pods with a network of their own, with the real binary: who calls, who answers, and what is left of it.
//!
//! Where the kernel gives no user namespaces the tests say so, loudly, and look at nothing; with `CORACLE_TEST_NAMESPACES=1` they fail.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::access::{EDGE, policy, until, with_account};
use crate::harness::{Coracle, eventually, fixture, get, manifests};
use crate::load::Load;
use crate::probes::application;
use crate::rollouts::{restart, rolled_out};

/// Whether this user may have namespaces; where the question cannot be asked, the tests find out.
pub(crate) fn namespaces() -> bool {
    match Command::new("unshare").args(["--user", "--map-root-user", "--net", "true"]).output() {
        Ok(output) if !output.status.success() => {
            let required = std::env::var("CORACLE_TEST_NAMESPACES").is_ok_and(|is| is == "1");
            assert!(!required, "there are to be namespaces: {}", String::from_utf8_lossy(&output.stderr));
            eprintln!("NOT TESTED: no namespaces here: {}", String::from_utf8_lossy(&output.stderr));
            false
        }
        _ => true,
    }
}

/// The same with a network of its own, in so many replicas.
fn isolated(text: &str, replicas: u32) -> String {
    let found = text.replace("      serviceAccountName", "      runtimeClassName: isolated\n      serviceAccountName");
    assert_ne!(found, text);
    found.replace("replicas: 1", &format!("replicas: {replicas}"))
}

/// A Service at port 80 of the Pods of `name`, whose declared port an ordinary user may not bind on the machine.
fn low(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: low}}\nspec: {{selector: {{app: {name}}}, ports: [{{name: \
         http, port: 80, targetPort: http}}]}}\n"
    )
}

/// `payments` takes calls of `two` alone; `one` and `two` are isolated like it, `three` is plain and has the account of `two`.
fn callers() -> [(&'static str, String); 3] {
    let opened = "{targetRefs: [{kind: Service, name: payments}], rules: [{from: {serviceAccounts: [two]}}]}";
    let three = with_account("three").replace("serviceAccountName: three", "serviceAccountName: two");
    let callers = [EDGE.to_owned(), isolated(&with_account("one"), 1), isolated(&with_account("two"), 1), three];
    [
        ("a.yaml", isolated(&with_account("payments"), 3) + &low("payments")),
        ("b.yaml", callers.join("---\n")),
        ("c.yaml", policy("payments", opened)),
    ]
}

fn addresses(coracle: &Coracle, name: &str) -> Vec<String> {
    let pods = coracle.get(&["pods", "-l", &format!("app={name}")]);
    let of = |pod: &serde_json::Value| pod["status"]["podIP"].as_str().unwrap_or_default().to_owned();
    pods["items"].as_array().into_iter().flatten().map(of).collect()
}

/// What callers meet, whoever runs Coracle.
fn meet(coracle: &Coracle) {
    until(coracle, "/two/via?payments/", "", 200);
    until(coracle, "/three/via?payments/", "", 200);
    let refused = until(coracle, "/one/via?payments/", "", 403);
    assert!(refused.body.contains("access_not_allowed"), "{refused:?}");
    // Known by its address to a plain program, and by its socket to an isolated one.
    for (path, who) in
        [("/two/via?three/caller", "/sa/two"), ("/one/via?two/caller", "/sa/one"), ("/three/via?one/caller", "/sa/two")]
    {
        let caller = until(coracle, path, "", 200);
        assert!(caller.body.contains(who), "{path}: {caller:?}");
    }
    assert_eq!(until(coracle, "/two/via?low/", "", 200).status, 200);
    let mut pods = addresses(coracle, "payments");
    pods.sort();
    pods.dedup();
    assert!(pods.len() == 3 && pods.iter().all(|ip| ip.starts_with("10.244.")), "{pods:?}");
    assert_eq!(addresses(coracle, "three"), ["127.0.0.1"]);
}

#[test]
fn isolated_pods_call_and_are_called_by_their_accounts_and_come_back_after_a_kill() {
    if !namespaces() {
        return;
    }
    let directory = manifests(&callers().each_ref().map(|(name, text)| (*name, text.as_str())));
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut coracle = Coracle::up_on(directory.path(), data.path(), &[]).unwrap_or_else(|why| panic!("{why}"));
    meet(&coracle);
    let before = addresses(&coracle, "two");
    coracle.end(Signal::SIGKILL);
    eventually("nothing of it is left", || {
        let left = marked(data.path());
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    let coracle = Coracle::up_on(directory.path(), data.path(), &[]).unwrap_or_else(|why| panic!("{why}"));
    meet(&coracle);
    assert_eq!(addresses(&coracle, "two"), before);
}

/// The processes in whose environment a data directory is named.
fn marked(data: &std::path::Path) -> Vec<String> {
    let mark = data.to_str().expect("UTF-8").as_bytes();
    let entries = std::fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let names = |pid: &String| {
        let bytes = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        bytes.windows(mark.len()).any(|part| part == mark)
    };
    pids.filter(names).collect()
}

/// Whoever is not root has no port 80 on the machine, but every isolated Pod has its own, and the mesh's.
#[test]
#[ignore = "needs root"]
fn an_ordinary_user_has_isolated_pods_too() {
    if !namespaces() {
        return;
    }
    let directory = manifests(&callers().each_ref().map(|(name, text)| (*name, text.as_str())));
    let copy = directory.path().join("fixture-copy");
    std::fs::copy(fixture(), &copy).expect("a copy");
    let recipe = format!("images: {{fixture: {{command: [{copy:?}]}}}}\n");
    std::fs::write(directory.path().join("coracle.yaml"), recipe).expect("writable");
    let data = directory.path().join("data");
    std::fs::create_dir(&data).expect("writable");
    for path in [directory.path(), &data] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("ours");
    }
    meet(&Coracle::up_as_nobody(directory.path(), &data));
}

/// An address by which others reach this machine; nothing is sent to find it out.
fn own_address() -> String {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a free port");
    let outward = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr());
    outward.map_or_else(|_| "127.0.0.1".to_owned(), |address| address.ip().to_string())
}

/// What makes a Pod ask for the way out, and be nobody.
const STRANGER: &str = "annotations: {mesh.coracle.dev/egress: proxy}, labels: {sidecar.istio.io/inject: 'false'}";

/// A Pod that tries to leave, by the address of the way out.
fn leaves(name: &str, more: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, {more}}}
spec:
  restartPolicy: Never
  containers:
    - name: c
      image: coracle.dev/host
      command: [sh, -c, 'curl -s -m 90 -w \" %{{http_code}}\" --noproxy \"\" -x http://egress.kube-system:3128 http://192.0.2.1/']
"
    )
}

/// DNS, the Workload API and the way out, as programs of an isolated Pod meet them; all Pods are isolated by the command line.
#[test]
#[ignore = "needs curl and dig (dnsutils)"]
fn names_certificates_and_the_way_out_are_there_inside() {
    if !namespaces() {
        return;
    }
    let asks = r#"
apiVersion: v1
kind: Pod
metadata: {name: asks, annotations: {mesh.coracle.dev/egress: proxy}}
spec:
  restartPolicy: Never
  containers:
    - name: c
      image: coracle.dev/host
      command:
        - sh
        - -c
        - |
          echo address $(dig +search +short users) $USERS_SERVICE_HOST
          echo srv $(dig +tcp +short SRV _http._tcp.users.default.svc.cluster.local)
          echo loopback $(curl -s -m 90 -o /dev/null --noproxy '' -w '%{http_code}' -x $HTTP_PROXY http://127.0.0.1:1/)
          echo link $(curl -s -m 90 --noproxy '' -w ' %{http_code}' -x $HTTP_PROXY http://169.254.169.254/)
          echo lan $(curl -s -m 90 --noproxy '' -w ' %{http_code}' -x $HTTP_PROXY http://LAN:1/)
          echo other $(curl -s -m 90 --noproxy '' -w ' %{http_code}' -x $HTTP_PROXY http://10.244.0.9:1/)
          echo direct $(curl -s -m 90 -o /dev/null --noproxy '*' -w '%{http_code}' http://192.0.2.1/)
          head -c 5 /dev/zero > $VOLUME_V/question
          # The answer has no end; it is left after a while, which is longer if nothing has come of it.
          for while in 3 10 30 90; do
            who=$(curl -s -m $while --http2-prior-knowledge --unix-socket ${SPIFFE_ENDPOINT_SOCKET#unix://} \
              -H 'content-type: application/grpc' -H 'te: trailers' -H 'workload.spiffe.io: true' --data-binary \
              @$VOLUME_V/question http://localhost/SpiffeWorkloadAPI/FetchX509SVID | grep -ao 'spiffe://[a-z./]*' | head -1)
            test -z "$who" || break
          done
          echo spiffe $who
      volumeMounts: [{name: v, mountPath: /tmp/v}]
  volumes: [{name: v, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: users}
spec: {selector: {app: users}, ports: [{name: http, port: 80, targetPort: 8080}]}
"#;
    let asks = asks.replace("LAN", &own_address()) + &leaves("shy", "") + &leaves("stranger", STRANGER);
    let directory = manifests(&[("asks.yaml", &asks)]);
    let data = tempfile::tempdir().expect("a temporary directory");
    let coracle = Coracle::up_on(directory.path(), data.path(), &["--pod-network", "isolated"]);
    let coracle = coracle.unwrap_or_else(|why| panic!("{why}"));
    let text = coracle.told_by("asks", "default");
    let said = |what: &str| text.lines().find_map(|line| line.strip_prefix(what)).map(str::trim).unwrap_or_default();
    let service = coracle.get(&["svc/users"])["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    assert_eq!(said("address"), format!("{service} {service}"), "{text}");
    assert_eq!(said("srv"), "0 100 80 users.default.svc.cluster.local.", "{text}");
    assert_eq!((said("loopback"), said("direct")), ("403", "000"), "{text}");
    for (what, why) in [("link", "link-local"), ("lan", "the machine itself"), ("other", "the pod network")] {
        assert!(said(what).contains(why) && said(what).ends_with("403"), "{text}");
    }
    for (pod, why) in [("shy", "does not ask for the way out"), ("stranger", "nobody vouches")] {
        let text = coracle.told_by(pod, "default");
        assert!(text.contains(why) && text.contains("403"), "{pod}: {text}");
    }
    assert_eq!(said("spiffe"), "spiffe://cluster.local/ns/default/sa/default", "{text}");
}

/// The very first Pod is answered at its first try, as it does not start before there is somebody in its network to answer.
#[test]
#[ignore = "needs curl and dig (dnsutils)"]
fn the_very_first_pod_is_answered_at_its_first_try() {
    if !namespaces() {
        return;
    }
    let asks = r#"
apiVersion: v1
kind: Pod
metadata: {name: asks}
spec:
  restartPolicy: Never
  containers:
    - name: c
      image: coracle.dev/host
      command:
        - sh
        - -c
        - |
          echo service $(curl -s -m 90 --noproxy '*' -o /dev/null -w '%{http_code}' http://$USERS_SERVICE_HOST/)
          echo name $(dig +tries=1 +timeout=90 +search +short users) of $USERS_SERVICE_HOST
---
apiVersion: v1
kind: Service
metadata: {name: users}
spec: {selector: {app: users}, ports: [{name: http, port: 80, targetPort: 8080}]}
"#;
    for round in 0..6 {
        let directory = manifests(&[("asks.yaml", asks)]);
        let data = tempfile::tempdir().expect("a temporary directory");
        let more = ["--pod-network", "isolated"];
        let coracle = Coracle::up_on(directory.path(), data.path(), &more).unwrap_or_else(|why| panic!("{why}"));
        let text = coracle.told_by("asks", "default");
        let service = coracle.get(&["svc/users"])["spec"]["clusterIP"].as_str().expect("an address").to_owned();
        assert!(
            text.contains("service 503") && text.contains(&format!("name {service} of {service}")),
            "{round}: {text}"
        );
    }
}

/// The limit of open files that this process may have, after it was made to be below what it could be.
fn lowered() -> u64 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    let soft = soft.min(hard - 7);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("a lower limit");
    soft
}

/// Probes of all kinds that HTTP programs have, a drain under load, and a hang, where every Pod has a network of its own, at addresses
/// that were asked for. Coracle itself may have as many files open as it is allowed to, and its Pods what it was started with.
#[test]
fn isolated_pods_are_probed_drained_and_restarted_like_others() {
    if !namespaces() {
        return;
    }
    let soft = lowered();
    let probes = "          startupProbe: {exec: {command: [sh, -c, 'test $(ulimit -Sn) = SOFT']}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 3}
          livenessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1, timeoutSeconds: 8, failureThreshold: 3}
          readinessProbe: {httpGet: {path: /readyz, port: http}, periodSeconds: 1, timeoutSeconds: 8, failureThreshold: 3}"
        .replace("SOFT", &soft.to_string());
    let directory = manifests(&[("app.yaml", &application("app", 3, &probes))]);
    let data = tempfile::tempdir().expect("a temporary directory");
    let more = ["--pod-network", "isolated", "--pod-cidr", "10.77.0.0/24"];
    let coracle = Coracle::up_on(directory.path(), data.path(), &more).unwrap_or_else(|why| panic!("{why}"));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", coracle.child.id())).expect("its limits");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("of open files");
    let files: Vec<&str> = files.split_whitespace().collect();
    assert!(files[3] == files[4] && files[3] != soft.to_string(), "{files:?}");
    let pods = addresses(&coracle, "app");
    assert!(pods.len() == 3 && pods.iter().all(|ip| ip.starts_with("10.77.0.")), "{pods:?}");

    let load = Load::start(coracle.gateway(), "/", 4);
    for round in ["one", "two", "three"] {
        restart(&coracle, "app", round);
        rolled_out(&coracle, "app");
    }
    let seen = load.stop();
    assert!(seen.failures == 0 && seen.answers > 20, "{seen:?}");

    assert_eq!(get(coracle.gateway(), "/hang").expect("an answer").status, 200);
    eventually("the one that hangs is restarted", || {
        let pods = coracle.get(&["pods"]);
        let counts = pods["items"].as_array().into_iter().flatten();
        let counts: Vec<_> = counts.map(|pod| pod["status"]["containerStatuses"][0]["restartCount"].clone()).collect();
        if counts.iter().any(|count| count == 1) { Ok(()) } else { Err(format!("{counts:?}")) }
    });
}

#[test]
fn a_pod_network_that_cannot_be_is_refused_at_the_start() {
    let refused = |cidr: &str| {
        let directory = manifests(&[("a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n")]);
        let data = tempfile::tempdir().expect("a directory");
        Coracle::up_on(directory.path(), data.path(), &["--pod-cidr", cidr]).err().expect("it is refused")
    };
    assert!(refused("10.77.1.3/24").contains("around it is 10.77.1.0/24"));
    assert!(refused("127.5.0.0/16").contains("loopback"));
    let all = nix::ifaddrs::getifaddrs().expect("addresses");
    let own = all.filter_map(|one| Some(one.address?.as_sockaddr_in()?.ip())).find(|ip| !ip.is_loopback());
    let Some(own) = own else { return eprintln!("NOT TESTED: this machine has no address but loopback") };
    let [first, second, _, _] = own.octets();
    let said = refused(&format!("{first}.{second}.0.0/16"));
    assert!(said.contains(&own.to_string()) && said.contains("--pod-cidr"), "{said}");
}
