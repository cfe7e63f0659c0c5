//! One request's way through the proxy: the table says to whom, the connections say how.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::{Method, Request, Response, StatusCode, Version, request};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::RwLock;
use skiff_base::clock::SharedClock;
use tokio::sync::Semaphore;

use super::annotations::{Options, Protocol};
use super::bodies::Outgoing;
use super::choice::{Backend, Target};
use super::connections::Connections;
use super::filters::{Filters, Mirror};
use super::headers::{Caller, host_of, is_repeatable, prepare_request, prepare_response, wanted_upgrade};
use super::hosts::bare_host;
use super::line::{self, Home};
use super::quick::Dates;
use super::site::{Route, Routes};
use super::table::Ask;
use super::upstream::Upstream;

/// What is sent to the client: what an endpoint sends, or words of our own.
pub type Answer = Response<Either<line::Answer, Full<Bytes>>>;
/// Words of our own.
pub type Words = Response<Bytes>;

/// How many copies of requests are under way at most; further ones are not made.
const MAX_COPIES: usize = 256;

/// The proxy, for all connections of a thread.
pub struct Proxy {
    routes: Arc<RwLock<Arc<Routes>>>,
    /// Those to endpoints.
    pub connections: Arc<Connections>,
    copies: Arc<Semaphore>,
    /// What time it is.
    pub clock: SharedClock,
    /// And what the date is.
    pub dates: Dates,
}

/// Why there is no answer of an endpoint.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("no endpoint is ready")]
    Nobody,
    #[error("the backend is not there, or not allowed")]
    Refused(StatusCode),
    #[error("no endpoint can be reached: {0}")]
    Unreachable(std::io::Error),
    #[error("the endpoint did not answer in time")]
    Late,
    #[error("the endpoint broke off: {0}")]
    Broken(Box<dyn std::error::Error + Send + Sync>),
}

impl Failure {
    fn status(&self) -> StatusCode {
        match self {
            Self::Nobody => StatusCode::SERVICE_UNAVAILABLE,
            Self::Refused(status) => *status,
            Self::Late => StatusCode::GATEWAY_TIMEOUT,
            Self::Unreachable(_) | Self::Broken(_) => StatusCode::BAD_GATEWAY,
        }
    }
}

impl Proxy {
    /// A proxy that knows no route yet.
    pub fn new(clock: SharedClock) -> Self {
        Self::with(Arc::default(), Arc::new(Semaphore::new(MAX_COPIES)), clock)
    }

    /// One that goes by the same, with connections of its own.
    pub fn beside(&self) -> Self {
        Self::with(self.routes.clone(), self.copies.clone(), self.clock.clone())
    }

    fn with(routes: Arc<RwLock<Arc<Routes>>>, copies: Arc<Semaphore>, clock: SharedClock) -> Self {
        let connections = Arc::new(Connections::new(clock.clone()));
        Self { routes, connections, copies, dates: Dates::new(clock.clone()), clock }
    }

    /// What it goes by.
    pub fn routes(&self) -> Arc<Routes> {
        self.routes.read().clone()
    }

    /// Goes by these from now on, and so do all [beside](Self::beside) it.
    pub fn replace(&self, routes: Routes) {
        *self.routes.write() = Arc::new(routes);
    }

    /// Closes connections that nobody will need.
    pub fn sweep(&self) {
        self.connections.sweep(&self.routes().endpoints());
    }

    /// Answers one request.
    pub async fn answer(self: &Arc<Self>, request: Request<Incoming>, caller: &Caller) -> Answer {
        let (parts, body) = request.into_parts();
        let host = host_of(&parts).to_owned();
        let is_grpc = is_grpc(&parts.headers);
        let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
        let ask = Ask { host: &host, path, query, method: &parts.method, headers: &parts.headers };
        let routes = self.routes();
        let Some(route) = routes.find(caller.port, &ask) else {
            return nowhere(is_grpc).map(ours);
        };
        if let Some(answer) = redirect(route, &parts, &host, caller) {
            return answer.map(ours);
        }
        let target = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let log = Line::of(route, caller, &host, &parts.method, target, parts.version, &self.clock);
        let outcome = match route.options.request_timeout {
            None => self.forward(parts, body, route, &host, caller).await,
            Some(limit) => {
                let forwarded = tokio::time::timeout(limit, self.forward(parts, body, route, &host, caller));
                forwarded.await.unwrap_or(Err(Failure::Late))
            }
        };
        let answer = outcome.unwrap_or_else(|failure| unanswered(route, &host, &failure, is_grpc).map(ours));
        if let Some(log) = log {
            log.write(route, answer.status(), &self.clock);
        }
        answer
    }

