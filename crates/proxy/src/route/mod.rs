//! A snapshot's listeners as immutable lookup structures.
//!
//! Invariants: compiling checks everything, so that serving cannot fail on what a snapshot says; finding a rule costs the same
//! among ten and among a hundred thousand; precedence is the order given, nothing else.

mod compile;
mod condition;
mod hosts;
mod rules;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, StatusCode, Uri};
use rustls::ServerConfig;

pub(crate) use compile::{Ingredients, compile};
pub(crate) use condition::{
    Condition, Path as PathCondition, Value as ValueCondition, query_values, query_without, whole,
};
pub(crate) use hosts::HostTable;
pub(crate) use rules::Rules;

use crate::access::LivePlace;
use crate::answer::Fault;
use crate::balance::Backend;
use crate::cors::Cors;
use crate::egress::Egress;
use crate::endpoint::Ticket;
use crate::identity::Identity;
use crate::secured::ClientCertificate;
use crate::snapshot::{Admits, Filter, Forwarded, Redirect, Timeouts};
use crate::stats::Counter;
use crate::traffic::Traffic;

/// Everything that one listener serves.
pub(crate) struct Table {
    pub(crate) id: Arc<str>,
    pub(crate) protocol: Protocol,
    pub(crate) forwarded: Forwarded,
    pub(crate) admits: Admits,
    pub(crate) peer_name: Option<Arc<str>>,
    pub(crate) shows: Option<Arc<str>>,
    pub(crate) hosts: HostTable<Rules>,
    /// Rules of some callers' own, by how their identities begin.
    pub(crate) for_callers: Vec<(Arc<str>, Rules)>,
    /// Counts requests that no rule matched.
    pub(crate) unmatched: Arc<Counter>,
}

/// What is done with a listener's connections.
pub(crate) enum Protocol {
    Http,
    Https(Https),
    /// By server name: the bytes of TLS, or with a configuration what is in it.
    Tls(Option<Arc<ServerConfig>>, HostTable<Name>),
    Tcp(Arc<Backend>),
    Egress(Arc<Egress>),
    /// Other proxies; what they ask for is in [`crate::service::Shared::named`].
    Mesh,
    Sniff(Arc<Backend>),
}

/// HTTP behind TLS.
pub(crate) struct Https {
    pub(crate) config: Arc<ServerConfig>,
    /// The places of hosts that are told apart.
    pub(crate) apart: HostTable<usize>,
}

/// Where TLS for a server name goes.
pub(crate) struct Name {
    /// Backends and the sums of weights up to and with each.
    pub(crate) backends: Vec<(Arc<Backend>, u64)>,
    pub(crate) guard: Arc<Guard>,
}

/// Who may come this way.
#[derive(Default)]
pub(crate) struct Guard {
    /// The Gateways that lead here.
    pub(crate) through: Vec<Arc<str>>,
    pub(crate) places: Vec<Arc<LivePlace>>,
}

/// A rule, ready to be used.
pub(crate) struct Rule {
    pub(crate) id: Arc<str>,
    pub(crate) condition: Condition,
    /// What a prefix match matched, for rewriting.
    pub(crate) prefix: Option<Arc<str>>,
    pub(crate) filters: Vec<Filter>,
    pub(crate) mirrors: Vec<Mirror>,
    pub(crate) cors: Option<Cors>,
    pub(crate) action: Action,
    pub(crate) timeouts: Timeouts,
    pub(crate) guard: Guard,
    /// Whether it changes nothing of what it passes on: then nobody but access policies has to look at a request's headers, and nobody at an answer's.
    pub(crate) direct: bool,
}

/// A backend that gets copies of a share of a rule's requests.
pub(crate) struct Mirror {
    pub(crate) backend: Arc<Backend>,
    pub(crate) client: Option<Arc<ClientCertificate>>,
    pub(crate) numerator: u32,
    pub(crate) denominator: u32,
    /// Where copies count: apart from the requests themselves.
    pub(crate) counter: Arc<Counter>,
}

/// What answers.
pub(crate) enum Action {
    Forward { choices: Vec<Choice>, total: u64 },
    Respond { status: StatusCode, body: Arc<str>, counter: Arc<Counter> },
    Redirect { redirect: Redirect, counter: Arc<Counter> },
}

