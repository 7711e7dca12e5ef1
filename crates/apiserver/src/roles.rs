//! The policy that every cluster begins with is put there at the start, and aggregated ClusterRoles show what they come to.

use std::sync::Arc;

use futures::{StreamExt, stream};
use rules::rbac::bootstrap::{self, Declared, Reconciled};
use rules::rbac::{GROUP, rule};
use serde_json::Value;

use crate::call::{Call, Origin};
use crate::catalog::Resource;
use crate::object;
use crate::route::Target;
use crate::server::{Place, Server};
use crate::status::{Answer, Failure};
use crate::verb::change::{Change, Part, change};
use crate::verb::delete::Deleted;
use crate::verb::{create, delete};

/// How many objects are written at a time: the store commits them together.
const TOGETHER: usize = 32;

/// Puts there what is missing. What can't be put there is said: a server that does not start could not be mended.
pub(crate) async fn install(server: &Arc<Server>) {
    let missing = stream::iter(bootstrap::objects()).map(async |declared: Declared| {
        let (plural, name) = (declared.plural, object::name(&declared.object).to_owned());
        if let Err(failure) = put(server, declared).await {
            tracing::error!(
                object = format!("{plural}/{name}"),
                reason = %failure.message,
                "an object that every cluster begins with can't be put in its place, and what it allows may not be allowed; mend or delete \
                 what is there under its name, then start again"
            );
        }
    });
    missing.buffer_unordered(TOGETHER).collect::<()>().await;
    show_aggregated(server).await;
}

fn resource(server: &Server, plural: &str) -> Answer<Arc<Resource>> {
    server.catalog.load().get(GROUP, "v1", plural).cloned().ok_or_else(Failure::no_such_path)
}

async fn put(server: &Arc<Server>, declared: Declared) -> Answer<()> {
    let resource = &resource(server, declared.plural)?;
    let name = object::name(&declared.object).to_owned();
    let mut call = Call::internal("coracle-bootstrap", jiff::Timestamp::now());
    let current = server.store.get(&resource.key(None, &name)).0;
    let current = current.map(|entry| object::read(resource, &entry)).transpose()?;
    match current.as_ref().map(|current| bootstrap::reconcile(&declared, current)) {
        Some(Reconciled::Right) => Ok(()),
        Some(Reconciled::Update(new)) => write(server, &mut call, resource, &name, &mut |_| new.clone()).await,
        Some(Reconciled::Replace) => {
            match delete::one(server, &mut call, resource, None, &name, &delete::Options::default()).await? {
                Deleted::Gone(_) => make(server, &mut call, resource, declared.object).await,
                Deleted::Marked(_) => {
                    let why = "it gives another role and is being deleted, but its finalizers hold it; the start after they are gone makes it anew";
                    Err(Failure::conflict(resource, &name, why))
                }
            }
        }
        None => make(server, &mut call, resource, declared.object).await,
    }
}

async fn make(server: &Arc<Server>, call: &mut Call, resource: &Arc<Resource>, mut object: Value) -> Answer<()> {
    object["apiVersion"] = resource.api_version.as_str().into();
    object["kind"] = resource.kind.as_str().into();
    create::insert(server, call, (resource, &Target::default()), object, false).await.map(|_| ())
}

async fn write(
    server: &Arc<Server>,
    call: &mut Call,
    resource: &Arc<Resource>,
    name: &str,
    new: &mut (dyn FnMut(&Value) -> Value + Send),
) -> Answer<()> {
    let target = Target { name: Some(name.to_owned()), ..Target::default() };
    let place: Place<'_> = (resource, &target);
    let how = Change { part: Part::Whole, applied: false };
    change(server, call, place, how, &mut |_, current| Ok(new(current))).await.map(|_| ())
}

/// Writes the rules of aggregated ClusterRoles into them where they differ, for people to see; what is decided does not depend on it.
pub(crate) async fn show_aggregated(server: &Arc<Server>) {
    let Ok(resource) = &resource(server, "clusterroles") else { return };
    let outdated = stream::iter(server.access.with(|index| index.outdated()));
    let shown = outdated.map(async |name| {
        if let Err(failure) = show(server, resource, &name).await {
            tracing::warn!(role = %name, reason = %failure.message, "an aggregated ClusterRole can't be brought up to date");
        }
    });
    shown.buffer_unordered(TOGETHER).collect::<()>().await;
}

async fn show(server: &Arc<Server>, resource: &Arc<Resource>, name: &str) -> Answer<()> {
    let mut call = Call::internal("clusterrole-aggregation-controller", jiff::Timestamp::now());
    call.origin = Origin::Aggregation;
    let mut come_to = |current: &Value| {
        let mut new = current.clone();
        if let Some(rules) = server.access.with(|index| index.comes_to(name)) {
            new["rules"] = rule::to_value(&rules);
        }
        new
    };
    write(server, &mut call, resource, name, &mut come_to).await
}
