//! The server: its parts, and the path of a request from its head to its answer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{Method, Request, Response};
use hyper::body::Body as _;
use parking_lot::Mutex;
use skiff_base::Timestamp;
use skiff_base::clock::SharedClock;
use skiff_base::ids::Ids;
use skiff_kinds::Subresource;
use skiff_kinds::def::Text;
use skiff_object::patch::PatchType;
use skiff_object::{Reason, Status};
use skiff_store::Store;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;

use crate::alloc::Allocators;
use crate::audit::{self, Auditor, Trail};
use crate::authn::{self, Authenticator, impersonate};
use crate::authz::{self, Action, Authorizer};
use crate::call::{Call, UserInfo};
use crate::config::{Config, ServiceAccountKeys};
use crate::encryption::Encryption;
use crate::failure::{Failure, Result, plain};
use crate::flow::{self, Entered, Flow, Flows};
use crate::http::answer::{self, Answer};
use crate::http::body::Body;
use crate::http::limits;
use crate::http::negotiate::{self, Accepted, Offer};
use crate::http::pace::LongRunning;
use crate::http::query::Query;
use crate::http::request::RequestInfo;
use crate::http::turns::Parties;
use crate::identity;
use crate::metrics::{Answered, Metrics};
use crate::openapi::Documents;
use crate::storage::catalogue::{Catalogue, Served};
use crate::storage::hub::Hub;
use crate::{admission, aggregation, bootstrap, custom, discovery, endpoints, files, read, sub, usage, webhook, write};

/// How many requests that take no seats are worked on at a time, watches and tunnels left out; further ones wait.
const MAX_REQUESTS: usize = 1024;
/// How often watchers that want bookmarks get one.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);

