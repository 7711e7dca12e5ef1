//! What is not shown: the contents of Secrets, values of variables and keys of ConfigMaps whose names say that they are secret, and
//! passwords and tokens in texts ([`text`]).
//!
//! Invariant: a masked value tells nothing of the value, not even its length.

mod pairs;
mod text;
mod urls;
mod userinfo;

pub use text::without_passwords;

use crate::fields::{Path, Step};
use crate::object;
use serde_json::Value;

/// What stands in the place of a secret.
pub const MASK: &str = "(sensitive)";

/// Words in a variable's name that make its value a secret.
const WORDS: [&str; 9] =
    ["password", "passwd", "passphrase", "secret", "token", "apikey", "api_key", "private_key", "credential"];

/// Whether a name says that what it names is secret.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_lowercase().replace('-', "_");
    WORDS.iter().any(|word| name.contains(word))
}

fn is_config(object: &Value) -> bool {
    object::kind(object) == "ConfigMap" && object::group(object).is_empty()
}

fn is_secret(object: &Value) -> bool {
    object::kind(object) == "Secret" && object::group(object).is_empty()
}

/// Whether the value at the path is to be kept from sight.
pub fn is_sensitive(live: &Value, wanted: &Value, path: &Path) -> bool {
    let first = match path.0.first() {
        Some(Step::Field(name)) => name.as_str(),
        _ => "",
    };
    if (is_secret(live) || is_secret(wanted)) && matches!(first, "data" | "stringData") {
        return true;
    }
    if (is_config(live) || is_config(wanted))
        && matches!(path.0.as_slice(), [Step::Field(data), Step::Field(key)] if matches!(data.as_str(), "data" | "binaryData") && is_secret_name(key))
    {
        return true;
    }
    if matches!(path.0.last(), Some(Step::Field(name)) if name == "kubectl.kubernetes.io/last-applied-configuration") {
        return true;
    }
    // A variable of a container: `env[name=DB_PASSWORD].value`.
    let element = path.0.iter().rev().find_map(|step| match step {
        Step::Element(key, Value::String(value), _) if key == "name" => Some(value.as_str()),
        _ => None,
    });
    let is_value = matches!(path.0.last(), Some(Step::Field(name)) if name == "value");
    is_value && element.is_some_and(is_secret_name)
}

/// The value at the path of the object, with what is secret below it masked.
pub fn below(object: &Value, path: &Path, value: &Value) -> Value {
    if path.0.is_empty() && (is_secret(object) || is_config(object)) {
        return masked(value);
    }
    let mut value = value.clone();
    variables(&mut value);
    value
}

/// The whole object with everything secret masked, for showing.
pub fn masked(object: &Value) -> Value {
    let mut shown = object.clone();
    if is_secret(object) {
        for field in ["data", "stringData"] {
            if let Some(map) = shown.get_mut(field).and_then(Value::as_object_mut) {
                map.values_mut().for_each(|value| *value = MASK.into());
            }
        }
        if let Some(annotations) = shown.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    if is_config(object) {
        for field in ["data", "binaryData"] {
            let map = shown.get_mut(field).and_then(Value::as_object_mut).into_iter().flatten();
            map.filter(|(key, _)| is_secret_name(key)).for_each(|(_, value)| *value = MASK.into());
        }
    }
    variables(&mut shown);
    shown
}

/// Masks `value` in every `{name: …, value: …}` whose name says that it is secret, and passwords in texts anywhere.
fn variables(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let secret = map.get("name").and_then(Value::as_str).is_some_and(is_secret_name);
            if secret && map.get("value").is_some_and(Value::is_string) {
                map.insert("value".to_owned(), MASK.into());
            }
            map.values_mut().for_each(variables);
        }
        Value::Array(list) => list.iter_mut().for_each(variables),
        Value::String(text) if text::may_tell(text) => *text = without_passwords(text),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_and_secret_variables_are_masked() {
        let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "YQ=="}});
        assert_eq!(masked(&object)["data"]["a"], MASK);
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"env": [
            {"name": "DB_PASSWORD", "value": "x"}, {"name": "LEVEL", "value": "info"}, {"name": "api-key", "value": "y"}]}]}});
        let env = &masked(&pod)["spec"]["containers"][0]["env"];
        assert_eq!(
            (&env[0]["value"], &env[1]["value"], &env[2]["value"]),
            (&json!(MASK), &json!("info"), &json!(MASK))
        );
        assert!(masked(&pod).get("data").is_none());
    }

    #[test]
    fn secret_keys_of_config_maps_and_passwords_in_urls_are_masked() {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"DB_PASSWORD": "x", "LEVEL": "info", "URL": "redis://u:x@h/0"}});
        let shown = &masked(&map)["data"];
        assert_eq!((&shown["DB_PASSWORD"], &shown["LEVEL"]), (&json!(MASK), &json!("info")));
        assert_eq!(shown["URL"], "redis://u:(sensitive)@h/0");
    }
}
