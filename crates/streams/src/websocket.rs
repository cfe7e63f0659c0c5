//! The WebSocket channel protocols: every binary message begins with the number of its channel.
//! `v5.channel.k8s.io` adds a message that ends a channel; before it, input could not be ended.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::session::{
    ForwardedConnection, KeepOpen, Outgoing, Output, PortForward, QUEUE, RemoteCommand, Streams, TerminalSize,
};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Not a channel: the message's second byte names the channel that ends (version 5).
const CLOSE: u8 = 255;
/// The longest message that is taken.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// How much of a tunnelled byte stream is buffered in each direction.
const TUNNEL_BYTES: usize = 64 << 10;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A WebSocket over an upgraded connection.
pub(crate) async fn open(upgraded: Upgraded) -> Socket {
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE_BYTES));
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await
}

/// What is done with the messages of the channels that the client sends on.
type Inputs = HashMap<u8, mpsc::Sender<Bytes>>;

/// Serves the channels until the client goes, or `out` and everything that sends on it is dropped.
fn serve(
    socket: Socket,
    form: Form,
    mut inputs: Inputs,
    mut out: mpsc::Receiver<Outgoing>,
    mut stop: mpsc::Receiver<()>,
) {
    let (mut sink, mut source) = socket.split();
    let (pong_sender, mut pongs) = mpsc::channel(QUEUE);
    let reader = async move {
        loop {
            let message = tokio::select! {
                message = source.next() => message,
                _ = stop.recv() => return,
            };
            match message {
                Some(Ok(Message::Binary(bytes))) => deliver(&mut inputs, bytes).await,
                // Clients in languages where strings are no bytes send what is typed as text.
                Some(Ok(Message::Text(text))) => match form.read(text.into()) {
                    Some(bytes) => deliver(&mut inputs, bytes).await,
                    None => return,
                },
                Some(Ok(Message::Ping(bytes))) => {
                    if pong_sender.send(bytes).await.is_err() {
                        return;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            }
        }
    };
    let writer = async move {
        loop {
            let message = tokio::select! {
                outgoing = out.recv() => match outgoing {
                    Some(Outgoing::Data(channel, bytes)) => form.message(channel as u8, &bytes),
                    // Only the client can end a channel; the session's end is told by closing the connection.
                    Some(Outgoing::End(_)) => continue,
                    None => break,
                },
                Some(bytes) = pongs.recv() => Message::Pong(bytes),
            };
            sink.send(message).await?;
        }
        let reason = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        sink.send(Message::Close(Some(reason))).await?;
        sink.close().await
    };
    tokio::spawn(reader);
    tokio::spawn(async move {
        match writer.await {
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {}
            Err(error) => tracing::debug!(%error, "WebSocket"),
        }
    });
}

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The channel's number in one byte, then the bytes.
    Binary,
    /// Text, for clients that have nothing else: the channel's digit, then the bytes in base64.
    Base64,
}

impl Form {
    /// The form of a protocol.
    pub(crate) fn of(protocol: &str) -> Self {
        if protocol.contains("base64.") { Self::Base64 } else { Self::Binary }
    }

    /// What a text message says, in the binary form; nothing where it is malformed.
    fn read(self, text: Bytes) -> Option<Bytes> {
        if self == Self::Binary {
            return Some(text);
        }
        let Some((digit, encoded)) = text.split_first() else { return Some(text) };
        let channel = digit.checked_sub(b'0')?;
        Some(tagged(channel, &BASE64.decode(encoded).ok()?))
    }

    fn message(self, channel: u8, bytes: &[u8]) -> Message {
        match self {
            Self::Binary => Message::Binary(tagged(channel, bytes)),
            Self::Base64 => {
                let digit = char::from(b'0'.saturating_add(channel));
                Message::Text(format!("{digit}{}", BASE64.encode(bytes)).into())
            }
        }
    }
}

fn tagged(channel: u8, bytes: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(bytes.len() + 1);
    message.extend_from_slice(&[channel]);
    message.extend_from_slice(bytes);
    message.freeze()
}

async fn deliver(inputs: &mut Inputs, message: Bytes) {
    let Some((&channel, _)) = message.split_first() else { return };
    if channel == CLOSE {
        if let Some(ended) = message.get(1) {
            inputs.remove(ended);
        }
        return;
    }
    let bytes = message.slice(1..);
    if let Some(sender) = inputs.get(&channel).filter(|_| !bytes.is_empty()) {
        // Nobody listening on the channel is no fault of the others.
        if sender.send(bytes).await.is_err() {
            inputs.remove(&channel);
        }
    }
}

/// A command over the channels of `version` 1 to 5.
pub(crate) fn command(socket: Socket, form: Form, streams: Streams, version: u8) -> RemoteCommand {
    let (out_sender, out) = mpsc::channel(QUEUE);
    let (stop_sender, stop) = mpsc::channel(1);
    let (stdin_sender, stdin) = mpsc::channel(QUEUE);
    let (resize_sender, mut raw_sizes) = mpsc::channel::<Bytes>(QUEUE);
    let (size_sender, resize) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        while let Some(bytes) = raw_sizes.recv().await {
            if let Some(size) = TerminalSize::parse(&bytes)
                && size_sender.send(size).await.is_err()
            {
                return;
            }
        }
    });
    let mut inputs = Inputs::from([(RESIZE, resize_sender)]);
    if streams.stdin {
        inputs.insert(STDIN, stdin_sender);
    }
    serve(socket, form, inputs, out, stop);
    let output = |wanted: bool, channel: u8| wanted.then(|| Output::new(channel.into(), out_sender.clone()));
    RemoteCommand {
        stdin: streams.stdin.then_some(stdin),
        stdout: output(streams.stdout, STDOUT),
        stderr: output(streams.stderr && !streams.tty, STDERR),
        resize,
        error: Output::new(ERROR.into(), out_sender.clone()),
        statuses: version >= 4,
        connection: KeepOpen(Box::new(stop_sender)),
    }
}

