//! Tunnels: logs, exec, attach, port-forward and proxies lead to a node's agent or to a Pod.

use std::sync::Arc;

use http::request::Parts;
use skiff_object::Status;

use crate::call::Call;
use crate::failure::Result;
use crate::http::answer::Answer;
use crate::http::body::Body;
use crate::server::ApiServer;

/// Answers a request by passing it on.
pub async fn answer(_server: &Arc<ApiServer>, _call: &Call, _parts: &mut Parts, _body: Body) -> Result<Answer> {
    Err(Status::unavailable("tunnels to nodes are not configured").into())
}
