//! An API client over JSON values, for every kind that the server has.
//!
//! Invariants: an answer is bounded; a refusal keeps the server's own words, its code and its causes.
//! It must not know what the objects mean.

use crate::kinds::{Kinds, Resource};
use crate::object::ObjectId;
use crate::wording::condensed;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use serde_json::{Value, json};

/// The longest answer that is held in memory, bytes.
const ANSWER_LIMIT: usize = 256 * 1024 * 1024;

/// Why a request failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{attempt}: {message}")]
pub struct ApiError {
    /// What was asked: method and path.
    pub attempt: String,
    /// The server's words, or what went wrong on the way.
    pub message: String,
    /// The HTTP status; none when there was no answer.
    pub code: Option<u16>,
    /// The server's reason word (`Conflict`, `Invalid`…); empty when there is none.
    pub reason: String,
    /// Field, reason and message of every cause that the server named.
    pub causes: Vec<Cause>,
}

/// One cause of a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The field, as the server writes it.
    pub field: String,
    /// The cause's reason (`FieldManagerConflict`, `FieldValueInvalid`…).
    pub reason: String,
    /// What is said about it.
    pub message: String,
}

impl ApiError {
    /// Whether the object, its kind or its namespace is not there.
    pub fn is_not_found(&self) -> bool {
        self.code == Some(404)
    }

    /// Whether another write came between, or another manager owns a field.
    pub fn is_conflict(&self) -> bool {
        self.code == Some(409)
    }

    /// Whether other managers own fields that would change.
    pub fn is_ownership_conflict(&self) -> bool {
        self.is_conflict() && self.causes.iter().any(|cause| cause.reason == "FieldManagerConflict")
    }

    fn lost(attempt: &str, error: &dyn std::fmt::Display) -> Self {
        let message = error.to_string();
        Self { attempt: attempt.to_owned(), message, code: None, reason: String::new(), causes: Vec::new() }
    }

    fn from_answer(attempt: &str, code: StatusCode, body: &[u8]) -> Self {
        let status: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let message = match status["message"].as_str() {
            Some(message) => condensed(message),
            None => format!("{code} {}", String::from_utf8_lossy(&body[..body.len().min(1024)])),
        };
        let causes = status["details"]["causes"].as_array().into_iter().flatten();
        let causes = causes.map(|c| Cause {
            field: text(&c["field"]),
            reason: text(&c["reason"]),
            message: condensed(c["message"].as_str().unwrap_or_default()),
        });
        let (code, reason) = (Some(code.as_u16()), text(&status["reason"]));
        Self { attempt: attempt.to_owned(), message, code, reason, causes: causes.collect() }
    }
}

/// How a configuration is applied.
#[derive(Debug, Clone, Copy)]
pub struct ApplyMode<'a> {
    /// The field manager.
    pub manager: &'a str,
    /// Take over what others own.
    pub force: bool,
    /// Ask only.
    pub dry_run: bool,
}

/// A client over JSON values. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
}

impl Api {
    /// Over a client that exists.
    pub fn over(client: kube::Client) -> Self {
        Self { client }
    }

    /// The client below.
    pub fn client(&self) -> &kube::Client {
        &self.client
    }

    /// The kinds that the server has.
    ///
    /// # Errors
    /// When discovery cannot be read.
    pub async fn kinds(&self) -> Result<Kinds, ApiError> {
        const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let core = self.json(Method::GET, "/api", ACCEPT, None);
        let groups = self.json(Method::GET, "/apis", ACCEPT, None);
        let (core, groups) = futures::try_join!(core, groups)?;
        Ok(Kinds::from_discovery(&[core, groups]))
    }

