use super::*;
use crate::defaults;
use serde_json::json;

fn merged(mut base: Value, change: &Value) -> Value {
    json_patch::merge(&mut base, change);
    base
}

fn valid(kind: &str) -> (&'static str, Value) {
    let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let (api_version, rest) = match kind {
        "Pod" => ("v1", json!({"spec": template["spec"]})),
        "Deployment" | "ReplicaSet" | "StatefulSet" => {
            ("apps/v1", json!({"spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template}}))
        }
        "Job" => {
            ("batch/v1", json!({"spec": {"template": merged(template, &json!({"spec": {"restartPolicy": "Never"}}))}}))
        }
        "Service" => ("v1", json!({"spec": {"ports": [{"port": 80}]}})),
        "EndpointSlice" => (
            "discovery.k8s.io/v1",
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.1"]}], "ports": [{"port": 1}]}),
        ),
        _ => ("v1", json!({})),
    };
    let mut obj =
        merged(rest, &json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x", "namespace": "n"}}));
    defaults::apply(api_version, kind, &mut obj);
    (api_version, obj)
}

fn messages(wrong: &[FieldError]) -> Vec<String> {
    wrong.iter().map(ToString::to_string).collect()
}

#[test]
fn good_objects_are_good() {
    for kind in
        ["Pod", "Deployment", "ReplicaSet", "StatefulSet", "Job", "Service", "EndpointSlice", "ConfigMap", "Secret"]
    {
        let (api_version, obj) = valid(kind);
        assert_eq!(messages(&create(api_version, kind, &obj)), Vec::<String>::new(), "{kind}");
        assert_eq!(messages(&update(api_version, kind, &obj, &obj)), Vec::<String>::new(), "{kind}");
    }
}

/// As kube-apiserver 1.33 takes it; it looks at no mounts of a StatefulSet at all.
#[test]
fn a_stateful_sets_pods_mount_its_claims() {
    let mounting = |volume: &str| {
        let container = json!({"name": "c", "image": "i", "terminationMessagePolicy": "File",
            "volumeMounts": [{"name": volume, "mountPath": "/data"}]});
        let (api_version, set) = valid("StatefulSet");
        let set = merged(
            set,
            &json!({"spec": {"template": {"spec": {"containers": [container]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]}}),
        );
        messages(&create(api_version, "StatefulSet", &set))
    };
    assert_eq!(mounting("data"), Vec::<String>::new());
    assert_eq!(
        mounting("date"),
        ["spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"date\""],
        "a slip is still found"
    );
}

#[test]
fn bad_objects_are_named() {
    let container = |change: Value| {
        let base = json!({"name": "c", "image": "i", "terminationMessagePolicy": "File"});
        json!({"spec": {"containers": [merged(base, &change)]}})
    };
    for (kind, change, wanted) in [
        (
            "Pod",
            json!({"metadata": {"name": "A"}}),
            "metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of",
        ),
        ("Pod", json!({"metadata": {"name": null}}), "metadata.name: Required value: name or generateName is required"),
        ("Pod", json!({"metadata": {"namespace": null}}), "metadata.namespace: Required value"),
        (
            "Pod",
            json!({"metadata": {"labels": {"a b": "c"}}}),
            "metadata.labels: Invalid value: \"a b\": name part must consist of",
        ),
        (
            "Pod",
            json!({"metadata": {"labels": {"a": "c d"}}}),
            "metadata.labels: Invalid value: \"c d\": a valid label must be",
        ),
        (
            "Pod",
            json!({"metadata": {"annotations": {"a": "x".repeat(262_144)}}}),
            "metadata.annotations: Too long: may not be more than 262144 bytes",
        ),
        ("Pod", json!({"spec": {"containers": []}}), "spec.containers: Required value"),
        (
            "Pod",
            json!({"spec": {"restartPolicy": "Sometimes"}}),
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
        ),
        ("Pod", container(json!({"image": null})), "spec.containers[0].image: Required value"),
        (
            "Pod",
            container(json!({"name": "A_b"})),
            "spec.containers[0].name: Invalid value: \"A_b\": a lowercase RFC 1123 label must consist of",
        ),
        (
            "Pod",
            container(json!({"ports": [{"protocol": "TCP"}]})),
            "spec.containers[0].ports[0].containerPort: Required value",
        ),
        (
            "Pod",
            container(json!({"ports": [{"containerPort": 70000, "protocol": "TCP"}]})),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            "Pod",
            container(json!({"ports": [{"containerPort": 1, "protocol": "ICMP"}]})),
            "spec.containers[0].ports[0].protocol: Unsupported value: \"ICMP\"",
        ),
        (
            "Pod",
            container(
                json!({"ports": [{"name": "a", "containerPort": 1, "protocol": "TCP"}, {"name": "a", "containerPort": 2, "protocol": "TCP"}]}),
            ),
            "spec.containers[0].ports[1].name: Duplicate value: \"a\"",
        ),
        ("Pod", container(json!({"env": [{"name": ""}]})), "spec.containers[0].env[0].name: Required value"),
        (
            "Pod",
            container(
                json!({"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
            ),
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        ),
        (
            "Pod",
            container(json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.odd"}}}]})),
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"spec.odd\"",
        ),
        (
            "Pod",
            container(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]})),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            "Pod",
            container(json!({"livenessProbe": {"periodSeconds": 1}})),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            "Pod",
            container(json!({"livenessProbe": {"successThreshold": 2, "exec": {"command": ["a"]}}})),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            "Pod",
            container(json!({"readinessProbe": {"httpGet": {"path": "/", "port": 0}}})),
            "spec.containers[0].readinessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            "Pod",
            container(json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}})),
            "must be less than or equal to cpu limit of 1",
        ),
        (
            "Pod",
            json!({"spec": {"volumes": [{"name": "v"}, {"name": "v", "emptyDir": {}}]}}),
            "spec.volumes[0]: Required value: must specify a volume type",
        ),
        (
            "Pod",
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]}}),
            "spec.volumes[1].name: Duplicate value: \"v\"",
        ),
        (
            "Deployment",
            json!({"spec": {"replicas": -1}}),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        ("Deployment", json!({"spec": {"selector": null}}), "spec.selector: Required value"),
        (
            "Deployment",
            json!({"spec": {"selector": {"matchLabels": {"app": "b"}}}}),
            "spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template `labels`",
        ),
        (
            "Deployment",
            json!({"spec": {"template": {"spec": {"restartPolicy": "Never"}}}}),
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ),
        (
            "Deployment",
            json!({"spec": {"strategy": {"type": "Recreate"}}}),
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        ),
        (
            "Deployment",
            json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}}),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
        ),
        (
            "Deployment",
            json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": "x"}}}}),
            "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"x\": a valid percent string",
        ),
        (
            "Job",
            json!({"spec": {"template": {"spec": {"restartPolicy": "Always"}}}}),
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
        ),
        (
            "Job",
            json!({"spec": {"completionMode": "Indexed", "completions": null}}),
            "spec.completions: Required value: when completion mode is Indexed",
        ),
        (
            "Service",
            json!({"metadata": {"name": "0a"}}),
            "metadata.name: Invalid value: \"0a\": a DNS-1035 label must consist of",
        ),
        ("Service", json!({"spec": {"ports": []}}), "spec.ports: Required value"),
        (
            "Service",
            json!({"spec": {"ports": [{"port": 1, "protocol": "TCP"}, {"port": 2, "protocol": "TCP"}]}}),
            "spec.ports[0].name: Required value",
        ),
        (
            "Service",
            json!({"spec": {"type": "Odd"}}),
            "spec.type: Unsupported value: \"Odd\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ),
        (
            "Service",
            json!({"spec": {"clusterIP": "nonsense"}}),
            "spec.clusterIPs[0]: Invalid value: \"nonsense\": must be a valid IP address",
        ),
        (
            "ConfigMap",
            json!({"data": {"a b": "x"}}),
            "data[a b]: Invalid value: \"a b\": a valid config key must consist of",
        ),
        (
            "ConfigMap",
            json!({"data": {"a": "x"}, "binaryData": {"a": "eA=="}}),
            "binaryData[a]: Invalid value: \"a\": duplicate of key present in data",
        ),
        ("ConfigMap", json!({"data": {"a": "x".repeat(1_048_577)}}), "Too long: may not be more than 1048576 bytes"),
        ("Secret", json!({"data": {"a": "!"}}), "data[a]: Invalid value: \"<omitted>\": illegal base64 data"),
        ("Secret", json!({"type": "kubernetes.io/tls"}), "data[tls.crt]: Required value"),
        (
            "EndpointSlice",
            json!({"endpoints": [{"addresses": ["::1"]}]}),
            "endpoints[0].addresses[0]: Invalid value: \"::1\": must be a valid IPv4 address",
        ),
    ] {
        let (api_version, base) = valid(kind);
        let got = messages(&create(api_version, kind, &merged(base, &change)));
        assert!(
            got.iter().any(|one| one.contains(wanted)),
            "{kind} {:.200}\n  {got:#?}\n  lacks {wanted}",
            change.to_string()
        );
    }
    let namespace = json!({"metadata": {"name": "a.b", "namespace": "x"}});
    let got = messages(&create("v1", "Namespace", &namespace));
    assert!(got.iter().any(|one| one.contains("metadata.namespace: Forbidden: not allowed on this type")), "{got:?}");
    assert!(got.iter().any(|one| one.contains("lowercase RFC 1123 label")), "{got:?}");
}

