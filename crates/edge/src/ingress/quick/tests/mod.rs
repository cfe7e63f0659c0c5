//! The quick way beside the whole HTTP stack: the same bytes in, the same requests and answers out, also where they are
//! broken, cut anywhere, or hurried along.

mod flow;
mod limits;
mod log;
mod raw;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_base::SystemClock;
use skiff_client::ObjectKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;

use super::super::ports::serve_whole;
use super::super::site::World;
use super::framing::Framing;
use super::*;
use crate::testing::in_own_namespace;

const PATIENCE: Duration = Duration::from_secs(20);
/// More turns than a runtime takes before it looks for news of sockets.
const TURNS: usize = 200;
const LAST: &str = "GET /last HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n\r\n";

/// One Service, whose endpoints are these.
struct Web(Vec<SocketAddr>);

fn parse<K: serde::de::DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).expect("an object"))
}

impl World for Web {
    fn service(&self, _: &ObjectKey) -> Option<Arc<Service>> {
        Some(parse(json!({ "spec": { "ports": [{ "port": 80 }] } })))
    }

    fn slices(&self, _: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
        let slice = |endpoint: &SocketAddr| {
            parse(json!({
                "addressType": "IPv4", "ports": [{ "name": "", "port": endpoint.port() }],
                "endpoints": [{ "addresses": [endpoint.ip()] }],
            }))
        };
        self.0.iter().map(slice).collect()
    }
}

/// A proxy that knows `web.example`, but for `/safe`, where TLS is asked for.
fn proxy(endpoints: &[SocketAddr], annotations: Value) -> Arc<Proxy> {
    let ingress = |name: &str, path: &str, annotations: Value| -> Arc<Ingress> {
        let backend = json!({ "service": { "name": "web", "port": { "number": 80 } } });
        let http = json!({ "paths": [{ "path": path, "pathType": "Prefix", "backend": backend }] });
        parse(json!({
            "metadata": { "name": name, "namespace": "shop", "annotations": annotations },
            "spec": { "rules": [{ "host": "web.example", "http": http }] },
        }))
    };
    let proxy = Proxy::new(SystemClock::shared());
    let safe = json!({ "ingress.skiff.io/force-ssl-redirect": "true" });
    let ingresses = [ingress("web", "/", annotations), ingress("safe", "/safe", safe)];
    proxy.replace(Routes::of_ingresses(&ingresses, (80, 443), &Web(endpoints.to_vec()), &Routes::default()));
    Arc::new(proxy)
}

fn caller() -> Caller {
    Caller::new("192.0.2.9".parse().expect("an address"), false, 80)
}

/// A client's end of a connection that is served.
struct Client {
    stream: DuplexStream,
    /// Whether the whole stack had to take over.
    serving: JoinHandle<bool>,
}

impl Client {
    fn quick(proxy: &Arc<Proxy>) -> Self {
        Self::with_patience(proxy, PATIENCE)
    }

    fn with_patience(proxy: &Arc<Proxy>, patience: Duration) -> Self {
        let (stream, other) = duplex(1 << 20);
        let proxy = proxy.clone();
        let serving = tokio::spawn(async move {
            let Ok(Some(rest)) = serve(other, &caller(), &proxy, patience).await else { return false };
            // How a client ends is its own business.
            serve_whole(rest, caller(), proxy).await.map_or_else(drop, drop);
            true
        });
        Self { stream, serving }
    }

    fn whole(proxy: &Arc<Proxy>) -> Self {
        let (stream, other) = duplex(1 << 20);
        let rest = Rest { stream: Recorded::read_already(other, Vec::new()), is_new: true };
        let proxy = proxy.clone();
        let serving = tokio::spawn(async move {
            serve_whole(rest, caller(), proxy).await.map_or_else(drop, drop);
            true
        });
        Self { stream, serving }
    }

    async fn say(&mut self, text: &[u8]) {
        self.stream.write_all(text).await.expect("is listened to");
        for _ in 0..TURNS {
            yield_now().await;
        }
    }

    /// What it hears to the end, and whether the whole stack took over.
    async fn hear(mut self) -> (String, bool) {
        let mut text = Vec::new();
        let all = timeout(PATIENCE, self.stream.read_to_end(&mut text)).await.expect("an end in time");
        all.expect("is read");
        (normal(&text), timeout(PATIENCE, self.serving).await.expect("an end in time").expect("does not panic"))
    }
}

/// An endpoint: what it does on a connection is up to the test; what it heard is written down.
struct Endpoint {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Endpoint {
    /// One that answers requests as told, by their paths: the bytes, after which it closes if they end with `<close>`.
    async fn answering(answers: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self::with(Arc::new(answers), None).await
    }

    async fn with(answers: Arc<dyn Fn(&str) -> String + Send + Sync>, cut: Option<usize>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has one");
        let heard = Arc::<Mutex<Vec<u8>>>::default();
        let own = heard.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepts");
                tokio::spawn(converse(stream, answers.clone(), own.clone(), cut));
            }
        });
        Self { address, heard, task }
    }

    fn heard(&self) -> String {
        normal(&std::mem::take(&mut *self.heard.lock()))
    }
}