    async fn forward(
        self: &Arc<Self>,
        mut parts: request::Parts,
        body: Incoming,
        route: &Route,
        host: &str,
        caller: &Caller,
    ) -> Result<Answer, Failure> {
        let (backend, upstream) = whose_turn(route)?;
        let asks_upgrade = wanted_upgrade(&parts).is_some();
        let client = asks_upgrade.then(|| parts.extensions.remove::<OnUpgrade>()).flatten();
        prepare(&mut parts, route, host, caller, upstream.protocol);
        backend.filters.request.apply(&mut parts.headers);
        let body = if body.is_end_stream() { Outgoing::Nothing } else { Outgoing::Whole(body) };
        let body = self.copy(&parts, body, route);
        let mut response = self.send(Request::from_parts(parts, body), upstream, &route.options).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let endpoint = hyper::upgrade::on(&mut response);
            if let Some(client) = client {
                tokio::spawn(join(client, endpoint));
            }
        }
        let (mut parts, body) = response.into_parts();
        prepare_response(&mut parts);
        backend.filters.response.apply(&mut parts.headers);
        route.filters.response.apply(&mut parts.headers);
        Ok(Response::from_parts(parts, Either::Left(body)))
    }

    /// Sends copies to those who get some; what comes back is the body to go on with.
    fn copy(self: &Arc<Self>, parts: &request::Parts, body: Outgoing, route: &Route) -> Outgoing {
        let due: Vec<&Mirror> = route.filters.mirrors.iter().filter(|mirror| mirror.is_due()).collect();
        let (body, copies) = body.with_copies(due.len());
        for (mirror, copy) in due.into_iter().zip(copies) {
            let Ok(permit) = self.copies.clone().try_acquire_owned() else { continue };
            let request = as_sent(&parts.method, &parts.uri, parts.version, &parts.headers, copy);
            let (proxy, upstream, options) = (self.clone(), mirror.upstream.clone(), route.options.clone());
            tokio::spawn(async move {
                let listen = async {
                    match proxy.send(request, &upstream, &options).await {
                        Ok(answer) => {
                            let mut body = answer.into_body();
                            while let Some(Ok(_)) = body.frame().await {}
                        }
                        Err(failure) => tracing::debug!(%failure, "a copy of a request was not answered"),
                    }
                };
                if tokio::time::timeout(options.read_timeout, listen).await.is_err() {
                    tracing::debug!("a copy of a request was not answered in time");
                }
                drop(permit);
            });
        }
        body
    }

    /// Sends the request to the endpoint whose turn it is; to another one, if that one does not take it.
    async fn send(
        &self,
        mut request: Request<Outgoing>,
        upstream: &Upstream,
        options: &Options,
    ) -> Result<Response<line::Answer>, Failure> {
        let spare = Spare::of(&request);
        let mut failure = Failure::Nobody;
        let mut may_be_old = true;
        for endpoint in upstream.tries() {
            let found = self.connections.get(endpoint, upstream.protocol, may_be_old, options.connect_timeout).await;
            let connection = match found {
                Ok(connection) => connection,
                Err(error) => {
                    failure = Failure::Unreachable(error);
                    continue;
                }
            };
            let home = Home { all: self.connections.clone(), endpoint };
            let sent = tokio::time::timeout(options.read_timeout, connection.send(request, home)).await;
            let mut error = match sent {
                Err(_) => return Err(Failure::Late),
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => error,
            };
            // An old connection may have been closed by the other side in this very moment, and so may the next.
            may_be_old = false;
            let again = error.take_message().or_else(|| spare.as_ref().map(Spare::request));
            failure = Failure::Broken(error.into_error().into());
            request = match again {
                Some(again) => again,
                None => return Err(failure),
            };
        }
        Err(failure)
    }
}

/// Who answers the next request of a route.
pub fn whose_turn(route: &Route) -> Result<(&Backend, &Upstream), Failure> {
    let nobody = || Failure::Refused(StatusCode::INTERNAL_SERVER_ERROR);
    let backend = route.choice.turn().and_then(|at| route.choice.backend(at)).ok_or_else(nobody)?;
    match &backend.target {
        Target::Upstream(upstream) => Ok((backend, upstream.as_ref())),
        Target::Refused(status) => Err(Failure::Refused(*status)),
    }
}

/// Makes the client's request one of ours, with what the route does to it.
fn prepare(parts: &mut request::Parts, route: &Route, host: &str, caller: &Caller, protocol: Protocol) {
    let Filters { request, rewrite, .. } = route.filters.as_ref();
    let target = rewrite.as_ref().and_then(|rewrite| rewrite.target(&parts.uri, &route.prefix));
    let hostname = rewrite.as_ref().and_then(|rewrite| rewrite.hostname.as_deref());
    prepare_request(parts, host, caller, protocol, hostname);
    if let Some(target) = target {
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        uri.path_and_query = Some(target);
        // It had a path before, and so is whole again.
        parts.uri = http::Uri::from_parts(uri).unwrap_or_default();
    }
    request.apply(&mut parts.headers);
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/grpc"))
}

