//! Calls from one service of the shop to another, by the address that the platform gives in the environment.

use crate::{Failure, required, server::Call};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(3);
const BODY_LIMIT: usize = 1024 * 1024;

/// Another service, reached through its Service's address.
pub(crate) struct Peer {
    base: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Peer {
    /// Reads the base URL (`http://host:port`) from an environment variable.
    pub(crate) fn from_env(variable: &str) -> Result<Self, Failure> {
        let base = required(variable)?.trim_end_matches('/').to_owned();
        if base.parse::<hyper::Uri>().is_err() || base.contains("$(") {
            return Err(format!("{variable} is {base:?}, which is no URL; is its Service applied?").into());
        }
        Ok(Self { base, client: Client::builder(TokioExecutor::new()).build_http() })
    }

    /// Sends one request on behalf of `cause` and reads the JSON answer.
    pub(crate) async fn call(
        &self,
        cause: &Call,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<(StatusCode, Value), Failure> {
        let url = format!("{}{path}", self.base);
        let mut request = Request::builder().method(method.clone()).uri(&url);
        if !cause.request_id.is_empty() {
            request = request.header("x-request-id", &cause.request_id);
        }
        if let Some(key) = &cause.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request = request.header("content-type", "application/json").body(Full::new(body))?;
        let exchange = async {
            let response = self.client.request(request).await?;
            let status = response.status();
            let bytes = Limited::new(response.into_body(), BODY_LIMIT).collect().await?.to_bytes();
            Ok::<_, Failure>((status, bytes))
        };
        let (status, bytes) = tokio::time::timeout(TIMEOUT, exchange)
            .await
            .map_err(|_| format!("{method} {url}: no answer within {} s", TIMEOUT.as_secs()))?
            .map_err(|error| format!("{method} {url}: {error}"))?;
        Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }
}
