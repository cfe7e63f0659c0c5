//! The calling side: one HTTP/2 connection to a socket, made when it is first needed and again after it broke.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::{Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use prost::Message;
use tokio::net::UnixStream;

use crate::frame::{self, CONTENT_TYPE, Deframer, TIMEOUT};
use crate::{Code, GrpcError, GrpcResult};

/// How long connecting to a socket of this machine may take.
const CONNECT: Duration = Duration::from_secs(10);

type Sender = http2::SendRequest<Full<Bytes>>;

/// A service behind a socket.
#[derive(Debug)]
pub struct Channel {
    path: PathBuf,
    sender: Mutex<Option<Sender>>,
    /// One connects for all; who finds a connection waits for nobody.
    connecting: tokio::sync::Mutex<()>,
}

impl Channel {
    /// The service at an endpoint: a path, alone or behind `unix://`. Nothing is connected yet.
    ///
    /// # Errors
    /// It is another kind of endpoint.
    pub fn new(endpoint: &str) -> GrpcResult<Self> {
        let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
        if !path.starts_with('/') {
            return Err(GrpcError::invalid_argument(format!(
                "endpoint {endpoint:?} is not supported: it must be a path, or unix:// and a path"
            )));
        }
        Ok(Self { path: PathBuf::from(path), sender: Mutex::default(), connecting: tokio::sync::Mutex::default() })
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A call with one message each way.
    ///
    /// # Errors
    /// What the service answers, or `Unavailable`, or `DeadlineExceeded`.
    pub async fn unary<Q: Message, R: Message + Default>(
        &self,
        call: &str,
        request: &Q,
        limit: Option<Duration>,
    ) -> GrpcResult<R> {
        let exchange = async {
            let mut answer = self.open(call, request, limit).await?;
            let mut message = None;
            while let Some(next) = answer.receive().await {
                message = Some(next?);
            }
            message.ok_or_else(|| GrpcError::internal(format!("{call} ended without an answer")))
        };
        let message = match limit {
            Some(limit) => tokio::time::timeout(limit, exchange).await.map_err(|_| too_late())??,
            None => exchange.await?,
        };
        frame::decode(&message)
    }

    /// A call that is answered by a stream of messages. It has begun when this returns.
    ///
    /// # Errors
    /// As [`Channel::unary`].
    pub async fn streaming<Q: Message, R>(&self, call: &str, request: &Q) -> GrpcResult<Streaming<R>> {
        let raw = self.open(call, request, None).await?;
        Ok(Streaming { raw, of: std::marker::PhantomData })
    }

    async fn open<Q: Message>(&self, call: &str, message: &Q, limit: Option<Duration>) -> GrpcResult<Raw> {
        let body = Full::new(frame::frame(&message.encode_to_vec())?);
        let mut request = Request::post(format!("http://localhost{call}"))
            .header(header::CONTENT_TYPE, CONTENT_TYPE)
            .header(header::TE, "trailers");
        if let Some(limit) = limit {
            request = request.header(TIMEOUT, frame::write_timeout(limit));
        }
        let request = request.body(body).map_err(|error| GrpcError::internal(format!("{call}: {error}")))?;
        let mut sender = self.connected().await?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        Raw::of(response, call)
    }

    async fn connected(&self) -> GrpcResult<Sender> {
        if let Some(sender) = self.open_sender() {
            return Ok(sender);
        }
        let _alone = self.connecting.lock().await;
        if let Some(sender) = self.open_sender() {
            return Ok(sender);
        }
        let connecting = tokio::time::timeout(CONNECT, UnixStream::connect(&self.path)).await;
        let stream = connecting
            .map_err(|_| self.unreachable("i/o timeout"))?
            .map_err(|error| self.unreachable(&format!("connect: {}", plain(&error))))?;
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| self.broken(&error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a socket broke");
            }
        });
        *self.sender.lock() = Some(sender.clone());
        Ok(sender)
    }

    fn open_sender(&self) -> Option<Sender> {
        self.sender.lock().as_ref().filter(|sender| !sender.is_closed()).cloned()
    }

    fn unreachable(&self, why: &str) -> GrpcError {
        let path = self.path.display();
        GrpcError::unavailable(format!(
            "connection error: desc = \"transport: Error while dialing: dial unix {path}: {why}\""
        ))
    }

    fn broken(&self, error: &hyper::Error) -> GrpcError {
        GrpcError::unavailable(format!("error reading from server {}: {error}", self.path.display()))
    }
}

fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

fn too_late() -> GrpcError {
    GrpcError::deadline_exceeded("context deadline exceeded")
}

/// The messages of an answer as bytes.
#[derive(Debug)]
struct Raw {
    body: Incoming,
    deframer: Deframer,
    ended: bool,
}

impl Raw {
    fn of(response: Response<Incoming>, call: &str) -> GrpcResult<Self> {
        if response.status() != StatusCode::OK {
            return Err(GrpcError::unknown(format!("{call}: unexpected HTTP status code {}", response.status())));
        }
        // A call that fails before it has said anything tells so in its headers.
        if let Some(Err(error)) = frame::status(response.headers()) {
            return Err(error);
        }
        Ok(Self { body: response.into_body(), deframer: Deframer::default(), ended: false })
    }

    async fn receive(&mut self) -> Option<GrpcResult<Bytes>> {
        std::future::poll_fn(|context| self.poll_receive(context)).await
    }

    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Option<GrpcResult<Bytes>>> {
        loop {
            match self.deframer.take() {
                Ok(None) => {}
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Err(error) => return self.end(Err(error)),
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(next)) => match next.into_data() {
                    Ok(data) => self.deframer.push(&data),
                    Err(next) => {
                        let status = next.trailers_ref().and_then(frame::status);
                        let outcome = status.unwrap_or_else(|| Err(GrpcError::internal("the call has no status")));
                        return self.end(outcome);
                    }
                },
                Some(Err(error)) => {
                    let text = format!("the answer broke off: {error}");
                    return self.end(Err(GrpcError { code: Code::Unavailable, message: text }));
                }
                None => return self.end(Err(GrpcError::unavailable("the answer ended without a status"))),
            }
        }
    }

    fn end(&mut self, outcome: GrpcResult<()>) -> Poll<Option<GrpcResult<Bytes>>> {
        self.ended = true;
        Poll::Ready(outcome.err().map(Err))
    }
}

/// The messages of an answer, as they come.
#[derive(Debug)]
pub struct Streaming<R> {
    raw: Raw,
    of: std::marker::PhantomData<fn() -> R>,
}

impl<R: Message + Default> Stream for Streaming<R> {
    type Item = GrpcResult<R>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let message = std::task::ready!(self.raw.poll_receive(context));
        Poll::Ready(message.map(|message| frame::decode(&message?)))
    }
}
