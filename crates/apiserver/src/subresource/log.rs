//! `pods/log`: what a container wrote, from whoever keeps it.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::ready;
use serde_json::Value;

use crate::body;
use crate::call::{Call, Reply};
use crate::logs::{LogOptions, LogsError};
use crate::object;
use crate::query::Query;
use crate::right::{self, Right};
use crate::server::{Place, Server};
use crate::status::{Answer, Failure};

/// `GET` of `pods/NAME/log`.
pub(super) async fn log(server: &Arc<Server>, call: &Call, (resource, target): Place<'_>) -> Answer<Reply> {
    let name = target.name.as_deref().unwrap_or_default();
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let entry = server.store.get(&resource.key(Some(namespace), name)).0;
    let pod = object::read(resource, &entry.ok_or_else(|| Failure::not_found(resource, name))?)?;
    let mut options = options(&call.query)?;
    let container = container(&pod, options.container.as_deref())?;
    options.container = Some(container.clone());
    let permit = server.stream_permit()?;
    let stream = server.logs.logs(namespace, name, options).await.map_err(|error| match error {
        LogsError::NotFound => {
            Failure::bad_request(format!("container {container:?} in pod {name:?} has no log on this node"))
        }
        LogsError::NotStarted { reason } => {
            Failure::bad_request(format!("container {container:?} in pod {name:?} is waiting to start: {reason}"))
        }
        LogsError::NoPrevious => {
            Failure::bad_request(format!("previous terminated container {container:?} in pod {name:?} not found"))
        }
        LogsError::Io(error) => {
            Failure::internal(format!("reading the log of container {container:?} in pod {name:?}: {error}"))
        }
    })?;
    let stopping = server.stopping.clone();
    let longest = right::lasts(Duration::MAX, &call.user, call.now);
    let mut right = Right::new(server, call, target);
    let lost = Right::new(server, call, target).gone();
    let end = async move {
        tokio::select! {
            _ = tokio::time::timeout(longest, stopping.cancelled()) => {}
            () = lost => {}
        }
    };
    let permitted = stream.take_until(end).take_while(move |_| ready(right.confirm().is_ok()));
    let stream = permitted.map(move |chunk| {
        // The permit lives as long as the stream.
        let _held = &permit;
        chunk
    });
    Ok(Reply::Stream { media: "text/plain; charset=utf-8", body: body::stream(stream) })
}

fn options(query: &Query) -> Answer<LogOptions> {
    let invalid = |field: &str, why: &str| Failure::bad_option("PodLogOptions", field, why);
    let positive = |field: &str, least: i64| -> Answer<Option<i64>> {
        match query.number::<i64>(field)? {
            Some(number) if number < least => {
                let why = format!("Invalid value: {number}: must be greater than or equal to {least}");
                Err(invalid(field, &why))
            }
            number => Ok(number),
        }
    };
    let since_time = match query.get("sinceTime") {
        Some(text) => {
            let parsed = text.parse().map_err(|_| invalid("sinceTime", "Invalid value: not a time of RFC 3339"))?;
            Some(parsed)
        }
        None => None,
    };
    let since_seconds = positive("sinceSeconds", 1)?;
    if since_time.is_some() && since_seconds.is_some() {
        return Err(invalid(
            "sinceSeconds",
            "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
        ));
    }
    Ok(LogOptions {
        container: query.get("container").map(str::to_owned),
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        tail_lines: positive("tailLines", 0)?.and_then(|lines| u64::try_from(lines).ok()),
        since_seconds,
        since_time,
        timestamps: query.flag("timestamps"),
        limit_bytes: positive("limitBytes", 1)?.and_then(|bytes| u64::try_from(bytes).ok()),
    })
}

/// Which container is meant.
fn container(pod: &Value, asked: Option<&str>) -> Answer<String> {
    let names = |field: &str| -> Vec<&str> {
        pod["spec"][field].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect()
    };
    let (containers, init) = (names("containers"), names("initContainers"));
    let pod = object::name(pod);
    match asked {
        Some(asked) if containers.contains(&asked) || init.contains(&asked) => Ok(asked.to_owned()),
        Some(asked) => Err(Failure::bad_request(format!("container {asked} is not valid for pod {pod}"))),
        None => match containers.as_slice() {
            [one] => Ok((*one).to_owned()),
            _ => {
                let mut message = format!(
                    "a container name must be specified for pod {pod}, choose one of: [{}]",
                    containers.join(" ")
                );
                if !init.is_empty() {
                    message += &format!(" or one of the init containers: [{}]", init.join(" "));
                }
                Err(Failure::bad_request(message))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_and_containers() {
        let asked = options(&Query::parse(Some("follow=true&tailLines=5&sinceSeconds=3&timestamps=1&container=a")))
            .expect("options");
        assert!(asked.follow && asked.timestamps && !asked.previous);
        assert_eq!((asked.tail_lines, asked.since_seconds, asked.container.as_deref()), (Some(5), Some(3), Some("a")));
        for wrong in
            ["tailLines=-1", "sinceSeconds=0", "sinceTime=yesterday", "sinceTime=2026-01-01T00:00:00Z&sinceSeconds=1"]
        {
            assert_eq!(options(&Query::parse(Some(wrong))).map_err(|failure| failure.code), Err(422), "{wrong}");
        }
        let pod = json!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "a" }, { "name": "b" }], "initContainers": [{ "name": "i" }] } });
        assert_eq!(container(&pod, Some("i")).as_deref(), Ok("i"));
        assert_eq!(
            container(&pod, Some("x")).map_err(|failure| failure.message),
            Err("container x is not valid for pod p".into())
        );
        let several = container(&pod, None).map_err(|failure| failure.message);
        assert_eq!(
            several,
            Err(
                "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
                    .into()
            )
        );
    }
}
