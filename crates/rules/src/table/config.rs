//! Nodes, namespaces, Events, configuration, storage, bindings and leases.

use super::age::since;
use super::{AGE, INTEGER, NAME, Printer, STRING, age, count, list, name, number, or, or_none, text};
use crate::pods;
use jiff::Timestamp;
use serde_json::{Value, json};

pub(super) const NODE: Printer = Printer {
    headings: &[
        NAME,
        ("Status", STRING, 0),
        ("Roles", STRING, 0),
        AGE,
        ("Version", STRING, 0),
        ("Internal-IP", STRING, 1),
        ("External-IP", STRING, 1),
        ("OS-Image", STRING, 1),
        ("Kernel-Version", STRING, 1),
        ("Container-Runtime", STRING, 1),
    ],
    cells: |obj, now| {
        let info = &obj["status"]["nodeInfo"];
        let address = |kind: &str| {
            let found = list(obj, "/status/addresses").iter().find(|one| one["type"] == kind);
            or_none(found.map_or("", |one| text(one, "/address")))
        };
        let unknown = |field: &str| or(text(info, field), "<unknown>");
        vec![
            name(obj),
            node_status(obj).into(),
            or_none(node_roles(obj)),
            age(obj, now),
            text(info, "/kubeletVersion").into(),
            address("InternalIP"),
            address("ExternalIP"),
            unknown("/osImage"),
            unknown("/kernelVersion"),
            unknown("/containerRuntimeVersion"),
        ]
    },
};

pub(super) const RESOURCE_QUOTA: Printer = Printer {
    headings: &[NAME, ("Request", STRING, 0), ("Limit", STRING, 0), AGE],
    cells: |obj, now| {
        let hard = obj.pointer("/status/hard").and_then(Value::as_object);
        let used = |limits: bool| {
            let of_kind = hard.into_iter().flatten().filter(|(resource, _)| resource.starts_with("limits") == limits);
            let shown = |(resource, most): (&String, &Value)| {
                let used = obj["status"]["used"][resource].as_str().unwrap_or("0");
                format!("{resource}: {used}/{}", most.as_str().unwrap_or_default())
            };
            of_kind.map(shown).collect::<Vec<_>>().join(", ")
        };
        vec![name(obj), used(false).into(), used(true).into(), age(obj, now)]
    },
};

fn node_status(node: &Value) -> String {
    let ready = match pods::condition(node, "Ready") {
        Some(ready) if ready["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let closed = if node["spec"]["unschedulable"] == true { ",SchedulingDisabled" } else { "" };
    format!("{ready}{closed}")
}

fn node_roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let roles = labels.filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) => Some(role).filter(|role| !role.is_empty()),
        None if key == "kubernetes.io/role" => value.as_str(),
        None => None,
    });
    let mut roles: Vec<&str> = roles.collect();
    roles.sort_unstable();
    roles.dedup();
    roles.join(",")
}

pub(super) const NAMESPACE: Printer = Printer {
    headings: &[NAME, ("Status", STRING, 0), AGE],
    cells: |obj, now| vec![name(obj), text(obj, "/status/phase").into(), age(obj, now)],
};

pub(super) const EVENT: Printer = Printer {
    headings: &[
        ("Last Seen", STRING, 0),
        ("Type", STRING, 0),
        ("Reason", STRING, 0),
        ("Object", STRING, 0),
        ("Subobject", STRING, 1),
        ("Source", STRING, 1),
        ("Message", STRING, 0),
        ("First Seen", STRING, 1),
        ("Count", INTEGER, 1),
        ("Name", STRING, 1),
    ],
    cells: event,
};

