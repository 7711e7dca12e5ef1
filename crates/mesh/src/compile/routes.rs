//! A route's rules, compiled once however many listeners they are attached to.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use proxy::access::PlaceId;
use proxy::snapshot::{Action, BackendId, Filter, Guard, Match, PathMatch, Rule, Timeouts, Weighted};
use resources::gateway::httproutes::{
    HttpRoute, HttpRouteParentRefs, HttpRouteRules, HttpRouteRulesBackendRefs, HttpRouteRulesTimeouts,
};

use super::access::Policies;
use super::backends::{Backends, Reference};
use super::index::{Subject, key};
use super::kind::RouteKind;
use super::precedence::Rank;
use super::traffic::Traffic;
use super::verdict::{Fault, Verdict, condition, reason};
use super::{filters, matches};
use crate::world::Rejected;

/// The group of Gateway API's kinds.
pub(super) const GROUP: &str = "gateway.networking.k8s.io";

/// A rule without its matches.
struct Draft {
    id: Arc<str>,
    matches: Vec<Match>,
    filters: Vec<Filter>,
    action: Action,
    timeouts: Timeouts,
    place: Option<PlaceId>,
}

/// A compiled route.
pub(super) struct Compiled {
    drafts: Vec<Draft>,
    /// One for every match of every rule.
    pub(super) ranks: Vec<Candidate>,
    /// Why the route as a whole cannot be accepted.
    pub(super) refused: Option<Fault>,
    /// Set where some rules, but not all, could not be followed.
    pub(super) partially_invalid: Option<Verdict>,
    pub(super) resolved: Verdict,
}

/// One match of one rule of one route, and its place among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    pub(super) rank: Rank,
    /// Which compiled route.
    pub(super) route: usize,
    draft: usize,
    position: usize,
}

impl Compiled {
    /// The backends that its requests may be sent to.
    pub(super) fn backends(&self) -> impl Iterator<Item = &BackendId> {
        let weighted = self.drafts.iter().flat_map(|draft| match &draft.action {
            Action::Forward { backends } => backends.as_slice(),
            Action::Respond { .. } => &[],
        });
        weighted.map(|weighted| &weighted.backend)
    }

    /// The proxy's rule for one of this route's candidates, that is reached through Gateways and by other places.
    pub(super) fn rule(&self, candidate: Candidate, through: Vec<Arc<str>>, mut places: Vec<PlaceId>) -> Rule {
        let draft = &self.drafts[candidate.draft];
        places.extend(draft.place.clone());
        Rule {
            id: Arc::clone(&draft.id),
            matches: draft.matches[candidate.position].clone(),
            filters: draft.filters.clone(),
            action: draft.action.clone(),
            timeouts: draft.timeouts,
            client: None,
            guard: Guard { through, places },
        }
    }
}

/// Compiles `route`, which is at `position` in the order of age.
pub(super) fn compile(
    kind: RouteKind,
    route: &HttpRoute,
    position: usize,
    backends: &mut Backends<'_>,
    (traffic, policies): (&Traffic, &mut Policies<'_>),
    rejected: &Rejected,
) -> Compiled {
    let whole = [HttpRouteRules::default()];
    let rules = match route.spec.rules.as_deref() {
        None | Some([]) => &whole[..],
        Some(rules) => rules,
    };
    let (namespace, name) = key(&route.metadata);
    let mut compiler = Compiler {
        from: Subject { group: GROUP, kind: kind.name(), namespace, name },
        parents: services(route),
        generation: route.metadata.generation.unwrap_or_default(),
        backends,
        traffic,
        rejected,
        unresolved: Vec::new(),
    };
    let mut drafts = Vec::with_capacity(rules.len());
    let mut faults = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let label = rule.name.clone().unwrap_or_else(|| index.to_string());
        let place = policies.of_rule(kind, route, rule.name.as_deref());
        let (draft, fault) = compiler.rule(rule, format!("{}{namespace}/{name}/{label}", kind.prefix()).into(), place);
        faults.extend(fault.map(|fault| (label, fault)));
        drafts.push(draft);
    }
    let ranks = ranks(kind, &drafts, position);
    let resolved = match all(compiler.unresolved) {
        Some(fault) => Verdict::no(condition::RESOLVED_REFS, fault.reason, fault.message),
        None => Verdict::yes(condition::RESOLVED_REFS, reason::RESOLVED_REFS, "All references are resolved"),
    };
    let (refused, partially_invalid) = judge(faults, rules.len());
    Compiled { drafts: drafts.into_iter().flatten().collect(), ranks, refused, partially_invalid, resolved }
}

