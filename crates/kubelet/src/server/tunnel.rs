//! Exec, attach and port-forward: the runtime says where its stream is, and the caller's connection is joined to it as it is.
//! Neither protocol is looked into here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use skiff_cri::{AttachRequest, ExecRequest, PortForwardRequest};
use tokio::net::TcpStream;

use super::{Body, Query, pod_of, running, text};
use crate::agent::Workers;
use crate::observe::observe;

/// How long the runtime's stream server has to take a connection; it is on this machine.
const CONNECT: Duration = Duration::from_secs(10);

/// Runs a command with its streams.
pub(super) async fn exec(
    workers: &Arc<Workers>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Response<Body> {
    let cmd = query.all("command");
    if cmd.is_empty() {
        return text(StatusCode::BAD_REQUEST, "you must specify at least one command for the container");
    }
    let container = match running(workers, namespace, pod, container).await {
        Ok(container) => container,
        Err(response) => return response,
    };
    let tty = query.flag("tty");
    let wanted = ExecRequest {
        container_id: container.id,
        cmd,
        tty,
        stdin: query.flag("input") || query.flag("stdin"),
        stdout: query.flag("output") || query.flag("stdout"),
        // A terminal has one stream out.
        stderr: !tty && (query.flag("error") || query.flag("stderr")),
    };
    match workers.node().runtime.exec(wanted).await {
        Ok(answer) => join(&answer.url, request).await,
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.message),
    }
}

/// Joins the streams of a container's own process.
pub(super) async fn attach(
    workers: &Arc<Workers>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Response<Body> {
    let container = match running(workers, namespace, pod, container).await {
        Ok(container) => container,
        Err(response) => return response,
    };
    let tty = query.flag("tty");
    let wanted = AttachRequest {
        container_id: container.id,
        stdin: query.flag("input") || query.flag("stdin"),
        tty,
        stdout: query.flag("output") || query.flag("stdout"),
        stderr: !tty && (query.flag("error") || query.flag("stderr")),
    };
    match workers.node().runtime.attach(wanted).await {
        Ok(answer) => join(&answer.url, request).await,
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.message),
    }
}

/// Joins ports of a Pod.
pub(super) async fn port_forward(
    workers: &Arc<Workers>,
    namespace: &str,
    pod: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Response<Body> {
    let mailbox = match pod_of(workers, namespace, pod) {
        Ok(mailbox) => mailbox,
        Err(response) => return response,
    };
    let pod = mailbox.pod();
    let logs = workers.node().facts().paths.logs.clone();
    let sandbox = match observe(&*workers.node().runtime, crate::config::uid(&pod), &logs).await {
        Ok((sandboxes, _)) => sandboxes.into_iter().find(|sandbox| sandbox.ready),
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.message),
    };
    let Some(sandbox) = sandbox else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "the Pod has no sandbox that is ready");
    };
    let mut port = Vec::new();
    for part in query.all("port").iter().chain(query.all("ports").iter()).flat_map(|list| list.split(',')) {
        match part.parse() {
            Ok(number) => port.push(number),
            Err(_) => return text(StatusCode::BAD_REQUEST, format!("invalid port {part:?}")),
        }
    }
    match workers.node().runtime.port_forward(PortForwardRequest { pod_sandbox_id: sandbox.id, port }).await {
        Ok(answer) => join(&answer.url, request).await,
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.message),
    }
}

/// Sends the caller's request on to `url` and, when that agrees to upgrade, joins the two connections.
async fn join(url: &str, request: Request<Incoming>) -> Response<Body> {
    match try_join(url, request).await {
        Ok(response) => response,
        Err(error) => text(StatusCode::BAD_GATEWAY, format!("cannot reach the container runtime's stream: {error}")),
    }
}

async fn try_join(url: &str, mut request: Request<Incoming>) -> Result<Response<Body>, String> {
    let target: http::Uri = url.parse().map_err(|error| format!("{url:?}: {error}"))?;
    let authority = target.authority().ok_or_else(|| format!("{url:?} names no host"))?.clone();
    let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let connecting = tokio::time::timeout(CONNECT, TcpStream::connect(&address)).await;
    let stream = connecting.map_err(|_| format!("connect to {address}: timed out"))?;
    let stream = stream.map_err(|error| format!("connect to {address}: {error}"))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a stream of the container runtime broke off");
        }
    });
    let path = target.path_and_query().map_or("/", |path| path.as_str());
    let mut onward = Request::builder().method(request.method().clone()).uri(path);
    if let Some(headers) = onward.headers_mut() {
        *headers = request.headers().clone();
        let host = HeaderValue::from_str(authority.as_str()).map_err(|error| error.to_string())?;
        headers.insert(header::HOST, host);
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::TRANSFER_ENCODING);
    }
    let onward = onward.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let mut answer = sender.send_request(onward).await.map_err(|error| error.to_string())?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(answer.map(|body| body.map_err(std::io::Error::other).boxed_unsync()));
    }
    let (near, far) = (hyper::upgrade::on(&mut request), hyper::upgrade::on(&mut answer));
    tokio::spawn(async move {
        match tokio::try_join!(near, far) {
            Ok((near, far)) => {
                let copied = tokio::io::copy_bidirectional(&mut TokioIo::new(near), &mut TokioIo::new(far)).await;
                if let Err(error) = copied {
                    tracing::debug!(%error, "a stream ended with an error");
                }
            }
            Err(error) => tracing::debug!(%error, "a stream was not upgraded"),
        }
    });
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answer.headers().clone();
    Ok(response)
}
