//! Requests that another server answers: passed on with the server's own certificate and the name of who asks, by which
//! the other believes it. See <https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/>.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, HeaderName, HeaderValue, LOCATION, UPGRADE, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::upgrade::OnUpgrade;
use rustls::ClientConfig;
use skiff_base::cidr::bracketed;

use super::remote::Remote;
use crate::authn::proxy::{self, EXTRA, GROUP, UID, USER};
use crate::call::UserInfo;
use crate::http::answer::{self, Answer};
use crate::http::body::{self, Body};
use crate::http::client;
use crate::serve::PeerAddress;
use crate::server::ApiServer;
use crate::tunnel::{self, pipe};

/// How long connecting and the TLS handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How much is read of what the server itself asks for: OpenAPI documents are the largest.
const ANSWER_LIMIT_BYTES: usize = 32 * 1024 * 1024;
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// Passes a request on and gives the answer; after an upgrade also the bytes of both sides.
pub async fn answer(server: &ApiServer, remote: &Remote, parts: &mut Parts, user: &UserInfo, body: Body) -> Answer {
    if !remote.is_available() {
        return refused(503, "service unavailable");
    }
    let tls = match &remote.tls {
        Ok(tls) => tls,
        Err(why) => return refused(500, why),
    };
    let upgrade = parts.extensions.remove::<OnUpgrade>().filter(|_| pipe::upgrade_of(&parts.headers).is_some());
    let request = match outgoing(parts, user, body) {
        Ok(request) => request,
        Err(error) => return refused(500, &error.to_string()),
    };
    let sent = match upgrade.is_some() {
        true => sent_alone(server, remote, tls, request).await,
        false => sent(server, remote, tls, request).await,
    };
    match sent {
        Ok(response) => passed_back(response, upgrade),
        Err(why) => refused(503, &format!("error trying to reach service: {why}")),
    }
}

/// A failure in plain words, as upstream's proxy has it.
fn refused(code: u16, why: &str) -> Answer {
    let mut answer = answer::text(code, format!("{why}\n"));
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

fn passed_back(mut response: Response<Incoming>, upgrade: Option<OnUpgrade>) -> Answer {
    if response.status().is_redirection() && response.headers().contains_key(LOCATION) {
        return refused(502, "the backend attempted to redirect this request, which is not permitted");
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(ours) = upgrade else {
            return refused(502, "the backend switched protocols, which was not asked for");
        };
        let theirs = hyper::upgrade::on(&mut response);
        tokio::spawn(pipe::join(ours, theirs));
    } else {
        pipe::keep_end_to_end(response.headers_mut());
    }
    response.map(|body| body.map_err(io::Error::other).boxed_unsync())
}

fn outgoing(parts: &Parts, user: &UserInfo, body: Body) -> http::Result<Request<Body>> {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().method(parts.method.clone()).uri(path).version(Version::HTTP_11).body(body)?;
    let headers = request.headers_mut();
    for (name, value) in pipe::end_to_end(&parts.headers) {
        if !proxy::tells_who(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    if let Some(upgrade) = pipe::upgrade_of(&parts.headers) {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, upgrade.clone());
    }
    if !headers.contains_key(HOST)
        && let Some(authority) = parts.uri.authority()
    {
        headers.insert(HOST, HeaderValue::from_str(authority.as_str())?);
    }
    tell_user(headers, user)?;
    tell_way(headers, parts, path)?;
    Ok(request)
}

/// Tells who asks.
fn tell_user(headers: &mut HeaderMap, user: &UserInfo) -> http::Result<()> {
    headers.insert(USER, HeaderValue::from_bytes(user.name.as_bytes())?);
    if !user.uid.is_empty() {
        headers.insert(UID, HeaderValue::from_bytes(user.uid.as_bytes())?);
    }
    for group in &user.groups {
        headers.append(GROUP, HeaderValue::from_bytes(group.as_bytes())?);
    }
    for (key, values) in &user.extra {
        let name = HeaderName::from_bytes(format!("{EXTRA}{}", escaped(key)).as_bytes())?;
        for value in values {
            headers.append(name.clone(), HeaderValue::from_bytes(value.as_bytes())?);
        }
    }
    Ok(())
}

/// A key as part of a header's name: what may not stand there is written as `%XX`.
fn escaped(key: &str) -> String {
    let mut text = String::with_capacity(key.len());
    for byte in key.to_ascii_lowercase().bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("writing to memory cannot fail");
        }
    }
    text
}