fn event(obj: &Value, now: Timestamp) -> Vec<Value> {
    // The two Event versions have other names for the same fields.
    let either = |a: &'static str, b: &'static str| match obj.pointer(a) {
        Some(value) if !value.is_null() => value,
        _ => obj.pointer(b).unwrap_or(&Value::Null),
    };
    let mut first = since(either("/firstTimestamp", "/deprecatedFirstTimestamp"), now);
    if first == "<unknown>" {
        first = since(&obj["eventTime"], now);
    }
    let mut last = since(either("/lastTimestamp", "/deprecatedLastTimestamp"), now);
    if last == "<unknown>" {
        last.clone_from(&first);
    }
    let mut times = either("/count", "/deprecatedCount").as_i64().unwrap_or(0).max(1);
    if obj["series"].is_object() {
        last = since(&obj["series"]["lastObservedTime"], now);
        times = number(obj, "/series/count");
    }
    let object = either("/involvedObject", "/regarding");
    let target = match text(object, "/name") {
        "" => text(object, "/kind").to_lowercase(),
        name => format!("{}/{name}", text(object, "/kind").to_lowercase()),
    };
    let component = match text(either("/source", "/deprecatedSource"), "/component") {
        "" => either("/reportingComponent", "/reportingController").as_str().unwrap_or_default(),
        component => component,
    };
    let host = text(either("/source", "/deprecatedSource"), "/host");
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    vec![
        last.into(),
        text(obj, "/type").into(),
        text(obj, "/reason").into(),
        target.into(),
        text(object, "/fieldPath").into(),
        source.into(),
        either("/message", "/note").as_str().unwrap_or_default().trim().into(),
        first.into(),
        times.into(),
        name(obj),
    ]
}

pub(super) const CONFIG_MAP: Printer = Printer {
    headings: &[NAME, ("Data", STRING, 0), AGE],
    cells: |obj, now| vec![name(obj), (count(obj, "/data") + count(obj, "/binaryData")).into(), age(obj, now)],
};

pub(super) const SECRET: Printer = Printer {
    headings: &[NAME, ("Type", STRING, 0), ("Data", STRING, 0), AGE],
    cells: |obj, now| vec![name(obj), text(obj, "/type").into(), count(obj, "/data").into(), age(obj, now)],
};

pub(super) const SERVICE_ACCOUNT: Printer = Printer {
    headings: &[NAME, ("Secrets", STRING, 0), AGE],
    cells: |obj, now| vec![name(obj), count(obj, "/secrets").into(), age(obj, now)],
};

pub(super) const LEASE: Printer = Printer {
    headings: &[NAME, ("Holder", STRING, 0), AGE],
    cells: |obj, now| vec![name(obj), text(obj, "/spec/holderIdentity").into(), age(obj, now)],
};

fn access_modes(obj: &Value, pointer: &str) -> String {
    let short = |mode: &Value| match mode.as_str().unwrap_or_default() {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "",
    };
    list(obj, pointer).iter().map(short).collect::<Vec<_>>().join(",")
}

pub(super) const CLAIM: Printer = Printer {
    headings: &[
        NAME,
        ("Status", STRING, 0),
        ("Volume", STRING, 0),
        ("Capacity", STRING, 0),
        ("Access Modes", STRING, 0),
        ("StorageClass", STRING, 0),
        ("VolumeAttributesClass", STRING, 0),
        AGE,
        ("VolumeMode", STRING, 1),
    ],
    cells: |obj, now| {
        let phase = if pods::is_terminating(obj) { "Terminating" } else { text(obj, "/status/phase") };
        let bound = !text(obj, "/spec/volumeName").is_empty();
        let if_bound = |text: String| if bound { text } else { String::new() };
        vec![
            name(obj),
            phase.into(),
            text(obj, "/spec/volumeName").into(),
            if_bound(text(obj, "/status/capacity/storage").to_owned()).into(),
            if_bound(access_modes(obj, "/status/accessModes")).into(),
            text(obj, "/spec/storageClassName").into(),
            or(text(obj, "/spec/volumeAttributesClassName"), "<unset>"),
            age(obj, now),
            or(text(obj, "/spec/volumeMode"), "<unset>"),
        ]
    },
};

