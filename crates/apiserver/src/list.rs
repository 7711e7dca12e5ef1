//! Reading: one object, or a page of a list that is consistent at one revision.

use std::sync::Arc;

use store::{Entry, ListError, Listing};

use crate::call::{Call, Listed, Reply};
use crate::catalog::Resource;
use crate::object;
use crate::page::Position;
use crate::query::Query;
use crate::route::Target;
use crate::selection::Selection;
use crate::server::Server;
use crate::status::{Answer, Failure};

/// How many entries are looked at in one go when a selector leaves most of them out.
const STRIDE: usize = 1000;

/// Which state a list is to be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// The newest.
    Newest,
    /// Any not older than this.
    NotOlderThan(u64),
    /// Exactly this.
    Exact(u64),
}

/// `resourceVersion` as a number; absent and empty are `None`.
pub(crate) fn resource_version(query: &Query) -> Answer<Option<u64>> {
    let Some(text) = query.get("resourceVersion") else { return Ok(None) };
    text.parse().map(Some).map_err(|_| Failure::bad_request(format!("invalid resource version: {text:?}")))
}

/// Reads and checks the parameters that choose the state of a list.
pub(crate) fn state(query: &Query) -> Answer<At> {
    let forbid = |field: &str, why: &str| Failure::bad_option("ListOptions", field, &format!("Forbidden: {why}"));
    let version = resource_version(query)?;
    let chosen = query.get("resourceVersionMatch");
    if query.has("sendInitialEvents") {
        return Err(forbid("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    if query.get("continue").is_some() {
        if chosen.is_some() {
            return Err(forbid("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided"));
        }
        if version.is_some_and(|version| version > 0) {
            return Err(Failure::bad_request("specifying resource version is not allowed when using continue"));
        }
        return Ok(At::Newest);
    }
    let limited = query.number::<u64>("limit")?.is_some_and(|limit| limit > 0);
    match (chosen, version) {
        (None, None) => Ok(At::Newest),
        (None, Some(0)) => Ok(At::NotOlderThan(0)),
        (None, Some(version)) if limited => Ok(At::Exact(version)),
        (None | Some("NotOlderThan"), Some(version)) => Ok(At::NotOlderThan(version)),
        (Some("Exact"), Some(0)) => {
            Err(forbid("resourceVersionMatch", "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""))
        }
        (Some("Exact"), Some(version)) => Ok(At::Exact(version)),
        (Some(_), None) => {
            Err(forbid("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided"))
        }
        (Some(other), Some(_)) => {
            let why = format!("Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\"");
            Err(Failure::bad_option("ListOptions", "resourceVersionMatch", &why))
        }
    }
}

/// `get`
pub(crate) fn get(server: &Server, call: &Call, resource: &Arc<Resource>, target: &Target) -> Answer<Reply> {
    let name = target.name.as_deref().unwrap_or_default();
    let (entry, current) = server.store.get(&resource.key(target.namespace.as_deref(), name));
    if let Some(wanted) = resource_version(&call.query)?.filter(|wanted| *wanted > current) {
        return Err(Failure::future_version(wanted, current));
    }
    let entry = entry.ok_or_else(|| Failure::not_found(resource, name))?;
    Ok(Reply::Stored(resource.clone(), entry))
}

/// `list`
pub(crate) fn list(server: &Server, call: &Call, resource: &Arc<Resource>, target: &Target) -> Answer<Reply> {
    let selection = Selection::parse(&call.query, resource)?;
    let page = page(server, &call.query, resource, target, &selection)?;
    Ok(Reply::List(resource.clone(), page))
}

/// The page that the parameters ask for.
pub(crate) fn page(
    server: &Server,
    query: &Query,
    resource: &Resource,
    target: &Target,
    selection: &Selection,
) -> Answer<Listed> {
    let at = state(query)?;
    let limit = query.number::<i64>("limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0);
    let position = query.get("continue").map(Position::decode).transpose()?;
    if let (None, Some(name)) = (&position, selection.name())
        && (target.namespace.is_some() || !resource.namespaced)
        && !matches!(at, At::Exact(_))
    {
        return one(server, resource, target, selection, name, at);
    }
    let pinned = match (&position, at) {
        (Some(position), _) => position.revision,
        (None, At::Exact(version)) => Some(version),
        (None, At::NotOlderThan(version)) => {
            let current = server.store.revision();
            if version > current {
                return Err(Failure::future_version(version, current));
            }
            None
        }
        (None, At::Newest) => None,
    };
    let prefix = resource.keys_in(target.namespace.as_deref());
    let after = position.map(|position| format!("{}{}", resource.prefix, position.after));
    let mut gathering = Gathering { server, resource, selection, prefix, limit };
    gathering.run(after, pinned)
}

struct Gathering<'a> {
    server: &'a Server,
    resource: &'a Resource,
    selection: &'a Selection,
    prefix: String,
    limit: usize,
}

impl Gathering<'_> {
    fn run(&mut self, mut after: Option<String>, mut pinned: Option<u64>) -> Answer<Listed> {
        let mut items = Vec::new();
        let stride = match (self.limit, self.selection.is_everything()) {
            (0, _) => 0,
            (limit, true) => limit,
            (limit, false) => limit.max(STRIDE),
        };
        loop {
            let listing = self.chunk(after.as_deref(), stride, pinned)?;
            pinned = Some(listing.revision);
            let last = listing.entries.len();
            for (index, entry) in listing.entries.iter().enumerate() {
                if !selects(self.selection, self.resource, entry)? {
                    continue;
                }
                items.push(entry.clone());
                let more = listing.more || index + 1 < last;
                if self.limit > 0 && items.len() == self.limit && more {
                    return Ok(self.cut(items, &listing, &entry.key, index));
                }
            }
            match listing.entries.last() {
                Some(entry) if listing.more => after = Some(entry.key.to_string()),
                _ => return Ok(Listed { items, revision: listing.revision, continue_token: None, remaining: None }),
            }
        }
    }

    fn chunk(&self, after: Option<&str>, limit: usize, at: Option<u64>) -> Answer<Listing> {
        self.server.store.list(&self.prefix, after, limit, at).map_err(|error| match error {
            ListError::Future { current } => Failure::future_version(at.unwrap_or_default(), current),
            ListError::Compacted(compacted) => match after {
                Some(after) => {
                    let after = after.strip_prefix(self.resource.prefix.as_str()).unwrap_or(after).to_owned();
                    Failure::continue_expired(Position { revision: None, after }.encode())
                }
                None => Failure::expired(at.unwrap_or_default(), compacted.oldest),
            },
            other => Failure::internal(other.to_string()),
        })
    }

    /// The end of a page that is not the last.
    fn cut(&self, items: Vec<Entry>, listing: &Listing, key: &str, index: usize) -> Listed {
        let after = key.strip_prefix(self.resource.prefix.as_str()).unwrap_or(key).to_owned();
        let token = Position { revision: Some(listing.revision), after }.encode();
        let left = listing.remaining + (listing.entries.len() - index - 1) as u64;
        let remaining = self.selection.is_everything().then_some(left);
        Listed { items, revision: listing.revision, continue_token: Some(token), remaining }
    }
}

/// A list that can only have one object is a look at its key.
fn one(
    server: &Server,
    resource: &Resource,
    target: &Target,
    selection: &Selection,
    name: &str,
    at: At,
) -> Answer<Listed> {
    let (entry, revision) = server.store.get(&resource.key(target.namespace.as_deref(), name));
    match at {
        At::NotOlderThan(version) if version > revision => {
            return Err(Failure::future_version(version, revision));
        }
        _ => {}
    }
    let mut items = Vec::new();
    if let Some(entry) = entry
        && selects(selection, resource, &entry)?
    {
        items.push(entry);
    }
    Ok(Listed { items, revision, continue_token: None, remaining: None })
}

fn selects(selection: &Selection, resource: &Resource, entry: &Entry) -> Answer<bool> {
    selection.selects(resource, object::of(entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_list() {
        let is = |query: &str| state(&Query::parse(Some(query))).map_err(|failure| failure.code);
        for (query, expected) in [
            ("", Ok(At::Newest)),
            ("limit=500", Ok(At::Newest)),
            ("resourceVersion=0&limit=500", Ok(At::NotOlderThan(0))),
            ("resourceVersion=7", Ok(At::NotOlderThan(7))),
            ("resourceVersion=7&limit=1", Ok(At::Exact(7))),
            ("resourceVersion=7&resourceVersionMatch=Exact", Ok(At::Exact(7))),
            ("resourceVersion=7&resourceVersionMatch=NotOlderThan&limit=1", Ok(At::NotOlderThan(7))),
            ("resourceVersionMatch=Exact", Err(422)),
            ("resourceVersion=0&resourceVersionMatch=Exact", Err(422)),
            ("resourceVersion=1&resourceVersionMatch=Best", Err(422)),
            ("continue=x&resourceVersion=1", Err(400)),
            ("continue=x&resourceVersionMatch=Exact", Err(422)),
            ("sendInitialEvents=true", Err(422)),
            ("resourceVersion=abc", Err(400)),
        ] {
            assert_eq!(is(query), expected, "{query}");
        }
    }
}
