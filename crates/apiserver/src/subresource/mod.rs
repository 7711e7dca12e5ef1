//! The parts of objects that have paths of their own, and the resources that answer and keep nothing.

mod eviction;
mod log;
mod pods;
mod reviews;
mod scale;
mod token;

use std::sync::Arc;

use crate::call::{Call, Reply};
use crate::list;
use crate::server::{Place, Server};
use crate::status::{Answer, Failure};
use crate::verb::change::{Change, Part, change};
use crate::verb::{patch, update};
use crate::{intake, object, streaming};

/// Answers a request to a subresource.
pub(crate) async fn serve(server: &Arc<Server>, call: &mut Call, place: Place<'_>, name: &str) -> Answer<Reply> {
    let (resource, target) = place;
    if !resource.subresources().contains(&name) {
        let unsupported = matches!((resource.plural.as_str(), name), ("pods", "proxy" | "ephemeralcontainers"));
        if unsupported {
            let message = format!("pods/{name} is not served in this version");
            return Err(Failure::new(501, "NotImplemented", message));
        }
        return Err(Failure::no_such_path());
    }
    match (name, call.method.as_str()) {
        ("status", "GET" | "HEAD") => list::get(server, call, resource, target),
        ("status", "PUT") => update::replace(server, call, place, Part::Status).await,
        ("status", "PATCH") => patch::of_part(server, call, place, Part::Status).await,
        ("scale", "GET" | "HEAD") => scale::get(server, place),
        ("scale", "PUT" | "PATCH") => scale::change_replicas(server, call, place).await,
        ("binding", "POST") => pods::bind_named(server, call, place).await,
        ("eviction", "POST") => eviction::evict(server, call, place).await,
        ("attach" | "exec" | "portforward", "GET" | "POST") => streaming::open(server, call, place, name),
        ("log", "GET") => log::log(server, call, place).await,
        ("token", "POST") => token::issue(server, call, place),
        ("finalize", "PUT") => finalize(server, call, place).await,
        _ => Err(Failure::method_not_allowed()),
    }
}

/// Answers a request to a resource that keeps nothing.
pub(crate) async fn review(server: &Arc<Server>, call: &mut Call, place: Place<'_>) -> Answer<Reply> {
    if call.method != http::Method::POST || place.1.name.is_some() {
        return Err(Failure::method_not_allowed());
    }
    if place.0.is("", "bindings") {
        return pods::bind(server, call, place).await;
    }
    reviews::answer(server, call, place)
}

/// `namespaces/NAME/finalize`: `spec.finalizers` and nothing else.
async fn finalize(server: &Arc<Server>, call: &mut Call, place: Place<'_>) -> Answer<Reply> {
    let (resource, target) = place;
    let name = target.name.as_deref().unwrap_or_default();
    let body = intake::object(call, resource)?;
    if object::name(&body) != name {
        return Err(Failure::bad_request(format!("the name of the object must be {name}")));
    }
    let how = Change { part: Part::Through("finalize"), applied: false };
    let new = change(server, call, place, how, &mut |_, current| {
        let mut new = current.clone();
        new["spec"]["finalizers"] = body["spec"]["finalizers"].as_array().cloned().unwrap_or_default().into();
        for field in ["resourceVersion", "uid"] {
            let claimed = object::meta(&body, field);
            if !claimed.is_empty() {
                new["metadata"][field] = claimed.into();
            }
        }
        Ok(new)
    })
    .await?;
    let new = new.ok_or_else(|| Failure::not_found(resource, name))?;
    Ok(Reply::Object(200, resource.clone(), new))
}
