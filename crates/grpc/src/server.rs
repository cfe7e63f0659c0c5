//! The answering side: a listener on a socket, and a handler that is asked per call.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::net::{UnixListener, UnixStream};

use crate::frame::{self, CONTENT_TYPE, Deframer};
use crate::{GrpcError, GrpcResult};

/// How long a listener rests after an error such as too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// The answer to a call.
pub enum Reply {
    /// One message.
    One(Bytes),
    /// Messages as they come; the call ends with the stream, or with its first error.
    Many(Pin<Box<dyn Stream<Item = GrpcResult<Bytes>> + Send>>),
}

impl Reply {
    /// An answer of one message.
    pub fn message(message: &impl Message) -> Self {
        Self::One(message.encode_to_vec().into())
    }
}

/// What answers calls.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers the call `/SERVICE/METHOD`; the message is the request's.
    async fn call(&self, service: &str, method: &str, message: Bytes) -> GrpcResult<Reply>;
}

/// Serves on a listener until the task is dropped.
pub async fn serve(listener: UnixListener, handler: Arc<dyn Handler>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, handler.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "accepting on a gRPC socket");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn connection(stream: UnixStream, handler: Arc<dyn Handler>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(answer(&*handler, request).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a gRPC connection broke");
    }
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

async fn answer(handler: &dyn Handler, request: Request<Incoming>) -> Answer {
    let is_grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(CONTENT_TYPE.as_bytes()));
    if request.method() != Method::POST || !is_grpc {
        return respond(StatusCode::UNSUPPORTED_MEDIA_TYPE, stream::empty());
    }
    let limit = frame::read_timeout(request.headers());
    let path = request.uri().path().to_owned();
    let work = async {
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((&path, ""));
        let message = receive(request.into_body()).await?;
        handler.call(service, method, message).await
    };
    let outcome = match limit {
        Some(limit) => tokio::time::timeout(limit, work)
            .await
            .unwrap_or_else(|_| Err(GrpcError::deadline_exceeded("context deadline exceeded"))),
        None => work.await,
    };
    let messages: Pin<Box<dyn Stream<Item = GrpcResult<Bytes>> + Send>> = match outcome {
        Ok(Reply::One(message)) => Box::pin(stream::iter([Ok(message)])),
        Ok(Reply::Many(messages)) => messages,
        Err(error) => Box::pin(stream::iter([Err(error)])),
    };
    respond(StatusCode::OK, frames(messages))
}

/// The messages as frames, and at the end, or at the first error, the trailers.
fn frames(
    messages: Pin<Box<dyn Stream<Item = GrpcResult<Bytes>> + Send>>,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + 'static {
    stream::unfold(Some(messages), |messages| async move {
        let mut messages = messages?;
        let outcome = match messages.next().await {
            None => Ok(()),
            Some(message) => match message.and_then(|message| frame::frame(&message)) {
                Ok(framed) => return Some((Ok(Frame::data(framed)), Some(messages))),
                Err(error) => Err(error),
            },
        };
        Some((Ok(Frame::trailers(frame::trailers(&outcome))), None))
    })
}

fn respond(
    status: StatusCode,
    frames: impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + 'static,
) -> Answer {
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(CONTENT_TYPE));
    response
}

/// The one message of a request.
async fn receive(mut body: Incoming) -> GrpcResult<Bytes> {
    let mut deframer = Deframer::default();
    while let Some(next) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let next = next.map_err(|error| GrpcError::canceled(format!("the request broke off: {error}")))?;
        if let Ok(data) = next.into_data() {
            deframer.push(&data);
        }
        if let Some(message) = deframer.take()? {
            return Ok(message);
        }
    }
    deframer.single()
}
