use super::*;
use serde_json::json;

fn service() -> Value {
    json!({ "metadata": { "namespace": "shop", "name": "orders" }, "spec": { "clusterIP": "127.96.0.5",
        "selector": { "app": "orders" }, "ports": [{ "name": "http", "port": 80, "targetPort": "web" }] } })
}

fn pod(ready: bool) -> Value {
    json!({ "metadata": { "namespace": "shop", "name": "orders-1-x", "labels": { "app": "orders", "pod-template-hash": "1" },
            "ownerReferences": [{ "kind": "ReplicaSet", "name": "orders-1" }] },
        "spec": { "serviceAccountName": "robot", "containers": [{ "name": "c", "ports": [{ "name": "web", "containerPort": 8080 }] }] },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" },
            "reason": "ContainersNotReady" }] } })
}

fn explanation() -> Value {
    json!({ "protocol": "http", "rule": "shop/orders:80", "ownAnswer": null, "refusals": [],
        "backends": [{ "backend": "shop/orders:80", "weight": 1, "endpoints": [{ "address": "127.0.0.1:1", "inFlight": 0 }],
            "whenEmpty": 503, "circuit": null }] })
}

/// A Service with a ready Pod, which requests reach.
fn good() -> Facts {
    Facts {
        target: Target::Service { namespace: "shop".into(), name: "orders".into(), port: Some("80".into()) },
        request: "GET orders.shop/".into(),
        services: vec![service()],
        pods: vec![pod(true)],
        listener: Some(("service/shop/orders:80".into(), Ok("127.96.0.5:80".into()))),
        explanation: Some(explanation()),
        ..Facts::default()
    }
}

/// The words of what is found, those that break the way first, and `; ` before those that are doubtful.
fn found(facts: &Facts) -> String {
    let report = diagnose(facts);
    let words = |weight| {
        let own = report.findings.iter().filter(|finding| finding.weight == weight);
        own.map(|finding| finding.reason).collect::<Vec<_>>().join(" ")
    };
    assert!(report.findings.iter().all(|finding| !finding.problem.is_empty()), "{report:#?}");
    assert_eq!(report.is_broken(), !words(Weight::Broken).is_empty());
    format!("{}; {}", words(Weight::Broken), words(Weight::Doubtful))
}

fn with(change: impl FnOnce(&mut Facts)) -> Facts {
    let mut facts = good();
    change(&mut facts);
    facts
}

fn target(port: &str) -> Target {
    Target::Service { namespace: "shop".into(), name: "orders".into(), port: Some(port.into()) }
}

#[test]
fn what_works_has_every_step_and_no_findings() {
    let report = diagnose(&good());
    assert_eq!(report.findings, []);
    let steps: Vec<&str> = report.steps.iter().map(|(what, _)| *what).collect();
    assert_eq!(steps, ["service", "listener", "rule", "backend", "pods"]);
}