fn ranks(kind: RouteKind, drafts: &[Option<Draft>], route: usize) -> Vec<Candidate> {
    let mut ranks = Vec::with_capacity(drafts.len());
    let kept = drafts.iter().enumerate().filter_map(|(rule, draft)| draft.as_ref().map(|draft| (rule, draft)));
    for (draft_index, (rule, draft)) in kept.enumerate() {
        for (position, matches) in draft.matches.iter().enumerate() {
            let rank = Rank::new(kind, matches, route, rule, position);
            ranks.push(Candidate { rank, route, draft: draft_index, position });
        }
    }
    ranks
}

/// A route none of whose rules can be followed is refused; one of which some cannot says which.
fn judge(mut faults: Vec<(String, Fault)>, rules: usize) -> (Option<Fault>, Option<Verdict>) {
    let told = |faults: &[(String, Fault)]| {
        faults.iter().map(|(rule, fault)| format!("rule {rule}: {}", fault.message)).collect::<Vec<_>>().join("; ")
    };
    if faults.is_empty() {
        return (None, None);
    }
    let message = told(&faults);
    if faults.len() < rules {
        let message = format!("Dropped Rule: {message}");
        return (None, Some(Verdict::yes(condition::PARTIALLY_INVALID, reason::UNSUPPORTED_VALUE, message)));
    }
    let (_, first) = faults.swap_remove(0);
    (Some(Fault::new(first.reason, message)), None)
}

/// All that is wrong with references, under the first one's reason; only so many are written out.
fn all(faults: Vec<Fault>) -> Option<Fault> {
    const TOLD: usize = 16;
    let further = faults.len().saturating_sub(TOLD);
    let mut messages: Vec<String> = faults.iter().take(TOLD).map(|fault| fault.message.clone()).collect();
    if further > 0 {
        messages.push(format!("and {further} more"));
    }
    let first = faults.into_iter().next()?;
    Some(Fault { message: messages.join("; "), ..first })
}

/// The Services of other namespaces that a route is attached to, where it is attached to Services alone: its callers reach
/// them as well without it, so that it may send there without anybody's grant.
fn services(route: &HttpRoute) -> Vec<(&str, &str)> {
    let parents = route.spec.parent_refs.as_deref().unwrap_or_default();
    let service =
        |parent: &HttpRouteParentRefs| parent.group.as_deref() == Some("") && parent.kind.as_deref() == Some("Service");
    if !parents.iter().all(service) {
        return Vec::new();
    }
    parents.iter().filter_map(|parent| Some((parent.namespace.as_deref()?, parent.name.as_str()))).collect()
}

struct Compiler<'c, 'w> {
    from: Subject<'c>,
    /// Where it may send without a grant, by namespace and name.
    parents: Vec<(&'c str, &'c str)>,
    generation: i64,
    backends: &'c mut Backends<'w>,
    traffic: &'c Traffic,
    rejected: &'c Rejected,
    /// What is wrong with the references that could not be followed, each once.
    unresolved: Vec<Fault>,
}

