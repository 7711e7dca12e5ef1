//! What a plain scalar means: null, a truth value, a number, a time, or text.
//!
//! Two readings exist side by side in the field: manifests are read as YAML 1.2 with a few customs of 1.1 (`on` is text,
//! `0777` is octal), kustomization files and everything that is written out as YAML 1.1 (`on` is true, so text `on` is quoted).
//!
//! Invariants: pure; text that does not fit any other meaning is text. It must not know: files, objects.

use std::borrow::Cow;

/// Which customs a text is read by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Custom {
    /// `yes`, `no`, `on`, `off`, `y` and `n` are truth values.
    Old,
    /// They are text.
    New,
}

/// The meaning of a plain scalar.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Meaning {
    Null,
    Bool(bool),
    Int(i64),
    /// Larger than any [`Meaning::Int`].
    Uint(u64),
    Float(f64),
    /// A point in time, as RFC 3339 writes it.
    Time(String),
    Text,
}

/// The meaning of a plain scalar's text.
pub(super) fn meaning(text: &str, custom: Custom) -> Meaning {
    let Some(first) = text.bytes().next() else { return Meaning::Null };
    match first {
        b'0'..=b'9' | b'+' | b'-' => word(text).unwrap_or_else(|| number_or_time(text)),
        b'.' => word(text).or_else(|| float(text).map(Meaning::Float)).unwrap_or(Meaning::Text),
        b'y' | b'Y' | b'n' | b'N' | b't' | b'T' | b'f' | b'F' | b'o' | b'O' | b'~' => {
            word(text).or_else(|| old_bool(text, custom)).unwrap_or(Meaning::Text)
        }
        _ => Meaning::Text,
    }
}

fn word(text: &str) -> Option<Meaning> {
    Some(match text {
        "true" | "True" | "TRUE" => Meaning::Bool(true),
        "false" | "False" | "FALSE" => Meaning::Bool(false),
        "~" | "null" | "Null" | "NULL" => Meaning::Null,
        ".nan" | ".NaN" | ".NAN" => Meaning::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Meaning::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Meaning::Float(f64::NEG_INFINITY),
        _ => return None,
    })
}

fn old_bool(text: &str, custom: Custom) -> Option<Meaning> {
    if custom == Custom::New {
        return None;
    }
    Some(match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Meaning::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Meaning::Bool(false),
        _ => return None,
    })
}

fn number_or_time(text: &str) -> Meaning {
    if let Some(time) = time(text) {
        return Meaning::Time(time);
    }
    let plain: Cow<'_, str> = if text.contains('_') { text.replace('_', "").into() } else { text.into() };
    if let Some(whole) = integer(&plain) {
        return whole;
    }
    if looks_like_float(&plain)
        && let Some(number) = float(&plain)
    {
        return Meaning::Float(number);
    }
    Meaning::Text
}

/// A whole number: decimal, `0x`, `0o`, `0b`, or octal by a leading zero.
fn integer(text: &str) -> Option<Meaning> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let signed = digits.len() != text.len();
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&digits[2..], 16),
        [b'0', b'o' | b'O', ..] => (&digits[2..], 8),
        [b'0', b'b' | b'B', ..] => (&digits[2..], 2),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    if digits.is_empty() || digits.starts_with(['+', '-']) {
        return None;
    }
    let size = u64::from_str_radix(digits, radix).ok()?;
    if negative {
        let lowest = i64::MIN.unsigned_abs();
        return (size <= lowest).then(|| Meaning::Int(0i64.wrapping_sub_unsigned(size)));
    }
    match i64::try_from(size) {
        Ok(number) => Some(Meaning::Int(number)),
        Err(_) => (!signed).then_some(Meaning::Uint(size)),
    }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn looks_like_float(text: &str) -> bool {
    let digits = |rest: &mut &str| {
        let length = rest.bytes().take_while(u8::is_ascii_digit).count();
        *rest = &rest[length..];
        length
    };
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    let whole = digits(&mut rest);
    let point = rest.strip_prefix('.');
    if let Some(after) = point {
        rest = after;
        if digits(&mut rest) == 0 && whole == 0 {
            return false;
        }
    } else if whole == 0 {
        return false;
    }
    if let Some(after) = rest.strip_prefix(['e', 'E']) {
        rest = after.strip_prefix(['-', '+']).unwrap_or(after);
        return digits(&mut rest) > 0 && rest.is_empty();
    }
    rest.is_empty()
}

/// A number that does not overflow.
fn float(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|number| number.is_finite())
}

