//! What a set of manifests would change of the variables that services have now, before anything is applied.
//!
//! Invariant: of a secret value it tells whether it changes, what is odd about it, and whether it is nearly the present one.

use super::{Environment, Shown, Variable, variables};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Values that are shorter are not held to be slips of one another.
const SHORT: usize = 6;
/// The longest values that are held against each other for slips, characters.
const LONG: usize = 200;

/// One variable that would be another.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// Of which service, as `deployment/orders`.
    pub service: String,
    /// The container.
    pub container: String,
    /// The variable's name.
    pub variable: String,
    /// What it is; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Variable>,
    /// What it would be; absent where there would be none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Variable>,
    /// What looks wrong about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspicious: Option<String>,
    /// Whether the ConfigMap or Secret that says it keeps its name: Pods that run keep the old value until they are made anew.
    pub at_the_next_start: bool,
}

/// What the services of `next` would have, held against what they have in `now`. Services that `next` says nothing of are left out.
pub fn diff(now: &Environment, next: &Environment) -> Vec<Change> {
    type Key = (String, String, String);
    let by_key = |environment| -> BTreeMap<Key, Variable> {
        let all = variables(environment).into_iter();
        all.map(|v| ((v.service.clone(), v.container.clone(), v.name.clone()), v)).collect()
    };
    let (mut before, mut after) = (by_key(now), by_key(next));
    let wanted: BTreeSet<(String, String)> = after.keys().map(|key| (key.0.clone(), key.1.clone())).collect();
    let mut keys: BTreeSet<Key> = after.keys().cloned().collect();
    keys.extend(before.keys().filter(|key| wanted.contains(&(key.0.clone(), key.1.clone()))).cloned());
    let pairs = keys.into_iter().map(|key| (before.remove(&key), after.remove(&key), key));
    let differ =
        |a: &Option<Variable>, b: &Option<Variable>| a.as_ref().map(|v| &v.value) != b.as_ref().map(|v| &v.value);
    pairs
        .filter(|(before, after, _)| differ(before, after))
        .map(|(before, after, key)| change(before, after, key))
        .collect()
}

fn change(before: Option<Variable>, after: Option<Variable>, key: (String, String, String)) -> Change {
    let suspicious = match (before.as_ref().map(|v| &v.value), after.as_ref().map(|v| &v.value)) {
        (_, Some(Shown::Unresolved)) => Some("its ConfigMap, Secret or key is not there".to_owned()),
        (was, Some(Shown::Plain(value))) => value.kept.oddity.map(str::to_owned).or_else(|| match was {
            Some(Shown::Plain(was)) if was.is_masked() && value.is_masked() => slip(&was.kept.text, &value.kept.text),
            _ => None,
        }),
        (was, Some(Shown::Secret(kept))) => kept.oddity.map(str::to_owned).or_else(|| match was {
            Some(Shown::Secret(was)) => slip(&was.text, &kept.text),
            _ => None,
        }),
        _ => None,
    };
    // Manifests may leave the namespace out.
    let place = |v: &Option<Variable>| v.as_ref().map(|v| (v.from.kind.clone(), v.from.name.clone(), v.key.clone()));
    let elsewhere = after.as_ref().is_some_and(|v| !v.key.is_empty());
    let at_the_next_start = elsewhere && place(&before) == place(&after);
    let (service, container, variable) = key;
    Change { service, container, variable, before, after, suspicious, at_the_next_start }
}

/// Whether one is the other with a character or two mistyped.
fn slip(before: &str, after: &str) -> Option<String> {
    let (a, b): (Vec<char>, Vec<char>) = (before.chars().collect(), after.chars().collect());
    let fits = |list: &Vec<char>| (SHORT..=LONG).contains(&list.len());
    let near = fits(&a) && fits(&b) && a.len().abs_diff(b.len()) <= 2 && distance(&a, &b) <= 2;
    near.then(|| "it is the present value but for a character or two: a slip?".to_owned())
}