#[test]
fn each_fault_has_its_name() {
    let denied = json!({ "place": "service/shop/orders", "policy": "shop/only-web", "rule": null, "reason": "access_not_allowed" });
    let refused = json!({ "kind": "HTTPRoute", "metadata": { "namespace": "shop", "name": "r" },
        "spec": { "rules": [{ "backendRefs": [{ "name": "orders", "port": 80 }] }] },
        "status": { "parents": [{ "conditions": [{ "type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound", "message": "no port 81" }] }] } });
    let policy = json!({ "kind": "TrafficPolicy", "metadata": { "namespace": "shop", "name": "p" },
        "spec": { "targetRefs": [{ "kind": "Service", "name": "orders" }] },
        "status": { "ancestors": [{ "conditions": [{ "type": "Accepted", "status": "False", "reason": "Conflicted", "message": "older" }] }] } });
    let cases: Vec<(&str, Facts)> = vec![
        ("NoSuchService; ", with(|facts| facts.services.clear())),
        ("NoSuchPort; ", with(|facts| facts.target = target("8080"))),
        ("; ", with(|facts| facts.target = target("http"))),
        ("NotBound; ", with(|facts| facts.listener = Some(("l".into(), Err("address in use".into()))))),
        ("NoListener; ", with(|facts| facts.listener = None)),
        (
            "; ",
            with(|facts| {
                facts.services[0]["spec"] =
                    json!({ "type": "ExternalName", "externalName": "a.test", "ports": [{ "port": 80 }] });
                (facts.listener, facts.explanation) = (None, None);
            }),
        ),
        ("SelectorMatchesNoPods; ", with(|facts| facts.pods[0]["metadata"]["labels"]["app"] = "order".into())),
        ("NoPodReady; ", with(|facts| facts.pods = vec![pod(false)])),
        ("; SomePodsNotReady", with(|facts| facts.pods.push(pod(false)))),
        ("NoSuchTargetPort; ", with(|facts| facts.services[0]["spec"]["ports"][0]["targetPort"] = "wbe".into())),
        ("; UndeclaredTargetPort", with(|facts| facts.services[0]["spec"]["ports"][0]["targetPort"] = 81.into())),
        ("NoEndpoints; ", with(|facts| facts.services[0]["spec"]["selector"] = Value::Null)),
        ("AccessDenied; ", with(|facts| facts.explanation.as_mut().expect("one")["refusals"] = json!([denied]))),
        (
            "CircuitOpen; ",
            with(|facts| facts.explanation.as_mut().expect("one")["backends"][0]["circuit"] = "open".into()),
        ),
        (
            "NoSuchService; ",
            with(|facts| facts.explanation.as_mut().expect("one")["backends"][0]["backend"] = "shop/gone:80".into()),
        ),
        (
            "BackendNotFound; ",
            with(|facts| facts.explanation.as_mut().expect("one")["backends"][0]["backend"] = "unresolved".into()),
        ),
        ("NotKnown; ", with(|facts| facts.explanation.as_mut().expect("one")["admits"] = "known".into())),
        ("NotKnown; ", with(|facts| facts.explanation.as_mut().expect("one")["admits"] = "certified".into())),
        (
            "NotKnown; NoIdentity",
            with(|facts| {
                facts.explanation.as_mut().expect("one")["admits"] = "known".into();
                facts.caller = Some(Ok(Caller { workload: "shop/web".into(), identity: None }));
            }),
        ),
        (
            "; ",
            with(|facts| {
                facts.explanation.as_mut().expect("one")["admits"] = "known".into();
                facts.caller = Some(Ok(Caller { workload: "shop/web".into(), identity: Some("spiffe://x".into()) }));
            }),
        ),
        ("; Condition", with(|facts| facts.routes = vec![refused])),
        ("; Condition", with(|facts| facts.policies = vec![policy])),
        ("NoSuchCaller; ", with(|facts| facts.caller = Some(Err("no Pod of it".into())))),
        ("; NoIdentity", with(|facts| facts.caller = Some(Ok(Caller { workload: "shop/web".into(), identity: None })))),
    ];
    for (expected, facts) in cases {
        assert_eq!(found(&facts), expected, "{:#?}", diagnose(&facts));
    }
}

/// Facts of a URL with that port from outside, where there is nothing but a Gateway.
fn outside(gateway: &Value, port: u16) -> Facts {
    Facts {
        target: Target::Gateway { host: "a.test".into(), port },
        gateways: vec![gateway.clone()],
        services: Vec::new(),
        pods: Vec::new(),
        listener: None,
        ..good()
    }
}

#[test]
fn a_url_that_nobody_serves_says_what_is_served() {
    let gateway = json!({ "kind": "Gateway", "metadata": { "namespace": "shop", "name": "g" }, "spec": { "listeners": [{ "name": "http", "port": 8080 }] } });
    let at = |port| outside(&gateway, port);
    let report = diagnose(&at(81));
    assert_eq!(report.findings[0].reason, "NoListener");
    assert!(
        report.findings[0].evidence[0].contains("shop/g has a listener http for any host, port 8080"),
        "{report:#?}"
    );
    let route = json!({ "kind": "HTTPRoute", "metadata": { "namespace": "shop", "name": "r" }, "spec": { "hostnames": ["b.test"],
        "rules": [{ "matches": [{ "method": "POST", "path": { "value": "/api" } }] }] }, "status": { "parents": [{}] } });
    let facts = Facts {
        listener: good().listener,
        explanation: Some(
            json!({ "protocol": "http", "rule": null, "ownAnswer": 404, "backends": [], "refusals": [] }),
        ),
        routes: vec![route],
        ..at(80)
    };
    let report = diagnose(&facts);
    assert_eq!(report.findings[0].reason, "NoRoute");
    assert_eq!(report.findings[0].evidence, ["HTTPRoute shop/r matches b.test, POST /api..."]);
}

