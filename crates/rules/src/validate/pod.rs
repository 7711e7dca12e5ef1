//! Pods and Pod templates.

use super::container::{self, Around};
use super::{list, metadata, names, not_negative, one_of, text};
use crate::field::FieldError;
use serde_json::Value;
use std::collections::BTreeSet;

/// A template whose labels the owner's selector must match.
/// A template of Pods. `claims` are the volumes that its Pods get beside those that it names.
pub(super) fn template(template: &Value, path: &str, claims: &[&str], wrong: &mut Vec<FieldError>) {
    metadata::labels(&template["metadata"]["labels"], &format!("{path}.labels"), wrong);
    metadata::annotations(&template["metadata"]["annotations"], &format!("{path}.annotations"), wrong);
    spec_with(&template["spec"], &format!("{path}.spec"), claims, wrong);
}

pub(super) fn spec(spec: &Value, path: &str, wrong: &mut Vec<FieldError>) {
    spec_with(spec, path, &[], wrong);
}

fn spec_with(spec: &Value, path: &str, claims: &[&str], wrong: &mut Vec<FieldError>) {
    let mut names = volumes(spec, path, wrong);
    names.extend(claims);
    let containers = list(spec, "/containers");
    if containers.is_empty() {
        wrong.push(FieldError::required(format!("{path}.containers"), ""));
    }
    let mut seen = BTreeSet::new();
    for (field, init) in [("containers", false), ("initContainers", true)] {
        for (at, one) in list(spec, &format!("/{field}")).iter().enumerate() {
            let path = format!("{path}.{field}[{at}]");
            container::check(one, &path, &Around { volumes: &names, init }, wrong);
            let name = text(one, "/name");
            if !name.is_empty() && !seen.insert(name) {
                wrong.push(FieldError::duplicate(format!("{path}.name"), name));
            }
        }
    }
    host_ports(spec, path, wrong);
    one_of(&spec["restartPolicy"], &format!("{path}.restartPolicy"), &["Always", "Never", "OnFailure"], wrong);
    one_of(
        &spec["dnsPolicy"],
        &format!("{path}.dnsPolicy"),
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
        wrong,
    );
    not_negative(spec, "terminationGracePeriodSeconds", path, wrong);
    if spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds < 1) {
        wrong.push(FieldError::invalid(
            format!("{path}.activeDeadlineSeconds"),
            spec["activeDeadlineSeconds"].clone(),
            "must be between 1 and 2147483647, inclusive",
        ));
    }
    for (field, rule) in [
        ("serviceAccountName", names::dns_subdomain as fn(&str) -> Vec<String>),
        ("nodeName", names::dns_subdomain),
        ("hostname", names::dns_label),
        ("subdomain", names::dns_label),
    ] {
        if let Some(value) = spec[field].as_str().filter(|value| !value.is_empty()) {
            wrong.extend(rule(value).into_iter().map(|why| FieldError::invalid(format!("{path}.{field}"), value, why)));
        }
    }
    metadata::labels(&spec["nodeSelector"], &format!("{path}.nodeSelector"), wrong);
}

/// Two containers of a Pod can't have the same port of the host.
fn host_ports(spec: &Value, path: &str, wrong: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, one) in list(spec, "/containers").iter().enumerate() {
        for (at, port) in list(one, "/ports").iter().enumerate() {
            let number = port["hostPort"].as_i64().unwrap_or(0);
            let key = format!("{}/{}/{number}", text(port, "/protocol"), text(port, "/hostIP"));
            if number != 0 && !seen.insert(key.clone()) {
                wrong.push(FieldError::duplicate(format!("{path}.containers[{index}].ports[{at}].hostPort"), key));
            }
        }
    }
}

const SOURCES: [&str; 31] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "glusterfs",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "persistentVolumeClaim",
    "photonPersistentDisk",
    "portworxVolume",
    "projected",
    "quobyte",
    "rbd",
    "scaleIO",
    "secret",
    "storageos",
    "vsphereVolume",
    "local",
];

fn volumes<'a>(spec: &'a Value, path: &str, wrong: &mut Vec<FieldError>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for (at, volume) in list(spec, "/volumes").iter().enumerate() {
        let path = format!("{path}.volumes[{at}]");
        let name = text(volume, "/name");
        if name.is_empty() {
            wrong.push(FieldError::required(format!("{path}.name"), ""));
        } else {
            wrong.extend(
                names::dns_label(name).into_iter().map(|why| FieldError::invalid(format!("{path}.name"), name, why)),
            );
            if !seen.insert(name) {
                wrong.push(FieldError::duplicate(format!("{path}.name"), name));
            }
        }
        let given: Vec<&str> = SOURCES.iter().copied().filter(|source| volume[*source].is_object()).collect();
        if given.is_empty() {
            wrong.push(FieldError::required(&*path, "must specify a volume type"));
        }
        for more in given.iter().skip(1) {
            wrong.push(FieldError::forbidden(format!("{path}.{more}"), "may not specify more than 1 volume type"));
        }
        source(volume, &path, wrong);
    }
    seen
}

fn source(volume: &Value, path: &str, wrong: &mut Vec<FieldError>) {
    for (field, name) in
        [("secret", "secretName"), ("configMap", "name"), ("persistentVolumeClaim", "claimName"), ("hostPath", "path")]
    {
        let source = &volume[field];
        if !source.is_object() {
            continue;
        }
        if text(source, &format!("/{name}")).is_empty() {
            wrong.push(FieldError::required(format!("{path}.{field}.{name}"), ""));
        }
        if let Some(mode) = source["defaultMode"].as_i64().filter(|mode| !(0..=0o777).contains(mode)) {
            wrong.push(FieldError::invalid(
                format!("{path}.{field}.defaultMode"),
                mode,
                "must be a number between 0 and 0777 (octal), both inclusive",
            ));
        }
        for (at, item) in list(source, "/items").iter().enumerate() {
            let path = format!("{path}.{field}.items[{at}]");
            if text(item, "/key").is_empty() {
                wrong.push(FieldError::required(format!("{path}.key"), ""));
            }
            let place = text(item, "/path");
            if place.is_empty() {
                wrong.push(FieldError::required(format!("{path}.path"), ""));
            } else if place.starts_with('/') {
                wrong.push(FieldError::invalid(format!("{path}.path"), place, "must be a relative path"));
            } else if place.split('/').any(|part| part == "..") {
                wrong.push(FieldError::invalid(format!("{path}.path"), place, "must not contain '..'"));
            }
        }
    }
}
