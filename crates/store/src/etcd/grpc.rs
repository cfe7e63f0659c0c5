//! Calls to etcd: gRPC frames on HTTP/2, one connection for each endpoint, made when it is first needed. Calls go round
//! the endpoints; one that has just failed is left out while there are others.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, Request, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use rustls_pki_types::ServerName;
use skiff_base::clock::SharedClock;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio_rustls::TlsConnector;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A silent connection with calls under way is asked for a sign of life this often; etcd allows no more than one in 5 s.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long that sign may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// An endpoint that failed is left out for so long while others are there.
const AVOID_PERIOD: Duration = Duration::from_secs(3);
/// What may be under way to us on one connection and one call: pages of a list come in one message.
const WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// The largest message that is taken.
const MAX_MESSAGE_BYTES: usize = 512 * 1024 * 1024;
/// A message's flag byte and length.
const PREFIX_BYTES: usize = 5;

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// Why a call gave no answer.
#[derive(Debug, Clone)]
pub(super) enum CallError {
    /// The endpoint was not reached: it has not seen the call.
    NotSent(String),
    /// The connection broke, or the time was up: nobody knows whether the call was done.
    Broken(String),
    /// etcd refused, with a gRPC code and its words.
    Refused(u32, String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(why) | Self::Broken(why) | Self::Refused(_, why) => f.write_str(why),
        }
    }
}

/// gRPC's code for a server that cannot answer now.
pub(super) const CODE_UNAVAILABLE: u32 = 14;
/// gRPC's code for a revision that is compacted or yet to come.
pub(super) const CODE_OUT_OF_RANGE: u32 = 11;

/// One member of the etcd cluster.
struct Endpoint {
    uri: Uri,
    address: (String, u16),
    connection: Mutex<Option<SendRequest<Body>>>,
    /// Monotonic milliseconds until which it is left out.
    avoid_until_ms: AtomicU64,
}

/// All members.
pub(super) struct Channel {
    endpoints: Vec<Endpoint>,
    tls: Option<Arc<rustls::ClientConfig>>,
    next: AtomicUsize,
    clock: SharedClock,
}

