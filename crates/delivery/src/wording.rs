//! A server's refusals as a person reads them: without the dumps of whole objects that Kubernetes puts into some.
//!
//! Invariant: what is left out are values only (they may hold what nobody is to see: a Pod template has its variables in it);
//! the field and the reason stay.

use crate::mask;

/// After what a server writes a value.
const MARKS: [&str; 4] = ["Invalid value: ", "Unsupported value: ", "Duplicate value: ", ", got "];

/// The longest list of plain values that stays, bytes: it may help.
const SHORT: usize = 80;

/// The message without dumps: `spec.template: Invalid value: core.PodTemplateSpec{…}: field is immutable` becomes
/// `spec.template: Invalid value: field is immutable`, and the comparison that follows some refusals of several lines is left out.
/// Values of variables, of what is named as a secret and passwords in URLs are left out too.
pub fn condensed(message: &str) -> String {
    let mut said = String::with_capacity(message.len().min(1024));
    let mut rest = message;
    while let Some((at, mark)) = MARKS.iter().filter_map(|mark| Some((rest.find(mark)?, *mark))).min() {
        let (before, value) = rest.split_at(at + mark.len());
        said.push_str(before);
        rest = value;
        let Some(length) = dump(value).or_else(|| quoted(value)) else { continue };
        let shown = &value[..length];
        if mark == ", got " && shown.contains('{') {
            said.push_str("something else");
            rest = &value[length..];
        } else if length > SHORT || shown.contains('{') || is_secret(&before[..at]) {
            rest = value[length..].strip_prefix(": ").unwrap_or(&value[length..]);
        } else {
            said.push_str(shown);
            rest = &value[length..];
        }
    }
    said.push_str(rest);
    mask::without_passwords(&without_comparison(&said))
}

/// Whether the field that a message names last holds what is not to be seen: a variable's value, contents of a Secret or ConfigMap,
/// a field that is called a secret.
fn is_secret(before: &str) -> bool {
    let field = before.trim_end_matches([':', ' ']).rsplit([' ', '\n']).next().unwrap_or_default();
    let last = field.rsplit('.').next().unwrap_or_default();
    let of_data = ["data[", "data.", "stringData[", "stringData."].iter().any(|start| field.starts_with(start));
    last == "value" || of_data || mask::is_secret_name(last) && !last.ends_with("Name")
}

/// The length of a text in quotation marks; nothing where none begins the text.
fn quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    let end = text.strip_prefix('"')?.char_indices().find(|(_, c)| {
        let ends = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    // Cut short somewhere: everything is of it.
    Some(end.map_or(text.len(), |(at, _)| at + 2))
}

/// The length of a value that is written as Go or JSON writes a structure; nothing where none begins the text.
fn dump(text: &str) -> Option<usize> {
    let type_name = |c: char| c.is_ascii_alphanumeric() || "._*&[]".contains(c);
    let is_list = text.starts_with('[') && !text.starts_with("[]");
    let begin = if is_list { 0 } else { text.find(|c| !type_name(c)).filter(|at| text[*at..].starts_with('{'))? };
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for (at, c) in text.char_indices().skip_while(|(at, _)| *at < begin) {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '{' | '[' if !quoted => depth += 1,
            '}' | ']' if !quoted => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(at + c.len_utf8());
                }
            }
            _ => {}
        }
    }
    // Cut short somewhere: everything is of the dump.
    Some(text.len())
}

