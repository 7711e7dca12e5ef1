//! `coracle status`: what runs, and what is not ready and why.

use crate::cli::{Form, Status};
use crate::commands::get::layout;
use crate::commands::say;
use crate::connect::{self, Api, is_not_found};
use crate::data_dir;
use crate::readiness::{self, Baseline, State, World};
use mesh::identity::{OWN_BUNDLE, STATUS_KEY, SYSTEM_NAMESPACE};
use serde_json::{Value, json};
use std::process::ExitCode;

/// The collections that decide whether all is ready.
pub(crate) const WATCHED: &[&str] = &[
    "/apis/apps/v1/deployments",
    "/apis/apps/v1/replicasets",
    "/apis/batch/v1/jobs",
    "/api/v1/pods",
    "/api/v1/persistentvolumeclaims",
    "/apis/gateway.networking.k8s.io/v1/gateways",
    "/apis/gateway.networking.k8s.io/v1/httproutes",
];

pub(crate) async fn run(arguments: Status) -> anyhow::Result<ExitCode> {
    let data = connect::data_of(&arguments.target)?;
    let api = Api::of(&arguments.target).await?;
    let holder = data_dir::running(&data);
    let world = world(&api).await?;
    let alarm = certificates(&api).await?;
    let states = shown(&world);
    let ready = states.iter().all(|(_, state)| *state == State::Ready);
    if arguments.answer.output == Form::Json {
        let objects: Vec<Value> = states.iter().map(|(object, state)| as_json(object, state)).collect();
        say(&json!({ "ready": ready, "api": holder.as_ref().and_then(|h| h.api.clone()),
            "gateway": holder.as_ref().and_then(|h| h.gateway.clone()), "certificates": alarm, "objects": objects })
        .to_string());
    } else {
        print(holder.as_ref(), &states);
        if let Some(alarm) = &alarm {
            say(&format!("\ncertificates: {alarm} (coracle trust status)"));
        }
    }
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// What is wrong with certificates; none where all is well, or where nobody issues any.
pub(crate) async fn certificates(api: &Api) -> anyhow::Result<Option<String>> {
    let map = match api.get(&format!("/api/v1/namespaces/{SYSTEM_NAMESPACE}/configmaps/{OWN_BUNDLE}")).await {
        Err(error) if is_not_found(&error) => return Ok(None),
        map => map?,
    };
    let status: Value = serde_json::from_str(map["data"][STATUS_KEY].as_str().unwrap_or_default()).unwrap_or_default();
    let bad = status["alarm"].as_u64().is_some_and(|alarm| alarm > 0);
    Ok(status["says"].as_str().filter(|_| bad).map(str::to_owned))
}

/// Everything that [`WATCHED`] holds now.
pub(crate) async fn world(api: &Api) -> anyhow::Result<World> {
    let mut world = World::new();
    for path in WATCHED {
        let list = api.get(path).await?;
        let kind = list["kind"].as_str().unwrap_or_default().trim_end_matches("List").to_owned();
        for mut object in list["items"].as_array().cloned().unwrap_or_default() {
            object["kind"] = kind.as_str().into();
            world.insert(readiness::key(&object), object);
        }
    }
    Ok(world)
}

/// The objects that people think of: what is owned by another is left out.
fn shown(world: &World) -> Vec<(&Value, State)> {
    let top = world.values().filter(|o| o["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty));
    top.map(|object| (object, readiness::state_in(object, world, &Baseline::new()))).collect()
}

fn words(state: &State) -> (&'static str, &str) {
    match state {
        State::Ready => ("ready", ""),
        State::Waiting(why) => ("waiting", why),
        State::Failed(why) => ("failed", why),
    }
}

fn as_json(object: &Value, state: &State) -> Value {
    let (word, why) = words(state);
    json!({ "kind": object["kind"], "namespace": object["metadata"]["namespace"], "name": object["metadata"]["name"],
        "state": word, "reason": why })
}

fn print(holder: Option<&data_dir::Holder>, states: &[(&Value, State)]) {
    if let Some(holder) = holder {
        say(&format!("Coracle {} (process {})", env!("CARGO_PKG_VERSION"), holder.pid));
        say(&format!("  API      {}", holder.api.as_deref().unwrap_or("not served yet")));
        say(&format!("  gateway  {}", holder.gateway.as_deref().unwrap_or("none")));
        say("");
    }
    let mut rows = vec![["NAMESPACE", "OBJECT", "STATE", "REASON"].map(str::to_owned).to_vec()];
    for (object, state) in states {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (word, why) = words(state);
        let name = format!("{}/{}", text(&object["kind"]).to_lowercase(), text(&object["metadata"]["name"]));
        rows.push(vec![text(&object["metadata"]["namespace"]), name, word.to_owned(), why.to_owned()]);
    }
    layout(&rows).iter().for_each(|line| say(line));
}