impl Channel {
    /// A channel to `endpoints`, `http(s)://HOST:PORT`.
    pub(super) fn new(
        endpoints: &[String],
        tls: Option<Arc<rustls::ClientConfig>>,
        clock: SharedClock,
    ) -> Result<Self, String> {
        let endpoints = endpoints.iter().map(|text| endpoint(text, tls.is_some())).collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err("no endpoint is given".into());
        }
        Ok(Self { endpoints, tls, next: AtomicUsize::new(0), clock })
    }

    /// How many endpoints there are.
    pub(super) fn len(&self) -> usize {
        self.endpoints.len()
    }

    fn now_ms(&self) -> u64 {
        self.clock.monotonic().as_millis() as u64
    }

    /// The next endpoint in turn, one that has just failed only where all have.
    fn pick(&self) -> &Endpoint {
        let (first, now) = (self.next.fetch_add(1, Ordering::Relaxed), self.now_ms());
        let turn = |step: usize| &self.endpoints[(first + step) % self.endpoints.len()];
        let usable = |endpoint: &&Endpoint| endpoint.avoid_until_ms.load(Ordering::Relaxed) <= now;
        (0..self.endpoints.len()).map(turn).find(usable).unwrap_or_else(|| turn(0))
    }

    /// One question, one answer, from whichever endpoint is next.
    pub(super) async fn unary<A: Message + Default>(
        &self,
        path: &str,
        question: &impl Message,
        timeout: Duration,
    ) -> Result<A, CallError> {
        let endpoint = self.pick();
        let call = async {
            let body = Full::new(framed(question)).boxed_unsync();
            let mut answers: Answers<A> = self.begin(endpoint, path, body).await?;
            answers.next().await?.ok_or_else(|| CallError::Broken(format!("{}: an empty answer", endpoint.uri)))
        };
        let answer = tokio::time::timeout(timeout, call).await;
        let answer = answer.unwrap_or_else(|_| {
            let seconds = timeout.as_secs_f32();
            Err(CallError::Broken(format!("{}: no answer within {seconds} s", endpoint.uri)))
        });
        self.note(endpoint, answer.as_ref().err());
        answer
    }

    /// A call that answers again and again, and stays open for as long as [`Answers`] lives.
    pub(super) async fn streaming<A: Message + Default>(
        &self,
        path: &str,
        question: &impl Message,
    ) -> Result<Answers<A>, CallError> {
        let endpoint = self.pick();
        let (keep_open, open) = mpsc::channel::<()>(1);
        let first = futures_util::stream::iter([Ok(Frame::data(framed(question)))]);
        let rest = futures_util::stream::unfold(open, |mut open| async move {
            let () = open.recv().await?;
            Some((Ok(Frame::data(Bytes::new())), open))
        });
        let begun = self.begin(endpoint, path, StreamBody::new(first.chain(rest)).boxed_unsync()).await;
        self.note(endpoint, begun.as_ref().err());
        Ok(Answers { _keep_open: Some(keep_open), ..begun? })
    }

    /// Leaves an endpoint out for a while where it failed.
    fn note(&self, endpoint: &Endpoint, error: Option<&CallError>) {
        let failed = matches!(
            error,
            Some(CallError::NotSent(_) | CallError::Broken(_) | CallError::Refused(CODE_UNAVAILABLE, _))
        );
        if failed {
            let until = self.now_ms() + AVOID_PERIOD.as_millis() as u64;
            endpoint.avoid_until_ms.store(until, Ordering::Relaxed);
        }
    }

    async fn begin<A>(&self, endpoint: &Endpoint, path: &str, body: Body) -> Result<Answers<A>, CallError> {
        let unsent = |why: String| CallError::NotSent(format!("{}: {why}", endpoint.uri));
        let mut sender = self.connection(endpoint).await.map_err(unsent)?;
        let uri = Uri::builder()
            .scheme(endpoint.uri.scheme_str().unwrap_or("http"))
            .authority(endpoint.uri.authority().map_or("", |authority| authority.as_str()))
            .path_and_query(path);
        let request = uri.build().and_then(|uri| {
            Request::post(uri)
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                // A member that has lost its leader must say so, else a watch on it would just be silent.
                .header("hasleader", "true")
                .body(body)
        });
        let request = request.map_err(|error| unsent(error.to_string()))?;
        let response = sender.try_send_request(request).await.map_err(|mut error| {
            let why = format!("{}: {}", endpoint.uri, error.error());
            if error.take_message().is_some() { CallError::NotSent(why) } else { CallError::Broken(why) }
        })?;
        if response.status() != http::StatusCode::OK {
            return Err(CallError::Broken(format!("{}: answered {}", endpoint.uri, response.status())));
        }
        refusal(response.headers())?;
        Ok(Answers::new(response.into_body()))
    }

    /// The endpoint's connection, made anew where it is gone.
    async fn connection(&self, endpoint: &Endpoint) -> Result<SendRequest<Body>, String> {
        let mut place = endpoint.connection.lock().await;
        if let Some(sender) = place.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        *place = None;
        let made = tokio::time::timeout(CONNECT_TIMEOUT, self.connect(endpoint)).await;
        let sender = made.map_err(|_| "connecting takes too long".to_owned())??;
        *place = Some(sender.clone());
        Ok(sender)
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<SendRequest<Body>, String> {
        let (host, port) = &endpoint.address;
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        match self.tls.as_ref().filter(|_| endpoint.uri.scheme_str() == Some("https")) {
            None => handshake(TokioIo::new(stream)).await,
            Some(tls) => {
                let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
                let stream = TlsConnector::from(tls.clone()).connect(name, stream).await;
                handshake(TokioIo::new(stream.map_err(|error| error.to_string())?)).await
            }
        }
    }
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Body>, String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES);
    let (sender, connection) = builder.handshake(stream).await.map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to etcd ended");
        }
    });
    Ok(sender)
}