/// The API server.
pub struct ApiServer {
    /// What the binary said at the start.
    pub(crate) config: Config,
    /// What is served.
    pub catalogue: Arc<Catalogue>,
    /// The caches' tie to the store.
    pub hub: Arc<Hub>,
    pub(crate) authenticator: Authenticator,
    pub(crate) authorizer: Authorizer,
    pub(crate) allocators: Allocators,
    pub(crate) metrics: Metrics,
    pub(crate) documents: Documents,
    /// Which other servers have which groups.
    pub(crate) aggregator: aggregation::Aggregator,
    /// Connections to webhooks.
    pub(crate) webhooks: webhook::Connections,
    /// What admission has read of the cluster.
    pub(crate) admission: admission::policy::Known,
    /// The built-in plugins of admission.
    pub(crate) plugins: admission::plugins::Plugins,
    /// When the server began.
    pub(crate) started: Timestamp,
    audit_ids: Ids,
    audit: Option<Arc<Auditor>>,
    pub(crate) flows: Flows,
    pub(crate) gathered: usage::Gathered,
    /// What stands between the server and its store, where anything is encrypted.
    pub(crate) encryption: Option<Arc<Encryption>>,
    turns: Semaphore,
    /// Whose connections take turns with whose.
    pub(crate) parties: Arc<Parties>,
    stopping: AtomicBool,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl ApiServer {
    /// Fills the caches, writes what every cluster begins with, and is ready to answer.
    ///
    /// # Errors
    /// The store cannot be read or written, or a key cannot be used.
    pub async fn new(mut config: Config) -> Result<Arc<Self>> {
        let encryption = match &config.encryption {
            Some(settings) => {
                let started = Encryption::start(settings, config.store.clone(), config.clock.clone()).await;
                Some(started.map_err(|why| plain(500, why))?)
            }
            None => None,
        };
        if let Some(encryption) = &encryption {
            config.store = encryption.clone();
        }
        let (catalogue, started) = (Arc::new(Catalogue::new(&config.kinds)), config.clock.now());
        catalogue.add(usage::definitions());
        let allocators = Allocators::new(&config);
        bootstrap::run(&config, &catalogue, &allocators).await?;
        allocators.repair().await?;
        let auditor = config.audit.clone().map(|settings| Auditor::start(settings, config.clock.clone())).transpose();
        let auditor = auditor.map_err(|error| plain(500, format!("the audit log cannot be opened: {error}")))?;
        let (hub, stream) = Hub::start(config.store.clone(), catalogue.clone()).await?;
        let server = Arc::new(Self {
            plugins: admission::plugins::Plugins::new(config.admission.clone()),
            authenticator: Authenticator::new(&config, catalogue.clone())?,
            authorizer: Authorizer::new(&config, catalogue.clone())?,
            allocators,
            hub: hub.clone(),
            catalogue,
            flows: Flows::new(config.flow, config.clock.clone(), Ids::random().next_u64()),
            config,
            metrics: Metrics::default(),
            documents: Documents::default(),
            aggregator: aggregation::Aggregator::default(),
            webhooks: webhook::Connections::default(),
            admission: admission::policy::Known::default(),
            started,
            audit_ids: Ids::random(),
            audit: auditor.map(Arc::new),
            gathered: usage::Gathered::default(),
            encryption,
            turns: Semaphore::new(MAX_REQUESTS),
            parties: Arc::default(),
            stopping: AtomicBool::new(false),
            tasks: Mutex::default(),
        });
        custom::keeper::start(&server).await?;
        aggregation::keeper::start(&server)?;
        let follow = tokio::spawn(hub.clone().run(stream));
        let bookmarks = tokio::spawn(async move {
            loop {
                tokio::time::sleep(BOOKMARK_PERIOD).await;
                hub.bookmark();
            }
        });
        let custom = tokio::spawn(custom::keeper::run(Arc::downgrade(&server)));
        let aggregation = tokio::spawn(aggregation::keeper::run(Arc::downgrade(&server)));
        server.tasks.lock().extend([follow, bookmarks, custom, aggregation]);
        if server.has_files() {
            server.tasks.lock().push(tokio::spawn(files::run(Arc::downgrade(&server))));
        }
        Ok(server)
    }

    /// Checks the types in the expressions of policies from now on, and tells of them in their status. Upstream's
    /// controller manager does this; here it needs what the server has compiled.
    pub fn check_policies(self: &Arc<Self>) {
        let task = tokio::spawn(admission::status::run(Arc::downgrade(self)));
        self.tasks.lock().push(task);
    }

    /// Keeps the objects of priority and fairness, and lets levels borrow seats of each other, from now on.
    pub fn keep_flows(self: &Arc<Self>) {
        if self.flows.is_enabled() {
            let task = tokio::spawn(flow::keeper::run(Arc::downgrade(self)));
            self.tasks.lock().push(task);
        }
    }

    /// Goes by other authorities of clients, as they are said to be now, and tells aggregated servers of them.
    ///
    /// # Errors
    /// There is none, or it cannot be written down.
    pub async fn hold_client_authorities(&self, pem: &str) -> Result<()> {
        let Some(authorities) = &self.config.client_authorities else {
            return Err(plain(500, "the authorities of clients do not change here"));
        };
        authorities.replace(pem).map_err(|why| plain(500, why))?;
        let told: Vec<_> = bootstrap::authentication(&self.config).into_iter().collect();
        bootstrap::publish(&self.config, &self.catalogue, &told).await
    }

    /// Signs and checks the tokens of service accounts by other keys.
    ///
    /// # Errors
    /// One cannot be used.
    pub fn hold_service_account_keys(&self, keys: &ServiceAccountKeys) -> Result<()> {
        self.authenticator.hold_keys(keys).map_err(|why| plain(500, why))
    }

    /// Tells from now on by a lease that the server of this machine is there.
    pub fn keep_identity(self: &Arc<Self>, hostname: String) {
        let task = tokio::spawn(identity::run(Arc::downgrade(self), hostname));
        self.tasks.lock().push(task);
    }

    /// Keeps the `kubernetes` Service to the servers that are there, where others may share the store.
    pub fn keep_endpoints(self: &Arc<Self>) {
        if self.config.shared_store {
            let task = tokio::spawn(endpoints::run(Arc::downgrade(self)));
            self.tasks.lock().push(task);
        }
    }

    /// Ends all watches and ceases to follow the store.
    pub fn stop(&self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        for cache in self.catalogue.snapshot().caches() {
            cache.disconnect();
        }
    }

    /// Ends all watches, so that their clients go elsewhere, and tells that the server is not ready for more.
    pub fn drain(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        for cache in self.catalogue.snapshot().caches() {
            cache.disconnect();
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(crate) fn is_following(&self) -> bool {
        self.hub.is_following()
    }

    pub(crate) fn store(&self) -> &dyn Store {
        self.config.store.as_ref()
    }

    pub(crate) fn clock(&self) -> &SharedClock {
        &self.config.clock
    }

    pub(crate) fn ids(&self) -> &Ids {
        &self.config.ids
    }

    /// Answers one request. In-process callers put their [`UserInfo`] into its extensions.
    pub async fn handle(self: &Arc<Self>, request: Request<Body>) -> Response<Body> {
        self.clone().answering(request).await
    }

    /// The same on the heap: connections keep room for the future of their request while they are idle.
    pub(crate) fn answering(self: Arc<Self>, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move {
            let answering = AssertUnwindSafe(self.answer(request)).catch_unwind();
            answering.await.unwrap_or_else(|panic| {
                let why = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
                tracing::error!(why = why.unwrap_or("unknown"), "a request panicked");
                let text = "This request caused apiserver to panic. Look in the logs for details.";
                answer::failure(Status::failure(500, Reason::InternalError, text).into(), &Accepted::default())
            })
        })
    }

    async fn answer(self: &Arc<Self>, request: Request<Body>) -> Answer {
        let began = self.clock().monotonic();
        let (mut parts, body) = request.into_parts();
        let query = Query::parse(parts.uri.query().unwrap_or(""));
        let info = RequestInfo::parse(&parts.method, parts.uri.path(), &query);
        let audit_id = limits::audit_id(&parts.headers, &self.audit_ids);
        if let Some(auditor) = &self.audit {
            let head = auditor.note(&parts, &audit_id);
            parts.extensions.insert(head);
        }
        let applied = negotiate::content_type(&parts.headers) == PatchType::Apply.media_type();
        let underway = self.metrics.begin(&info);
        let mut answer = self.in_time(&mut parts, body, &query, &info).await;
        drop(underway);
        let took = (!info.is_long_running()).then(|| self.clock().monotonic().saturating_sub(began));
        let (code, size_bytes) = (answer.status().as_u16(), answer.body().size_hint().exact());
        self.metrics.count(&Answered { info: &info, query: &query, applied, code, took, size_bytes });
        limits::finish(&mut answer, &audit_id);
        if info.is_long_running() {
            answer.extensions_mut().insert(LongRunning);
        }
        if let Some(trail) = parts.extensions.remove::<Arc<Trail>>() {
            answer = Box::pin(audit::tell(trail, answer, info.is_long_running())).await;
        }
        if let Some(entered) = parts.extensions.remove::<Entered>() {
            answer = entered.finish(answer, info.is_long_running(), limits::REQUEST_TIMEOUT);
        }
        answer
    }

    /// Answers within the time that the request has; watches and tunnels have all of it.
    async fn in_time(self: &Arc<Self>, parts: &mut Parts, body: Body, query: &Query, info: &RequestInfo) -> Answer {
        // A failure is told in the encoding that the client accepts, or else in JSON for people.
        let unacceptable = |_| Accepted { pretty: true, ..Accepted::default() };
        let plain = negotiate::accepted(&parts.headers, query, Offer::Plain).unwrap_or_else(unacceptable);
        let fail = |failure: Failure| answer::failure(failure, &plain);
        let is_write = is_write(&parts.method);
        let routed = self.route(parts, body, query, info, &plain);
        if info.is_long_running() {
            return routed.await.unwrap_or_else(fail);
        }
        let deadline = match limits::deadline(query, is_write) {
            Ok(deadline) => deadline,
            Err(failure) => return fail(failure),
        };
        match tokio::time::timeout(deadline, routed).await {
            Ok(result) => result.unwrap_or_else(fail),
            Err(_) => {
                let ended = Answered { info, query, applied: false, code: 504, took: None, size_bytes: None };
                self.metrics.terminated(&ended);
                let text = if is_write {
                    "request did not complete within requested timeout - context deadline exceeded"
                } else {
                    "request did not complete within the allotted timeout"
                };
                fail(Status::timeout(text).into())
            }
        }
    }

    async fn route(
        self: &Arc<Self>,
        parts: &mut Parts,
        body: Body,
        query: &Query,
        info: &RequestInfo,
        plain: &Accepted,
    ) -> Result<Answer> {
        let (user, trail) = self.identify(parts, info).await?;
        let _turn = match self.turn(parts, &user, query, info).await {
            Ok(turn) => turn,
            Err(refused) => return Ok(refused),
        };
        let authorized = self.authorize(&user, info).await;
        if let Some(trail) = &trail {
            trail.authorized(&authorized);
        }
        authorized?;
        if let Some(remote) = self.aggregator.server_of(info) {
            return Ok(Box::pin(aggregation::proxy::answer(self, &remote, parts, &user, body)).await);
        }
        if !info.is_resource {
            return discovery::answer(self, parts, query, info).await;
        }
        let Some(served) = self.catalogue.get(&info.group, &info.version, &info.resource) else {
            return self.nothing_there(info);
        };
        check_scope(&served, info)?;
        let is_tunnel = sub::is_tunnel(info);
        check_verb(is_tunnel || parts.method != Method::HEAD)?;
        let accepted = if is_tunnel {
            Accepted::default()
        } else {
            negotiate::accepted(&parts.headers, query, offer_of(&served, info))?
        };
        let call = Call {
            info: info.clone(),
            query: query.clone(),
            headers: std::mem::take(&mut parts.headers),
            accepted,
            user,
            served,
            now: self.clock().now(),
            warnings: Mutex::default(),
            audit: trail,
        };
        if !call.served.def.deprecation.is_empty() {
            call.warn(call.served.def.deprecation.as_ref());
            self.metrics.deprecated(info);
            call.annotate("k8s.io/deprecated", "true");
        }
        let answered = self.dispatch(&call, parts, body).await;
        let mut answer = answered.unwrap_or_else(|failure| answer::failure(failure, plain));
        answer::warn(&mut answer, &call.warnings.lock());
        Ok(answer)
    }

    /// Waits for a request's turn, and notes its flow.
    async fn turn(
        &self,
        parts: &mut Parts,
        user: &UserInfo,
        query: &Query,
        info: &RequestInfo,
    ) -> Result<Turn<'_>, Answer> {
        self.parties.settle(&user.name, info.is_long_running());
        let flow = self.flows.of(&self.catalogue, &self.metrics, user, info);
        let never_waits = flow.as_ref().is_none_or(Flow::is_exempt);
        if let Some(flow) = flow {
            parts.extensions.insert(Entered::new(flow));
        }
        let limit = limits::deadline(query, is_write(&parts.method)).unwrap_or(limits::REQUEST_TIMEOUT);
        let seats = |most| flow::seats_of(&self.catalogue, query, info, most);
        let held = self.flows.enter(parts.extensions.get_mut(), (user, info), seats, limit).await?;
        let waits = never_waits && !info.is_long_running();
        // Closed never: it lives as long as the server does.
        let place = if waits { self.turns.acquire().await.ok() } else { None };
        Ok(Turn { _held: held, _place: place })
    }

    /// Who makes a request, in whose name, and the record of it where one is kept.
    async fn identify(&self, parts: &mut Parts, info: &RequestInfo) -> Result<(Arc<UserInfo>, Option<Arc<Trail>>)> {
        let (auditor, head) = (self.audit.as_ref(), parts.extensions.remove::<audit::Head>());
        let recorded = auditor.zip(head.as_ref());
        let user = match authn::authenticate(self, parts).await {
            Ok(user) => user,
            Err(failure) => {
                if let Some(trail) = recorded.and_then(|(to, head)| to.refused(head, info, &parts.headers)) {
                    parts.extensions.insert(trail);
                }
                return Err(failure);
            }
        };
        let trail = recorded.and_then(|(to, head)| to.begin(head, &user, info));
        if let Some(trail) = &trail {
            parts.extensions.insert(trail.clone());
        }
        let own = trail.is_some().then(|| user.clone());
        let acting = impersonate::apply(self, user, &mut parts.headers).await?;
        if let Some(trail) = trail.as_ref().filter(|_| own.as_ref() != Some(&acting)) {
            trail.impersonated(&acting);
        }
        Ok((Arc::new(acting), trail))
    }

    /// 404, told by a Status below a built-in version, and elsewhere in plain words, as by upstream.
    fn nothing_there(&self, info: &RequestInfo) -> Result<Answer> {
        let snapshot = self.catalogue.snapshot();
        let mut builtin = snapshot.ordered.iter().filter(|served| served.def.inline_schema.is_none());
        if builtin.any(|served| served.def.group == info.group && served.def.version == info.version) {
            return Err(Status::no_such_path().into());
        }
        Ok(discovery::no_page())
    }

    /// Why a user may do something; 403 in upstream's words where they may not.
    pub async fn authorize(&self, user: &UserInfo, info: &RequestInfo) -> Result<String> {
        let action = Action::of(info);
        if let Ok(reason) = authz::require(&self.authorizer, user, &action).await {
            return Ok(reason);
        }
        // What gives the right may be younger than what the caches show.
        self.hub.fresh().await?;
        authz::require(&self.authorizer, user, &action).await
    }

    async fn dispatch(self: &Arc<Self>, call: &Call, parts: &mut Parts, body: Body) -> Result<Answer> {
        let (def, verb) = (&call.served.def, call.info.verb.as_str());
        let subresource = match call.info.subresource.as_str() {
            "" => None,
            name => Some(def.subresource(name).ok_or_else(Status::no_such_path)?),
        };
        match subresource {
            None => {
                check_verb(def.verbs.iter().any(|own| own == verb))?;
                if def.group == usage::GROUP && !def.stored {
                    return Box::pin(usage::answer(self, call)).await;
                }
                if !def.stored {
                    let body = call.read(body).await?;
                    return Box::pin(sub::answer_review(self, call, &body)).await;
                }
            }
            Some(Subresource::Status) => check_verb(matches!(verb, "get" | "update" | "patch"))?,
            Some(Subresource::Scale { .. }) => {
                check_verb(matches!(verb, "get" | "update" | "patch"))?;
                let body = call.read(body).await?;
                return Box::pin(sub::scale::answer(self, call, &body)).await;
            }
            Some(Subresource::Special { name, verbs, .. }) => {
                // Proxies pass every method on.
                check_verb(name == "proxy" || verbs.iter().any(|own| own == verb))?;
                return Box::pin(sub::answer(self, call, parts, body)).await;
            }
        }
        // Each on the heap: else every request would be as large, and moved about as much, as the largest of them.
        match verb {
            "get" => return Box::pin(read::get(self, call)).await,
            "list" => return Box::pin(read::list::list(self, call)).await,
            "watch" => return Box::pin(read::watch::watch(self, call, parts)).await,
            _ => {}
        }
        let body = call.read(body).await?;
        match verb {
            "create" => Box::pin(write::create::create(self, call, &body)).await,
            "update" => Box::pin(write::update::update(self, call, &body)).await,
            "patch" => Box::pin(write::patch::patch(self, call, &body)).await,
            "delete" => Box::pin(write::delete::delete(self, call, &body)).await,
            "deletecollection" => Box::pin(write::delete::collection(self, call, &body)).await,
            _ => check_verb(false).map(|()| unreachable_answer()),
        }
    }
}

/// What a request holds while it is worked on.
struct Turn<'a> {
    _held: flow::Held<'a>,
    _place: Option<SemaphorePermit<'a>>,
}