#[test]
fn what_is_near_is_told() {
    let facts =
        with(|facts| facts.target = Target::Service { namespace: "shop".into(), name: "order".into(), port: None });
    assert_eq!(diagnose(&facts).findings[0].evidence, ["there is shop/orders"]);
    let facts =
        with(|facts| facts.target = Target::Service { namespace: "other".into(), name: "orders".into(), port: None });
    assert!(diagnose(&facts).findings[0].evidence[0].starts_with("there is shop/orders: from another namespace"));
    let facts = with(|facts| facts.services[0]["spec"]["ports"][0]["targetPort"] = 8080.into());
    let facts = Facts { target: target("8080"), ..facts };
    assert_eq!(diagnose(&facts).findings[0].evidence, ["8080 is the port of its Pods; callers use 80"]);
    let mut facts = with(|facts| facts.pods = vec![pod(false)]);
    facts.pods[0]["status"]["containerStatuses"] = json!([{ "name": "c", "restartCount": 1, "state": { "waiting": { "reason": "CrashLoopBackOff" } }, "lastState": { "terminated": { "exitCode": 3 } } }]);
    facts.last_lines.insert("shop/orders-1-x".into(), "no database".into());
    let finding = &diagnose(&facts).findings[0];
    let evidence = finding.evidence.join("\n");
    assert!(
        evidence.contains("exit code 3") && evidence.contains("CrashLoopBackOff") && evidence.contains("no database"),
        "{finding:#?}"
    );
    assert!(finding.next.contains(&"coracle logs orders-1-x -n shop --previous".to_owned()), "{finding:#?}");
}

#[test]
fn targets_are_read_in_every_form() {
    let services = [service()];
    let parse = |words: &str| {
        Target::parse(words, "shop", &services).map(|parsed| {
            let at = match parsed.target {
                Target::Service { namespace, name, port } => format!("{namespace}/{name}:{}", port.unwrap_or_default()),
                Target::Gateway { host, port } => format!("gateway {host}:{port}"),
            };
            format!("{at} {} {}", parsed.host, parsed.path)
        })
    };
    for (words, expected) in [
        ("orders", "shop/orders: orders.shop /"),
        ("orders:http", "shop/orders:http orders.shop /"),
        ("a/orders", "a/orders: orders.a /"),
        ("svc/orders", "shop/orders: orders.shop /"),
        ("http://orders/x?y=1", "shop/orders:80 orders /x?y=1"),
        ("http://orders.shop:81", "shop/orders:81 orders.shop /"),
        ("http://gone.a.svc.cluster.local", "a/gone:80 gone.a.svc.cluster.local /"),
        ("http://127.96.0.5:80/", "shop/orders:80 127.96.0.5 /"),
        ("https://shop.test?q", "gateway shop.test:443 shop.test /?q"),
        ("http://localhost:8080/a", "gateway localhost:8080 localhost /a"),
    ] {
        assert_eq!(parse(words).as_deref(), Ok(expected), "{words}");
    }
    for words in ["", "/x", "a/", "a/b/c", "ftp://x", "http://"] {
        assert!(parse(words).is_err(), "{words:?}");
    }
}

#[test]
fn callers_are_known_by_their_pods() {
    let pods = [pod(true)];
    let known = caller("orders", "shop", &pods, "cluster.local").expect("a workload");
    assert_eq!(
        (known.workload.as_str(), known.identity.as_deref()),
        ("shop/orders", Some("spiffe://cluster.local/ns/shop/sa/robot"))
    );
    assert_eq!(caller("shop/orders-1-x", "default", &pods, "cluster.local"), Ok(known));
    assert!(caller("web", "shop", &pods, "cluster.local").is_err_and(|why| why.contains("there are orders")));
    let mut outside = pod(true);
    outside["metadata"]["labels"]["sidecar.istio.io/inject"] = "false".into();
    assert_eq!(caller("orders", "shop", &[outside], "cluster.local").expect("a workload").identity, None);
}

/// A BackendTLSPolicy for the Service, with what is said about it.
fn tls_policy(section: Option<&str>, conditions: Value) -> Value {
    json!({ "kind": "BackendTLSPolicy", "metadata": { "namespace": "shop", "name": "tls" },
        "spec": { "targetRefs": [{ "group": "", "kind": "Service", "name": "orders", "sectionName": section }],
            "validation": { "hostname": "orders.test" } },
        "status": { "ancestors": [{ "conditions": conditions }] } })
}

