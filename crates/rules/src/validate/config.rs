//! ConfigMaps and Secrets: keys and sizes.

use super::{names, text};
use crate::field::{FieldError, FieldErrorKind};
use base64::Engine;
use serde_json::Value;

/// All values together, in bytes.
const MOST_DATA: usize = 1024 * 1024;

pub(super) fn config_map(obj: &Value, wrong: &mut Vec<FieldError>) {
    let mut size = 0;
    for field in ["data", "binaryData"] {
        for (key, value) in obj[field].as_object().into_iter().flatten() {
            let path = format!("{field}[{key}]");
            wrong.extend(names::config_key(key).into_iter().map(|why| FieldError::invalid(&*path, key.as_str(), why)));
            if field == "binaryData" && obj["data"].get(key).is_some() {
                wrong.push(FieldError::invalid(&*path, key.as_str(), "duplicate of key present in data"));
            }
            size += value_size(value, field == "binaryData", &path, wrong);
        }
    }
    too_long(size, "", wrong);
}

pub(super) fn secret(obj: &Value, wrong: &mut Vec<FieldError>) {
    let mut size = 0;
    for (key, value) in obj["data"].as_object().into_iter().flatten() {
        let path = format!("data[{key}]");
        wrong.extend(names::config_key(key).into_iter().map(|why| FieldError::invalid(&*path, key.as_str(), why)));
        size += value_size(value, true, &path, wrong);
    }
    too_long(size, "data", wrong);
    let has = |key: &str| ["data", "stringData"].iter().any(|field| obj[*field].get(key).is_some());
    let wanted: &[&str] = match text(obj, "/type") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/service-account-token" => {
            if obj.pointer("/metadata/annotations/kubernetes.io~1service-account.name").is_none() {
                wrong.push(FieldError::required("metadata.annotations[kubernetes.io/service-account.name]", ""));
            }
            &[]
        }
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            wrong.push(FieldError::required("data[username]", ""));
            wrong.push(FieldError::required("data[password]", ""));
            &[]
        }
        _ => &[],
    };
    for key in wanted.iter().filter(|key| !has(key)) {
        wrong.push(FieldError::required(format!("data[{key}]"), ""));
    }
}

fn value_size(value: &Value, encoded: bool, path: &str, wrong: &mut Vec<FieldError>) -> usize {
    let value = value.as_str().unwrap_or_default();
    if !encoded {
        return value.len();
    }
    match base64::engine::general_purpose::STANDARD.decode(value) {
        Ok(bytes) => bytes.len(),
        Err(error) => {
            wrong.push(FieldError::invalid(path, "<omitted>", format!("illegal base64 data: {error}")));
            0
        }
    }
}

fn too_long(size: usize, path: &str, wrong: &mut Vec<FieldError>) {
    if size > MOST_DATA {
        let detail = format!("may not be more than {MOST_DATA} bytes");
        wrong.push(FieldError::new(FieldErrorKind::TooLong, path, None, detail));
    }
}
