//! A plan as people and as scripts read it. Secrets are masked in both.

use super::{Action, Change, Plan};
use crate::diff::FieldChange;
use crate::mask;
use serde_json::{Value, json};

/// How text is painted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// Not at all.
    Plain,
    /// With terminal colours.
    Colours,
}

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colours => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

/// The plan as text: every change with its fields, then the summary.
pub fn text(plan: &Plan, paint: Paint) -> String {
    let mut lines = Vec::new();
    for change in &plan.changes {
        lines.extend(of_change(change, paint));
    }
    for problem in &plan.problems {
        lines.push(format!("{} {}: {}", paint.with("1;31", "!"), problem.object, problem.message));
    }
    if !lines.is_empty() {
        lines.push(String::new());
    }
    lines.push(summary(plan));
    lines.join("\n")
}

/// `2 to create, 1 to change, …`, or that there is nothing to do.
pub fn summary(plan: &Plan) -> String {
    let words = [
        (Action::Create, "to create"),
        (Action::Change, "to change"),
        (Action::Adopt, "to adopt"),
        (Action::Replace, "to replace"),
        (Action::Move, "to move"),
        (Action::Delete, "to delete"),
        (Action::Keep, "kept although no manifest has it any more"),
    ];
    let counted = words.iter().map(|(action, word)| (plan.count(*action), word)).filter(|(count, _)| *count > 0);
    let mut parts: Vec<String> = counted.map(|(count, word)| format!("{count} {word}")).collect();
    if plan.unchanged > 0 || parts.is_empty() {
        parts.push(format!("{} unchanged", plan.unchanged));
    }
    let problems = match plan.problems.len() {
        0 => String::new(),
        1 => "; 1 object would be refused".to_owned(),
        count => format!("; {count} objects would be refused"),
    };
    let nothing = if plan.is_empty() && plan.problems.is_empty() { "Nothing to do: " } else { "" };
    format!("{nothing}{}{problems}", parts.join(", "))
}

fn of_change(change: &Change, paint: Paint) -> Vec<String> {
    let (sign, word, colour) = match change.action {
        Action::Create => ("+", "create", "32"),
        Action::Change => ("~", "change", "33"),
        Action::Adopt => (">", "adopt", "36"),
        Action::Replace => ("±", "replace (delete and create)", "35"),
        Action::Move => ("→", "move", "36"),
        Action::Delete => ("-", "delete", "31"),
        Action::Keep => ("=", "keep", "34"),
    };
    let mut head = format!("{} {word} {}", paint.with(colour, sign), change.object);
    if let Some(from) = &change.moved_from {
        head.push_str(&format!(" from {from}"));
    }
    let mut lines = vec![head];
    match (&change.protected, change.action) {
        (Some(why), Action::Keep) => {
            lines.push(format!("    protected: {why}; delete it with --confirm-delete {}/{} --reason WHY", change.object.kind.to_lowercase(), change.object.name));
        }
        (Some(why), Action::Move) => lines.push(format!(
            "    the old one is kept with its data, and released from the set: {why}. The new one begins empty; copy what is needed, then delete the old"
        )),
        (Some(why), _) => lines.push(format!("    confirmed, although it is protected: {why}")),
        (None, Action::Move) => lines.push("    the old one is deleted once the new one is healthy".to_owned()),
        (None, _) => {}
    }
    if let Some(note) = &change.note {
        lines.push(format!("    {note}"));
    }
    lines.extend(change.fields.iter().map(|field| of_field(field, paint)));
    lines
}

fn of_field(field: &FieldChange, paint: Paint) -> String {
    let value = |value: &Option<Value>| value.as_ref().map_or_else(String::new, short);
    let change = match (&field.before, &field.after) {
        (None, Some(_)) => paint.with("32", &format!("+ {}", value(&field.after))),
        (Some(_), None) => paint.with("31", &format!("- {}", value(&field.before))),
        _ if field.sensitive => format!("{} changes", mask::MASK),
        _ => format!("{} -> {}", paint.with("31", &value(&field.before)), paint.with("32", &value(&field.after))),
    };
    let owner = field.owners.first().map(|owner| {
        let time = owner.time.as_deref().map_or_else(String::new, |time| format!(", {time}"));
        let conflict = if field.conflict { "; to be taken over" } else { "" };
        paint.with("2", &format!("  ({}{time}{conflict})", owner.manager))
    });
    format!("    {}: {change}{}", field.path, owner.unwrap_or_default())
}

/// A value on one line, cut where it is long.
fn short(value: &Value) -> String {
    const LONGEST: usize = 120;
    let text = match value {
        Value::String(text) if text == mask::MASK => text.clone(),
        other => other.to_string(),
    };
    if text.chars().count() <= LONGEST {
        text
    } else {
        format!("{}…", text.chars().take(LONGEST).collect::<String>())
    }
}

/// The plan for scripts: documented in docs/plan-and-apply.md, and stable.
pub fn json(plan: &Plan) -> Value {
    let changes = plan.changes.iter().map(|change| {
        let mut shown = json!({ "action": change.action, "object": reference(change), "fields": change.fields });
        for (name, value) in [("protected", &change.protected), ("note", &change.note)] {
            if let Some(value) = value {
                shown[name] = value.as_str().into();
            }
        }
        if let Some(from) = &change.moved_from {
            shown["movedFrom"] = serde_json::to_value(from).unwrap_or_default();
        }
        shown
    });
    json!({
        "format": plan.format,
        "set": { "name": plan.set.name, "namespace": plan.set.namespace, "id": plan.set.id() },
        "summary": {
            "create": plan.count(Action::Create), "change": plan.count(Action::Change),
            "adopt": plan.count(Action::Adopt), "replace": plan.count(Action::Replace),
            "move": plan.count(Action::Move), "delete": plan.count(Action::Delete),
            "keep": plan.count(Action::Keep), "unchanged": plan.unchanged,
        },
        "changes": changes.collect::<Vec<_>>(),
        "problems": plan.problems,
    })
}

fn reference(change: &Change) -> Value {
    json!({
        "apiVersion": change.api_version, "kind": change.object.kind,
        "namespace": change.object.namespace, "name": change.object.name,
    })
}
