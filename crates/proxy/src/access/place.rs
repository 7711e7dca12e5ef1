//! Places at work: their policies are swapped in them, so that a change of policy changes nothing else.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::compile::Policy;
use super::external::Asker;
use super::policy::{self, Keys, Origin, PlaceId, PolicyId, RemoteKeys};
use super::remote::RemoteSet;
use crate::balance::Backend;
use crate::error::Refused;
use crate::service::Shared;
use crate::snapshot::{BackendId, Snapshot};

/// The key sets to be fetched, and whose they are.
fn remote_keys(policies: &BTreeMap<PolicyId, policy::Policy>) -> impl Iterator<Item = (&PolicyId, &RemoteKeys)> {
    let issuers =
        policies.iter().flat_map(|(id, policy)| policy.jwt.iter().flat_map(|jwt| &jwt.issuers).map(move |i| (id, i)));
    issuers.filter_map(|(id, issuer)| match &issuer.keys {
        Keys::There(from) => Some((id, from)),
        Keys::Here(_) => None,
    })
}

/// A place, and the policies that it has now.
pub(crate) struct LivePlace {
    pub(crate) id: PlaceId,
    policies: ArcSwap<Vec<Arc<Policy>>>,
}

impl LivePlace {
    /// A place without policies, which lets everything in.
    pub(crate) fn new(id: PlaceId) -> Self {
        Self { id, policies: ArcSwap::default() }
    }

    pub(super) fn policies(&self) -> Guard<Arc<Vec<Arc<Policy>>>> {
        self.policies.load()
    }
}

/// What policies name beside themselves: backends, and fetched key sets, each once.
#[derive(Default)]
pub(crate) struct Sets {
    backends: HashMap<BackendId, Arc<Backend>>,
    before: HashMap<RemoteKeys, Arc<RemoteSet>>,
    now: HashMap<RemoteKeys, Arc<RemoteSet>>,
}

impl Sets {
    /// A service that decides.
    pub(super) fn asker(&self, says: &policy::External) -> Result<Asker, String> {
        let unknown = || format!("it asks the backend {}, which the snapshot does not have", says.backend);
        let backend = self.backends.get(&says.backend).cloned().ok_or_else(unknown)?;
        if !says.path.starts_with('/') || says.path.parse::<http::Uri>().is_err() {
            return Err(format!("{:?} is no path to be asked for", says.path));
        }
        Ok(Asker { backend, says: says.clone() })
    }

    /// The set of an origin; the one that there was, where there was one.
    pub(super) fn get(&mut self, from: &RemoteKeys) -> Arc<RemoteSet> {
        let Self { before, now, .. } = self;
        let made = || before.get(from).cloned().unwrap_or_else(|| Arc::new(RemoteSet::new(from.clone())));
        Arc::clone(now.entry(from.clone()).or_insert_with(made))
    }
}

/// The policies of a place.
type Held = Arc<Vec<Arc<Policy>>>;

/// All places and policies of a snapshot.
#[derive(Default)]
pub(crate) struct Places {
    sets: HashMap<RemoteKeys, Arc<RemoteSet>>,
    policies: HashMap<PolicyId, (policy::Policy, Arc<Policy>)>,
    /// With each, what it is to have.
    places: HashMap<PlaceId, (Arc<LivePlace>, Held)>,
}

impl Places {
    /// Compiles those of a snapshot, keeping of what there is what stays the same. Nothing changes before [`Places::serve`].
    pub(crate) fn compile(
        &self,
        snapshot: &Snapshot,
        backends: &HashMap<BackendId, Arc<Backend>>,
    ) -> Result<Self, Refused> {
        let asked = snapshot.policies.values().filter_map(|policy| policy.external.as_ref());
        let asked = asked.filter_map(|external| backends.get_key_value(&external.backend));
        let backends = asked.map(|(id, backend)| (id.clone(), Arc::clone(backend))).collect();
        let mut sets = Sets { backends, before: self.sets.clone(), now: HashMap::new() };
        let policies = self.compile_policies(&snapshot.policies, &mut sets)?;
        for (owner, from) in remote_keys(&snapshot.policies) {
            if let Origin::Backend(backend) = &from.at
                && !snapshot.backends.contains_key(backend)
            {
                return Err(Refused::UnknownBackend { owner: owner.clone(), backend: backend.clone() });
            }
            // Also those of policies that stay as they are.
            sets.get(from);
        }
        let mut places = HashMap::with_capacity(snapshot.places.len());
        for (id, place) in &snapshot.places {
            let unknown = |policy: &PolicyId| Refused::UnknownPolicy { place: id.clone(), policy: policy.clone() };
            let found: Result<Vec<_>, _> = place
                .policies
                .iter()
                .map(|policy| policies.get(policy).map(|(_, policy)| Arc::clone(policy)).ok_or_else(|| unknown(policy)))
                .collect();
            let live = match self.places.get(id) {
                Some((live, _)) => Arc::clone(live),
                None => Arc::new(LivePlace::new(id.clone())),
            };
            places.insert(id.clone(), (live, Arc::new(found?)));
        }
        Ok(Self { sets: sets.now, policies, places })
    }

    fn compile_policies(
        &self,
        wanted: &BTreeMap<PolicyId, policy::Policy>,
        sets: &mut Sets,
    ) -> Result<HashMap<PolicyId, (policy::Policy, Arc<Policy>)>, Refused> {
        let mut compile = |(id, policy): (&PolicyId, &policy::Policy)| {
            let compiled = match self.policies.get(id) {
                Some((before, compiled)) if before == policy => Arc::clone(compiled),
                _ => {
                    let bad = |reason| Refused::BadPolicy { policy: id.clone(), reason };
                    Arc::new(Policy::compile(id, policy, sets).map_err(bad)?)
                }
            };
            Ok((id.clone(), (policy.clone(), compiled)))
        };
        wanted.iter().map(&mut compile).collect()
    }

    /// Puts the policies into their places, and has key sets fetched that were not before.
    pub(crate) fn serve(&self, before: &Self, shared: &Shared, backend: impl Fn(&BackendId) -> Option<Arc<Backend>>) {
        for (from, set) in self.sets.iter().filter(|(from, _)| !before.sets.contains_key(*from)) {
            let backend = match &from.at {
                Origin::Backend(id) => backend(id),
                Origin::Host { .. } => None,
            };
            set.keep(backend, shared);
        }
        for (live, policies) in self.places.values() {
            live.policies.store(Arc::clone(policies));
        }
    }

    pub(crate) fn get(&self, owner: &Arc<str>, id: &PlaceId) -> Result<Arc<LivePlace>, Refused> {
        let unknown = || Refused::UnknownPlace { owner: owner.clone(), place: id.clone() };
        self.places.get(id).map(|(live, _)| Arc::clone(live)).ok_or_else(unknown)
    }

    /// Whether all places of these are there in the others too.
    pub(crate) fn all_in(&self, others: &Self) -> bool {
        self.places.keys().all(|id| others.places.contains_key(id))
    }
}
