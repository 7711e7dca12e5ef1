//! Passwords behind `password=`, as libpq, ODBC, property files and the command lines of programs have them.
//!
//! Invariants: those of [`super::text`]. What is looked at is taken, or looked at no further than [`AHEAD`].

use super::MASK;
use super::text::{AHEAD, is_of_name, name_at_end};

/// How names of passwords end that stand before a `=`. `password_file` and `max_tokens` are none.
const NAMES: [&str; 4] = ["password", "passwd", "passphrase", "pwd"];
/// What stands in the place of a password where there is none.
const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "none", "null", "%s"];
const QUOTES: &str = "\"'`";

/// Without the values of `password=…`: as they are, quoted, or in braces.
pub(super) fn without(text: &str) -> String {
    let (mut said, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find('=') {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        let named = before.trim_end_matches(' ');
        let name = name_at_end(named);
        said.push_str(&rest[..=at]);
        rest = after;
        let lower = name.to_ascii_lowercase();
        if !NAMES.iter().any(|end| lower.ends_with(end)) {
            continue;
        }
        let preceding = named[..named.len() - name.len()].chars().next_back();
        let spaces = after.len() - after.trim_start_matches(' ').len();
        let value = &after[spaces..];
        // Nothing is there, and the next one begins. What ends with `=` is of base64.
        if spaces > 0 && pair(value).is_some_and(is_value) {
            continue;
        }
        let (opening, length) = value_of(value, preceding.filter(|c| QUOTES.contains(*c)));
        let (inside, following) = (&value[opening..opening + length], &value[opening + length..]);
        let in_list = preceding == Some(';') || following.starts_with(';');
        let shown = is_no_password(inside) || is_directory(name, inside) && !in_list;
        said.extend([&after[..spaces + opening], if shown { inside } else { MASK }]);
        rest = following;
    }
    said.push_str(rest);
    said
}

/// What follows `name=`, where a text begins with that.
fn pair(text: &str) -> Option<&str> {
    let after = text.trim_start_matches(is_of_name);
    if after.len() == text.len() { None } else { after.strip_prefix('=') }
}

/// Whether a value begins a text.
fn is_value(text: &str) -> bool {
    let mut chars = text.chars();
    match chars.next() {
        // The one that closes what the pair stands in.
        Some(c) if QUOTES.contains(c) => chars.next().is_some_and(|c| c.is_alphanumeric() || c == '('),
        Some(c) => !c.is_whitespace() && !"=,;&)]}".contains(c),
        None => false,
    }
}

/// How long the opening of a value is, and the value behind it. `around` is the quote that began before the name.
fn value_of(text: &str, around: Option<char>) -> (usize, usize) {
    if let Some(quote) = text.chars().next().filter(|c| QUOTES.contains(*c) && Some(*c) != around) {
        return (1, quoted(text, quote));
    }
    let plain = plain(text);
    match braced(text) {
        Some(length) if !is_no_password(&text[..plain]) => {
            let closed = "{".len() + length + "}".len();
            match closed + self::plain(&text[closed..]) {
                end if end == closed && closed >= plain => (1, length),
                end => (0, end.max(plain)),
            }
        }
        _ => (0, plain),
    }
}

/// How long a value in quotes is. One that is doubled, or behind a backslash, is of the value.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote && text[at + 1..].starts_with(quote) => escaped = true,
            _ if c == quote => return at - 1,
            _ => {}
        }
    }
    // It is cut off somewhere.
    text.len() - 1
}

/// How long a value in braces is, as ODBC has it: a closing one that is doubled is of the value.
fn braced(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('{')?;
    let mut doubled = false;
    for (at, byte) in inside.bytes().enumerate().take(AHEAD) {
        match byte {
            b'\n' => return None,
            _ if doubled => doubled = false,
            b'}' if inside.as_bytes().get(at + 1) == Some(&b'}') => doubled = true,
            b'}' => return Some(at),
            _ => {}
        }
    }
    None
}

/// How long a value is that stands as it is.
fn plain(text: &str) -> usize {
    let ends = |at: usize, c: char| {
        let more = &text[at + c.len_utf8()..];
        match c {
            _ if c.is_whitespace() => true,
            '"' | '\'' | '`' => more.chars().next().is_none_or(|c| c.is_whitespace() || ",;)]}:".contains(c)),
            ';' | '&' | ',' => more.is_empty() || more.starts_with(char::is_whitespace) || pair(more).is_some(),
            _ => false,
        }
    };
    // A backslash takes a space into the value.
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if !escaped && ends(at, c) {
            return at;
        }
        escaped = !escaped && c == '\\';
    }
    text.len()
}

