//! Calling webhooks: programs of the user's behind a Service or a URL, asked over TLS that is checked against the
//! authority they come with, or the system's where they bring none. Connections are kept and used again; a call that
//! takes too long is given up.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#contacting-the-webhook>.

pub mod remote;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Request, Response};
use http_body_util::Full;
use parking_lot::Mutex;
use serde_json::Value;
use skiff_base::cidr::bracketed;
use skiff_object::meta::Meta;

use crate::http::client::{self, Sender};
use crate::server::ApiServer;
use crate::trust;
use crate::tunnel;

/// The most that an answer may have.
const ANSWER_LIMIT_BYTES: usize = 3 * 1024 * 1024;
/// How many idle connections to one webhook are kept.
const IDLE_LIMIT: usize = 8;
/// How many webhooks' connections are kept at all.
const POOL_LIMIT: usize = 256;
const HTTPS_PORT: u16 = 443;

/// Connections to webhooks that wait for the next call.
#[derive(Default)]
pub struct Connections {
    idle: Mutex<HashMap<String, Vec<Sender>>>,
}

/// Where a webhook listens.
struct Destination {
    /// Under which name its certificate is checked.
    name: String,
    port: u16,
    path: String,
    /// The Service behind which it stands: namespace, name, port.
    service: Option<(String, String, u16)>,
    authority: Vec<u8>,
}

impl Destination {
    /// Reads a `clientConfig`.
    fn of(config: &Value) -> Result<Self, String> {
        let authority = base64::engine::general_purpose::STANDARD.decode(config.str_at(&["caBundle"]));
        let authority = authority.map_err(|error| format!("unable to load root certificates: {error}"))?;
        if let Some(service) = config.get("service").filter(|service| service.is_object()) {
            let (namespace, name) = (service.str_at(&["namespace"]), service.str_at(&["name"]));
            let port = service.int_at(&["port"]).and_then(|port| u16::try_from(port).ok()).unwrap_or(HTTPS_PORT);
            let path = service.str_at(&["path"]);
            return Ok(Self {
                name: format!("{name}.{namespace}.svc"),
                port,
                path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
                service: Some((namespace.to_owned(), name.to_owned(), port)),
                authority,
            });
        }
        let url = config.str_at(&["url"]);
        let parsed: http::Uri = url.parse().map_err(|error| format!("Unparsable URL: {error}"))?;
        let host = parsed.host().ok_or("the URL names no host")?;
        if parsed.scheme_str() != Some("https") {
            return Err("the URL must begin with https".into());
        }
        let path = parsed.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            name: host.trim_matches(['[', ']']).to_owned(),
            port: parsed.port_u16().unwrap_or(HTTPS_PORT),
            path: path.to_owned(),
            service: None,
            authority,
        })
    }

    /// What tells one webhook's connections from another's: a changed authority needs new ones.
    fn key(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.authority);
        let digest: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("{}:{}/{digest}", self.name, self.port)
    }

    fn shown(&self, timeout: Duration) -> String {
        let separator = if self.path.contains('?') { '&' } else { '?' };
        format!("https://{}:{}{}{separator}timeout={}s", bracketed(&self.name), self.port, self.path, timeout.as_secs())
    }
}

/// Posts a review to a webhook and gives its answer; the error is for people.
pub async fn post(server: &ApiServer, config: &Value, review: &Value, timeout: Duration) -> Result<Value, String> {
    let to = Destination::of(config)?;
    let shown = to.shown(timeout);
    let failed = |why: String| format!("failed to call webhook: Post {shown:?}: {why}");
    let called = tokio::time::timeout(timeout, call(server, &to, review, timeout)).await;
    match called {
        Err(_) => Err(failed("context deadline exceeded".into())),
        Ok(Err(why)) => Err(failed(why)),
        Ok(Ok(answer)) => Ok(answer),
    }
}

async fn call(server: &ApiServer, to: &Destination, review: &Value, timeout: Duration) -> Result<Value, String> {
    let body = Bytes::from(review.to_string());
    let key = to.key();
    let kept = server.webhooks.idle.lock().get_mut(&key).and_then(Vec::pop);
    // A kept connection may have been closed meanwhile: then a new one is made.
    let answered = match kept {
        Some(sender) if !sender.is_closed() => exchange(sender, to, body.clone(), timeout).await.ok(),
        _ => None,
    };
    let (answer, sender) = match answered {
        Some(answered) => answered,
        None => exchange(connect(server, to).await?, to, body, timeout).await?,
    };
    if !sender.is_closed() {
        let mut idle = server.webhooks.idle.lock();
        if idle.len() < POOL_LIMIT || idle.contains_key(&key) {
            let waiting = idle.entry(key).or_default();
            if waiting.len() < IDLE_LIMIT {
                waiting.push(sender);
            }
        }
    }
    if !answer.status().is_success() {
        let text = String::from_utf8_lossy(answer.body());
        return Err(format!("an error on the server ({:?}) has prevented the request from succeeding", text.trim()));
    }
    serde_json::from_slice(answer.body()).map_err(|error| format!("couldn't decode the answer: {error}"))
}

async fn exchange(
    sender: Sender,
    to: &Destination,
    body: Bytes,
    timeout: Duration,
) -> Result<(Response<Bytes>, Sender), String> {
    let separator = if to.path.contains('?') { '&' } else { '?' };
    let target = format!("{}{separator}timeout={}s", to.path, timeout.as_secs());
    let request = Request::post(target)
        .header(HOST, format!("{}:{}", bracketed(&to.name), to.port))
        .header(CONTENT_TYPE, "application/json")
        .header(http::header::ACCEPT, "application/json, */*")
        .header(http::header::USER_AGENT, "kube-apiserver-admission")
        .body(Full::new(body))
        .map_err(|error| error.to_string())?;
    client::exchange(sender, request, ANSWER_LIMIT_BYTES).await
}

async fn connect(server: &ApiServer, to: &Destination) -> Result<Sender, String> {
    let (host, port) = match &to.service {
        None => (to.name.clone(), to.port),
        Some((namespace, name, port)) => tunnel::endpoint(server, namespace, name, *port)?,
    };
    let tls = Arc::new(trust::verified(&to.authority, None)?);
    client::connect(&host, port, Some((&to.name, tls))).await
}
