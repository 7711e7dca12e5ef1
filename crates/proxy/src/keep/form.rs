//! Types of the `http` crate in the form in which they are kept.
//!
//! Invariant: what is written is read back equal, or not at all.

use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A type with a form that can be kept.
pub(crate) trait Kept: Sized {
    type Form: Serialize + for<'d> Deserialize<'d>;

    fn form(&self) -> Self::Form;

    fn of(form: Self::Form) -> Result<Self, String>;
}

impl Kept for HeaderName {
    type Form = String;

    fn form(&self) -> String {
        self.as_str().to_owned()
    }

    fn of(form: String) -> Result<Self, String> {
        form.parse().map_err(|_| format!("{form:?} is no name of a header"))
    }
}

impl Kept for HeaderValue {
    type Form = Vec<u8>;

    fn form(&self) -> Vec<u8> {
        self.as_bytes().to_owned()
    }

    fn of(form: Vec<u8>) -> Result<Self, String> {
        Self::from_bytes(&form).map_err(|error| error.to_string())
    }
}

impl Kept for Method {
    type Form = String;

    fn form(&self) -> String {
        self.as_str().to_owned()
    }

    fn of(form: String) -> Result<Self, String> {
        form.parse().map_err(|_| format!("{form:?} is no method"))
    }
}

impl Kept for StatusCode {
    type Form = u16;

    fn form(&self) -> u16 {
        self.as_u16()
    }

    fn of(form: u16) -> Result<Self, String> {
        Self::from_u16(form).map_err(|_| format!("{form} is no status"))
    }
}

impl Kept for u8 {
    type Form = Self;

    fn form(&self) -> Self {
        *self
    }

    fn of(form: Self) -> Result<Self, String> {
        Ok(form)
    }
}

impl<T: Kept> Kept for Option<T> {
    type Form = Option<T::Form>;

    fn form(&self) -> Self::Form {
        self.as_ref().map(T::form)
    }

    fn of(form: Self::Form) -> Result<Self, String> {
        form.map(T::of).transpose()
    }
}

impl<T: Kept> Kept for Vec<T> {
    type Form = Vec<T::Form>;

    fn form(&self) -> Self::Form {
        self.iter().map(T::form).collect()
    }

    fn of(form: Self::Form) -> Result<Self, String> {
        form.into_iter().map(T::of).collect()
    }
}

impl<A: Kept, B: Kept> Kept for (A, B) {
    type Form = (A::Form, B::Form);

    fn form(&self) -> Self::Form {
        (self.0.form(), self.1.form())
    }

    fn of((a, b): Self::Form) -> Result<Self, String> {
        Ok((A::of(a)?, B::of(b)?))
    }
}

/// For `#[serde(with)]`.
pub(crate) fn serialize<T: Kept, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    value.form().serialize(serializer)
}

/// For `#[serde(with)]`.
pub(crate) fn deserialize<'d, T: Kept, D: Deserializer<'d>>(deserializer: D) -> Result<T, D::Error> {
    T::of(T::Form::deserialize(deserializer)?).map_err(de::Error::custom)
}