fn endpoint(text: &str, has_tls: bool) -> Result<Endpoint, String> {
    let given = text.trim().trim_end_matches('/');
    let bad = |why: &str| format!("the endpoint {text:?} {why}; it should look like http://127.0.0.1:2379");
    let uri: Uri = given.parse().map_err(|_| bad("is no URL"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") if has_tls => {}
        Some("https") => return Err(bad("needs TLS, which is not set up")),
        _ => return Err(bad("begins with neither http:// nor https://")),
    }
    let host = uri.host().ok_or_else(|| bad("names no host"))?.trim_matches(['[', ']']).to_owned();
    /// etcd's port for clients.
    const DEFAULT_PORT: u16 = 2379;
    let port = uri.port_u16().unwrap_or(DEFAULT_PORT);
    Ok(Endpoint { uri, address: (host, port), connection: Mutex::new(None), avoid_until_ms: AtomicU64::new(0) })
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame.put_u8(0);
    frame.put_u32(length as u32);
    message.encode(&mut frame).expect("the buffer grows as it needs to");
    frame.freeze()
}

/// What the status in headers or trailers says, where it is there and not OK.
fn refusal(headers: &HeaderMap) -> Result<(), CallError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some(code) => {
            let message = percent_decoded(text("grpc-message").unwrap_or("no reason given"));
            Err(CallError::Refused(code.parse().unwrap_or(2), message))
        }
    }
}

fn percent_decoded(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| byte == b'%') {
            Some(value) => {
                decoded.push(value);
                rest = &tail[2..];
            }
            None => {
                decoded.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The answers of a call that is under way.
pub(super) struct Answers<A> {
    body: Incoming,
    buffer: BytesMut,
    /// While this lives the call's own side is not ended.
    _keep_open: Option<mpsc::Sender<()>>,
    answer: std::marker::PhantomData<A>,
}

impl<A> Answers<A> {
    fn new(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new(), _keep_open: None, answer: std::marker::PhantomData }
    }
}

impl<A: Message + Default> Answers<A> {
    /// The next answer; `None` where etcd has ended the call well.
    pub(super) async fn next(&mut self) -> Result<Option<A>, CallError> {
        let broken = |why: String| CallError::Broken(why);
        loop {
            if let Some(message) = take_message(&mut self.buffer).map_err(broken)? {
                return A::decode(message).map(Some).map_err(|error| broken(error.to_string()));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            match frame.map_err(|error| broken(error.to_string()))?.into_data() {
                Ok(data) if self.buffer.is_empty() => self.buffer = data.into(),
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => refusal(frame.trailers_ref().unwrap_or(&HeaderMap::new()))?,
            }
        }
    }
}

/// Takes one whole message from the front of what has come.
fn take_message(buffer: &mut BytesMut) -> Result<Option<Bytes>, String> {
    let Some(prefix) = buffer.get(..PREFIX_BYTES) else { return Ok(None) };
    if prefix[0] != 0 {
        return Err("a compressed message, which was not asked for".into());
    }
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if length > MAX_MESSAGE_BYTES {
        return Err(format!("a message of {length} bytes"));
    }
    if buffer.len() < PREFIX_BYTES + length {
        buffer.reserve(PREFIX_BYTES + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(PREFIX_BYTES);
    Ok(Some(buffer.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_whole_however_they_come() {
        let mut buffer = BytesMut::new();
        let bytes = [0, 0, 0, 0, 2, b'a', b'b', 0, 0, 0, 0, 0, 0, 0, 0];
        let mut taken = Vec::new();
        for byte in bytes {
            buffer.put_u8(byte);
            taken.extend(take_message(&mut buffer).expect("well formed"));
        }
        assert_eq!(taken, ["ab", ""]);
        assert_eq!(buffer.len(), 3);
        let mut huge = BytesMut::from(&[0, 255, 255, 255, 255][..]);
        assert!(take_message(&mut huge).is_err());
    }

    #[test]
    fn endpoints_are_read_and_refused_with_a_word() {
        assert_eq!(endpoint("http://[::1]", false).map(|end| end.address).ok(), Some(("::1".into(), 2379)));
        assert_eq!(endpoint("https://a:1/", true).map(|end| end.address).ok(), Some(("a".into(), 1)));
        for (text, word) in [("a:1", "begins with neither"), ("https://a", "needs TLS"), ("http://a b", "is no URL")] {
            let error = endpoint(text, false).map(|_| ()).expect_err("no endpoint");
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn words_of_a_refusal_are_decoded() {
        assert_eq!(percent_decoded("no leader: 100%25 %zz %"), "no leader: 100% %zz %");
    }
}
