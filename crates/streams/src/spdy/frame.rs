//! Frames on the wire: reading them off a byte stream, and writing them.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::headers::{HeaderError, Reader, Writer};

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;
const FLAG_FIN: u8 = 1;
/// The longest frame that is taken; clients send at most some tens of kilobytes at a time.
const MAX_FRAME_BYTES: usize = 1 << 20;
/// Stream ids and counts have 31 bits.
const LOW_BITS: u32 = 0x7fff_ffff;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The byte stream broke.
    #[error("SPDY connection: {0}")]
    Io(#[from] std::io::Error),
    /// The peer sends what is no SPDY.
    #[error("SPDY protocol error: {0}")]
    Protocol(&'static str),
    /// A header block is broken, and with it all that follow.
    #[error(transparent)]
    Headers(#[from] HeaderError),
}

/// A frame that the peer sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A stream opens.
    SynStream { stream: u32, headers: Vec<(String, String)>, fin: bool },
    /// Bytes of a stream.
    Data { stream: u32, bytes: Bytes, fin: bool },
    /// A stream is broken off.
    Reset { stream: u32 },
    /// To be sent back.
    Ping { id: u32 },
    /// No more streams come.
    GoAway,
    /// Something that needs no answer.
    Other,
}

/// Reads the next frame; `None` at the end of the connection.
pub(crate) async fn read<R: AsyncRead + Unpin>(
    input: &mut R,
    headers: &mut Reader,
) -> Result<Option<Frame>, FrameError> {
    let mut head = [0u8; 8];
    if let Err(error) = input.read_exact(&mut head).await {
        return if error.kind() == std::io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error.into()) };
    }
    let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (flags, length) = (head[4], (word(4) & 0x00ff_ffff) as usize);
    if length > MAX_FRAME_BYTES {
        return Err(FrameError::Protocol("a frame is too long"));
    }
    let mut payload = vec![0u8; length];
    input.read_exact(&mut payload).await?;
    if head[0] & 0x80 == 0 {
        return Ok(Some(Frame::Data { stream: word(0), bytes: payload.into(), fin: flags & FLAG_FIN != 0 }));
    }
    let (version, kind) = ((word(0) >> 16) as u16 & 0x7fff, word(0) as u16);
    if version != VERSION {
        return Err(FrameError::Protocol("another version than 3"));
    }
    control(kind, flags, &payload, headers).map(Some)
}

fn control(kind: u16, flags: u8, payload: &[u8], headers: &mut Reader) -> Result<Frame, FrameError> {
    let word = |at: usize| {
        let bytes = payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_be_bytes).ok_or(FrameError::Protocol("a frame breaks off"))
    };
    Ok(match kind {
        SYN_STREAM => {
            let block = payload.get(10..).ok_or(FrameError::Protocol("a frame breaks off"))?;
            Frame::SynStream { stream: word(0)? & LOW_BITS, headers: headers.read(block)?, fin: flags & FLAG_FIN != 0 }
        }
        SYN_REPLY | HEADERS => {
            // The block must be read even if nobody wants it: the next one is packed relative to it.
            headers.read(payload.get(4..).ok_or(FrameError::Protocol("a frame breaks off"))?)?;
            Frame::Other
        }
        RST_STREAM => Frame::Reset { stream: word(0)? & LOW_BITS },
        PING => Frame::Ping { id: word(0)? },
        GOAWAY => Frame::GoAway,
        _ => Frame::Other,
    })
}

fn control_frame(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(8 + payload.len());
    frame.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&(u32::from(flags) << 24 | payload.len() as u32).to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Accepts a stream.
pub(crate) fn syn_reply(stream: u32, writer: &mut Writer) -> Result<Vec<u8>, FrameError> {
    let mut payload = stream.to_be_bytes().to_vec();
    payload.extend(writer.write(&[])?);
    Ok(control_frame(SYN_REPLY, 0, &payload))
}

/// Bytes of a stream, and whether it ends with them.
pub(crate) fn data(stream: u32, bytes: &[u8], fin: bool) -> Vec<u8> {
    let mut frame = Vec::with_capacity(8 + bytes.len());
    frame.extend_from_slice(&(stream & LOW_BITS).to_be_bytes());
    frame.extend_from_slice(&(u32::from(fin) << 24 | bytes.len() as u32).to_be_bytes());
    frame.extend_from_slice(bytes);
    frame
}

/// The answer to a ping.
pub(crate) fn ping(id: u32) -> Vec<u8> {
    control_frame(PING, 0, &id.to_be_bytes())
}

/// Lets the peer send `bytes` more on a stream (0: on the connection).
pub(crate) fn window_update(stream: u32, bytes: u32) -> Vec<u8> {
    control_frame(WINDOW_UPDATE, 0, &[stream.to_be_bytes(), (bytes & LOW_BITS).to_be_bytes()].concat())
}

/// Says that the connection ends in order.
pub(crate) fn go_away(last_stream: u32) -> Vec<u8> {
    control_frame(GOAWAY, 0, &[last_stream.to_be_bytes(), [0; 4]].concat())
}

/// Opens a stream; what clients send.
#[cfg(test)]
pub(crate) fn syn_stream(stream: u32, headers: &[(&str, &str)], writer: &mut Writer) -> Vec<u8> {
    let mut payload = [stream.to_be_bytes(), [0; 4]].concat();
    payload.extend([0, 0]);
    payload.extend(writer.write(headers).expect("short"));
    control_frame(SYN_STREAM, 0, &payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(bytes: Vec<u8>, expected: Frame) {
        let frame = read(&mut bytes.as_slice(), &mut Reader::new()).await.expect("valid");
        assert_eq!(frame, Some(expected));
    }

    #[tokio::test]
    async fn frames_read_back() {
        check(data(5, b"abc", true), Frame::Data { stream: 5, bytes: Bytes::from_static(b"abc"), fin: true }).await;
        check(ping(7), Frame::Ping { id: 7 }).await;
        check(go_away(1), Frame::GoAway).await;
        let headers = vec![("streamtype".to_owned(), "error".to_owned())];
        let opened = syn_stream(1, &[("streamtype", "error")], &mut Writer::new());
        check(opened, Frame::SynStream { stream: 1, headers, fin: false }).await;
        assert_eq!(read(&mut &b""[..], &mut Reader::new()).await.expect("the end"), None);
        assert!(read(&mut &[0x80, 9, 0, 1, 0, 0, 0, 0][..], &mut Reader::new()).await.is_err());
    }
}
