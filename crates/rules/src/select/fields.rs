//! Field selectors: `metadata.name=a,status.phase!=Running`, over the fields Kubernetes supports for each kind.

use super::SelectError;
use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    field: String,
    value: String,
    equal: bool,
}

/// Which field values are wanted: all requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<Requirement>,
}

impl FieldSelector {
    /// Reads the text form. Whether a kind supports the fields is asked with [`FieldSelector::check`].
    pub fn parse(text: &str) -> Result<FieldSelector, SelectError> {
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let (field, value, equal) = split_term(&term)
                .ok_or_else(|| SelectError::Field(format!("invalid selector: '{text}'; can't understand '{term}'")))?;
            requirements.push(Requirement { field: field.to_owned(), value: unescape(value)?, equal });
        }
        Ok(FieldSelector { requirements })
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Refuses fields that can't be selected by for this kind. `selectable` are a custom resource's own
    /// (`selectableFields`, without the leading dot).
    pub fn check(&self, api_version: &str, kind: &str, selectable: &[&str]) -> Result<(), SelectError> {
        for requirement in &self.requirements {
            let field = requirement.field.as_str();
            if !supported(api_version, kind).contains(&field)
                && !COMMON.contains(&field)
                && !selectable.contains(&field)
            {
                return Err(SelectError::Unsupported(field.to_owned()));
            }
        }
        Ok(())
    }

    /// The value that `field` must be equal to, when the selector says so: lets a caller look up by name.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements.iter().find(|one| one.equal && one.field == field).map(|one| one.value.as_str())
    }

    /// Whether an object is selected. A field that is absent has the value its kind gives it, mostly empty.
    pub fn matches(&self, obj: &Value) -> bool {
        self.requirements.iter().all(|one| (value_of(obj, &one.field) == one.value) == one.equal)
    }
}

const COMMON: [&str; 2] = ["metadata.name", "metadata.namespace"];

fn supported(api_version: &str, kind: &str) -> &'static [&'static str] {
    match (api_version, kind) {
        ("v1", "Pod") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        ("v1" | "events.k8s.io/v1", "Event") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingComponent",
            "reportingController",
            "source",
            "type",
        ],
        ("v1", "Secret") => &["type"],
        ("v1", "Namespace") => &["status.phase"],
        ("v1", "Node") => &["spec.unschedulable"],
        ("v1", "ReplicationController") | ("apps/v1", "ReplicaSet") => &["status.replicas"],
        ("v1", "Service") => &["spec.clusterIP", "spec.type"],
        ("batch/v1", "Job") => &["status.successful"],
        ("certificates.k8s.io/v1", "CertificateSigningRequest") => &["spec.signerName"],
        _ => &[],
    }
}

fn value_of(obj: &Value, field: &str) -> String {
    match (field, obj["kind"].as_str().unwrap_or_default()) {
        ("status.podIPs", _) => {
            let all = obj.pointer("/status/podIPs").and_then(Value::as_array);
            return all.into_iter().flatten().filter_map(|one| one["ip"].as_str()).collect::<Vec<_>>().join(",");
        }
        ("status.successful", "Job") => return number(obj, "/status/succeeded"),
        ("status.replicas", "ReplicaSet" | "ReplicationController") => return number(obj, "/status/replicas"),
        ("spec.hostNetwork", _) | ("spec.unschedulable", _) => {
            return at(obj, field).and_then(Value::as_bool).unwrap_or(false).to_string();
        }
        ("source", "Event") => {
            let component = obj.pointer("/source/component").or_else(|| obj.pointer("/deprecatedSource/component"));
            return component.or(obj.get("reportingComponent")).and_then(Value::as_str).unwrap_or_default().to_owned();
        }
        (field, "Event") => {
            // The two Event versions name the same field differently.
            let other = match field.split_once('.') {
                Some(("involvedObject", rest)) => format!("regarding.{rest}"),
                Some(("regarding", rest)) => format!("involvedObject.{rest}"),
                _ if field == "reportingComponent" => "reportingController".to_owned(),
                _ if field == "reportingController" => "reportingComponent".to_owned(),
                _ => field.to_owned(),
            };
            return at(obj, field).or_else(|| at(obj, &other)).map(scalar).unwrap_or_default();
        }
        _ => {}
    }
    at(obj, field).map(scalar).unwrap_or_default()
}

fn number(obj: &Value, pointer: &str) -> String {
    obj.pointer(pointer).and_then(Value::as_i64).unwrap_or(0).to_string()
}

