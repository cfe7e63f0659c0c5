//! One request's way through the proxy: the table says to whom, the connections say how.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use http::{Method, Request, Response, StatusCode, request};
use http_body_util::{Either, Empty, Full};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::RwLock;
use skiff_base::clock::SharedClock;

use super::annotations::Redirect;
use super::connections::{Connection, Connections, Outgoing};
use super::headers::{Caller, host_of, is_repeatable, prepare_request, prepare_response, wanted_upgrade};
use super::routes::{Route, Routes};
use super::table::bare_host;

/// What is sent to the client: what an endpoint sends, or words of our own.
pub type Answer = Response<Either<Incoming, Full<Bytes>>>;

/// How often one request is tried at most; each endpoint once, and one of them twice, if there are fewer.
const ATTEMPTS: usize = 4;

/// The proxy, for all connections.
pub struct Proxy {
    routes: RwLock<Arc<Routes>>,
    connections: Arc<Connections>,
    clock: SharedClock,
}

/// Why there is no answer of an endpoint.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no endpoint is ready")]
    Nobody,
    #[error("no endpoint can be reached: {0}")]
    Unreachable(std::io::Error),
    #[error("the endpoint did not answer in time")]
    Late,
    #[error("the endpoint broke off: {0}")]
    Broken(hyper::Error),
}

impl Failure {
    fn status(&self) -> StatusCode {
        match self {
            Self::Nobody => StatusCode::SERVICE_UNAVAILABLE,
            Self::Late => StatusCode::GATEWAY_TIMEOUT,
            Self::Unreachable(_) | Self::Broken(_) => StatusCode::BAD_GATEWAY,
        }
    }
}

impl Proxy {
    /// A proxy that knows no route yet.
    pub fn new(clock: SharedClock) -> Self {
        Self { routes: RwLock::default(), connections: Arc::new(Connections::new(clock.clone())), clock }
    }

    /// What it goes by.
    pub fn routes(&self) -> Arc<Routes> {
        self.routes.read().clone()
    }

    /// Goes by these from now on.
    pub fn replace(&self, routes: Routes) {
        *self.routes.write() = Arc::new(routes);
        self.sweep();
    }

    /// Closes connections that nobody will need.
    pub fn sweep(&self) {
        self.connections.sweep(&self.routes().endpoints());
    }

    /// Answers one request.
    pub async fn answer(&self, request: Request<Incoming>, caller: Caller) -> Answer {
        let (parts, body) = request.into_parts();
        let host = host_of(&parts);
        let routes = self.routes();
        let Some(route) = routes.table.find(&host, parts.uri.path()).cloned() else {
            return words(StatusCode::NOT_FOUND, "default backend - 404\n");
        };
        drop(routes);
        if let Some(answer) = redirect(&route, &parts, &host, caller) {
            return answer;
        }
        let line = route.options.logs_access.then(|| line_of(&parts, &host, caller));
        let began = self.clock.monotonic();
        let outcome = self.forward(parts, body, &route, caller).await;
        let answer = outcome.unwrap_or_else(|failure| {
            tracing::warn!(ingress = %route.ingress, host, %failure, "a request was not answered");
            let status = failure.status();
            words(status, &format!("{} {}\n", status.as_u16(), status.canonical_reason().unwrap_or_default()))
        });
        if let Some(line) = line {
            let took = self.clock.monotonic().saturating_sub(began);
            tracing::info!(target: "ingress", ingress = %route.ingress, status = answer.status().as_u16(), ?took, "{line}");
        }
        answer
    }

    async fn forward(
        &self,
        mut parts: request::Parts,
        body: Incoming,
        route: &Route,
        caller: Caller,
    ) -> Result<Answer, Failure> {
        let asks_upgrade = wanted_upgrade(&parts).is_some();
        let client = asks_upgrade.then(|| parts.extensions.remove::<OnUpgrade>()).flatten();
        prepare_request(&mut parts, caller, route.upstream.protocol);
        let body = if body.is_end_stream() { Either::Right(Empty::new()) } else { Either::Left(body) };
        let mut response = self.send(Request::from_parts(parts, body), route).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let endpoint = hyper::upgrade::on(&mut response);
            if let Some(client) = client {
                tokio::spawn(join(client, endpoint));
            }
        }
        let (mut parts, body) = response.into_parts();
        prepare_response(&mut parts);
        Ok(Response::from_parts(parts, Either::Left(body)))
    }

    /// Sends the request to the endpoint whose turn it is; to another one, if that one does not take it.
    async fn send(&self, mut request: Request<Outgoing>, route: &Route) -> Result<Response<Incoming>, Failure> {
        let (upstream, options) = (&route.upstream, &route.options);
        let spare = Spare::of(&request);
        let mut failure = Failure::Nobody;
        let mut may_be_old = true;
        for endpoint in upstream.turn().take(ATTEMPTS.min(upstream.endpoints.len() + 1)) {
            let found = self.connections.get(endpoint, upstream.protocol, may_be_old, options.connect_timeout).await;
            let mut connection = match found {
                Ok(connection) => connection,
                Err(error) => {
                    failure = Failure::Unreachable(error);
                    continue;
                }
            };
            let sent = tokio::time::timeout(options.read_timeout, connection.send(request)).await;
            let mut error = match sent {
                Err(_) => return Err(Failure::Late),
                Ok(Ok(response)) => {
                    if let (Connection::One(sender), true) = (connection, keeps(&response)) {
                        self.connections.give_back(endpoint, sender);
                    }
                    return Ok(response);
                }
                Ok(Err(error)) => error,
            };
            // An old connection may have been closed by the other side in this very moment, and so may the next.
            may_be_old = false;
            let again = error.take_message().or_else(|| spare.as_ref().map(Spare::request));
            failure = Failure::Broken(error.into_error());
            request = match again {
                Some(again) => again,
                None => return Err(failure),
            };
        }
        Err(failure)
    }
}

/// Whether the connection can serve again after this answer.
fn keeps(response: &Response<Incoming>) -> bool {
    response.status() != StatusCode::SWITCHING_PROTOCOLS
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
        let is_short = matches!(request.body(), Either::Right(_));
        (is_short && is_repeatable(request.method())).then(|| Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
        })
    }

    fn request(&self) -> Request<Outgoing> {
        let mut request = Request::new(Either::Right(Empty::new()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// To the same place by TLS, if the Ingress asks for it.
fn redirect(route: &Route, parts: &request::Parts, host: &str, caller: Caller) -> Option<Answer> {
    let is_wanted = match route.options.redirect {
        Redirect::Never => false,
        Redirect::IfTls => route.has_tls,
        Redirect::Always => true,
    };
    if caller.is_tls || !is_wanted {
        return None;
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let place = HeaderValue::from_str(&format!("https://{}{path}", bare_host(host))).ok()?;
    let mut answer = words(StatusCode::PERMANENT_REDIRECT, "308 Permanent Redirect\n");
    answer.headers_mut().insert(LOCATION, place);
    Some(answer)
}

fn line_of(parts: &request::Parts, host: &str, caller: Caller) -> String {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    format!("{} {host} \"{} {path} {:?}\"", caller.address, parts.method, parts.version)
}

fn words(status: StatusCode, text: &str) -> Answer {
    let mut answer = Response::new(Either::Right(Full::new(Bytes::from(text.to_owned()))));
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
