//! How a request reaches the API server: the one seam between the parts of the cluster.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

/// A response body that may go on for as long as a watch does.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Why no answer came; a refusal by the server is an answer.
#[derive(Debug, thiserror::Error, Clone)]
#[error("{operation}: {reason}")]
pub struct TransportError {
    /// What was tried, `connect to 10.0.0.1:6443`.
    pub operation: String,
    /// Why it failed.
    pub reason: String,
}

impl TransportError {
    /// An error of the named operation.
    pub fn new(operation: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self { operation: operation.into(), reason: reason.to_string() }
    }
}

/// Carries requests to the API server. The request's URI holds path and query only.
#[async_trait::async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends one request and gives the response's head as soon as it is there.
    ///
    /// # Errors
    /// The server cannot be reached, or the connection broke before the head arrived.
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, TransportError>;
}

/// The way to a server in the same process: a function that answers requests.
pub struct InProcess<F>(pub F);

#[async_trait::async_trait]
impl<F, A> Transport for InProcess<F>
where
    F: Fn(http::Request<Body>) -> A + Send + Sync + 'static,
    A: Future<Output = http::Response<Body>> + Send,
{
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, TransportError> {
        let whole = |body| Full::new(body).map_err(|never: std::convert::Infallible| match never {}).boxed_unsync();
        Ok((self.0)(request.map(whole)).await)
    }
}