/// A backend of a rule.
pub(crate) struct Choice {
    pub(crate) backend: Arc<Backend>,
    /// The sum of the weights up to and with this one.
    pub(crate) until: u64,
    pub(crate) filters: Vec<Filter>,
    pub(crate) counter: Arc<Counter>,
    /// None where the backend has no policy: then nothing of it is on the path of a request.
    pub(crate) traffic: Option<Arc<Traffic>>,
    /// What a backend with TLS is shown where it asks for a certificate.
    pub(crate) client: Option<Arc<ClientCertificate>>,
}

impl Choice {
    /// Chooses an endpoint that is not among those tried, and counts the request in there.
    pub(crate) fn pick(&self, tried: &[SocketAddr], key: Option<u64>) -> Option<Ticket> {
        self.pick_at(tried, key, Instant::now)
    }

    /// The same where what time it is is known already.
    pub(crate) fn pick_at(
        &self,
        tried: &[SocketAddr],
        key: Option<u64>,
        now: impl FnOnce() -> Instant,
    ) -> Option<Ticket> {
        let mut ticket = match &self.traffic {
            Some(traffic) => traffic.pick(&self.backend, tried, key, now),
            None => self.backend.pick(tried),
        }?;
        ticket.client.clone_from(&self.client);
        Some(ticket)
    }

    /// What is said while there is no endpoint.
    pub(crate) fn no_endpoint(&self) -> Fault {
        let status = self.backend.when_empty();
        // One that is not ready may soon be; a reference that cannot be followed is not a matter of time.
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let detail = format!("The backend {} has no endpoint that is ready.", self.backend.id);
            return Fault::new(status, "no_endpoint", detail).retry_after(Duration::from_secs(1));
        }
        let detail = "The backend cannot be used as it is written; the conditions of its route and policies say why.";
        Fault::new(status, "no_endpoint", detail)
    }
}

/// What of a request rules look at.
#[derive(Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) headers: Headers<'a>,
}

/// The headers of a request, which may be put in order when the first rule asks for them.
#[derive(Clone, Copy)]
pub(crate) enum Headers<'a> {
    Known(&'a HeaderMap),
    Later(&'a dyn Later),
}

/// Who has headers, and puts them in order when that is first asked for.
pub(crate) trait Later {
    fn map(&self) -> &HeaderMap;
}

impl<'a> Headers<'a> {
    pub(crate) fn map(self) -> &'a HeaderMap {
        match self {
            Self::Known(map) => map,
            Self::Later(later) => later.map(),
        }
    }
}

impl<'a> From<&'a HeaderMap> for Headers<'a> {
    fn from(map: &'a HeaderMap) -> Self {
        Self::Known(map)
    }
}

impl Rule {
    /// Where requests are counted that get no further than this rule.
    pub(crate) fn counter(&self) -> &Arc<Counter> {
        match &self.action {
            Action::Forward { choices, .. } => &choices[0].counter,
            Action::Respond { counter, .. } | Action::Redirect { counter, .. } => counter,
        }
    }
}

impl<'a> Candidate<'a> {
    /// What of the request rules look at. `OPTIONS *` counts as being for the root.
    pub(crate) fn new(method: &'a Method, uri: &'a Uri, headers: &'a HeaderMap) -> Self {
        let path = uri.path();
        let path = if path.starts_with('/') { path } else { "/" };
        Self { method, path, query: uri.query(), headers: headers.into() }
    }
}

impl Table {
    /// The same without anything behind it.
    pub(crate) fn emptied(&self) -> Self {
        Self {
            id: Arc::clone(&self.id),
            protocol: Protocol::Http,
            forwarded: self.forwarded,
            admits: self.admits,
            peer_name: None,
            shows: None,
            hosts: HostTable::new(),
            for_callers: Vec::new(),
            unmatched: Arc::clone(&self.unmatched),
        }
    }

    /// Whether a connection that was opened for `name` is none for requests to `host`, both in lower case.
    pub(crate) fn misdirects(&self, name: &str, host: &str) -> bool {
        matches!(&self.protocol, Protocol::Https(https) if https.apart.find(name) != https.apart.find(host))
    }

    /// The rule for a caller's request to a host, which is in lower case and without a port. A caller with rules of its own
    /// sees no others.
    pub(crate) fn find(&self, host: &str, candidate: &Candidate<'_>, caller: Option<&Identity>) -> Option<&Arc<Rule>> {
        if let Some(caller) = caller.filter(|_| !self.for_callers.is_empty())
            && let Some((_, own)) = self.for_callers.iter().find(|(callers, _)| caller.id.starts_with(&**callers))
        {
            return own.find(candidate);
        }
        self.hosts.find(host)?.find(candidate)
    }
}
