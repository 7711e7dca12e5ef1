//! Programs in Pods with certificates of their own: the Workload API from within, mutual TLS on the hops inside one node.

use crate::harness::{Coracle, eventually, manifests};
use crate::isolated::namespaces;
use crate::probes::application;

/// Serves HTTPS with its own SVID, to callers with one, and says whose it was. It begins anew with every start only, which is
/// enough for a test.
const SERVER: &str = r#"
import http.server, os, ssl, tempfile
from cryptography.hazmat.primitives import serialization as s
from spiffe import WorkloadApiClient
pem = s.Encoding.PEM
with WorkloadApiClient() as client:
    svid, bundles = client.fetch_x509_svid(), client.fetch_x509_bundles()
folder = tempfile.mkdtemp()
def write(name, *parts):
    path = os.path.join(folder, name)
    open(path, "wb").write(b"".join(parts))
    return path
key = svid.private_key.private_bytes(pem, s.PrivateFormat.PKCS8, s.NoEncryption())
leaf = write("leaf", key, *[c.public_bytes(pem) for c in svid.cert_chain])
roots = write("roots", *[c.public_bytes(pem) for b in bundles.bundles for c in b.x509_authorities])
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=roots)
context.verify_mode = ssl.CERT_REQUIRED
context.load_cert_chain(leaf)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        names = self.connection.getpeercert()["subjectAltName"]
        body = repr(names).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a):
        pass
server = http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;

/// Says what it is, and what it hears: as a client with a certificate, without one, and of the server above.
const CLIENT: &str = r#"
import http.client, os, ssl, tempfile, time
from cryptography.hazmat.primitives import serialization as s
from cryptography import x509
from spiffe import WorkloadApiClient
pem = s.Encoding.PEM
print("socket", os.environ["SPIFFE_ENDPOINT_SOCKET"].startswith("unix://"), flush=True)
def eventually(what):
    for _ in range(600):
        try:
            return what()
        except Exception as error:
            last = error
            time.sleep(0.1)
    raise last
with WorkloadApiClient() as client:
    svid, bundles = eventually(lambda: (client.fetch_x509_svid(), client.fetch_x509_bundles()))
print("own", svid.spiffe_id, flush=True)
folder = tempfile.mkdtemp()
def write(name, *parts):
    path = os.path.join(folder, name)
    open(path, "wb").write(b"".join(parts))
    return path
key = svid.private_key.private_bytes(pem, s.PrivateFormat.PKCS8, s.NoEncryption())
leaf = write("leaf", key, *[c.public_bytes(pem) for c in svid.cert_chain])
roots = write("roots", *[c.public_bytes(pem) for b in bundles.bundles for c in b.x509_authorities])
def address(name):
    name = name.upper()
    return os.environ[name + "_SERVICE_HOST"], int(os.environ[name + "_SERVICE_PORT"])