/// Tells by which way the request came.
fn tell_way(headers: &mut HeaderMap, parts: &Parts, path: &str) -> http::Result<()> {
    let before = headers.get(FORWARDED_FOR).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let peer = parts.extensions.get::<PeerAddress>().map(|peer| peer.0.ip().to_string());
    let way = before.into_iter().chain(peer).collect::<Vec<_>>().join(", ");
    if !way.is_empty() {
        headers.insert(FORWARDED_FOR, HeaderValue::from_str(&way)?);
    }
    if let Some(host) = headers.get(HOST).cloned() {
        headers.insert(FORWARDED_HOST, host);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
    headers.insert(FORWARDED_URI, HeaderValue::from_str(path)?);
    Ok(())
}

/// What a server answers at a path to this server itself, however it answers.
pub async fn ask(
    server: &ApiServer,
    remote: &Remote,
    tls: &Arc<ClientConfig>,
    path: &str,
    accept: &'static str,
) -> Result<(StatusCode, Bytes), String> {
    let user = UserInfo::new("system:kube-aggregator", &["system:masters"]);
    let mut request = Request::builder().uri(path).header(HOST, remote.host()).header(ACCEPT, accept);
    if let Some(headers) = request.headers_mut() {
        tell_user(headers, &user).map_err(|error| error.to_string())?;
    }
    let request = request.body(body::empty()).map_err(|error| error.to_string())?;
    let response = sent_alone(server, remote, tls, request).await?;
    let code = response.status();
    let bytes = Limited::new(response.into_body(), ANSWER_LIMIT_BYTES).collect().await;
    Ok((code, bytes.map_err(|error| error.to_string())?.to_bytes()))
}

/// Sends a request over a connection that is kept for the next.
async fn sent(
    server: &ApiServer,
    remote: &Remote,
    tls: &Arc<ClientConfig>,
    mut request: Request<Body>,
) -> Result<Response<Incoming>, String> {
    while let Some(mut sender) = remote.take_idle() {
        match sender.try_send_request(request).await {
            Ok(response) => {
                remote.keep_idle(sender);
                return Ok(response);
            }
            // The other side closed the connection before it saw the request: another one is tried.
            Err(mut error) => match error.take_message() {
                Some(unsent) => request = unsent,
                None => return Err(error.into_error().to_string()),
            },
        }
    }
    let mut sender = connect(server, remote, tls).await?;
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    remote.keep_idle(sender);
    Ok(response)
}

/// Sends a request over a connection of its own.
async fn sent_alone(
    server: &ApiServer,
    remote: &Remote,
    tls: &Arc<ClientConfig>,
    request: Request<Body>,
) -> Result<Response<Incoming>, String> {
    let mut sender = connect(server, remote, tls).await?;
    sender.send_request(request).await.map_err(|error| error.to_string())
}

async fn connect(server: &ApiServer, remote: &Remote, tls: &Arc<ClientConfig>) -> Result<SendRequest<Body>, String> {
    let (host, port) = tunnel::endpoint(server, &remote.namespace, &remote.service, remote.port)?;
    let name = remote.host();
    let connecting = client::connect(&host, port, Some((&name, tls.clone())));
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
    connected.map_err(|_| format!("dial tcp {}:{port}: i/o timeout", bracketed(&host)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_told_and_cannot_be_forged() {
        let mut user = UserInfo { uid: "7".into(), ..UserInfo::new("jane", &["dev"]) };
        user.extra.insert("example.com/Scope%".into(), vec!["a".into(), "b".into()]);
        let request =
            Request::builder().uri("https://api:6443/apis/a.io/v1/things?limit=1").header("X-Remote-User", "root");
        let request = request.header("x-remote-extra-x", "y").header("x-remote-group", "system:masters");
        let (parts, ()) = request.header("accept", "application/json").body(()).expect("a request").into_parts();
        let sent = outgoing(&parts, &user, body::empty()).expect("a request");
        let mut shown: Vec<String> =
            sent.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect();
        shown.sort();
        assert_eq!(sent.uri(), "/apis/a.io/v1/things?limit=1");
        let expected = [
            "accept: application/json",
            "host: api:6443",
            "x-forwarded-host: api:6443",
            "x-forwarded-proto: https",
            "x-forwarded-uri: /apis/a.io/v1/things?limit=1",
            "x-remote-extra-example.com%2fscope%25: a",
            "x-remote-extra-example.com%2fscope%25: b",
            "x-remote-group: dev",
            "x-remote-group: system:authenticated",
            "x-remote-uid: 7",
            "x-remote-user: jane",
        ];
        assert_eq!(shown, expected);
    }
}
