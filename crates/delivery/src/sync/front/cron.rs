//! Schedules as cron writes them: five fields (minute, hour, day of the month, month, day of the week), with lists, ranges, steps and names.
//!
//! Pure. As in cron, a day fits one of its two fields where both are restricted, and both where one is `*`.

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// How many days are looked through, at most.
const DAYS: i64 = 366 * 5;

/// A schedule. Each field is a set of bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether days of the month, and of the week, are all.
    any: (bool, bool),
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

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
        let wrong = |reason: String| format!("{text:?}: {reason}");
        // Sunday is 0 and 7.
        let week = field(weekdays, 0, 7, &WEEKDAYS, 0).map_err(wrong)?;
        let star = |text: &&str| text.starts_with(['*', '?']);
        Ok(Self {
            minutes: field(minutes, 0, 59, &[], 0).map_err(wrong)?,
            hours: field(hours, 0, 23, &[], 0).map_err(wrong)?,
            days: field(days, 1, 31, &[], 0).map_err(wrong)?,
            months: field(months, 1, 12, &MONTHS, 1).map_err(wrong)?,
            weekdays: (week | week >> 7) & 0x7f,
            any: (star(days), star(weekdays)),
        })
    }

    fn on(&self, date: Date) -> bool {
        let has = |set: u64, bit: i8| set >> bit & 1 == 1;
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        let fits = if self.any.0 || self.any.1 { day && weekday } else { day || weekday };
        has(self.months, date.month()) && fits
    }

    /// The times of a day, early ones first.
    fn times(&self) -> impl DoubleEndedIterator<Item = Time> + '_ {
        let hours = (0..24_i8).filter(|hour| self.hours >> hour & 1 == 1);
        hours.flat_map(|hour| {
            let minutes = (0..60_i8).filter(|minute| self.minutes >> minute & 1 == 1);
            minutes.filter_map(move |minute| Time::new(hour, minute, 0, 0).ok()).collect::<Vec<_>>()
        })
    }

    /// The last time at or before `now`, not further back than `reach`.
    #[must_use]
    pub fn last(&self, now: Timestamp, zone: &TimeZone, reach: SignedDuration) -> Option<Timestamp> {
        let earliest = now.checked_sub(reach).ok()?;
        let mut date = zone.to_datetime(now).date();
        let first = zone.to_datetime(earliest).date();
        while date >= first {
            let of_day = self.times().rev().filter(|_| self.on(date));
            let mut of_day =
                of_day.filter_map(|time| zone.to_ambiguous_timestamp(date.to_datetime(time)).compatible().ok());
            if let Some(at) = of_day.find(|at| *at <= now) {
                return (at > earliest).then_some(at);
            }
            date = date.checked_sub(1.day()).ok()?;
        }
        None
    }

    /// The first time after `now`.
    #[must_use]
    pub fn next(&self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut date = zone.to_datetime(now).date();
        for _ in 0..DAYS {
            let of_day = self.times().filter(|_| self.on(date));
            let mut of_day =
                of_day.filter_map(|time| zone.to_ambiguous_timestamp(date.to_datetime(time)).compatible().ok());
            if let Some(at) = of_day.find(|at| *at > now) {
                return Some(at);
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }
}

/// One field as bits.
fn field(text: &str, least: u32, most: u32, names: &[&str], first: u32) -> Result<u64, String> {
    let number = |word: &str| -> Result<u32, String> {
        let named = names.iter().position(|name| name.eq_ignore_ascii_case(word));
        let value = match named {
            Some(at) => u32::try_from(at).unwrap_or(most) + first,
            None => word.parse().map_err(|_| format!("{word:?} is no number"))?,
        };
        if (least..=most).contains(&value) { Ok(value) } else { Err(format!("{value} is not in {least} to {most}")) }
    };
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (
                range,
                Some(step.parse::<u32>().ok().filter(|step| *step > 0).ok_or_else(|| format!("{step:?} is no step"))?),
            ),
            None => (part, None),
        };
        let (from, to) = match range.split_once('-') {
            _ if matches!(range, "*" | "?") => (least, most),
            Some((from, to)) => (number(from)?, number(to)?),
            // `5/15` goes on to the end.
            None if step.is_some() => (number(range)?, most),
            None => (number(range)?, number(range)?),
        };
        if from > to {
            return Err(format!("{range:?} goes backwards"));
        }
        let step = usize::try_from(step.unwrap_or(1)).unwrap_or(1);
        bits |= (from..=to).step_by(step).fold(0_u64, |bits, at| bits | 1 << at);
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn times_are_crons() {
        let zone = TimeZone::UTC;
        // 2026-01-01 is a Thursday.
        for (schedule, now, next, last) in [
            ("10 1 * * *", "2026-01-01T00:00:00Z", "2026-01-01T01:10:00Z", "2025-12-31T01:10:00Z"),
            ("*/15 9-17 * * mon-fri", "2026-01-02T17:50:00Z", "2026-01-05T09:00:00Z", "2026-01-02T17:45:00Z"),
            ("0 0 1 * 1", "2026-01-02T00:00:00Z", "2026-01-05T00:00:00Z", "2026-01-01T00:00:00Z"),
            ("0 0 * * 7", "2026-01-02T00:00:00Z", "2026-01-04T00:00:00Z", "2025-12-28T00:00:00Z"),
            ("0 12 29 feb ?", "2026-01-01T00:00:00Z", "2028-02-29T12:00:00Z", "-"),
            ("5/20 * * * *", "2026-01-01T00:06:00Z", "2026-01-01T00:25:00Z", "2026-01-01T00:05:00Z"),
        ] {
            let read = Schedule::parse(schedule).expect(schedule);
            assert_eq!(read.next(at(now), &zone), Some(at(next)), "{schedule}");
            let before = read.last(at(now), &zone, SignedDuration::from_hours(24 * 7));
            assert_eq!(before, (last != "-").then(|| at(last)), "{schedule}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "* * * *", "60 * * * *", "* * 0 * *", "a * * * *", "5-1 * * * *", "*/0 * * * *", "@daily"] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }
}
