//! From what a manifest asks for (`HEAD`, a branch, a tag, `v1.*`, a commit) to one commit, given what a repository has.
//!
//! Pure. Argo CD's one field means whichever of these fits, in this order; Flux says which it means.

use std::collections::BTreeMap;

/// What a repository offers, as it says itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refs {
    /// The reference that `HEAD` names, and its commit.
    pub head: Option<(String, String)>,
    /// Full name to commit; annotated tags are resolved to their commit.
    pub refs: BTreeMap<String, String>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Wanted {
    /// Whatever fits: `HEAD` (or nothing), a branch, a tag, a commit, a range of versions.
    Any(String),
    /// A branch.
    Branch(String),
    /// A tag.
    Tag(String),
    /// The newest tag within a range of semantic versions.
    Semver(String),
    /// A reference by its full name.
    Name(String),
    /// A commit, by all of its digits.
    Commit(String),
}

/// What kind of name led to a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A reference by its full name.
    Named(String),
    /// The commit itself.
    Commit,
}

/// One commit, and what led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// All the digits.
    pub commit: String,
    /// What led there.
    pub reference: Reference,
}

impl Resolved {
    /// `main`, `v1.2.0` or nothing for a commit by itself.
    #[must_use]
    pub fn short_name(&self) -> Option<&str> {
        let Reference::Named(name) = &self.reference else { return None };
        let short = name.strip_prefix("refs/heads/").or_else(|| name.strip_prefix("refs/tags/"));
        Some(short.unwrap_or(name))
    }

    /// As Flux writes revisions: `main@sha1:DIGITS`, or `sha1:DIGITS`.
    #[must_use]
    pub fn flux_revision(&self) -> String {
        let algorithm = if self.commit.len() > 40 { "sha256" } else { "sha1" };
        match self.short_name() {
            Some(name) => format!("{name}@{algorithm}:{}", self.commit),
            None => format!("{algorithm}:{}", self.commit),
        }
    }
}

/// Whether this is a whole commit name.
#[must_use]
pub(crate) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

impl Refs {
    /// Reads `git ls-remote --symref`.
    #[must_use]
    pub fn parse(listing: &str) -> Self {
        let mut refs = Self::default();
        let mut head_name = None;
        let mut head = None;
        for line in listing.lines() {
            let Some((value, name)) = line.split_once('\t') else { continue };
            if let Some(target) = value.strip_prefix("ref: ") {
                if name == "HEAD" {
                    head_name = Some(target.to_owned());
                }
            } else if !is_commit(value) {
                continue;
            } else if name == "HEAD" {
                head = Some(value.to_owned());
            } else if let Some(tag) = name.strip_suffix("^{}") {
                // The commit behind an annotated tag comes after the tag itself.
                refs.refs.insert(tag.to_owned(), value.to_owned());
            } else {
                refs.refs.insert(name.to_owned(), value.to_owned());
            }
        }
        refs.head = head.map(|commit| (head_name.unwrap_or_else(|| "HEAD".to_owned()), commit));
        refs
    }

    /// The commit that is asked for.
    ///
    /// # Errors
    ///
    /// A sentence that says what there is instead.
    pub fn resolve(&self, wanted: &Wanted) -> Result<Resolved, String> {
        match wanted {
            Wanted::Any(text) => self.any(text),
            Wanted::Branch(name) => self.named(&format!("refs/heads/{name}")).ok_or_else(|| self.branches(name)),
            Wanted::Tag(name) => self.named(&format!("refs/tags/{name}")).ok_or_else(|| self.tags()),
            Wanted::Name(name) => self
                .named(name)
                .ok_or_else(|| "no reference has that name; write it in full, as refs/heads/main".to_owned()),
            Wanted::Semver(range) => self.newest(range),
            Wanted::Commit(commit) if is_commit(commit) => {
                Ok(Resolved { commit: commit.clone(), reference: Reference::Commit })
            }
            Wanted::Commit(_) => Err("a commit is written with all of its 40 digits".to_owned()),
        }
    }

