//! Choosing the protocol of an upgrade request, answering it, and making the session once it is upgraded.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::session::{ForwardedConnection, KeepOpen, PortForward, QUEUE, RemoteCommand, Streams, TerminalSize};
use crate::spdy::{self, Incoming, Opened};
use crate::websocket::{self, Form};

/// A client must have opened its streams within this time; upstream's default is the same.
const CREATION_TIMEOUT: Duration = Duration::from_secs(30);
const STREAM_VERSION: &str = "x-stream-protocol-version";
const COMMAND_PROTOCOLS: [&str; 7] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "base64.channel.k8s.io",
    "channel.k8s.io",
];
const FORWARD_SPDY: &str = "portforward.k8s.io";
const FORWARD_TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const FORWARD_CHANNELS: &str = "v4.channel.k8s.io";
/// All of them over a WebSocket, the preferred one first.
const FORWARD_PROTOCOLS: [&str; 4] = [FORWARD_TUNNEL, FORWARD_CHANNELS, "v4.base64.channel.k8s.io", FORWARD_SPDY];

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The request asks for no upgrade that is known here; answer 400.
    #[error("unable to upgrade: {0}")]
    NotAsked(String),
    /// The connection broke before it was upgraded.
    #[error("upgrade: {0}")]
    Broken(String),
    /// The client did not open its streams.
    #[error("{0}")]
    Streams(String),
}

/// The answer to an upgrade request, and the session that it leads to.
pub struct Accepted<S> {
    /// To be sent at once: 101, the connection is another's from now on.
    pub response: Response<()>,
    /// Ready once the connection is upgraded and the client has opened its streams.
    pub session: Pin<Box<dyn Future<Output = Result<S, UpgradeError>> + Send>>,
}

/// The protocol that carries a session.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Carrier {
    WebSocket { protocol: String, key: String },
    Spdy { protocol: Option<String> },
}

/// Answers an exec or attach request.
///
/// # Errors
/// The request asks for no protocol that is known here.
pub fn accept_command<B>(request: &mut Request<B>, streams: Streams) -> Result<Accepted<RemoteCommand>, UpgradeError> {
    let carrier = negotiate(request.headers(), &COMMAND_PROTOCOLS, &COMMAND_PROTOCOLS)?;
    let upgrade = hyper::upgrade::on(request);
    let response = switching(&carrier);
    let session = Box::pin(async move {
        let upgraded = upgraded(upgrade).await?;
        match carrier {
            Carrier::WebSocket { protocol, .. } => Ok({
                let form = Form::of(&protocol);
                websocket::command(websocket::open(upgraded).await, form, streams, version_of(&protocol))
            }),
            Carrier::Spdy { protocol } => {
                let version = protocol.as_deref().map_or(1, version_of);
                let (read, write) = tokio::io::split(TokioIo::new(upgraded));
                spdy_command(spdy::serve(read, write), streams, version).await
            }
        }
    });
    Ok(Accepted { response, session })
}

/// Answers a port-forward request; `ports` are those of the query, which the channel protocol needs.
///
/// # Errors
/// The request asks for no protocol that is known here.
pub fn accept_port_forward<B>(
    request: &mut Request<B>,
    ports: Vec<u16>,
) -> Result<Accepted<PortForward>, UpgradeError> {
    let carrier = negotiate(request.headers(), &FORWARD_PROTOCOLS, &[FORWARD_SPDY])?;
    let upgrade = hyper::upgrade::on(request);
    let response = switching(&carrier);
    let session = Box::pin(async move {
        let upgraded = upgraded(upgrade).await?;
        Ok(match carrier {
            Carrier::WebSocket { protocol, .. } if protocol == FORWARD_TUNNEL => {
                let (read, write) = tokio::io::split(websocket::tunnel(websocket::open(upgraded).await));
                spdy_port_forward(spdy::serve(read, write))
            }
            Carrier::WebSocket { protocol, .. } => {
                websocket::port_forward(websocket::open(upgraded).await, Form::of(&protocol), &ports).await
            }
            Carrier::Spdy { .. } => {
                let (read, write) = tokio::io::split(TokioIo::new(upgraded));
                spdy_port_forward(spdy::serve(read, write))
            }
        })
    });
    Ok(Accepted { response, session })
}

