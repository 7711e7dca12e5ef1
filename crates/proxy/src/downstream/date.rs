//! The `Date` of answers: written once a second by each thread, and copied from then on.

use std::cell::RefCell;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

struct Written {
    second: u64,
    text: Vec<u8>,
}

thread_local! {
    static WRITTEN: RefCell<Written> = const { RefCell::new(Written { second: 0, text: Vec::new() }) };
}

/// Appends the time, as RFC 9110 (5.6.7) has it.
pub(super) fn write(into: &mut Vec<u8>) {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    WRITTEN.with_borrow_mut(|written| {
        if written.second != second || written.text.is_empty() {
            written.second = second;
            written.text.clear();
            // Writing to memory does not fail.
            let _ = write!(written.text, "{}", httpdate::HttpDate::from(now));
        }
        into.extend_from_slice(&written.text);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_now() {
        let mut text = Vec::new();
        write(&mut text);
        let text = String::from_utf8(text).expect("text");
        let said = httpdate::parse_http_date(&text).expect("a date");
        assert!(said.elapsed().expect("not ahead").as_secs() < 60, "{text}");
        assert_eq!(text.len(), 29, "{text}");
    }
}
