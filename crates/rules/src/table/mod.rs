//! Columns and rows for `kubectl get`.
use serde_json::Value;

/// One column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its heading; kubectl prints it in upper case.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: String,
    /// `name` for the column that names the object, else mostly empty.
    pub format: String,
    /// What the column says.
    pub description: String,
    /// 0 is shown always, more only with `-o wide`.
    pub priority: i32,
}

/// The columns of a built-in kind.
pub fn columns(api_version: &str, kind: &str) -> Vec<Column> {
    let _ = (api_version, kind);
    Vec::new()
}

/// The cells of one object, in the order of [`columns`].
pub fn row(api_version: &str, kind: &str, obj: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let _ = (api_version, kind, obj, now);
    Vec::new()
}

/// The columns of a custom resource, from its definition's `additionalPrinterColumns`.
#[derive(Debug, Clone, Default)]
pub struct CrdColumns {}

impl CrdColumns {
    /// Reads `additionalPrinterColumns` (a list, or null when there is none).
    pub fn parse(additional_printer_columns: &Value) -> CrdColumns {
        let _ = additional_printer_columns;
        CrdColumns {}
    }

    /// The columns, the name first.
    pub fn columns(&self) -> Vec<Column> {
        Vec::new()
    }

    /// The cells of one object.
    pub fn row(&self, obj: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let _ = (obj, now);
        Vec::new()
    }
}
