//! What fuzz targets need of what is not public. It is there under `--cfg fuzzing` only, which cargo-fuzz sets.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode};

use crate::access::Places;
use crate::error::Refused;
use crate::route::{Candidate, Ingredients, compile};
use crate::snapshot::{
    Action, Admits, Backend, Endpoint, Forwarded, Guard, HostMatch, Listener, ListenerProtocol, Match, Rule, Snapshot,
    Timeouts, VirtualHost, Weighted,
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
    Snapshot { listeners: vec![listener(everything(Action::Respond { status, body }))], ..Snapshot::default() }
}

/// A listener `fuzz` that passes every request on to this address.
#[must_use]
pub fn forwarding(to: SocketAddr) -> Snapshot {
    let share = Weighted { backend: "fuzz".into(), weight: 1, filters: Vec::new(), policy: None };
    let backend = Backend { endpoints: vec![Endpoint::plain(to)], ..Backend::default() };
    Snapshot {
        listeners: vec![listener(everything(Action::Forward { backends: vec![share] }))],
        backends: [("fuzz".into(), backend)].into(),
        ..Snapshot::default()
    }
}

fn everything(action: Action) -> Vec<VirtualHost> {
    let rule = Rule {
        id: "fuzz".into(),
        matches: Match::default(),
        filters: Vec::new(),
        action,
        timeouts: Timeouts::default(),
        client: None,
        guard: Guard::default(),
    };
    vec![VirtualHost { host: HostMatch::Any, rules: vec![rule] }]
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
