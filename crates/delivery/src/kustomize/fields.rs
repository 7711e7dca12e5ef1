//! Reads configuration out of JSON, field by field: every mistake is named with its place.
//!
//! Invariants: field names are found whatever their case, as readers written in Go do; a field that nobody asked for is an
//! error; null is the same as absent. It must not know: what is configured.

use super::error::{Result, fail};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// One mapping of a configuration.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: String,
    /// Numbers and truth values may stand for text.
    lenient: bool,
}

/// One value of a configuration, with its place.
#[derive(Debug, Clone)]
pub(super) struct Field<'a> {
    value: &'a Value,
    path: String,
    lenient: bool,
}

impl<'a> Field<'a> {
    /// A whole configuration.
    pub(super) fn root(value: &'a Value, lenient: bool) -> Self {
        Self { value, path: String::new(), lenient }
    }

    fn wrong<T>(&self, wanted: &str) -> Result<T> {
        let found = match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a truth value; text goes in quotes",
            Value::Number(_) => "a number; text goes in quotes",
            Value::String(_) => "text",
            Value::Array(_) => "a list",
            Value::Object(_) => "a mapping",
        };
        let path = if self.path.is_empty() { "the document" } else { &self.path };
        fail(format!("{path}: {wanted} is wanted, and this is {found}"))
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn text(&self) -> Result<String> {
        match self.value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(_) | Value::Bool(_) if self.lenient => Ok(self.value.to_string()),
            _ => self.wrong("text"),
        }
    }

    pub(super) fn flag(&self) -> Result<bool> {
        self.value.as_bool().map_or_else(|| self.wrong("true or false"), Ok)
    }

    pub(super) fn whole(&self) -> Result<i64> {
        self.value.as_i64().map_or_else(|| self.wrong("a whole number"), Ok)
    }

    pub(super) fn list(&self) -> Result<Vec<Field<'a>>> {
        let Value::Array(items) = self.value else { return self.wrong("a list") };
        let item = |(at, value)| Field { value, path: format!("{}[{at}]", self.path), lenient: self.lenient };
        Ok(items.iter().enumerate().map(item).collect())
    }

    pub(super) fn texts(&self) -> Result<Vec<String>> {
        self.list()?.iter().map(|item| if item.value.is_null() { Ok(String::new()) } else { item.text() }).collect()
    }

    fn entries(&self) -> Result<Vec<(&'a String, Field<'a>)>> {
        let Value::Object(map) = self.value else { return self.wrong("a mapping") };
        let entry = |(key, value)| {
            let path = format!("{}.{key}", self.path);
            (key, Field { value, path, lenient: self.lenient })
        };
        Ok(map.iter().map(entry).collect())
    }

    pub(super) fn text_map(&self) -> Result<BTreeMap<String, String>> {
        let text = |field: Field<'_>| if field.value.is_null() { Ok(String::new()) } else { field.text() };
        self.entries()?.into_iter().map(|(key, field)| Ok((key.clone(), text(field)?))).collect()
    }

    pub(super) fn flag_map(&self) -> Result<BTreeMap<String, bool>> {
        self.entries()?.into_iter().map(|(key, field)| Ok((key.clone(), field.flag()?))).collect()
    }

    /// The mapping with these fields and no others.
    pub(super) fn fields(&self, known: &[&str]) -> Result<Fields<'a>> {
        let fields = self.open()?;
        match fields.map.keys().find(|key| !known.iter().any(|name| name.eq_ignore_ascii_case(key))) {
            Some(other) => {
                let place = fields.place(other);
                fail(format!("{place}: there is no such field; the fields here are {}", known.join(", ")))
            }
            None => Ok(fields),
        }
    }

    /// The mapping, whatever else is in it.
    pub(super) fn open(&self) -> Result<Fields<'a>> {
        let Value::Object(map) = self.value else { return self.wrong("a mapping") };
        Ok(Fields { map, path: self.path.clone(), lenient: self.lenient })
    }

    pub(super) fn is_list(&self) -> bool {
        self.value.is_array()
    }
}

impl<'a> Fields<'a> {
    fn place(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A field, unless it is absent or null.
    pub(super) fn get(&self, name: &str) -> Option<Field<'a>> {
        let exact = self.map.get(name);
        let value =
            exact.or_else(|| self.map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value));
        let value = value.filter(|value| !value.is_null())?;
        Some(Field { value, path: self.place(name), lenient: self.lenient })
    }

    /// Text; empty when absent.
    pub(super) fn text(&self, name: &str) -> Result<String> {
        self.get(name).map(|field| field.text()).transpose().map(Option::unwrap_or_default)
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool> {
        self.get(name).map(|field| field.flag()).transpose().map(Option::unwrap_or_default)
    }

    pub(super) fn whole(&self, name: &str) -> Result<i64> {
        self.get(name).map(|field| field.whole()).transpose().map(Option::unwrap_or_default)
    }

    pub(super) fn texts(&self, name: &str) -> Result<Vec<String>> {
        self.get(name).map(|field| field.texts()).transpose().map(Option::unwrap_or_default)
    }

    pub(super) fn text_map(&self, name: &str) -> Result<BTreeMap<String, String>> {
        self.get(name).map(|field| field.text_map()).transpose().map(Option::unwrap_or_default)
    }

    /// Every item of a list, read by `read`.
    pub(super) fn each<T>(&self, name: &str, read: impl Fn(&Field<'a>) -> Result<T>) -> Result<Vec<T>> {
        match self.get(name) {
            Some(field) => field.list()?.iter().map(read).collect(),
            None => Ok(Vec::new()),
        }
    }

    /// A field read by `read`, when it is there.
    pub(super) fn one<T>(&self, name: &str, read: impl Fn(&Field<'a>) -> Result<T>) -> Result<Option<T>> {
        self.get(name).map(|field| read(&field)).transpose()
    }
}
