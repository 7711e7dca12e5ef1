//! Schedules as cron writes them: five fields (minute, hour, day of the month, month, day of the week), as Argo CD reads them.
//!
//! Pure. `cronexpr` reads and finds; here stands only what the parser of Argo CD (robfig/cron) does otherwise: `?` is `*`, a step
//! is no star (`*/2` is a restriction, so a day that fits either of two restricted fields fits), and there are no further signs.
//! Times are those of a clock on the wall; whoever asks knows the zone.

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// A schedule.
#[derive(Debug, Clone)]
pub struct Schedule {
    written: String,
    read: Crontab,
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Schedule {
    /// Reads `10 1 * * *`.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return Err(format!("{text:?} has {} fields, not the five of cron", fields.len()));
        };
        if let Some(field) = fields.iter().find(|field| field.split(',').any(is_extension)) {
            return Err(format!(
                "{text:?}: {field:?} has a sign that Argo CD does not know; write numbers, names, * - / and ,"
            ));
        }
        let fields = [
            minutes.replace('?', "*"),
            hours.replace('?', "*"),
            restriction(days, "1-31"),
            months.replace('?', "*"),
            restriction(weekdays, "0-6"),
        ];
        let mut options = ParseOptions::default();
        options.fallback_timezone_option = FallbackTimezoneOption::UTC;
        let read = cronexpr::parse_crontab_with(&fields.join(" "), options);
        let read = read.map_err(|error| format!("{text:?}: {}", error.to_string().replace('\n', " ")))?;
        Ok(Self { written: fields.join(" "), read })
    }

    /// The first time after this minute.
    #[must_use]
    pub fn next(&self, after: DateTime) -> Option<DateTime> {
        let minute = after.with().second(0).subsec_nanosecond(0).build().ok()?;
        // The clock on the wall has no gaps and no hours that come twice: so has UTC.
        let from = minute.to_zoned(TimeZone::UTC).ok()?.timestamp();
        Some(self.read.find_next(MakeTimestamp(from)).ok()?.datetime())
    }
}

/// What `cronexpr` knows beyond cron: `L`, `15W`, `5L`, `5#3`.
fn is_extension(item: &str) -> bool {
    let number = item.starts_with(|first: char| first.is_ascii_digit());
    item.contains('#') || item.eq_ignore_ascii_case("l") || (number && item.ends_with(['l', 'L', 'w', 'W']))
}

/// A field for days: one star makes it no restriction at all, and a star with a step is one.
fn restriction(field: &str, all: &str) -> String {
    let items: Vec<String> = field.split(',').map(|item| item.replace('?', "*")).collect();
    if items.iter().any(|item| matches!(item.as_str(), "*" | "*/1")) {
        return "*".to_owned();
    }
    items.iter().map(|item| item.replace('*', all)).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime {
        text.parse().expect("a time")
    }

    #[test]
    fn times_are_crons() {
        // 2026-01-01 is a Thursday.
        for (schedule, now, next) in [
            ("10 1 * * *", "2026-01-01T00:00:00", "2026-01-01T01:10:00"),
            ("10 1 * * *", "2026-01-01T01:10:00", "2026-01-02T01:10:00"),
            ("10 1 * * *", "2026-01-01T01:09:59.9", "2026-01-01T01:10:00"),
            ("* * * * *", "2026-01-01T01:09:45", "2026-01-01T01:10:00"),
            ("*/15 9-17 * * mon-fri", "2026-01-02T17:50:00", "2026-01-05T09:00:00"),
            // A day fits either of two restricted fields, and both where one is a star.
            ("0 0 1 * 1", "2026-01-02T00:00:00", "2026-01-05T00:00:00"),
            ("0 0 1 * *", "2026-01-02T00:00:00", "2026-02-01T00:00:00"),
            ("0 0 */2 * mon", "2026-01-01T00:00:00", "2026-01-03T00:00:00"),
            ("0 0 2,* * mon", "2026-01-01T00:00:00", "2026-01-05T00:00:00"),
            ("0 0 ? * sun", "2026-01-01T00:00:00", "2026-01-04T00:00:00"),
            ("0 0 * * 7", "2026-01-02T00:00:00", "2026-01-04T00:00:00"),
            ("0 12 29 feb ?", "2026-01-01T00:00:00", "2028-02-29T12:00:00"),
            ("5/20 * * JUL WED", "2026-07-01T00:06:00", "2026-07-01T00:25:00"),
            ("1,2,10-12/2 ? * * *", "2026-01-01T00:10:00", "2026-01-01T00:12:00"),
        ] {
            let read = Schedule::parse(schedule).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(read.next(at(now)), Some(at(next)), "{schedule} after {now}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "* * * *",
            "60 * * * *",
            "* * 0 * *",
            "a * * * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "@daily",
            "* * * * * Europe/Berlin",
            "* * L * *",
            "* * 15W * *",
            "* * * * 5L",
            "* * * * 5#3",
            "H * * * *",
        ] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }
}