/// A request that may be sent again, should it be lost: one that changes nothing more the second time, with no body,
/// which would be gone.
struct Spare {
    method: Method,
    uri: http::Uri,
    version: http::Version,
    headers: http::HeaderMap,
}

impl Spare {
    fn of(request: &Request<Outgoing>) -> Option<Self> {
        let is_short = matches!(request.body(), Outgoing::Nothing);
        (is_short && is_repeatable(request.method())).then(|| Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
        })
    }

    fn request(&self) -> Request<Outgoing> {
        as_sent(&self.method, &self.uri, self.version, &self.headers, Outgoing::Nothing)
    }
}

fn as_sent(
    method: &Method,
    uri: &http::Uri,
    version: http::Version,
    headers: &HeaderMap,
    body: Outgoing,
) -> Request<Outgoing> {
    let mut request = Request::new(body);
    *request.method_mut() = method.clone();
    *request.uri_mut() = uri.clone();
    *request.version_mut() = version;
    *request.headers_mut() = headers.clone();
    request
}

/// Elsewhere, if the route says so: to the same place by TLS, or to another one.
fn redirect(route: &Route, parts: &request::Parts, host: &str, caller: &Caller) -> Option<Words> {
    let (status, place) = if route.to_tls && !caller.is_tls {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        (StatusCode::PERMANENT_REDIRECT, format!("https://{}{path}", bare_host(host)))
    } else {
        let redirection = route.filters.redirect.as_ref()?;
        (redirection.status, redirection.location(&parts.uri, host, caller, &route.prefix))
    };
    let place = HeaderValue::from_str(&place).ok()?;
    let text = format!("{} {}\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let mut answer = words(status, &text);
    answer.headers_mut().insert(LOCATION, place);
    route.filters.response.apply(answer.headers_mut());
    Some(answer)
}

/// The answer where no route leads anywhere.
pub fn nowhere(is_grpc: bool) -> Words {
    refusal(StatusCode::NOT_FOUND, "default backend - 404\n", is_grpc)
}

/// The answer where no endpoint has given one, which is told.
pub fn unanswered(route: &Route, host: &str, failure: &Failure, is_grpc: bool) -> Words {
    tracing::warn!(route = %route.owner, host, %failure, "a request was not answered");
    let status = failure.status();
    let text = format!("{} {}\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
    refusal(status, &text, is_grpc)
}

/// No answer of an endpoint, in the words of the protocol that the client speaks.
fn refusal(status: StatusCode, text: &str, is_grpc: bool) -> Words {
    /// The codes of gRPC for what is not there, came too late, and cannot be had now.
    const CODES: [u8; 3] = [12, 4, 14];
    if !is_grpc {
        return words(status, text);
    }
    let code = match status {
        StatusCode::NOT_FOUND => CODES[0],
        StatusCode::GATEWAY_TIMEOUT => CODES[1],
        _ => CODES[2],
    };
    let mut answer = Words::default();
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from(u16::from(code)));
    if let Ok(text) = HeaderValue::from_str(text.trim_end()) {
        headers.insert(HeaderName::from_static("grpc-message"), text);
    }
    answer
}

/// A line of the access log that is begun.
pub struct Line {
    text: String,
    began: Duration,
}

impl Line {
    /// The line of a request, if the route wants one.
    pub fn of(
        route: &Route,
        caller: &Caller,
        host: &str,
        method: &Method,
        target: &str,
        version: Version,
        clock: &SharedClock,
    ) -> Option<Self> {
        route.options.logs_access.then(|| Self {
            text: format!("{} {host} \"{method} {target} {version:?}\"", caller.address),
            began: clock.monotonic(),
        })
    }

    /// Writes it, when the answer is known.
    pub fn write(self, route: &Route, status: StatusCode, clock: &SharedClock) {
        let took = clock.monotonic().saturating_sub(self.began);
        tracing::info!(target: "ingress", route = %route.owner, status = status.as_u16(), ?took, "{}", self.text);
    }
}

fn ours(text: Bytes) -> Either<line::Answer, Full<Bytes>> {
    Either::Right(Full::new(text))
}

fn words(status: StatusCode, text: &str) -> Words {
    let mut answer = Response::new(Bytes::from(text.to_owned()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// How long both sides may take to agree that they speak something else now.
const UPGRADE_PATIENCE: Duration = Duration::from_secs(10);

/// Carries bytes between a client and an endpoint that speak something else from now on.
async fn join(client: OnUpgrade, endpoint: OnUpgrade) {
    let both = async { tokio::try_join!(client, endpoint) };
    let outcome = match tokio::time::timeout(UPGRADE_PATIENCE, both).await {
        Ok(Ok((client, endpoint))) => {
            let (mut client, mut endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
            tokio::io::copy_bidirectional(&mut client, &mut endpoint).await.map(drop)
        }
        Ok(Err(error)) => Err(std::io::Error::other(error)),
        Err(late) => Err(late.into()),
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "an upgraded connection broke");
    }
}
