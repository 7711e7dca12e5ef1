//! Exit codes and how an error reaches the person.
//!
//! 0: done. 1: tried and failed. 2: the input is wrong and nothing was changed. 3: no running Coracle was found.

use std::process::ExitCode;

/// What a command's failure means to a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Something was attempted and did not work.
    Failed,
    /// The input is wrong; nothing was changed.
    BadInput,
    /// There is no running Coracle to talk to.
    NotRunning,
}

impl Meaning {
    pub(crate) fn code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed => 1,
            Self::BadInput => 2,
            Self::NotRunning => 3,
        })
    }
}

/// An error with its meaning; put on a chain with [`bad_input`] or [`not_running`].
#[derive(Debug)]
pub(crate) struct Marked(Meaning, String);

impl std::fmt::Display for Marked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.1)
    }
}

impl std::error::Error for Marked {}

/// An error that says: the input is wrong, nothing was changed.
pub(crate) fn bad_input(message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Marked(Meaning::BadInput, message.into()))
}

/// An error that says: there is nothing running to talk to.
pub(crate) fn not_running(message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Marked(Meaning::NotRunning, message.into()))
}

fn meaning(error: &anyhow::Error) -> Meaning {
    let unknown = error.downcast_ref::<delivery::kinds::UnknownKind>().is_some();
    let unmarked = if unknown { Meaning::BadInput } else { Meaning::Failed };
    error.downcast_ref::<Marked>().map_or(unmarked, |marked| marked.0)
}

/// Prints the error on stderr, causes after it, each once, and gives the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("{} {}", crate::colour::error("error:"), sentence(error));
    meaning(error).code()
}

/// The chain as one text; a cause that its effect already quotes is not said twice.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_marked_error_keeps_its_meaning_under_context() {
        let error = Err::<(), _>(bad_input("line 3 is odd")).context("reading a.yaml").unwrap_err();
        assert_eq!(meaning(&error), Meaning::BadInput);
        assert_eq!(sentence(&error), "reading a.yaml: line 3 is odd");
        assert_eq!(meaning(&anyhow::anyhow!("x")), Meaning::Failed);
    }

    #[test]
    fn a_cause_already_quoted_is_not_repeated() {
        let error = anyhow::anyhow!("no space left").context("writing x: no space left");
        assert_eq!(sentence(&error), "writing x: no space left");
    }
}