/// Whether it is nothing, a word of its own, a comparison, or says where the password comes from (and none to take where that has none).
fn is_no_password(value: &str) -> bool {
    let comes = [("${", "}"), ("$(", ")"), ("{{", "}}"), ("<", ">")];
    let inside = |(open, close): &(&str, &str)| value.strip_prefix(open)?.strip_suffix(close);
    let comes = comes.iter().filter_map(inside).any(|inside| inside.chars().all(is_of_name));
    let word = WORDS.iter().any(|word| value.eq_ignore_ascii_case(word));
    word || comes || value == MASK || value.chars().all(|c| "=>~*".contains(c))
}

/// Whether it is where a shell is, or was.
fn is_directory(name: &str, value: &str) -> bool {
    let path = |c: char| c == '/' || is_of_name(c);
    matches!(name, "PWD" | "OLDPWD") && value.starts_with('/') && value.chars().all(path)
}

#[cfg(test)]
mod tests {
    use crate::mask::text::tests::{holds, shown};

    #[test]
    fn passwords_in_pairs_are_masked() {
        holds(&[
            ("host=db user=web password=hunter2 dbname=x", "host=db user=web password=(sensitive) dbname=x"),
            ("host=db password='it is \\' so' sslmode=require", "host=db password='(sensitive)' sslmode=require"),
            ("password = hunter2 user=u", "password = (sensitive) user=u"),
            ("password=a\\ b user=u", "password=(sensitive) user=u"),
            ("sslkey=k sslpassword=pw", "sslkey=k sslpassword=(sensitive)"),
            ("dsn=\"host=db password=it's\", tried twice", "dsn=\"host=db password=(sensitive)\", tried twice"),
            ("Server=h;User Id=sa;Password=a;b;Encrypt=true", "Server=h;User Id=sa;Password=(sensitive);Encrypt=true"),
            ("Server=h;PWD=\"x;y\";Encrypt=true", "Server=h;PWD=\"(sensitive)\";Encrypt=true"),
            ("a=1\nspring.datasource.password=pw\nb=2", "a=1\nspring.datasource.password=(sensitive)\nb=2"),
            (
                "java -Djavax.net.ssl.keyStorePassword=pw -jar a",
                "java -Djavax.net.ssl.keyStorePassword=(sensitive) -jar a",
            ),
            ("--password=pw --level=info", "--password=(sensitive) --level=info"),
            ("DB_PASSWORD='cut off in the mid", "DB_PASSWORD='(sensitive)"),
            ("größe=1 password=ü", "größe=1 password=(sensitive)"),
        ]);
    }

    #[test]
    fn what_is_no_password_behind_such_a_name_is_shown() {
        shown(&[
            "password_file=/run/secrets/db",
            "password_encryption=scram-sha-256",
            "max_tokens=4096",
            "password= user=u",
            "password=",
            "say \"password=\" and more",
            "password=$(DB_PASSWORD) host=db",
            "password=${DB_PASSWORD}",
            "password=<password>",
            "--password=%s",
            "require_password=true",
            "password=*****",
            "if password == other",
            "password => x",
            "password authentication failed for user=web",
            "password=<your-password> host=db",
            "password={{.Values.password}}",
            "PWD=/srv",
            "HOME=/root PWD=/srv/app-1.2 OLDPWD=/ A=b",
            "OLDPWD= A=b",
        ]);
    }

    #[test]
    fn a_value_is_masked_to_its_end() {
        holds(&[
            ("password = cGFzc3dvcmQ=", "password = (sensitive)"),
            ("password = cGFzc3dvcg==\nuser=u", "password = (sensitive)\nuser=u"),
            ("\"password = cGFzc3dvcmQ=\", again", "\"password = (sensitive)\", again"),
            ("Password=\"a\"\"b\";Encrypt=true", "Password=\"(sensitive)\";Encrypt=true"),
            ("password='it''s' user=u", "password='(sensitive)' user=u"),
            ("PWD={a;b=c};UID=sa", "PWD={(sensitive)};UID=sa"),
            ("PWD={a}};b=c d};UID=sa", "PWD={(sensitive)};UID=sa"),
            ("password={a b}c user=u", "password=(sensitive) user=u"),
            ("password={a}b user=u", "password=(sensitive) user=u"),
            ("password={a user=u", "password=(sensitive) user=u"),
        ]);
    }

    #[test]
    fn what_only_begins_like_no_password_is_masked() {
        holds(&[
            ("password=${DB_PASSWORD:hunter2} a", "password=(sensitive) a"),
            ("password=${X:-hunter2}", "password=(sensitive)"),
            ("password==hunter2", "password=(sensitive)"),
            ("password=>hunter2", "password=(sensitive)"),
            ("password=~hunter2", "password=(sensitive)"),
            ("password=(sensitive)hunter2", "password=(sensitive)"),
            ("UID=sa;PWD=/x9;A=b", "UID=sa;PWD=(sensitive);A=b"),
            ("PWD=/x!9", "PWD=(sensitive)"),
        ]);
    }
}
