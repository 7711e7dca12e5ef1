//! The server's shared state, and the way every request takes.
//!
//! The steps, in this order: authenticate, route, authorize, read the body, then per verb: decode, validate fields, default,
//! validate, merge, admit, store, encode.
//!
//! Invariant: from where it may change something, a request runs to its end and into the audit trail, though its client hangs up; what
//! runs so is waited for when the server stops.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use store::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::Access;
use crate::addresses::Addresses;
use crate::audit::{Record, Trail};
use crate::body::{Body, BoxError};
use crate::call::{Call, Origin, Reply};
use crate::catalog::{Catalog, Resource};
use crate::config::Settings;
use crate::credential::Credentials;
use crate::definitions::Definitions;
use crate::extra::{self, Pages};
use crate::identity::{self, User};
use crate::impersonation::{self, Asker};
use crate::logs::PodLogs;
use crate::object;
use crate::openapi::Documents;
use crate::policy::Policies;
use crate::query::Query;
use crate::right::Right;
use crate::route::{self, Route, Target};
use crate::sessions::PodSessions;
use crate::shares::Shares;
use crate::status::{Answer, Failure};
use crate::streaming::Upgrade;
use crate::{authorize, discovery, encode, list, openapi, subresource, verb, watch};

/// Everything a request may need.
pub(crate) struct Server {
    pub(crate) settings: Settings,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) catalog: ArcSwap<Catalog>,
    pub(crate) definitions: Definitions,
    pub(crate) credentials: Credentials,
    pub(crate) access: Access,
    pub(crate) trail: Trail,
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) logs: Arc<dyn PodLogs>,
    pub(crate) sessions: Option<Arc<dyn PodSessions>>,
    pub(crate) pages: Option<Arc<dyn Pages>>,
    pub(crate) documents: Documents,
    pub(crate) policies: Policies,
    /// Ends streams.
    pub(crate) stopping: CancellationToken,
    pub(crate) requests: Arc<Semaphore>,
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) session_permits: Arc<Shares>,
    /// The connections that carry streams of containers.
    pub(crate) session_tasks: TaskTracker,
    /// The requests that may change something; no more of them than `requests` allows get beyond their first step.
    pub(crate) writes: TaskTracker,
    pub(crate) ready: tokio::sync::watch::Sender<bool>,
    /// Told whenever somebody may have lost a right.
    pub(crate) losses: tokio::sync::watch::Sender<()>,
}

/// Where a write is to go: the resource, the object's place, and how it is asked for.
pub(crate) type Place<'a> = (&'a Arc<Resource>, &'a Target);