/// Leaves out the lines of a comparison (`  core.PodSpec{`, `- …`, `+ …`) that follow the first.
fn without_comparison(message: &str) -> String {
    let of_comparison = |line: &str| {
        line.trim().is_empty()
            || line.starts_with(['\t', ' ', '\u{a0}'])
            || line.starts_with("- ")
            || line.starts_with("+ ")
            || line.starts_with("-\u{a0}")
            || line.starts_with("+\u{a0}")
            || line.starts_with("-\t")
            || line.starts_with("+\t")
    };
    let is_one = message.lines().nth(1).is_some_and(|line| line.trim_end().ends_with('{') && of_comparison(line));
    if !is_one {
        return message.to_owned();
    }
    let mut lines = message.lines();
    let mut kept: Vec<&str> = lines.next().into_iter().collect();
    kept.extend(lines.filter(|line| !of_comparison(line)));
    kept.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As kube-apiserver 1.33 refuses them.
    #[test]
    fn dumps_are_left_out() {
        let template = "Job.batch \"j\" is invalid: spec.template: Invalid value: core.PodTemplateSpec{ObjectMeta:v1.ObjectMeta{Name:\"\", Labels:map[string]string{\"a\":\"}\\\"{\"}, DeletionGracePeriodSeconds:(*int64)(nil)}, Spec:core.PodSpec{Env:[]core.EnvVar{core.EnvVar{Name:\"PASSWORD\", Value:\"hunter2\"}}}}: field is immutable";
        let short = "Deployment.apps \"api\" is invalid: spec.selector: Invalid value: v1.LabelSelector{MatchLabels:map[string]string{\"app\":\"api2\"}, MatchExpressions:[]v1.LabelSelectorRequirement(nil)}: field is immutable";
        let compared = "Pod \"p\" is invalid: spec: Forbidden: pod updates may not change fields other than `spec.activeDeadlineSeconds`\n  core.PodSpec{\n  \tContainers: []core.Container{\n- \t\tPorts: nil,\n+ \t\tPorts: []core.ContainerPort{{ContainerPort: 80}},\n  \t},\n  }\n";
        let json = "spec.template: Invalid value: {\"spec\":{\"containers\":[{\"name\":\"a\",\"env\":[{\"name\":\"PASSWORD\",\"value\":\"hunter2\"}],\"image\":\"nginx\"}]}}: field is immutable";
        let cases = [
            (template, "Job.batch \"j\" is invalid: spec.template: Invalid value: field is immutable"),
            (short, "Deployment.apps \"api\" is invalid: spec.selector: Invalid value: field is immutable"),
            (
                compared,
                "Pod \"p\" is invalid: spec: Forbidden: pod updates may not change fields other than `spec.activeDeadlineSeconds`",
            ),
            (json, "spec.template: Invalid value: field is immutable"),
            (
                "Pod \"p\" is invalid: [spec.containers[0].env[0].value: Invalid value: \"hun\\\"ter2\": no, spec.x: Required value]",
                "Pod \"p\" is invalid: [spec.containers[0].env[0].value: Invalid value: no, spec.x: Required value]",
            ),
            ("x: Duplicate value: {\"name\":\"A\",\"value\":\"hunter2\"}", "x: Duplicate value: "),
            (
                "spec.password: Unsupported value: \"hunter2\": supported values: \"a\"",
                "spec.password: Unsupported value: supported values: \"a\"",
            ),
            ("data[key]: Invalid value: \"hunter2\": no", "data[key]: Invalid value: no"),
            (
                "spec.url: Invalid value: \"redis://:hunter2@h\": no",
                "spec.url: Invalid value: \"redis://:(sensitive)@h\": no",
            ),
            (
                "errors: .spec.env[name=\"P\"].value: expected string, got &value.valueUnstructured{Value:4711}",
                "errors: .spec.env[name=\"P\"].value: expected string, got something else",
            ),
        ];
        for (message, wanted) in cases {
            assert_eq!(condensed(message), wanted);
        }
        let two = format!("[{template}, spec.replicas: Invalid value: -1: must be greater]");
        let said = condensed(&two);
        assert!(
            !said.contains("hunter2")
                && said.ends_with("field is immutable, spec.replicas: Invalid value: -1: must be greater]"),
            "{said}"
        );
    }

    #[test]
    fn what_helps_stays() {
        for message in [
            "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain must consist of",
            "spec.volumes[0].secret.secretName: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain must consist of",
            "spec.type: Unsupported value: \"X\": supported values: \"ClusterIP\", \"NodePort\"",
            "expected 3, got 4",
            "spec.clusterIPs[0]: Invalid value: [\"127.96.0.3\"]: may not change once set",
            "these are wrong:\n  a.yaml: duplicate field\n  b.yaml: no kind",
            "Invalid value: ",
            "",
        ] {
            assert_eq!(condensed(message), message);
        }
        assert_eq!(condensed("x: Invalid value: core.A{B:\"cut"), "x: Invalid value: ");
        let list = "x: Invalid value: [{\"name\":\"A\",\"value\":\"b\"}]: must be fewer";
        assert_eq!(condensed(list), "x: Invalid value: must be fewer");
    }
}
