//! The body type of requests and answers, and reading one with a bound.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::Frame;
use skiff_object::Status;

use crate::failure::Result;

/// Why a body broke off.
pub type BoxError = std::io::Error;

/// A body, whole or streamed.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The largest request body that is read, as upstream's.
pub const MAX_REQUEST_BYTES: usize = 3 * 1024 * 1024;

/// Who encodes much lets others in after about so much of it: some tens of microseconds.
const STRETCH_BYTES: usize = 64 * 1024;

/// No body.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that is all there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that comes in pieces.
pub fn stream(pieces: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Body {
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync()
}

/// A body that holds something until nobody wants more of it.
pub fn holding(body: Body, held: impl Send + 'static) -> Body {
    let keep = move |error| {
        // What holds it is the function, which lives as long as the body does.
        let _held = &held;
        error
    };
    body.map_err(keep).boxed_unsync()
}

/// Long work that is done in stretches, between which others have the thread.
#[derive(Debug, Default)]
pub struct Stretches {
    done_bytes: usize,
}

impl Stretches {
    /// Notes that so much was encoded, and lets others in where it was much since they last were.
    pub async fn did(&mut self, bytes: usize) {
        self.done_bytes += bytes;
        if self.done_bytes >= STRETCH_BYTES {
            self.done_bytes = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Reads a request's body, up to [`MAX_REQUEST_BYTES`].
pub async fn read(body: Body) -> Result<Bytes> {
    match Limited::new(body, MAX_REQUEST_BYTES).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Status::too_large(MAX_REQUEST_BYTES).into()),
        Err(error) => Err(Status::bad_request(format!("unable to read the request body: {error}")).into()),
    }
}