async fn converse(
    mut stream: TcpStream,
    answers: Arc<dyn Fn(&str) -> String + Send + Sync>,
    heard: Arc<Mutex<Vec<u8>>>,
    cut: Option<usize>,
) {
    stream.set_nodelay(true).expect("is set");
    let mut input = Vec::new();
    loop {
        let whole = loop {
            if let Some(length) = length_of_message(&input) {
                break length;
            }
            match stream.read_buf(&mut input).await {
                Ok(1..) => {}
                _ => return heard.lock().extend_from_slice(&input),
            }
        };
        let request: Vec<u8> = input.drain(..whole).collect();
        heard.lock().extend_from_slice(&request);
        let text = String::from_utf8_lossy(&request).into_owned();
        let path = text.split(' ').nth(1).unwrap_or_default();
        let answer = answers(path);
        let (bytes, closes) = answer.strip_suffix("<close>").map_or((answer.as_str(), false), |it| (it, true));
        let (first, second) = bytes.as_bytes().split_at(cut.unwrap_or(0).min(bytes.len()));
        for part in [first, second] {
            if stream.write_all(part).await.is_err() {
                return;
            }
            for _ in 0..TURNS {
                yield_now().await;
            }
        }
        if closes {
            return;
        }
    }
}

/// How long the message at the beginning is, if it is all there.
fn length_of_message(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|part| part == b"\r\n\r\n")? + 4;
    let lines = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let value = |name: &str| lines.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
    if value("transfer-encoding:").is_some() {
        let (mut framing, mut at) = (Framing::chunked(), head);
        while !framing.is_done() && at < bytes.len() {
            at += framing.next(&bytes[at..]).ok()?.taken;
        }
        return framing.is_done().then_some(at);
    }
    let length = head + value("content-length:").map_or(0, |length| length.parse().expect("a number"));
    (bytes.len() >= length).then_some(length)
}

/// Messages as everybody reads them: names of headers in small letters and in order, no time of day, chunks joined.
fn normal(bytes: &[u8]) -> String {
    let Some(head) = bytes.windows(4).position(|part| part == b"\r\n\r\n") else {
        return String::from_utf8_lossy(bytes).into_owned();
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let (first, rest) = text.split_once("\r\n").unwrap_or((&text, ""));
    let mut lines: Vec<String> = Vec::new();
    for line in rest.lines() {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = if name.eq_ignore_ascii_case("date") { "now" } else { value.trim() };
        lines.push(format!("{}: {value}", name.to_ascii_lowercase()));
    }
    lines.sort();
    // An answer without a body may tell its length all the same, and then the next one is behind it.
    let has_body = !bytes[head + 4..].starts_with(b"HTTP/1.1 ");
    let length = if has_body { length_of_message(bytes).unwrap_or(bytes.len()) } else { head + 4 };
    let mut body = bytes[head + 4..length].to_vec();
    if lines.iter().any(|line| line == "transfer-encoding: chunked") {
        let (mut framing, mut data, mut at) = (Framing::chunked(), Vec::new(), 0);
        while at < body.len() && !framing.is_done() {
            let piece = framing.next(&body[at..]).expect("chunks");
            data.extend_from_slice(piece.data);
            at += piece.taken;
        }
        data.extend_from_slice(if framing.is_done() { b"" } else { b"<cut>" });
        body = data;
    }
    let body = String::from_utf8_lossy(&body).into_owned();
    let rest = normal(&bytes[length..]);
    let body = if body.is_empty() { body } else { format!(" | {body}") };
    format!("{first} | {}{body}\n{rest}", lines.join(", "))
}

fn sized(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}

/// What an endpoint of these tests answers.
fn usual(path: &str) -> String {
    match path {
        "/chunks" => "HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n4\r\nwiki\r\n5;x=y\r\npedia\r\n0\r\nT: u\r\n\r\n".into(),
        "/close" => "HTTP/1.1 200 OK\r\nConnection: close, X-Own\r\nX-Own: 1\r\nContent-Length: 2\r\n\r\nhi<close>".into(),
        "/rest" => "HTTP/1.1 200 OK\r\nServer: old\r\n\r\nto the end<close>".into(),
        "/old" => "HTTP/1.0 200 OK\r\n\r\nas of old<close>".into(),
        "/none" => "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n".into(),
        "/same" => "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 7\r\n\r\n".into(),
        "/head" => "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n".into(),
        "/hints" => format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n{}", sized("hinted")),
        "/both" => "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwiki\r\n0\r\n\r\n".into(),
        "/twice" => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nwiki".into(),
        "/differ" => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nwiki<close>".into(),
        "/strange" => "HTTP/1.1 200 OK\r\nContent-Length: 4x\r\n\r\nwiki<close>".into(),
        "/short" => "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nwiki<close>".into(),
        "/broken" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwiki\r\nx\r\n<close>".into(),
        "/garbage" => "once upon a time\r\n\r\n<close>".into(),
        "/silent" => "<close>".into(),
        "/more" => format!("{}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged", sized("own")),
        "/encoded" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\npacked<close>".into(),
        path => sized(path),
    }
}

/// What the endpoint hears and the client gets by either way, each after itself on a connection that ends with one more
/// request; and whether the quick way was enough.
async fn both_ways(text: &str) -> (String, bool) {
    both_ways_of_bytes(text.as_bytes()).await
}

async fn both_ways_of_bytes(text: &[u8]) -> (String, bool) {
    let mut outcomes = Vec::new();
    for serve in [Client::quick, Client::whole] {
        let endpoint = Endpoint::answering(usual).await;
        let mut client = serve(&proxy(&[endpoint.address], json!({})));
        client.say(&[text, LAST.as_bytes()].concat()).await;
        let (got, by_all) = client.hear().await;
        // An endpoint that is closed to writes down what it had heard in part.
        for _ in 0..TURNS {
            yield_now().await;
        }
        outcomes.push((format!("heard {}got {got}", endpoint.heard()), by_all));
    }
    assert_eq!(outcomes[0].0, outcomes[1].0, "{:?} by either way", String::from_utf8_lossy(text));
    outcomes.swap_remove(0)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: web.example\r\n\r\n")
}