async fn upgraded(upgrade: OnUpgrade) -> Result<Upgraded, UpgradeError> {
    upgrade.await.map_err(|error| UpgradeError::Broken(error.to_string()))
}

/// `v4.channel.k8s.io` is version 4; without a number it is 1.
fn version_of(protocol: &str) -> u8 {
    protocol.strip_prefix('v').and_then(|rest| rest.split('.').next()?.parse().ok()).unwrap_or(1)
}

fn negotiate(headers: &HeaderMap, websocket: &[&str], spdy: &[&str]) -> Result<Carrier, UpgradeError> {
    let listed = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values
            .flat_map(|value| value.split(','))
            .map(|item| item.trim().to_owned())
            .filter(|item| !item.is_empty())
            .collect()
    };
    let choose = |asked: &[String], known: &[&str]| {
        known
            .iter()
            .find(|protocol| asked.iter().any(|other| other == *protocol))
            .map(|protocol| (*protocol).to_owned())
    };
    let upgrade = listed("upgrade").join(",").to_ascii_lowercase();
    if upgrade.contains("websocket") {
        let asked = listed("sec-websocket-protocol");
        // No protocol asked for is the oldest one.
        let protocol =
            if asked.is_empty() { websocket.last().map(|p| (*p).to_owned()) } else { choose(&asked, websocket) };
        let key = headers.get(header::SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
        let (Some(protocol), Some(key)) = (protocol, key) else {
            return Err(UpgradeError::NotAsked(format!("no known WebSocket protocol among {asked:?}")));
        };
        return Ok(Carrier::WebSocket { protocol, key: key.to_owned() });
    }
    if upgrade.contains("spdy/3.1") {
        let asked = listed(STREAM_VERSION);
        let protocol = choose(&asked, spdy);
        if protocol.is_none() && !asked.is_empty() {
            return Err(UpgradeError::NotAsked(format!("no known stream protocol among {asked:?}")));
        }
        return Ok(Carrier::Spdy { protocol });
    }
    Err(UpgradeError::NotAsked("missing upgrade headers in request".to_owned()))
}

fn switching(carrier: &Carrier) -> Response<()> {
    let builder = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).header(header::CONNECTION, "Upgrade");
    let builder = match carrier {
        Carrier::WebSocket { protocol, key } => builder
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))
            .header(header::SEC_WEBSOCKET_PROTOCOL, protocol),
        Carrier::Spdy { protocol: Some(protocol) } => {
            builder.header(header::UPGRADE, "SPDY/3.1").header(STREAM_VERSION, protocol)
        }
        Carrier::Spdy { protocol: None } => builder.header(header::UPGRADE, "SPDY/3.1"),
    };
    builder.body(()).expect("the protocols are from our own lists and the key is a digest")
}

/// Waits for the streams that a command has: error first, then those asked for, and resize with a terminal.
async fn spdy_command(mut incoming: Incoming, streams: Streams, version: u8) -> Result<RemoteCommand, UpgradeError> {
    let stderr = streams.stderr && !streams.tty;
    let wanted = [true, streams.stdin, streams.stdout, stderr, streams.tty && version >= 3];
    let expected = wanted.iter().filter(|wanted| **wanted).count();
    let mut opened = Vec::new();
    let collect = async {
        while opened.len() < expected {
            let stream = incoming.recv().await;
            opened.push(stream.ok_or_else(|| UpgradeError::Streams("the client went away".to_owned()))?);
        }
        Ok(())
    };
    let timed_out = |_| UpgradeError::Streams("timed out waiting for client to create streams".to_owned());
    tokio::time::timeout(CREATION_TIMEOUT, collect).await.map_err(timed_out)??;
    let mut take = |kind: &str| {
        let index = opened.iter().position(|stream: &Opened| stream.header("streamtype") == Some(kind))?;
        Some(opened.swap_remove(index))
    };
    let error = take("error").ok_or_else(|| UpgradeError::Streams("the client opened no error stream".to_owned()))?;
    let (resize_sender, resize) = mpsc::channel(QUEUE);
    if let Some(stream) = take("resize") {
        tokio::spawn(read_sizes(stream, resize_sender));
    }
    Ok(RemoteCommand {
        stdin: take("stdin").map(|stream| stream.input),
        stdout: take("stdout").map(|stream| stream.output),
        stderr: take("stderr").map(|stream| stream.output),
        resize,
        error: error.output,
        statuses: version >= 4,
        connection: KeepOpen(Box::new(incoming)),
    })
}

