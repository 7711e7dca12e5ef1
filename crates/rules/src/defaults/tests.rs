use super::*;

fn defaulted(api_version: &str, kind: &str, mut obj: Value) -> Value {
    apply(api_version, kind, &mut obj);
    let once = obj.clone();
    apply(api_version, kind, &mut obj);
    assert_eq!(once, obj, "defaults must be stable for {kind}");
    obj
}

#[test]
fn a_deployment_is_complete() {
    let deployment = defaulted(
        "apps/v1",
        "Deployment",
        json!({"spec": {"template": {"spec": {"containers": [{
            "name": "a", "image": "x", "ports": [{"containerPort": 80}],
            "readinessProbe": {"httpGet": {"port": 80}},
            "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
        }], "volumes": [{"name": "v", "configMap": {"name": "c"}}, {"name": "e"}]}}}}),
    );
    assert_eq!(
        deployment,
        json!({"spec": {
            "replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {"spec": {
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
                "securityContext": {}, "terminationGracePeriodSeconds": 30,
                "containers": [{
                    "name": "a", "image": "x", "imagePullPolicy": "Always", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "readinessProbe": {
                        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3
                    },
                    "env": [{"name": "IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}]
                }],
                "volumes": [{"name": "v", "configMap": {"name": "c", "defaultMode": 420}}, {"name": "e", "emptyDir": {}}]
            }}
        }})
    );
}

