//! Environments held against each other: what is missing in one, extra in one, suspicious, or comes from nowhere.

use super::{Environment, Shown, Variable, variables};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What is wrong with a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Its ConfigMap, Secret or key is not there.
    Unresolved,
    /// Other environments have it.
    Missing,
    /// No other environment has it.
    Extra,
    /// Its value looks wrong.
    Suspicious,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// In which environment.
    pub environment: String,
    /// Of which service, as `deployment/orders`.
    pub service: String,
    /// Which variable.
    pub variable: String,
    /// In words.
    pub message: String,
}

/// Values that stand where nobody has put one yet.
const PLACEHOLDERS: [&str; 9] =
    ["changeme", "change-me", "todo", "fixme", "xxx", "placeholder", "example", "password", "secret"];

/// Words by which environments are called, that have no place in another's values.
const ENVIRONMENTS: [&str; 7] = ["dev", "development", "test", "staging", "stage", "prod", "production"];

/// What is odd about a value, whatever it is.
pub(super) fn oddity(value: &str) -> Option<&'static str> {
    let plain = value.trim().to_lowercase();
    if value.is_empty() {
        return Some("it is empty");
    }
    if value.trim() != value {
        return Some("it begins or ends with white space");
    }
    if value.chars().any(|c| c.is_control() && c != '\n' && c != '\t' && c != '\r') || value.contains('\u{fffd}') {
        return Some("it has characters that nobody types");
    }
    if value.len() > 1 && [('"', '"'), ('\'', '\'')].iter().any(|(a, b)| value.starts_with(*a) && value.ends_with(*b)) {
        return Some("it has quotation marks around it, which are part of the value");
    }
    if PLACEHOLDERS.contains(&plain.as_str())
        || (plain.starts_with('<') && plain.ends_with('>'))
        || plain.contains("${")
    {
        return Some("it looks like a placeholder");
    }
    None
}

/// Holds environments against each other.
pub fn check(environments: &[Environment]) -> Vec<Finding> {
    let all: Vec<Variable> = environments.iter().flat_map(variables).collect();
    let mut found: BTreeSet<Finding> = BTreeSet::new();
    for variable in &all {
        let finding = |kind, message: String| Finding {
            kind,
            environment: variable.environment.clone(),
            service: variable.service.clone(),
            variable: variable.name.clone(),
            message,
        };
        match &variable.value {
            Shown::Unresolved => {
                let key =
                    if variable.key.is_empty() { String::new() } else { format!(" has no key {:?}, or", variable.key) };
                found.insert(finding(Kind::Unresolved, format!("{}{key} is not there", variable.from)));
            }
            Shown::Plain(value) => {
                let odd = value.kept.oddity.map(str::to_owned);
                let odd = odd.or_else(|| of_another(&value.shown, &variable.environment));
                found.extend(odd.map(|odd| finding(Kind::Suspicious, odd)));
            }
            Shown::Secret(kept) => found.extend(kept.oddity.map(|odd| finding(Kind::Suspicious, odd.to_owned()))),
            Shown::AtRunTime(_) | Shown::Absent => {}
        }
    }
    found.extend(differences(&all));
    found.extend(shared(&all));
    found.into_iter().collect()
}

/// A value that speaks of another environment: production on the staging database.
fn of_another(value: &str, environment: &str) -> Option<String> {
    let words =
        |text: &str| text.to_lowercase().split(|c: char| !c.is_alphanumeric()).map(str::to_owned).collect::<Vec<_>>();
    let own = words(environment);
    let mine = own.iter().find(|word| ENVIRONMENTS.contains(&word.as_str()))?;
    let other =
        words(value).into_iter().find(|word| ENVIRONMENTS.contains(&word.as_str()) && !same_stage(word, mine))?;
    Some(format!("it speaks of {other:?}"))
}

/// `prod` and `production` are one.
fn same_stage(a: &str, b: &str) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