/// Sizes are JSON objects, one after the other, without anything between them.
async fn read_sizes(mut stream: Opened, sizes: mpsc::Sender<TerminalSize>) {
    while let Some(bytes) = stream.input.recv().await {
        for part in bytes.split_inclusive(|byte| *byte == b'}') {
            if let Some(size) = TerminalSize::parse(part)
                && sizes.send(size).await.is_err()
            {
                return;
            }
        }
    }
}

/// Pairs the streams that belong together: both carry the same request id, the error stream comes first.
fn spdy_port_forward(mut incoming: Incoming) -> PortForward {
    let (sender, connections) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut waiting: Vec<Opened> = Vec::new();
        loop {
            let stream = tokio::select! {
                stream = incoming.recv() => stream,
                () = sender.closed() => return,
            };
            let Some(stream) = stream else { return };
            let id = (stream.header("requestid").map(str::to_owned), stream.header("port").map(str::to_owned));
            let twin = waiting.iter().position(|other| {
                (other.header("requestid"), other.header("port")) == (id.0.as_deref(), id.1.as_deref())
            });
            let Some(twin) = twin else {
                waiting.push(stream);
                continue;
            };
            let twin = waiting.swap_remove(twin);
            let is_data = stream.header("streamtype") == Some("data");
            let (data, error) = if is_data { (stream, twin) } else { (twin, stream) };
            let Some(port) = data.header("port").and_then(|port| port.parse().ok()) else { continue };
            let connection = ForwardedConnection { port, input: data.input, output: data.output, error: error.output };
            if sender.send(connection).await.is_err() {
                return;
            }
        }
    });
    PortForward { connections }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&'static str, &'static str)], expected: Result<Carrier, ()>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a header value"));
        }
        let negotiated = negotiate(&map, &COMMAND_PROTOCOLS, &COMMAND_PROTOCOLS).map_err(drop);
        assert_eq!(negotiated, expected, "{headers:?}");
    }

    #[test]
    fn the_newest_common_protocol_is_chosen() {
        let websocket = |protocol: &str| Ok(Carrier::WebSocket { protocol: protocol.into(), key: "k".into() });
        let base = [("upgrade", "websocket"), ("sec-websocket-key", "k")];
        let with = |protocols| [base[0], base[1], ("sec-websocket-protocol", protocols)];
        check(&with("v4.channel.k8s.io, v5.channel.k8s.io"), websocket("v5.channel.k8s.io"));
        check(&with("channel.k8s.io"), websocket("channel.k8s.io"));
        check(&base, websocket("channel.k8s.io"));
        check(&with("base64.channel.k8s.io"), websocket("base64.channel.k8s.io"));
        check(&with("v4.base64.channel.k8s.io"), websocket("v4.base64.channel.k8s.io"));
        check(&with("chat"), Err(()));
        let spdy = |protocol: &str| Ok(Carrier::Spdy { protocol: Some(protocol.into()) });
        check(&[("upgrade", "SPDY/3.1"), (STREAM_VERSION, "v4.channel.k8s.io")], spdy("v4.channel.k8s.io"));
        check(&[("upgrade", "SPDY/3.1")], Ok(Carrier::Spdy { protocol: None }));
        check(&[("upgrade", "h2c")], Err(()));
        check(&[], Err(()));
    }

    #[test]
    fn versions_are_read_off_protocols() {
        assert_eq!(
            ["v5.channel.k8s.io", "v4.base64.channel.k8s.io", "base64.channel.k8s.io", "channel.k8s.io"]
                .map(version_of),
            [5, 4, 1, 1]
        );
    }
}