#[test]
fn parts() {
    for (api_version, kind, given, pointer, wanted) in [
        (
            "v1",
            "Pod",
            json!({"spec": {"containers": [{"image": "a:1"}]}}),
            "/spec/containers/0/imagePullPolicy",
            json!("IfNotPresent"),
        ),
        (
            "v1",
            "Pod",
            json!({"spec": {"containers": [{"image": "a:latest"}]}}),
            "/spec/containers/0/imagePullPolicy",
            json!("Always"),
        ),
        (
            "v1",
            "Pod",
            json!({"spec": {"containers": [{"image": "host:5000/a"}]}}),
            "/spec/containers/0/imagePullPolicy",
            json!("Always"),
        ),
        (
            "v1",
            "Pod",
            json!({"spec": {"containers": [{"image": "a@sha256:00"}]}}),
            "/spec/containers/0/imagePullPolicy",
            json!("IfNotPresent"),
        ),
        (
            "v1",
            "Pod",
            json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "1"}}}]}}),
            "/spec/containers/0/resources/requests",
            json!({"cpu": "1"}),
        ),
        (
            "v1",
            "Pod",
            json!({"spec": {"serviceAccountName": "s", "containers": []}}),
            "/spec/serviceAccount",
            json!("s"),
        ),
        ("v1", "Pod", json!({"spec": {"containers": []}}), "/spec/enableServiceLinks", json!(true)),
        (
            "v1",
            "Service",
            json!({"spec": {"ports": [{"port": 80}]}}),
            "/spec/ports/0",
            json!({"port": 80, "protocol": "TCP", "targetPort": 80}),
        ),
        (
            "v1",
            "Service",
            json!({"spec": {"ports": [{"port": 80, "targetPort": "web"}]}}),
            "/spec/ports/0/targetPort",
            json!("web"),
        ),
        (
            "v1",
            "Service",
            json!({"spec": {}}),
            "/spec",
            json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster"}),
        ),
        (
            "v1",
            "Service",
            json!({"spec": {"type": "ExternalName"}}),
            "/spec",
            json!({"type": "ExternalName", "sessionAffinity": "None"}),
        ),
        ("v1", "Secret", json!({}), "/type", json!("Opaque")),
        (
            "v1",
            "Namespace",
            json!({"metadata": {"name": "n"}}),
            "/metadata/labels",
            json!({"kubernetes.io/metadata.name": "n"}),
        ),
        (
            "apps/v1",
            "Deployment",
            json!({"spec": {"strategy": {"type": "Recreate"}}}),
            "/spec/strategy",
            json!({"type": "Recreate"}),
        ),
        ("apps/v1", "ReplicaSet", json!({"spec": {"replicas": 0}}), "/spec/replicas", json!(0)),
        (
            "apps/v1",
            "StatefulSet",
            json!({"spec": {}}),
            "/spec/updateStrategy",
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}),
        ),
        (
            "batch/v1",
            "Job",
            json!({"spec": {}}),
            "/spec",
            json!({"completions": 1, "parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": false, "manualSelector": false, "podReplacementPolicy": "TerminatingOrFailed"}),
        ),
        ("batch/v1", "Job", json!({"spec": {"parallelism": 2}}), "/spec/completions", Value::Null),
        (
            "batch/v1",
            "CronJob",
            json!({"spec": {}}),
            "/spec",
            json!({"concurrencyPolicy": "Allow", "suspend": false, "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1}),
        ),
        (
            "discovery.k8s.io/v1",
            "EndpointSlice",
            json!({"ports": [{"port": 1}]}),
            "/ports/0",
            json!({"name": "", "port": 1, "protocol": "TCP"}),
        ),
        (
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            json!({"subjects": [{"kind": "User"}, {"kind": "ServiceAccount"}]}),
            "/subjects",
            json!([{"kind": "User", "apiGroup": "rbac.authorization.k8s.io"}, {"kind": "ServiceAccount"}]),
        ),
        (
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            json!({"spec": {"names": {"kind": "Thing"}}}),
            "/spec",
            json!({"names": {"kind": "Thing", "singular": "thing", "listKind": "ThingList"}, "conversion": {"strategy": "None"}}),
        ),
        // As kube-apiserver 1.33 answers.
        (
            "v1",
            "LimitRange",
            json!({"spec": {"limits": [{"type": "Container", "default": {"cpu": "1"}, "min": {"memory": "1Mi"}}]}}),
            "/spec/limits/0/defaultRequest",
            json!({"cpu": "1", "memory": "1Mi"}),
        ),
        (
            "networking.k8s.io/v1",
            "IngressClass",
            json!({"spec": {"controller": "x", "parameters": {"kind": "P", "name": "p"}}}),
            "/spec/parameters/scope",
            json!("Cluster"),
        ),
        (
            "admissionregistration.k8s.io/v1",
            "ValidatingWebhookConfiguration",
            json!({"webhooks": [{"name": "a", "clientConfig": {"service": {"name": "s"}}, "rules": [{"operations": ["CREATE"]}]}]}),
            "/webhooks/0",
            json!({"name": "a", "clientConfig": {"service": {"name": "s", "port": 443}},
                "rules": [{"operations": ["CREATE"], "scope": "*"}], "failurePolicy": "Fail", "matchPolicy": "Equivalent",
                "namespaceSelector": {}, "objectSelector": {}, "timeoutSeconds": 10}),
        ),
        (
            "admissionregistration.k8s.io/v1",
            "MutatingWebhookConfiguration",
            json!({"webhooks": [{"name": "a", "failurePolicy": "Ignore"}]}),
            "/webhooks/0",
            json!({"name": "a", "failurePolicy": "Ignore", "matchPolicy": "Equivalent", "namespaceSelector": {},
                "objectSelector": {}, "timeoutSeconds": 10, "reinvocationPolicy": "Never"}),
        ),
        (
            "admissionregistration.k8s.io/v1",
            "ValidatingAdmissionPolicy",
            json!({"spec": {"matchConstraints": {"resourceRules": [{"resources": ["things"]}]}}}),
            "/spec",
            json!({"failurePolicy": "Fail", "matchConstraints": {"matchPolicy": "Equivalent", "namespaceSelector": {},
                "objectSelector": {}, "resourceRules": [{"resources": ["things"], "scope": "*"}]}}),
        ),
        ("v1", "ConfigMap", json!({"data": {"a": "b"}}), "", json!({"data": {"a": "b"}})),
        ("example.com/v1", "Deployment", json!({"spec": {}}), "", json!({"spec": {}})),
    ] {
        let got = defaulted(api_version, kind, given.clone());
        assert_eq!(got.pointer(pointer).cloned().unwrap_or(Value::Null), wanted, "{kind} {given} at {pointer}");
    }
}

#[test]
fn null_is_absent_in_built_in_kinds_only() {
    let nulls = json!({"metadata": {"creationTimestamp": null, "name": "n"}, "data": {"a": null, "b": "c"}});
    assert_eq!(defaulted("v1", "ConfigMap", nulls.clone()), json!({"metadata": {"name": "n"}, "data": {"b": "c"}}));
    assert_eq!(defaulted("x.io/v1", "Thing", nulls.clone()), nulls);
}

#[test]
fn text_of_a_secret_becomes_data_and_wins() {
    let mut secret = json!({"data": {"a": "b2xk", "b": "a2VwdA=="}, "stringData": {"a": "new", "c": ""}});
    apply("v1", "Secret", &mut secret);
    assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "bmV3", "b": "a2VwdA==", "c": ""}}));
    let again = secret.clone();
    apply("v1", "Secret", &mut secret);
    assert_eq!(secret, again);
}