/// What a service has in some environments and not in others.
fn differences(all: &[Variable]) -> Vec<Finding> {
    let mut services: BTreeMap<(&str, &str), BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    for variable in all {
        let service = services.entry((&variable.service, &variable.container)).or_default();
        let names = service.entry(&variable.environment).or_default();
        if variable.value != Shown::Absent {
            names.insert(&variable.name);
        }
    }
    let mut found = Vec::new();
    for ((service, _), environments) in services.into_iter().filter(|(_, environments)| environments.len() > 1) {
        let names: BTreeSet<&str> = environments.values().flatten().copied().collect();
        for name in names.into_iter().filter(|name| !name.ends_with('*')) {
            let (with, without): (Vec<&str>, Vec<&str>) =
                environments.keys().copied().partition(|environment| environments[environment].contains(name));
            let finding = |kind, environment: &str, message: String| Finding {
                kind,
                environment: environment.to_owned(),
                service: service.to_owned(),
                variable: name.to_owned(),
                message,
            };
            match (with.as_slice(), without.as_slice()) {
                (_, []) => {}
                ([only], others) if others.len() > 1 => {
                    found.push(finding(Kind::Extra, only, format!("only {only} has it")));
                }
                (with, without) => found
                    .extend(without.iter().map(|e| finding(Kind::Missing, e, format!("{} has it", with.join(", "))))),
            }
        }
    }
    found
}

/// One secret in several environments: whoever knows the one of development knows the one of production.
fn shared(all: &[Variable]) -> Vec<Finding> {
    let mut found = Vec::new();
    for variable in all {
        let Shown::Secret(kept) = &variable.value else { continue };
        let twin = all.iter().find(|other| {
            other.environment < variable.environment
                && other.service == variable.service
                && other.name == variable.name
                && matches!(&other.value, Shown::Secret(theirs) if theirs.digest == kept.digest)
        });
        found.extend(twin.map(|twin| Finding {
            kind: Kind::Suspicious,
            environment: variable.environment.clone(),
            service: variable.service.clone(),
            variable: variable.name.clone(),
            message: format!("it is the same secret as in {}", twin.environment),
        }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::tests::environment;
    use super::*;
    use serde_json::json;

    fn told(environments: &[Environment]) -> Vec<String> {
        check(environments)
            .iter()
            .map(|f| format!("{:?} {} {}: {}", f.kind, f.environment, f.variable, f.message))
            .collect()
    }

    #[test]
    fn environments_are_held_against_each_other() {
        let dev = environment("dev", json!({"URL": "redis://dev", "ONLY_DEV": "1"}), Some("d3v-pass"));
        let stage = environment("staging", json!({"URL": "redis://staging"}), Some("stage-pass"));
        let prod = environment("prod", json!({"URL": "redis://prod"}), Some("pr0d-pass"));
        assert_eq!(told(&[dev.clone(), stage.clone(), prod]), ["Extra dev ONLY_DEV: only dev has it"]);

        let prod = environment("prod", json!({}), Some("d3v-pass"));
        assert_eq!(
            told(&[dev.clone(), stage.clone(), prod]),
            [
                "Missing prod URL: dev, staging has it",
                "Extra dev ONLY_DEV: only dev has it",
                "Suspicious prod PASSWORD: it is the same secret as in dev",
            ]
        );
        let prod = environment("prod", json!({"URL": "redis://staging"}), Some("pr0d-pass\n"));
        assert_eq!(
            told(&[prod]),
            [
                "Suspicious prod PASSWORD: it begins or ends with white space",
                "Suspicious prod URL: it speaks of \"staging\""
            ]
        );
        let prod = environment("prod", json!({"URL": "redis://u:${PASS}@h"}), Some("pr0d-pass"));
        assert_eq!(told(&[prod]), ["Suspicious prod URL: it looks like a placeholder"], "in what is masked too");
        let prod = environment("prod", json!({"URL": "changeme"}), None);
        assert_eq!(
            told(&[prod]),
            [
                "Unresolved prod PASSWORD: secret/keys has no key \"password\", or is not there",
                "Suspicious prod URL: it looks like a placeholder"
            ]
        );
    }
}
