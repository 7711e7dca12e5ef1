//! Keeps a sink equal to a collection of the API: list once, then watch.
//!
//! Invariants:
//! - The sink gets every change in the order of revisions, and a whole replacement where that order was lost (the watch fell
//!   too far behind).
//! - Failures are tried again after a growing pause; the loop ends only with its token.
//! - No period: an idle collection costs one watch request every few minutes.

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use http::header::{ACCEPT, HeaderValue};
use kube::api::{ListParams, ObjectList, WatchEvent, WatchParams};
use kube::core::Request;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

const PAGE: u32 = 500;
/// How long one watch request lasts at most. The protocol wants it to be finite so that lost connections are noticed.
const WATCH_SECONDS: u32 = 290;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Failures in a row that are not worth a warning: the server may be about to start.
const QUIET_FAILURES: u32 = 4;
/// Failed watches in a row after which the collection is listed anew.
const WATCH_ATTEMPTS: u32 = 5;

/// Where a collection goes.
pub(crate) trait Sink<T>: Send + Sync {
    /// All there is, at a revision.
    fn replace(&self, items: Vec<T>, revision: u64);
    /// An object was made or changed.
    fn apply(&self, item: T);
    /// An object was deleted; its last state, stamped with the revision of the deletion.
    fn remove(&self, item: T);
    /// Nothing else happened up to this revision.
    fn progress(&self, revision: u64);
}

/// What a reflector needs to read of an object itself.
pub(crate) trait Revisioned {
    fn revision(&self) -> Option<&str>;
}

impl<K: kube::Resource> Revisioned for K {
    fn revision(&self) -> Option<&str> {
        self.meta().resource_version.as_deref()
    }
}

/// Which collection, and how much of each object is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Path of the collection, such as `/api/v1/pods`.
    pub(crate) path: String,
    pub(crate) fields: Option<String>,
    /// Ask for metadata alone. A server that can't answers with whole objects, which works as well.
    pub(crate) metadata_only: bool,
}

/// A revision as a number; 0 for what isn't one.
pub(crate) fn number(revision: &str) -> u64 {
    revision.parse().unwrap_or(0)
}

enum Ended {
    /// The stream ended in order: watch on from where it ended.
    Clean,
    /// The revision is too old: list again.
    Expired,
    Failed(String),
}

/// Reflects until the token is cancelled.
pub(crate) async fn reflect<T, S>(client: &kube::Client, source: &Source, sink: &S, shutdown: &CancellationToken)
where
    T: DeserializeOwned + Clone + Debug + Revisioned + Send + 'static,
    S: Sink<T>,
{
    let work = async {
        let mut failures = 0;
        loop {
            match list::<T>(client, source).await {
                Ok((items, revision)) => {
                    failures = 0;
                    let number = number(&revision);
                    sink.replace(items, number);
                    watch_until_expired(client, source, sink, revision).await;
                }
                Err(error) => {
                    if failures < QUIET_FAILURES {
                        tracing::debug!(path = %source.path, %error, "could not list yet, trying again");
                    } else {
                        tracing::warn!(path = %source.path, %error, "could not list, trying again");
                    }
                    pause(&mut failures).await;
                }
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

async fn pause(failures: &mut u32) {
    let length = FIRST_PAUSE.saturating_mul(1 << (*failures).min(16)).min(LONGEST_PAUSE);
    *failures = failures.saturating_add(1);
    tokio::time::sleep(length.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
}

async fn list<T>(client: &kube::Client, source: &Source) -> Result<(Vec<T>, String), kube::Error>
where
    T: DeserializeOwned + Clone + Debug,
{
    let mut items = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let mut params = ListParams::default().limit(PAGE);
        params.field_selector.clone_from(&source.fields);
        params.continue_token = token.take();
        let mut request = Request::new(source.path.as_str()).list(&params).map_err(kube::Error::BuildRequest)?;
        if source.metadata_only {
            request.headers_mut().insert(
                ACCEPT,
                HeaderValue::from_static(
                    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
                ),
            );
        }
        let page: ObjectList<T> = client.request(request).await?;
        items.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(next) => token = Some(next),
            None => return Ok((items, page.metadata.resource_version.unwrap_or_default())),
        }
    }
}

async fn watch_until_expired<T, S>(client: &kube::Client, source: &Source, sink: &S, mut revision: String)
where
    T: DeserializeOwned + Clone + Debug + Revisioned + Send + 'static,
    S: Sink<T>,
{
    let mut failures = 0;
    loop {
        let started = tokio::time::Instant::now();
        match watch(client, source, sink, &mut revision).await {
            Ended::Expired => return,
            // A server that ends watches at once must not be asked in a tight loop.
            Ended::Clean if started.elapsed() > Duration::from_secs(1) => failures = 0,
            Ended::Clean => pause(&mut failures).await,
            Ended::Failed(error) => {
                if started.elapsed() > LONGEST_PAUSE {
                    failures = 0;
                }
                tracing::debug!(path = %source.path, %error, "watch failed");
                if failures >= WATCH_ATTEMPTS {
                    tracing::warn!(path = %source.path, %error, "watch keeps failing, listing again");
                    pause(&mut failures).await;
                    return;
                }
                pause(&mut failures).await;
            }
        }
    }
}

async fn watch<T, S>(client: &kube::Client, source: &Source, sink: &S, revision: &mut String) -> Ended
where
    T: DeserializeOwned + Clone + Debug + Revisioned + Send + 'static,
    S: Sink<T>,
{
    let mut params = WatchParams::default().timeout(WATCH_SECONDS);
    params.field_selector.clone_from(&source.fields);
    let mut request = match Request::new(source.path.as_str()).watch(&params, revision) {
        Ok(request) => request,
        Err(error) => return Ended::Failed(error.to_string()),
    };
    if source.metadata_only {
        request.headers_mut().insert(
            ACCEPT,
            HeaderValue::from_static("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"),
        );
    }
    let stream = match client.request_events::<T>(request).await {
        Ok(stream) => stream,
        Err(error) => return ended(error),
    };
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(WatchEvent::Added(item) | WatchEvent::Modified(item)) => {
                keep(revision, item.revision());
                sink.apply(item);
            }
            Ok(WatchEvent::Deleted(item)) => {
                keep(revision, item.revision());
                sink.remove(item);
            }
            Ok(WatchEvent::Bookmark(bookmark)) => {
                keep(revision, Some(&bookmark.metadata.resource_version));
                sink.progress(number(revision));
            }
            Ok(WatchEvent::Error(status)) => return ended(kube::Error::Api(status)),
            Err(error) => return ended(error),
        }
    }
    Ended::Clean
}

fn keep(revision: &mut String, seen: Option<&str>) {
    if let Some(seen) = seen
        && !seen.is_empty()
    {
        revision.clear();
        revision.push_str(seen);
    }
}

fn ended(error: kube::Error) -> Ended {
    match &error {
        kube::Error::Api(status) if status.code == 410 => Ended::Expired,
        _ => Ended::Failed(error.to_string()),
    }
}
