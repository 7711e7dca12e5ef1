//! JSON patches (RFC 6902) as Kustomize applies them: negative indices count from the end, numbers become floats.
//!
//! Invariants: a patch is applied whole or not at all. It must not know: which objects it is for.

use super::error::{At, Result, fail};
use super::fields::{Field, Fields};
use super::node::{Node, number_value};
use super::read::{self, Twice};
use serde_json::Value;

/// One step.
#[derive(Debug, Clone)]
struct Operation {
    op: String,
    path: String,
    from: Option<String>,
    value: Option<Value>,
}

/// A patch.
#[derive(Debug, Clone)]
pub(super) struct JsonPatch {
    operations: Vec<Operation>,
}

impl JsonPatch {
    /// Reads a patch from JSON or YAML; an error when it is no list of operations.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let value: Value = if text.starts_with('[')
            && let Ok(value) = serde_json::from_str(text)
        {
            value
        } else {
            read::configuration(text, Twice::LastWins)?
        };
        let Value::Array(items) = &value else { return fail("a JSON patch is a list of operations") };
        let operation = |(at, item): (usize, &Value)| {
            let field = Field::root(item, false);
            operation(&field.open()?, item).at(|| format!("operation {}", at + 1))
        };
        let operations = items.iter().enumerate().map(operation).collect::<Result<_>>()?;
        Ok(Self { operations })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Applies the patch to a tree, which goes through JSON and loses what JSON cannot say.
    pub(super) fn apply(&self, node: &mut Node) -> Result<()> {
        let mut document = node.to_json()?;
        for (at, operation) in self.operations.iter().enumerate() {
            let done = operation.apply(&mut document);
            done.at(|| format!("JSON patch, operation {}: {} {}", at + 1, operation.op, operation.path))?;
        }
        floats(&mut document)?;
        *node = Node::from_json(&document);
        Ok(())
    }
}

fn operation(fields: &Fields<'_>, item: &Value) -> Result<Operation> {
    let operation = Operation {
        op: fields.text("op")?,
        path: fields.text("path")?,
        from: fields.one("from", Field::text)?,
        // Null is a value here.
        value: item.get("value").cloned(),
    };
    Ok(operation)
}

/// Numbers as they are after being read as floats.
fn floats(value: &mut Value) -> Result<()> {
    match value {
        Value::Number(number) => {
            if let Some(float) = number.as_f64() {
                *value = number_value(float)?;
            }
        }
        Value::Array(items) => items.iter_mut().try_for_each(floats)?,
        Value::Object(map) => map.values_mut().try_for_each(floats)?,
        _ => {}
    }
    Ok(())
}

impl Operation {
    fn apply(&self, document: &mut Value) -> Result<()> {
        match self.op.as_str() {
            "add" => add(document, &self.path, self.value()?),
            "remove" => remove(document, &self.path).map(drop),
            "replace" => replace(document, &self.path, self.value()?),
            "move" => {
                let value = remove(document, self.from()?)?;
                add(document, &self.path, value)
            }
            "copy" => {
                let value = copied(document, self.from()?)?;
                add(document, &self.path, value)
            }
            "test" => self.test(document),
            other => fail(format!("`{other}` is no operation; they are add, remove, replace, move, copy and test")),
        }
    }

    fn value(&self) -> Result<Value> {
        self.value.clone().map_or_else(|| fail("the operation has no `value`"), Ok)
    }

    fn from(&self) -> Result<&str> {
        self.from.as_deref().map_or_else(|| fail("the operation has no `from`"), Ok)
    }

    fn test(&self, document: &mut Value) -> Result<()> {
        let wanted = self.value.clone().unwrap_or(Value::Null);
        let found = match existing(document, &self.path) {
            Ok(found) => found.clone(),
            Err(_) if wanted.is_null() => return Ok(()),
            Err(error) => return Err(error),
        };
        if found == wanted { Ok(()) } else { fail(format!("the value there is {found}, not {wanted}")) }
    }
}

/// The parent of what a path names, and the last step.
fn parent<'a>(document: &'a mut Value, path: &str) -> Result<(&'a mut Value, String)> {
    let Some((head, last)) = path.rsplit_once('/') else {
        return fail(format!("the path `{path}` does not begin with `/`"));
    };
    let mut at = document;
    for step in head.split('/').skip(1).map(unescape) {
        at = child(at, &step)?;
    }
    Ok((at, unescape(last)))
}

fn unescape(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

fn child<'a>(value: &'a mut Value, step: &str) -> Result<&'a mut Value> {
    match value {
        Value::Object(map) => match map.get_mut(step) {
            Some(child) => Ok(child),
            None => fail(format!("there is no field `{step}`; add what the path goes through first")),
        },
        Value::Array(items) => {
            let at = index(step, items.len(), 1)?;
            Ok(&mut items[at])
        }
        _ => fail(format!("`{step}` is looked for in a value that has no fields")),
    }
}

/// A place in a list of `length` items; `spare` is 0 where one behind the last is meant too.
fn index(step: &str, length: usize, spare: usize) -> Result<usize> {
    let problem = || fail(format!("`{step}` is no place in a list of {length} items"));
    let Ok(number) = step.parse::<i64>() else { return problem() };
    let length_here = i64::try_from(length).unwrap_or(i64::MAX);
    let places = length_here + 1 - i64::try_from(spare).unwrap_or(1);
    let place = if number < 0 { number + places } else { number };
    match usize::try_from(place) {
        Ok(at) if at + spare <= length => Ok(at),
        _ => problem(),
    }
}

fn existing<'a>(document: &'a mut Value, path: &str) -> Result<&'a mut Value> {
    if path.is_empty() {
        return Ok(document);
    }
    let (parent, last) = parent(document, path)?;
    child(parent, &last)
}

/// What is at a path; null when the last field is not there, as the tools that patches are written against have it.
fn copied(document: &mut Value, path: &str) -> Result<Value> {
    let (parent, last) = parent(document, path)?;
    match parent {
        Value::Object(map) => Ok(map.get(&last).cloned().unwrap_or(Value::Null)),
        other => child(other, &last).map(|value| value.clone()),
    }
}

/// Sets what is at a path; the last field need not be there, for the same reason.
fn replace(document: &mut Value, path: &str, value: Value) -> Result<()> {
    if path.is_empty() {
        *document = value;
        return Ok(());
    }
    let (parent, last) = parent(document, path)?;
    match parent {
        Value::Object(map) => {
            map.insert(last, value);
        }
        other => *child(other, &last)? = value,
    }
    Ok(())
}

fn add(document: &mut Value, path: &str, value: Value) -> Result<()> {
    let (parent, last) = parent(document, path)?;
    match parent {
        Value::Object(map) => {
            map.insert(last, value);
        }
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            let at = index(&last, items.len(), 0)?;
            items.insert(at, value);
        }
        _ => return fail(format!("`{last}` cannot be added to a value that has no fields")),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &str) -> Result<Value> {
    let (parent, last) = parent(document, path)?;
    match parent {
        Value::Object(map) => match map.remove(&last) {
            Some(value) => Ok(value),
            None => fail(format!("there is no field `{last}` to take away")),
        },
        Value::Array(items) => {
            let at = index(&last, items.len(), 1)?;
            Ok(items.remove(at))
        }
        _ => fail(format!("`{last}` cannot be taken from a value that has no fields")),
    }
}
