//! What will change, exactly, before anything does.
//!
//! A plan is made by reading: the members of the set, and a server-side dry run of every object that is not certainly
//! applied already. It can be kept in a file and applied later, exactly as it is: every object that it touches is pinned.
//!
//! Invariants: making a plan writes nothing; a plan with problems is not applied; what holds data is never deleted by a
//! plan that nobody confirmed.

mod decide;
mod gather;
pub mod show;

use crate::api::{Api, ApiError};
use crate::applyset::{Contents, Foreign, Set};
use crate::diff::FieldChange;
use crate::object::ObjectId;
use crate::protect::Confirmation;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What stands in a plan's `format`.
pub const FORMAT: &str = "coracle.dev/plan/v1";

/// How a plan is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// The field manager under which the manifests are applied.
    pub manager: String,
    /// Where objects go that name no namespace.
    pub namespace: String,
    /// Whether members that are no longer wanted are deleted.
    pub prune: bool,
    /// Whether all members may go at once.
    pub allow_empty: bool,
    /// Whether objects that belong to another set are taken from it.
    pub take_over: bool,
    /// Protected objects that are to be deleted nevertheless.
    pub confirmed: Vec<Confirmation>,
    /// Ask the server about every object, also about those that are certainly applied already.
    pub ask_all: bool,
    /// Where the manifests are. A set is of one source; empty where it does not matter.
    pub source: String,
    /// How many questions are under way at once.
    pub concurrency: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            manager: "coracle".to_owned(),
            namespace: "default".to_owned(),
            prune: true,
            allow_empty: false,
            take_over: false,
            confirmed: Vec::new(),
            ask_all: false,
            source: String::new(),
            concurrency: 16,
        }
    }
}

/// What happens to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It comes to be.
    Create,
    /// Some of its fields change.
    Change,
    /// It is there and becomes a member of the set.
    Adopt,
    /// It is deleted and made anew, because a field cannot be changed.
    Replace,
    /// It is made under its new name; the old one goes, or is released where it holds data.
    Move,
    /// It is deleted.
    Delete,
    /// Its manifest is gone, and it stays: it is protected.
    Keep,
}

/// What happens to one object, and all that is needed to do it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// What happens.
    pub action: Action,
    /// To which object.
    pub object: ObjectId,
    /// The version in which it is written.
    pub api_version: String,
    /// Its wave.
    #[serde(default)]
    pub wave: i64,
    /// What differs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldChange>,
    /// What it was before, for a move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_from: Option<ObjectId>,
    /// Why it may not be deleted without a confirmation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protected: Option<String>,
    /// What else is to be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The manifest to apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<Value>,
    /// The state that this was planned on; none where there was nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Pin>,
    /// The state of the object that a move comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_pin: Option<Pin>,
}

/// The state of an object that a plan was made on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pin {
    /// Its uid.
    pub uid: String,
    /// Its resource version.
    pub resource_version: String,
    /// The object without what the server keeps for itself and without its status.
    pub state: Value,
}

/// Something that keeps the plan from being applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The object.
    pub object: ObjectId,
    /// What is wrong, and what to do.
    pub message: String,
}

/// What will change.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// [`FORMAT`].
    pub format: String,
    /// The set.
    pub set: Set,
    /// The field manager.
    pub manager: String,
    /// Where the manifests are.
    #[serde(default)]
    pub source: String,
    /// What happens, in order.
    pub changes: Vec<Change>,
    /// How many objects stay as they are.
    pub unchanged: usize,
    /// What keeps the plan from being applied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// Where members were before.
    pub contents: Contents,
    /// The whole set as rendered, for the record.
    pub desired: Vec<Value>,
    /// Confirmed deletions, as they were given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub confirmed: Vec<(String, String)>,
}

impl Plan {
    /// Whether applying it would change anything.
    pub fn is_empty(&self) -> bool {
        self.changes.iter().all(|change| change.action == Action::Keep)
    }

    /// How many objects have the action.
    pub fn count(&self, action: Action) -> usize {
        self.changes.iter().filter(|change| change.action == action).count()
    }

    /// Whether a field changes that somebody else owns.
    pub fn has_conflicts(&self) -> bool {
        self.changes.iter().flat_map(|change| &change.fields).any(|field| field.conflict)
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The API did not answer, or refused what every plan needs.
    #[error("cannot plan: {0}")]
    Api(#[from] ApiError),
    /// The set's name is taken by something else.
    #[error(transparent)]
    Foreign(#[from] Foreign),
    /// The set is the record of the Git sync.
    #[error("the set {set} is no set of yours: {advice}")]
    Synced {
        /// The set.
        set: String,
        /// Whose it is, and what to do.
        advice: String,
    },
    /// The set was made from other manifests.
    #[error(
        "the set {set} was last applied from {is}, not from {wanted}; name another with --set, or take it over with --take-over"
    )]
    OtherSource {
        /// The set.
        set: String,
        /// Where its manifests are.
        is: String,
        /// Where these are.
        wanted: String,
    },
    /// Two manifests are of one object, once both have a namespace.
    #[error("two manifests are of {0}, of which one says its namespace and one gets it; keep one of them")]
    Twice(ObjectId),
    /// Nothing is wanted, and there are members.
    #[error(
        "the manifests are empty, and applying them would delete all {members} objects of the set; say so if that is meant (--allow-empty)"
    )]
    Empty {
        /// How many there are.
        members: usize,
    },
}

/// Plans what it takes until the set is what is desired.
///
/// # Errors
/// See [`PlanError`]. What is wrong with single objects is in [`Plan::problems`].
pub async fn plan(client: kube::Client, desired: Vec<Value>, set: &Set, options: &Options) -> Result<Plan, PlanError> {
    let api = Api::over(client);
    let world = gather::gather(&api, desired, set, options).await?;
    if world.desired.is_empty()
        && world.unknown.is_empty()
        && !world.going.is_empty()
        && options.prune
        && !options.allow_empty
    {
        return Err(PlanError::Empty { members: world.going.len() });
    }
    Ok(decide::decide(world, set, options))
}
