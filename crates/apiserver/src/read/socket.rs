//! Watches over WebSocket, as browsers open them: every event is a message, text where the encoding is one.

use std::pin::pin;

use bytes::{Buf, Bytes};
use futures_util::{SinkExt, Stream, StreamExt};
use http::StatusCode;
use http::header::{
    CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    UPGRADE,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use skiff_object::Status;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::failure::Result;
use crate::http::answer::Answer;
use crate::http::body::{self, BoxError};
use crate::http::negotiate::Media;

/// The longest message that is taken from a client, which has nothing to say.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// The bytes of the length before an event in protobuf.
const LENGTH_BYTES: usize = 4;

/// Whether a request wants to go on as a WebSocket.
pub fn is_wanted(headers: &HeaderMap) -> bool {
    let names = |name, word: &str| {
        let value = headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or("");
        value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    names(CONNECTION, "upgrade") && names(UPGRADE, "websocket")
}

/// Answers with a WebSocket that sends the events in `pieces`.
pub fn answer(
    headers: &HeaderMap,
    upgrade: OnUpgrade,
    media: Media,
    pieces: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> Result<Answer> {
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| Status::bad_request("missing Sec-WebSocket-Key"))?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(Status::internal)?;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => serve(upgraded, media, pieces).await,
            Err(error) => tracing::debug!(%error, "the upgrade of a watch failed"),
        }
    });
    let mut answer = Answer::new(body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let told = answer.headers_mut();
    told.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    told.insert(UPGRADE, HeaderValue::from_static("websocket"));
    told.insert(SEC_WEBSOCKET_ACCEPT, accept);
    told.insert(CONTENT_TYPE, HeaderValue::from_static(media.stream_name().unwrap_or_else(|| media.name())));
    if let Some(first) = headers.get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok()) {
        let first = first.split(',').next().unwrap_or("").trim();
        told.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(first).map_err(Status::internal)?);
    }
    Ok(answer)
}

async fn serve(upgraded: Upgraded, media: Media, pieces: impl Stream<Item = Result<Bytes, BoxError>>) {
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE_BYTES));
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let (mut sink, mut source) = socket.split();
    let mut pieces = pin!(pieces);
    loop {
        tokio::select! {
            piece = pieces.next() => {
                let Some(Ok(piece)) = piece else { break };
                for message in messages(media, piece) {
                    if sink.feed(message).await.is_err() {
                        return;
                    }
                }
                if sink.flush().await.is_err() {
                    return;
                }
            }
            // Whatever a client sends is not looked at; that it goes is.
            heard = source.next() => match heard {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
    if let Err(error) = sink.close().await {
        tracing::debug!(%error, "closing a watch");
    }
}

/// The events of a piece, each a message.
fn messages(media: Media, mut piece: Bytes) -> Vec<Message> {
    if media != Media::Protobuf {
        let lines = piece.split_inclusive(|byte| *byte == b'\n');
        return lines.map(|line| Message::text(String::from_utf8_lossy(line).into_owned())).collect();
    }
    let mut messages = Vec::new();
    while piece.len() >= LENGTH_BYTES {
        let length = (piece.get_u32() as usize).min(piece.len());
        messages.push(Message::Binary(piece.split_to(length)));
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_a_message() {
        let lines = messages(Media::Json, Bytes::from_static(b"{\"a\":1}\n{\"b\":2}\n"));
        assert_eq!(lines, [Message::text("{\"a\":1}\n"), Message::text("{\"b\":2}\n")]);
        let frames = messages(Media::Protobuf, Bytes::from_static(b"\0\0\0\x02ab\0\0\0\x01c"));
        assert_eq!(frames, [Message::binary(&b"ab"[..]), Message::binary(&b"c"[..])]);
    }

    #[test]
    fn only_websockets_are_wanted() {
        let mut headers = HeaderMap::new();
        assert!(!is_wanted(&headers));
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("WebSocket"));
        assert!(is_wanted(&headers));
    }
}
