//! What fuzz targets need of what is not public. It is there under `--cfg fuzzing` only, which cargo-fuzz sets.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode};

use crate::access::Places;
use crate::error::Refused;
use crate::route::{Candidate, Ingredients, compile};
use crate::snapshot::{
    Action, Admits, Forwarded, Guard, HostMatch, Listener, ListenerProtocol, Match, Rule, Snapshot, Timeouts,
    VirtualHost,
};
use crate::stats::Registry;
use crate::traffic::States;

/// A request, as far as rules look at it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// In lower case, without a port.
    pub host: &'a str,
    /// The method.
    pub method: &'a Method,
    /// From the slash on, without the query.
    pub path: &'a str,
    /// What follows the question mark.
    pub query: Option<&'a str>,
    /// All of them.
    pub headers: &'a HeaderMap,
}

/// The id of the rule that a request meets.
///
/// # Errors
///
/// Where the rules cannot be served.
pub fn found(hosts: &[VirtualHost], asked: &Asked<'_>) -> Result<Option<Arc<str>>, Refused> {
    let (backends, counters, states) = (HashMap::new(), Registry::new(16), States::new(16));
    let with = Ingredients { backends: &backends, places: &Places::default(), counters: &counters, states: &states };
    let table = compile(&listener(hosts.to_vec()), &with)?;
    let candidate =
        Candidate { method: asked.method, path: asked.path, query: asked.query, headers: asked.headers.into() };
    Ok(table.find(asked.host, &candidate, None).map(|rule| Arc::clone(&rule.id)))
}

/// A listener `fuzz` that gives every request the same answer.
#[must_use]
pub fn answering(status: StatusCode, body: Arc<str>) -> Snapshot {
    let rule = Rule {
        id: "fuzz".into(),
        matches: Match::default(),
        filters: Vec::new(),
        action: Action::Respond { status, body },
        timeouts: Timeouts::default(),
        client: None,
        guard: Guard::default(),
    };
    let hosts = vec![VirtualHost { host: HostMatch::Any, rules: vec![rule] }];
    Snapshot { listeners: vec![listener(hosts)], ..Snapshot::default() }
}

fn listener(hosts: Vec<VirtualHost>) -> Listener {
    Listener {
        id: "fuzz".into(),
        bind: ([127, 0, 0, 1], 0).into(),
        fallback: None,
        protocol: ListenerProtocol::Http,
        forwarded: Forwarded::Replace,
        admits: Admits::Anybody,
        peer_name: None,
        shows: None,
        for_callers: Vec::new(),
        hosts,
    }
}
