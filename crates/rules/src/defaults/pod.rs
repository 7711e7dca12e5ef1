//! Defaults of Pods and Pod templates.

use super::fill::{each, set, set_number, set_text};
use serde_json::{Value, json};

/// A template with everything a Pod gets.
pub(super) fn template(template: &mut Value) {
    if let Some(spec) = template.get_mut("spec") {
        self::spec(spec);
    }
}

pub(super) fn spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    set_text(spec, "dnsPolicy", "ClusterFirst");
    set_text(spec, "restartPolicy", "Always");
    set(spec, "securityContext", json!({}));
    set(spec, "terminationGracePeriodSeconds", 30);
    set_text(spec, "schedulerName", "default-scheduler");
    // Both names of one field are always kept alike.
    match (spec.get("serviceAccountName").cloned(), spec.get("serviceAccount").cloned()) {
        (Some(Value::String(name)), _) if !name.is_empty() => spec["serviceAccount"] = name.into(),
        (_, Some(Value::String(name))) if !name.is_empty() => spec["serviceAccountName"] = name.into(),
        _ => {}
    }
    let host_network = spec["hostNetwork"] == true;
    for list in ["/containers", "/initContainers", "/ephemeralContainers"] {
        each(spec, list, |one| container(one, host_network));
    }
    each(spec, "/volumes", volume);
}

fn container(container: &mut Value, host_network: bool) {
    if !container.is_object() {
        return;
    }
    let image = container["image"].as_str().unwrap_or_default().to_owned();
    set_text(container, "imagePullPolicy", pull_policy(&image));
    set_text(container, "terminationMessagePath", "/dev/termination-log");
    set_text(container, "terminationMessagePolicy", "File");
    set(container, "resources", json!({}));
    each(container, "/ports", |port| {
        set_text(port, "protocol", "TCP");
        if host_network {
            let number = port["containerPort"].as_i64().unwrap_or(0);
            set_number(port, "hostPort", number);
        }
    });
    each(container, "/env", |variable| {
        if let Some(reference) = variable.pointer_mut("/valueFrom/fieldRef") {
            set_text(reference, "apiVersion", "v1");
        }
        if let Some(reference) = variable.pointer_mut("/valueFrom/resourceFieldRef") {
            set(reference, "divisor", "0");
        }
    });
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(one) = container.get_mut(name).filter(|one| one.is_object()) {
            probe(one);
        }
    }
    for hook in ["/lifecycle/postStart", "/lifecycle/preStop"] {
        if let Some(http) = container.pointer_mut(hook).and_then(|hook| hook.get_mut("httpGet")) {
            http_get(http);
        }
    }
}

/// `Always` for images without a fixed tag, as a moving tag must be looked at each time.
fn pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains('@') {
        return "IfNotPresent";
    }
    match name.split_once(':') {
        None | Some((_, "latest" | "")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn probe(probe: &mut Value) {
    set_number(probe, "timeoutSeconds", 1);
    set_number(probe, "periodSeconds", 10);
    set_number(probe, "successThreshold", 1);
    set_number(probe, "failureThreshold", 3);
    if let Some(http) = probe.get_mut("httpGet") {
        http_get(http);
    }
    if let Some(grpc) = probe.get_mut("grpc").filter(|grpc| grpc.is_object()) {
        set(grpc, "service", "");
    }
}

fn http_get(http: &mut Value) {
    set_text(http, "path", "/");
    set_text(http, "scheme", "HTTP");
}

fn volume(volume: &mut Value) {
    let sourced =
        volume.as_object().is_some_and(|fields| fields.iter().any(|(name, value)| name != "name" && !value.is_null()));
    if !sourced {
        set(volume, "emptyDir", json!({}));
    }
    volume_source(volume);
    for (name, mode) in [
        ("secret", "defaultMode"),
        ("configMap", "defaultMode"),
        ("downwardAPI", "defaultMode"),
        ("projected", "defaultMode"),
    ] {
        if let Some(source) = volume.get_mut(name).filter(|source| source.is_object()) {
            set(source, mode, 0o644);
        }
    }
    each(volume, "/downwardAPI/items", downward_item);
    each(volume, "/projected/sources", |source| {
        each(source, "/downwardAPI/items", downward_item);
        if let Some(token) = source.get_mut("serviceAccountToken") {
            set(token, "expirationSeconds", 3600);
        }
    });
    if let Some(spec) = volume.pointer_mut("/ephemeral/volumeClaimTemplate/spec") {
        set(spec, "volumeMode", "Filesystem");
    }
}

fn downward_item(item: &mut Value) {
    if let Some(reference) = item.get_mut("fieldRef") {
        set_text(reference, "apiVersion", "v1");
    }
    if let Some(reference) = item.get_mut("resourceFieldRef") {
        set(reference, "divisor", "0");
    }
}

/// Defaults of sources that Pods' volumes and PersistentVolumes share.
pub(super) fn volume_source(volume: &mut Value) {
    if let Some(source) = volume.get_mut("hostPath") {
        set(source, "type", "");
    }
    if let Some(source) = volume.get_mut("iscsi") {
        set_text(source, "iscsiInterface", "default");
    }
    if let Some(source) = volume.get_mut("rbd") {
        set_text(source, "pool", "rbd");
        set_text(source, "user", "admin");
        set_text(source, "keyring", "/etc/ceph/keyring");
    }
    if let Some(source) = volume.get_mut("azureDisk") {
        set(source, "cachingMode", "ReadWrite");
        set(source, "kind", "Shared");
        set(source, "fsType", "ext4");
        set(source, "readOnly", false);
    }
    if let Some(source) = volume.get_mut("scaleIO") {
        set_text(source, "storageMode", "ThinProvisioned");
        set_text(source, "fsType", "xfs");
    }
}

/// A limit without a request is a request of the same size.
pub(super) fn requests_from_limits(spec: &mut Value) {
    for list in ["/containers", "/initContainers"] {
        each(spec, list, |container| {
            let Some(limits) = container.pointer("/resources/limits").and_then(Value::as_object).cloned() else {
                return;
            };
            let resources = &mut container["resources"];
            if limits.is_empty() {
                return;
            }
            set(resources, "requests", json!({}));
            for (name, limit) in limits {
                set(&mut resources["requests"], &name, limit);
            }
        });
    }
    set(spec, "enableServiceLinks", true);
}
