//! The CRI log format: `<time> <stream> <F|P> <text>`, with times of fixed width so that a record's parts are found
//! without searching.

use jiff::Timestamp;

/// The text of one record is no longer; a longer line becomes several, all but the last marked partial.
pub(super) const TEXT_LIMIT: usize = 16 << 10;
/// `2026-11-21T03:37:00.123456789Z`
pub(super) const TIME: usize = 30;
const TAG: usize = TIME + 8;
const TEXT: usize = TAG + 2;

/// A time as it stands in a record. Text order is time order.
pub(super) fn time(at: Timestamp) -> String {
    format!("{at:.9}")
}

/// Appends one record.
pub(super) fn write(out: &mut Vec<u8>, time: &str, stderr: bool, full: bool, text: &[u8]) {
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(if stderr { b" stderr " } else { b" stdout " });
    out.extend_from_slice(if full { b"F " } else { b"P " });
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// One record, without its line end.
#[derive(Clone, Copy)]
pub(super) struct Record<'a>(&'a [u8]);

impl<'a> Record<'a> {
    /// `None` for what is no record (a torn write after a crash).
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        (line.len() >= TEXT && line[TIME] == b' ' && line[TAG - 1] == b' ' && line[TAG + 1] == b' ')
            .then_some(Record(line))
    }

    pub(super) fn time(self) -> &'a [u8] {
        &self.0[..TIME]
    }

    /// Whether the line ends with this record.
    pub(super) fn full(self) -> bool {
        self.0[TAG] == b'F'
    }

    pub(super) fn text(self) -> &'a [u8] {
        &self.0[TEXT..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_as_written() {
        let at: Timestamp = "2026-11-21T03:37:00.5Z".parse().expect("a time");
        let mut out = Vec::new();
        write(&mut out, &time(at), true, true, b"a b ");
        assert_eq!(out, b"2026-11-21T03:37:00.500000000Z stderr F a b \n");
        let record = Record::parse(&out[..out.len() - 1]).expect("a record");
        assert!(record.full());
        assert_eq!(record.text(), b"a b ");
        assert_eq!(record.time(), b"2026-11-21T03:37:00.500000000Z");
        assert!(Record::parse(b"torn").is_none());
    }
}
