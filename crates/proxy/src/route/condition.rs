//! Whether a request meets a rule's conditions.

use std::borrow::Cow;

use http::Method;
use regex::{Regex, RegexBuilder};

use super::Candidate;
use crate::snapshot::{HeaderMatch, Match, PathMatch, QueryMatch, ValueMatch};

/// A compiled [`Match`].
pub(crate) struct Condition {
    path: Path,
    method: Option<Method>,
    headers: Vec<(http::HeaderName, Value)>,
    query: Vec<(Box<str>, Value)>,
}

/// A compiled [`PathMatch`].
pub(crate) enum Path {
    Exact(Box<str>),
    /// Without a trailing slash; empty is every path.
    Prefix(Box<str>),
    Regex(Regex),
}

/// A compiled [`ValueMatch`].
pub(crate) enum Value {
    Exact(Box<str>),
    Regex(Regex),
    Present,
}

impl Condition {
    /// Compiles, or says which part cannot be.
    pub(super) fn compile(from: &Match) -> Result<Self, String> {
        let header = |h: &HeaderMatch| Ok((h.name.clone(), Value::compile(&h.value)?));
        let query = |q: &QueryMatch| Ok((Box::from(&*q.name), Value::compile(&q.value)?));
        Ok(Self {
            path: Path::compile(&from.path)?,
            method: from.method.clone(),
            headers: from.headers.iter().map(header).collect::<Result<_, String>>()?,
            query: from.query.iter().map(query).collect::<Result<_, String>>()?,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether everything holds.
    pub(super) fn holds(&self, candidate: &Candidate<'_>) -> bool {
        self.path.holds(candidate.path) && self.holds_beside_path(candidate)
    }

    /// Whether everything holds but perhaps the path.
    pub(super) fn holds_beside_path(&self, candidate: &Candidate<'_>) -> bool {
        self.method.as_ref().is_none_or(|method| method == candidate.method)
            && self.headers.iter().all(|(name, value)| value.holds_for_header(name, candidate))
            && self.query.iter().all(|(name, value)| {
                query_value(candidate.query.unwrap_or_default(), name).is_some_and(|actual| value.holds(&actual))
            })
    }
}

impl Path {
    pub(crate) fn compile(from: &PathMatch) -> Result<Self, String> {
        let rooted = |path: &str| {
            if path.starts_with('/') { Ok(()) } else { Err(format!("the path {path:?} does not begin with a slash")) }
        };
        match from {
            PathMatch::Exact(path) => rooted(path).map(|()| Self::Exact(Box::from(&**path))),
            PathMatch::Prefix(path) => rooted(path).map(|()| Self::Prefix(Box::from(path.trim_end_matches('/')))),
            PathMatch::Regex(expression) => whole(expression).map(Self::Regex),
        }
    }

    pub(crate) fn holds(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.is_empty()),
            Self::Regex(expression) => expression.is_match(path),
        }
    }
}

impl Value {
    pub(crate) fn compile(from: &ValueMatch) -> Result<Self, String> {
        Ok(match from {
            ValueMatch::Exact(value) => Self::Exact(Box::from(&**value)),
            ValueMatch::Regex(expression) => Self::Regex(whole(expression)?),
            ValueMatch::Present => Self::Present,
        })
    }

    fn holds(&self, value: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *value,
            Self::Regex(expression) => expression.is_match(value),
            Self::Present => true,
        }
    }

    pub(crate) fn holds_for_header(&self, name: &http::HeaderName, candidate: &Candidate<'_>) -> bool {
        let mut values = candidate.headers.map().get_all(name).iter();
        let Some(first) = values.next() else { return false };
        match values.next() {
            None => match self {
                Self::Exact(exact) => exact.as_bytes() == first.as_bytes(),
                Self::Regex(expression) => first.to_str().is_ok_and(|value| expression.is_match(value)),
                Self::Present => true,
            },
            Some(second) => {
                let all =
                    [first, second].into_iter().chain(values).map(|value| String::from_utf8_lossy(value.as_bytes()));
                self.holds(&all.collect::<Vec<_>>().join(","))
            }
        }
    }
}

/// An expression that has to match the whole of a value.
pub(crate) fn whole(expression: &str) -> Result<Regex, String> {
    RegexBuilder::new(&format!("^(?:{expression})$"))
        .size_limit(1 << 20)
        .build()
        .map_err(|error| format!("the expression {expression:?} cannot be used: {error}"))
}

/// The first value of a query parameter, decoded.
fn query_value<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    query_values(query, name).next()
}

/// All values of a query parameter, decoded.
pub(crate) fn query_values<'a>(query: &'a str, name: &str) -> impl Iterator<Item = Cow<'a, str>> {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*decode(key) == *name).then(|| decode(value))
    })
}

/// A query without some parameters.
pub(crate) fn query_without(query: &str, names: &[std::sync::Arc<str>]) -> String {
    let kept = query.split('&').filter(|pair| {
        let key = decode(pair.split_once('=').map_or(pair, |(key, _)| key));
        !names.iter().any(|name| **name == *key)
    });
    kept.collect::<Vec<_>>().join("&")
}

fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[i], hex(i + 1), hex(i + 2)) {
            // Two hexadecimal digits make one byte.
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap_or(b'%'));
                i += 3;
                continue;
            }
            (b'+', ..) => decoded.push(b' '),
            (other, ..) => decoded.push(other),
        }
        i += 1;
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}
