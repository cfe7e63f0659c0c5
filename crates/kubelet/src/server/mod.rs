//! The kubelet API: logs, exec, attach, port-forward, Pods, health and figures, for the API server and for those it allows.

pub mod auth;
mod logs;
mod stats;
mod tunnel;
pub mod volumes;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use skiff_cri::ExecSyncRequest;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use self::auth::{Guard, User};
use crate::agent::Workers;
use crate::observe::observe;
use crate::pod::types::{ContainerView, RunState};
use crate::worker::Mailbox;

/// How long a client has for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The pause after a failed accept, such as for want of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A response's body, which may go on for as long as a log is followed.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Where and how the kubelet API is served.
pub struct ServerConfig {
    /// The socket, bound already.
    pub listener: TcpListener,
    /// The server's certificate; it must ask for client certificates and accept only those that it can verify.
    pub tls: Arc<rustls::ServerConfig>,
    /// The common names of client certificates that may ask for anything; of others the API server is asked.
    pub allowed_names: Vec<String>,
}

impl ServerConfig {
    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.listener.local_addr().as_ref().map_or(crate::kubelet::DEFAULT_PORT, SocketAddr::port)
    }
}

/// Serves until the task is ended.
pub async fn serve(config: ServerConfig, workers: Arc<Workers>) {
    let acceptor = TlsAcceptor::from(config.tls);
    let allowed = Arc::new(config.allowed_names);
    let node = workers.node();
    let guard = Arc::new(Guard::new(node.client.clone(), node.clock.clone(), &node.facts().name));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = config.listener.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (acceptor, allowed, workers) = (acceptor.clone(), allowed.clone(), workers.clone());
                let guard = guard.clone();
                connections.spawn(async move {
                    if let Err(error) = connection(stream, acceptor, allowed, guard, workers).await {
                        tracing::debug!(%peer, error, "a connection to the kubelet API broke off");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections to the kubelet API");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    allowed: Arc<Vec<String>>,
    guard: Arc<Guard>,
    workers: Arc<Workers>,
) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await;
    let stream = stream.map_err(|_| "the TLS handshake took too long")?.map_err(|error| error.to_string())?;
    let certificates = stream.get_ref().1.peer_certificates();
    let caller = certificates.and_then(|chain| chain.first()).and_then(|leaf| auth::user_of(leaf));
    let service = service_fn(move |request: Request<Incoming>| {
        let (workers, allowed, guard, caller) = (workers.clone(), allowed.clone(), guard.clone(), caller.clone());
        async move {
            let response = match admit(&guard, &allowed, caller, &request).await {
                Ok(()) => route(&workers, request).await,
                Err(refusal) => refusal,
            };
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
    served.map_err(|error| error.to_string())
}

/// Whether a request may be served: the API server's own caller may do anything, others what the API server lets them do.
async fn admit(
    guard: &Guard,
    allowed: &[String],
    caller: Option<User>,
    request: &Request<Incoming>,
) -> Result<(), Response<Body>> {
    let unauthorized = |code: StatusCode| text(code, "Unauthorized");
    let user = match caller {
        Some(user) if allowed.contains(&user.name) => return Ok(()),
        Some(user) => user,
        None => {
            let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
            let token = header.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
            let token = token.filter(|token| !token.is_empty());
            let token = token.ok_or_else(|| unauthorized(StatusCode::UNAUTHORIZED))?;
            guard.user(token).await.map_err(unauthorized)?
        }
    };
    let asked = auth::asked(request.method(), request.uri().path());
    guard.check(&user, &asked).await.map_err(|message| text(StatusCode::FORBIDDEN, message))
}

pub(crate) fn text(code: StatusCode, message: impl Into<String>) -> Response<Body> {
    let body = Full::new(Bytes::from(message.into())).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let mut response = text(StatusCode::OK, value.to_string());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// The parameters of a query, each with all its values in order.
#[derive(Debug, Default)]
pub(crate) struct Query(HashMap<String, Vec<String>>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let mut parameters: HashMap<String, Vec<String>> = HashMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            parameters.entry(decode(name)).or_default().push(decode(value));
        }
        Self(parameters)
    }

    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        self.0.get(name).cloned().unwrap_or_default()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.first().map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("1" | "true" | "t" | "T" | "TRUE" | "True"))
    }
}

/// Undoes percent-encoding; what is not encoded properly stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| bytes.get(at + 1..at + 3)).flatten();
        let byte = hex.and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

async fn route(workers: &Arc<Workers>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let query = Query::parse(request.uri().query().unwrap_or(""));
    let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let reading = request.method() == Method::GET;
    match parts.as_slice() {
        ["healthz"] | ["healthz", "ping" | "log" | "syncloop"] => text(StatusCode::OK, "ok"),
        ["pods"] | ["runningpods"] if reading => {
            json(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": workers.pods()}))
        }
        ["stats", "summary"] if reading => stats::summary(workers).await,
        ["metrics"] if reading => stats::metrics(workers).await,
        ["metrics", "resource"] if reading => stats::resource_metrics(workers).await,
        ["metrics", "cadvisor"] if reading => stats::cadvisor_metrics(workers).await,
        ["metrics", "probes"] if reading => stats::probe_metrics(workers),
        ["configz"] if reading => json(&json!({"kubeletconfig": workers.node().options.shown()})),
        ["checkpoint", namespace, pod, container] if request.method() == Method::POST => {
            checkpoint(workers, namespace, pod, container).await
        }
        ["containerLogs", namespace, pod, container] if reading => {
            logs::serve(workers, namespace, pod, container, &query).await
        }
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
            tunnel::exec(workers, namespace, pod, container, &query, request).await
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
            tunnel::attach(workers, namespace, pod, container, &query, request).await
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
            tunnel::port_forward(workers, namespace, pod, &query, request).await
        }
        ["run", namespace, pod, container] | ["run", namespace, pod, _, container] => {
            run(workers, namespace, pod, container, &query).await
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

/// A Pod of the node, by name.
pub(crate) fn pod_of(workers: &Workers, namespace: &str, name: &str) -> Result<Arc<Mailbox>, Response<Body>> {
    let found = workers.find(namespace, name);
    found.ok_or_else(|| text(StatusCode::NOT_FOUND, format!("pod does not exist: {namespace}/{name}")))
}

/// The containers of a Pod as the runtime has them now.
pub(crate) async fn containers(workers: &Workers, mailbox: &Mailbox) -> Result<Vec<ContainerView>, Response<Body>> {
    let pod = mailbox.pod();
    let logs = workers.node().facts().paths.logs.clone();
    let seen = observe(&*workers.node().runtime, crate::config::uid(&pod), &logs).await;
    seen.map(|(_, containers)| containers)
        .map_err(|error| text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot ask the container runtime: {error}")))
}

/// The running container of a name.
pub(crate) async fn running(
    workers: &Workers,
    namespace: &str,
    pod: &str,
    name: &str,
) -> Result<ContainerView, Response<Body>> {
    let mailbox = pod_of(workers, namespace, pod)?;
    let all = containers(workers, &mailbox).await?;
    let running = all.into_iter().filter(|c| c.name == name && c.state == RunState::Running);
    running
        .max_by_key(|container| container.attempt)
        .ok_or_else(|| text(StatusCode::NOT_FOUND, format!("container not found ({name:?})")))
}

/// Writes a container to disk, where the runtime can.
async fn checkpoint(workers: &Workers, namespace: &str, pod: &str, name: &str) -> Response<Body> {
    let container = match running(workers, namespace, pod, name).await {
        Ok(container) => container,
        Err(response) => return response,
    };
    let node = workers.node();
    let stamp = node.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ");
    let file = format!("checkpoint-{pod}_{namespace}-{name}-{stamp}.tar");
    let location = node.facts().paths.root.join("checkpoints").join(file).display().to_string();
    let request = skiff_cri::CheckpointContainerRequest {
        container_id: container.id,
        location: location.clone(),
        ..skiff_cri::CheckpointContainerRequest::default()
    };
    match node.runtime.checkpoint_container(request).await {
        Ok(_) => json(&json!({"items": [location]})),
        Err(error) => {
            let words = format!("checkpointing of {namespace}/{pod}/{name} failed ({error})");
            text(StatusCode::INTERNAL_SERVER_ERROR, words)
        }
    }
}

/// Runs a command and answers with its output.
async fn run(workers: &Workers, namespace: &str, pod: &str, name: &str, query: &Query) -> Response<Body> {
    let container = match running(workers, namespace, pod, name).await {
        Ok(container) => container,
        Err(response) => return response,
    };
    let cmd = query.get("cmd").unwrap_or("").split_whitespace().map(str::to_owned).collect();
    let request = ExecSyncRequest { container_id: container.id, cmd, timeout: 0 };
    match workers.node().runtime.exec_sync(request).await {
        Ok(response) => {
            let output = [response.stdout, response.stderr].concat();
            text(StatusCode::OK, String::from_utf8_lossy(&output).into_owned())
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_keep_the_order_of_repeated_parameters() {
        let query = Query::parse("command=sh&command=-c&command=echo+a%20b%26c&input=1&tty=false");
        assert_eq!(query.all("command"), ["sh", "-c", "echo a b&c"]);
        assert!(query.flag("input") && !query.flag("tty") && !query.flag("output"));
    }
}
