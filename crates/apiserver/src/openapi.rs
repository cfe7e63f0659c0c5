//! The OpenAPI documents, v2 and v3.

use http::request::Parts;

use crate::failure::Result;
use crate::http::answer::Answer;
use crate::server::ApiServer;

/// Answers a path below `/openapi`.
pub fn answer(_server: &ApiServer, _parts: &Parts, _path: &str) -> Result<Option<Answer>> {
    Ok(None)
}
