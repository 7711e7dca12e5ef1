//! Colours, only where a person looks: a terminal, and no `NO_COLOR`.

use std::io::IsTerminal;
use std::sync::OnceLock;

static STDERR: OnceLock<bool> = OnceLock::new();
static STDOUT: OnceLock<bool> = OnceLock::new();

fn wanted(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none() && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

fn on_stderr() -> bool {
    *STDERR.get_or_init(|| wanted(std::io::stderr().is_terminal()))
}

fn on_stdout() -> bool {
    *STDOUT.get_or_init(|| wanted(std::io::stdout().is_terminal()))
}

fn paint(on: bool, code: &str, text: &str) -> String {
    if on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Whether stdout is painted.
pub(crate) fn paints_stdout() -> bool {
    on_stdout()
}

/// For what went wrong, on stderr.
pub(crate) fn error(text: &str) -> String {
    paint(on_stderr(), "1;31", text)
}

/// For what is now well, on stderr.
pub(crate) fn good(text: &str) -> String {
    paint(on_stderr(), "1;32", text)
}

/// For what is of less weight, on stderr.
pub(crate) fn dim(text: &str) -> String {
    paint(on_stderr(), "2", text)
}

/// A colour that stays the same for the same name, for log prefixes on stdout or stderr.
pub(crate) fn by_name(name: &str, text: &str, to_stderr: bool) -> String {
    const PALETTE: [&str; 6] = ["36", "33", "32", "35", "34", "31"];
    let sum = name.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    paint(if to_stderr { on_stderr() } else { on_stdout() }, PALETTE[sum % PALETTE.len()], text)
}
