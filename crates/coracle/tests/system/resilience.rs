//! TrafficPolicies with the real binary: what a caller meets when a Service is not well (scenarios 33, 39 to 42).
//!
//! What is to be answered in time has seconds for it, as a busy machine takes them.

use std::net::SocketAddr;

use crate::harness::{Answer, Coracle, eventually, get, manifests, request};
use crate::load::Load;

/// A Service of the fixture.
fn service(name: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: http, port: 8080, targetPort: http}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 60
      containers: [{{name: {name}, image: 'fixture:1', ports: [{{name: http, containerPort: 8080}}]}}]
---
"
    )
}

/// A Gateway with a route to each of these Services, by the first segment of the path, which is taken off.
fn edge(names: &[&str]) -> String {
    let mut text = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: coracle, listeners: [{name: http, protocol: HTTP, port: 8080}]}
---
"
    .to_owned();
    for name in names {
        text += &format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}}}
spec:
  parentRefs: [{{name: edge}}]
  rules:
  - matches: [{{path: {{value: /{name}}}}}]
    filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /}}}}}}]
    backendRefs: [{{name: {name}, port: 8080}}]
---
"
        );
    }
    text
}

fn policy(service: &str, rest: &str) -> String {
    format!(
        "apiVersion: mesh.coracle.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: {service}}}
spec:
  targetRefs: [{{kind: Service, name: {service}}}]
  {rest}
---
"
    )
}

/// Waits until a policy says that it is followed.
fn followed(coracle: &Coracle, name: &str) {
    eventually(&format!("the policy {name} is followed"), || {
        let object = coracle.get(&[&format!("trafficpolicy/{name}")]);
        let condition = &object["status"]["ancestors"][0]["conditions"][0];
        let now = condition["observedGeneration"] == object["metadata"]["generation"] && condition["status"] == "True";
        if now { Ok(()) } else { Err(object["status"].to_string()) }
    });
}

fn ask(at: SocketAddr, path: &str) -> Answer {
    get(at, path).expect("an answer")
}

/// Scenario 39: half of ten calls fail, the breaker opens, callers fail fast, and it closes on recovery.
#[test]
fn a_failing_service_is_left_alone_until_it_is_well() {
    let text = [service("billing"), edge(&["billing"]), policy("billing", "circuitBreaker: {openFor: 10s}")].concat();
    let directory = manifests(&[("app.yaml", &text)]);
    let coracle = Coracle::up(directory.path());
    followed(&coracle, "billing");
    let at = coracle.gateway();
    assert_eq!(ask(at, "/billing/fail?500").status, 200);
    let mut refused = eventually("the circuit opens", || {
        let answer = ask(at, "/billing/");
        if answer.status == 503 { Ok(answer) } else { Err(answer.status.to_string()) }
    });
    assert!(refused.body.contains("circuit_open"), "{}", refused.body);
    let seconds: Option<u64> = refused.header("retry-after").and_then(|seconds| seconds.parse().ok());
    assert!(seconds.is_some_and(|seconds| (1..=10).contains(&seconds)), "{refused:?}");
    // While it stays open, nothing reaches the Service; what does get there afterwards are probes, which fail and open it again.
    for _ in 0..50 {
        refused = ask(at, "/billing/");
        assert!([500, 503].contains(&refused.status), "{}", refused.status);
    }
    let heal = || {
        let answer = ask(at, "/billing/heal");
        if answer.status == 200 { Ok(answer.body) } else { Err(answer.status.to_string()) }
    };
    let asked: u64 = eventually("a probe gets through", heal).parse().expect("a number");
    assert!(asked < 40, "{asked} of more than 60 calls reached a Service that failed");
    eventually("the circuit closes", || {
        let good = (0..10).filter(|_| ask(at, "/billing/").status == 200).count();
        if good == 10 { Ok(()) } else { Err(format!("{good} of 10")) }
    });
}

/// Scenario 40: a provider that all calls go to hangs. Whoever asks for it learns so at once, nothing piles up before it, and
/// those who do not need it notice nothing. What twenty minutes of that come to is tested in virtual time, in the proxy.
#[test]
fn a_provider_that_hangs_exhausts_nobody() {
    let rest = "timeouts: {perTry: 4s}
  circuitBreaker: {openFor: 1h}
  concurrency: {limit: 4, queue: 0}";
    let text = [service("own"), service("provider"), edge(&["own", "provider"]), policy("provider", rest)].concat();
    let directory = manifests(&[("app.yaml", &text)]);
    let coracle = Coracle::up(directory.path());
    followed(&coracle, "provider");
    let at = coracle.gateway();
    assert_eq!(ask(at, "/own/via?provider/").status, 200);
    assert_eq!(ask(at, "/provider/hang").body, "from now on silent");
    let flood = Load::start(at, "/own/via?provider/", 8);
    let refused = eventually("the circuit opens", || {
        let answer = ask(at, "/own/via?provider/");
        if answer.body.contains("circuit_open") { Ok(answer) } else { Err(answer.body) }
    });
    assert_eq!(refused.status, 503);
    for _ in 0..100 {
        assert_eq!(ask(at, "/own/").status, 200);
        // Refused at once: by the circuit, or because as many as there may be are just being refused by it.
        let refused = ask(at, "/own/via?provider/");
        assert!(["circuit_open", "queue_full"].iter().any(|reason| refused.body.contains(reason)), "{refused:?}");
    }
    let seen = flood.stop();
    assert!(seen.answers > 20 && seen.failures == seen.answers, "{seen:?}");
    assert!(seen.first_failures.iter().all(|why| why == "status 503" || why == "status 504"), "{seen:?}");
}

