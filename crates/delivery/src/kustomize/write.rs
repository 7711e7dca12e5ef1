//! JSON values to YAML text, in the one form that kubectl prints: keys in natural order, lists not indented, lines of text
//! folded at 80 columns, text quoted where a reader of YAML 1.1 would take it for something else.
//!
//! Invariants: what is written reads back as the same value. It must not know: objects.

use super::scalar::{Custom, Meaning, meaning};
use serde_json::{Number, Value};
use std::cmp::Ordering;
use std::fmt::Write;

/// The column after which a line of text is folded at its next space.
const WIDTH: usize = 80;
/// Longer keys are written with `?`.
const KEY_LIMIT: usize = 128;

/// Objects as a stream of YAML documents, as kubectl writes them.
pub fn to_yaml(objects: &[Value]) -> String {
    let mut writer = Writer { out: String::new(), column: 0 };
    for (at, object) in objects.iter().enumerate() {
        if at > 0 {
            writer.put("---\n");
        }
        writer.node(object, 0, Place::Root);
        writer.line();
    }
    writer.out
}

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    /// After `key:`.
    Value,
    /// After `- ` (or `? `): the first field goes on the same line.
    Item,
}

struct Writer {
    out: String,
    column: usize,
}

impl Writer {
    fn put(&mut self, text: &str) {
        self.out.push_str(text);
        match text.rfind('\n') {
            Some(at) => self.column = text[at + 1..].chars().count(),
            None => self.column += text.chars().count(),
        }
    }

    fn char(&mut self, c: char) {
        self.out.push(c);
        self.column = if is_break(c) { 0 } else { self.column + 1 };
    }

    /// Ends the line, unless it is ended.
    fn line(&mut self) {
        if !self.out.ends_with('\n') {
            self.char('\n');
        }
    }

    fn indent(&mut self, indent: usize) {
        self.line();
        self.pad(indent);
    }

    fn pad(&mut self, indent: usize) {
        while self.column < indent {
            self.char(' ');
        }
    }

