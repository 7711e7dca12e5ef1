//! Who may call what, with the real binary and real Pods (scenarios 43 and 47).

use crate::harness::{Answer, Coracle, eventually, manifests};
use crate::probes::application;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// A key set whose private key is kept nowhere, and a token that it has signed: issuer `https://idp.test`, subject `ann`, audience
/// `shop`, good until 2100.
const MODULUS: &str = "6JF9xzt1ui_se5DWHqIuGbzNMwx48N1oohWfzwEoLr8Q8T22ufOZ8JgV7fWY4of18qWLFVTN3o0VpGxSQGV-cLgLxGTVG361IA0O\
    Urd1V74t6or8pSp8TXpTzj9dpqi84rRwbYVOTU4p1QOyEZ1B4VH1bYkyIzLC128emPy9xhIww8sI28-qstAGb_2IdiQZ_x_vdYTy\
    cTlBLx4Aq4ejBDiKTkLLdJkclb7hX3eYmY3Rty-JfbxUD3nyuhstOxkPUhZifdb9mi7btY4Q86g3NnRvmtLCOzPgJdHgA-5xKKK3\
    UImNGNlqCwCSX4x2BUUNULNuyMy5S-8sCwtMwndnHQ";
const TOKEN: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSJ9.eyJpc3MiOiJodHRwczovL2lkcC50ZXN0Iiwic3ViIjoiYW5uIiwiYXVkIjoic2h\
    vcCIsImV4cCI6NDEwMjQ0NDgwMH0.nxiD7VkzJnK3vGfECOBvjvrdfnJTl_xpy7-Z-NpCau1nfJf69GbC48Sc7l9a6ZtUO4fQ9KF\
    t7zS4b_PFoYNazKGczBn-AM9XoEnpopBxvWMl0D6E9Nf8t4XFXq7r1L8QBXsSOYBN-RykaGDaGlCZsw0AiUoRg2Lol291q3xRW4M\
    M3S14br1QPHqyTbW0ZLraGt-1CGJlS1L3NJMKuvtb3JfIbSCfYpJBCVhXR9MC4YOrlcM090bZquoJakJh4RXv_U7_R29GtPWT9Lq\
    w552hHYlwmtODQT7Zxg7fabTF5Ou2RXlWootBVPmBp5Y7VODvtonryXPiJm0LxZHx1UMLug";

/// A Service and its Pod with a service account of its own, and a route to it below `/NAME`.
pub(crate) fn with_account(name: &str) -> String {
    let all = application(name, 1, "");
    let inner = all.split("---\n").take(2).collect::<Vec<_>>().join("---\n");
    let inner = inner.replace(
        "    spec:\n      termination",
        &format!("    spec:\n      serviceAccountName: {name}\n      termination"),
    );
    assert!(inner.contains("serviceAccountName"), "{inner}");
    format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}}}\n---\n{inner}---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n  parentRefs: [{{name: edge}}]\n  \
         rules:\n    - matches: [{{path: {{value: /{name}}}}}]\n      filters: [{{type: URLRewrite, urlRewrite: {{path: \
         {{type: ReplacePrefixMatch, replacePrefixMatch: /}}}}}}]\n      backendRefs: [{{name: {name}, port: 8080}}]\n"
    )
}

pub(crate) const EDGE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: coracle, listeners: [{name: http, protocol: HTTP, port: 8080}]}
";

pub(crate) fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: mesh.coracle.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

