//! One error about one field of one object, spelled as Kubernetes spells it.
//!
//! Invariant: `Display` gives `path: Kind: value: detail` exactly as upstream's clients print it. Knows nothing about
//! which rule was broken.

use std::fmt;

use serde_json::Value;

/// What is wrong with a field; the names and texts are those of upstream's `field.ErrorType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldErrorKind {
    /// A value that must be there is absent.
    Required,
    /// The value is malformed or out of range.
    Invalid,
    /// The value is not one of the known ones.
    NotSupported,
    /// The value refers to something that is not there.
    NotFound,
    /// The value occurs twice where it must be unique.
    Duplicate,
    /// The value is well-formed but not allowed here.
    Forbidden,
    /// The value has another JSON type than the field.
    TypeInvalid,
    /// The string is longer than allowed.
    TooLong,
    /// The list or map holds more than allowed.
    TooMany,
    /// The server failed to check the field.
    Internal,
}

impl FieldErrorKind {
    /// The text printed between path and value.
    pub fn text(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::NotFound => "Not found",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }

    /// The `reason` of a `Status` cause.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::NotFound => "FieldValueNotFound",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
        }
    }

    /// Whether upstream prints the offending value for this kind.
    fn shows_value(self) -> bool {
        !matches!(self, Self::Required | Self::Forbidden | Self::TooLong | Self::Internal)
    }
}

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// Where, e.g. `spec.template.spec.containers[0].image`; empty for the object itself.
    pub path: String,
    /// What sort of mistake.
    pub kind: FieldErrorKind,
    /// The offending value, where it says something.
    pub value: Option<Value>,
    /// What is expected instead.
    pub detail: String,
}

impl FieldError {
    /// An error of any kind; the named constructors below read better where they fit.
    pub fn new(kind: FieldErrorKind, path: impl Into<String>, value: Option<Value>, detail: impl Into<String>) -> Self {
        Self { path: path.into(), kind, value, detail: detail.into() }
    }

    /// A value that must be there is absent.
    pub fn required(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Required, path, None, detail)
    }

    /// The value is malformed or out of range.
    pub fn invalid(path: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Invalid, path, Some(value.into()), detail)
    }

    /// The value is not one of `supported`.
    pub fn not_supported(path: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let mut listed: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        listed.sort();
        let detail = format!("supported values: {}", listed.join(", "));
        Self::new(FieldErrorKind::NotSupported, path, Some(value.into()), detail)
    }

    /// The value refers to something that is not there.
    pub fn not_found(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::NotFound, path, Some(value.into()), "")
    }

    /// The value occurs twice where it must be unique.
    pub fn duplicate(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::Duplicate, path, Some(value.into()), "")
    }

    /// The value is well-formed but not allowed here.
    pub fn forbidden(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Forbidden, path, None, detail)
    }

    /// The value has another JSON type than the field.
    pub fn type_invalid(path: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::TypeInvalid, path, Some(value.into()), detail)
    }

    /// A string longer than `max` bytes.
    pub fn too_long(path: impl Into<String>, max: usize) -> Self {
        Self::new(FieldErrorKind::TooLong, path, None, format!("may not be more than {max} bytes"))
    }

    /// A list or map of `actual` entries where `max` are allowed.
    pub fn too_many(path: impl Into<String>, actual: usize, max: usize) -> Self {
        Self::new(FieldErrorKind::TooMany, path, Some(Value::from(actual)), format!("must have at most {max} items"))
    }

    /// Everything after the path, as upstream puts it in a `Status` cause's message.
    pub fn body(&self) -> String {
        let mut text = self.kind.text().to_owned();
        if let (true, Some(value)) = (self.kind.shows_value(), &self.value) {
            text.push_str(": ");
            text.push_str(&value.to_string());
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "<nil>" } else { &self.path };
        write!(f, "{path}: {}", self.body())
    }
}

impl std::error::Error for FieldError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_like_upstream() {
        let cases = [
            (
                FieldError::invalid("spec.replicas", -1, "must be greater than or equal to 0"),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (FieldError::required("spec.selector", ""), "spec.selector: Required value"),
            (
                FieldError::not_supported("spec.type", "x", &["NodePort", "ClusterIP"]),
                r#"spec.type: Unsupported value: "x": supported values: "ClusterIP", "NodePort""#,
            ),
            (FieldError::duplicate("spec.ports[1].name", "http"), r#"spec.ports[1].name: Duplicate value: "http""#),
            (FieldError::forbidden("spec", "may not change"), "spec: Forbidden: may not change"),
            (FieldError::too_long("metadata.name", 63), "metadata.name: Too long: may not be more than 63 bytes"),
            (FieldError::too_many("spec.items", 5, 3), "spec.items: Too many: 5: must have at most 3 items"),
        ];
        for (error, expected) in cases {
            assert_eq!(error.to_string(), expected);
        }
    }
}
