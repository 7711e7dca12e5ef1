//! Reads what a plan is decided on: the members of the set, and what the server makes of every manifest.
//!
//! Members are listed page by page; one whose manifest is certainly applied (see [`fields::is_applied`]) is counted and
//! forgotten, so that a plan without changes costs one list for every kind and holds one page at a time.

use super::{Options, PlanError};
use crate::api::{Api, ApiError, ApplyMode, path_of};
use crate::applyset::{Contents, PART_OF, SOURCE, Set, split_group_kind};
use crate::fields;
use crate::kinds::{Kinds, Resource};
use crate::object::{self, ObjectId};
use crate::ownership::{self, Owner};
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Objects in a page of members.
const PAGE: usize = 500;

/// What the server makes of a manifest.
#[derive(Debug)]
pub(super) enum Answer {
    /// It would become this. `conflicts` are the fields that would have to be taken over.
    Accepted { result: Value, conflicts: Vec<String> },
    /// It would be refused, because a field cannot be changed.
    Immutable(String),
    /// It cannot be asked yet: the namespace or the definition comes with this very plan.
    TooEarly(&'static str),
    /// It would be refused.
    Refused(String),
}

/// A manifest that is not certainly applied already.
#[derive(Debug)]
pub(super) struct Asked {
    /// Index into [`World::desired`].
    pub(super) index: usize,
    pub(super) live: Option<Value>,
    pub(super) answer: Answer,
}

/// Everything that the decision needs.
#[derive(Debug, Default)]
pub(super) struct World {
    /// The manifests with namespace and label, in order.
    pub(super) desired: Vec<Value>,
    pub(super) asked: Vec<Asked>,
    pub(super) unchanged: usize,
    /// Members that nobody wants any more.
    pub(super) going: Vec<Value>,
    /// Why some of those hold data, beyond what they say themselves.
    pub(super) holding: BTreeMap<ObjectId, String>,
    /// Where members were before.
    pub(super) contents: Contents,
    /// Manifests of kinds that nobody knows.
    pub(super) unknown: Vec<ObjectId>,
    /// Who keeps what is in other sets, by the sets' ids.
    pub(super) owners: BTreeMap<String, Owner>,
}

pub(super) async fn gather(api: &Api, desired: Vec<Value>, set: &Set, options: &Options) -> Result<World, PlanError> {
    let path = set.path();
    let (kinds, parent) = futures::try_join!(api.kinds(), api.find(&path))?;
    if let Some(Owner::Sync(owner)) = parent.as_ref().map(ownership::of_record) {
        return Err(PlanError::Synced { set: set.name.clone(), advice: owner.advice() });
    }
    if let Some(is) = parent.as_ref().and_then(|parent| object::annotation(parent, SOURCE))
        && !options.source.is_empty()
        && is != options.source
        && !options.take_over
    {
        return Err(PlanError::OtherSource {
            set: set.name.clone(),
            is: is.to_owned(),
            wanted: options.source.clone(),
        });
    }
    let before = parent.map(|parent| set.contents(&parent)).transpose()?;
    let mut world = World { contents: before.clone().unwrap_or_default(), ..World::default() };
    let coming = Coming::of(&desired);
    for mut object in desired {
        let resource = kinds.of(object::api_version(&object), object::kind(&object));
        let namespaced = match resource {
            Some(resource) => resource.namespaced,
            None => match coming.kinds.get(&kind_key(&object)) {
                Some(namespaced) => *namespaced,
                None => {
                    world.unknown.push(ObjectId::of(&object));
                    continue;
                }
            },
        };
        place(&mut object, namespaced, &options.namespace);
        object::metadata_map(&mut object, "labels").insert(PART_OF.to_owned(), set.id().into());
        world.desired.push(object);
    }
    crate::order::sort(&mut world.desired);
    let index: HashMap<ObjectId, usize> =
        world.desired.iter().enumerate().map(|(index, object)| (ObjectId::of(object), index)).collect();
    if index.len() < world.desired.len() {
        let mut ids: Vec<ObjectId> = world.desired.iter().map(ObjectId::of).collect();
        ids.sort();
        let twice = ids.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone());
        return Err(PlanError::Twice(twice.unwrap_or_else(|| ObjectId::of(&world.desired[0]))));
    }
    let mut seen = vec![None; world.desired.len()];
    if before.is_some() {
        let wanted = Contents::of(set, index.keys());
        members(api, &kinds, set, &wanted.union(&world.contents), options, &index, &mut world, &mut seen).await?;
    }
    world.unchanged = seen.iter().filter(|seen| matches!(seen, Some(Seen::Applied))).count();
    ask(api, &kinds, &coming, options, &mut world, seen).await?;
    let others = world.asked.iter().filter_map(|asked| object::label(asked.live.as_ref()?, PART_OF));
    let others = others.filter(|id| *id != set.id()).map(str::to_owned).collect();
    world.owners = ownership::of_sets(api, &others).await?;
    for object in &world.going {
        if let Some(why) = super::decide::holds_data(api, &kinds, object).await? {
            world.holding.insert(ObjectId::of(object), why);
        }
    }
    Ok(world)
}

