//! Cluster DNS as programs in Pods meet it.

use crate::harness::{Coracle, manifests};

const ASKS: &str = r"
apiVersion: v1
kind: Service
metadata: {name: users}
spec: {selector: {app: users}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: members}
spec: {clusterIP: None, selector: {app: users}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: users.default.svc.cluster.local}
---
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
          set -e
          # Names follow what is applied in their own time.
          until address=$(dig +search +short users) && test x$address != x; do sleep 0.2; done
          echo address $address; test $address = $USERS_SERVICE_HOST
          echo srv $(dig +search +short SRV _http._tcp.users.default)
          echo tcp $(dig +tcp +short users.default.svc.cluster.local)
          echo alias $(dig +short alias.default.svc.cluster.local | tr '\n' ' ')
          echo back $(dig +short -x $address)
          echo missing $(dig nobody.default.svc.cluster.local | grep -o NXDOMAIN)
          echo empty $(dig AAAA users.default.svc.cluster.local | grep -o NOERROR)
          echo library $(getent ahostsv4 users.default.svc | head -1)
";

/// dig, the C library and TCP, with the resolv.conf that a Pod is given. Needs root for port 53.
#[test]
#[ignore = "needs root and dig (dnsutils)"]
fn dig_finds_services_from_a_pod() {
    let directory = manifests(&[("asks.yaml", ASKS)]);
    let coracle = Coracle::up(directory.path());
    let text = coracle.told_by("asks", "default");
    let said = |what: &str| {
        let line = text.lines().find_map(|line| line.split_once(what)).map(|(_, rest)| rest.trim());
        line.unwrap_or_else(|| panic!("no {what} in {text}")).to_owned()
    };
    let address = said("address ");
    assert!(address.starts_with("127."), "{text}");
    assert_eq!(said("srv "), "0 100 8080 users.default.svc.cluster.local.");
    assert_eq!(said("tcp "), address);
    assert_eq!(said("alias "), format!("users.default.svc.cluster.local. {address}"));
    assert_eq!(said("back "), "users.default.svc.cluster.local.");
    assert_eq!((said("missing "), said("empty ")), ("NXDOMAIN".to_owned(), "NOERROR".to_owned()));
    assert!(said("library ").starts_with(&address), "{text}");
}