    fn any(&self, text: &str) -> Result<Resolved, String> {
        if text.is_empty() || text == "HEAD" {
            let (name, commit) = self.head.clone().ok_or_else(|| {
                let names: Vec<&str> = self.branch_names().collect();
                match names.as_slice() {
                    [] => "the repository is empty; push a commit first".to_owned(),
                    names => format!("HEAD names a branch that is not there; name one of {}", listed(names)),
                }
            })?;
            return Ok(Resolved { commit, reference: Reference::Named(name) });
        }
        let names = [format!("refs/heads/{text}"), format!("refs/tags/{text}"), text.to_owned()];
        if let Some(found) = names.iter().find_map(|name| self.named(name)) {
            return Ok(found);
        }
        if is_commit(text) {
            return Ok(Resolved { commit: text.to_owned(), reference: Reference::Commit });
        }
        if text.len() >= 7 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("no branch or tag has that name; a commit is written with all of its 40 digits".to_owned());
        }
        if Range::parse(text).is_some() {
            return self.newest(text);
        }
        Err(self.branches(text))
    }

    fn named(&self, name: &str) -> Option<Resolved> {
        let commit = self.refs.get(name)?.clone();
        Some(Resolved { commit, reference: Reference::Named(name.to_owned()) })
    }

    fn newest(&self, range: &str) -> Result<Resolved, String> {
        let parsed = Range::parse(range)
            .ok_or_else(|| "that is no range of versions; write it as 1.2.*, ^1.2, ~1.2.3 or >=1.2 <2".to_owned())?;
        let tags = self.refs.keys().filter_map(|name| Some((name, Version::parse(name.strip_prefix("refs/tags/")?)?)));
        let fitting = tags.filter(|(_, version)| parsed.holds(version));
        let newest = fitting.max_by(|(_, a), (_, b)| a.cmp(b)).map(|(name, _)| name.clone());
        newest
            .and_then(|name| self.named(&name))
            .ok_or_else(|| format!("no tag is a version within it; {}", self.tags()))
    }

    fn branch_names(&self) -> impl Iterator<Item = &str> {
        self.refs.keys().filter_map(|name| name.strip_prefix("refs/heads/"))
    }

    fn branches(&self, _wanted: &str) -> String {
        let names: Vec<&str> = self.branch_names().collect();
        match names.as_slice() {
            [] => "the repository has no branch".to_owned(),
            names => format!("no branch or tag has that name; there is {}", listed(names)),
        }
    }

    fn tags(&self) -> String {
        let names: Vec<&str> = self.refs.keys().filter_map(|name| name.strip_prefix("refs/tags/")).collect();
        match names.as_slice() {
            [] => "the repository has no tags".to_owned(),
            names => format!("there are the tags {}", listed(names)),
        }
    }
}

/// The first few names.
fn listed(names: &[&str]) -> String {
    let first = names.iter().take(8).copied().collect::<Vec<_>>().join(", ");
    if names.len() > 8 { format!("{first} and {} more", names.len() - 8) } else { first }
}

/// A semantic version; what comes before a release is smaller than it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    numbers: [u64; 3],
    before: Option<String>,
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let text = text.split('+').next().unwrap_or(text);
        let (core, before) =
            text.split_once('-').map_or((text, None), |(core, before)| (core, Some(before.to_owned())));
        let mut numbers = [0; 3];
        let parts: Vec<&str> = core.split('.').collect();
        if parts.is_empty() || parts.len() > 3 {
            return None;
        }
        for (number, part) in numbers.iter_mut().zip(parts) {
            *number = part.parse().ok()?;
        }
        Some(Self { numbers, before })
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        use std::cmp::Ordering;
        self.numbers.cmp(&other.numbers).then_with(|| match (&self.before, &other.before) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(a), Some(b)) => identifiers(a).cmp(&identifiers(b)),
        })
    }
}

/// Numbers come before words, and are compared as numbers (semver.org, 11).
fn identifiers(text: &str) -> Vec<(bool, u64, String)> {
    let one = |part: &str| match part.parse::<u64>() {
        Ok(number) => (false, number, String::new()),
        Err(_) => (true, 0, part.to_owned()),
    };
    text.split('.').map(one).collect()
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A range of versions: alternatives (`||`) of bounds that all hold.
#[derive(Debug, Clone)]
struct Range(Vec<Vec<(Bound, Version)>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Below,
    AtMost,
    Above,
    AtLeast,
    Exactly,
    Not,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let alternatives = text.split("||").map(|one| {
            let mut bounds = Vec::new();
            // `>= 1.2` is one bound, though written as two words.
            let mut joined = one.replace(',', " ");
            for sign in [">=", "<=", "!=", ">", "<", "=", "^", "~"] {
                joined = joined.replace(&format!("{sign} "), sign);
            }
            for word in joined.split_whitespace() {
                bounds.extend(bound(word)?);
            }
            (!bounds.is_empty() || one.trim() == "*").then_some(bounds)
        });
        alternatives.collect::<Option<Vec<_>>>().map(Self)
    }

    fn holds(&self, version: &Version) -> bool {
        self.0.iter().any(|bounds| {
            // What comes before a release is taken only where a bound names such.
            let open = version.before.is_none() || bounds.iter().any(|(_, bound)| bound.before.is_some());
            open && bounds.iter().all(|(bound, limit)| match bound {
                Bound::Below => version < limit,
                Bound::AtMost => version <= limit,
                Bound::Above => version > limit,
                Bound::AtLeast => version >= limit,
                Bound::Exactly => version == limit,
                Bound::Not => version != limit,
            })
        })
    }
}

