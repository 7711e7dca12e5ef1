//! Places at work: their policies are swapped in them, so that a change of policy changes nothing else.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::compile::Policy;
use super::policy::{self, PlaceId, PolicyId};
use crate::error::Refused;
use crate::snapshot::Snapshot;

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

/// All places and policies of a snapshot.
#[derive(Default)]
pub(crate) struct Places {
    policies: HashMap<PolicyId, (policy::Policy, Arc<Policy>)>,
    places: HashMap<PlaceId, (Arc<LivePlace>, Arc<Vec<Arc<Policy>>>)>,
}

impl Places {
    /// Compiles those of a snapshot, keeping of what there is what stays the same. Nothing changes before [`Places::serve`].
    pub(crate) fn compile(&self, snapshot: &Snapshot) -> Result<Self, Refused> {
        let policies = self.compile_policies(&snapshot.policies)?;
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
        Ok(Self { policies, places })
    }

    fn compile_policies(
        &self,
        wanted: &BTreeMap<PolicyId, policy::Policy>,
    ) -> Result<HashMap<PolicyId, (policy::Policy, Arc<Policy>)>, Refused> {
        let compile = |(id, policy): (&PolicyId, &policy::Policy)| {
            let compiled = match self.policies.get(id) {
                Some((before, compiled)) if before == policy => Arc::clone(compiled),
                _ => {
                    let bad = |reason| Refused::BadPolicy { policy: id.clone(), reason };
                    Arc::new(Policy::compile(id, policy).map_err(bad)?)
                }
            };
            Ok((id.clone(), (policy.clone(), compiled)))
        };
        wanted.iter().map(compile).collect()
    }

    /// Puts the policies into their places.
    pub(crate) fn serve(&self) {
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
