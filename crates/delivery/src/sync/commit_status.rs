//! Tells a forge how a commit fares, in GitHub's form: `POST /repos/OWNER/REPO/statuses/SHA`.
//!
//! Invariants: the queue is bounded, and what does not fit is dropped with a warning; a forge that is away holds up nothing.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, header};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::actor::{Stage, Standing};
use super::application::AppId;

/// How many tellings may wait.
const QUEUE: usize = 256;
/// How often one is tried.
const TRIES: u32 = 4;
/// How long one try may take.
const LIMIT: Duration = Duration::from_secs(15);

/// Where commit statuses are told.
#[derive(Clone)]
pub struct Endpoint {
    /// A client of the forge's API, with its base URL and token.
    pub client: kube::Client,
    /// `OWNER/REPO`; where it is not given it is read from each repository's URL.
    pub repository: Option<String>,
}

/// Tells commit statuses. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reporter {
    queue: mpsc::Sender<(String, String, Value)>,
}

/// Makes a reporter, and the work that it hands its tellings to.
pub(crate) fn reporter(endpoint: Endpoint) -> (Reporter, impl Future<Output = ()>, CancellationToken) {
    let (queue, waiting) = mpsc::channel(QUEUE);
    let stop = CancellationToken::new();
    (Reporter { queue }, run(Arc::new(endpoint), waiting, stop.clone()), stop)
}

impl Reporter {
    /// Tells how an application stands.
    pub(crate) fn tell(&self, id: &AppId, standing: &Standing) {
        let Some((repository, sha)) = standing.repositories.first().zip(standing.revisions.first()) else { return };
        let Some(body) = body(id, standing) else { return };
        if self.queue.try_send((repository.clone(), sha.clone(), body)).is_err() {
            tracing::warn!(application = %id, "a commit status was not told: too many wait");
        }
    }
}

/// GitHub's request; none where there is nothing to say.
fn body(id: &AppId, standing: &Standing) -> Option<Value> {
    let state = match standing.stage {
        Stage::Working => "pending",
        Stage::Live => "success",
        Stage::Failed => "failure",
        Stage::Unknown | Stage::Held => return None,
    };
    // GitHub cuts nothing itself: it refuses more than 140 characters.
    let description: String = standing.message.chars().take(140).collect();
    Some(
        json!({ "state": state, "description": description, "context": format!("coracle/{}/{}", id.namespace, id.name) }),
    )
}

/// `OWNER/REPO` of a repository's URL.
fn owner_and_repository(url: &str) -> Option<String> {
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.split_once('/')?.1,
        None => url.split_once(':').map_or(url, |(_, path)| path),
    };
    let path = path.trim_matches('/').trim_end_matches(".git");
    let mut parts = path.rsplit('/');
    let (repository, owner) = (parts.next()?, parts.next()?);
    (!owner.is_empty() && !repository.is_empty()).then(|| format!("{owner}/{repository}"))
}

async fn run(endpoint: Arc<Endpoint>, mut waiting: mpsc::Receiver<(String, String, Value)>, stop: CancellationToken) {
    loop {
        let (url, sha, body) = tokio::select! {
            () = stop.cancelled() => return,
            next = waiting.recv() => match next { Some(next) => next, None => return },
        };
        let Some(repository) = endpoint.repository.clone().or_else(|| owner_and_repository(&url)) else { continue };
        let path = format!("/repos/{repository}/statuses/{sha}");
        for attempt in 1..=TRIES {
            match tokio::time::timeout(LIMIT, post(&endpoint.client, &path, &body)).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) if attempt == TRIES => {
                    tracing::warn!(path, error, "the commit status could not be told")
                }
                Err(_) if attempt == TRIES => tracing::warn!(path, "the commit status could not be told in time"),
                _ => {
                    let pause = Duration::from_millis(500 << attempt);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
        }
    }
}

async fn post(client: &kube::Client, path: &str, body: &Value) -> Result<(), String> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/vnd.github+json")
        .header(header::USER_AGENT, "coracle")
        .body(Body::from(body.to_string().into_bytes()));
    let response = client.send(request.map_err(|error| error.to_string())?).await.map_err(|error| error.to_string())?;
    if response.status().is_success() { Ok(()) } else { Err(format!("the forge answers {}", response.status())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_read_from_urls() {
        for (url, wanted) in [
            ("https://github.com/team/shop.git", Some("team/shop")),
            ("git@github.com:team/shop.git", Some("team/shop")),
            ("ssh://git@host:22/group/sub/shop", Some("sub/shop")),
            ("/srv/git/shop.git", Some("git/shop")),
            ("https://host", None),
        ] {
            assert_eq!(owner_and_repository(url).as_deref(), wanted, "{url}");
        }
    }
}
