//! What is served, told to clients: groups, versions and resources, the version, health, metrics.
//! See <https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api>.

mod aggregated;
mod health;
mod legacy;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, VARY, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::json;
use skiff_kinds::Subresource;
use skiff_object::Status;

use crate::aggregation;
use crate::failure::Result;
use crate::http::answer::{self, Answer};
use crate::http::body;
use crate::http::negotiate::{self, Accepted, Media, Offer, Shape};
use crate::http::query::Query;
use crate::http::request::RequestInfo;
use crate::server::{ApiServer, check_verb};
use crate::storage::catalogue::Snapshot;

/// What only people read is always indented JSON, as upstream's is.
const PEOPLE: Accepted =
    Accepted { media: Media::Json, shape: Shape::Object, is_beta: false, pretty: true, gzip: false };

/// What the media type of the document that tells of everything at once says beside its encoding.
const AGGREGATED: &str = ";g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Answers a path that names no resource.
pub async fn answer(server: &ApiServer, parts: &Parts, query: &Query, info: &RequestInfo) -> Result<Answer> {
    let path = info.path.trim_end_matches('/');
    health::ask(server, path).await;
    if let Some(answer) = health::answer(server, path, query) {
        return answer;
    }
    check_verb(matches!(info.verb.as_str(), "get" | "head"))?;
    if let Some(answer) = crate::openapi::answer(server, parts, query, path)? {
        return Ok(answer);
    }
    if let ("/api" | "/apis", Some(media)) = (path, negotiate::aggregated(&parts.headers)) {
        return aggregated_answer(server, path, media, &parts.headers);
    }
    let (snapshot, remotes) = (server.catalogue.snapshot(), server.aggregator.remotes());
    let groups = || aggregation::groups(&snapshot, &remotes);
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    // These come in one form, whatever the client would rather have.
    match segments.as_slice() {
        [] => return Ok(answer::data(200, &json!({"paths": paths(server)}), &PEOPLE)),
        ["version"] => return Ok(answer::data(200, &server.config.version, &PEOPLE)),
        ["metrics"] => return Ok(metrics(server, &snapshot)),
        ["metrics", "slis"] => return Ok(exposition(health_figures(server))),
        ["debug", "api_priority_and_fairness", page] if server.flows.is_enabled() => {
            let with_details = !query.text("includeRequestDetails").is_empty();
            return Ok(crate::flow::dump(&server.flows, page, with_details)
                .map_or_else(no_page, |text| answer::text(200, text)));
        }
        [".well-known", "openid-configuration"] => {
            return Ok(identity(server.authenticator.configuration(), "application/json"));
        }
        ["openid", "v1", "jwks"] => return Ok(identity(server.authenticator.key_set(), "application/jwk-set+json")),
        _ => {}
    }
    let accepted = negotiate::accepted(&parts.headers, query, Offer::Plain)?;
    Ok(match segments.as_slice() {
        ["api"] => answer::data(200, &legacy::core_versions(server.config.advertise), &accepted),
        ["apis"] => answer::data(200, &legacy::groups(&groups()), &accepted),
        ["api", version] => found(legacy::resources(&snapshot, "", version), &accepted),
        ["apis", group] => found(legacy::group(&groups(), group), &accepted),
        ["apis", group, version] => found(legacy::resources(&snapshot, group, version), &accepted),
        _ => no_page(),
    })
}

/// What tells others how to check the tokens that are issued here.
fn identity(data: Option<impl Serialize>, media: &'static str) -> Answer {
    let Some(data) = data else { return no_page() };
    let mut answer = answer::bytes(200, answer::to_json(&data, false), media, &Accepted::default());
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    answer
}