/// The edit distance (insertions, deletions, substitutions).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, one) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let best = (corner + usize::from(one != other)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], best);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::super::tests::environment;
    use super::*;
    use serde_json::json;

    #[test]
    fn what_would_change_is_told_and_what_looks_wrong_of_it() {
        let now = environment("default", json!({"URL": "redis://a", "OLD": "1"}), Some("corr3ct-horse"));
        let told = |config, password| -> Vec<String> {
            let all = diff(&now, &environment("deploy", config, password));
            let value = |v: &Option<Variable>| v.as_ref().map_or("-".to_owned(), |v| v.value.to_string());
            let line = |c: &Change| {
                let odd = c.suspicious.as_deref().map(|odd| format!("; {odd}")).unwrap_or_default();
                format!("{} {} {}{odd}", c.variable, value(&c.before), value(&c.after))
            };
            all.iter().map(line).collect()
        };
        assert!(told(json!({"URL": "redis://a", "OLD": "1"}), Some("corr3ct-horse")).is_empty());
        assert_eq!(
            told(json!({"URL": "redis://b"}), Some("corr3ct-hosre")),
            [
                "OLD \"1\" -",
                "PASSWORD (sensitive) (sensitive); it is the present value but for a character or two: a slip?",
                "URL \"redis://a\" \"redis://b\""
            ]
        );
        let same = json!({"URL": "redis://a", "OLD": "1"});
        assert_eq!(told(same.clone(), Some("an0ther-secret")), ["PASSWORD (sensitive) (sensitive)"]);
        let odd = "PASSWORD (sensitive) (sensitive); it begins or ends with white space";
        assert_eq!(told(same.clone(), Some("corr3ct-horse ")), [odd]);
        let none = "PASSWORD (sensitive) (nothing is there); its ConfigMap, Secret or key is not there";
        assert_eq!(told(same.clone(), None), [none]);
        let all = diff(&now, &environment("deploy", same, Some("x")));
        assert!(all[0].at_the_next_start && !format!("{all:?}").contains("corr3ct"), "{all:?}");
    }

    #[test]
    fn a_password_in_a_url_that_changes_is_told() {
        let of = |url: &str| environment("default", json!({"URL": url}), Some("x"));
        let told = |before: &str, after: &str| {
            let all = diff(&of(before), &of(after));
            let shown = format!("{all:?}{}", serde_json::to_string(&all).unwrap());
            assert!(!shown.contains("hunter"), "{shown}");
            all.into_iter()
                .map(|change| (change.after.unwrap().value.to_string(), change.suspicious))
                .collect::<Vec<_>>()
        };
        let masked = "\"redis://u:(sensitive)@h\"".to_owned();
        let (slip, placeholder) =
            ("it is the present value but for a character or two: a slip?", "it looks like a placeholder");
        for (after, odd) in [
            ("redis://u:hunter3@h", Some(slip)),
            ("redis://u:another-one@h", None),
            ("redis://u:${PASS}@h", Some(placeholder)),
        ] {
            assert_eq!(told("redis://u:hunter2@h", after), [(masked.clone(), odd.map(str::to_owned))], "{after}");
        }
        assert!(told("redis://u:hunter2@h", "redis://u:hunter2@h").is_empty());
        assert_eq!(told("redis://one", "redis://ons")[0].1, None, "what is shown speaks for itself");
    }

    #[test]
    fn slips_are_near_and_short_values_are_not() {
        for (a, b, near) in [
            ("hunter2secret", "hunter3secret", true),
            ("hunter2secret", "hunter2secre", true),
            ("hunter2secret", "uhnter2secret", true),
            ("hunter2secret", "entirely-else", false),
            ("abc12", "abc13", false),
        ] {
            assert_eq!(slip(a, b).is_some(), near, "{a} {b}");
        }
    }
}
