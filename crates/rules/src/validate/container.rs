//! Containers: names, images, ports, environment, mounts, probes, hooks and resources.

use super::{list, names, not_negative, one_of, port_number, port_or_name, protocol, text};
use crate::field::FieldError;
use serde_json::Value;
use std::collections::BTreeSet;

/// What of its Pod a container is checked against.
pub(super) struct Around<'a> {
    pub(super) volumes: &'a BTreeSet<&'a str>,
    pub(super) init: bool,
}

pub(super) fn check(container: &Value, path: &str, around: &Around<'_>, wrong: &mut Vec<FieldError>) {
    let name = text(container, "/name");
    if name.is_empty() {
        wrong.push(FieldError::required(format!("{path}.name"), ""));
    } else {
        wrong.extend(
            names::dns_label(name).into_iter().map(|why| FieldError::invalid(format!("{path}.name"), name, why)),
        );
    }
    let image = text(container, "/image");
    if image.is_empty() {
        wrong.push(FieldError::required(format!("{path}.image"), ""));
    } else if image.trim() != image {
        wrong.push(FieldError::invalid(format!("{path}.image"), image, "must not have leading or trailing whitespace"));
    }
    one_of(
        &container["imagePullPolicy"],
        &format!("{path}.imagePullPolicy"),
        &["Always", "IfNotPresent", "Never"],
        wrong,
    );
    one_of(
        &container["terminationMessagePolicy"],
        &format!("{path}.terminationMessagePolicy"),
        &["FallbackToLogsOnError", "File"],
        wrong,
    );
    ports(container, path, wrong);
    env(container, path, wrong);
    mounts(container, path, around, wrong);
    probes(container, path, around, wrong);
    for hook in ["postStart", "preStop"] {
        let handler = &container["lifecycle"][hook];
        if handler.is_object() {
            self::handler(
                handler,
                &format!("{path}.lifecycle.{hook}"),
                &["exec", "httpGet", "tcpSocket", "sleep"],
                wrong,
            );
        }
    }
    resources(container, path, wrong);
    if around.init {
        one_of(&container["restartPolicy"], &format!("{path}.restartPolicy"), &["Always"], wrong);
    } else if container["restartPolicy"].is_string() {
        wrong.push(FieldError::forbidden(format!("{path}.restartPolicy"), "may not be set for non-init containers"));
    }
}

fn ports(container: &Value, path: &str, wrong: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (at, port) in list(container, "/ports").iter().enumerate() {
        let path = format!("{path}.ports[{at}]");
        if let Some(name) = port["name"].as_str().filter(|name| !name.is_empty()) {
            wrong.extend(
                names::port_name(name).into_iter().map(|why| FieldError::invalid(format!("{path}.name"), name, why)),
            );
            if !seen.insert(name) {
                wrong.push(FieldError::duplicate(format!("{path}.name"), name));
            }
        }
        match port["containerPort"].as_i64() {
            None | Some(0) => wrong.push(FieldError::required(format!("{path}.containerPort"), "")),
            _ => port_number(&port["containerPort"], &format!("{path}.containerPort"), wrong),
        }
        if port["hostPort"].as_i64().unwrap_or(0) != 0 {
            port_number(&port["hostPort"], &format!("{path}.hostPort"), wrong);
        }
        protocol(&port["protocol"], &format!("{path}.protocol"), wrong);
    }
}

