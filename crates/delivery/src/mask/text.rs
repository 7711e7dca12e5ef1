//! Passwords in texts: in URLs, before the host where no scheme says that there is one, and behind `password=` as libpq, ODBC and property
//! files have it.
//!
//! Invariants: pure; what is masked once stays as it is; what only looks like one (digests of images, times, addresses of mail, versions) is
//! shown. Where a password ends, nobody can tell for sure: rather more is masked than less.

use super::{MASK, is_secret_name};

/// A userinfo without a colon that is as long is held to be a token, characters.
const TOKEN: usize = 16;
/// How tokens begin that are not as long as they look in examples.
const TOKENS: [&str; 5] = ["ghp_", "gho_", "ghs_", "github_pat_", "glpat-"];

/// A text without the passwords and tokens in it: `redis://:hunter2@host` becomes `redis://:(sensitive)@host`, and
/// `jdbc:postgresql://h/db?password=x` becomes `jdbc:postgresql://h/db?password=(sensitive)`.
pub fn without_passwords(text: &str) -> String {
    without_userinfo(&without_pairs(&without_urls(text)))
}

/// Whether there may be something to mask.
pub(super) fn may_tell(text: &str) -> bool {
    text.contains(['=', '@']) || text.contains("://")
}

fn without_urls(text: &str) -> String {
    let (mut said, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        said.push_str(before);
        let word = after.find(|c: char| c.is_whitespace() || "\"'`".contains(c)).unwrap_or(after.len());
        // Of several in a row, each is its own.
        let end = after[..word].find("://").map_or(word, |next| {
            after[..next].rfind(|c: char| !c.is_ascii_alphanumeric() && !"+.-".contains(c)).map_or(0, |at| at + 1)
        });
        let (url, more) = after.split_at(end);
        let (credentials, place) = split_credentials(url);
        said.push_str(&credentials);
        said.push_str(&without_parameters(place));
        rest = more;
    }
    said.push_str(rest);
    said
}

/// What a URL says of who asks, as it may be shown (with its `@`), and what follows it. A password may hold what nobody encoded.
fn split_credentials(url: &str) -> (String, &str) {
    let authority = &url[..url.find(['/', '?', '#']).unwrap_or(url.len())];
    let is_token = |user: &str| user.len() >= TOKEN || TOKENS.iter().any(|start| user.starts_with(start));
    let user_of = |user: &str| if is_token(user) { MASK.to_owned() } else { user.to_owned() };
    let Some((user, following)) = authority.split_once(':').filter(|_| !url.starts_with('[')) else {
        return match authority.rsplit_once('@') {
            Some((user, host)) => (format!("{}@", user_of(user)), &url[authority.len() - host.len()..]),
            None => (String::new(), url),
        };
    };
    // `token@host:80`: the colon is the port's.
    if let Some((user, _)) = user.rsplit_once('@').filter(|_| !following.contains('@')) {
        return (format!("{}@", user_of(user)), &url[user.len() + 1..]);
    }
    let is_port = !user.is_empty() && following.bytes().all(|byte| byte.is_ascii_digit());
    match url.rfind('@') {
        Some(at) if !is_port => (format!("{}:{MASK}@", user_of(user)), &url[at + 1..]),
        _ => (String::new(), url),
    }
}

/// What follows the credentials of a URL, without the values of parameters whose names say that they are secret.
fn without_parameters(place: &str) -> String {
    let mut said = String::with_capacity(place.len());
    let mut rest = place;
    while let Some(at) = rest.find(['?', '&', ';', '#']) {
        let (before, after) = rest.split_at(at + 1);
        said.push_str(before);
        rest = after;
        let name = &rest[..rest.find(|c: char| !c.is_ascii_alphanumeric() && !"_-.".contains(c)).unwrap_or(rest.len())];
        let is_short = ["pass", "pwd"].iter().any(|short| name.eq_ignore_ascii_case(short));
        if !rest[name.len()..].starts_with('=') || !(is_short || is_secret_name(name)) {
            continue;
        }
        let value = &rest[name.len() + 1..];
        let length = value.find(['&', ';']).unwrap_or(value.len());
        said.extend([name, "=", if length == 0 { "" } else { MASK }]);
        rest = &value[length..];
    }
    said.push_str(rest);
    said
}

