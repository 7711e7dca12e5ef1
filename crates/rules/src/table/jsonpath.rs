//! The part of JSONPath that printer columns use: fields, indexes, `[*]` and filters such as `[?(@.type=="Ready")]`.

use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    /// The path below an item, and what is compared there; nothing compared means: is there.
    Filter {
        path: Vec<Step>,
        test: Option<(Comparator, Value)>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Comparator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct JsonPath {
    steps: Vec<Step>,
}

impl JsonPath {
    /// Reads `.spec.replicas`, with or without braces around it. None when it is not of the supported form.
    pub(super) fn parse(text: &str) -> Option<JsonPath> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
        let text = text.strip_prefix('$').unwrap_or(text);
        Some(JsonPath { steps: parse_steps(text)? })
    }

    /// The first value found.
    pub(super) fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        find(value, &self.steps).into_iter().next()
    }
}

fn parse_steps(mut text: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    while !text.is_empty() {
        if let Some(rest) = text.strip_prefix('.') {
            let (name, rest) = field_name(rest);
            match name.as_str() {
                "" if rest.starts_with('[') || rest.is_empty() => {}
                "" => return None,
                "*" => steps.push(Step::All),
                _ => steps.push(Step::Field(name)),
            }
            text = rest;
        } else if let Some(rest) = text.strip_prefix('[') {
            let end = closing(rest)?;
            steps.push(bracket(&rest[..end])?);
            text = &rest[end + 1..];
        } else if steps.is_empty() {
            let (name, rest) = field_name(text);
            steps.push(Step::Field(name));
            text = rest;
        } else {
            return None;
        }
    }
    Some(steps)
}

/// A name up to the next dot or bracket; a backslash takes the next character as it is.
fn field_name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, one)) = chars.next() {
        match one {
            '.' | '[' => return (name, &text[at..]),
            '\\' => name.extend(chars.next().map(|(_, one)| one)),
            other => name.push(other),
        }
    }
    (name, "")
}

/// Where the bracket that was opened before `text` closes.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut quote = None;
    for (at, one) in text.char_indices() {
        match (quote, one) {
            (Some(open), one) if one == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(one),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(inside: &str) -> Option<Step> {
    if inside == "*" {
        return Some(Step::All);
    }
    if let Some(filter) = inside.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) {
        return parse_filter(filter);
    }
    for quote in ['\'', '"'] {
        if let Some(name) = inside.strip_prefix(quote).and_then(|text| text.strip_suffix(quote)) {
            return Some(Step::Field(name.to_owned()));
        }
    }
    inside.parse().ok().map(Step::Index)
}

fn parse_filter(filter: &str) -> Option<Step> {
    const COMPARATORS: [(&str, Comparator); 6] = [
        ("==", Comparator::Equal),
        ("!=", Comparator::NotEqual),
        ("<=", Comparator::LessOrEqual),
        (">=", Comparator::GreaterOrEqual),
        ("<", Comparator::Less),
        (">", Comparator::Greater),
    ];
    let found = COMPARATORS
        .iter()
        .filter_map(|(sign, one)| Some((filter.find(sign)?, sign, *one)))
        .min_by_key(|(at, sign, _)| (*at, 2 - sign.len()));
    let (left, test) = match found {
        Some((at, sign, comparator)) => (&filter[..at], Some((comparator, literal(filter[at + sign.len()..].trim())?))),
        None => (filter, None),
    };
    let path = parse_steps(left.trim().strip_prefix('@')?)?;
    Some(Step::Filter { path, test })
}

fn literal(text: &str) -> Option<Value> {
    if let Some(quoted) = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')) {
        return Some(quoted.into());
    }
    serde_json::from_str(text).ok()
}

fn find<'a>(value: &'a Value, steps: &[Step]) -> Vec<&'a Value> {
    let Some((step, rest)) = steps.split_first() else { return vec![value] };
    let next: Vec<&Value> = match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Index(index) => {
            let Some(items) = value.as_array() else { return Vec::new() };
            let at = if *index < 0 { items.len() as i64 + index } else { *index };
            usize::try_from(at).ok().and_then(|at| items.get(at)).into_iter().collect()
        }
        Step::All => match value {
            Value::Array(items) => items.iter().collect(),
            Value::Object(fields) => fields.values().collect(),
            _ => Vec::new(),
        },
        Step::Filter { path, test } => {
            let items = value.as_array().map_or(&[][..], Vec::as_slice);
            items
                .iter()
                .filter(|item| find(item, path).into_iter().next().is_some_and(|found| holds(found, test.as_ref())))
                .collect()
        }
    };
    next.into_iter().flat_map(|value| find(value, rest)).collect()
}

fn holds(found: &Value, test: Option<&(Comparator, Value)>) -> bool {
    let Some((comparator, wanted)) = test else { return true };
    let order = match (found, wanted) {
        (Value::String(found), Value::String(wanted)) => Some(found.cmp(wanted)),
        _ => found.as_f64().zip(wanted.as_f64()).and_then(|(found, wanted)| found.partial_cmp(&wanted)),
    };
    match comparator {
        Comparator::Equal => found == wanted || order.is_some_and(|order| order.is_eq()),
        Comparator::NotEqual => found != wanted && !order.is_some_and(|order| order.is_eq()),
        Comparator::Less => order.is_some_and(|order| order.is_lt()),
        Comparator::LessOrEqual => order.is_some_and(|order| order.is_le()),
        Comparator::Greater => order.is_some_and(|order| order.is_gt()),
        Comparator::GreaterOrEqual => order.is_some_and(|order| order.is_ge()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths() {
        let obj = json!({
            "metadata": {"annotations": {"a.b/c": "x"}},
            "spec": {"replicas": 2, "list": [{"n": 1}, {"n": 2}], "ports": {"b": 2, "a": 1}},
            "status": {"conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True", "n": 3}]}
        });
        for (path, wanted) in [
            (".spec.replicas", Some(json!(2))),
            ("{.spec.replicas}", Some(json!(2))),
            ("spec.replicas", Some(json!(2))),
            (".metadata.annotations.a\\.b/c", Some(json!("x"))),
            (".metadata.annotations['a.b/c']", Some(json!("x"))),
            (".spec.list[1].n", Some(json!(2))),
            (".spec.list[-1].n", Some(json!(2))),
            (".spec.list[*].n", Some(json!(1))),
            (".spec.list[9].n", None),
            (".spec.ports.*", Some(json!(1))),
            (".status.conditions[?(@.type==\"Ready\")].status", Some(json!("True"))),
            (".status.conditions[?(@.type=='Ready')].status", Some(json!("True"))),
            (".status.conditions[?(@.type == 'Ready')].status", Some(json!("True"))),
            (".status.conditions[?(@.type!='A')].status", Some(json!("True"))),
            (".status.conditions[?(@.n>=3)].type", Some(json!("Ready"))),
            (".status.conditions[?(@.n<3)].type", None),
            (".status.conditions[?(@.n)].type", Some(json!("Ready"))),
            (".missing.field", None),
        ] {
            let parsed = JsonPath::parse(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(parsed.first(&obj).cloned(), wanted, "{path}");
        }
        for path in [".a[", ".a[?(x)]", ".a[b]", "..a", ".a]b", ".a[0]b"] {
            let parsed = JsonPath::parse(path);
            assert!(parsed.is_none_or(|parsed| parsed.first(&obj).is_none()), "{path}");
        }
    }
}
