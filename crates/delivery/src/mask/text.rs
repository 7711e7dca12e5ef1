//! Passwords in texts: in URLs ([`urls`]), behind `password=` ([`pairs`]), and before a host where no scheme says that there is one
//! ([`userinfo`]).
//!
//! Invariants: pure; what is masked once stays as it is; what only looks like one (digests of images, times, addresses of mail, versions) is
//! shown; a text takes time as it is long, whatever it holds: who wrote it may mean harm. Where a password ends, nobody can tell for sure:
//! rather more is masked than less.

use super::{pairs, urls, userinfo};

/// How far is looked ahead for what may not be there, bytes.
pub(super) const AHEAD: usize = 1024;

/// A text without the passwords and tokens in it: `redis://:hunter2@host` becomes `redis://:(sensitive)@host`, and
/// `jdbc:postgresql://h/db?password=x` becomes `jdbc:postgresql://h/db?password=(sensitive)`.
pub fn without_passwords(text: &str) -> String {
    userinfo::without(&pairs::without(&urls::without(text)))
}

/// Whether there may be something to mask.
pub(super) fn may_tell(text: &str) -> bool {
    text.contains(['=', '@']) || text.contains("://")
}

pub(super) fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-.".contains(c)
}

/// The name that a text ends with; it may be empty.
pub(super) fn name_at_end(text: &str) -> &str {
    &text[text.trim_end_matches(is_of_name).len()..]
}

/// The words of a text, whose ends are looked for once each. Asked for from the front to the back.
pub(super) struct Words<'a> {
    text: &'a str,
    end: usize,
}

impl<'a> Words<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        Self { text, end: 0 }
    }

    /// Where the word ends that this is in.
    pub(super) fn end(&mut self, from: usize) -> usize {
        if self.end <= from {
            let more = &self.text[from..];
            self.end = from + more.find(|c: char| c.is_whitespace() || "\"'`".contains(c)).unwrap_or(more.len());
        }
        self.end
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::mask) fn holds(cases: &[(&str, &str)]) {
        for (text, wanted) in cases {
            assert_eq!(without_passwords(text), *wanted);
            assert_eq!(without_passwords(wanted), *wanted, "once is enough");
        }
    }

    pub(in crate::mask) fn shown(texts: &[&str]) {
        for text in texts {
            assert_eq!(without_passwords(text), *text);
        }
    }

    /// Each of these would not end in a lifetime if every part looked at all that follows it.
    #[test]
    fn a_long_text_takes_time_as_it_is_long() {
        const LONG: usize = 1 << 20;
        for (part, end) in [
            ("a:", "@"),
            ("a:", "@h.example.com"),
            ("1:", "@h.example.com"),
            ("a:@", ""),
            ("a:b@", ""),
            ("a.", ":b@h"),
            ("u:p@h:1,", ""),
            ("mailto:a@b.org,", ""),
            ("a://", ""),
            ("://", "@"),
            ("a://b:c@d,", ""),
            ("?pwd=", ""),
            ("password=(sensitive)", ""),
            ("password=${", "}"),
            ("password={", "}"),
            ("password= ", ""),
            ("password=\"\"", ""),
            ("password= a=b ", ""),
            ("password=a;b,", ""),
            ("PWD=/", ""),
            ("=", ""),
            ("password=", ""),
            ("ü:", "@h.example.com"),
        ] {
            let text = part.repeat(LONG / part.len()) + end;
            let said = without_passwords(&text);
            assert!(!said.is_empty(), "{part}");
        }
    }
}
