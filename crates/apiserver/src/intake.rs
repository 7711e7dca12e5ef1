//! From a request's body to an object that has the shape of its kind. Pure, but for the call's warnings.
//!
//! Invariant: what leaves here has the right apiVersion and kind, no field its schema does not know, and no field of
//! another type than its schema says.

use rules::decode::{self, Format};
use serde_json::Value;

use crate::call::Call;
use crate::catalog::Resource;
use crate::status::{Answer, Failure};

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// What to do about fields that the schema does not know, or that come twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unknown {
    Refuse,
    Warn,
    Drop,
}

/// The media type without parameters; JSON when none is given.
fn media(call: &Call) -> &str {
    call.content_type
        .as_deref()
        .and_then(|text| text.split(';').next())
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .unwrap_or(JSON)
}

/// The body as a value, and the fields that came twice in it.
pub(crate) fn value(call: &Call) -> Answer<(Value, Vec<String>)> {
    if call.body.is_empty() {
        return Err(Failure::bad_request("the request has no body, but an object is expected"));
    }
    let (value, duplicates) = match media(call) {
        PROTOBUF => {
            let value = rules::protobuf::decode(&call.body)
                .map_err(|error| Failure::bad_request(format!("the body can't be decoded: {error}")))?;
            (value, Vec::new())
        }
        JSON => text(&call.body, Format::Json)?,
        YAML | "application/x-yaml" | "text/yaml" => text(&call.body, Format::Yaml)?,
        _ => return Err(Failure::unsupported_media_type(&[JSON, YAML, PROTOBUF].join(", "))),
    };
    Ok((value, duplicates))
}

/// A body of the given format as a value, and the fields that came twice in it.
pub(crate) fn text(body: &[u8], format: Format) -> Answer<(Value, Vec<String>)> {
    let decoded = decode::decode(body, format)
        .map_err(|error| Failure::bad_request(format!("the body can't be decoded: {error}")))?;
    Ok((decoded.value, decoded.duplicates))
}

/// The body as an object of `resource`.
pub(crate) fn object(call: &mut Call, resource: &Resource) -> Answer<Value> {
    let (mut value, duplicates) = value(call)?;
    identify(resource, &mut value)?;
    shape(call, resource, &mut value, &duplicates)?;
    Ok(value)
}

/// Checks apiVersion and kind, or fills them in.
pub(crate) fn identify(resource: &Resource, value: &mut Value) -> Answer<()> {
    let Some(map) = value.as_object_mut() else {
        return Err(Failure::bad_request(format!("the body is not an object of kind {}", resource.kind)));
    };
    let text = |map: &serde_json::Map<String, Value>, field: &str| {
        map.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let (api_version, kind) = (text(map, "apiVersion"), text(map, "kind"));
    if !kind.is_empty() && kind != resource.kind {
        return Err(Failure::bad_request(format!(
            "the kind of the object ({kind}) does not match the kind of the resource ({})",
            resource.kind
        )));
    }
    if !api_version.is_empty() && api_version != resource.api_version {
        return Err(Failure::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            resource.api_version
        )));
    }
    map.insert("apiVersion".into(), resource.api_version.as_str().into());
    map.insert("kind".into(), resource.kind.as_str().into());
    Ok(())
}

/// Holds an object to its schema: types always, unknown and duplicate fields as `fieldValidation` says.
pub(crate) fn shape(call: &mut Call, resource: &Resource, value: &mut Value, duplicates: &[String]) -> Answer<()> {
    let mode = match call.query.get("fieldValidation") {
        Some("Strict") => Unknown::Refuse,
        None | Some("Warn") => Unknown::Warn,
        Some("Ignore") => Unknown::Drop,
        Some(other) => {
            let why = format!("Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\"");
            return Err(Failure::bad_option("CreateOptions", "fieldValidation", &why));
        }
    };
    let cannot = |why: String| {
        let (kind, version) = (&resource.kind, &resource.version);
        Failure::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"))
    };
    let report = decode::check_fields(value, &resource.schema);
    if !report.mistyped.is_empty() {
        if resource.custom.is_some() {
            let name = value["metadata"]["name"].as_str().unwrap_or_default();
            return Err(Failure::invalid(resource, name, &report.mistyped));
        }
        return Err(cannot(report.mistyped.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")));
    }
    let found: Vec<&String> = report.unknown.iter().chain(duplicates).collect();
    match mode {
        Unknown::Refuse if !found.is_empty() => {
            let list = found.iter().map(|text| text.as_str()).collect::<Vec<_>>().join(", ");
            return Err(cannot(format!("strict decoding error: {list}")));
        }
        Unknown::Warn => found.into_iter().for_each(|text| call.warn(text.as_str())),
        _ => {}
    }
    decode::prune(value, &resource.schema);
    decode::normalize(value, &resource.schema);
    Ok(())
}
