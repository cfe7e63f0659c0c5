//! What is served, told to clients: discovery, the version, health.

use http::request::Parts;
use serde_json::json;
use skiff_object::Status;

use crate::failure::Result;
use crate::http::answer::{self, Answer};
use crate::http::negotiate;
use crate::http::query::Query;
use crate::http::request::RequestInfo;
use crate::server::ApiServer;

/// Answers a path that names no resource.
pub fn answer(server: &ApiServer, parts: &Parts, query: &Query, info: &RequestInfo) -> Result<Answer> {
    let accepted = negotiate::accepted(&parts.headers, query, false)?;
    match info.path.as_str() {
        "/version" => Ok(answer::tree(200, &json!(server.config.version), &accepted)),
        "/healthz" | "/livez" | "/readyz" => Ok(answer::text(200, "ok")),
        _ => Err(Status::no_such_path().into()),
    }
}
