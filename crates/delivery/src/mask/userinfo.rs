//! Passwords of `user:password@host` where no scheme says that there is one, as Go's drivers and many clients have it.
//!
//! Invariants: those of [`super::text`].

use super::MASK;
use super::text::{Words, name_at_end};

/// What stands before a colon and an address of mail. None is a name that people give to a database's user.
const LABELS: [&str; 17] = [
    "mailto",
    "email",
    "e-mail",
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
    "sip",
    "sips",
    "xmpp",
    "acct",
];
/// The longest that a time is, characters.
const TIME: usize = 64;

/// Without the passwords of `user:password@host`, where the host looks like one.
pub(super) fn without(text: &str) -> String {
    let (mut said, mut from, mut hosts) = (String::with_capacity(text.len()), 0, Hosts::of(text));
    while let Some(at) = text[from..].find(':') {
        let colon = from + at;
        let user = name_at_end(&text[from..colon]);
        said.push_str(&text[from..=colon]);
        from = colon + 1;
        let after = &text[from..];
        // URLs were looked at as such.
        if after.starts_with("//") {
            let end = after.find(|c: char| c.is_whitespace() || "\"'`,;".contains(c)).unwrap_or(after.len());
            said.push_str(&after[..end]);
            from += end;
            continue;
        }
        let masked = after.strip_prefix(MASK).is_some_and(|more| more.starts_with('@'));
        let found = if masked { Some(from + MASK.len()) } else { hosts.next(from) };
        let Some(end) = found else { continue };
        let place = &text[end + 1..hosts.words.end(end)];
        if is_time(user, &text[from..end]) || is_label(user) && is_of_mail(user, place) {
            continue;
        }
        // The colon of the host's port begins no password.
        let host = host_of(place).len();
        let port = place[host..].trim_start_matches(|c: char| c == ':' || c.is_ascii_digit());
        from = end + 1 + place.len() - port.len();
        said.extend([MASK, &text[end..from]]);
    }
    said.push_str(&text[from..]);
    said
}

/// Every `@` before what looks like a host, each looked at once. Asked for from the front to the back.
struct Hosts<'a> {
    text: &'a str,
    words: Words<'a>,
    found: Option<usize>,
    looked: usize,
}

impl<'a> Hosts<'a> {
    fn of(text: &'a str) -> Self {
        Self { text, words: Words::of(text), found: None, looked: 0 }
    }

    /// The next one in this word, with something before it.
    fn next(&mut self, from: usize) -> Option<usize> {
        if let Some(found) = self.found.filter(|found| *found > from) {
            // Within this word, as it was in that of one before.
            return (found < self.words.end(from)).then_some(found);
        }
        let end = self.words.end(from);
        let first = from + usize::from(self.text[from..].starts_with('@'));
        self.looked = self.looked.max(first);
        while let Some(at) = self.text.get(self.looked..end).and_then(|more| more.find('@')) {
            let at = self.looked + at;
            self.looked = at + 1;
            if is_host(&self.text[at + 1..end]) {
                self.found = Some(at);
                return self.found;
            }
        }
        self.looked = self.looked.max(end);
        None
    }
}

/// Whether it is a time, or begins with one: `12:30:01@…`.
fn is_time(user: &str, password: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || b":.".contains(&byte));
    !user.is_empty() && user.len() + password.len() <= TIME && digits(user) && digits(password)
}

fn is_label(user: &str) -> bool {
    let by =
        user.len() > 3 && user.is_char_boundary(user.len() - 3) && user[user.len() - 3..].eq_ignore_ascii_case("-by");
    by || LABELS.iter().any(|label| user.eq_ignore_ascii_case(label))
}

/// Whether it is a domain alone, without what only servers have: a port, a path.
fn is_of_mail(label: &str, place: &str) -> bool {
    let host = host_of(place);
    let after = &place[host.len()..];
    is_domain(host)
        && match after.chars().next() {
            None => true,
            Some(':') => !after[1..].starts_with(|c: char| c.is_ascii_digit()),
            Some('?') => label.eq_ignore_ascii_case("mailto"),
            Some(c) => ",;>)]}!".contains(c),
        }
}

fn host_of(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_ascii_alphanumeric() && !".-".contains(c)).unwrap_or(text.len())]
}

/// Whether it is several labels, the last of them a word.
fn is_domain(host: &str) -> bool {
    let last = host.trim_end_matches('.').rsplit_once('.').map(|(_, last)| last);
    last.is_some_and(|last| last.len() > 1 && last.bytes().all(|byte| byte.is_ascii_alphabetic()))
}

/// Whether a text begins with a host: with a port, with a path, of several labels, or as Go's drivers have it (`tcp(…)`).
fn is_host(text: &str) -> bool {
    if ["tcp(", "tcp6(", "unix("].iter().any(|start| text.starts_with(start)) {
        return true;
    }
    let host = host_of(text);
    let after = &text[host.len()..];
    if host.is_empty() || ["sha256", "sha384", "sha512"].contains(&host) || after.starts_with('@') {
        return false;
    }
    let mut labels = host.trim_end_matches('.').split('.');
    let numbers = labels.clone().all(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    let several = if numbers { labels.nth(3).is_some() && labels.next().is_none() } else { is_domain(host) };
    let port = after.strip_prefix(':').is_some_and(|port| port.starts_with(|c: char| c.is_ascii_digit()));
    several || host == "localhost" || port || after.starts_with('/') && !numbers
}

#[cfg(test)]
mod tests {
    use crate::mask::text::tests::{holds, shown};

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
    fn a_user_may_be_called_as_anything() {
        holds(&[
            ("user:hunter2@tcp(db:3306)/shop", "user:(sensitive)@tcp(db:3306)/shop"),
            ("user:pw@db:5432", "user:(sensitive)@db:5432"),
            ("user:pw@db.example.com", "user:(sensitive)@db.example.com"),
            ("git:pw@git.example.com/x", "git:(sensitive)@git.example.com/x"),
            ("docker:pw@registry.example.com:5000", "docker:(sensitive)@registry.example.com:5000"),
            ("mail:pw@smtp.example.com:587", "mail:(sensitive)@smtp.example.com:587"),
            ("owner:pw@db.example.com:5432/x", "owner:(sensitive)@db.example.com:5432/x"),
            ("owner:pw@db/x", "owner:(sensitive)@db/x"),
            ("author:pw@10.0.0.1", "author:(sensitive)@10.0.0.1"),
            ("to:pw@localhost", "to:(sensitive)@localhost"),
            ("team-by:pw@tcp(db:1)/x", "team-by:(sensitive)@tcp(db:1)/x"),
        ]);
    }

    #[test]
    fn what_only_looks_like_a_password_before_a_host_is_shown() {
        shown(&[
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
            "Reported-by:a@b.org",
            "Signed-off-by:ann@example.com, and others",
            "mailto:ann@example.com?subject=x",
            "owner:ann@example.com: asked",
            "git://h:80/users/ann@example.com",
            "docker:team/web@sha256:0123456789abcdef",
        ]);
    }
}
