//! What to do about claims and volumes, as a pure function of the objects as they are.
//!
//! Invariants:
//! - One object gets at most one write a plan, since each write says which state of the object it was decided upon.
//! - A plan that is carried out and made again comes to nothing.
//!
//! Binding is immediate whatever the class says: with one node there is no better place to wait for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::ObjectMeta;
use serde_json::{Value, json};

use super::choose::{
    Tie, capacity, default_class, fitting, holder, mismatch, named_class, provisioned, request, tie, uid,
};
use super::shelf::Shelf;
use super::{CLAIM_FINALIZER, CLASS, PROVISIONER, VOLUME_FINALIZER, directory, make};
use crate::env::milli;

type Claim = Arc<PersistentVolumeClaim>;
type Volume = Arc<PersistentVolume>;

/// All there is.
pub(super) struct World<'a> {
    pub claims: &'a Shelf<PersistentVolumeClaim>,
    pub volumes: &'a Shelf<PersistentVolume>,
    pub classes: &'a Shelf<StorageClass>,
    /// The claims that Pods use, by namespace and name.
    pub used: &'a BTreeSet<(String, String)>,
    /// The directory of all provisioned volumes.
    pub root: &'a Path,
}

/// One thing to do.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Make a directory, and the volume that is in it.
    Provision { claim: Claim, directory: PathBuf, volume: Value },
    /// Change a claim.
    Claim { claim: Claim, change: Value },
    /// Change a claim's status.
    ClaimStatus { claim: Claim, status: Value },
    /// A bound claim's volume is gone, if the API says so as well.
    Lose { claim: Claim, volume: String },
    /// Change a volume.
    Volume { volume: Volume, change: Value },
    /// Change a volume's status.
    VolumeStatus { volume: Volume, status: Value },
    /// The claim is gone: remove the directory and the volume, if the API says so as well.
    Reclaim { volume: Volume, directory: PathBuf },
}

/// What is to be told of a claim.
#[derive(Clone, Debug)]
pub(super) struct Word {
    pub claim: Claim,
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub actions: Vec<Action>,
    pub words: Vec<Word>,
}

/// Decides.
pub(super) fn plan(world: &World<'_>) -> Plan {
    let mut planner = Planner { world, plan: Plan::default(), taken: BTreeSet::new() };
    // Who names a volume gets it before those that take any.
    let (named, open): (Vec<&Claim>, Vec<&Claim>) = world.claims.iter().partition(|claim| volume_name(claim).is_some());
    for claim in named.into_iter().chain(open) {
        planner.claim(claim);
    }
    for volume in world.volumes.iter() {
        planner.volume(volume);
    }
    planner.plan
}

struct Planner<'a> {
    world: &'a World<'a>,
    plan: Plan,
    /// Volumes that this plan changes already.
    taken: BTreeSet<String>,
}

fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