fn at<'a>(obj: &'a Value, field: &str) -> Option<&'a Value> {
    field.split('.').try_fold(obj, |value, part| value.get(part))
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Object(_) | Value::Array(_) => String::new(),
        other => other.to_string(),
    }
}

/// Splits at commas that no backslash escapes.
fn split_terms(text: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut escaped = false;
    for one in text.chars() {
        if one == ',' && !escaped {
            terms.push(String::new());
            continue;
        }
        escaped = one == '\\' && !escaped;
        if let Some(last) = terms.last_mut() {
            last.push(one);
        }
    }
    terms
}

fn split_term(term: &str) -> Option<(&str, &str, bool)> {
    let at = term.find(['=', '!'])?;
    let (field, rest) = term.split_at(at);
    let (value, equal) = if let Some(value) = rest.strip_prefix("!=") {
        (value, false)
    } else {
        (rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?, true)
    };
    Some((field, value, equal))
}

fn unescape(value: &str) -> Result<String, SelectError> {
    let mut result = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(one) = chars.next() {
        match one {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => result.push(next),
                Some(next) => {
                    return Err(SelectError::Field(format!(
                        "invalid field selector: invalid escape sequence: \\{next}"
                    )));
                }
                None => {
                    return Err(SelectError::Field("invalid field selector: invalid escape sequence: \\".to_owned()));
                }
            },
            ',' | '=' => {
                return Err(SelectError::Field(format!("invalid field selector: unescaped character in value: {one}")));
            }
            other => result.push(other),
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn matching() {
        let pod = json!({
            "kind": "Pod", "metadata": {"name": "a", "namespace": "n"}, "spec": {"nodeName": "x"},
            "status": {"phase": "Running", "podIPs": [{"ip": "127.0.0.1"}]}
        });
        let event = json!({"kind": "Event", "involvedObject": {"name": "a", "uid": "u"}, "source": {"component": "kubelet"}, "reason": "R"});
        for (obj, text, wanted) in [
            (&pod, "", true),
            (&pod, "metadata.name=a", true),
            (&pod, "metadata.name==a,metadata.namespace=n", true),
            (&pod, "metadata.name!=a", false),
            (&pod, "status.phase!=Running", false),
            (&pod, "spec.nodeName=", false),
            (&pod, "spec.hostNetwork=false", true),
            (&pod, "status.podIPs=127.0.0.1", true),
            (&pod, "status.nominatedNodeName=", true),
            (&event, "involvedObject.name=a,involvedObject.uid=u", true),
            (&event, "regarding.name=a", true),
            (&event, "source=kubelet,reason=R,type!=Warning", true),
            (&event, "involvedObject.kind=Pod", false),
            (&json!({"kind": "Job", "status": {"succeeded": 2}}), "status.successful=2", true),
            (&json!({"kind": "ReplicaSet"}), "status.replicas=0", true),
            (&json!({"kind": "Node"}), "spec.unschedulable!=true", true),
            (&json!({"metadata": {"name": "a,b"}}), "metadata.name=a\\,b", true),
        ] {
            assert_eq!(FieldSelector::parse(text).expect("valid").matches(obj), wanted, "{text}");
        }
    }

    #[test]
    fn refusals() {
        for text in ["a", "metadata.name=a=b", "metadata.name=a\\b", "x!y"] {
            assert!(FieldSelector::parse(text).is_err(), "{text}");
        }
        for (gv, kind, text, wanted) in [
            ("v1", "Pod", "spec.foo=a", Some("field label not supported: spec.foo")),
            ("v1", "Pod", "spec.nodeName=a,metadata.name=b", None),
            ("v1", "ConfigMap", "status.phase=a", Some("field label not supported: status.phase")),
            ("v1", "Event", "involvedObject.kind=Pod", None),
            ("v1", "Secret", "type=Opaque", None),
            ("apps/v1", "Deployment", "metadata.namespace=x", None),
        ] {
            let got = FieldSelector::parse(text).expect("valid").check(gv, kind, &[]);
            assert_eq!(got.err().map(|error| error.to_string()).as_deref(), wanted, "{text}");
        }
        let own = FieldSelector::parse("spec.color=red").expect("valid");
        assert!(own.check("example.com/v1", "Thing", &["spec.color"]).is_ok());
        assert!(own.check("example.com/v1", "Thing", &[]).is_err());
        assert_eq!(FieldSelector::parse("metadata.name=a").expect("valid").exact("metadata.name"), Some("a"));
    }
}
