//! Tables of who may do what, and laws that hold for all rules.

mod laws;
mod policy;
mod questions;

use super::question::{Attributes, Subject, Target};
use super::{Index, account_groups};
use serde_json::{Value, json};

/// `verb group/resource/subresource namespace name`, with `-` for nothing and `core` for the core group, or `verb /path`.
fn asked(text: &str) -> Attributes<'_> {
    let words: Vec<&str> = text.split(' ').collect();
    let word = |at: usize| words.get(at).copied().filter(|word| *word != "-").unwrap_or_default();
    if word(1).starts_with('/') {
        return Attributes { verb: word(0), target: Target::Path(word(1)) };
    }
    let mut parts = word(1).splitn(3, '/');
    let mut part = || parts.next().unwrap_or_default();
    let (group, resource, subresource) = (part(), part(), part());
    let group = if group == "core" { "" } else { group };
    Attributes {
        verb: word(0),
        target: Target::Resource { group, resource, subresource, namespace: word(2), name: word(3) },
    }
}

fn groups(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// `a`, `a in g,h`, or `sa:ns:name`.
fn who(text: &str) -> (String, Vec<String>) {
    if let Some(account) = text.strip_prefix("sa:") {
        let (namespace, name) = account.split_once(':').expect("a namespace");
        return (super::account_user(namespace, name), account_groups(namespace));
    }
    let (name, rest) = text.split_once(" in ").unwrap_or((text, ""));
    (name.to_owned(), groups(&rest.split(',').filter(|one| !one.is_empty()).collect::<Vec<_>>()))
}

fn may(index: &Index, user: &str, question: &str) -> bool {
    let (name, groups) = who(user);
    let subject = Subject { name: &name, groups: &groups };
    let decided = index.decide(subject, &asked(question)).is_allowed();
    assert_eq!(index.allows(subject, &asked(question)), decided, "both ways of asking: {user}: {question}");
    decided
}

/// An index of objects, each `(plural, namespace, object)`.
fn index(objects: &[(&str, &str, Value)]) -> Index {
    let mut index = Index::default();
    for (plural, namespace, object) in objects {
        index.set(plural, namespace, object["metadata"]["name"].as_str().expect("a name"), Some(object));
    }
    index
}

fn role(name: &str, rules: Value) -> Value {
    json!({ "metadata": { "name": name }, "rules": rules })
}

fn binding(name: &str, kind: &str, role: &str, subjects: Value) -> Value {
    json!({ "metadata": { "name": name }, "roleRef": { "kind": kind, "name": role }, "subjects": subjects })
}
