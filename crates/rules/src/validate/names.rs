//! The forms of names, labels and keys. Each check returns what is wrong, in upstream's words; nothing when all is well.

/// The wanted form, what it means, and examples: the usual ending of a message.
fn regex_error(message: &str, pattern: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|one| format!("'{one}'")).collect();
    format!("{message} (e.g. {}, regex used for validation is '{pattern}')", examples.join(",  or "))
}

fn too_long(most: usize) -> String {
    format!("must be no more than {most} characters")
}

fn is_label(text: &str) -> bool {
    let ok = |one: u8| one.is_ascii_lowercase() || one.is_ascii_digit();
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => ok(*first) && ok(*last) && bytes.iter().all(|one| ok(*one) || *one == b'-'),
        _ => false,
    }
}

/// RFC 1123 label: at most 63 of `[a-z0-9-]`, beginning and ending alphanumeric.
pub(crate) fn dns_label(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > 63 {
        wrong.push(too_long(63));
    }
    if !is_label(text) {
        wrong.push(regex_error(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
            "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "123-abc"],
        ));
    }
    wrong
}

/// RFC 1035 label: as an RFC 1123 label, but beginning with a letter. Services have such names.
pub(crate) fn dns1035_label(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > 63 {
        wrong.push(too_long(63));
    }
    if !is_label(text) || !text.starts_with(|one: char| one.is_ascii_lowercase()) {
        wrong.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    wrong
}

/// RFC 1123 subdomain: labels joined by dots, at most 253 characters.
pub(crate) fn dns_subdomain(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > 253 {
        wrong.push(too_long(253));
    }
    if !text.split('.').all(is_label) {
        wrong.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    wrong
}

/// A name that may stand as one segment of a path (roles and their bindings).
pub(crate) fn path_segment(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if matches!(text, "." | "..") {
        wrong.push(format!("may not be '{text}'"));
    }
    for part in ["/", "%"] {
        if text.contains(part) {
            wrong.push(format!("may not contain '{part}'"));
        }
    }
    wrong
}

fn is_qualified_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && bytes.iter().all(|one| one.is_ascii_alphanumeric() || matches!(one, b'-' | b'_' | b'.'))
        }
        _ => false,
    }
}

/// A label or annotation key: an optional DNS prefix and a name.
pub(crate) fn qualified_name(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    const FORM: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
    const MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            } else {
                wrong.extend(dns_subdomain(prefix).into_iter().map(|why| format!("prefix part {why}")));
            }
            *name
        }
        _ => {
            wrong.push(format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                regex_error(MESSAGE, FORM, &["MyName", "my.name", "123-abc"])
            ));
            return wrong;
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        wrong.push(format!("name part {}", too_long(63)));
    }
    if !is_qualified_part(name) {
        wrong.push(format!("name part {}", regex_error(MESSAGE, FORM, &["MyName", "my.name", "123-abc"])));
    }
    wrong
}

/// A label's value: empty, or at most 63 of `[A-Za-z0-9-_.]`.
pub(crate) fn label_value(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > 63 {
        wrong.push(too_long(63));
    }
    if !text.is_empty() && !is_qualified_part(text) {
        wrong.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    wrong
}

/// A key of a ConfigMap or Secret: a file name.
pub(crate) fn config_key(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > 253 {
        wrong.push(too_long(253));
    }
    if text.is_empty() || !text.bytes().all(|one| one.is_ascii_alphanumeric() || matches!(one, b'-' | b'_' | b'.')) {
        wrong.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    if text == "." {
        wrong.push("must not be '.'".to_owned());
    } else if text == ".." {
        wrong.push("must not be '..'".to_owned());
    } else if text.starts_with("..") {
        wrong.push("must not start with '..'".to_owned());
    }
    wrong
}

/// The name of an environment variable: printable ASCII without `=`.
pub(crate) fn env_name(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|one| (0x20..=0x7e).contains(&one) && one != b'=') {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// A port's name (IANA service name): at most 15 of `[a-z0-9-]` with a letter, no two dashes in a row.
pub(crate) fn port_name(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > 15 {
        wrong.push("must be no more than 15 characters".to_owned());
    }
    if !text.bytes().all(|one| one.is_ascii_lowercase() || one.is_ascii_digit() || one == b'-') {
        wrong.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|one| one.is_ascii_lowercase()) {
        wrong.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        wrong.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        wrong.push("must not begin or end with a hyphen".to_owned());
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    type Check = fn(&str) -> Vec<String>;

    #[test]
    fn forms() {
        let long = "a".repeat(64);
        let longer = "a".repeat(254);
        let table: [(Check, &[&str], &[&str]); 9] = [
            (dns_label, &["a", "ab", "a1", "a-1", "0", "1-a"], &["", "A", "a_b", "-", "a-", "-a", "a.b", "é", &long]),
            (dns1035_label, &["a", "a1", "a-1"], &["", "0a", "A", "a-", &long]),
            (dns_subdomain, &["a", "a.b", "0.a-b.c"], &["", ".", "a.", ".a", "a..b", "A.b", "a_b.c", &longer]),
            (path_segment, &["a", "system:node", "A b"], &[".", "..", "a/b", "a%b"]),
            (
                qualified_name,
                &["a", "a.b_c-D", "example.com/x", "1.2/3"],
                &["", "/", "a/", "/a", "a/b/c", "a b", "-a", "A.com/x", &long],
            ),
            (label_value, &["", "a", "A_b.c-d", "1"], &["-a", "a-", "a b", "a/b", &long]),
            (config_key, &["a", "a.b", "A_B", ".hidden", "a..b"], &["", ".", "..", "..a", "a/b", "a b", &longer]),
            (env_name, &["A", "a.b-c", "1A", "a b"], &["", "A=B", "é"]),
            (port_name, &["http", "a1", "1a", "h2-c"], &["", "1", "a--b", "-a", "a-", "A", "abcdefghijklmnop"]),
        ];
        for (at, (check, good, bad)) in table.into_iter().enumerate() {
            for text in good {
                assert_eq!(check(text), Vec::<String>::new(), "row {at}: {text}");
            }
            for text in bad {
                assert_ne!(check(text), Vec::<String>::new(), "row {at}: {text}");
            }
        }
    }
}
