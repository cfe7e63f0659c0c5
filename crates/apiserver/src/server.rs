//! The server: its parts, and the path of a request from its head to its answer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::request::Parts;
use http::{Method, Request, Response};
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_base::ids::Ids;
use skiff_kinds::Subresource;
use skiff_object::{Reason, Status};
use skiff_store::Store;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::alloc::Allocators;
use crate::authn::{self, Authenticator};
use crate::authz::{self, Action, Authorizer};
use crate::call::{Call, UserInfo};
use crate::config::Config;
use crate::failure::{Failure, Result};
use crate::http::answer::{self, Answer};
use crate::http::body::{self, Body};
use crate::http::negotiate::{self, Accepted, Offer};
use crate::http::query::Query;
use crate::http::request::RequestInfo;
use crate::metrics::Metrics;
use crate::openapi::Documents;
use crate::storage::catalogue::{Catalogue, Served};
use crate::storage::hub::Hub;
use crate::{bootstrap, custom, discovery, read, sub, write};

/// How long a request that is no watch and no tunnel may take, as upstream's.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How many requests that are no watch and no tunnel are worked on at a time; further ones wait for their turn.
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
    turns: Semaphore,
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
    pub async fn new(config: Config) -> Result<Arc<Self>> {
        let catalogue = Arc::new(Catalogue::new(&config.kinds));
        let allocators = Allocators::new(&config);
        bootstrap::run(&config, &catalogue, &allocators).await?;
        allocators.repair().await?;
        let (hub, stream) = Hub::start(config.store.clone(), catalogue.clone()).await?;
        let server = Arc::new(Self {
            authenticator: Authenticator::new(&config, catalogue.clone())?,
            authorizer: Authorizer::new(catalogue.clone(), config.authorization),
            allocators,
            hub: hub.clone(),
            catalogue,
            config,
            metrics: Metrics::default(),
            documents: Documents::default(),
            turns: Semaphore::new(MAX_REQUESTS),
            tasks: Mutex::default(),
        });
        custom::keeper::start(&server).await?;
        let follow = tokio::spawn(hub.clone().run(stream));
        let bookmarks = tokio::spawn(async move {
            loop {
                tokio::time::sleep(BOOKMARK_PERIOD).await;
                hub.bookmark();
            }
        });
        let custom = tokio::spawn(custom::keeper::run(Arc::downgrade(&server)));
        server.tasks.lock().extend([follow, bookmarks, custom]);
        Ok(server)
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
        let answering = AssertUnwindSafe(self.answer(request)).catch_unwind();
        answering.await.unwrap_or_else(|panic| {
            let why = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            tracing::error!(why = why.unwrap_or("unknown"), "a request panicked");
            let text = "This request caused apiserver to panic. Look in the logs for details.";
            answer::failure(Status::failure(500, Reason::InternalError, text).into(), &Accepted::default())
        })
    }

    async fn answer(self: &Arc<Self>, request: Request<Body>) -> Answer {
        let (mut parts, body) = request.into_parts();
        let query = Query::parse(parts.uri.query().unwrap_or(""));
        let info = RequestInfo::parse(&parts.method, parts.uri.path(), &query);
        // A failure is told in the encoding that the client accepts, or else in JSON for people.
        let unacceptable = |_| Accepted { pretty: true, ..Accepted::default() };
        let plain = negotiate::accepted(&parts.headers, &query, Offer::Plain).unwrap_or_else(unacceptable);
        let long = info.is_long_running();
        let routed = self.route(&mut parts, body, query, info.clone());
        let in_turn = async {
            // Closed never: it lives as long as the server does.
            let _turn = if long { None } else { Some(self.turns.acquire().await) };
            routed.await
        };
        let result = if long {
            in_turn.await
        } else {
            tokio::time::timeout(REQUEST_TIMEOUT, in_turn)
                .await
                .unwrap_or_else(|_| Err(Status::timeout("request did not complete within the allotted timeout").into()))
        };
        let answer = result.unwrap_or_else(|failure| answer::failure(failure, &plain));
        self.metrics.count(&info, answer.status().as_u16());
        answer
    }

    async fn route(self: &Arc<Self>, parts: &mut Parts, body: Body, query: Query, info: RequestInfo) -> Result<Answer> {
        let user = Arc::new(authn::authenticate(self, parts).await?);
        self.authorize(&user, &info).await?;
        if !info.is_resource {
            return discovery::answer(self, parts, &query, &info);
        }
        let found = self.catalogue.get(&info.group, &info.version, &info.resource);
        let served = found.ok_or_else(Status::no_such_path)?;
        check_scope(&served, &info)?;
        let accepted = if sub::is_tunnel(&info) {
            Accepted::default()
        } else {
            let offer = if served.def.inline_schema.is_some() { Offer::Custom } else { Offer::Builtin };
            negotiate::accepted(&parts.headers, &query, offer)?
        };
        let call = Call {
            info,
            query,
            headers: std::mem::take(&mut parts.headers),
            accepted,
            user,
            served,
            now: self.clock().now(),
            warnings: Mutex::default(),
        };
        let mut answer = self.dispatch(&call, parts, body).await?;
        answer::warn(&mut answer, &call.warnings.lock());
        Ok(answer)
    }

    /// Whether a user may do something; 403 in upstream's words where not.
    pub async fn authorize(&self, user: &UserInfo, info: &RequestInfo) -> Result<()> {
        let action = Action::of(info);
        if authz::require(&self.authorizer, user, &action).is_ok() {
            return Ok(());
        }
        // What gives the right may be younger than what the caches show.
        self.hub.fresh().await?;
        authz::require(&self.authorizer, user, &action)
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
                if !def.stored {
                    let body = body::read(body).await?;
                    return sub::answer_review(self, call, &body).await;
                }
            }
            Some(Subresource::Status) => check_verb(matches!(verb, "get" | "update" | "patch"))?,
            Some(Subresource::Scale { .. }) => {
                check_verb(matches!(verb, "get" | "update" | "patch"))?;
                let body = body::read(body).await?;
                return sub::scale::answer(self, call, &body).await;
            }
            Some(Subresource::Special { name, verbs, .. }) => {
                // Proxies pass every method on.
                check_verb(name == "proxy" || verbs.iter().any(|own| own == verb))?;
                return sub::answer(self, call, parts, body).await;
            }
        }
        match verb {
            "get" => read::get(self, call).await,
            "list" => read::list::list(self, call).await,
            "watch" => read::watch::watch(self, call).await,
            "create" => write::create::create(self, call, &body::read(body).await?).await,
            "update" => write::update::update(self, call, &body::read(body).await?).await,
            "patch" => write::patch::patch(self, call, &body::read(body).await?).await,
            "delete" => write::delete::delete(self, call, &body::read(body).await?).await,
            "deletecollection" => write::delete::collection(self, call, &body::read(body).await?).await,
            _ => check_verb(false).map(|()| unreachable_answer()),
        }
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
    Err(Failure::from(Status::failure(405, Reason::MethodNotAllowed, text)))
}

/// A path must fit the kind's scope: no namespace for what is cluster-wide, one for a single namespaced object.
fn check_scope(served: &Served, info: &RequestInfo) -> Result<()> {
    let (namespaced, given) = (served.def.is_namespaced(), !info.namespace.is_empty());
    let is_namespace = served.def.plural == "namespaces" && served.def.group.is_empty();
    if !namespaced && given && !is_namespace {
        return Err(Status::no_such_path().into());
    }
    if namespaced && !given {
        if !info.name.is_empty() {
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