/// One GET with further headers.
fn get_with(address: SocketAddr, path: &str, headers: &str) -> Answer {
    let mut stream = TcpStream::connect(address).expect("the gateway answers");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\r\n").expect("it is sent");
    let mut all = String::new();
    stream.read_to_string(&mut all).expect("an answer");
    let (head, body) = all.split_once("\r\n\r\n").expect("an answer");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

pub(crate) fn until(coracle: &Coracle, path: &str, headers: &str, status: u16) -> Answer {
    eventually(&format!("{path} answers {status}"), || {
        let answer = get_with(coracle.gateway(), path, headers);
        if answer.status == status { Ok(answer) } else { Err(format!("{answer:?}")) }
    })
}

/// Scenario 43: each Pod is known by its own service account, and what it says of itself changes nothing. A namespace that is
/// closed has only the doors that are opened.
#[test]
fn a_pod_calls_what_its_own_account_may_and_nothing_else() {
    let from_edge = "rules: [{from: {gateways: [edge]}}]";
    let policies = [
        policy("default-deny", "{targetRefs: [{kind: Namespace, name: default}]}"),
        policy(
            "doors",
            &format!("{{targetRefs: [{{kind: Service, name: one}}, {{kind: Service, name: two}}], {from_edge}}}"),
        ),
        policy(
            "payments",
            "{targetRefs: [{kind: Service, name: payments}], rules: [{name: two-pays, from: {serviceAccounts: [two]}}]}",
        ),
    ];
    let callers = format!("{EDGE}---\n{}---\n{}", with_account("one"), with_account("two"));
    let directory =
        manifests(&[("a.yaml", &with_account("payments")), ("b.yaml", &callers), ("c.yaml", &policies.concat())]);
    // In a trust domain of its own: who is meant by `two` is of it.
    let data = tempfile::tempdir().expect("a temporary directory");
    let more = ["--trust-domain", "prod.example"];
    let coracle = Coracle::up_on(directory.path(), data.path(), &more).unwrap_or_else(|said| panic!("{said}"));
    until(&coracle, "/two/via?payments/", "", 200);
    let refused = until(&coracle, "/one/via?payments/", "", 403);
    assert!(refused.body.contains("access_not_allowed"), "{refused:?}");
    // Who is outside comes no further than the doors.
    until(&coracle, "/payments/", "", 403);
    eventually("the policy says that it is followed", || {
        let policy = coracle.get(&["accesspolicies/payments"]);
        let condition = &policy["status"]["ancestors"][0]["conditions"][0];
        let followed = condition["status"] == "True" && condition["observedGeneration"] == 1;
        if followed { Ok(()) } else { Err(policy.to_string()) }
    });
}

/// Scenario 47: no token, 401; a good one, in; too many, 429.
#[test]
fn a_client_outside_needs_a_token_and_patience() {
    let jwks = format!(r#"{{"keys":[{{"kty":"RSA","kid":"rsa","n":"{MODULUS}","e":"AQAB"}}]}}"#);
    let spec = format!(
        "{{targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: edge}}], jwt: {{providers: [{{issuer: \
         'https://idp.test', audiences: [shop], jwks: {{inline: '{jwks}'}}}}]}}}}"
    );
    let limit = "---\napiVersion: mesh.coracle.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: limit}\nspec: {targetRefs: [{group: \
                 gateway.networking.k8s.io, kind: HTTPRoute, name: limited}], rateLimits: [{requests: 2, per: 1h}]}\n";
    let policies = [policy("edge", &spec), limit.to_owned()].concat();
    let directory = manifests(&[
        ("a.yaml", &format!("{EDGE}---\n{}---\n{}", with_account("web"), with_account("limited"))),
        ("b.yaml", &policies),
    ]);
    let coracle = Coracle::up(directory.path());
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");
    let refused = until(&coracle, "/web/", "", 401);
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"), "{refused:?}");
    assert!(refused.body.contains("token_missing"), "{refused:?}");
    until(&coracle, "/web/", &bearer, 200);
    let forged = bearer.replace("Bearer eyJ", "Bearer eyK");
    assert_eq!(get_with(coracle.gateway(), "/web/", &forged).status, 401);
    // Each refusal is a line in the log, whether anybody asked for more words or not.
    for reason in ["token_missing", "token_invalid"] {
        coracle.says(&format!("refused policy=\"default/edge\" rule=\"\" reason=\"{reason}\""));
    }
    let over = until(&coracle, "/limited/", &bearer, 429);
    assert!(over.body.contains("rate_limited"), "{over:?}");
    // Who has no token spends nothing of the limit, and learns nothing of it.
    assert_eq!(get_with(coracle.gateway(), "/limited/", "").status, 401);
}