/// Times as YAML writes them, in RFC 3339: `2001-1-2`, `2001-1-2 3:04:05.6`, `2001-1-2T3:04:05+01:00`.
fn time(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    if bytes.len() < 8 || !bytes[..4].iter().all(u8::is_ascii_digit) || bytes[4] != b'-' {
        return None;
    }
    let mut rest = &text[5..];
    let year: i16 = text[..4].parse().ok()?;
    let month = short(&mut rest)?;
    rest = rest.strip_prefix('-')?;
    let day = short(&mut rest)?;
    jiff::civil::Date::new(year, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
    let date = format!("{year:04}-{month:02}-{day:02}");
    if rest.is_empty() {
        return Some(format!("{date}T00:00:00Z"));
    }
    let zoned = rest.starts_with(['T', 't']);
    rest = rest.strip_prefix(['T', 't', ' '])?;
    let hour = short(&mut rest)?;
    rest = rest.strip_prefix(':')?;
    let minute = short(&mut rest)?;
    rest = rest.strip_prefix(':')?;
    let second = short(&mut rest)?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut fraction = "";
    if let Some(after) = rest.strip_prefix(['.', ',']) {
        let length = after.bytes().take_while(u8::is_ascii_digit).count();
        if length == 0 {
            return None;
        }
        fraction = after[..length.min(9)].trim_end_matches('0');
        rest = &after[length..];
    }
    let point = if fraction.is_empty() { "" } else { "." };
    let zone = match rest {
        "" if !zoned => "Z".to_owned(),
        "Z" if zoned => "Z".to_owned(),
        _ if zoned => offset(rest)?,
        _ => return None,
    };
    Some(format!("{date}T{hour:02}:{minute:02}:{second:02}{point}{fraction}{zone}"))
}

/// One or two digits.
fn short(rest: &mut &str) -> Option<u32> {
    let length = rest.bytes().take(2).take_while(u8::is_ascii_digit).count();
    let number = rest[..length].parse().ok()?;
    *rest = &rest[length..];
    Some(number)
}

fn offset(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let shape = bytes.len() == 6 && matches!(bytes[0], b'+' | b'-') && bytes[3] == b':';
    let digits = shape && [1, 2, 4, 5].iter().all(|&at| bytes[at].is_ascii_digit());
    if !digits || text[1..3] > *"24" || text[4..6] > *"60" {
        return None;
    }
    Some(if &text[1..] == "00:00" { "Z".to_owned() } else { text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_go_yaml_reads() {
        let text = |t: &str| Meaning::Time(t.to_owned());
        let cases = [
            ("", Meaning::Null),
            ("~", Meaning::Null),
            ("True", Meaning::Bool(true)),
            ("yes", Meaning::Text),
            ("12", Meaning::Int(12)),
            ("+12", Meaning::Int(12)),
            ("-0", Meaning::Int(0)),
            ("0777", Meaning::Int(511)),
            ("08", Meaning::Float(8.0)),
            ("0x1F", Meaning::Int(31)),
            ("0o17", Meaning::Int(15)),
            ("0b101", Meaning::Int(5)),
            ("1_000", Meaning::Int(1000)),
            ("18446744073709551615", Meaning::Uint(u64::MAX)),
            ("18446744073709551616", Meaning::Float(18_446_744_073_709_551_616.0)),
            ("-9223372036854775808", Meaning::Int(i64::MIN)),
            ("1.", Meaning::Float(1.0)),
            (".5", Meaning::Float(0.5)),
            ("1e3", Meaning::Float(1000.0)),
            ("1e999", Meaning::Text),
            ("1:30", Meaning::Text),
            ("1.2.3", Meaning::Text),
            ("-", Meaning::Text),
            ("2001-01-02", text("2001-01-02T00:00:00Z")),
            ("2001-1-2 3:4:5.60", text("2001-01-02T03:04:05.6Z")),
            ("2001-01-02T03:04:05+01:00", text("2001-01-02T03:04:05+01:00")),
            ("2001-13-02", Meaning::Text),
            ("<<", Meaning::Text),
        ];
        for (input, wanted) in cases {
            assert_eq!(meaning(input, Custom::New), wanted, "{input}");
        }
        assert_eq!(meaning("yes", Custom::Old), Meaning::Bool(true));
        assert_eq!(meaning("N", Custom::Old), Meaning::Bool(false));
        assert!(matches!(meaning(".nan", Custom::New), Meaning::Float(n) if n.is_nan()));
    }
}
