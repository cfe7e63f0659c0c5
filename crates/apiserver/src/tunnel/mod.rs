//! Tunnels: logs, exec, attach and port-forward lead to a node's agent, proxies to a node, a Pod or a Service.
//! What flows through them is not looked at.

pub mod pipe;
mod target;

use std::sync::Arc;

use http::header::{HOST, HeaderName, HeaderValue, LOCATION, UPGRADE};
use http::request::Parts;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use skiff_object::meta::Meta;
use skiff_object::{FieldError, FieldPath, GroupKind, Object, Status};

use crate::admission;
use crate::call::Call;
use crate::failure::Result;
use crate::http::answer::{self, Answer};
use crate::http::body::{self, Body};
use crate::http::query::encode;
use crate::read::socket;
use crate::serve::PeerAddress;
use crate::server::ApiServer;
use pipe::Destination;
pub use target::endpoint;

/// Answers a request by passing it on.
pub async fn answer(server: &Arc<ApiServer>, call: &Call, parts: &mut Parts, body: Body) -> Result<Answer> {
    server.hub.fresh().await?;
    let subresource = call.info.subresource.as_str();
    if subresource != "log" {
        admission::connect(server, call, &options(call)).await?;
    }
    if subresource == "proxy" {
        return proxy(server, call, parts, body).await;
    }
    let pod = pod(call)?;
    if subresource == "portforward" {
        let destination = agent(server, &pod)?;
        let ports = joined(call.query.all("ports").map(|port| format!("port={}", encode(port))));
        let path = format!("/portForward/{}/{}{ports}", pod.namespace(), pod.name());
        return pipe::forward(server, &destination, &path, call, parts, body).await;
    }
    let container = target::container(&pod, call.query.text("container"), subresource)?;
    if subresource == "log" {
        return log(server, call, parts, &pod, &container).await;
    }
    let destination = agent(server, &pod)?;
    let path = format!("/{subresource}/{}/{}/{container}{}", pod.namespace(), pod.name(), stream_query(call));
    pipe::forward(server, &destination, &path, call, parts, body).await
}

/// Passes a request on to a node, a Pod or a Service, by whatever method it came.
async fn proxy(server: &Arc<ApiServer>, call: &Call, parts: &mut Parts, body: Body) -> Result<Answer> {
    let shows_page = matches!(parts.method, Method::GET | Method::HEAD) && !call.headers.contains_key(UPGRADE);
    if call.info.rest.is_empty() && shows_page {
        return Ok(with_slash(parts));
    }
    let mut destination = target::proxied(server, call, &call.info.resource)?;
    target::check_address(server, &mut destination).await?;
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let rest = if call.info.rest.is_empty() { "/" } else { &call.info.rest };
    let own = call.info.path.strip_suffix(call.info.rest.as_str()).unwrap_or(&call.info.path);
    let mut forwarded = parts.uri.host().unwrap_or("").to_owned();
    if let Some(host) = call.headers.get(HOST).and_then(|value| value.to_str().ok()) {
        host.clone_into(&mut forwarded);
    }
    let told = [
        ("x-forwarded-uri", format!("{own}{rest}")),
        ("x-forwarded-host", forwarded.clone()),
        ("x-forwarded-proto", "https".to_owned()),
        ("x-forwarded-for", forwarded_for(call, parts)),
    ];
    for (name, value) in told.into_iter().filter(|(_, value)| !value.is_empty()) {
        parts.headers.insert(HeaderName::from_static(name), HeaderValue::from_str(&value).map_err(Status::internal)?);
    }
    let path = format!("{rest}{query}");
    let mut answer = pipe::forward(server, &destination, &path, call, parts, body).await?;
    let place = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    if let Some(place) = place.and_then(|place| moved(&place, own, &destination.authority(), &forwarded)) {
        answer.headers_mut().insert(LOCATION, HeaderValue::from_str(&place).map_err(Status::internal)?);
    }
    Ok(answer)
}

/// Who asks, behind all who have passed the request on before.
fn forwarded_for(call: &Call, parts: &Parts) -> String {
    let before = call.headers.get("x-forwarded-for").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let peer = parts.extensions.get::<PeerAddress>().map(|peer| peer.0.ip().to_string());
    before.into_iter().chain(peer).collect::<Vec<_>>().join(", ")
}

/// Where a redirect of what stands behind a proxy leads its client: back through the proxy, whose own path is `own`.
/// `None` where it leads elsewhere, or does so already.
fn moved(place: &str, own: &str, authority: &str, asked: &str) -> Option<String> {
    let path = match place.split_once("://") {
        None => place,
        Some((_, rest)) => {
            let (host, _) = rest.split_once('/').unwrap_or((rest, ""));
            if host != authority && host != asked {
                return None;
            }
            &rest[host.len()..]
        }
    };
    let path = if path.is_empty() { "/" } else { path };
    (path.starts_with('/') && !path.starts_with(own)).then(|| format!("{own}{path}"))
}

/// What a node's agent answers at a path, as text.
pub async fn ask_agent(server: &ApiServer, node: &str, path: &str) -> Result<String> {
    pipe::get(server, &target::agent(server, node)?, path).await
}