impl Server {
    /// Answers one request. `user` is who sent it when that is known already (in process).
    pub(crate) async fn serve<B>(self: &Arc<Self>, request: Request<B>, user: Option<Arc<User>>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let id = uuid::Uuid::new_v4().to_string();
        let mut record = Record::new(id.clone(), jiff::Timestamp::now());
        let mut response = match self.prepare(request, user, &mut record).await {
            Ok((call, route)) if may_change(&call, &route) => {
                let server = self.clone();
                let apart = self.writes.spawn(async move { server.answer(call, route, record).await });
                apart.await.unwrap_or_else(|error| {
                    tracing::error!(%error, "a request's handling ended unexpectedly");
                    encode::refuse(&Failure::internal("the handling of the request ended unexpectedly"))
                })
            }
            Ok((call, route)) => self.answer(call, route, record).await,
            Err(failure) => {
                self.trail.ended(record, Err(&failure));
                encode::refuse(&failure)
            }
        };
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert("audit-id", id);
        }
        response
    }

    /// Does what is asked, and writes into the trail how it ended.
    async fn answer(self: &Arc<Self>, mut call: Call, route: Route, mut record: Record) -> Response<Body> {
        let answer = Box::pin(self.dispatch(&mut call, route)).await;
        record.is_rehearsal(call.rehearsed);
        self.trail.ended(record, answer.as_ref());
        encode::response(&call, answer)
    }

    /// Authenticates, routes, authorizes, and reads the body.
    async fn prepare<B>(
        &self,
        request: Request<B>,
        user: Option<Arc<User>>,
        record: &mut Record,
    ) -> Answer<(Call, Route)>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut head, body) = request.into_parts();
        let route = route::parse(head.uri.path());
        let now = jiff::Timestamp::now();
        let user = match user {
            Some(user) => Some(user),
            None => {
                let uid = |namespace: &str, name: &str| self.account_uid(namespace, name);
                identity::authenticate(&head.headers, &self.credentials, now, &uid)?.map(Arc::new)
            }
        };
        let text =
            |name: header::HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut query = Query::parse(head.uri.query());
        if matches!(&route, Route::Resource(target) if target.watch) {
            query.set("watch", "true");
        }
        let question = authorize::question(&route, head.uri.path(), &head.method, &query);
        record.asks(&head, &route, &question.attributes(), query.dry_run() == Ok(true));
        record.by(user.as_ref());
        let user = user.unwrap_or_else(|| Arc::new(User::anonymous()));
        let (user, asker) = match impersonation::read(&head.headers)? {
            Some(wanted) => {
                let other = Arc::new(wanted.to_user(user.until));
                record.taken_for(&other);
                let asker = Asker { user, wanted };
                asker.require(&self.access)?;
                (other, Some(Arc::new(asker)))
            }
            None => (user, None),
        };
        let decided = question.require(&self.access, &user);
        record.decided(decided.is_ok());
        decided?;
        let [accept, content_type, user_agent] = [header::ACCEPT, header::CONTENT_TYPE, header::USER_AGENT].map(text);
        let upgrade = head
            .headers
            .contains_key(header::UPGRADE)
            .then(|| Upgrade { connection: head.extensions.remove(), headers: std::mem::take(&mut head.headers) });
        let call = Call {
            user,
            asker,
            origin: Origin::Client,
            rehearsed: false,
            query,
            accept,
            content_type,
            user_agent,
            upgrade,
            body: self.read_body(body).await?,
            method: head.method,
            now,
            warnings: Vec::new(),
        };
        Ok((call, route))
    }

    async fn read_body<B>(&self, body: B) -> Answer<Bytes>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            return Ok(Bytes::new());
        }
        let limits = &self.settings.limits;
        if body.size_hint().lower() > limits.body as u64 {
            return Err(Failure::too_large(limits.body));
        }
        let read = Box::pin(Limited::new(body, limits.body).collect());
        match tokio::time::timeout(limits.body_time, read).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Failure::too_large(limits.body)),
            Ok(Err(error)) => Err(Failure::bad_request(format!("the request's body could not be read: {error}"))),
            Err(_) => Err(Failure::new(408, "Timeout", "the request's body did not arrive in time")),
        }
    }

    async fn dispatch(self: &Arc<Self>, call: &mut Call, route: Route) -> Answer<Reply> {
        if let Route::Resource(target) = route {
            return self.resource(call, target).await;
        }
        if !matches!(call.method, Method::GET | Method::HEAD) {
            return Err(Failure::method_not_allowed());
        }
        let catalog = self.catalog.load_full();
        match route {
            Route::Root => Ok(discovery::root(&catalog)),
            Route::CoreVersions => Ok(discovery::core_versions(&catalog, call)),
            Route::Groups => Ok(discovery::groups(&catalog, call)),
            Route::Group(group) => discovery::group(&catalog, &group),
            Route::GroupVersion(group, version) => discovery::group_version(&catalog, &group, &version),
            Route::Version => Ok(discovery::version()),
            Route::Health(check) => self.health(call, &check),
            Route::OpenApiIndex => Ok(openapi::index(&catalog)),
            Route::OpenApi(path) => self.documents.group(&catalog, &path),
            Route::OpenApiV2 => self.documents.v2(&catalog, call.accept.as_deref()),
            Route::Page(path) => extra::serve(self.pages.as_deref(), call, path).await,
            Route::Unknown | Route::Resource(_) => Err(Failure::no_such_path()),
        }
    }

    async fn resource(self: &Arc<Self>, call: &mut Call, target: Target) -> Answer<Reply> {
        if call.query.get("fieldManager").is_some_and(|name| name.chars().count() > 128) {
            return Err(Failure::bad_option(
                "PatchOptions",
                "fieldManager",
                "Too long: may not be more than 128 bytes",
            ));
        }
        let resource = {
            let catalog = self.catalog.load();
            catalog.get(&target.group, &target.version, &target.resource).cloned().ok_or_else(Failure::no_such_path)?
        };
        if target.namespace.is_some() && !resource.namespaced {
            return Err(Failure::no_such_path());
        }
        let named_without_namespace = target.namespace.is_none() && resource.namespaced && target.name.is_some();
        if named_without_namespace {
            return Err(Failure::no_such_path());
        }
        let watching = call.method == Method::GET && target.subresource.is_none() && call.query.flag("watch");
        if watching {
            let permit = self.stream_permit()?;
            let right = Right::new(self, call, &target);
            let target = watch_target(target, call)?;
            return watch::watch(self, call, &resource, &target, (permit, right));
        }
        let _permit = self
            .requests
            .clone()
            .try_acquire_owned()
            .map_err(|_| Failure::too_many_requests("too many requests are under way; please try again later"))?;
        if let Some(name) = target.subresource.clone() {
            return subresource::serve(self, call, (&resource, &target), &name).await;
        }
        if resource.review {
            return subresource::review(self, call, (&resource, &target)).await;
        }
        match (call.method.as_str(), target.name.is_some()) {
            ("GET" | "HEAD", true) => list::get(self, call, &resource, &target),
            ("GET" | "HEAD", false) => list::list(self, call, &resource, &target),
            ("POST", false) => verb::create::create(self, call, (&resource, &target)).await,
            ("PUT", true) => verb::update::update(self, call, (&resource, &target)).await,
            ("PATCH", true) => verb::patch::patch(self, call, (&resource, &target)).await,
            ("DELETE", true) => verb::delete::delete(self, call, (&resource, &target)).await,
            ("DELETE", false) => verb::delete::collection(self, call, (&resource, &target)).await,
            _ => Err(Failure::method_not_allowed()),
        }
    }

    /// Room for one more watch or log stream.
    pub(crate) fn stream_permit(&self) -> Answer<tokio::sync::OwnedSemaphorePermit> {
        self.streams.clone().try_acquire_owned().map_err(|_| {
            Failure::too_many_requests("too many watches and log streams are open; please try again later")
        })
    }

    fn health(&self, call: &Call, check: &str) -> Answer<Reply> {
        let (path, single) = check.split_once('/').map_or((check, None), |(path, single)| (path, Some(single)));
        let stopping = self.stopping.is_cancelled();
        let mut checks = vec![("ping", true), ("store", self.store.revision() > 0)];
        if path == "readyz" {
            checks.push(("bootstrap", *self.ready.borrow()));
            checks.push(("shutdown", !stopping));
        }
        if let Some(single) = single {
            checks.retain(|(name, _)| *name == single);
            if checks.is_empty() {
                return Err(Failure::no_such_path());
            }
        }
        let good = checks.iter().all(|(_, good)| *good);
        if good && !call.query.has("verbose") {
            return Ok(Reply::Text(200, "ok".into()));
        }
        let lines: String = checks
            .iter()
            .map(|(name, good)| {
                format!("[{}]{name} {}\n", if *good { "+" } else { "-" }, if *good { "ok" } else { "failed" })
            })
            .collect();
        let (code, word) = if good { (200, "passed") } else { (500, "failed") };
        Ok(Reply::Text(code, format!("{lines}{path} check {word}\n")))
    }

    /// The uid of a service account that exists and is not going away.
    pub(crate) fn account_uid(&self, namespace: &str, name: &str) -> Option<String> {
        let catalog = self.catalog.load();
        let resource = catalog.core("serviceaccounts");
        let entry = self.store.get(&resource.key(Some(namespace), name)).0?;
        let account = object::read(resource, &entry).ok()?;
        (!object::is_terminating(&account)).then(|| object::meta(&account, "uid").to_owned())
    }
}

fn may_change(call: &Call, route: &Route) -> bool {
    matches!(route, Route::Resource(_)) && !matches!(call.method, Method::GET | Method::HEAD)
}

/// A watch of a named object is a watch of the collection with that name selected.
fn watch_target(mut target: Target, call: &mut Call) -> Answer<Target> {
    if let Some(name) = target.name.take() {
        if call.query.get("fieldSelector").is_some() {
            return Err(Failure::bad_request("a watch of one object takes no fieldSelector"));
        }
        call.query.set("fieldSelector", &format!("metadata.name={name}"));
    }
    Ok(target)
}