/// What this plan itself brings: namespaces, and kinds (with whether they are namespaced).
struct Coming {
    namespaces: BTreeSet<String>,
    kinds: BTreeMap<(String, String), bool>,
}

impl Coming {
    fn of(desired: &[Value]) -> Self {
        let mut coming = Self { namespaces: BTreeSet::new(), kinds: BTreeMap::new() };
        for object in desired {
            match (object::group(object), object::kind(object)) {
                ("", "Namespace") => drop(coming.namespaces.insert(object::name(object).to_owned())),
                ("apiextensions.k8s.io", "CustomResourceDefinition") => {
                    let spec = &object["spec"];
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    let key = (text(&spec["group"]), text(&spec["names"]["kind"]));
                    coming.kinds.insert(key, spec["scope"] == "Namespaced");
                }
                _ => {}
            }
        }
        coming
    }
}

fn kind_key(object: &Value) -> (String, String) {
    (object::group(object).to_owned(), object::kind(object).to_owned())
}

/// Gives a namespaced object a namespace, and takes it from one that has none.
fn place(object: &mut Value, namespaced: bool, default: &str) {
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(serde_json::Map::new());
    }
    let empty = object::namespace(object).is_empty();
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    match (namespaced, empty) {
        (true, true) => drop(metadata.insert("namespace".to_owned(), default.into())),
        (false, _) => drop(metadata.remove("namespace")),
        (true, false) => {}
    }
}

/// What was seen of a manifest among the members.
#[derive(Debug, Clone)]
enum Seen {
    Applied,
    Other(Box<Value>),
}

#[allow(clippy::too_many_arguments, reason = "one list of members, and what is filled by it")]
async fn members(
    api: &Api,
    kinds: &Kinds,
    set: &Set,
    contents: &Contents,
    options: &Options,
    index: &HashMap<ObjectId, usize>,
    world: &mut World,
    seen: &mut [Option<Seen>],
) -> Result<(), PlanError> {
    let query = format!("labelSelector={}", crate::api::escape(&format!("{PART_OF}={}", set.id())));
    for (resource, namespace) in collections(kinds, contents, &world.desired) {
        let path = resource.path(namespace, None);
        let mut from: Option<String> = None;
        loop {
            let page = match api.page(&path, &query, PAGE, from.as_deref()).await {
                Ok(page) => page,
                // The kind went away, and its objects with it.
                Err(error) if error.is_not_found() => break,
                Err(error) => return Err(error.into()),
            };
            for live in page.items {
                match index.get(&ObjectId::of(&live)) {
                    Some(&at)
                        if !options.ask_all && fields::is_applied(&world.desired[at], &live, &options.manager) =>
                    {
                        seen[at] = Some(Seen::Applied);
                    }
                    Some(&at) => seen[at] = Some(Seen::Other(Box::new(live))),
                    None if is_going(&live, set) => world.going.push(live),
                    None => {}
                }
            }
            match page.next {
                Some(next) => from = Some(next),
                None => break,
            }
        }
    }
    Ok(())
}

/// The collections that may hold members: each kind in each namespace, in the version of the manifests where there are any.
fn collections<'a>(
    kinds: &'a Kinds,
    contents: &'a Contents,
    desired: &[Value],
) -> Vec<(&'a Resource, Option<&'a str>)> {
    let versions: BTreeMap<(String, String), &str> =
        desired.iter().map(|object| (kind_key(object), object::api_version(object))).collect();
    let mut found = Vec::new();
    for group_kind in &contents.kinds {
        let (group, kind) = split_group_kind(group_kind);
        let version = versions.get(&(group.to_owned(), kind.to_owned()));
        let resource = version.and_then(|version| kinds.of(version, kind)).or_else(|| kinds.of_group(group, kind));
        let Some(resource) = resource.filter(|resource| resource.can("list")) else { continue };
        if resource.namespaced {
            found.extend(contents.namespaces.iter().map(|namespace| (resource, Some(namespace.as_str()))));
        } else {
            found.push((resource, None));
        }
    }
    found
}

