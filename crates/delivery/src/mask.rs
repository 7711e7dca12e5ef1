//! What is not shown: the contents of Secrets, values of variables and keys of ConfigMaps whose names say that they are secret, and
//! passwords and tokens in URLs.
//!
//! Invariant: a masked value tells nothing of the value, not even its length.

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

/// A userinfo without a colon that is as long is held to be a token, characters.
const TOKEN: usize = 16;
/// How tokens begin that are not as long as they look in examples.
const TOKENS: [&str; 5] = ["ghp_", "gho_", "ghs_", "github_pat_", "glpat-"];

/// A text without the passwords and tokens of the URLs in it: `redis://:hunter2@host` becomes `redis://:(sensitive)@host`, and
/// `jdbc:postgresql://h/db?password=x` becomes `jdbc:postgresql://h/db?password=(sensitive)`.
pub fn without_passwords(text: &str) -> String {
    let (mut said, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        said.push_str(before);
        let word = after.find(|c: char| c.is_whitespace() || "\"'`".contains(c)).unwrap_or(after.len());
        // Of several in a row, each is its own.
        let end = after[..word].find("://").map_or(word, |next| {
            after[..next].rfind(|c: char| !c.is_ascii_alphanumeric() && !"+.-".contains(c)).map_or(0, |at| at + 1)
        });
        let (url, more) = after.split_at(end);
        let (credentials, place) = split_credentials(url);
        said.push_str(&credentials);
        said.push_str(&without_parameters(place));
        rest = more;
    }
    said.push_str(rest);
    said
}

/// What a URL says of who asks, as it may be shown (with its `@`), and what follows it. A password may hold what nobody encoded.
fn split_credentials(url: &str) -> (String, &str) {
    let authority = &url[..url.find(['/', '?', '#']).unwrap_or(url.len())];
    let is_token = |user: &str| user.len() >= TOKEN || TOKENS.iter().any(|start| user.starts_with(start));
    let user_of = |user: &str| if is_token(user) { MASK.to_owned() } else { user.to_owned() };
    let Some((user, following)) = authority.split_once(':').filter(|_| !url.starts_with('[')) else {
        return match authority.rsplit_once('@') {
            Some((user, host)) => (format!("{}@", user_of(user)), &url[authority.len() - host.len()..]),
            None => (String::new(), url),
        };
    };
    // `token@host:80`: the colon is the port's.
    if let Some((user, _)) = user.rsplit_once('@').filter(|_| !following.contains('@')) {
        return (format!("{}@", user_of(user)), &url[user.len() + 1..]);
    }
    let is_port = !user.is_empty() && following.bytes().all(|byte| byte.is_ascii_digit());
    match url.rfind('@') {
        Some(at) if !is_port => (format!("{}:{MASK}@", user_of(user)), &url[at + 1..]),
        _ => (String::new(), url),
    }
}

/// What follows the credentials of a URL, without the values of parameters whose names say that they are secret.
fn without_parameters(place: &str) -> String {
    let mut said = String::with_capacity(place.len());
    let mut rest = place;
    while let Some(at) = rest.find(['?', '&', ';', '#']) {
        let (before, after) = rest.split_at(at + 1);
        said.push_str(before);
        rest = after;
        let name = &rest[..rest.find(|c: char| !c.is_ascii_alphanumeric() && !"_-.".contains(c)).unwrap_or(rest.len())];
        let is_short = ["pass", "pwd"].iter().any(|short| name.eq_ignore_ascii_case(short));
        if !rest[name.len()..].starts_with('=') || !(is_short || is_secret_name(name)) {
            continue;
        }
        let value = &rest[name.len() + 1..];
        let length = value.find(['&', ';']).unwrap_or(value.len());
        said.extend([name, "=", if length == 0 { "" } else { MASK }]);
        rest = &value[length..];
    }
    said.push_str(rest);
    said
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

/// Masks `value` in every `{name: …, value: …}` whose name says that it is secret, and passwords in URLs anywhere.
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
        Value::String(text) if text.contains("://") => *text = without_passwords(text),
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
        let cases = [
            ("postgres://web:p@ss@db:5432/x?a=b", "postgres://web:(sensitive)@db:5432/x?a=b"),
            ("redis://:pw@h", "redis://:(sensitive)@h"),
            ("a https://mia@git.example/x and amqp://u:p@h", "a https://mia@git.example/x and amqp://u:(sensitive)@h"),
            ("http://h:80/a@b:c", "http://h:80/a@b:c"),
            ("http://h:80/image@sha256:12", "http://h:80/image@sha256:12"),
            ("http://h/a:b@c", "http://h/a:b@c"),
            ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
            ("://", "://"),
            (
                "nats://u:p1@a:4222,nats://u:p2@b:4222;nats://u:p3@c",
                "nats://u:(sensitive)@a:4222,nats://u:(sensitive)@b:4222;nats://u:(sensitive)@c",
            ),
            ("redis://:ab/cd@host", "redis://:(sensitive)@host"),
            ("redis://:12/cd@host", "redis://:(sensitive)@host"),
            ("postgres://u:pa#ss@h x@y", "postgres://u:(sensitive)@h x@y"),
            ("postgres://u:p?a@ss@h:5432/db", "postgres://u:(sensitive)@h:5432/db"),
            (
                "jdbc:postgresql://h/db?user=u&password=x&ssl=true",
                "jdbc:postgresql://h/db?user=u&password=(sensitive)&ssl=true",
            ),
            (
                "jdbc:sqlserver://h:1;user=u;pwd=x;a=b \"password=\"",
                "jdbc:sqlserver://h:1;user=u;pwd=(sensitive);a=b \"password=\"",
            ),
            ("https://h/cb#access_token=abc", "https://h/cb#access_token=(sensitive)"),
            ("https://h/?page_size=3", "https://h/?page_size=3"),
            ("https://ghp_xxx@github.com/a", "https://(sensitive)@github.com/a"),
            ("https://ghp_xxx:x-oauth-basic@github.com", "https://(sensitive):(sensitive)@github.com"),
            ("https://0123456789abcdef@sentry:9000/1", "https://(sensitive)@sentry:9000/1"),
            ("ssh://git@github.com:22/a", "ssh://git@github.com:22/a"),
        ];
        for (text, wanted) in cases {
            assert_eq!(without_passwords(text), wanted);
            assert_eq!(without_passwords(wanted), wanted, "once is enough");
        }
    }
}