/// 404 where nothing of the API is.
pub fn no_page() -> Answer {
    let mut answer = answer::text(404, "404 page not found\n");
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

fn metrics(server: &ApiServer, snapshot: &Snapshot) -> Answer {
    let (remotes, version) = (server.aggregator.remotes(), &server.config.version);
    let mut text =
        server.metrics.text(snapshot, &remotes, server.store(), version, server.started, &server.config.gates);
    server.flows.write(&mut text);
    exposition(text)
}

fn exposition(text: String) -> Answer {
    answer::bytes(200, text, "text/plain; version=0.0.4; charset=utf-8", &Accepted::default())
}

/// `/metrics/slis`: every health check as a figure.
fn health_figures(server: &ApiServer) -> String {
    let name = "kubernetes_healthcheck";
    let mut text = format!("# HELP {name} Whether a part of the server is well.\n# TYPE {name} gauge\n");
    for kind in ["healthz", "livez", "readyz"] {
        for check in health::checks_of(server, kind).unwrap_or_default() {
            let well = u8::from(health::fault(server, check).is_none());
            text.push_str(&format!("{name}{{name={check:?},type={kind:?}}} {well}\n"));
        }
    }
    text
}

fn found(data: Option<impl Serialize>, accepted: &Accepted) -> Answer {
    data.map_or_else(no_page, |data| answer::data(200, &data, accepted))
}

fn aggregated_answer(server: &ApiServer, path: &str, media: Media, headers: &HeaderMap) -> Result<Answer> {
    let (snapshot, remotes) = (server.catalogue.snapshot(), server.aggregator.remotes());
    let etag = format!("\"{}\"", server.documents.fingerprints(&snapshot, &remotes).whole);
    let mut answer = if negotiate::has_etag(headers, &etag) {
        let mut answer = Answer::new(body::empty());
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer
    } else {
        let tree = aggregated::document(&snapshot, &remotes, path == "/api");
        let accepted = Accepted { gzip: negotiate::accepts_gzip(headers), media, ..Accepted::default() };
        answer::tree(200, &tree, &accepted)
    };
    let media = format!("{}{AGGREGATED}", media.name());
    for (name, value) in [(CONTENT_TYPE, media.as_str()), (ETAG, etag.as_str()), (CACHE_CONTROL, "public")] {
        answer.headers_mut().insert(name, HeaderValue::from_str(value).map_err(Status::internal)?);
    }
    answer.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
    Ok(answer)
}

/// All paths that are worth looking at.
fn paths(server: &ApiServer) -> Vec<String> {
    let (snapshot, remotes) = (server.catalogue.snapshot(), server.aggregator.remotes());
    let mut paths: Vec<String> = ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/apis/"]
        .into_iter()
        .chain([
            "/healthz",
            "/livez",
            "/metrics",
            "/metrics/slis",
            "/openapi/v2",
            "/openapi/v3",
            "/openid/v1/jwks",
            "/readyz",
            "/version",
        ])
        .map(str::to_owned)
        .collect();
    for group in aggregation::groups(&snapshot, &remotes) {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions.iter().map(|version| format!("/apis/{}/{}", group.name, version.name)));
    }
    for kind in ["healthz", "livez", "readyz"] {
        paths
            .extend(health::checks_of(server, kind).unwrap_or_default().iter().map(|check| format!("/{kind}/{check}")));
    }
    paths.sort();
    paths
}

/// The verbs of a subresource, and the kind that it takes and gives where that is not its parent's.
fn subresource_facts(subresource: &Subresource) -> (Vec<&str>, Option<(&str, &str, &str)>) {
    const CHANGEABLE: [&str; 3] = ["get", "patch", "update"];
    match subresource {
        Subresource::Status => (CHANGEABLE.to_vec(), None),
        Subresource::Scale { .. } => (CHANGEABLE.to_vec(), Some(("autoscaling", "v1", "Scale"))),
        Subresource::Special { kind: (group, version, kind), verbs, .. } => {
            (verbs.iter().map(AsRef::as_ref).collect(), Some((group, version, kind)))
        }
    }
}