fn bound(word: &str) -> Option<Vec<(Bound, Version)>> {
    let (sign, rest) = ["!=", ">=", "<=", ">", "<", "=", "^", "~"]
        .iter()
        .find_map(|sign| word.strip_prefix(sign).map(|rest| (*sign, rest)))
        .unwrap_or(("", word));
    let rest = rest.strip_prefix('v').unwrap_or(rest);
    let given: Vec<&str> = rest.split('-').next().unwrap_or(rest).split('.').collect();
    let open = given.iter().position(|part| matches!(*part, "*" | "x" | "X")).unwrap_or(given.len());
    if open == 0 {
        return Some(Vec::new());
    }
    let lower = Version::parse(&if open < given.len() { given[..open].join(".") } else { rest.to_owned() })?;
    let next = |place: usize| {
        let mut numbers = [0; 3];
        numbers[..=place].copy_from_slice(&lower.numbers[..=place]);
        numbers[place] += 1;
        Version { numbers, before: None }
    };
    let between = |upper: Version| vec![(Bound::AtLeast, lower.clone()), (Bound::Below, upper)];
    Some(match sign {
        "^" => between(next(lower.numbers.iter().position(|number| *number > 0).unwrap_or(open.min(3) - 1))),
        "~" => between(next(if open >= 2 { 1 } else { 0 })),
        "" | "=" if open < 3 => between(next(open - 1)),
        "" | "=" => vec![(Bound::Exactly, lower)],
        "!=" => vec![(Bound::Not, lower)],
        ">=" => vec![(Bound::AtLeast, lower)],
        "<=" => vec![(Bound::AtMost, lower)],
        ">" => vec![(Bound::Above, lower)],
        _ => vec![(Bound::Below, lower)],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "ref: refs/heads/main\tHEAD\n\
        1111111111111111111111111111111111111111\tHEAD\n\
        1111111111111111111111111111111111111111\trefs/heads/main\n\
        2222222222222222222222222222222222222222\trefs/heads/next\n\
        aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\trefs/tags/v1.2.0\n\
        3333333333333333333333333333333333333333\trefs/tags/v1.2.0^{}\n\
        4444444444444444444444444444444444444444\trefs/tags/v1.10.1\n\
        5555555555555555555555555555555555555555\trefs/tags/v2.0.0-rc.1\n\
        6666666666666666666666666666666666666666\trefs/tags/v2.0.0\n\
        7777777777777777777777777777777777777777\trefs/tags/nightly\n";

    #[test]
    fn each_way_to_say_a_revision_leads_to_its_commit() {
        let refs = Refs::parse(LISTING);
        let any = |text: &str| Wanted::Any(text.to_owned());
        for (wanted, digit) in [
            (any(""), '1'),
            (any("HEAD"), '1'),
            (any("next"), '2'),
            (any("v1.2.0"), '3'),
            (any("refs/heads/next"), '2'),
            (any("1.*"), '4'),
            (any("^1.2"), '4'),
            (any("~1.2"), '3'),
            (any(">=1.2 <2"), '4'),
            (any("*"), '6'),
            (any("9999999999999999999999999999999999999999"), '9'),
            (Wanted::Branch("main".into()), '1'),
            (Wanted::Tag("nightly".into()), '7'),
            (Wanted::Semver(">= 2.0.0-rc.0 < 2.0.0".into()), '5'),
            (Wanted::Semver("1.2.0 || 2.x".into()), '6'),
        ] {
            let found = refs.resolve(&wanted).unwrap_or_else(|error| panic!("{wanted:?}: {error}"));
            assert!(found.commit.chars().all(|one| one == digit), "{wanted:?} led to {found:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_answered_with_what_is() {
        let refs = Refs::parse(LISTING);
        for (wanted, words) in [
            (Wanted::Any("mian".into()), "there is main, next"),
            (Wanted::Any("1234567".into()), "40 digits"),
            (Wanted::Branch("x".into()), "main"),
            (Wanted::Tag("x".into()), "nightly"),
            (Wanted::Semver("3.*".into()), "no tag is a version within it"),
            (Wanted::Semver("latest".into()), "no range"),
            (Wanted::Commit("12".into()), "40 digits"),
        ] {
            let error = refs.resolve(&wanted).expect_err("it is not there");
            assert!(error.contains(words), "{wanted:?}: {error}");
        }
        assert!(Refs::default().resolve(&Wanted::Any("HEAD".into())).expect_err("empty").contains("empty"));
    }

    #[test]
    fn revisions_are_written_as_flux_does() {
        let refs = Refs::parse(LISTING);
        let main = refs.resolve(&Wanted::Branch("main".into())).expect("main");
        assert_eq!(main.flux_revision(), format!("main@sha1:{}", "1".repeat(40)));
        let commit = refs.resolve(&Wanted::Commit("8".repeat(40))).expect("a commit");
        assert_eq!(commit.flux_revision(), format!("sha1:{}", "8".repeat(40)));
    }
}