/// Scenario 41: retries after timeouts make one order, exactly once, and stay within their budget.
#[test]
fn an_order_that_is_sent_again_is_one_order() {
    let rest = "timeouts: {perTry: 4s}
  retries: {attempts: 3, budget: {percent: 0, minPerSecond: 1, interval: 5s}}";
    let text = [service("orders"), edge(&["orders"]), policy("orders", rest)].concat();
    let directory = manifests(&[("app.yaml", &text)]);
    let coracle = Coracle::up(directory.path());
    followed(&coracle, "orders");
    let at = coracle.gateway();
    // The order is kept at once and its answer comes too late; the second try with the same key finds it. Each call has a key of its own.
    let answer = request(at, "POST", "/orders/order?12000", "{\"item\": 1}").expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let orders = ask(at, "/orders/orders").body;
    assert_eq!(orders, "1 2", "one order of two tries");
    // Without an end to the slowness the budget is what bounds the tries: five in five seconds, and all want another at once.
    let late = move || request(at, "POST", "/orders/order?8000", "{}").expect("an answer").status;
    let all: Vec<_> = (0..12).map(|_| std::thread::spawn(late)).collect();
    let statuses: Vec<u16> = all.into_iter().map(|one| one.join().expect("no panic")).collect();
    let orders = ask(at, "/orders/orders").body;
    let counts: Vec<u64> = orders.split(' ').map(|count| count.parse().expect("a number")).collect();
    assert_eq!(counts[0], 13, "{statuses:?}: each is kept once");
    let again = counts[1] - counts[0];
    assert!(statuses.contains(&504) && again <= 12, "{statuses:?}, {again} tries beside the first");
}

/// Scenario 42: C hangs; A and B, which are asked by the same callers over the same gateway, are unaffected.
#[test]
fn one_service_that_hangs_takes_no_other_with_it() {
    let names = ["a", "b", "c"];
    let services: String = names.iter().map(|name| service(name)).collect();
    let rest = "concurrency: {limit: 4, queue: 4, maxWait: 200ms}\n  timeouts: {request: 5s}";
    let text = [services, edge(&names), policy("c", rest)].concat();
    let directory = manifests(&[("app.yaml", &text)]);
    let coracle = Coracle::up(directory.path());
    followed(&coracle, "c");
    let at = coracle.gateway();
    assert_eq!(ask(at, "/c/hang").body, "from now on silent");
    let flood = Load::start(at, "/c/", 32);
    eventually("C is full", || {
        let answer = ask(at, "/c/");
        if answer.body.contains("queue_") { Ok(()) } else { Err(answer.body) }
    });
    let (a, b) = (Load::start(at, "/a/", 2), Load::start(at, "/b/", 2));
    for _ in 0..200 {
        assert_eq!((ask(at, "/a/").status, ask(at, "/b/").status), (200, 200));
    }
    for load in [a, b] {
        let seen = load.stop();
        assert_eq!(seen.failures, 0, "{seen:?}");
        assert!(seen.answers > 20, "{seen:?}");
    }
    let seen = flood.stop();
    assert_eq!(seen.failures, seen.answers, "nothing of C is answered well");
    assert!(seen.first_failures.iter().all(|why| why == "status 503" || why == "status 504"), "{seen:?}");
}

/// Scenario 33: a path is strangled: 5 % go to the new Service; when it fails, one field brings all back to the old one.
#[test]
fn a_share_of_a_path_goes_to_the_new_service_and_back_by_one_field() {
    let route = |weight: u32| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: catalogue}}
spec:
  parentRefs: [{{name: edge}}]
  rules:
  - backendRefs:
    - {{name: monolith, port: 8080, weight: 95}}
    - {{name: catalogue, port: 8080, weight: {weight}}}
"
        )
    };
    let text = [service("monolith"), service("catalogue"), edge(&["catalogue"])].concat();
    let control = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: control}
spec:
  parentRefs: [{name: edge}]
  rules: [{matches: [{path: {value: /fail}}], backendRefs: [{name: catalogue, port: 8080}]}]
";
    let text = text.split("kind: HTTPRoute").next().expect("a first part").trim_end().to_owned();
    let text = text.trim_end_matches("apiVersion: gateway.networking.k8s.io/v1").to_owned() + control;
    let directory = manifests(&[("app.yaml", &text), ("route.yaml", &route(5))]);
    let coracle = Coracle::up(directory.path());
    let at = coracle.gateway();
    let share = |of: &str| (0..600).filter(|_| ask(at, "/").body.starts_with(of)).count();
    let new = share("catalogue");
    // Outside of that once in a hundred thousand million runs.
    assert!((2..=90).contains(&new), "{new} of 600 went to the new Service, not about 30");
    assert_eq!(ask(at, "/fail?500").status, 200);
    eventually("errors go up", || {
        let bad = (0..200).filter(|_| ask(at, "/").status == 500).count();
        if bad > 0 { Ok(()) } else { Err("none in 200".to_owned()) }
    });
    let file = directory.path().join("route.yaml");
    std::fs::write(&file, route(0)).expect("a writable directory");
    coracle.ok(&["apply", "-f", file.to_str().expect("UTF-8")]);
    eventually("all go to the old Service", || {
        let bad = (0..100).filter(|_| ask(at, "/").status != 200).count();
        if bad == 0 { Ok(()) } else { Err(format!("{bad} of 100 failed")) }
    });
    assert_eq!(share("monolith"), 600);
}