def tls(name, certificate=True, path="/caller"):
    context = ssl.create_default_context(cafile=roots)
    context.check_hostname = False
    if certificate:
        context.load_cert_chain(leaf)
    connection = http.client.HTTPSConnection(*address(name), context=context, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    shown = x509.load_der_x509_certificate(connection.sock.getpeercert(True)) if connection.sock else None
    return answer.status, answer.read().decode(), shown
def plain(name, path="/caller"):
    connection = http.client.HTTPConnection(*address(name), timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()
def heard_tls():
    status, body, shown = tls("guarded")
    assert status == 200, (status, body)
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return body, names.get_values_for_type(x509.UniformResourceIdentifier)
print("certified", *eventually(heard_tls), flush=True)
for what, call in [("plain", lambda: plain("guarded")), ("bytes", lambda: plain("raw")), ("bare", lambda: tls("guarded", False))]:
    try:
        print(what, "answered", call(), flush=True)
    except (OSError, http.client.HTTPException) as error:
        print(what, "refused", type(error).__name__, flush=True)
def raw():
    status, _, _ = tls("raw", path="/")
    assert status == 200, status
    return status
print("raw", eventually(raw), flush=True)
with WorkloadApiClient() as client:
    good, other = (client.fetch_jwt_svid(audience={audience}).token for audience in ["doors", "windows"])
def doors(token):
    connection = http.client.HTTPConnection(*address("doors"), timeout=30)
    connection.request("GET", "/", headers={"authorization": "Bearer " + token} if token else {})
    return connection.getresponse().status
def opened():
    assert doors(good) == 200
    return 200
print("doors", eventually(opened), doors(None), doors(other), doors(good[:-4] + "AAAA"), flush=True)
def of_server(name):
    status, body = plain(name)
    assert status == 200, (status, body)
    return body
print("server", eventually(lambda: of_server("server")), flush=True)
print("impostor", *plain("impostor"), flush=True)
print("done", flush=True)
time.sleep(3600)
"#;

/// A program with a service account of its own, behind a Service that says who must answer.
fn program(name: &str, expected: &str) -> String {
    format!(
        "apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, annotations: {{mesh.coracle.dev/program-tls: '{expected}', mesh.coracle.dev/mtls: auto}}}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 8080}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      serviceAccountName: {name}
      containers: [{{name: c, image: server, ports: [{{containerPort: 8080}}]}}]
"
    )
}

/// The whole node asks for certificates. A Pod gets its own SVID and nobody else's, is answered with it and reset without; the
/// proxy speaks to programs with TLS of their own in the caller's name, and believes only the one that was meant.
#[test]
#[ignore = "needs python3 with the package spiffe"]
fn programs_bring_their_own_certificates_to_every_hop_inside_one_node() {
    certificates_on_every_hop(&[]);
}

/// The same where every Pod has a network of its own: the socket of the Workload API is a file, and the proxy stands in the mesh.
#[test]
#[ignore = "needs python3 with the package spiffe"]
fn programs_in_networks_of_their_own_bring_certificates_too() {
    if namespaces() {
        certificates_on_every_hop(&["--pod-network", "isolated"]);
    }
}

fn certificates_on_every_hop(more: &[&str]) {
    let python = std::env::var("CORACLE_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let guarded = application("guarded", 1, "").split("---\n").take(2).collect::<Vec<_>>().join("---\n");
    let client = "apiVersion: v1
kind: ServiceAccount
metadata: {name: client}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: client}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      serviceAccountName: client
      containers: [{name: c, image: client}]
";
    // The same program once more, as bytes that nobody looks into.
    let raw = "apiVersion: v1\nkind: Service\nmetadata: {name: raw}\nspec: {selector: {app: guarded}, ports: [{name: tcp, port: 9090, targetPort: http}]}\n";
    // Once more, for those who bring a token of the trust domain.
    let doors = "apiVersion: v1
kind: Service
metadata: {name: doors, annotations: {mesh.coracle.dev/mtls: auto}}
spec: {selector: {app: guarded}, ports: [{name: http, port: 9091, targetPort: http}]}
---
apiVersion: mesh.coracle.dev/v1alpha1
kind: AccessPolicy
metadata: {name: doors}
spec:
  targetRefs: [{kind: Service, name: doors}]
  jwt: {providers: [{issuer: 'spiffe://cluster.local', audiences: [doors], jwks: {trustDomain: cluster.local}}]}
  rules: [{jwt: {claims: [{name: sub, equals: 'spiffe://cluster.local/ns/default/sa/client'}]}}]
";
    let services = [
        guarded,
        raw.to_owned(),
        doors.to_owned(),
        program("server", "spiffe"),
        program("impostor", "spiffe://cluster.local/ns/default/sa/x"),
    ];
    let directory = manifests(&[
        ("a.yaml", &services.join("---\n")),
        ("b.yaml", client),
        ("server.py", SERVER),
        ("client.py", CLIENT),
    ]);
    let path = directory.path().join("coracle.yaml");
    let mut recipe = std::fs::read_to_string(&path).expect("the fixture's recipe");
    for image in ["server", "client"] {
        let script = directory.path().join(format!("{image}.py"));
        recipe.push_str(&format!("  {image}:\n    command: [{python}, {script:?}]\n"));
    }
    std::fs::write(&path, recipe).expect("a writable directory");
    let data = tempfile::tempdir().expect("a temporary directory");
    let more = [&["--mtls", "always"], more].concat();
    let coracle = Coracle::up_on(directory.path(), data.path(), &more).unwrap_or_else(|s| panic!("{s}"));
    let said = eventually("the client has said it all", || {
        let said = coracle.ok(&["logs", "deploy/client"]);
        if said.contains("done") { Ok(said) } else { Err(said) }
    });
    let line =
        |what: &str| said.lines().find(|line| line.starts_with(what)).unwrap_or_else(|| panic!("{what}: {said}"));
    assert_eq!(line("socket"), "socket True");
    assert_eq!(line("own"), "own spiffe://cluster.local/ns/default/sa/client");
    // The server sees who called; the caller sees whose Service it is.
    assert!(line("certified").contains("URI=spiffe://cluster.local/ns/default/sa/client"), "{said}");
    assert!(line("certified").contains("['spiffe://cluster.local/ns/default/sa/default']"), "{said}");
    assert!(line("plain").starts_with("plain refused"), "{said}");
    assert!(line("bytes").starts_with("bytes refused") && line("raw") == "raw 200", "{said}");
    assert_eq!(line("doors"), "doors 200 401 401 401", "{said}");
    assert!(line("bare").starts_with("bare refused"), "{said}");
    assert_eq!(line("server"), "server (('URI', 'spiffe://cluster.local/ns/default/sa/client'),)");
    assert!(line("impostor").starts_with("impostor 502"), "{said}");
}
