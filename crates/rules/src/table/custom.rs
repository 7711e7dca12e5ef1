//! Custom resources: the columns of their definition's `additionalPrinterColumns`.

use super::jsonpath::JsonPath;
use super::{Column, age, column, name};
use jiff::Timestamp;
use serde_json::{Value, json};

/// The columns of a custom resource, from its definition's `additionalPrinterColumns`.
#[derive(Debug, Clone)]
pub struct CrdColumns {
    columns: Vec<(Column, Option<JsonPath>)>,
}

impl Default for CrdColumns {
    fn default() -> CrdColumns {
        CrdColumns::parse(&Value::Null)
    }
}

impl CrdColumns {
    /// Reads `additionalPrinterColumns` (a list; none or an empty one gives the age alone).
    /// A path that can't be read leaves its cells empty, so that one mistake doesn't hide a whole kind.
    pub fn parse(additional_printer_columns: &Value) -> CrdColumns {
        let age = json!([{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]);
        let given = additional_printer_columns.as_array().filter(|given| !given.is_empty()).or(age.as_array());
        let columns = given.into_iter().flatten().map(|one| {
            let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
            let column = Column {
                name: text("name"),
                kind: text("type"),
                format: text("format"),
                description: text("description"),
                priority: one["priority"].as_i64().and_then(|number| i32::try_from(number).ok()).unwrap_or(0),
            };
            (column, JsonPath::parse(&text("jsonPath")))
        });
        CrdColumns { columns: columns.collect() }
    }

    /// The columns, the name first.
    pub fn columns(&self) -> Vec<Column> {
        std::iter::once(column(super::NAME)).chain(self.columns.iter().map(|(column, _)| column.clone())).collect()
    }

    /// The cells of one object.
    pub fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let cells = self.columns.iter().map(|(column, path)| {
            let found = path.as_ref().and_then(|path| path.first(obj)).unwrap_or(&Value::Null);
            cell(&column.kind, found, now)
        });
        std::iter::once(name(obj)).chain(cells).collect()
    }
}

fn cell(kind: &str, value: &Value, now: Timestamp) -> Value {
    if value.is_null() {
        return Value::Null;
    }
    match kind {
        "integer" => {
            value.as_i64().or_else(|| value.as_f64().map(|number| number as i64)).map_or(Value::Null, Value::from)
        }
        "number" if value.is_number() => value.clone(),
        "boolean" if value.is_boolean() => value.clone(),
        "string" => match value {
            Value::String(text) => text.as_str().into(),
            other => other.to_string().into(),
        },
        "date" => match value.as_str() {
            Some(text) if text.parse::<Timestamp>().is_err() => "<invalid>".into(),
            Some(_) => age::since(value, now).into(),
            None => Value::Null,
        },
        _ => Value::Null,
    }
}
