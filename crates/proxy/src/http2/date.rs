//! The `Date` of answers: written once a second by each thread, and shared from then on.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;

thread_local! {
    static WRITTEN: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// The time, as RFC 9110 (5.6.7) has it.
pub(super) fn now() -> HeaderValue {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    WRITTEN.with_borrow_mut(|(written, value)| {
        if *written != second {
            // A date is always a valid value.
            if let Ok(text) = HeaderValue::try_from(httpdate::HttpDate::from(now).to_string()) {
                (*written, *value) = (second, text);
            }
        }
        value.clone()
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_date_is_now() {
        let said = super::now();
        let said = httpdate::parse_http_date(said.to_str().expect("text")).expect("a date");
        assert!(said.elapsed().expect("not ahead").as_secs() < 60, "{said:?}");
    }
}
