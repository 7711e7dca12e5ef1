//! Claims: found by name, compared, and written into headers.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::HeaderValue;
use serde_json::Value;

use super::Claims;

/// The longest value that a header is given.
const LONGEST: usize = 4 * 1024;

/// A condition on the value of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It is this.
    Equals(Arc<str>),
    /// It is a list that has this, or words of which this is one (as `scope` has them).
    Contains(Arc<str>),
    /// It is one of these, or a list that has one of them.
    AnyOf(Vec<Arc<str>>),
    /// It is there.
    Present,
}

impl Condition {
    /// Whether it holds for a value.
    pub(crate) fn holds(&self, value: &Value) -> bool {
        let is = |value: &Value, wanted: &str| text(value).is_some_and(|text| text == wanted);
        match (self, value) {
            (Self::Present, _) => true,
            (Self::Equals(wanted), value) => is(value, wanted),
            (Self::Contains(wanted), Value::Array(items)) => items.iter().any(|item| is(item, wanted)),
            (Self::Contains(wanted), Value::String(words)) => words.split(' ').any(|word| *word == **wanted),
            (Self::Contains(_), _) => false,
            (Self::AnyOf(wanted), Value::Array(items)) => {
                items.iter().any(|item| wanted.iter().any(|wanted| is(item, wanted)))
            }
            (Self::AnyOf(wanted), value) => wanted.iter().any(|wanted| is(value, wanted)),
        }
    }
}

/// A scalar as text.
fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Bool(truth) => Some(Cow::Borrowed(if *truth { "true" } else { "false" })),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The claim of that name, or the one that a path of names leads to: `realm_access.roles`.
pub(crate) fn lookup<'c>(claims: &'c Claims, name: &str) -> Option<&'c Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let mut parts = name.split('.');
    let first = claims.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.as_object()?.get(part))
}

/// A claim as the value of a header: scalars as they are, lists of them with commas. None for what has no such form.
pub(crate) fn header_value(value: &Value) -> Option<HeaderValue> {
    let written = match value {
        Value::Array(items) => Cow::Owned(items.iter().map(text).collect::<Option<Vec<_>>>()?.join(",")),
        value => text(value)?,
    };
    HeaderValue::from_str(&written).ok().filter(|_| written.len() <= LONGEST)
}
