//! A client of an API server: the running Coracle's, found by its data directory, or one in this process.
//!
//! Objects are JSON values here, because the command line works with every kind that the server has.

use crate::cli::{Scope, Target};
use crate::kinds::{Kinds, Resource};
use crate::{data_dir, exit, instances, proxied};
use anyhow::Context;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// The longest answer that is held in memory, bytes.
const ANSWER_LIMIT: usize = 256 * 1024 * 1024;

/// How many different warnings are passed on.
const WARNINGS: usize = 100;

/// The name under which this command line owns fields.
pub(crate) const MANAGER: &str = "coracle";

/// What the server said against a request.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    message: String,
    pub(crate) code: StatusCode,
}

/// An API client over JSON values.
#[derive(Clone)]
pub(crate) struct Api {
    client: kube::Client,
    warned: Arc<Mutex<BTreeSet<String>>>,
}

/// The data directory that a command means: the given one, `./.coracle`, or the only one in use.
pub(crate) fn data_of(target: &Target) -> anyhow::Result<PathBuf> {
    if target.kubeconfig.is_some() || target.context.is_some() {
        let what = "this command is about a Coracle on this machine, which --data names; --kubeconfig and --context name a cluster";
        return Err(exit::bad_input(what));
    }
    if let Some(data) = &target.data {
        return Ok(data.clone());
    }
    let here = PathBuf::from(data_dir::DEFAULT);
    if here.is_dir() {
        return Ok(here);
    }
    let mut running = instances::running();
    match running.len() {
        1 => Ok(running.remove(0)),
        0 => Err(exit::not_running(
            "no Coracle is running here; start one with `coracle up DIR`, or name one with --data",
        )),
        _ => {
            let list: Vec<String> = running.iter().map(|path| format!("  --data {}", path.display())).collect();
            Err(exit::bad_input(format!("several Coracles are running; say which is meant:\n{}", list.join("\n"))))
        }
    }
}

/// The kubeconfig of a Coracle that must be running.
pub(crate) fn kubeconfig_of(target: &Target) -> anyhow::Result<PathBuf> {
    let data = data_of(target)?;
    if data_dir::running(&data).is_none() {
        return Err(exit::not_running(format!(
            "no Coracle is running with the data directory {}; start it with `coracle up` or name another with --data",
            data.display()
        )));
    }
    Ok(data.canonicalize().unwrap_or(data).join("kubeconfig"))
}

/// A client of the API that the command means: of the running Coracle, or of a kubeconfig's cluster where one is named.
pub(crate) async fn client_of(target: &Target) -> anyhow::Result<kube::Client> {
    let named = target.kubeconfig.is_some() || target.context.is_some();
    let path = match &target.kubeconfig {
        Some(path) => Some(path.clone()),
        None if named => None,
        None => Some(kubeconfig_of(target)?),
    };
    let kubeconfig = match &path {
        Some(path) => Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?,
        None => Kubeconfig::read().context("cannot read the kubeconfig")?,
    };
    let options = KubeConfigOptions { context: target.context.clone(), ..KubeConfigOptions::default() };
    let of_cluster = proxy_url(&kubeconfig, target.context.as_deref());
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.context("cannot use the kubeconfig")?;
    // The library heeds no NO_PROXY, and would send even what is on this machine through HTTPS_PROXY.
    config.proxy_url = proxied::proxy_for(&config.cluster_url, of_cluster.as_deref(), |name| std::env::var(name).ok())
        .map_err(exit::bad_input)?;
    kube::Client::try_from(config).context("cannot make an API client")
}

/// The `proxy-url` of the context's cluster.
fn proxy_url(kubeconfig: &Kubeconfig, context: Option<&str>) -> Option<String> {
    let context = context.or(kubeconfig.current_context.as_deref())?;
    let context = kubeconfig.contexts.iter().find(|named| named.name == context)?.context.as_ref()?;
    let cluster = kubeconfig.clusters.iter().find(|named| named.name == context.cluster)?.cluster.as_ref()?;
    cluster.proxy_url.clone().filter(|url| !url.is_empty())
}

/// The namespace that the command means: the given one, else that of the kubeconfig's context.
pub(crate) fn namespace_of(client: &kube::Client, scope: &Scope) -> String {
    scope.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned())
}

impl Api {
    /// The namespace that the command means.
    pub(crate) fn namespace(&self, scope: &Scope) -> String {
        namespace_of(&self.client, scope)
    }

    /// A client of the running Coracle that the command means.
    pub(crate) async fn of(target: &Target) -> anyhow::Result<Self> {
        Ok(Self::over(client_of(target).await?))
    }

    /// A client over one that exists.
    pub(crate) fn over(client: kube::Client) -> Self {
        Self { client, warned: Arc::default() }
    }

    /// The client below.
    pub(crate) fn client(&self) -> &kube::Client {
        &self.client
    }

    /// The kinds that the server has.
    pub(crate) async fn kinds(&self) -> anyhow::Result<Kinds> {
        const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let (core, groups) =
            futures::try_join!(self.get_as("/api", ACCEPT), self.get_as("/apis", ACCEPT)).context("discovery")?;
        Ok(Kinds::from_discovery(&[core, groups]))
    }