#[test]
fn changes() {
    for (kind, base, change, wanted) in [
        (
            "Pod",
            json!({}),
            json!({"spec": {"containers": [{"name": "c", "image": "j", "imagePullPolicy": "Always", "resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}]}}),
            None,
        ),
        (
            "Pod",
            json!({}),
            json!({"spec": {"hostname": "h"}}),
            Some("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`"),
        ),
        ("Pod", json!({}), json!({"spec": {"tolerations": [{"key": "a"}]}}), None),
        (
            "Pod",
            json!({"spec": {"tolerations": [{"key": "a"}]}}),
            json!({"spec": {"tolerations": null}}),
            Some("spec.tolerations: Forbidden: existing toleration can not be modified"),
        ),
        ("Pod", json!({}), json!({"spec": {"activeDeadlineSeconds": 5}}), None),
        (
            "Pod",
            json!({"spec": {"activeDeadlineSeconds": 5}}),
            json!({"spec": {"activeDeadlineSeconds": 6}}),
            Some("spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"),
        ),
        ("Pod", json!({"spec": {"nodeName": "a"}}), json!({"spec": {"nodeName": "b"}}), Some("spec.nodeName differs")),
        ("Deployment", json!({}), json!({"spec": {"replicas": 3}}), None),
        (
            "Deployment",
            json!({"spec": {"template": {"metadata": {"labels": {"b": "c"}}}}}),
            json!({"spec": {"selector": {"matchLabels": {"b": "c"}}}}),
            Some("spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"a\",\"b\":\"c\"}}: field is immutable"),
        ),
        ("Job", json!({}), json!({"spec": {"parallelism": 3}}), None),
        (
            "Job",
            json!({}),
            json!({"spec": {"completions": 3}}),
            Some("spec.completions: Invalid value: 3: field is immutable"),
        ),
        (
            "Job",
            json!({}),
            json!({"spec": {"template": {"spec": {"hostname": "x"}}}}),
            Some("spec.template: Invalid value:"),
        ),
        ("StatefulSet", json!({}), json!({"spec": {"replicas": 3}}), None),
        (
            "StatefulSet",
            json!({}),
            json!({"spec": {"serviceName": "x"}}),
            Some("spec: Forbidden: updates to statefulset spec for fields other than 'replicas'"),
        ),
        (
            "Service",
            json!({"spec": {"clusterIP": "127.96.0.2"}}),
            json!({"spec": {"clusterIP": "127.96.0.3"}}),
            Some("spec.clusterIPs[0]: Invalid value: [\"127.96.0.3\"]: may not change once set"),
        ),
        (
            "ConfigMap",
            json!({"immutable": true, "data": {"a": "b"}}),
            json!({"data": {"a": "c"}}),
            Some("data: Forbidden: field is immutable when `immutable` is set"),
        ),
        (
            "ConfigMap",
            json!({"immutable": true}),
            json!({"immutable": false}),
            Some("immutable: Forbidden: field is immutable when `immutable` is set"),
        ),
        ("ConfigMap", json!({"data": {"a": "b"}}), json!({"data": {"a": "c"}, "immutable": true}), None),
        ("Secret", json!({}), json!({"type": "other"}), Some("type: Invalid value: \"other\": field is immutable")),
        (
            "ConfigMap",
            json!({"metadata": {"uid": "u"}}),
            json!({"metadata": {"uid": "v"}}),
            Some("metadata.uid: Invalid value: \"v\": field is immutable"),
        ),
        (
            "ConfigMap",
            json!({"metadata": {"deletionTimestamp": "x"}}),
            json!({"metadata": {"finalizers": ["a.b/c"]}}),
            Some("metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted"),
        ),
    ] {
        let (api_version, obj) = valid(kind);
        let old = merged(obj, &base);
        let got = messages(&update(api_version, kind, &old, &merged(old.clone(), &change)));
        match wanted {
            None => assert_eq!(got, Vec::<String>::new(), "{kind} {change}"),
            Some(wanted) => assert!(got.iter().any(|one| one.contains(wanted)), "{kind} {change}\n  {got:#?}"),
        }
    }
}

#[test]
fn quantities() {
    for (text, wanted) in [
        (json!("1"), Some(1.0)),
        (json!(2), Some(2.0)),
        (json!("100m"), Some(0.1)),
        (json!("1Gi"), Some(1_073_741_824.0)),
        (json!("1.5k"), Some(1500.0)),
        (json!("1e3"), Some(1000.0)),
        (json!("-1"), Some(-1.0)),
        (json!("x"), None),
        (json!("1Q"), None),
        (json!(""), None),
    ] {
        assert_eq!(super::container::quantity(&text), wanted, "{text}");
    }
}

/// Whatever JSON a client sends, these functions answer.
#[test]
fn odd_shapes_do_not_panic() {
    let odd =
        [json!(null), json!(1), json!("x"), json!([]), json!([1, "x", null, [], {}]), json!({}), json!({"a": []})];
    let pointers = [
        "",
        "/metadata",
        "/spec",
        "/status",
        "/data",
        "/metadata/labels",
        "/metadata/ownerReferences",
        "/spec/template",
        "/spec/template/metadata",
        "/spec/template/spec",
        "/spec/containers",
        "/spec/containers/0",
        "/spec/template/spec/containers/0",
        "/spec/containers/0/resources",
        "/spec/strategy",
        "/spec/selector",
        "/spec/ports",
        "/spec/ports/0",
        "/spec/updateStrategy",
        "/spec/volumes",
        "/source",
        "/roleRef",
        "/spec/names",
        "/spec/behavior",
        "/spec/jobTemplate",
    ];
    for kind in kinds::all() {
        for pointer in pointers {
            for value in &odd {
                let (_, mut obj) = valid(kind.kind);
                for part in ["volumes", "behavior", "updateStrategy", "strategy", "jobTemplate", "names"] {
                    if obj["spec"].is_object() && obj["spec"][part].is_null() {
                        obj["spec"][part] = json!({});
                    }
                }
                let Some(place) = obj.pointer_mut(pointer) else { continue };
                *place = value.clone();
                let api_version = kind.api_version();
                defaults::apply(&api_version, kind.kind, &mut obj);
                let wrong = create(&api_version, kind.kind, &obj);
                assert!(wrong.len() < 1000);
                update(&api_version, kind.kind, &obj, &obj);
                let mut created = obj.clone();
                crate::meta::prepare_create(
                    &api_version,
                    kind.kind,
                    &mut created,
                    &crate::meta::Creation { uid: "u", now: "t", has_status: true },
                );
                crate::meta::complete_create(&api_version, kind.kind, &mut created, "u");
                crate::meta::prepare_update(&api_version, kind.kind, &created, &mut obj, true);
                crate::meta::prepare_status_update(&api_version, kind.kind, &created, &mut obj);
            }
        }
    }
}

#[test]
fn roles_and_bindings() {
    let role = |kind: &str, rule: Value| {
        let mut role = json!({ "metadata": { "name": "a" }, "rules": [rule] });
        if kind == "Role" {
            role["metadata"]["namespace"] = "x".into();
        }
        let wrong = super::create("rbac.authorization.k8s.io/v1", kind, &role);
        wrong.into_iter().map(|error| error.path).collect::<Vec<_>>()
    };
    let good = json!({ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] });
    assert_eq!(role("Role", good.clone()), Vec::<String>::new());
    assert_eq!(role("ClusterRole", json!({ "nonResourceURLs": ["/x"], "verbs": ["get"] })), Vec::<String>::new());
    assert_eq!(role("Role", json!({ "nonResourceURLs": ["/x"], "verbs": ["get"] })), ["rules[0].nonResourceURLs"]);
    assert_eq!(role("ClusterRole", json!({})), ["rules[0].verbs", "rules[0].apiGroups", "rules[0].resources"]);
    let binding = |kind: &str, reference: Value, subject: Value| {
        let mut binding = json!({ "metadata": { "name": "a" }, "roleRef": reference, "subjects": [subject] });
        if kind == "RoleBinding" {
            binding["metadata"]["namespace"] = "x".into();
        }
        let wrong = super::create("rbac.authorization.k8s.io/v1", kind, &binding);
        wrong.into_iter().map(|error| error.path).collect::<Vec<_>>()
    };
    let group = "rbac.authorization.k8s.io";
    let to = |kind: &str| json!({ "apiGroup": group, "kind": kind, "name": "r" });
    let user = json!({ "apiGroup": group, "kind": "User", "name": "u" });
    let account = json!({ "kind": "ServiceAccount", "name": "u" });
    for (kind, reference, subject, expected) in [
        ("RoleBinding", to("Role"), user.clone(), &[][..]),
        ("RoleBinding", to("Role"), account.clone(), &[]),
        ("ClusterRoleBinding", to("ClusterRole"), account, &["subjects[0].namespace"]),
        ("ClusterRoleBinding", to("Role"), user.clone(), &["roleRef.kind"]),
        ("RoleBinding", json!({ "kind": "Role" }), user, &["roleRef.apiGroup", "roleRef.name"]),
        ("RoleBinding", to("Role"), json!({ "kind": "Robot", "name": "x" }), &["subjects[0].kind"]),
        (
            "RoleBinding",
            to("Role"),
            json!({ "kind": "User", "name": "" }),
            &["subjects[0].name", "subjects[0].apiGroup"],
        ),
    ] {
        assert_eq!(binding(kind, reference, subject), expected, "{kind}");
    }
}
