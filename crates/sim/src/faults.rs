//! The way to the server, which is slow, breaks, and ends watches, as a seed has it; until it is told to be well.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use skiff_apiserver::{ApiServer, UserInfo};
use skiff_base::ids::Ids;
use skiff_client::{Body, Client, Transport, TransportError};

/// One request in so many does not arrive.
const LOST: u64 = 40;
/// One answer in so many does not come back, though what was asked for is done.
const UNANSWERED: u64 = 60;
/// One change in so many is refused because somebody else was faster.
const CONFLICTS: u64 = 15;
/// The longest that a request is under way, and that an event of a watch is late.
const LATE_MS: u64 = 200;
/// The longest life of a watch.
const WATCH_SECONDS: u64 = 40;

/// What goes wrong, in all of a run's ways to the server together.
pub struct Faults {
    chance: Ids,
    calm: AtomicBool,
}

impl Faults {
    /// Faults that `seed` decides.
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { chance: Ids::seeded(seed), calm: AtomicBool::new(false) })
    }

    /// From now on all is well.
    pub fn calm(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    /// A number below `limit`.
    pub fn below(&self, limit: u64) -> u64 {
        self.chance.next_u64() % limit.max(1)
    }

    fn strikes(&self, one_in: u64) -> bool {
        !self.calm.load(Ordering::Relaxed) && self.below(one_in) == 0
    }

    fn delay(&self) -> Duration {
        let limit = if self.calm.load(Ordering::Relaxed) { 2 } else { LATE_MS };
        Duration::from_millis(self.below(limit))
    }
}

struct Way {
    server: Arc<ApiServer>,
    user: UserInfo,
    faults: Arc<Faults>,
}

#[async_trait::async_trait]
impl Transport for Way {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, TransportError> {
        let what = format!("{} {}", request.method(), request.uri());
        let lost = |why: &str| TransportError::new(&what, why);
        let method = request.method().clone();
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        tokio::time::sleep(self.faults.delay()).await;
        if self.faults.strikes(LOST) {
            return Err(lost("it was lost on the way"));
        }
        let is_change = method == Method::PUT || method == Method::PATCH;
        if is_change && self.faults.strikes(CONFLICTS) {
            return Ok(conflict());
        }
        let mut request =
            request.map(|body| Full::new(body).map_err(|never: Infallible| match never {}).boxed_unsync());
        request.extensions_mut().insert(self.user.clone());
        let response = self.server.handle(request).await;
        if is_watch {
            return Ok(response.map(|body| short_lived(body, self.faults.clone())));
        }
        tokio::time::sleep(self.faults.delay()).await;
        if self.faults.strikes(UNANSWERED) {
            return Err(lost("its answer was lost"));
        }
        Ok(response)
    }
}

fn conflict() -> Response<Body> {
    let text = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","reason":"Conflict","code":409,"message":"the object has been modified (simulated)"}"#;
    let body = Full::new(Bytes::from_static(text.as_bytes())).map_err(|never: Infallible| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = StatusCode::CONFLICT;
    response
}

/// A watch whose events are late and that ends before long.
fn short_lived(body: Body, faults: Arc<Faults>) -> Body {
    if faults.calm.load(Ordering::Relaxed) {
        return body;
    }
    let end = tokio::time::sleep(Duration::from_secs(1 + faults.below(WATCH_SECONDS)));
    let late = body.into_data_stream().then(move |data| {
        let delay = faults.delay();
        async move {
            tokio::time::sleep(delay).await;
            data.map(Frame::data)
        }
    });
    StreamBody::new(late.take_until(end)).boxed_unsync()
}

/// A client in the name of `user`.
pub fn client(server: &Arc<ApiServer>, faults: &Arc<Faults>, user: &str, groups: &[&str]) -> Client {
    let way = Way { server: server.clone(), user: UserInfo::new(user, groups), faults: faults.clone() };
    Client::new(Arc::new(way), user)
}
