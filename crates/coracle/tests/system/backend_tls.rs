//! TLS to a backend whose owner asks for it, with somebody else's TLS at the other end.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::{Coracle, eventually, get, manifests, port};

fn openssl(folder: &Path, arguments: &str) {
    let run = Command::new("openssl").current_dir(folder).args(arguments.split(' ')).output().expect("openssl runs");
    assert!(run.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&run.stderr));
}

/// Makes an authority `NAME.crt`.
fn authority(folder: &Path, name: &str) {
    openssl(
        folder,
        &format!("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -keyout {name}.key -out {name}.crt"),
    );
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended already is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn config_map(folder: &Path, authority: &str) -> String {
    let pem = std::fs::read_to_string(folder.join(format!("{authority}.crt"))).expect("it was made");
    let lines: String = pem.lines().map(|line| format!("    {line}\n")).collect();
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca}}\ndata:\n  ca.crt: |\n{lines}")
}

fn objects(port: u16) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: vault}}
spec: {{ports: [{{name: http, port: 8080}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: vault-1, labels: {{kubernetes.io/service-name: vault}}}}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints: [{{addresses: [127.0.0.1]}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: vault}}
spec:
  targetRefs: [{{group: '', kind: Service, name: vault}}]
  validation:
    hostname: vault.test
    caCertificateRefs: [{{group: '', kind: ConfigMap, name: ca}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  gatewayClassName: coracle
  listeners: [{{name: http, port: 8080, protocol: HTTP}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: vault}}
spec:
  parentRefs: [{{name: edge}}]
  rules: [{{backendRefs: [{{name: vault, port: 8080}}]}}]
"
    )
}

#[test]
#[ignore = "needs openssl"]
fn a_backend_with_tls_is_believed_by_its_owners_authority_alone() {
    let port = port();
    let directory = manifests(&[("vault.yaml", &objects(port))]);
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    authority(at, "good");
    authority(at, "other");
    std::fs::write(at.join("names"), "subjectAltName=DNS:vault.test\nbasicConstraints=CA:FALSE\n").expect("written");
    openssl(at, "req -newkey rsa:2048 -nodes -subj /CN=vault -keyout own.key -out own.csr");
    openssl(
        at,
        "x509 -req -in own.csr -CA good.crt -CAkey good.key -CAcreateserial -days 2 -extfile names -out own.crt",
    );
    let arguments = format!("s_server -accept 127.0.0.1:{port} -cert own.crt -key own.key -www -quiet");
    let server = Command::new("openssl").current_dir(at).args(arguments.split(' ')).stdout(Stdio::null()).spawn();
    let _server = Server(server.expect("openssl runs"));

    let write = |name: &str| {
        let path = at.join("ca.yaml");
        std::fs::write(&path, config_map(at, name)).expect("written");
        path
    };
    std::fs::copy(write("good"), directory.path().join("ca.yaml")).expect("copied");
    let coracle = Coracle::up(directory.path());
    let service = coracle.get(&["svc/vault"]);
    let service = format!("{}:8080", service["spec"]["clusterIP"].as_str().expect("an address"));
    let service = service.parse().expect("an address");
    let answers = |status: u16| {
        for address in [coracle.gateway(), service] {
            eventually(&format!("{address} answers {status}"), || match get(address, "/") {
                Ok(answer) if answer.status == status => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
    };
    let says = |kind: &str, status: &str, reason: &str| {
        eventually(&format!("the policy says {kind}={status} {reason}"), || {
            let policy = coracle.get(&["backendtlspolicy/vault"]);
            let ancestor = &policy["status"]["ancestors"][0];
            let conditions = ancestor["conditions"].as_array().cloned().unwrap_or_default();
            let found = conditions.iter().any(|condition| {
                condition["type"] == kind && condition["status"] == status && condition["reason"] == reason
            });
            if found && ancestor["ancestorRef"]["name"] == "edge" { Ok(()) } else { Err(policy["status"].to_string()) }
        });
    };
    answers(200);
    says("Accepted", "True", "Accepted");
    // Another authority is in its place from now on: the backend is not believed any more.
    coracle.ok(&["apply", "-f", &write("other").to_string_lossy()]);
    answers(502);
    coracle.ok(&["apply", "-f", &write("good").to_string_lossy()]);
    answers(200);
    // Without any, nothing is sent.
    coracle.ok(&["delete", "configmap/ca"]);
    answers(500);
    says("Accepted", "False", "NoValidCACertificate");
    says("ResolvedRefs", "False", "InvalidCACertificateRef");
}
