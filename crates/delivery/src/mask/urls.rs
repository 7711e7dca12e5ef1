//! Passwords and tokens in URLs: before the host, and as parameters.
//!
//! Invariants: those of [`super::text`]. Knows nothing of texts without `://`.

use super::text::Words;
use super::{MASK, is_secret_name};

/// A userinfo without a colon that is as long is held to be a token, characters.
const TOKEN: usize = 16;
/// How tokens begin that are not as long as they look in examples.
const TOKENS: [&str; 5] = ["ghp_", "gho_", "ghs_", "github_pat_", "glpat-"];

pub(super) fn without(text: &str) -> String {
    let (mut said, mut from, mut words) = (String::with_capacity(text.len()), 0, Words::of(text));
    while let Some(at) = text[from..].find("://") {
        let start = from + at + "://".len();
        said.push_str(&text[from..start]);
        let word = &text[start..words.end(start)];
        // Of several in a row, each is its own.
        let of_scheme = |c: char| c.is_ascii_alphanumeric() || "+.-".contains(c);
        let length = word.find("://").map_or(word.len(), |next| word[..next].trim_end_matches(of_scheme).len());
        let (credentials, place) = split_credentials(&word[..length]);
        said.push_str(&credentials);
        said.push_str(&without_parameters(place));
        from = start + length;
    }
    said.push_str(&text[from..]);
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
    let digits = following.bytes().all(|byte| byte.is_ascii_digit());
    // `token@host:80`: the colon is the port's, or an address's.
    if let Some((token, host)) = user.rsplit_once('@').filter(|_| !following.contains('@'))
        && (digits || host.starts_with('[') || !url[user.len()..].contains('@'))
    {
        return (format!("{}@", user_of(token)), &url[token.len() + 1..]);
    }
    let is_port = !user.is_empty() && digits;
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

#[cfg(test)]
mod tests {
    use crate::mask::text::tests::holds;

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
            ("a://ü://u:p@h", "a://ü://u:(sensitive)@h"),
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
    fn the_colon_of_a_port_is_told_from_that_of_a_password() {
        holds(&[
            (
                "smtp://ann@example.com:AbC/dEf@smtp.example.com:587",
                "smtp://ann@example.com:(sensitive)@smtp.example.com:587",
            ),
            ("smtp://ann@example.com:AbC@smtp.example.com", "smtp://ann@example.com:(sensitive)@smtp.example.com"),
            ("https://ghp_xxx@github.com:443/a@b", "https://(sensitive)@github.com:443/a@b"),
            ("postgres://web@[::1]:5432/x@y", "postgres://web@[::1]:5432/x@y"),
            ("ssh://git@github.com:team/shop.git", "ssh://git@github.com:team/shop.git"),
        ]);
    }
}