impl Compiler<'_, '_> {
    /// A rule whose matches cannot be read is dropped: there is no telling which requests it meant. One whose filters or times
    /// cannot be followed answers 500 to the requests that it means, so that they don't fall through to another rule.
    fn rule(&mut self, rule: &HttpRouteRules, id: Arc<str>, place: Option<PlaceId>) -> (Option<Draft>, Option<Fault>) {
        let unsupported = |message| Fault::new(reason::UNSUPPORTED_VALUE, message);
        let rejection = self.rejected.rules.get(&(id.to_string(), self.generation));
        let matches = match matches::read(rule.matches.as_deref()) {
            Ok(matches) if rejection.is_none() => matches,
            Ok(_) => return (None, rejection.cloned().map(unsupported)),
            Err(message) => return (None, Some(unsupported(message))),
        };
        let prefix_only = matches.iter().all(|matches| matches!(matches.path, PathMatch::Prefix(_)));
        let filters =
            filters::of_rule(rule.filters.as_deref().unwrap_or_default(), prefix_only, &mut |to| self.follow(to));
        let timeouts = timeouts(rule.timeouts.as_ref());
        // References are followed even where the rule is faulty: the condition says all that is wrong at once.
        let rewrites = |filter: &Filter| matches!(filter, Filter::Rewrite { host: Some(_), .. });
        let rewrites = filters.as_ref().is_ok_and(|filters| filters.iter().any(rewrites));
        let action = self.action(&id, rule.backend_refs.as_deref().unwrap_or_default(), rewrites);
        let (filters, timeouts, action) = match (filters, timeouts, action) {
            (Ok(filters), Ok(timeouts), Ok(action)) => (filters, timeouts, action),
            (Err(fault), _, _) | (_, Err(fault), _) | (_, _, Err(fault)) => {
                let action = respond("this route has a rule that cannot be followed; see the route's conditions");
                let draft = Draft { id, matches, filters: Vec::new(), action, timeouts: Timeouts::default(), place };
                return (Some(draft), Some(fault));
            }
        };
        (Some(Draft { id, matches, filters, action, timeouts, place }), None)
    }

    /// The backend that is meant, or the one that stands for all that cannot be found.
    fn follow(&mut self, to: Reference<'_>) -> BackendId {
        let own = to.namespace.filter(|namespace| self.parents.contains(&(namespace, to.name)));
        let from = Subject { namespace: own.unwrap_or(self.from.namespace), ..self.from };
        self.backends.resolve(from, to).unwrap_or_else(|fault| {
            if self.unresolved.iter().all(|known| known.message != fault.message) {
                self.unresolved.push(fault);
            }
            self.backends.unresolved()
        })
    }

    /// `rewrites` says whether the rule itself says which host is asked for.
    fn action(&mut self, rule: &Arc<str>, refs: &[HttpRouteRulesBackendRefs], rewrites: bool) -> Result<Action, Fault> {
        let mut backends = Vec::with_capacity(refs.len());
        for to in refs {
            let reference = Reference {
                group: to.group.as_deref(),
                kind: to.kind.as_deref(),
                namespace: to.namespace.as_deref(),
                name: &to.name,
                port: to.port,
            };
            let filters = filters::of_backend(to.filters.as_deref().unwrap_or_default(), &mut |to| self.follow(to));
            let backend = self.follow(reference);
            let weight = to.weight.map_or(1, |weight| u32::try_from(weight).unwrap_or(0));
            let policy = self.traffic.of(rule, &backend);
            let mut filters = filters?;
            filters.extend(self.backends.rewrite(&backend).filter(|_| !rewrites).cloned());
            backends.push(Weighted { backend, weight, filters, policy });
        }
        Ok(match backends.iter().any(|weighted| weighted.weight > 0) {
            true => Action::Forward { backends },
            false => respond("no backend has a share of this rule's requests"),
        })
    }
}

fn respond(body: &str) -> Action {
    Action::Respond { status: StatusCode::INTERNAL_SERVER_ERROR, body: body.into() }
}

fn timeouts(timeouts: Option<&HttpRouteRulesTimeouts>) -> Result<Timeouts, Fault> {
    let Some(timeouts) = timeouts else { return Ok(Timeouts::default()) };
    let read = Timeouts {
        request: duration("request", timeouts.request.as_deref())?,
        backend_request: duration("backendRequest", timeouts.backend_request.as_deref())?,
    };
    if let (Some(request), Some(backend)) = (read.request, read.backend_request)
        && backend > request
    {
        let message = "timeouts.backendRequest cannot be longer than timeouts.request";
        return Err(Fault::new(reason::UNSUPPORTED_VALUE, message));
    }
    Ok(read)
}

/// Zero means no limit.
fn duration(field: &str, text: Option<&str>) -> Result<Option<Duration>, Fault> {
    let Some(text) = text else { return Ok(None) };
    match text.parse::<resources::gateway::Duration>() {
        Ok(duration) if duration.is_zero() => Ok(None),
        // The format has five digits a part at most, so this never saturates.
        Ok(duration) => Ok(Some(Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))),
        Err(error) => {
            let message = format!("timeouts.{field} {text:?} is not a duration such as 500ms or 1m30s: {error}");
            Err(Fault::new(reason::UNSUPPORTED_VALUE, message))
        }
    }
}
