//! The server's side of a connection: one task reads frames and hands them to their streams, one writes.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::frame::{self, Frame, FrameError};
use super::headers::{Reader, Writer};
use crate::session::{Outgoing, Output, QUEUE};

/// The most streams that may be open at a time.
const MAX_STREAMS: usize = 1024;
/// Data frames are cut at this size.
const MAX_DATA_BYTES: usize = 32 << 10;

/// A stream that the client opened.
pub(crate) struct Opened {
    /// The headers, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// What the client sends on it; closed at its end.
    pub(crate) input: mpsc::Receiver<Bytes>,
    /// What the client gets on it.
    pub(crate) output: Output,
}

impl Opened {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// The streams as the client opens them; closed with the connection.
pub(crate) type Incoming = mpsc::Receiver<Opened>;

/// What the reading task tells the writing one.
enum Reply {
    Accept(u32),
    Ping(u32),
    Window(u32, u32),
}

/// Serves a connection until the client ends it, or until [`Incoming`] and all streams' outputs are dropped; in tasks of its own until either side ends it.
pub(crate) fn serve<R, W>(input: R, output: W) -> Incoming
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let (opened_sender, opened) = mpsc::channel(QUEUE);
    let (out_sender, out) = mpsc::channel(QUEUE);
    let (reply_sender, replies) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        if let Err(error) = read_all(input, opened_sender, out_sender, reply_sender).await {
            tracing::debug!(%error, "SPDY connection");
        }
    });
    tokio::spawn(async move {
        if let Err(error) = write_all(output, out, replies).await {
            tracing::debug!(%error, "SPDY connection");
        }
    });
    opened
}

async fn read_all<R: AsyncRead + Unpin>(
    mut input: R,
    opened: mpsc::Sender<Opened>,
    out: mpsc::Sender<Outgoing>,
    replies: mpsc::Sender<Reply>,
) -> Result<(), FrameError> {
    let mut reader = Reader::new();
    let mut streams: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    // The writer ends once nobody can send any more, so the reader ends as soon as nobody takes streams.
    loop {
        let frame = tokio::select! {
            frame = frame::read(&mut input, &mut reader) => frame?,
            () = opened.closed() => return Ok(()),
        };
        let Some(frame) = frame else { return Ok(()) };
        // A writer that is gone means that the session is over.
        let replied = match frame {
            Frame::SynStream { stream, headers, fin } => {
                if streams.len() >= MAX_STREAMS || streams.contains_key(&stream) {
                    return Err(FrameError::Protocol("too many streams, or one twice"));
                }
                let (sender, input) = mpsc::channel(QUEUE);
                if !fin {
                    streams.insert(stream, sender);
                }
                let replied = replies.send(Reply::Accept(stream)).await;
                let stream = Opened { headers, input, output: Output::new(stream, out.clone()) };
                if opened.send(stream).await.is_err() {
                    return Ok(());
                }
                replied
            }
            Frame::Data { stream, bytes, fin } => {
                let length = bytes.len() as u32;
                if let Some(sender) = streams.get(&stream).filter(|_| length > 0) {
                    // Nobody listening on the stream is no fault of the others: its bytes are dropped.
                    if sender.send(bytes).await.is_err() {
                        streams.remove(&stream);
                    }
                }
                if fin {
                    streams.remove(&stream);
                }
                if length > 0 { replies.send(Reply::Window(stream, length)).await } else { Ok(()) }
            }
            Frame::Reset { stream } => {
                streams.remove(&stream);
                Ok(())
            }
            Frame::Ping { id } => replies.send(Reply::Ping(id)).await,
            Frame::GoAway => return Ok(()),
            Frame::Other => Ok(()),
        };
        if replied.is_err() {
            return Ok(());
        }
    }
}

async fn write_all<W: AsyncWrite + Unpin>(
    mut output: W,
    mut out: mpsc::Receiver<Outgoing>,
    mut replies: mpsc::Receiver<Reply>,
) -> Result<(), FrameError> {
    let mut writer = Writer::new();
    let mut last_stream = 0;
    let mut replies_open = true;
    loop {
        // Replies first: a stream must be accepted before anything is sent on it.
        let bytes = tokio::select! {
            biased;
            reply = replies.recv(), if replies_open => match reply {
                Some(Reply::Accept(stream)) => {
                    last_stream = stream;
                    frame::syn_reply(stream, &mut writer)?
                }
                Some(Reply::Ping(id)) => frame::ping(id),
                Some(Reply::Window(stream, bytes)) => {
                    [frame::window_update(stream, bytes), frame::window_update(0, bytes)].concat()
                }
                None => {
                    replies_open = false;
                    continue;
                }
            },
            outgoing = out.recv() => match outgoing {
                Some(Outgoing::Data(stream, bytes)) => {
                    bytes.chunks(MAX_DATA_BYTES).flat_map(|part| frame::data(stream, part, false)).collect()
                }
                Some(Outgoing::End(stream)) => frame::data(stream, &[], true),
                None => break,
            },
        };
        output.write_all(&bytes).await?;
        if out.is_empty() {
            output.flush().await?;
        }
    }
    output.write_all(&frame::go_away(last_stream)).await?;
    output.shutdown().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn streams_open_carry_bytes_and_end() {
        let (client, server) = tokio::io::duplex(1 << 16);
        let (read, write) = tokio::io::split(server);
        let mut incoming = serve(read, write);
        let (mut from_server, mut to_server) = tokio::io::split(client);
        let mut writer = Writer::new();
        let mut sent = frame::syn_stream(1, &[("streamtype", "stdin")], &mut writer);
        sent.extend(frame::data(1, b"over", false));
        sent.extend(frame::data(1, b" there", true));
        sent.extend(frame::ping(9));
        to_server.write_all(&sent).await.expect("open");
        let mut stream = incoming.recv().await.expect("a stream");
        assert_eq!(stream.header("streamtype"), Some("stdin"));
        let mut got = Vec::new();
        while let Some(bytes) = stream.input.recv().await {
            got.extend_from_slice(&bytes);
        }
        assert_eq!(got, b"over there");
        stream.output.write("back").await.expect("open");
        stream.output.end().await.expect("open");
        drop(incoming);
        let mut reader = Reader::new();
        let mut seen = Vec::new();
        while let Some(frame) = frame::read(&mut from_server, &mut reader).await.expect("valid") {
            if let Frame::Data { bytes, fin, .. } = frame {
                seen.push((bytes, fin));
            } else if frame == Frame::GoAway {
                break;
            }
        }
        assert_eq!(seen, [(Bytes::from_static(b"back"), false), (Bytes::new(), true)]);
        let mut rest = Vec::new();
        from_server.read_to_end(&mut rest).await.expect("closed");
        assert!(rest.is_empty());
    }
}
