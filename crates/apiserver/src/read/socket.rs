//! Watches and logs over WebSocket, as browsers open them. Every event of a watch is a message, text where the encoding is
//! one; a log comes in messages as it is written, in bytes or, by the protocol that says so, in base64.

use std::pin::pin;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Buf, Bytes};
use futures_util::{SinkExt, Stream, StreamExt, stream};
use http::StatusCode;
use http::header::{
    CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    UPGRADE,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use skiff_object::{Reason, Status};
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

/// The protocols by which a stream of bytes is read; without one it is read as by the first.
const BYTES_PROTOCOLS: [&str; 2] = ["binary.k8s.io", "base64.binary.k8s.io"];

/// What the messages of a WebSocket are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Events(Media),
    Binary,
    Base64,
}

/// Answers with a WebSocket that sends the events in `pieces`.
pub fn events(
    headers: &HeaderMap,
    upgrade: Option<OnUpgrade>,
    media: Media,
    pieces: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> Result<Answer> {
    let first = asked(headers).first().copied();
    let mut answer = answer(headers, upgrade, first, Form::Events(media), pieces)?;
    let name = HeaderValue::from_static(media.stream_name().unwrap_or_else(|| media.name()));
    answer.headers_mut().insert(CONTENT_TYPE, name);
    Ok(answer)
}

/// Answers with a WebSocket that sends the bytes in `pieces`, after an empty message that says that it is open.
pub fn bytes(
    headers: &HeaderMap,
    upgrade: Option<OnUpgrade>,
    pieces: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> Result<Answer> {
    let protocol = bytes_protocol(&asked(headers))?;
    let form = if protocol == Some(BYTES_PROTOCOLS[1]) { Form::Base64 } else { Form::Binary };
    answer(headers, upgrade, protocol, form, stream::iter([Ok(Bytes::new())]).chain(pieces))
}

/// The protocols that a client knows, the one it likes best first.
fn asked(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|name| !name.is_empty()).collect()
}

fn bytes_protocol<'a>(asked: &[&'a str]) -> Result<Option<&'a str>> {
    let known = asked.iter().copied().find(|name| BYTES_PROTOCOLS.contains(name));
    if known.is_none() && !asked.is_empty() {
        let text = format!("requested protocol(s) are not supported: {asked:?}; supports {BYTES_PROTOCOLS:?}");
        return Err(Status::failure(403, Reason::Forbidden, text).into());
    }
    Ok(known)
}

fn answer(
    headers: &HeaderMap,
    upgrade: Option<OnUpgrade>,
    protocol: Option<&str>,
    form: Form,
    pieces: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> Result<Answer> {
    let upgrade = upgrade.ok_or_else(|| Status::bad_request("this connection cannot be upgraded"))?;
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| Status::bad_request("missing Sec-WebSocket-Key"))?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(Status::internal)?;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => serve(upgraded, form, pieces).await,
            Err(error) => tracing::debug!(%error, "the upgrade to a WebSocket failed"),
        }
    });
    let mut answer = Answer::new(body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let told = answer.headers_mut();
    told.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    told.insert(UPGRADE, HeaderValue::from_static("websocket"));
    told.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol {
        told.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(protocol).map_err(Status::internal)?);
    }
    Ok(answer)
}

async fn serve(upgraded: Upgraded, form: Form, pieces: impl Stream<Item = Result<Bytes, BoxError>>) {
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE_BYTES));
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let (mut sink, mut source) = socket.split();
    let mut pieces = pin!(pieces);
    loop {
        tokio::select! {
            piece = pieces.next() => {
                let Some(Ok(piece)) = piece else { break };
                for message in messages(form, piece) {
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
        tracing::debug!(%error, "closing a WebSocket");
    }
}

/// What of a piece is a message: an event, or all of it.
fn messages(form: Form, mut piece: Bytes) -> Vec<Message> {
    match form {
        Form::Binary => return vec![Message::Binary(piece)],
        Form::Base64 => return vec![Message::text(BASE64.encode(piece))],
        Form::Events(Media::Protobuf) => {}
        Form::Events(_) => {
            let lines = piece.split_inclusive(|byte| *byte == b'\n');
            return lines.map(|line| Message::text(String::from_utf8_lossy(line).into_owned())).collect();
        }
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
        let lines = messages(Form::Events(Media::Json), Bytes::from_static(b"{\"a\":1}\n{\"b\":2}\n"));
        assert_eq!(lines, [Message::text("{\"a\":1}\n"), Message::text("{\"b\":2}\n")]);
        let frames = messages(Form::Events(Media::Protobuf), Bytes::from_static(b"\0\0\0\x02ab\0\0\0\x01c"));
        assert_eq!(frames, [Message::binary(&b"ab"[..]), Message::binary(&b"c"[..])]);
        let said = Bytes::from_static(b"a\nb\n");
        assert_eq!(messages(Form::Binary, said.clone()), [Message::Binary(said.clone())]);
        assert_eq!(messages(Form::Base64, said), [Message::text("YQpiCg==")]);
    }

    #[test]
    fn the_first_protocol_that_is_known_is_spoken() {
        let check =
            |asked: &[&str]| bytes_protocol(asked).map(|found| found.map(str::to_owned)).map_err(|no| no.0.code);
        assert_eq!(check(&[]), Ok(None));
        assert_eq!(check(&["chat", "base64.binary.k8s.io", "binary.k8s.io"]), Ok(Some("base64.binary.k8s.io".into())));
        assert_eq!(check(&["v4.channel.k8s.io"]), Err(403));
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
