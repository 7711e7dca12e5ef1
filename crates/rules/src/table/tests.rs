use super::*;

fn now() -> Timestamp {
    "2026-01-02T00:00:00Z".parse().expect("a valid time")
}

#[test]
fn durations() {
    for (seconds, wanted) in [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (599, "9m59s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 60, "3h1m"),
        (8 * 3600, "8h"),
        (48 * 3600 - 1, "47h"),
        (48 * 3600, "2d"),
        (49 * 3600, "2d1h"),
        (8 * 86_400, "8d"),
        (2 * 365 * 86_400, "2y"),
        (2 * 365 * 86_400 + 86_400, "2y1d"),
        (8 * 365 * 86_400, "8y"),
    ] {
        assert_eq!(human_duration(seconds), wanted, "{seconds}");
    }
}

fn shown(api_version: &str, kind: &str, obj: &Value) -> Vec<Value> {
    let cells = row(api_version, kind, obj, now());
    assert_eq!(cells.len(), columns(api_version, kind).len(), "{kind}");
    cells
}

#[test]
fn every_kind_has_as_many_cells_as_columns_even_when_empty() {
    for kind in crate::kinds::all() {
        shown(&kind.api_version(), kind.kind, &json!({}));
        shown(&kind.api_version(), kind.kind, &json!({"metadata": {"name": "a"}, "spec": [], "status": "x"}));
    }
}

#[test]
fn pods() {
    let pod =
        |spec: Value, status: Value, metadata: Value| json!({"metadata": metadata, "spec": spec, "status": status});
    let two = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let running = json!({"ready": true, "restartCount": 0, "state": {"running": {}}});
    let crashed = json!({"ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"finishedAt": "2026-01-01T23:59:00Z"}}});
    let init = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
    for (obj, wanted) in [
        (pod(two.clone(), json!({"phase": "Pending"}), json!({})), ["0/2", "Pending", "0"]),
        (
            pod(two.clone(), json!({"phase": "Running", "containerStatuses": [running, running]}), json!({})),
            ["2/2", "Running", "0"],
        ),
        (
            pod(two.clone(), json!({"phase": "Running", "containerStatuses": [running, crashed]}), json!({})),
            ["1/2", "CrashLoopBackOff", "3 (60s ago)"],
        ),
        (
            pod(
                two.clone(),
                json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}),
                json!({}),
            ),
            ["0/2", "ExitCode:3", "0"],
        ),
        (pod(two.clone(), json!({"phase": "Failed", "reason": "Evicted"}), json!({})), ["0/2", "Evicted", "0"]),
        (
            pod(
                two.clone(),
                json!({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"reason": "Completed"}}}]}),
                json!({}),
            ),
            ["0/2", "Completed", "0"],
        ),
        (
            pod(
                two.clone(),
                json!({"phase": "Running", "containerStatuses": [running]}),
                json!({"deletionTimestamp": "x"}),
            ),
            ["1/2", "Terminating", "0"],
        ),
        (
            pod(
                init.clone(),
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
                json!({}),
            ),
            ["0/1", "Init:0/2", "0"],
        ),
        (
            pod(
                init.clone(),
                json!({"phase": "Pending", "initContainerStatuses": [{"state": {"terminated": {"exitCode": 0}}}, {"state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}),
                json!({}),
            ),
            ["0/1", "Init:Error", "0"],
        ),
        (
            pod(
                init,
                json!({"phase": "Running", "initContainerStatuses": [{"restartCount": 2, "state": {"terminated": {"exitCode": 0}}}], "containerStatuses": [running]}),
                json!({}),
            ),
            ["1/1", "Running", "0"],
        ),
        (
            pod(
                two,
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}),
                json!({}),
            ),
            ["0/2", "SchedulingGated", "0"],
        ),
    ] {
        let cells = shown("v1", "Pod", &obj);
        assert_eq!(cells[1..4], wanted.map(Value::from), "{obj}");
        assert_eq!(cells[5..], ["<none>"; 4].map(Value::from));
    }
}