    /// GET as JSON.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.json(Method::GET, path, "application/json", None).await
    }

    /// GET as JSON; nothing where there is nothing.
    ///
    /// # Errors
    /// As the server answers, but 404.
    pub async fn find(&self, path: &str) -> Result<Option<Value>, ApiError> {
        match self.get(path).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// GET as text of at most `limit` bytes: logs.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn text(&self, path: &str, limit: usize) -> Result<String, ApiError> {
        let attempt = format!("GET {}", without_query(path));
        let response = self.send(Method::GET, path, "*/*", None).await?;
        let body = Limited::new(response.into_body(), limit).collect().await;
        let body = body.map_err(|error| ApiError::lost(&attempt, &error))?.to_bytes();
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// GET as text, as far as the first part that is not blank: what is told while it is written. Nothing where there is none.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn first_text(&self, path: &str) -> Result<String, ApiError> {
        let attempt = format!("GET {}", without_query(path));
        let mut body = self.send(Method::GET, path, "*/*", None).await?.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ApiError::lost(&attempt, &error))?;
            let text = frame.data_ref().map(|data| String::from_utf8_lossy(data).into_owned()).unwrap_or_default();
            if !text.trim().is_empty() {
                return Ok(text);
            }
        }
        Ok(String::new())
    }

    /// Server-side apply of a whole object.
    ///
    /// # Errors
    /// As the server answers; ownership conflicts are 409 with causes.
    pub async fn apply(&self, path: &str, object: &Value, mode: ApplyMode<'_>) -> Result<Value, ApiError> {
        self.apply_with(path, object, mode, "Strict").await
    }

    /// The same without regard to fields that the server does not know: they are dropped.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn apply_unchecked(&self, path: &str, object: &Value, mode: ApplyMode<'_>) -> Result<Value, ApiError> {
        self.apply_with(path, object, mode, "Ignore").await
    }

    async fn apply_with(
        &self,
        path: &str,
        object: &Value,
        mode: ApplyMode<'_>,
        validation: &str,
    ) -> Result<Value, ApiError> {
        let dry = if mode.dry_run { "&dryRun=All" } else { "" };
        let (manager, force) = (escape(mode.manager), mode.force);
        let path = format!("{path}?fieldManager={manager}&force={force}&fieldValidation={validation}{dry}");
        self.json(Method::PATCH, &path, "application/json", Some(("application/apply-patch+yaml", object))).await
    }

    /// POST of a new object.
    ///
    /// # Errors
    /// As the server answers; 409 when it is there already.
    pub async fn create(&self, path: &str, object: &Value, manager: &str) -> Result<Value, ApiError> {
        let path = format!("{path}?fieldManager={}", escape(manager));
        self.json(Method::POST, &path, "application/json", Some(("application/json", object))).await
    }

    /// PUT of an object; with a resource version in it, only over that version.
    ///
    /// # Errors
    /// As the server answers; 409 when another write came between.
    pub async fn replace(&self, path: &str, object: &Value, manager: &str) -> Result<Value, ApiError> {
        let path = format!("{path}?fieldManager={}", escape(manager));
        self.json(Method::PUT, &path, "application/json", Some(("application/json", object))).await
    }

    /// Merge patch.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn merge(&self, path: &str, patch: &Value, manager: &str) -> Result<Value, ApiError> {
        let path = format!("{path}?fieldManager={}", escape(manager));
        self.json(Method::PATCH, &path, "application/json", Some(("application/merge-patch+json", patch))).await
    }

    /// DELETE of one object, only while it is this one (by uid). What it owns goes soon after.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn delete(&self, path: &str, uid: &str) -> Result<Value, ApiError> {
        let mut options = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background" });
        if !uid.is_empty() {
            options["preconditions"] = json!({ "uid": uid });
        }
        self.json(Method::DELETE, path, "application/json", Some(("application/json", &options))).await
    }

    /// A page of a list: at most `limit` objects, and where the next begins.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn page(&self, path: &str, query: &str, limit: usize, from: Option<&str>) -> Result<Page, ApiError> {
        let mut path = format!("{path}?limit={limit}");
        if !query.is_empty() {
            path.push_str(&format!("&{query}"));
        }
        if let Some(from) = from {
            path.push_str(&format!("&continue={}", escape(from)));
        }
        let mut list = self.get(&path).await?;
        let (api_version, kind) = (list["apiVersion"].take(), list["kind"].as_str().unwrap_or_default().to_owned());
        let kind = kind.strip_suffix("List").unwrap_or_default().to_owned();
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let next = list["metadata"]["continue"].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let Value::Array(mut items) = list["items"].take() else {
            return Ok(Page { items: Vec::new(), next, version });
        };
        // Items of built-in kinds don't say what they are.
        for item in &mut items {
            if item["kind"].is_null() {
                item["apiVersion"] = api_version.clone();
                item["kind"] = kind.as_str().into();
            }
        }
        Ok(Page { items, next, version })
    }

    /// Every object of a list, page by page.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn list(&self, path: &str, query: &str) -> Result<Vec<Value>, ApiError> {
        let mut all = Vec::new();
        let mut from: Option<String> = None;
        loop {
            let page = self.page(path, query, 500, from.as_deref()).await?;
            all.extend(page.items);
            match page.next {
                Some(next) => from = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// A watch: the event objects (`{"type":…,"object":…}`) in order, until the server ends it.
    ///
    /// # Errors
    /// When the watch cannot begin. Later errors come in the stream.
    pub async fn watch(
        &self,
        path: &str,
        query: &str,
    ) -> Result<impl Stream<Item = Result<Value, ApiError>> + Send + use<>, ApiError> {
        let attempt = format!("watch {path}");
        let path = format!("{path}?watch=true&allowWatchBookmarks=true&{query}");
        let response = self.send(Method::GET, &path, "application/json", None).await?;
        let chunks = Box::pin(response.into_body().into_data_stream());
        Ok(futures::stream::unfold((chunks, Vec::<u8>::new(), attempt), |(mut chunks, mut held, attempt)| async move {
            loop {
                if let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = held.drain(..=end).collect();
                    let event = serde_json::from_slice(&line).map_err(|error| ApiError::lost(&attempt, &error));
                    return Some((event, (chunks, held, attempt)));
                }
                if held.len() > ANSWER_LIMIT {
                    return None;
                }
                match chunks.next().await? {
                    Ok(chunk) => held.extend_from_slice(&chunk),
                    Err(error) => return Some((Err(ApiError::lost(&attempt, &error)), (chunks, held, attempt))),
                }
            }
        }))
    }

    async fn json(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Value, ApiError> {
        let attempt = format!("{method} {}", without_query(path));
        let response = self.send(method, path, accept, body).await?;
        let bytes = read(response).await.map_err(|error| ApiError::lost(&attempt, &error))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| ApiError::lost(&attempt, &format!("the answer is not JSON: {error}")))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<http::Response<Body>, ApiError> {
        let attempt = format!("{method} {}", without_query(path));
        let lost = |error: &dyn std::fmt::Display| ApiError::lost(&attempt, error);
        let mut request = Request::builder().method(method).uri(path).header(header::ACCEPT, accept);
        let bytes = match body {
            Some((content_type, value)) => {
                request = request.header(header::CONTENT_TYPE, content_type);
                serde_json::to_vec(value).map_err(|error| lost(&error))?
            }
            None => Vec::new(),
        };
        let request = request.body(Body::from(bytes)).map_err(|error| lost(&error))?;
        let response = self.client.send(request).await.map_err(|error| lost(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status();
        let bytes = read(response).await.unwrap_or_default();
        Err(ApiError::from_answer(&attempt, code, &bytes))
    }
}

/// A page of a list.
#[derive(Debug)]
pub struct Page {
    /// The objects, each with its apiVersion and kind.
    pub items: Vec<Value>,
    /// Where the next page begins; none after the last.
    pub next: Option<String>,
    /// The resource version of the list.
    pub version: String,
}

/// The path of one object.
pub fn path_of(resource: &Resource, id: &ObjectId) -> String {
    resource.path(Some(&id.namespace), Some(&id.name))
}

/// A query value with everything but letters, digits, `-`, `.`, `_`, `~` escaped.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(byte as char);
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

fn without_query(path: &str) -> &str {
    path.split('?').next().unwrap_or(path)
}

async fn read(response: http::Response<Body>) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Limited::new(response.into_body(), ANSWER_LIMIT).collect().await?.to_bytes())
}
