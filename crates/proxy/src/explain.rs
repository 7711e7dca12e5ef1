//! What a request would meet if it came now: the rule, who would refuse it, where it would go. Nothing is sent.
//!
//! Invariant: the answer is made by the same look-ups and judgements that requests pass (`route`, `access`), on what serves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Method, StatusCode, Uri};

use crate::access;
use crate::identity::Identity;
use crate::route::{Action, Candidate, Choice, Guard, Protocol, Table};
use crate::snapshot::Admits;

/// A request that is only thought of.
#[derive(Clone, Debug)]
pub struct Question {
    /// The listener's id.
    pub listener: Arc<str>,
    /// The host, without a port.
    pub host: String,
    /// The method.
    pub method: Method,
    /// The path and query.
    pub uri: Uri,
    /// Its headers.
    pub headers: HeaderMap,
    /// Who would call.
    pub caller: Option<Identity>,
}

/// What it would meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What the listener speaks: `http`, `https`, `tls`, `tcp`, `mesh`, `egress`, or `sniff` for HTTP or bytes.
    pub protocol: &'static str,
    /// Who gets an answer at all: `anybody`, `known` callers, or `certified` ones.
    pub admits: &'static str,
    /// The rule's id; none where no rule matches, or where the listener has none.
    pub rule: Option<Arc<str>>,
    /// What the proxy would answer by itself; none where a backend would.
    pub own_answer: Option<StatusCode>,
    /// Where it might go.
    pub backends: Vec<Way>,
    /// Who would refuse it.
    pub refusals: Vec<Refusal>,
}

/// A backend that a request might go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Its id.
    pub backend: Arc<str>,
    /// Its share of the rule's requests, as a weight.
    pub weight: u64,
    /// Its endpoints, each with what it carries now.
    pub endpoints: Vec<(SocketAddr, usize)>,
    /// The answer while there is no endpoint.
    pub when_empty: StatusCode,
    /// Whether its circuit is `closed`, `open` or `half open`; none where it has no breaker.
    pub circuit: Option<&'static str>,
}

/// A place that would not let it pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The place.
    pub place: Arc<str>,
    /// The policy that refuses.
    pub policy: Arc<str>,
    /// Its rule, where one denies.
    pub rule: Option<Arc<str>>,
    /// A word for machines.
    pub reason: &'static str,
}

/// Answers a question about one listener.
pub(crate) fn explain(table: &Table, question: &Question) -> Explanation {
    let protocol = match &table.protocol {
        Protocol::Http => "http",
        Protocol::Https(_) => "https",
        Protocol::Tls(..) => "tls",
        Protocol::Tcp(_) => "tcp",
        Protocol::Egress(_) => "egress",
        Protocol::Mesh => "mesh",
        Protocol::Sniff(_) => "sniff",
    };
    let admits = match table.admits {
        Admits::Anybody => "anybody",
        Admits::Known => "known",
        Admits::Certified => "certified",
    };
    let mut explanation =
        Explanation { protocol, admits, rule: None, own_answer: None, backends: Vec::new(), refusals: Vec::new() };
    let host = question.host.trim_end_matches('.').to_ascii_lowercase();
    if connection(table, &host, question.caller.as_ref(), &mut explanation) {
        return explanation;
    }
    if let Protocol::Egress(egress) = &table.protocol {
        let allowed = egress.allows(question.caller.as_ref(), &host);
        explanation.own_answer = (!allowed).then_some(StatusCode::FORBIDDEN);
        return explanation;
    }
    let candidate = Candidate::new(&question.method, &question.uri, &question.headers);
    let Some(rule) = table.find(&host, &candidate, question.caller.as_ref()) else {
        explanation.own_answer = Some(StatusCode::NOT_FOUND);
        return explanation;
    };
    explanation.rule = Some(Arc::clone(&rule.id));
    let mut judge = |place: &Arc<access::LivePlace>, through: &[Arc<str>]| {
        explanation.refusals.extend(access::judge(place, question.caller.as_ref(), through, &candidate));
    };
    let Guard { through, places } = &rule.guard;
    places.iter().for_each(|place| judge(place, &[]));
    match &rule.action {
        Action::Respond { status, .. } => explanation.own_answer = Some(*status),
        Action::Redirect { redirect, .. } => explanation.own_answer = Some(redirect.status),
        Action::Forward { choices, .. } => {
            let mut before = 0;
            for choice in choices {
                if let Some(place) = choice.backend.place() {
                    judge(&place, through);
                }
                explanation.backends.push(way(&choice.backend, choice.until - before, Some(choice)));
                before = choice.until;
            }
        }
    }
    explanation.refusals.dedup();
    explanation
}

/// Where a connection goes of which no request is read; false where the listener reads requests.
fn connection(table: &Table, host: &str, caller: Option<&Identity>, explanation: &mut Explanation) -> bool {
    let (guard, only);
    let backends = match &table.protocol {
        Protocol::Tcp(backend) => {
            guard = Arc::default();
            only = [(Arc::clone(backend), 1)];
            &only[..]
        }
        Protocol::Tls(_, names) => match names.find(host) {
            Some(name) => {
                guard = Arc::clone(&name.guard);
                &name.backends[..]
            }
            None => return true,
        },
        _ => return false,
    };
    let Guard { through, places } = &*guard;
    let mut refusals = Vec::new();
    refusals.extend(places.iter().filter_map(|place| access::judge_connection(place, caller, &[])));
    let mut before = 0;
    for (backend, until) in backends {
        refusals.extend(backend.place().and_then(|place| access::judge_connection(&place, caller, through)));
        explanation.backends.push(way(backend, until - before, None));
        before = *until;
    }
    refusals.dedup();
    explanation.refusals = refusals;
    true
}

fn way(backend: &crate::balance::Backend, weight: u64, choice: Option<&Choice>) -> Way {
    let circuit = choice.and_then(|choice| choice.traffic.as_ref()?.circuit(Instant::now()));
    Way {
        backend: Arc::clone(&backend.id),
        weight,
        endpoints: backend.endpoints(),
        when_empty: backend.when_empty(),
        circuit,
    }
}