fn env(container: &Value, path: &str, wrong: &mut Vec<FieldError>) {
    for (at, variable) in list(container, "/env").iter().enumerate() {
        let path = format!("{path}.env[{at}]");
        let name = text(variable, "/name");
        if name.is_empty() {
            wrong.push(FieldError::required(format!("{path}.name"), ""));
        } else {
            wrong.extend(
                names::env_name(name).into_iter().map(|why| FieldError::invalid(format!("{path}.name"), name, why)),
            );
        }
        let Some(source) = variable["valueFrom"].as_object() else { continue };
        let path = format!("{path}.valueFrom");
        let given: Vec<&String> = source.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name).collect();
        if given.is_empty() {
            wrong.push(FieldError::invalid(
                &*path,
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
            ));
        } else if given.len() > 1 {
            wrong.push(FieldError::invalid(&*path, "", "may not have more than one field specified at a time"));
        }
        if !text(variable, "/value").is_empty() && !given.is_empty() {
            wrong.push(FieldError::invalid(&*path, "", "may not be specified when `value` is not empty"));
        }
        for reference in ["configMapKeyRef", "secretKeyRef"] {
            if let Some(selected) = source.get(reference).filter(|one| one.is_object()) {
                let key = text(selected, "/key");
                if key.is_empty() {
                    wrong.push(FieldError::required(format!("{path}.{reference}.key"), ""));
                } else {
                    let path = format!("{path}.{reference}.key");
                    wrong.extend(names::config_key(key).into_iter().map(|why| FieldError::invalid(&*path, key, why)));
                }
            }
        }
        if let Some(field) = source.get("fieldRef").filter(|one| one.is_object()) {
            field_ref(text(field, "/fieldPath"), &format!("{path}.fieldRef"), wrong);
        }
    }
    for (at, source) in list(container, "/envFrom").iter().enumerate() {
        let path = format!("{path}.envFrom[{at}]");
        let count = ["configMapRef", "secretRef"].iter().filter(|name| source[**name].is_object()).count();
        if count == 0 {
            wrong.push(FieldError::invalid(&*path, "", "must specify one of: `configMapRef` or `secretRef`"));
        } else if count > 1 {
            wrong.push(FieldError::invalid(&*path, "", "may not have more than one field specified at a time"));
        }
        for name in ["configMapRef", "secretRef"] {
            if source[name].is_object() && text(&source[name], "/name").is_empty() {
                wrong.push(FieldError::required(format!("{path}.{name}.name"), ""));
            }
        }
    }
}

const FIELD_PATHS: [&str; 10] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
    "metadata.labels",
];

fn field_ref(field: &str, path: &str, wrong: &mut Vec<FieldError>) {
    if field.is_empty() {
        wrong.push(FieldError::required(format!("{path}.fieldPath"), ""));
        return;
    }
    let subscripted = ["metadata.labels['", "metadata.annotations['"].iter().any(|one| field.starts_with(one))
        && field.ends_with("']");
    if !subscripted && !FIELD_PATHS[..9].contains(&field) {
        wrong.push(FieldError::not_supported(format!("{path}.fieldPath"), field, &FIELD_PATHS[..9]));
    }
}

fn mounts(container: &Value, path: &str, around: &Around<'_>, wrong: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (at, mount) in list(container, "/volumeMounts").iter().enumerate() {
        let path = format!("{path}.volumeMounts[{at}]");
        let name = text(mount, "/name");
        if name.is_empty() {
            wrong.push(FieldError::required(format!("{path}.name"), ""));
        } else if !around.volumes.contains(name) {
            wrong.push(FieldError::not_found(format!("{path}.name"), name));
        }
        let place = text(mount, "/mountPath");
        if place.is_empty() {
            wrong.push(FieldError::required(format!("{path}.mountPath"), ""));
        } else if !seen.insert(place) {
            wrong.push(FieldError::invalid(format!("{path}.mountPath"), place, "must be unique"));
        }
        let below = text(mount, "/subPath");
        if below.starts_with('/') {
            wrong.push(FieldError::invalid(format!("{path}.subPath"), below, "must be a relative path"));
        } else if below.split('/').any(|part| part == "..") {
            wrong.push(FieldError::invalid(format!("{path}.subPath"), below, "must not contain '..'"));
        }
        if !below.is_empty() && !text(mount, "/subPathExpr").is_empty() {
            wrong.push(FieldError::invalid(
                format!("{path}.subPathExpr"),
                text(mount, "/subPathExpr"),
                "subPathExpr and subPath are mutually exclusive",
            ));
        }
    }
}