    /// Writes a value whose own lines begin at `indent`.
    fn node(&mut self, value: &Value, indent: usize, place: Place) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (at, (key, value)) in sorted(fields).into_iter().enumerate() {
                    if at > 0 || place == Place::Value {
                        self.indent(indent);
                    }
                    self.field(key, value, indent);
                }
            }
            Value::Array(items) if !items.is_empty() => {
                for (at, item) in items.iter().enumerate() {
                    if at > 0 || place == Place::Value {
                        self.indent(indent);
                    }
                    self.put("- ");
                    self.nested(item, indent + 2);
                }
            }
            Value::Object(_) => self.flow("{}", place),
            Value::Array(_) => self.flow("[]", place),
            Value::String(text) => {
                self.space(place);
                self.text(text, indent, false);
            }
            Value::Null => self.flow("null", place),
            Value::Bool(truth) => self.flow(if *truth { "true" } else { "false" }, place),
            Value::Number(number) => self.flow(&number_text(number), place),
        }
    }

    fn space(&mut self, place: Place) {
        if place == Place::Value {
            self.char(' ');
        }
    }

    fn flow(&mut self, text: &str, place: Place) {
        self.space(place);
        self.put(text);
    }

    /// What follows `- `, `? ` or a `: ` that answers `?`.
    fn nested(&mut self, value: &Value, indent: usize) {
        self.node(value, indent, Place::Item);
    }

    fn field(&mut self, key: &str, value: &Value, indent: usize) {
        if key.len() > KEY_LIMIT || Look::of(key).line_breaks {
            self.put("? ");
            self.text(key, indent + 2, false);
            self.indent(indent);
            self.put(": ");
            return self.nested(value, indent + 2);
        }
        self.text(key, indent, true);
        self.char(':');
        let deeper = if value.is_array() { indent } else { indent + 2 };
        self.node(value, deeper, Place::Value);
    }

    fn text(&mut self, text: &str, indent: usize, key: bool) {
        let look = Look::of(text);
        match look.style(text, key) {
            Style::Plain => self.plain(text, indent, key),
            Style::Single => self.single(text, indent, key),
            Style::Double => self.double(text, indent, key),
            Style::Literal => self.literal(text, indent),
        }
    }

    fn plain(&mut self, text: &str, indent: usize, key: bool) {
        let chars: Vec<char> = text.chars().collect();
        let mut spaces = false;
        for (at, &c) in chars.iter().enumerate() {
            if c == ' ' {
                let next_is_space = chars.get(at + 1) == Some(&' ');
                if !key && !spaces && self.column > WIDTH && !next_is_space {
                    self.indent(indent);
                } else {
                    self.char(c);
                }
                spaces = true;
            } else {
                self.char(c);
                spaces = false;
            }
        }
    }

    fn single(&mut self, text: &str, indent: usize, key: bool) {
        self.char('\'');
        let chars: Vec<char> = text.chars().collect();
        let (mut spaces, mut breaks) = (false, false);
        for (at, &c) in chars.iter().enumerate() {
            if c == ' ' {
                let inner = at > 0 && at + 1 < chars.len() && chars[at + 1] != ' ';
                if !key && !spaces && self.column > WIDTH && inner {
                    self.indent(indent);
                } else {
                    self.char(c);
                }
                spaces = true;
            } else if is_break(c) {
                if !breaks && c == '\n' {
                    self.char('\n');
                }
                self.char(c);
                breaks = true;
            } else {
                if breaks {
                    self.pad(indent);
                }
                if c == '\'' {
                    self.char('\'');
                }
                self.char(c);
                spaces = false;
                breaks = false;
            }
        }
        self.char('\'');
    }

    fn double(&mut self, text: &str, indent: usize, key: bool) {
        self.char('"');
        let chars: Vec<char> = text.chars().collect();
        let mut spaces = false;
        // Text that begins with a byte order mark is escaped all through, by an oversight that everybody's files have.
        let marked = text.starts_with('\u{feff}');
        for (at, &c) in chars.iter().enumerate() {
            if marked || !is_printable(c) || is_break(c) || c == '"' || c == '\\' {
                self.escape(c);
                spaces = false;
            } else if c == ' ' {
                let inner = at > 0 && at + 1 < chars.len();
                if !key && !spaces && self.column > WIDTH && inner {
                    self.indent(indent);
                    if chars[at + 1] == ' ' {
                        self.char('\\');
                    }
                } else {
                    self.char(c);
                }
                spaces = true;
            } else {
                self.char(c);
                spaces = false;
            }
        }
        self.char('"');
    }

    fn escape(&mut self, c: char) {
        let mut text = String::from("\\");
        match c {
            '\0' => text.push('0'),
            '\u{7}' => text.push('a'),
            '\u{8}' => text.push('b'),
            '\t' => text.push('t'),
            '\n' => text.push('n'),
            '\u{b}' => text.push('v'),
            '\u{c}' => text.push('f'),
            '\r' => text.push('r'),
            '\u{1b}' => text.push('e'),
            '"' => text.push('"'),
            '\\' => text.push('\\'),
            '\u{85}' => text.push('N'),
            '\u{a0}' => text.push('_'),
            '\u{2028}' => text.push('L'),
            '\u{2029}' => text.push('P'),
            _ => {
                let code = u32::from(c);
                // Writing into a string cannot fail.
                let _ = match code {
                    0..=0xff => write!(text, "x{code:02X}"),
                    0x100..=0xffff => write!(text, "u{code:04X}"),
                    _ => write!(text, "U{code:08X}"),
                };
            }
        }
        self.put(&text);
    }

    fn literal(&mut self, text: &str, indent: usize) {
        self.char('|');
        if text.starts_with(|c| c == ' ' || is_break(c)) {
            self.char('2');
        }
        let mut ending = text.chars().rev();
        match (ending.next().is_some_and(is_break), ending.next()) {
            (false, _) => self.char('-'),
            (true, None) => self.char('+'),
            (true, Some(before)) if is_break(before) => self.char('+'),
            (true, Some(_)) => {}
        }
        self.char('\n');
        let mut breaks = true;
        for c in text.chars() {
            if is_break(c) {
                self.char(c);
                breaks = true;
            } else {
                if breaks {
                    self.pad(indent);
                }
                self.char(c);
                breaks = false;
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Single,
    Double,
    Literal,
}

/// What a text has in it that some styles cannot carry.
#[derive(Debug, Default)]
struct Look {
    line_breaks: bool,
    plain: bool,
    single: bool,
    block: bool,
}

impl Look {
    fn of(text: &str) -> Self {
        if text.is_empty() {
            return Self { line_breaks: false, plain: true, single: true, block: false };
        }
        let mut indicators = text.starts_with("---") || text.starts_with("...");
        let (mut special, mut breaks, mut outer, mut trailing_space) = (false, false, false, false);
        let (mut break_space, mut space_break) = (false, false);
        let (mut after_space, mut after_break, mut after_blank) = (false, false, true);
        let mut chars = text.chars().peekable();
        let mut first = true;
        while let Some(c) = chars.next() {
            let before_blank = chars.peek().is_none_or(|&next| next == ' ' || next == '\t' || is_break(next));
            let last = chars.peek().is_none();
            indicators |= match c {
                '#' if first => true,
                ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' => first,
                '?' | '-' => first && before_blank,
                ':' => before_blank,
                '#' => after_blank,
                _ => false,
            };
            special |= !is_printable(c);
            if c == ' ' {
                outer |= first || last;
                trailing_space |= last;
                break_space |= after_break;
                (after_space, after_break) = (true, false);
            } else if is_break(c) {
                breaks = true;
                outer |= first || last;
                space_break |= after_space;
                (after_space, after_break) = (false, true);
            } else {
                (after_space, after_break) = (false, false);
            }
            after_blank = c == ' ' || c == '\t' || is_break(c);
            first = false;
        }
        let hard = space_break || special;
        Self {
            line_breaks: breaks,
            plain: !(indicators || outer || break_space || hard || breaks),
            single: !(break_space || hard),
            block: !(trailing_space || hard),
        }
    }

    fn style(&self, text: &str, key: bool) -> Style {
        let wanted = if text.contains('\n') {
            Style::Literal
        } else if stays_text(text) {
            Style::Plain
        } else {
            Style::Double
        };
        match wanted {
            _ if key && self.line_breaks => Style::Double,
            Style::Plain if self.plain && !(text.is_empty() && key) => Style::Plain,
            Style::Plain if self.single => Style::Single,
            Style::Literal if self.block && !key => Style::Literal,
            _ => Style::Double,
        }
    }
}

/// Whether a reader takes plain text as text.
fn stays_text(text: &str) -> bool {
    meaning(text, Custom::Old) == Meaning::Text && !is_sexagesimal(text)
}

/// Numbers to the base 60 with a fraction: `[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?`
fn is_sexagesimal(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !text.starts_with(|c: char| c.is_ascii_digit()) || !text.contains(':') {
        return false;
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut groups = whole.split(':');
    let head = groups.next().unwrap_or_default();
    head.bytes().all(|b| b.is_ascii_digit() || b == b'_')
        && groups.all(|group| match group.as_bytes() {
            [digit] => digit.is_ascii_digit(),
            [ten, digit] => (b'0'..=b'5').contains(ten) && digit.is_ascii_digit(),
            _ => false,
        })
        && fraction.bytes().all(|b| b.is_ascii_digit() || b == b'_')
}

fn is_break(c: char) -> bool {
    matches!(c, '\r' | '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_printable(c: char) -> bool {
    matches!(c, '\n' | '\u{20}'..='\u{7e}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}')
}

/// Floats as Go prints them by `%g` with the fewest digits.
fn number_text(number: &Number) -> String {
    let Some(float) = number.as_f64().filter(|_| number.is_f64()) else { return number.to_string() };
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        return format!("{float}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// Fields in their natural order. That is no total order for some odd keys, so a sort that minds is not used; fields are
/// mostly in order as they come.
fn sorted(fields: &serde_json::Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut sorted: Vec<(&String, &Value)> = fields.iter().collect();
    for at in 1..sorted.len() {
        let mut place = at;
        while place > 0 && natural(sorted[place].0, sorted[place - 1].0) == Ordering::Less {
            sorted.swap(place, place - 1);
            place -= 1;
        }
    }
    sorted
}

/// The natural order of keys: runs of digits compare as numbers, letters come after everything else.
fn natural(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    for at in 0..a.len().min(b.len()) {
        if a[at] == b[at] {
            continue;
        }
        let (left, right) = (a[at].is_alphabetic(), b[at].is_alphabetic());
        if left && right {
            return a[at].cmp(&b[at]);
        }
        if left || right {
            return if right { Ordering::Less } else { Ordering::Greater };
        }
        let zero = a[at] == '0' || b[at] == '0';
        let within = zero && a[..at].iter().rev().take_while(|c| c.is_ascii_digit()).any(|&c| c != '0');
        let run = |text: &[char]| {
            let length = text[at..].iter().take_while(|c| c.is_ascii_digit()).count();
            let number = text[at..at + length]
                .iter()
                .fold(i64::from(within), |n, &c| n.wrapping_mul(10).wrapping_add(i64::from(u32::from(c) - 48)));
            (number, length)
        };
        return run(&a).cmp(&run(&b)).then(a[at].cmp(&b[at]));
    }
    a.len().cmp(&b.len())
}