/// How names of passwords end that stand before a `=`. `password_file` and `max_tokens` are none.
const NAMES: [&str; 4] = ["password", "passwd", "passphrase", "pwd"];
/// What stands in the place of a password where there is none.
const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "none", "null", "%s"];

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-.".contains(c)
}

/// Without the values of `password=…`: as they are, or quoted.
fn without_pairs(text: &str) -> String {
    let (mut said, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find('=') {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        let named = before.trim_end_matches(' ');
        let name = &named[named.rfind(|c| !is_of_name(c)).map_or(0, |at| at + width(&named[at..]))..];
        said.push_str(&rest[..=at]);
        rest = after;
        let lower = name.to_ascii_lowercase();
        if !NAMES.iter().any(|end| lower.ends_with(end)) {
            continue;
        }
        let quote = named[..named.len() - name.len()].chars().next_back().filter(|c| "\"'`".contains(*c));
        let spaces = after.len() - after.trim_start_matches(' ').len();
        let value = &after[spaces..];
        // Nothing is there, and the next one begins.
        if spaces > 0 && begins_pair(value) {
            continue;
        }
        let (opening, length) = value_of(value, quote);
        let inside = &value[opening..opening + length];
        if is_no_password(inside) {
            continue;
        }
        said.extend([&after[..spaces + opening], MASK]);
        rest = &value[opening + length..];
    }
    said.push_str(rest);
    said
}

fn width(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}

/// Whether a text begins with `name=`.
fn begins_pair(text: &str) -> bool {
    let name = text.len() - text.trim_start_matches(is_of_name).len();
    name > 0 && text[name..].starts_with('=')
}

/// How long the opening quote of a value is, and the value behind it. `around` is the quote that began before the name.
fn value_of(text: &str, around: Option<char>) -> (usize, usize) {
    let quote = text.chars().next().filter(|c| "\"'`".contains(*c) && Some(*c) != around);
    if let Some(quote) = quote {
        let mut escaped = false;
        for (at, c) in text.char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                _ if c == quote => return (1, at - 1),
                _ => {}
            }
        }
        // It is cut off somewhere.
        return (1, text.len() - 1);
    }
    let ends = |at: usize, c: char| {
        let more = &text[at + c.len_utf8()..];
        match c {
            _ if c.is_whitespace() => true,
            '"' | '\'' | '`' => more.chars().next().is_none_or(|c| c.is_whitespace() || ",;)]}:".contains(c)),
            ';' | '&' | ',' => more.is_empty() || more.starts_with(char::is_whitespace) || begins_pair(more),
            _ => false,
        }
    };
    // A backslash takes a space into the value.
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if !escaped && ends(at, c) {
            return (0, at);
        }
        escaped = !escaped && c == '\\';
    }
    (0, text.len())
}

/// Whether it is nothing, a word of its own, a comparison, or says where the password comes from.
fn is_no_password(value: &str) -> bool {
    let comes = [("${", "}"), ("$(", ")"), ("{{", "}}"), ("<", ">")];
    let comes = comes.iter().any(|(open, close)| value.starts_with(open) && value.ends_with(close));
    let word = WORDS.iter().any(|word| value.eq_ignore_ascii_case(word));
    value.is_empty()
        || word
        || comes
        || value.starts_with(['=', '>', '~'])
        || value.starts_with(MASK)
        || value.chars().all(|c| c == '*')
}

/// What stands before a colon and an address that is no host with a password: of mail, of packages, of people.
const LABELS: [&str; 24] = [
    "mailto",
    "email",
    "e-mail",
    "mail",
    "from",
    "to",
    "cc",
    "bcc",
    "reply-to",
    "author",
    "committer",
    "contact",
    "owner",
    "maintainer",
    "user",
    "sip",
    "sips",
    "xmpp",
    "acct",
    "npm",
    "pkg",
    "git",
    "docker",
    "oci",
];

