//! What follows a write that was done: addresses are let go, definitions take effect, aggregated roles show it.
//!
//! It runs before the write is answered, so that a client which has seen its answer sees the effect too, and in the task of the write, so
//! that it runs though the client hangs up.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;

use crate::call::Origin;
use crate::catalog::Resource;
use crate::definitions;
use crate::object;
use crate::server::Server;

/// `new` is what is stored now (`None`: the object is gone), `old` what was there before.
pub(crate) fn written<'a>(
    server: &'a Arc<Server>,
    origin: Origin,
    resource: &'a Arc<Resource>,
    new: Option<&'a Value>,
    old: Option<&'a Value>,
) -> BoxFuture<'a, ()> {
    // Boxed, because the end of a definition deletes instances, which are writes again.
    Box::pin(async move {
        if resource.is("", "services") {
            let service = new.or(old).unwrap_or(&Value::Null);
            let key = resource.key(Some(object::meta(service, "namespace")), object::name(service));
            server.addresses.settle(&key, || {
                let entry = server.store.get(&key).0?;
                object::read(resource, &entry).ok()
            });
        }
        if resource.is(definitions::GROUP, definitions::PLURAL) {
            server.definitions.refresh(&*server.store, &server.catalog);
            if let Some(definition) = new.filter(|definition| object::is_terminating(definition)) {
                definitions::clean_up(server, object::name(definition)).await;
            }
        }
        // At the start they are all written, and shown once at the end.
        if resource.is(rules::rbac::GROUP, "clusterroles") && origin != Origin::Aggregation && *server.ready.borrow() {
            crate::roles::show_aggregated(server).await;
        }
        if let (Some(custom), None) = (&resource.custom, new)
            && custom.terminating
        {
            definitions::clean_up(server, &custom.definition).await;
        }
    })
}
