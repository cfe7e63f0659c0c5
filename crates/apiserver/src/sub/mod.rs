//! Subresources and reviews that need code of their own. All of them write through the one pipeline.

pub mod scale;

use http::request::Parts;
use skiff_object::Status;

use crate::call::Call;
use crate::failure::Result;
use crate::http::answer::Answer;
use crate::http::body::Body;
use crate::http::request::RequestInfo;
use crate::server::ApiServer;

/// Whether a request's answer is not an object of the API but whatever stands behind it.
pub fn is_tunnel(info: &RequestInfo) -> bool {
    matches!(info.subresource.as_str(), "exec" | "attach" | "log" | "portforward" | "proxy")
}

/// Answers a subresource by its name.
pub async fn answer(_server: &ApiServer, _call: &Call, _parts: &mut Parts, _body: Body) -> Result<Answer> {
    Err(Status::no_such_path().into())
}

/// Answers what is posted and never stored.
pub async fn answer_review(_server: &ApiServer, _call: &Call, _body: &[u8]) -> Result<Answer> {
    Err(Status::no_such_path().into())
}
