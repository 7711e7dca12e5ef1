//! One rule of a role: what it allows, and whether it covers another.
//!
//! Invariant: when a rule covers another, it allows everything that the other allows (a property test).

use std::fmt;

use serde_json::{Map, Value, json};

use super::question::{Attributes, Target};

type Words = Box<[Box<str>]>;

/// The most words (groups, resources, names, paths, verbs) that the rules of one role may have together: several times what the largest
/// roles of operators with a thousand kinds have. Each request that a role's holder makes is held against its rules.
pub const MOST_WORDS: usize = 10_000;

/// One rule. A word `*` stands for all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Rule {
    /// API groups; empty text is the core.
    pub groups: Words,
    /// Resources, `resource/subresource`, `*/subresource`.
    pub resources: Words,
    /// Names of objects; none of them means any.
    pub names: Words,
    /// Paths that are no resource's; `*` at the end stands for the rest.
    pub urls: Words,
    /// Verbs.
    pub verbs: Words,
}

fn words(value: &Value) -> Words {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect()
}

fn has(words: &[Box<str>], word: &str) -> bool {
    words.iter().any(|one| **one == *word)
}

fn has_or_all(words: &[Box<str>], word: &str) -> bool {
    words.iter().any(|one| **one == *word || **one == *"*")
}

/// The rules at `rules` of a role.
pub fn of(role: &Value) -> Vec<Rule> {
    role["rules"].as_array().into_iter().flatten().map(Rule::read).collect()
}

/// How many words the rules of a role have together; a rule without any counts as one.
pub fn words_of(role: &Value) -> usize {
    let lists = |rule: &Value| -> usize {
        ["apiGroups", "resources", "resourceNames", "nonResourceURLs", "verbs"]
            .iter()
            .map(|field| rule[*field].as_array().map_or(0, Vec::len))
            .sum()
    };
    role["rules"].as_array().into_iter().flatten().map(|rule| lists(rule).max(1)).sum()
}

/// Rules as an object has them.
pub fn to_value(rules: &[Rule]) -> Value {
    rules.iter().map(Rule::to_value).collect()
}

impl Rule {
    /// Everything on all resources, as `cluster-admin` has it.
    pub fn all_resources() -> Self {
        let all: Words = [Box::from("*")].into();
        Self { groups: all.clone(), resources: all.clone(), verbs: all, ..Self::default() }
    }

    /// Everything on all other paths.
    pub fn all_urls() -> Self {
        let all: Words = [Box::from("*")].into();
        Self { urls: all.clone(), verbs: all, ..Self::default() }
    }

    /// Reads a `PolicyRule`. What is no text is left out: it allows nothing.
    pub fn read(value: &Value) -> Self {
        Self {
            groups: words(&value["apiGroups"]),
            resources: words(&value["resources"]),
            names: words(&value["resourceNames"]),
            urls: words(&value["nonResourceURLs"]),
            verbs: words(&value["verbs"]),
        }
    }

    /// As a `PolicyRule`.
    pub fn to_value(&self) -> Value {
        let mut rule = Map::new();
        for (field, words) in self.fields() {
            if !words.is_empty() {
                rule.insert(field.1.into(), json!(words));
            }
        }
        Value::Object(rule)
    }

    fn fields(&self) -> [((&'static str, &'static str), &Words); 5] {
        [
            (("APIGroups", "apiGroups"), &self.groups),
            (("Resources", "resources"), &self.resources),
            (("NonResourceURLs", "nonResourceURLs"), &self.urls),
            (("ResourceNames", "resourceNames"), &self.names),
            (("Verbs", "verbs"), &self.verbs),
        ]
    }

    /// Whether the rule allows what is asked.
    pub fn allows(&self, asked: &Attributes<'_>) -> bool {
        if !has_or_all(&self.verbs, asked.verb) {
            return false;
        }
        match asked.target {
            Target::Path(path) => self.urls.iter().any(|url| url_covers(url, path)),
            Target::Resource { group, resource, subresource, name, .. } => {
                has_or_all(&self.groups, group)
                    && self.resources.iter().any(|one| names_resource(one, resource, subresource))
                    && (self.names.is_empty() || has(&self.names, name))
            }
        }
    }

    /// Whether the rule allows everything that `atom` (one of [`Rule::atoms`]) allows.
    pub fn covers(&self, atom: &Rule) -> bool {
        atom.verbs.iter().all(|verb| has_or_all(&self.verbs, verb))
            && atom.groups.iter().all(|group| has_or_all(&self.groups, group))
            && atom.resources.iter().all(|wanted| {
                let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
                self.resources.iter().any(|one| names_resource(one, resource, subresource))
            })
            && atom.urls.iter().all(|wanted| self.urls.iter().any(|url| url_covers(url, wanted)))
            && match (self.names.is_empty(), atom.names.is_empty()) {
                (true, _) => true,
                (false, true) => false,
                (false, false) => atom.names.iter().all(|name| has(&self.names, name)),
            }
    }

    /// How many words it has.
    pub fn words(&self) -> usize {
        self.fields().iter().map(|(_, words)| words.len()).sum()
    }

    /// The number of [`Rule::atoms`].
    pub fn size(&self) -> usize {
        let resources = self.groups.len().saturating_mul(self.resources.len()).saturating_mul(self.names.len().max(1));
        resources.saturating_add(self.urls.len()).saturating_mul(self.verbs.len())
    }

    /// The rule in pieces of one group, resource, name and verb (or path and verb) each, in [`Rule::size`] steps.
    pub fn atoms(&self) -> impl Iterator<Item = Rule> {
        // A list without words leaves nothing to combine the words of the others with, and they are not walked.
        let nothing = self.resources.is_empty() || self.verbs.is_empty();
        let groups = if nothing { &[][..] } else { &self.groups };
        let urls = if self.verbs.is_empty() { &[][..] } else { &self.urls };
        let one = |word: &str| -> Words { [Box::from(word)].into() };
        let names: Vec<Words> = match groups.is_empty() || self.names.is_empty() {
            true => vec![Words::default()],
            false => self.names.iter().map(|name| one(name)).collect(),
        };
        let resources = groups.iter().flat_map(move |group| {
            let names = names.clone();
            self.resources.iter().flat_map(move |resource| {
                names.clone().into_iter().map(move |names| Rule {
                    groups: one(group),
                    resources: one(resource),
                    names,
                    ..Rule::default()
                })
            })
        });
        let urls = urls.iter().map(move |url| Rule { urls: one(url), ..Rule::default() });
        resources
            .chain(urls)
            .flat_map(move |part| self.verbs.iter().map(move |verb| Rule { verbs: one(verb), ..part.clone() }))
    }
}

/// Whether a word of a rule's `resources` means a resource or the part of one.
fn names_resource(word: &str, resource: &str, subresource: &str) -> bool {
    if word == "*" {
        return true;
    }
    match (word.split_once('/'), subresource) {
        (None, "") => word == resource,
        (Some((whole, part)), subresource) => part == subresource && (whole == resource || whole == "*"),
        (None, _) => false,
    }
}

fn url_covers(url: &str, path: &str) -> bool {
    url == path || url.strip_suffix('*').is_some_and(|start| path.starts_with(start.trim_end_matches('*')))
}

/// `{APIGroups:["apps"], Resources:["deployments"], Verbs:["get"]}`, as upstream prints rules.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for ((name, _), words) in self.fields() {
            if !words.is_empty() {
                let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
                parts.push(format!("{name}:[{}]", quoted.join(" ")));
            }
        }
        write!(f, "{{{}}}", parts.join(", "))
    }
}
