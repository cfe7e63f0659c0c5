//! The server's control socket: how this program's other commands talk to the running server.
//! Plain HTTP with JSON over a unix socket that only root can open.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};

use crate::paths::{named, remove_file};

/// A command's body is a few options.
const BODY_LIMIT: usize = 64 << 10;

/// What the server answers on its control socket.
#[async_trait::async_trait]
pub trait Control: Send + Sync + 'static {
    /// Answers one command; an error is a text for people.
    async fn command(&self, method: &Method, path: &str, body: Value) -> Result<Value, String>;
}

/// Listens on the socket until the process ends.
///
/// # Errors
/// The socket cannot be made.
pub fn serve(path: &Path, control: Arc<dyn Control>) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    remove_file(path)?;
    let listener = UnixListener::bind(path).map_err(|error| named(path, "listen on", error))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(|error| named(path, "protect", error))?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(answer(stream, control.clone()));
                }
                Err(error) => tracing::warn!(%error, "control socket"),
            }
        }
    });
    Ok(())
}

async fn answer(stream: UnixStream, control: Arc<dyn Control>) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let control = control.clone();
        async move {
            let (parts, body) = request.into_parts();
            let answer = match read_body(body).await {
                Ok(body) => control.command(&parts.method, parts.uri.path(), body).await,
                Err(error) => Err(error),
            };
            let (status, value) = match answer {
                Ok(value) => (StatusCode::OK, value),
                Err(error) => (StatusCode::BAD_REQUEST, json!({ "error": error })),
            };
            let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
            *response.status_mut() = status;
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "control connection");
    }
}

async fn read_body(body: hyper::body::Incoming) -> Result<Value, String> {
    let bytes = Limited::new(body, BODY_LIMIT).collect().await.map_err(|error| error.to_string())?.to_bytes();
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes).map_err(|error| format!("the command's options: {error}"))
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No server listens.
    #[error("skiff is not running (no answer on {0})")]
    NotRunning(PathBuf),
    /// The connection broke.
    #[error("skiff stopped answering: {0}")]
    Broken(String),
    /// The server refuses, and says why.
    #[error("{0}")]
    Refused(String),
}

/// Sends one command to the running server.
///
/// # Errors
/// No server runs, or it refuses.
pub async fn call(path: &Path, method: Method, command: &str, body: &Value) -> Result<Value, ControlError> {
    let stream = UnixStream::connect(path).await.map_err(|_| ControlError::NotRunning(path.to_owned()))?;
    let broken = |error: &dyn std::fmt::Display| ControlError::Broken(error.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(command)
        .header("host", "skiff")
        .body(Full::new(Bytes::from(body.to_string())))
        .map_err(|error| broken(&error))?;
    let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let status = response.status();
    let bytes = response.into_body().collect().await.map_err(|error| broken(&error))?.to_bytes();
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| broken(&error))?;
    if status.is_success() {
        return Ok(value);
    }
    Err(ControlError::Refused(value["error"].as_str().unwrap_or("the server refused").to_owned()))
}