/// Without the passwords of `user:password@host`, where the host looks like one.
fn without_userinfo(text: &str) -> String {
    let (mut said, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(colon) = rest.find(':') {
        let (before, after) = (&rest[..colon], &rest[colon + 1..]);
        let user = &before[before.rfind(|c| !is_of_name(c)).map_or(0, |at| at + width(&before[at..]))..];
        said.push_str(&rest[..=colon]);
        rest = after;
        let label = LABELS.iter().any(|label| user.eq_ignore_ascii_case(label));
        if label {
            continue;
        }
        // URLs were looked at as such.
        if after.starts_with("//") {
            let end = after.find(|c: char| c.is_whitespace() || "\"'`,;".contains(c)).unwrap_or(after.len());
            said.push_str(&after[..end]);
            rest = &after[end..];
            continue;
        }
        let word = &after[..after.find(|c: char| c.is_whitespace() || "\"'`".contains(c)).unwrap_or(after.len())];
        let ends = word.match_indices('@').map(|(at, _)| at);
        let end = match after.starts_with(&format!("{MASK}@")) {
            true => Some(MASK.len()),
            false => ends.into_iter().find(|at| *at > 0 && is_host(&word[at + 1..])),
        };
        let is_time = |password: &str| password.bytes().all(|byte| byte.is_ascii_digit() || b":.".contains(&byte));
        let digits = user.bytes().all(|byte| byte.is_ascii_digit());
        if let Some(end) = end.filter(|end| !(digits && !user.is_empty() && is_time(&word[..*end]))) {
            // The colon of the host's port begins no password.
            let host = &after[end + 1..];
            let host =
                host.len() - host.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || ".-".contains(c)).len();
            let port = &after[end + 1 + host..];
            let port = port.len() - port.trim_start_matches(|c: char| c == ':' || c.is_ascii_digit()).len();
            let (shown, more) = after[end..].split_at(1 + host + port);
            said.extend([MASK, shown]);
            rest = more;
        }
    }
    said.push_str(rest);
    said
}