impl Planner<'_> {
    fn tell(&mut self, claim: &Claim, warning: bool, reason: &'static str, message: String) {
        self.plan.words.push(Word { claim: Arc::clone(claim), warning, reason, message });
    }

    fn change_claim(&mut self, claim: &Claim, change: Value) {
        self.plan.actions.push(Action::Claim { claim: Arc::clone(claim), change });
    }

    fn change_volume(&mut self, volume: &Volume, change: Value) {
        if self.taken.insert(name(&volume.metadata).to_owned()) {
            self.plan.actions.push(Action::Volume { volume: Arc::clone(volume), change });
        }
    }

    fn claim(&mut self, claim: &Claim) {
        let meta = &claim.metadata;
        if meta.deletion_timestamp.is_some() {
            let key = (meta.namespace.clone().unwrap_or_default(), name(meta).to_owned());
            if make::has(meta, CLAIM_FINALIZER) && !self.world.used.contains(&key) {
                let left = make::without(meta, CLAIM_FINALIZER);
                self.change_claim(claim, json!({ "metadata": { "finalizers": left } }));
            }
            return;
        }
        let before = self.plan.actions.len();
        match volume_name(claim) {
            Some(wanted) => self.named(claim, wanted),
            None => self.open(claim),
        }
        if self.plan.actions.len() == before && !make::has(meta, CLAIM_FINALIZER) {
            self.change_claim(claim, json!({ "metadata": { "finalizers": make::with(meta, CLAIM_FINALIZER) } }));
        }
    }

    /// A claim that says which volume it wants, or has.
    fn named(&mut self, claim: &Claim, wanted: &str) {
        let bound = claim_phase(claim) == "Bound";
        let lose = |planner: &mut Self| {
            planner.plan.actions.push(Action::Lose { claim: Arc::clone(claim), volume: wanted.to_owned() });
        };
        let Some(volume) = self.world.volumes.get("", wanted) else {
            if bound {
                lose(self);
            } else if claim_phase(claim) != "Lost" {
                self.tell(
                    claim,
                    true,
                    "FailedBinding",
                    format!("volume \"{wanted}\" not found; make it, or name another"),
                );
            }
            return;
        };
        match tie(volume, claim) {
            Tie::Own => self.bound(claim, volume),
            Tie::Other if bound => lose(self),
            Tie::Other => {
                let message = format!("volume \"{wanted}\" already bound to a different claim.");
                self.tell(claim, true, "FailedBinding", message);
            }
            Tie::Free | Tie::Kept => self.reserve(claim, volume, named_class(claim)),
        }
    }

    /// A claim without a volume.
    fn open(&mut self, claim: &Claim) {
        let class = named_class(claim).unwrap_or_else(|| default_class(self.world.classes));
        let of = |wanted: Tie| self.world.volumes.iter().find(|volume| tie(volume, claim) == wanted);
        if let Some(volume) = of(Tie::Own) {
            return self.bound(claim, volume);
        }
        if let Some(volume) = of(Tie::Kept) {
            return self.reserve(claim, volume, named_class(claim));
        }
        let left = self.world.volumes.iter().filter(|volume| !self.taken.contains(name(&volume.metadata)));
        if let Some(volume) = fitting(left, claim, class) {
            return self.reserve(claim, volume, None);
        }
        self.provision(claim, class);
    }

    fn reserve(&mut self, claim: &Claim, volume: &Volume, class: Option<&str>) {
        match mismatch(volume, claim, class) {
            None => self.change_volume(volume, make::reserve(volume, claim)),
            Some(why) => {
                let message = format!("Cannot bind to requested volume \"{}\": {why}", name(&volume.metadata));
                self.tell(claim, true, "VolumeMismatch", message);
            }
        }
    }

    /// The volume is the claim's: what is left is to say so everywhere.
    fn bound(&mut self, claim: &Claim, volume: &Volume) {
        if !make::is_bound(claim, volume) {
            return self.change_claim(claim, make::bind(claim, volume));
        }
        let sizes = (request(claim).and_then(milli), capacity(volume).and_then(milli));
        if let (Some(asked), Some(size)) = sizes
            && asked > size
            && provisioned(volume)
        {
            self.change_volume(volume, json!({ "spec": { "capacity": { "storage": request(claim) } } }));
        }
        let status = make::bound_status(volume);
        let now = serde_json::to_value(&claim.status).unwrap_or_default();
        if ["phase", "accessModes", "capacity"].iter().any(|field| now[field] != status[field]) {
            self.plan.actions.push(Action::ClaimStatus { claim: Arc::clone(claim), status });
        }
    }

    fn provision(&mut self, claim: &Claim, class: &str) {
        let reclaim = match self.class(class) {
            Ok(reclaim) => reclaim,
            Err((warning, reason, message)) => return self.tell(claim, warning, reason, message),
        };
        let spec = claim.spec.clone().unwrap_or_default();
        let refused = if spec.selector.is_some() {
            Some("a claim with a selector takes volumes that were made before; make one, or leave the selector out")
        } else if spec.volume_mode.as_deref() == Some("Block") {
            Some("this machine gives directories, no block devices; use volumeMode Filesystem")
        } else if spec.data_source.is_some() || spec.data_source_ref.is_some() {
            Some("a volume can't be made from another one here; leave dataSource and dataSourceRef out")
        } else if request(claim).is_none() {
            Some("the claim does not say how much it asks for; set resources.requests.storage")
        } else {
            None
        };
        if let Some(why) = refused {
            let message = format!("failed to provision volume with StorageClass \"{class}\": {why}");
            return self.tell(claim, true, "ProvisioningFailed", message);
        }
        let meta = &claim.metadata;
        let uid = meta.uid.as_deref().unwrap_or_default();
        let directory = directory::of(self.world.root, meta.namespace.as_deref().unwrap_or_default(), name(meta), uid);
        let volume = make::volume(claim, class, &reclaim, &directory);
        self.plan.actions.push(Action::Provision { claim: Arc::clone(claim), directory, volume });
    }

    /// The reclaim policy of a class whose volumes are made here, or why they are not.
    fn class(&self, class: &str) -> Result<String, (bool, &'static str, String)> {
        if class.is_empty() {
            let message = "no persistent volumes available for this claim and no storage class is set";
            return Err((false, "FailedBinding", message.to_owned()));
        }
        let way_out = format!(
            "leave storageClassName out (or set it to \"{CLASS}\") for a directory of this machine, make a StorageClass \
             \"{class}\" with provisioner {PROVISIONER}, or make a PersistentVolume of this class"
        );
        match self.world.classes.get("", class) {
            Some(found) if found.provisioner == PROVISIONER => {
                Ok(found.reclaim_policy.clone().unwrap_or_else(|| "Delete".to_owned()))
            }
            Some(found) => {
                let by = &found.provisioner;
                let message = format!("nothing provisions volumes of StorageClass \"{class}\" ({by}) here; {way_out}");
                Err((true, "ProvisioningFailed", message))
            }
            None if class == CLASS => Ok("Delete".to_owned()),
            None => {
                let message = format!("storageclass.storage.k8s.io \"{class}\" not found; {way_out}");
                Err((true, "ProvisioningFailed", message))
            }
        }
    }

    fn volume(&mut self, volume: &Volume) {
        if self.taken.contains(name(&volume.metadata)) {
            return;
        }
        let reference = holder(volume);
        let owner = reference.and_then(|holder| {
            let of = |text: &Option<String>| text.clone().unwrap_or_default();
            let claim = self.world.claims.get(&of(&holder.namespace), &of(&holder.name))?;
            (tie(volume, claim) == Tie::Own).then_some(claim)
        });
        let held = reference.and_then(uid);
        let ours = held.and_then(|uid| self.directory(volume, uid));
        if owner.is_none()
            && let Some(directory) = ours.clone().filter(|_| reclaimed(volume))
            && (volume.metadata.deletion_timestamp.is_none() || make::has(&volume.metadata, VOLUME_FINALIZER))
        {
            self.plan.actions.push(Action::Reclaim { volume: Arc::clone(volume), directory });
            return;
        }
        if volume.metadata.deletion_timestamp.is_some() {
            if owner.is_none() && make::has(&volume.metadata, VOLUME_FINALIZER) {
                let left = make::without(&volume.metadata, VOLUME_FINALIZER);
                self.change_volume(volume, json!({ "metadata": { "finalizers": left } }));
            }
            return;
        }
        if !make::has(&volume.metadata, VOLUME_FINALIZER) {
            let all = make::with(&volume.metadata, VOLUME_FINALIZER);
            return self.change_volume(volume, json!({ "metadata": { "finalizers": all } }));
        }
        let path = volume.spec.as_ref().and_then(|spec| spec.host_path.as_ref()).map(|host| Path::new(&host.path));
        if let Some(directory) = ours.filter(|directory| path != Some(directory)) {
            return self.change_volume(volume, json!({ "spec": { "hostPath": { "path": directory } } }));
        }
        let phase = match (held, owner) {
            (None, _) => "Available",
            (Some(_), None) => "Released",
            (Some(_), Some(claim)) if volume_name(claim) == volume.metadata.name.as_deref() => "Bound",
            (Some(_), Some(_)) => return,
        };
        if volume.status.as_ref().and_then(|status| status.phase.as_deref()) != Some(phase) {
            self.plan.actions.push(Action::VolumeStatus {
                volume: Arc::clone(volume),
                status: json!({ "phase": phase, "message": null, "reason": null }),
            });
        }
    }

    /// Where a volume lies that was made here for the claim of this uid.
    fn directory(&self, volume: &PersistentVolume, uid: &str) -> Option<PathBuf> {
        let host = volume.spec.as_ref()?.host_path.as_ref()?;
        let made = provisioned(volume) && volume.metadata.name.as_deref() == Some(&format!("pvc-{uid}"));
        directory::recorded(self.world.root, Path::new(&host.path), uid).filter(|_| made)
    }
}

/// Whether a volume ends with its claim.
fn reclaimed(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()) == Some("Delete")
}