#[test]
fn other_kinds() {
    let template = json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}});
    let metadata = json!({"name": "n", "creationTimestamp": "2026-01-01T23:55:00Z"});
    for (api_version, kind, obj, wanted) in [
        (
            "apps/v1",
            "Deployment",
            json!({"spec": {"replicas": 3, "selector": {"matchLabels": {"app": "s"}}, "template": template}, "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2}}),
            json!(["n", "2/3", 3, 2, "5m", "a,b", "x,y", "app=s"]),
        ),
        (
            "batch/v1",
            "Job",
            json!({"spec": {"completions": 2, "template": template}, "status": {"succeeded": 1, "startTime": "2026-01-01T23:59:00Z"}}),
            json!(["n", "Running", "1/2", "60s", "5m", "a,b", "x,y", "<none>"]),
        ),
        (
            "batch/v1",
            "Job",
            json!({"spec": {"completions": 1}, "status": {"succeeded": 1, "startTime": "2026-01-01T23:59:00Z", "completionTime": "2026-01-01T23:59:05Z", "conditions": [{"type": "Complete", "status": "True"}]}}),
            json!(["n", "Complete", "1/1", "5s", "5m", "", "", "<none>"]),
        ),
        (
            "v1",
            "Service",
            json!({"spec": {"type": "ClusterIP", "clusterIP": "127.96.0.2", "selector": {"a": "b"}, "ports": [{"port": 80, "protocol": "TCP"}, {"port": 81, "nodePort": 30000, "protocol": "UDP"}]}}),
            json!(["n", "ClusterIP", "127.96.0.2", "<none>", "80/TCP,81:30000/UDP", "5m", "a=b"]),
        ),
        (
            "v1",
            "Service",
            json!({"spec": {"type": "LoadBalancer"}}),
            json!(["n", "LoadBalancer", "<none>", "<pending>", "<none>", "5m", "<none>"]),
        ),
        (
            "v1",
            "Endpoints",
            json!({"subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}], "ports": [{"port": 1}, {"port": 2}]}]}),
            json!(["n", "1.1.1.1:1,1.1.1.1:2,1.1.1.2:1 + 1 more...", "5m"]),
        ),
        (
            "discovery.k8s.io/v1",
            "EndpointSlice",
            json!({"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["1.1.1.1"]}]}),
            json!(["n", "IPv4", "80", "1.1.1.1", "5m"]),
        ),
        (
            "discovery.k8s.io/v1",
            "EndpointSlice",
            json!({"addressType": "IPv4"}),
            json!(["n", "IPv4", "<unset>", "<unset>", "5m"]),
        ),
        ("v1", "ConfigMap", json!({"data": {"a": "b"}, "binaryData": {"c": ""}}), json!(["n", 2, "5m"])),
        ("v1", "Secret", json!({"type": "Opaque"}), json!(["n", "Opaque", 0, "5m"])),
        ("v1", "Namespace", json!({"status": {"phase": "Active"}}), json!(["n", "Active", "5m"])),
        (
            "v1",
            "Event",
            json!({"type": "Normal", "reason": "R", "message": "m\n", "count": 4, "lastTimestamp": "2026-01-01T23:59:58Z", "firstTimestamp": "2026-01-01T23:59:00Z",
                "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "f"}, "source": {"component": "kubelet", "host": "h"}}),
            json!(["2s", "Normal", "R", "pod/p", "f", "kubelet, h", "m", "60s", 4, "n"]),
        ),
        ("apps/v1", "StatefulSet", json!({"spec": {"replicas": 1}}), json!(["n", "0/1", "5m", "", ""])),
        ("rbac.authorization.k8s.io/v1", "Role", json!({}), json!(["n", "2026-01-01T23:55:00Z"])),
        (
            "v1",
            "Node",
            json!({"spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
            json!([
                "n",
                "Ready,SchedulingDisabled",
                "<none>",
                "5m",
                "",
                "<none>",
                "<none>",
                "<unknown>",
                "<unknown>",
                "<unknown>"
            ]),
        ),
        (
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            json!({"spec": {"minReplicas": 1, "maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}}]}}),
            json!(["n", "Deployment/d", "cpu: <unknown>/80%", "1", 3, 0, "5m"]),
        ),
    ] {
        let mut obj = obj;
        obj["metadata"] = metadata.clone();
        assert_eq!(Value::Array(shown(api_version, kind, &obj)), wanted, "{kind}");
    }
}

#[test]
fn custom_columns() {
    let columns = CrdColumns::parse(&json!([
        {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
        {"name": "Hosts", "type": "string", "jsonPath": ".spec.hosts"},
        {"name": "Count", "type": "integer", "jsonPath": ".spec.count", "priority": 1},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        {"name": "Bad", "type": "date", "jsonPath": ".spec.count"},
    ]));
    let obj = json!({
        "metadata": {"name": "n", "creationTimestamp": "2026-01-01T23:55:00Z"},
        "spec": {"hosts": ["a", "b"], "count": 2},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}
    });
    assert_eq!(
        columns.row(&obj, now()),
        [json!("n"), json!("True"), json!("[\"a\",\"b\"]"), json!(2), json!("5m"), Value::Null]
    );
    assert_eq!(columns.columns().len(), 6);
    assert_eq!(columns.columns()[3].priority, 1);
    assert_eq!(CrdColumns::default().row(&obj, now()), [json!("n"), json!("5m")]);
    assert_eq!(CrdColumns::default().columns()[1].name, "Age");
}

#[test]
fn quotas_show_what_is_used() {
    let quota = json!({"metadata": {"name": "q", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"hard": {"pods": "9"}},
        "status": {"hard": {"limits.cpu": "2", "pods": "4", "services": "3"}, "used": {"limits.cpu": "500m", "pods": "1"}}});
    let cells = shown("v1", "ResourceQuota", &quota);
    assert_eq!(cells, ["q", "pods: 1/4, services: 0/3", "limits.cpu: 500m/2", "24h"].map(Value::from));
}