#[test]
fn a_faulty_policy_for_tls_is_named_with_what_is_wrong_of_it() {
    let condition = |kind: &str, status: &str, reason: &str, message: &str| json!({ "type": kind, "status": status, "reason": reason, "message": message });
    let missing = "ConfigMap shop/ca does not exist";
    let unresolved = condition("ResolvedRefs", "False", "InvalidCACertificateRef", missing);
    let invalid =
        json!([condition("Accepted", "False", "NoValidCACertificate", "no authority can be used"), unresolved]);
    let conflicted = json!([condition("Accepted", "False", "Conflicted", "BackendTLSPolicy older is for the same")]);
    let partly = json!([condition("Accepted", "True", "Accepted", ""), unresolved]);
    let good =
        json!([condition("Accepted", "True", "Accepted", ""), condition("ResolvedRefs", "True", "ResolvedRefs", "")]);
    for (section, conditions, expected, evidence) in [
        (None, &invalid, "BackendTlsInvalid; ", missing),
        (Some("http"), &invalid, "BackendTlsInvalid; ", missing),
        // For another port.
        (Some("metrics"), &invalid, "; ", ""),
        (None, &conflicted, "; BackendTlsConflicted", "BackendTLSPolicy older"),
        (None, &partly, "; BackendTlsReference", missing),
        (None, &good, "; ", ""),
    ] {
        let facts = with(|facts| facts.policies = vec![tls_policy(section, conditions.clone())]);
        let report = diagnose(&facts);
        assert_eq!(found(&facts), expected, "{report:#?}");
        if let Some(finding) = report.findings.first() {
            assert!(finding.problem.contains("BackendTLSPolicy shop/tls"), "{finding:#?}");
            assert!(finding.evidence.join(" ").contains(evidence), "{finding:#?}");
            assert_eq!(finding.next, ["coracle describe backendtlspolicy/tls -n shop"]);
        }
    }
}

#[test]
fn a_certificate_that_is_not_believed_is_told_from_a_port_that_nobody_opens() {
    let record = |reason: Option<&str>| -> telemetry::Record {
        let mut record = json!({ "time": "2026-01-01T00:00:00Z", "requestId": "r", "traceId": "0", "spanId": "0", "sampled": true,
            "source": "shop/web", "client": "127.0.0.1", "destination": "shop/orders", "scheme": "http", "protocol": "1.1",
            "method": "GET", "host": "orders", "path": "/", "status": 200, "listener": "l", "route": "r", "backend": "b",
            "attempts": 1, "durationMs": 1.0, "headMs": 1.0, "requestBytes": 0, "responseBytes": 0 });
        if let Some(reason) = reason {
            record["status"] = 502.into();
            record["reason"] = "connect_failed".into();
            record["missed"] = json!([{ "upstream": "127.0.0.1:1", "afterMs": 1.0, "reason": reason }]);
        }
        serde_json::from_value(record).expect("a record")
    };
    let name = "no TLS: invalid peer certificate: certificate not valid for name \"orders.test\"";
    let issuer = "no TLS: invalid peer certificate: UnknownIssuer";
    for (records, expected, words) in [
        (vec![record(Some(name))], "BackendCertificate; RecentFailures", "other names than BackendTLSPolicy shop/tls"),
        (vec![record(Some(issuer)), record(None)], "; BackendCertificate RecentFailures", "none of the authorities"),
        (vec![record(Some("connection refused"))], "; RecentFailures", "connect_failed"),
    ] {
        let facts = with(|facts| {
            facts.policies = vec![tls_policy(None, json!([]))];
            facts.records = records;
        });
        let report = diagnose(&facts);
        assert_eq!(found(&facts), expected, "{report:#?}");
        assert!(report.findings[0].problem.contains(words), "{report:#?}");
    }
    // Of calls to what speaks HTTP/1.1 alone it says what to do.
    let mut call = record(Some("it speaks HTTP/1.1 and not HTTP/2"));
    (call.status, call.grpc_status, call.reason) = (200, Some(13), Some("not_http2".into()));
    let facts = with(|facts| facts.records = vec![call]);
    let report = diagnose(&facts);
    assert_eq!(found(&facts), "; RecentFailures", "{report:#?}");
    let [what, whom] = &report.findings[0].evidence[..] else { panic!("{report:#?}") };
    assert!(what.contains("appProtocol: kubernetes.io/h2c"), "{what}");
    assert_eq!(whom, "127.0.0.1:1: it speaks HTTP/1.1 and not HTTP/2");
}