fn probes(container: &Value, path: &str, around: &Around<'_>, wrong: &mut Vec<FieldError>) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = &container[name];
        if !probe.is_object() {
            continue;
        }
        let path = format!("{path}.{name}");
        if around.init && container["restartPolicy"] != "Always" {
            wrong
                .push(FieldError::forbidden(&*path, "may not be set for init containers without restartPolicy=Always"));
            continue;
        }
        handler(probe, &path, &["exec", "httpGet", "tcpSocket", "grpc"], wrong);
        for number in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            not_negative(probe, number, &path, wrong);
        }
        if name != "readinessProbe" && probe["successThreshold"].as_i64().is_some_and(|number| number != 1) {
            wrong.push(FieldError::invalid(
                format!("{path}.successThreshold"),
                probe["successThreshold"].clone(),
                "must be 1",
            ));
        }
        if probe["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds <= 0) {
            wrong.push(FieldError::invalid(
                format!("{path}.terminationGracePeriodSeconds"),
                probe["terminationGracePeriodSeconds"].clone(),
                "must be greater than 0",
            ));
        }
    }
}

fn handler(handler: &Value, path: &str, kinds: &[&str], wrong: &mut Vec<FieldError>) {
    let given: Vec<&str> = kinds.iter().copied().filter(|kind| handler[*kind].is_object()).collect();
    if given.is_empty() {
        wrong.push(FieldError::required(path, "must specify a handler type"));
    }
    for more in given.iter().skip(1) {
        wrong.push(FieldError::forbidden(format!("{path}.{more}"), "may not specify more than 1 handler type"));
    }
    match given.first().copied() {
        Some("exec") if list(handler, "/exec/command").is_empty() => {
            wrong.push(FieldError::required(format!("{path}.exec.command"), ""));
        }
        Some("httpGet") => {
            let http = &handler["httpGet"];
            if text(http, "/path").is_empty() {
                wrong.push(FieldError::required(format!("{path}.httpGet.path"), ""));
            }
            port_or_name(&http["port"], &format!("{path}.httpGet.port"), wrong);
            one_of(&http["scheme"], &format!("{path}.httpGet.scheme"), &["HTTP", "HTTPS"], wrong);
        }
        Some("tcpSocket") => port_or_name(&handler["tcpSocket"]["port"], &format!("{path}.tcpSocket.port"), wrong),
        Some("grpc") => port_number(&handler["grpc"]["port"], &format!("{path}.grpc.port"), wrong),
        _ => {}
    }
}

fn resources(container: &Value, path: &str, wrong: &mut Vec<FieldError>) {
    let resources = &container["resources"];
    for field in ["limits", "requests"] {
        for (name, amount) in resources[field].as_object().into_iter().flatten() {
            let path = format!("{path}.resources.{field}[{name}]");
            match quantity(amount) {
                None => wrong.push(FieldError::invalid(
                    &*path,
                    amount.clone(),
                    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
                )),
                Some(number) if number < 0.0 => {
                    wrong.push(FieldError::invalid(&*path, amount.clone(), "must be greater than or equal to 0"));
                }
                Some(number) => {
                    let limit = resources["limits"].get(name).and_then(quantity).filter(|_| field == "requests");
                    if let Some(limit) = limit.filter(|limit| number > *limit) {
                        let _ = limit;
                        wrong.push(FieldError::invalid(
                            format!("{}.resources.requests", path.split(".resources").next().unwrap_or_default()),
                            amount.clone(),
                            format!(
                                "must be less than or equal to {name} limit of {}",
                                resources["limits"][name].as_str().unwrap_or_default()
                            ),
                        ));
                    }
                }
            }
        }
    }
}

/// A quantity (`100m`, `1Gi`, `1e3`, `2`) as a number.
pub(super) fn quantity(value: &Value) -> Option<f64> {
    let text = match value {
        Value::Number(number) => return number.as_f64(),
        Value::String(text) => text.as_str(),
        _ => return None,
    };
    let digits = text.find(|one: char| !(one.is_ascii_digit() || matches!(one, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let scale = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024.0_f64.powi(2),
        "Gi" => 1024.0_f64.powi(3),
        "Ti" => 1024.0_f64.powi(4),
        "Pi" => 1024.0_f64.powi(5),
        "Ei" => 1024.0_f64.powi(6),
        exponent => 10_f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    Some(number * scale)
}
