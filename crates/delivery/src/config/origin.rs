//! Since when a value is what it is, and who set it: from the owners of its field, from the revisions of its set, and from what was
//! synced from Git.

use super::Variable;
use crate::fields::{self, Path, Step};
use crate::history::Revision;
use crate::object::ObjectId;
use crate::sync::engine::compare::MANAGER;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

/// Who set a value, and when.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// The field manager that owns it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub manager: String,
    /// Since when, as exactly as is known (RFC 3339).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub since: String,
    /// The revision that brought it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Who applied that.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub applied_by: String,
    /// Its commit.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub commit: String,
    /// The commit's author.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub author: String,
}

/// Where in the object that says it a variable's value stands.
pub fn path(variable: &Variable, object: &Value) -> Path {
    let field = |name: &str| Step::Field(name.to_owned());
    if !variable.key.is_empty() {
        return Path(vec![field("data"), field(&variable.key)]);
    }
    let pointer = if crate::object::kind(object) == "CronJob" {
        vec!["spec", "jobTemplate", "spec", "template", "spec"]
    } else if crate::object::kind(object) == "Pod" {
        vec!["spec"]
    } else {
        vec!["spec", "template", "spec"]
    };
    let mut steps: Vec<Step> = pointer.into_iter().map(field).collect();
    let lists = ["containers", "initContainers"];
    let inside = Path(steps.clone()).find(object).cloned().unwrap_or_default();
    let named = |list: &str| {
        inside[list].as_array().is_some_and(|all| all.iter().any(|c| c["name"] == variable.container.as_str()))
    };
    let list = lists.iter().copied().find(|list| named(list)).unwrap_or("containers");
    steps.push(field(list));
    steps.push(Step::Element("name".into(), variable.container.as_str().into(), 0));
    steps.push(field("env"));
    steps.push(Step::Element("name".into(), variable.name.as_str().into(), 0));
    Path(steps)
}

/// Who owns the value in the live object.
pub fn of_live(variable: &Variable, live: &Value) -> Origin {
    let owner = fields::owners(live, &path(variable, live)).into_iter().next();
    owner.map_or_else(Origin::default, |owner| Origin {
        manager: owner.manager,
        since: owner.time.unwrap_or_default(),
        ..Origin::default()
    })
}

/// A commit that was synced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Brought {
    /// When that began (RFC 3339).
    pub begun: String,
    /// When it ended.
    pub ended: String,
    /// The commit.
    pub commit: String,
    /// Its author.
    pub author: String,
}

/// The commit during whose sync the object that says the value was written last, where a sync wrote it: as exact as field managers are,
/// whose times are of whole objects and whole seconds. No commit where two may have been it.
pub fn of_commits(by_owner: Origin, brought: &[Brought]) -> Origin {
    let second = |text: &str| text.parse::<Timestamp>().ok().map(Timestamp::as_second);
    let Some(at) = second(&by_owner.since).filter(|_| by_owner.manager == MANAGER) else { return by_owner };
    let during = |one: &&Brought| matches!((second(&one.begun), second(&one.ended)), (Some(begun), Some(ended)) if begun <= at && at <= ended);
    let mut found = brought.iter().filter(during);
    match found.next() {
        Some(one) if found.all(|other| other.commit == one.commit) => {
            Origin { commit: one.commit.clone(), author: one.author.clone(), ..by_owner }
        }
        _ => by_owner,
    }
}

/// The oldest revision since which the value has been what it is, without a break. `revisions` begins with the newest.
pub fn of_history(variable: &Variable, live: &Value, revisions: &[(Revision, Vec<Value>)]) -> Option<Origin> {
    let id: &ObjectId = &variable.from;
    let said = |set: &[Value]| {
        let object = set.iter().find(|object| ObjectId::of(object) == *id)?;
        path(variable, object).find(object).cloned().or_else(|| {
            // A Secret's manifest may say it in clear.
            Some(object["stringData"].get(&variable.key)?.clone())
        })
    };
    let now = path(variable, live).find(live).cloned();
    let (_, newest) = revisions.first()?;
    let first = said(newest)?;
    let stands = variable.from.kind == "Secret" || now.as_ref() == Some(&first);
    if !stands {
        // It was changed by hand since.
        return None;
    }
    let (revision, _) = revisions.iter().take_while(|(_, set)| said(set).as_ref() == Some(&first)).last()?;
    Some(Origin {
        manager: String::new(),
        since: revision.time.clone(),
        revision: Some(revision.number),
        applied_by: revision.provenance.applied_by.clone(),
        commit: revision.provenance.commit.clone(),
        author: revision.provenance.author.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Environment, variables};
    use super::*;
    use crate::history::{Provenance, State};
    use serde_json::json;

    fn config(value: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s"}, "data": {"URL": value}})
    }

    fn revision(number: u64) -> Revision {
        Revision {
            number,
            state: State::Healthy,
            time: format!("day {number}"),
            provenance: Provenance { author: format!("author {number}"), ..Provenance::default() },
            objects: 1,
            summary: String::new(),
            digest: String::new(),
            pieces: 1,
            cause: String::new(),
        }
    }

    #[test]
    fn the_revision_that_brought_a_value_is_found() {
        let workload = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"template": {"spec": {
            "containers": [{"name": "c", "env": [{"name": "URL", "valueFrom": {"configMapKeyRef": {"name": "s", "key": "URL"}}}]}]}}}});
        let live = config("b");
        let environment = Environment { name: "e".into(), objects: vec![workload, live.clone()] };
        let variable = &variables(&environment)[0];
        let history = [
            (revision(4), vec![config("b")]),
            (revision(3), vec![config("b")]),
            (revision(2), vec![config("a")]),
            (revision(1), vec![config("b")]),
        ];
        let origin = of_history(variable, &live, &history).unwrap();
        assert_eq!((origin.revision, origin.author.as_str()), (Some(3), "author 3"));
        assert_eq!(of_history(variable, &config("by hand"), &history), None);
    }

    #[test]
    fn the_commit_whose_sync_wrote_it_is_named_where_it_can_be_told() {
        let brought = |begun: u8, ended: u8, commit: &str| Brought {
            begun: format!("2026-01-01T00:00:{begun:02}Z"),
            ended: format!("2026-01-01T00:00:{ended:02}Z"),
            commit: commit.to_owned(),
            author: format!("author of {commit}"),
        };
        let all = [brought(1, 3, "one"), brought(5, 5, "two"), brought(5, 9, "three"), brought(20, 20, "one")];
        for (manager, second, wanted) in [
            (MANAGER, 2, "one"),
            (MANAGER, 4, ""),
            (MANAGER, 5, ""),
            (MANAGER, 8, "three"),
            (MANAGER, 20, "one"),
            ("kubectl", 8, ""),
        ] {
            let owner = Origin {
                manager: manager.to_owned(),
                since: format!("2026-01-01T00:00:{second:02}Z"),
                ..Origin::default()
            };
            let told = of_commits(owner.clone(), &all);
            assert_eq!(told.commit, wanted, "{manager} {second}");
            assert_eq!(told.author.is_empty(), wanted.is_empty());
            assert_eq!((told.manager, told.since), (owner.manager, owner.since));
        }
    }
}