#[test]
fn a_listener_that_is_not_served_says_why_and_others_are_not_told_of() {
    let broken = |name: &str| {
        json!({ "name": name, "conditions": [{ "type": "ResolvedRefs", "status": "False", "message": format!("no Secret for {name}") },
            { "type": "Conflicted", "status": "False", "message": "No conflict" },
            { "type": "Programmed", "status": "False", "message": format!("no Secret for {name}") }] })
    };
    let gateway = json!({ "kind": "Gateway", "metadata": { "namespace": "shop", "name": "g" },
        "spec": { "listeners": [{ "name": "a", "port": 443 }, { "name": "b", "port": 444 }, { "name": "c", "port": 80 }] },
        "status": { "listeners": [broken("a"), broken("b"), { "name": "c", "conditions": [] }] } });
    let at = |port| outside(&gateway, port);
    for port in [443, 8443] {
        let report = diagnose(&at(port));
        assert_eq!(found(&at(port)), "NotServed; ", "{report:#?}");
        assert_eq!(report.findings[0].problem, "listener a of Gateway shop/g is not served");
        assert_eq!(report.findings[0].evidence, ["no Secret for a"]);
    }
    // Where the port is served, what ails another one's listeners and another route's backends is left out.
    let other = json!({ "kind": "HTTPRoute", "metadata": { "namespace": "shop", "name": "r" },
        "spec": { "parentRefs": [{ "name": "g" }], "rules": [{ "backendRefs": [{ "name": "gone", "port": 80 }] }] },
        "status": { "parents": [{ "conditions": [{ "type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound", "message": "x" }] }] } });
    let served = |rule: &str| {
        let mut facts = Facts { listener: good().listener, services: vec![service()], pods: vec![pod(true)], ..at(80) };
        facts.routes = vec![other.clone()];
        facts.explanation.as_mut().expect("one")["rule"] = rule.into();
        facts
    };
    assert_eq!(found(&served("shop/mine/0")), "; ");
    assert_eq!(found(&served("shop/r/0")), "; Condition");
}

#[test]
fn policies_that_govern_the_way_are_steps_of_it() {
    let resiliency = |app: &str| {
        json!({ "kind": "Resiliency", "metadata": { "namespace": "shop", "name": "r" },
            "spec": { "targets": { "apps": { app: { "retry": "x" } } } } })
    };
    let traffic = json!({ "kind": "TrafficPolicy", "metadata": { "namespace": "shop", "name": "p" },
        "spec": { "targetRefs": [{ "kind": "Service", "name": "orders" }] } });
    let report = diagnose(&with(|facts| facts.policies = vec![traffic, resiliency("orders"), resiliency("other")]));
    let steps: Vec<&str> =
        report.steps.iter().filter(|(what, _)| *what == "policy").map(|(_, is)| is.as_str()).collect();
    assert_eq!(steps, ["TrafficPolicy shop/p", "Resiliency shop/r"]);
}

#[test]
fn tls_that_is_handed_on_goes_by_its_server_name() {
    let route = json!({ "kind": "TLSRoute", "metadata": { "namespace": "shop", "name": "t" },
        "spec": { "hostnames": ["db.test"], "rules": [{ "backendRefs": [{ "name": "orders", "port": 80 }] }] },
        "status": { "parents": [{}] } });
    let with = |backends: Value| Facts {
        target: Target::Gateway { host: "db.test".into(), port: 443 },
        explanation: Some(
            json!({ "protocol": "tls", "rule": null, "ownAnswer": null, "refusals": [], "backends": backends }),
        ),
        routes: vec![route.clone()],
        ..good()
    };
    assert_eq!(found(&with(explanation()["backends"].clone())), "; ");
    // Routes of requests have nothing to do with it, whatever is wrong with them.
    let mut facts = with(json!([]));
    facts.routes.push(json!({ "kind": "HTTPRoute", "metadata": { "namespace": "shop", "name": "h" }, "spec": { "parentRefs": [{ "name": "g" }] } }));
    assert_eq!(found(&facts), "NoRoute; ");
    let report = diagnose(&facts);
    assert_eq!(report.findings[0].evidence, ["TLSRoute shop/t matches db.test, every connection"]);
}