/// Whether a member without a manifest is ours to delete: not what a controller made and labelled like its owner, and
/// not what is going already.
fn is_going(live: &Value, set: &Set) -> bool {
    let owned =
        live["metadata"]["ownerReferences"].as_array().is_some_and(|all| all.iter().any(|o| o["controller"] == true));
    let parent = object::name(live) == set.name
        && object::namespace(live) == set.namespace
        && object::kind(live) == set.parent.kind();
    !owned && !parent && live["metadata"]["deletionTimestamp"].is_null()
}

/// Asks the server about every manifest that is not applied.
async fn ask(
    api: &Api,
    kinds: &Kinds,
    coming: &Coming,
    options: &Options,
    world: &mut World,
    seen: Vec<Option<Seen>>,
) -> Result<(), PlanError> {
    let desired = &world.desired;
    let open = seen.into_iter().enumerate().filter_map(|(index, seen)| match seen {
        Some(Seen::Applied) => None,
        Some(Seen::Other(live)) => Some((index, Some(*live))),
        None => Some((index, None)),
    });
    let questions = open.map(|(index, live)| async move {
        let object = &desired[index];
        let Some(resource) = kinds.of(object::api_version(object), object::kind(object)) else {
            let answer = Answer::TooEarly("its definition comes with this plan");
            return Ok::<_, ApiError>(Asked { index, live, answer });
        };
        let path = path_of(resource, &ObjectId::of(object));
        let live = match live {
            Some(live) => Some(live),
            None => api.find(&path).await?,
        };
        let answer = rehearse(api, &path, object, live.is_some(), coming, &options.manager).await?;
        // The last write of a run that was killed may come between the two questions.
        if live.is_none()
            && matches!(&answer, Answer::Refused(said) if said.contains("already exists"))
            && let Some(live) = api.find(&path).await?
        {
            let answer = rehearse(api, &path, object, true, coming, &options.manager).await?;
            return Ok(Asked { index, live: Some(live), answer });
        }
        Ok(Asked { index, live, answer })
    });
    let mut asked: Vec<Asked> =
        futures::stream::iter(questions).buffer_unordered(options.concurrency.max(1)).try_collect().await?;
    asked.sort_by_key(|asked| asked.index);
    world.asked = asked;
    Ok(())
}

/// A dry run of one manifest. Only what no plan can do without is an error.
async fn rehearse(
    api: &Api,
    path: &str,
    object: &Value,
    there: bool,
    coming: &Coming,
    manager: &str,
) -> Result<Answer, ApiError> {
    let mode = ApplyMode { manager, force: false, dry_run: true };
    let error = match api.apply(path, object, mode).await {
        Ok(result) => return Ok(Answer::Accepted { result, conflicts: Vec::new() }),
        Err(error) => error,
    };
    if error.code.is_none() || error.code == Some(401) {
        return Err(error);
    }
    if error.is_ownership_conflict() {
        let conflicts = error.causes.iter().map(|cause| cause.field.clone()).collect();
        return Ok(match api.apply(path, object, ApplyMode { force: true, ..mode }).await {
            Ok(result) => Answer::Accepted { result, conflicts },
            Err(error) => refusal(&error, there),
        });
    }
    if error.is_not_found() && coming.namespaces.contains(object::namespace(object)) {
        return Ok(Answer::TooEarly("its namespace comes with this plan"));
    }
    Ok(refusal(&error, there))
}

fn refusal(error: &ApiError, there: bool) -> Answer {
    let fixed = |text: &str| {
        text.contains("immutable")
            || text.contains("may not be changed")
            || text.contains("updates to statefulset spec")
            || text.contains("Forbidden: updates to")
            || text.contains("pod updates may not change")
    };
    if there && error.code == Some(422) && fixed(&error.message) {
        return Answer::Immutable(error.message.clone());
    }
    Answer::Refused(error.message.clone())
}
