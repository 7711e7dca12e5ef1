//! Variables, the older form of replacements: `$(NAME)` in the places that the configuration names.
//!
//! Invariants: a name is defined once in all layers; what is not a variable's name stays as it is written; `$$` is `$`.
//! It must not know: files.

use super::error::{At, Error, Result, fail};
use super::fieldpath;
use super::fieldspec::{FieldSpec, visit};
use super::id::ResId;
use super::node::{Node, Scalar, Tag};
use super::resources::Resources;
use super::settings::Var;
use std::collections::BTreeMap;

/// Variables by name.
pub(super) type Vars = BTreeMap<String, Var>;

/// Adds variables whose names must be new.
pub(super) fn add(vars: &mut Vars, more: impl IntoIterator<Item = Var>) -> Result<()> {
    for var in more {
        if let Some(old) = vars.insert(var.name.clone(), var) {
            return fail(format!("vars: `{}` is defined twice; rename one", old.name));
        }
    }
    Ok(())
}

/// Notes at resources which variables take their value there.
pub(super) fn mark(resources: &mut Resources, vars: &[Var]) -> Result<()> {
    for var in vars {
        let wanted =
            ResId { gvk: var.gvk.clone(), name: var.object.clone(), namespace: var.namespace.clone(), cluster: false };
        let any_namespace = wanted.namespace.is_empty();
        let found = resources.ever(|id| wanted.name_equals(id) && (any_namespace || wanted.same_namespace(id)));
        match found[..] {
            [] => {}
            [at] => resources.list_mut()[at].history.variables.push(var.name.clone()),
            _ => return fail(format!("vars: {} is the object of `{}` and is several resources", wanted, var.name)),
        }
    }
    Ok(())
}

/// A variable's value, and what it is where it stands alone.
#[derive(Debug, Clone)]
enum Value {
    Single {
        text: String,
        tag: Tag,
    },
    /// Mappings and lists are not written into text.
    Structure,
}

/// Writes the values of all variables.
pub(super) fn resolve(resources: &mut Resources, vars: &Vars, specs: &[FieldSpec]) -> Result<()> {
    if vars.is_empty() {
        return Ok(());
    }
    let mut values = BTreeMap::new();
    for var in vars.values() {
        values.insert(var.name.clone(), value(resources, var).at(|| format!("vars: {}", var.name))?);
    }
    for resource in resources.iter_mut() {
        for spec in specs {
            visit(resource, spec, None, &mut |node| set(node, &values))?;
        }
    }
    Ok(())
}

fn value(resources: &Resources, var: &Var) -> Result<Value> {
    let Some(resource) = resources.iter().find(|resource| resource.history.variables.contains(&var.name)) else {
        return fail(format!(
            "there is no {} {}; `objref` needs its apiVersion, kind and name",
            var.gvk.kind, var.object
        ));
    };
    let parts: Vec<String> = fieldpath::split(&var.field_path).iter().flat_map(|part| with_index(part)).collect();
    let Some(node) = fieldpath::get(&resource.node, &parts)? else {
        return fail(format!("{} has no field `{}`", resource.id(), var.field_path));
    };
    let Node::Scalar(scalar) = node else { return Ok(Value::Structure) };
    let wrong = || Error::new(format!("the value `{}` of `{}` cannot be read", scalar.text, var.field_path));
    let text = match scalar.tag {
        Tag::Int => scalar.text.parse::<i64>().map(|number| number.to_string()).map_err(|_| wrong())?,
        Tag::Float => scalar.text.parse::<f64>().map(|number| number.to_string()).map_err(|_| wrong())?,
        Tag::Bool => match scalar.text.as_str() {
            "true" | "True" | "TRUE" => "true".to_owned(),
            "false" | "False" | "FALSE" => "false".to_owned(),
            _ => return Err(wrong()),
        },
        _ => scalar.text.clone(),
    };
    let tag = if matches!(scalar.tag, Tag::Int | Tag::Float | Tag::Bool) { scalar.tag } else { Tag::Str };
    Ok(Value::Single { text, tag })
}

/// `ports[0]` as `ports` and `0`.
fn with_index(part: &str) -> Vec<String> {
    let split = part.strip_suffix(']').and_then(|part| part.rsplit_once('['));
    match split {
        Some((name, index)) if !index.is_empty() && index.bytes().all(|b| b.is_ascii_digit()) => {
            let mut parts = vec![name.to_owned(), index.to_owned()];
            parts.retain(|part| !part.is_empty());
            parts
        }
        _ => vec![part.to_owned()],
    }
}

type Values = BTreeMap<String, Value>;

fn set(node: &mut Node, values: &Values) -> Result<()> {
    match node {
        Node::Scalar(scalar) => set_scalar(scalar, values),
        Node::Map(fields) => {
            for (key, value) in fields {
                if !key.is_text() {
                    return fail(format!("the key `{}` is not text; write it in quotes", key.text));
                }
                if let Node::Scalar(scalar) = value {
                    set_scalar(scalar, values);
                }
            }
        }
        Node::Seq(items) => {
            for item in items {
                match item {
                    Node::Scalar(scalar) if scalar.is_text() => set_scalar(scalar, values),
                    _ => {
                        return fail("a list that may hold variables has an item that is not text; write it in quotes");
                    }
                }
            }
        }
    }
    Ok(())
}

fn set_scalar(scalar: &mut Scalar, values: &Values) {
    if scalar.is_text() {
        let (text, tag) = expand(&scalar.text, values);
        *scalar = Scalar { quoted: text.contains('\n'), text, tag, explicit: false };
    }
}

fn expand(text: &str, values: &Values) -> (String, Tag) {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let after = &rest[at + 1..];
        out.push_str(&rest[..at]);
        rest = match after.chars().next() {
            None => {
                out.push('$');
                after
            }
            Some('$') => {
                out.push('$');
                &after[1..]
            }
            Some('(') => match after.find(')') {
                Some(end) => {
                    let name = &after[1..end];
                    match values.get(name) {
                        Some(Value::Single { text: value, tag }) => {
                            if text.len() == name.len() + 3 {
                                return (value.clone(), *tag);
                            }
                            out.push_str(value);
                        }
                        _ => out.push_str(&format!("$({name})")),
                    }
                    &after[end + 1..]
                }
                None => {
                    out.push_str("$(");
                    &after[1..]
                }
            },
            Some(other) => {
                out.push('$');
                out.push(other);
                &after[other.len_utf8()..]
            }
        };
    }
    out.push_str(rest);
    (out, Tag::Str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_written_into_text() {
        let single = |text: &str, tag| Value::Single { text: text.to_owned(), tag };
        let values: Values =
            [("A".to_owned(), single("x", Tag::Str)), ("N".to_owned(), single("5", Tag::Int))].into_iter().collect();
        let cases = [
            ("$(A)", "x", Tag::Str),
            ("$(N)", "5", Tag::Int),
            ("a$(A)-$(N)b", "ax-5b", Tag::Str),
            ("$$(A)", "$(A)", Tag::Str),
            ("$(B)", "$(B)", Tag::Str),
            ("$(A", "$(A", Tag::Str),
            ("cost: $5$", "cost: $5$", Tag::Str),
        ];
        for (text, wanted, tag) in cases {
            assert_eq!(expand(text, &values), (wanted.to_owned(), tag), "{text}");
        }
    }
}
