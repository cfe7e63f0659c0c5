//! The wire format inside an HTTP/2 stream: length-prefixed messages, and the status in the trailers. Pure.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use prost::Message;

use crate::{Code, GrpcError, GrpcResult};

/// The longest message that is taken, as upstream's kubelet has it.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// One byte says whether the message is compressed, four say how long it is.
const PREFIX_BYTES: usize = 5;

pub(super) const CONTENT_TYPE: &str = "application/grpc";
pub(super) const STATUS: &str = "grpc-status";
pub(super) const MESSAGE: &str = "grpc-message";
pub(super) const TIMEOUT: &str = "grpc-timeout";

/// A message with its prefix.
pub(super) fn frame(message: &[u8]) -> GrpcResult<Bytes> {
    let length = u32::try_from(message.len())
        .ok()
        .filter(|_| message.len() <= MAX_MESSAGE_BYTES)
        .ok_or_else(|| too_large("send", message.len()))?;
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(length);
    framed.put_slice(message);
    Ok(framed.freeze())
}

fn too_large(verb: &str, bytes: usize) -> GrpcError {
    GrpcError::resource_exhausted(format!(
        "grpc: trying to {verb} message larger than max ({bytes} vs. {MAX_MESSAGE_BYTES})"
    ))
}

/// Reads a message.
///
/// # Errors
/// It is none of this kind.
pub fn decode<M: Message + Default>(message: &[u8]) -> GrpcResult<M> {
    M::decode(message).map_err(|error| GrpcError::internal(format!("grpc: failed to unmarshal the message: {error}")))
}

/// Takes bytes as they come and gives whole messages.
#[derive(Debug, Default)]
pub(super) struct Deframer {
    buffer: BytesMut,
}

impl Deframer {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if it is there.
    pub(super) fn take(&mut self) -> GrpcResult<Option<Bytes>> {
        let Some(prefix) = self.buffer.get(..PREFIX_BYTES) else { return Ok(None) };
        if prefix[0] != 0 {
            return Err(GrpcError::unimplemented("grpc: compressed messages are not taken"));
        }
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if length > MAX_MESSAGE_BYTES {
            return Err(too_large("receive", length));
        }
        if self.buffer.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX_BYTES);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// The only message of a call that has exactly one.
    pub(super) fn single(&mut self) -> GrpcResult<Bytes> {
        self.take()?.ok_or_else(|| GrpcError::internal("grpc: the call ended without a message"))
    }
}

/// What the headers or trailers say of how the call went; none when they do not.
pub(super) fn status(headers: &HeaderMap) -> Option<GrpcResult<()>> {
    let number: i32 = headers.get(STATUS)?.to_str().ok()?.parse().ok()?;
    if number == 0 {
        return Some(Ok(()));
    }
    let message = headers.get(MESSAGE).map(|text| unescape(text.as_bytes())).unwrap_or_default();
    Some(Err(GrpcError { code: Code::from_number(number), message }))
}

/// The trailers that tell how a call went.
pub(super) fn trailers(outcome: &GrpcResult<()>) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    let number = outcome.as_ref().err().map_or(0, |error| error.code as i32);
    trailers.insert(STATUS, HeaderValue::from(number));
    if let Err(error) = outcome {
        let text = HeaderValue::from_str(&escape(&error.message)).expect("what is escaped is plain ASCII");
        trailers.insert(MESSAGE, text);
    }
    trailers
}

/// Percent-encodes what a header cannot carry.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => escaped.push(char::from(byte)),
            _ => escaped += &format!("%{byte:02X}"),
        }
    }
    escaped
}

fn unescape(text: &[u8]) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| byte == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(value) => {
                plain.push(value);
                rest = &after[2..];
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// A time limit as the header has it: at most eight digits and a unit.
pub(super) fn write_timeout(limit: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let millis = limit.as_millis();
    if millis <= MOST { format!("{millis}m") } else { format!("{}S", u128::from(limit.as_secs()).min(MOST)) }
}

/// The time limit of a request.
pub(super) fn read_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number.saturating_mul(3600))),
        "M" => Some(Duration::from_secs(number.saturating_mul(60))),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_whole_however_they_arrive() {
        let mut bytes = frame(b"one").expect("short").to_vec();
        bytes.extend(frame(b"").expect("short"));
        bytes.extend(frame(b"three").expect("short"));
        for step in [1, 2, 7, bytes.len()] {
            let (mut deframer, mut found) = (Deframer::default(), Vec::new());
            for chunk in bytes.chunks(step) {
                deframer.push(chunk);
                while let Some(message) = deframer.take().expect("well formed") {
                    found.push(message);
                }
            }
            assert_eq!(found, [&b"one"[..], b"", b"three"]);
        }
    }

    #[test]
    fn messages_that_are_too_large_or_compressed_are_refused() {
        let refused = |prefix: [u8; 5]| {
            let mut deframer = Deframer::default();
            deframer.push(&prefix);
            deframer.take().expect_err("refused").code
        };
        assert_eq!(refused([0, 0xff, 0, 0, 0]), Code::ResourceExhausted);
        assert_eq!(refused([1, 0, 0, 0, 1]), Code::Unimplemented);
    }

    #[test]
    fn failures_survive_the_trailers() {
        let error = GrpcError::not_found("no \"ä\": 100 %\nnext line");
        assert_eq!(status(&trailers(&Err(error.clone()))), Some(Err(error)));
        assert_eq!(status(&trailers(&Ok(()))), Some(Ok(())));
        assert_eq!(status(&HeaderMap::new()), None);
    }

    #[test]
    fn time_limits_have_units() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(TIMEOUT, HeaderValue::from_static(text));
            read_timeout(&headers)
        };
        assert_eq!(read("2M"), Some(Duration::from_secs(120)));
        assert_eq!(read("1500m"), Some(Duration::from_millis(1500)));
        assert_eq!(read("7"), None);
        assert_eq!(write_timeout(Duration::from_secs(120)), "120000m");
        assert_eq!(write_timeout(Duration::from_secs(1 << 20)), "1048576S");
    }
}