/// In which forms a request may be answered.
fn offer_of(served: &Served, info: &RequestInfo) -> Offer {
    let only_created = |verbs: &[Text]| matches!(verbs, [only] if only == "create");
    let is_review = match served.def.subresource(&info.subresource) {
        Some(Subresource::Special { verbs, .. }) => only_created(verbs),
        _ => only_created(&served.def.verbs),
    };
    match (is_review, served.def.inline_schema.is_some()) {
        (true, _) => Offer::Review,
        (false, true) => Offer::Custom,
        (false, false) => Offer::Builtin,
    }
}

fn unreachable_answer() -> Answer {
    answer::text(500, "unreachable")
}

/// 405 in upstream's words.
pub(crate) fn check_verb(served: bool) -> Result<()> {
    if served {
        return Ok(());
    }
    let text = "the server does not allow this method on the requested resource";
    let status = Status::failure(405, Reason::MethodNotAllowed, text);
    Err(Failure::from(Status { details: Some(Default::default()), ..status }))
}

/// A path must fit the kind's scope: no namespace for what is cluster-wide, one for a single namespaced object.
fn check_scope(served: &Served, info: &RequestInfo) -> Result<()> {
    let (namespaced, given) = (served.def.is_namespaced(), !info.namespace.is_empty());
    let is_namespace = served.def.plural == "namespaces" && served.def.group.is_empty();
    if !namespaced && given && !is_namespace {
        return Err(Status::no_such_path().into());
    }
    let (named, whole) = (!info.name.is_empty(), info.subresource.is_empty());
    match info.verb.as_str() {
        "update" | "patch" => check_verb(named)?,
        "create" => check_verb(!named || !whole)?,
        _ => {}
    }
    if namespaced && !given {
        if named {
            return Err(Status::no_such_path().into());
        }
        if served.def.stored && info.verb == "create" {
            return check_verb(false);
        }
    }
    Ok(())
}

/// Whether a method changes anything.
pub fn is_write(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}