/// Whether a text begins with a host: with a port, with a path, of several labels, or as Go's drivers have it (`tcp(…)`).
fn is_host(text: &str) -> bool {
    if ["tcp(", "tcp6(", "unix("].iter().any(|start| text.starts_with(start)) {
        return true;
    }
    let host = &text[..text.find(|c: char| !c.is_ascii_alphanumeric() && !".-".contains(c)).unwrap_or(text.len())];
    let after = &text[host.len()..];
    if host.is_empty() || ["sha256", "sha384", "sha512"].contains(&host) || after.starts_with('@') {
        return false;
    }
    let labels: Vec<&str> = host.trim_end_matches('.').split('.').collect();
    let numbers = labels.iter().all(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    let domain =
        labels.last().is_some_and(|last| last.len() > 1 && last.bytes().all(|byte| byte.is_ascii_alphabetic()));
    let several = labels.len() > 1 && if numbers { labels.len() == 4 } else { domain };
    let port = after.strip_prefix(':').is_some_and(|port| port.starts_with(|c: char| c.is_ascii_digit()));
    several || host == "localhost" || port || after.starts_with('/') && !numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(cases: &[(&str, &str)]) {
        for (text, wanted) in cases {
            assert_eq!(without_passwords(text), *wanted);
            assert_eq!(without_passwords(wanted), *wanted, "once is enough");
        }
    }

    #[test]
    fn passwords_in_urls_are_masked() {
        holds(&[
            ("postgres://web:p@ss@db:5432/x?a=b", "postgres://web:(sensitive)@db:5432/x?a=b"),
            ("redis://:pw@h", "redis://:(sensitive)@h"),
            ("a https://mia@git.example/x and amqp://u:p@h", "a https://mia@git.example/x and amqp://u:(sensitive)@h"),
            ("http://h:80/a@b:c", "http://h:80/a@b:c"),
            ("http://h:80/image@sha256:12", "http://h:80/image@sha256:12"),
            ("http://h/a:b@c", "http://h/a:b@c"),
            ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
            ("://", "://"),
            (
                "nats://u:p1@a:4222,nats://u:p2@b:4222;nats://u:p3@c",
                "nats://u:(sensitive)@a:4222,nats://u:(sensitive)@b:4222;nats://u:(sensitive)@c",
            ),
            ("redis://:ab/cd@host", "redis://:(sensitive)@host"),
            ("redis://:12/cd@host", "redis://:(sensitive)@host"),
            ("postgres://u:pa#ss@h x@y", "postgres://u:(sensitive)@h x@y"),
            ("postgres://u:p?a@ss@h:5432/db", "postgres://u:(sensitive)@h:5432/db"),
            (
                "jdbc:postgresql://h/db?user=u&password=x&ssl=true",
                "jdbc:postgresql://h/db?user=u&password=(sensitive)&ssl=true",
            ),
            (
                "jdbc:sqlserver://h:1;user=u;pwd=x;a=b \"password=\"",
                "jdbc:sqlserver://h:1;user=u;pwd=(sensitive);a=b \"password=\"",
            ),
            ("https://h/cb#access_token=abc", "https://h/cb#access_token=(sensitive)"),
            ("https://h/?page_size=3", "https://h/?page_size=3"),
            ("https://ghp_xxx@github.com/a", "https://(sensitive)@github.com/a"),
            ("https://ghp_xxx:x-oauth-basic@github.com", "https://(sensitive):(sensitive)@github.com"),
            ("https://0123456789abcdef@sentry:9000/1", "https://(sensitive)@sentry:9000/1"),
            ("ssh://git@github.com:22/a", "ssh://git@github.com:22/a"),
        ]);
    }

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
        for text in [
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
        ] {
            assert_eq!(without_passwords(text), text);
        }
    }

    #[test]
    fn passwords_before_a_host_are_masked() {
        holds(&[
            ("web:hunter2@db:5432/x", "web:(sensitive)@db:5432/x"),
            ("DSN=web:hunter2@tcp(127.0.0.1:3306)/x", "DSN=web:(sensitive)@tcp(127.0.0.1:3306)/x"),
            (":hunter2@redis:6379", ":(sensitive)@redis:6379"),
            ("dial web:p@ss@db.example.com: refused", "dial web:(sensitive)@db.example.com: refused"),
            ("web:p@x.com@db:5432", "web:(sensitive)@db:5432"),
            ("u:p1@a:1,v:p2@b:2", "u:(sensitive)@a:1,v:(sensitive)@b:2"),
            ("\"web:pw@10.0.0.1\"", "\"web:(sensitive)@10.0.0.1\""),
            ("web:pw@localhost", "web:(sensitive)@localhost"),
            ("guest:guest@rabbit/vhost", "guest:(sensitive)@rabbit/vhost"),
            ("jdbc:oracle:thin:scott/tiger@h:1521:x", "jdbc:(sensitive)@h:1521:x"),
        ]);
    }

    #[test]
    fn what_only_looks_like_a_password_before_a_host_is_shown() {
        for text in [
            "shop/web:dev@sha256:0123456789abcdef",
            "PATH=/bin:/opt/python@3.11/bin:/usr/bin",
            "http://h:80/users/ann@example.com",
            "registry.example.com:5000/web:1.2@sha256:0123456789abcdef",
            "git@github.com:team/shop.git",
            "mailto:ann@example.com",
            "Author:ann@example.com",
            "pkg:npm/react@17.0.2",
            "npm:react@17.0.2",
            "team:shop@v1.2.3",
            "group:artifact:1.0@jar",
            "at 12:30:01@example.com",
            "to: ann@example.com",
            "system:serviceaccount:shop:web",
            "a: b@c",
            "host:5432 user@db.example.com",
        ] {
            assert_eq!(without_passwords(text), text);
        }
    }
}