/// What a tunnel's query asks for, as the object that admission sees.
fn options(call: &Call) -> Object {
    let kind = match (call.info.subresource.as_str(), call.info.resource.as_str()) {
        ("exec", _) => "PodExecOptions",
        ("attach", _) => "PodAttachOptions",
        ("portforward", _) => "PodPortForwardOptions",
        (_, "services") => "ServiceProxyOptions",
        (_, "nodes") => "NodeProxyOptions",
        _ => "PodProxyOptions",
    };
    let mut options = serde_json::json!({"kind": kind, "apiVersion": "v1"});
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if call.query.flag(flag) {
            options[flag] = true.into();
        }
    }
    let container = call.query.text("container");
    if !container.is_empty() {
        options["container"] = container.into();
    }
    let command: Vec<&str> = call.query.all("command").collect();
    if !command.is_empty() {
        options["command"] = command.into();
    }
    if call.info.subresource == "proxy" && !call.info.rest.is_empty() {
        options["path"] = call.info.rest.as_str().into();
    }
    options
}

/// A proxied page's relative links need the slash at the end of its path.
fn with_slash(parts: &Parts) -> Answer {
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut answer = Answer::new(body::empty());
    *answer.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", parts.uri.path())) {
        answer.headers_mut().insert(LOCATION, location);
    }
    answer
}

fn pod(call: &Call) -> Result<Object> {
    let found = call.served.cache.object(&call.info.namespace, &call.info.name)?;
    found.ok_or_else(|| Status::not_found(&call.served.def.group_resource(), &call.info.name).into())
}

/// The agent of a Pod's node.
fn agent(server: &ApiServer, pod: &Object) -> Result<Destination> {
    let node = pod.str_at(&["spec", "nodeName"]);
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", pod.name())).into());
    }
    target::agent(server, node)
}

/// The streams that are wanted, named as the nodes' agents name them.
fn stream_query(call: &Call) -> String {
    let names = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
    let flags = names.into_iter().filter(|(own, _)| call.query.flag(own)).map(|(_, theirs)| format!("{theirs}=1"));
    let command = call.query.all("command").map(|part| format!("command={}", encode(part)));
    joined(flags.chain(command))
}

fn joined(parameters: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = parameters.collect();
    if all.is_empty() { String::new() } else { format!("?{}", all.join("&")) }
}

/// Answers with a container's log, over a WebSocket where the client wants to go on with one.
async fn log(server: &Arc<ApiServer>, call: &Call, parts: &mut Parts, pod: &Object, container: &str) -> Result<Answer> {
    let answer = read_log(server, call, parts, pod, container).await?;
    if socket::is_wanted(&call.headers) {
        let pieces = answer.into_body().into_data_stream();
        return socket::bytes(&call.headers, parts.extensions.remove::<OnUpgrade>(), pieces);
    }
    Ok(answer)
}

async fn read_log(server: &ApiServer, call: &Call, parts: &Parts, pod: &Object, container: &str) -> Result<Answer> {
    const PASSED_ON: [&str; 8] =
        ["follow", "previous", "timestamps", "sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"];
    let mut errors = Vec::new();
    for (name, least) in [("tailLines", 0), ("sinceSeconds", 1), ("limitBytes", 1)] {
        let text = call.query.text(name);
        if !text.is_empty() && !text.parse::<i64>().is_ok_and(|number| number >= least) {
            let words = format!("must be greater than or equal to {least}");
            let value = text.parse::<i64>().map_or_else(|_| text.into(), serde_json::Value::from);
            errors.push(FieldError::invalid(&FieldPath::new(name), value, words));
        }
    }
    if !errors.is_empty() {
        return Err(Status::invalid(&GroupKind::new("", "PodLogOptions"), pod.name(), &errors).into());
    }
    if pod.str_at(&["spec", "nodeName"]).is_empty() {
        // A Pod that is nowhere has said nothing yet.
        return Ok(answer::text(200, ""));
    }
    let given = PASSED_ON.into_iter().filter(|name| !call.query.text(name).is_empty());
    let query = joined(given.map(|name| format!("{name}={}", encode(call.query.text(name)))));
    let path = format!("/containerLogs/{}/{}/{container}{query}", pod.namespace(), pod.name());
    let answer = pipe::read(server, &agent(server, pod)?, &path, call, parts).await?;
    if answer.status().is_success() {
        return Ok(answer);
    }
    Err(pipe::told_by_agent(answer, pod.name()).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_back_through_the_proxy() {
        let own = "/api/v1/namespaces/a/pods/b/proxy";
        let check = |place: &str, expected: Option<&str>| {
            let expected = expected.map(|path| format!("{own}{path}"));
            assert_eq!(moved(place, own, "10.0.0.1:80", "cluster:6443"), expected, "{place}");
        };
        check("/x/", Some("/x/"));
        check("/x?y=z", Some("/x?y=z"));
        check("http://10.0.0.1:80/x", Some("/x"));
        check("http://10.0.0.1:80", Some("/"));
        check("https://cluster:6443/x", Some("/x"));
        check("https://elsewhere/x", None);
        check("x", None);
        check(&format!("{own}/x"), None);
    }
}