    /// GET as JSON.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.get_as(path, "application/json").await
    }

    /// GET with an `Accept` of the caller's.
    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> anyhow::Result<Value> {
        self.json(Method::GET, path, accept, None).await
    }

    /// Server-side apply.
    pub(crate) async fn apply(&self, path: &str, object: &Value, force: bool, dry_run: bool) -> anyhow::Result<Value> {
        let dry = if dry_run { "&dryRun=All" } else { "" };
        let path = format!("{path}?fieldManager={MANAGER}&force={force}&fieldValidation=Strict{dry}");
        self.json(Method::PATCH, &path, "application/json", Some(("application/apply-patch+yaml", object))).await
    }

    /// Strategic merge patch.
    pub(crate) async fn patch(&self, path: &str, patch: &Value) -> anyhow::Result<Value> {
        let body = Some(("application/strategic-merge-patch+json", patch));
        self.json(Method::PATCH, path, "application/json", body).await
    }

    /// Merge patch.
    pub(crate) async fn merge(&self, path: &str, patch: &Value) -> anyhow::Result<Value> {
        let body = Some(("application/merge-patch+json", patch));
        self.json(Method::PATCH, path, "application/json", body).await
    }

    /// DELETE with its options.
    pub(crate) async fn delete(&self, path: &str, options: &Value) -> anyhow::Result<Value> {
        self.json(Method::DELETE, path, "application/json", Some(("application/json", options))).await
    }

    async fn json(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&str, &Value)>,
    ) -> anyhow::Result<Value> {
        let response = self.send(method.clone(), path, accept, body).await?;
        let bytes = read(response).await.with_context(|| format!("{method} {path}"))?;
        serde_json::from_slice(&bytes).with_context(|| format!("{method} {path}: the answer is not JSON"))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&str, &Value)>,
    ) -> anyhow::Result<http::Response<Body>> {
        let attempt = format!("{method} {}", path.split('?').next().unwrap_or(path));
        let mut request = Request::builder().method(method).uri(path).header(header::ACCEPT, accept);
        let bytes = match body {
            Some((content_type, value)) => {
                request = request.header(header::CONTENT_TYPE, content_type);
                serde_json::to_vec(value)?
            }
            None => Vec::new(),
        };
        let response = self.client.send(request.body(Body::from(bytes))?).await.with_context(|| attempt.clone())?;
        if response.status().is_success() {
            self.pass_on_warnings(response.headers());
            return Ok(response);
        }
        let code = response.status();
        let bytes = read(response).await.unwrap_or_default();
        let status: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let message = match status["message"].as_str() {
            Some(message) => delivery::wording::condensed(message),
            None => format!("{code} {}", String::from_utf8_lossy(&bytes)),
        };
        // What is missing says so itself; of the rest it matters what was asked.
        let message = if code == StatusCode::NOT_FOUND { message } else { format!("{attempt}: {message}") };
        Err(Refusal { message, code }.into())
    }

    /// Prints the server's warnings on stderr, each once.
    fn pass_on_warnings(&self, headers: &http::HeaderMap) {
        for value in headers.get_all(header::WARNING) {
            // RFC 9111, 5.5 (of RFC 7234): code, agent, quoted text.
            let text = value.to_str().unwrap_or_default().splitn(3, ' ').nth(2).unwrap_or_default();
            let text = text.trim_matches('"').replace("\\\"", "\"");
            let mut said = self.warned.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if !text.is_empty() && said.len() < WARNINGS && said.insert(text.clone()) {
                eprintln!("{} {text}", crate::colour::error("warning:"));
            }
        }
    }

    /// GET as text.
    pub(crate) async fn text(&self, path: &str) -> anyhow::Result<String> {
        let bytes = read(self.send(Method::GET, path, "*/*", None).await?).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// GET as a stream of chunks, for logs.
    pub(crate) async fn stream(&self, path: &str) -> anyhow::Result<impl Stream<Item = anyhow::Result<Bytes>> + use<>> {
        let response = self.send(Method::GET, path, "*/*", None).await?;
        Ok(response.into_body().into_data_stream().map(|chunk| chunk.map_err(anyhow::Error::from)))
    }

    /// A watch: the event objects (`{"type":…,"object":…}`) in order, until the server ends it.
    pub(crate) async fn watch(
        &self,
        path: &str,
        accept: &str,
    ) -> anyhow::Result<impl Stream<Item = anyhow::Result<Value>> + use<>> {
        let response = self.send(Method::GET, path, accept, None).await?;
        let chunks = Box::pin(response.into_body().into_data_stream());
        Ok(futures::stream::unfold((chunks, Vec::<u8>::new()), |(mut chunks, mut held)| async move {
            loop {
                if let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = held.drain(..=end).collect();
                    let event = serde_json::from_slice(&line).context("a watch event is not JSON");
                    return Some((event, (chunks, held)));
                }
                if held.len() > ANSWER_LIMIT {
                    return None;
                }
                match chunks.next().await? {
                    Ok(chunk) => held.extend_from_slice(&chunk),
                    Err(error) => return Some((Err(error.into()), (chunks, held))),
                }
            }
        }))
    }

    /// Finds a kind by any of its names, with a message that says what to do where there is none.
    pub(crate) async fn resource(&self, name: &str) -> anyhow::Result<Resource> {
        Ok(self.kinds().await?.find(name)?)
    }
}

async fn read(response: http::Response<Body>) -> anyhow::Result<Bytes> {
    let limited = http_body_util::Limited::new(response.into_body(), ANSWER_LIMIT);
    Ok(limited.collect().await.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes())
}

/// Whether the server answered that the object is not there.
pub(crate) fn is_not_found(error: &anyhow::Error) -> bool {
    refused(error) == Some(StatusCode::NOT_FOUND)
}

/// With what the server answered against a request, if it did.
pub(crate) fn refused(error: &anyhow::Error) -> Option<StatusCode> {
    error.downcast_ref::<Refusal>().map(|refusal| refusal.code)
}
