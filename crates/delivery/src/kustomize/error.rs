//! Why a kustomization does not build.
//!
//! Invariants: the text names the file and the field, and says what to do where that is known. It must not know who reads it.

use std::fmt;

/// Why a kustomization does not build: outermost place first, each on its own.
#[derive(Debug)]
pub struct Error {
    message: String,
    /// Where it happened, innermost first.
    places: Vec<String>,
}

impl Error {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), places: Vec::new() }
    }

    /// Adds where it happened, from the inside out.
    #[must_use]
    pub(super) fn at(mut self, place: impl Into<String>) -> Self {
        self.places.push(place.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in self.places.iter().rev() {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

pub(super) type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds a place to the error of a result.
pub(super) trait At<T> {
    fn at(self, place: impl FnOnce() -> String) -> Result<T>;
}

impl<T> At<T> for Result<T> {
    fn at(self, place: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| error.at(place()))
    }
}

/// An error at once.
pub(super) fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::new(message))
}
