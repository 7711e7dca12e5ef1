//! The policy that every cluster begins with is put there at the start, and aggregated ClusterRoles show what they come to.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use rules::rbac::bootstrap::{self, Declared, Reconciled};
use rules::rbac::{GROUP, rule};
use serde_json::Value;

use crate::call::Call;
use crate::catalog::Resource;
use crate::object;
use crate::route::Target;
use crate::server::{Place, Server};
use crate::status::{Answer, Failure};
use crate::verb::change::{Change, Part, change};
use crate::verb::{create, delete};

/// How many objects are written at a time: the store commits them together.
const TOGETHER: usize = 32;

/// Puts there what is missing.
pub(crate) async fn install(server: &Arc<Server>) -> Answer<()> {
    let missing = stream::iter(bootstrap::objects()).map(|declared| put(server, declared));
    missing.buffer_unordered(TOGETHER).try_collect::<()>().await?;
    show_aggregated(server).await;
    Ok(())
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
            delete::one(server, &mut call, resource, None, &name, &delete::Options::default()).await?;
            make(server, &mut call, resource, declared.object).await
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

/// Writes the rules of aggregated ClusterRoles into them, for people to see; what is decided does not depend on it.
pub(crate) async fn show_aggregated(server: &Arc<Server>) {
    let Ok(resource) = resource(server, "clusterroles") else { return };
    let names: Vec<String> = server.access.with(|index| index.aggregated().map(|(name, _)| name.to_owned()).collect());
    for name in names {
        let mut call = Call::internal("clusterrole-aggregation-controller", jiff::Timestamp::now());
        let mut come_to = |current: &Value| {
            let mut new = current.clone();
            server.access.with(|index| {
                if let Some((_, rules)) = index.aggregated().find(|(other, _)| *other == name) {
                    new["rules"] = rule::to_value(rules);
                }
            });
            new
        };
        if let Err(failure) = write(server, &mut call, &resource, &name, &mut come_to).await {
            tracing::warn!(role = name, reason = %failure.message, "an aggregated ClusterRole can't be brought up to date");
        }
    }
}