pub(super) const VOLUME: Printer = Printer {
    headings: &[
        NAME,
        ("Capacity", STRING, 0),
        ("Access Modes", STRING, 0),
        ("Reclaim Policy", STRING, 0),
        ("Status", STRING, 0),
        ("Claim", STRING, 0),
        ("StorageClass", STRING, 0),
        ("VolumeAttributesClass", STRING, 0),
        ("Reason", STRING, 0),
        AGE,
        ("VolumeMode", STRING, 1),
    ],
    cells: |obj, now| {
        let claim = &obj["spec"]["claimRef"];
        let claim = if claim.is_object() {
            format!("{}/{}", text(claim, "/namespace"), text(claim, "/name"))
        } else {
            String::new()
        };
        let phase = if pods::is_terminating(obj) { "Terminating" } else { text(obj, "/status/phase") };
        vec![
            name(obj),
            text(obj, "/spec/capacity/storage").into(),
            access_modes(obj, "/spec/accessModes").into(),
            text(obj, "/spec/persistentVolumeReclaimPolicy").into(),
            phase.into(),
            claim.into(),
            text(obj, "/spec/storageClassName").into(),
            or(text(obj, "/spec/volumeAttributesClassName"), "<unset>"),
            text(obj, "/status/reason").into(),
            age(obj, now),
            or(text(obj, "/spec/volumeMode"), "<unset>"),
        ]
    },
};

pub(super) const STORAGE_CLASS: Printer = Printer {
    headings: &[
        NAME,
        ("Provisioner", STRING, 0),
        ("ReclaimPolicy", STRING, 0),
        ("VolumeBindingMode", STRING, 0),
        ("AllowVolumeExpansion", STRING, 0),
        AGE,
    ],
    cells: |obj, now| {
        let default = obj["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true";
        let own = text(obj, "/metadata/name");
        vec![
            if default { format!("{own} (default)").into() } else { own.into() },
            text(obj, "/provisioner").into(),
            or(text(obj, "/reclaimPolicy"), "Delete"),
            or(text(obj, "/volumeBindingMode"), "Immediate"),
            json!(obj["allowVolumeExpansion"] == true),
            age(obj, now),
        ]
    },
};

pub(super) const BINDING: Printer = Printer {
    headings: &[
        NAME,
        ("Role", STRING, 0),
        AGE,
        ("Users", STRING, 1),
        ("Groups", STRING, 1),
        ("ServiceAccounts", STRING, 1),
    ],
    cells: |obj, now| {
        let subjects = |kind: &str| {
            let all = list(obj, "/subjects").iter().filter(|one| one["kind"] == kind).map(|one| match kind {
                "ServiceAccount" => format!("{}/{}", text(one, "/namespace"), text(one, "/name")),
                _ => text(one, "/name").to_owned(),
            });
            all.collect::<Vec<_>>().join(", ")
        };
        vec![
            name(obj),
            format!("{}/{}", text(obj, "/roleRef/kind"), text(obj, "/roleRef/name")).into(),
            age(obj, now),
            subjects("User").into(),
            subjects("Group").into(),
            subjects("ServiceAccount").into(),
        ]
    },
};

pub(super) const RUNTIME_CLASS: Printer = Printer {
    headings: &[NAME, ("Handler", STRING, 0), AGE],
    cells: |obj, now| vec![name(obj), text(obj, "/handler").into(), age(obj, now)],
};

pub(super) const PRIORITY_CLASS: Printer = Printer {
    headings: &[NAME, ("Value", INTEGER, 0), ("Global-Default", "boolean", 0), AGE, ("PreemptionPolicy", STRING, 0)],
    cells: |obj, now| {
        vec![
            name(obj),
            number(obj, "/value").into(),
            json!(obj["globalDefault"] == true),
            age(obj, now),
            or(text(obj, "/preemptionPolicy"), "<unset>"),
        ]
    },
};