/// Port-forward over channels: two for each port, data and error; each begins with the port's number, low byte first.
pub(crate) async fn port_forward(socket: Socket, form: Form, ports: &[u16]) -> PortForward {
    let (out_sender, out) = mpsc::channel(QUEUE);
    let (stop_sender, stop) = mpsc::channel(1);
    let (sender, connections) = mpsc::channel(QUEUE.max(ports.len()));
    let mut inputs = Inputs::new();
    let mut opened = Vec::new();
    for (index, port) in ports.iter().enumerate().take(usize::from(CLOSE) / 2) {
        let channel = (index * 2) as u8;
        let (input_sender, input) = mpsc::channel(QUEUE);
        inputs.insert(channel, input_sender);
        let output = Output::new(channel.into(), out_sender.clone());
        let error = Output::new(u32::from(channel) + 1, out_sender.clone());
        opened.push(ForwardedConnection { port: *port, input, output, error });
    }
    serve(socket, form, inputs, out, stop);
    for connection in opened {
        let head = Bytes::copy_from_slice(&connection.port.to_le_bytes());
        let greeted = async {
            connection.output.write(head.clone()).await?;
            connection.error.write(head).await
        };
        if greeted.await.is_err() || sender.send(connection).await.is_err() {
            break;
        }
    }
    tokio::spawn(async move {
        sender.closed().await;
        drop(stop_sender);
    });
    PortForward { connections }
}

/// A plain byte stream inside the binary messages of a WebSocket.
pub(crate) fn tunnel(socket: Socket) -> DuplexStream {
    let (near, far) = tokio::io::duplex(TUNNEL_BYTES);
    let (mut sink, mut source) = socket.split();
    let (mut from_session, mut to_session) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(bytes) => {
                    let Ok(()) = to_session.write_all(&bytes).await else { return };
                }
                Message::Close(_) => break,
                _ => {}
            }
        }
        if let Err(error) = to_session.shutdown().await {
            tracing::debug!(%error, "WebSocket tunnel");
        }
    });
    tokio::spawn(async move {
        let mut buffer = BytesMut::with_capacity(TUNNEL_BYTES);
        while let Ok(1..) = from_session.read_buf(&mut buffer).await {
            if sink.send(Message::Binary(buffer.split().freeze())).await.is_err() {
                return;
            }
            buffer.reserve(TUNNEL_BYTES);
        }
        if let Err(error) = sink.close().await {
            tracing::debug!(%error, "WebSocket tunnel");
        }
    });
    near
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_two_forms() {
        let text = Form::Base64.message(1, b"hi");
        assert_eq!(text, Message::Text("1aGk=".into()));
        assert_eq!(Form::Base64.read("1aGk=".into()).as_deref(), Some(&b"\x01hi"[..]));
        assert_eq!(Form::Base64.read("0".into()).as_deref(), Some(&b"\0"[..]));
        assert_eq!(Form::Base64.read("1?".into()), None);
        assert_eq!(Form::Base64.read(" x".into()), None);
        assert_eq!(Form::Binary.message(2, b"x"), Message::Binary(Bytes::from_static(b"\x02x")));
        assert_eq!([Form::of("v4.base64.channel.k8s.io"), Form::of("v4.channel.k8s.io")], [Form::Base64, Form::Binary]);
    }
}
