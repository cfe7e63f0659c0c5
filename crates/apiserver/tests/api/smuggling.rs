//! Requests that two programs may read differently: what one takes for a body, the other takes for a request. Said to
//! the server itself in both protocols, and to what stands behind its proxies.

use std::sync::Arc;

use base64::Engine as _;
use expect_test::expect;
use parking_lot::Mutex;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::aggregated::{pem, reason, registration, service};
use crate::served::{Authority, connected, line, provider, until_end};
use crate::support::Cluster;
use skiff_store::{Change, Compare, Durability, KeyRange, Transaction};

/// What is meant to come through as a request of its own; nothing is there.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";

/// The codes of all answers to what is said.
async fn codes(cluster: &Cluster, said: &str) -> String {
    let mut stream = line(cluster, "http/1.1").await;
    stream.write_all(said.as_bytes()).await.expect("taken");
    stream.flush().await.expect("taken");
    let told = until_end(&mut stream).await;
    let told = String::from_utf8_lossy(&told);
    let codes = told.split("HTTP/1.1 ").skip(1).filter_map(|answer| answer.get(..3));
    codes.collect::<Vec<_>>().join(" ")
}

#[tokio::test(start_paused = true)]
async fn what_is_ambiguous_is_refused_or_ends_its_connection() {
    let cluster = Cluster::new().await;
    let inner = SMUGGLED.len();
    let chunked = format!("0\r\n\r\n{SMUGGLED}");
    let mut shown = String::new();
    for (what, head, body) in [
        ("two requests", "".to_owned(), SMUGGLED),
        ("a body", format!("Content-Length: {inner}\r\n"), SMUGGLED),
        ("a body in chunks", "Transfer-Encoding: chunked\r\n".into(), &chunked),
        ("a length and chunks", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n".into(), &chunked),
        ("chunks and a length", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n".into(), &chunked),
        ("two lengths", format!("Content-Length: 0\r\nContent-Length: {inner}\r\n"), SMUGGLED),
        ("a list of lengths", format!("Content-Length: 0, {inner}\r\n"), SMUGGLED),
        ("the same length twice", format!("Content-Length: {inner}\r\nContent-Length: {inner}\r\n"), SMUGGLED),
        ("a signed length", "Content-Length: +0\r\n".into(), SMUGGLED),
        ("a negative length", "Content-Length: -1\r\n".into(), SMUGGLED),
        ("a length that is too large", "Content-Length: 18446744073709551616\r\n".into(), SMUGGLED),
        ("an empty length", "Content-Length: \r\n".into(), SMUGGLED),
        ("another encoding", "Transfer-Encoding: gzip\r\n".into(), &chunked),
        ("a misspelled encoding", "Transfer-Encoding: xchunked\r\n".into(), &chunked),
        ("chunks, but not last", "Transfer-Encoding: chunked, identity\r\n".into(), &chunked),
        ("chunks, then nothing", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n".into(), &chunked),
        ("a space before the colon", "Transfer-Encoding : chunked\r\n".into(), &chunked),
        ("a folded line", "X: a\r\n Transfer-Encoding: chunked\r\n".into(), &chunked),
        ("a folded encoding", "Transfer-Encoding:\r\n chunked\r\n".into(), &chunked),
        ("a control character", "Transfer-Encoding: \u{b}chunked\r\n".into(), &chunked),
        ("a NUL", "X: a\0b\r\n".into(), SMUGGLED),
        ("a bare CR", "X: a\rContent-Length: 5\r\n".into(), SMUGGLED),
        ("a bare LF", "X: a\nContent-Length: 0\n".into(), SMUGGLED),
        ("no colon", "X\r\n".into(), SMUGGLED),
        ("a header without a name", ": x\r\n".into(), SMUGGLED),
        ("a second host", "Host: y\r\n".into(), SMUGGLED),
    ] {
        let told = codes(&cluster, &format!("GET /version HTTP/1.1\r\nHost: x\r\n{head}\r\n{body}")).await;
        shown.push_str(&format!("{what}: {told}\n"));
    }
    for (what, chunks) in [
        ("an extension of a chunk", "5;x=y\r\nhello\r\n0\r\n\r\n"),
        ("a line in an extension", "5;x\ny\r\nhello\r\n0\r\n\r\n"),
        ("a chunk's length that is too large", "FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n"),
        ("a chunk that is longer", "5\r\nhello!\r\n0\r\n\r\n"),
        ("a chunk's length by LF", "5\nhello\r\n0\r\n\r\n"),
        ("a signed chunk", "+5\r\nhello\r\n0\r\n\r\n"),
        ("a chunk of another base", "0x5\r\nhello\r\n0\r\n\r\n"),
    ] {
        let head =
            "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        let told = codes(&cluster, &format!("{head}{chunks}{SMUGGLED}")).await;
        shown.push_str(&format!("{what}: {told}\n"));
    }
    for first in [
        "GET /version HTTP/1.0\r\nTransfer-Encoding: chunked",
        "GET /version HTTP/1.1",
        "GET /version HTTP/1.2\r\nHost: x",
        "GET /version http/1.1\r\nHost: x",
        "GET  /version HTTP/1.1\r\nHost: x",
        "GET /version HTTP/1.1 HTTP/1.1\r\nHost: x",
        "GET /ver\tsion HTTP/1.1\r\nHost: x",
        "GET /version\r\nHost: x",
        "G(T /version HTTP/1.1\r\nHost: x",
        "GET http://elsewhere/version HTTP/1.1\r\nHost: x",
        "CONNECT /version HTTP/1.1\r\nHost: x",
        "CONNECT x:80 HTTP/1.1\r\nHost: x",
        "PRI * HTTP/2.0",
    ] {
        let told = codes(&cluster, &format!("{first}\r\n\r\n{SMUGGLED}")).await;
        shown.push_str(&format!("{first:?}: {told}\n"));
    }
    expect![[r#"
        two requests: 200 404
        a body: 200
        a body in chunks: 200 404
        a length and chunks: 200
        chunks and a length: 200
        two lengths: 400
        a list of lengths: 400
        the same length twice: 200
        a signed length: 400
        a negative length: 400
        a length that is too large: 400
        an empty length: 400
        another encoding: 400
        a misspelled encoding: 400
        chunks, but not last: 400
        chunks, then nothing: 400
        a space before the colon: 400
        a folded line: 400
        a folded encoding: 400
        a control character: 400
        a NUL: 400
        a bare CR: 400
        a bare LF: 200 404
        no colon: 400
        a header without a name: 400
        a second host: 400
        an extension of a chunk: 400 404
        a line in an extension: 400
        a chunk's length that is too large: 400
        a chunk that is longer: 400
        a chunk's length by LF: 400
        a signed chunk: 400
        a chunk of another base: 400
        "GET /version HTTP/1.0\r\nTransfer-Encoding: chunked": 400
        "GET /version HTTP/1.1": 400
        "GET /version HTTP/1.2\r\nHost: x": 400
        "GET /version http/1.1\r\nHost: x": 400
        "GET  /version HTTP/1.1\r\nHost: x": 400
        "GET /version HTTP/1.1 HTTP/1.1\r\nHost: x": 400
        "GET /ver\tsion HTTP/1.1\r\nHost: x": 400
        "GET /version\r\nHost: x": 400
        "G(T /version HTTP/1.1\r\nHost: x": 400
        "GET http://elsewhere/version HTTP/1.1\r\nHost: x": 200 404
        "CONNECT /version HTTP/1.1\r\nHost: x": 405 404
        "CONNECT x:80 HTTP/1.1\r\nHost: x": 405 404
        "PRI * HTTP/2.0": 400
    "#]]
    .assert_eq(&shown);
}

/// As much of HTTP/2 as nobody's library would send.
pub mod h2 {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("it is short").to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// What a connection begins with, and how much of an answer may be sent before it is asked for.
    pub fn hello(window: Option<u32>) -> Vec<u8> {
        /// `SETTINGS_INITIAL_WINDOW_SIZE`.
        const WINDOW: u16 = 4;
        let settings = window.map(|window| [&WINDOW.to_be_bytes()[..], &window.to_be_bytes()].concat());
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &settings.unwrap_or_default()));
        bytes
    }

    /// A request's head, of whatever fields.
    pub fn head(stream: u32, fields: &[(&str, &str)], ends: bool) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in fields {
            // A literal that is in no table, and not packed.
            block.push(0);
            for text in [name, value] {
                assert!(text.len() < 127, "{text}");
                block.push(text.len() as u8);
                block.extend(text.as_bytes());
            }
        }
        frame(HEADERS, END_HEADERS | if ends { END_STREAM } else { 0 }, stream, &block)
    }

    /// The last of a request's body.
    pub fn body(stream: u32, text: &str) -> Vec<u8> {
        frame(DATA, END_STREAM, stream, text.as_bytes())
    }

    /// An ordinary request.
    pub fn request(stream: u32, method: &str, path: &str, ends: bool) -> Vec<u8> {
        head(stream, &[(":method", method), (":path", path), (":scheme", "https"), (":authority", "x")], ends)
    }

    /// How the first request is answered: its code, or that it is not.
    pub async fn outcome(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
        use tokio::io::AsyncReadExt;
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return "closed".to_owned();
            }
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            stream.read_exact(&mut payload).await.expect("all of a frame");
            match head[3] {
                HEADERS => return code(&payload),
                3 => return "reset".to_owned(),
                7 => return "connection refused".to_owned(),
                _ => {}
            }
        }
    }

    /// The status is the first field; the common ones are in the protocol's table.
    fn code(block: &[u8]) -> String {
        const COMMON: [&str; 7] = ["200", "204", "206", "304", "400", "404", "500"];
        let first = block.iter().find(|byte| **byte & 0xe0 != 0x20).copied().unwrap_or_default();
        let common = first.checked_sub(0x88).and_then(|index| COMMON.get(usize::from(index)));
        common.map_or_else(|| "another code".to_owned(), |code| (*code).to_owned())
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_other_protocol_would_read_differently_is_refused() {
    let cluster = Cluster::new().await;
    let plain = [(":method", "GET"), (":path", "/version"), (":scheme", "https"), (":authority", "x")];
    let with = |more: &[(&'static str, &'static str)]| [&plain[..], more].concat();
    let instead = |name: &str, value: &'static str| {
        plain.map(|field| if field.0 == name { (field.0, value) } else { field }).to_vec()
    };
    let without = |name: &str| plain.iter().filter(|field| field.0 != name).copied().collect::<Vec<_>>();
    let mut shown = String::new();
    for (what, fields, body) in [
        ("a request", plain.to_vec(), None),
        ("no method", without(":method"), None),
        ("no path", without(":path"), None),
        ("no scheme", without(":scheme"), None),
        ("two methods", with(&[(":method", "POST")]), None),
        ("two paths", with(&[(":path", "/smuggled")]), None),
        ("a field of an answer", with(&[(":status", "200")]), None),
        ("an unknown pseudo field", with(&[(":x", "y")]), None),
        ("a pseudo field behind others", [&[("x", "y")], &plain[..]].concat(), None),
        ("an empty path", instead(":path", ""), None),
        ("a path without a slash", instead(":path", "version"), None),
        ("a path with a request", instead(":path", "/version HTTP/1.1\r\nx: y\r\n\r\nGET /smuggled"), None),
        ("a path with a space", instead(":path", "/version HTTP/1.1"), None),
        ("a path with a fragment", instead(":path", "/version#/smuggled"), None),
        ("an absolute path", instead(":path", "https://elsewhere/version"), None),
        ("a method with a request", instead(":method", "GET /smuggled HTTP/1.1\r\nx:"), None),
        ("a host with a request", instead(":authority", "x\r\n\r\nGET /smuggled"), None),
        ("a scheme with a request", instead(":scheme", "https\r\nx: y"), None),
        ("a host beside the authority", with(&[("host", "y"), ("host", "z")]), None),
        ("an encoding", with(&[("transfer-encoding", "chunked")]), Some("0\r\n\r\n")),
        ("a connection's field", with(&[("connection", "close")]), None),
        ("another such", with(&[("keep-alive", "1")]), None),
        ("an upgrade", with(&[("upgrade", "h2c")]), None),
        ("a wish for more than trailers", with(&[("te", "gzip")]), None),
        ("a capital", with(&[("X", "y")]), None),
        ("a line in a value", with(&[("x", "y\r\nTransfer-Encoding: chunked")]), None),
        ("a NUL in a value", with(&[("x", "y\0")]), None),
        ("a line in a name", with(&[("x: y\r\nz", "y")]), None),
        ("a colon in a name", with(&[("x:y", "z")]), None),
        ("an empty name", with(&[("", "z")]), None),
        ("a length that is too short", with(&[("content-length", "3")]), Some(SMUGGLED)),
        ("a length that is too long", with(&[("content-length", "300")]), Some(SMUGGLED)),
        ("a length of nothing", with(&[("content-length", "5")]), None),
        ("two lengths", with(&[("content-length", "5"), ("content-length", "6")]), Some("hello")),
        ("a tunnel to elsewhere", vec![(":method", "CONNECT"), (":authority", "x:80")], None),
    ] {
        let mut stream = line(&cluster, "h2").await;
        let mut said = h2::hello(None);
        said.extend(h2::head(1, &fields, body.is_none()));
        said.extend(body.map(|text| h2::body(1, text)).unwrap_or_default());
        stream.write_all(&said).await.expect("taken");
        stream.flush().await.expect("taken");
        shown.push_str(&format!("{what}: {}\n", h2::outcome(&mut stream).await));
    }
    expect![[r#"
        a request: 200
        no method: reset
        no path: reset
        no scheme: reset
        two methods: reset
        two paths: reset
        a field of an answer: reset
        an unknown pseudo field: connection refused
        a pseudo field behind others: reset
        an empty path: reset
        a path without a slash: reset
        a path with a request: reset
        a path with a space: reset
        a path with a fragment: 200
        an absolute path: reset
        a method with a request: connection refused
        a host with a request: reset
        a scheme with a request: reset
        a host beside the authority: 400
        an encoding: reset
        a connection's field: reset
        another such: reset
        an upgrade: reset
        a wish for more than trailers: reset
        a capital: connection refused
        a line in a value: connection refused
        a NUL in a value: connection refused
        a line in a name: connection refused
        a colon in a name: connection refused
        an empty name: connection refused
        a length that is too short: reset
        a length that is too long: reset
        a length of nothing: reset
        two lengths: reset
        a tunnel to elsewhere: another code
    "#]]
    .assert_eq(&shown);
}

/// What was asked behind a proxy, as somebody reads it who takes nothing for granted.
type Seen = Arc<Mutex<Vec<String>>>;

/// Answers requests on a connection with how they came.
async fn strict<S: AsyncRead + AsyncWrite + Unpin>(stream: S, seen: Seen) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match stream.read_line(&mut head).await {
                Ok(0) | Err(_) if head.is_empty() => return,
                Ok(0) => return seen.lock().push(format!("cut off: {head:?}")),
                Ok(_) => {}
                Err(error) => return seen.lock().push(format!("{error}: {head:?}")),
            }
        }
        let told = match described(&head, &mut stream).await {
            Ok(told) => told,
            // The proxy gave up: so does this side.
            Err(error) => return seen.lock().push(format!("{error}: {head:?}")),
        };
        seen.lock().push(told.clone());
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{told}", told.len());
        if stream.write_all(answer.as_bytes()).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

/// `POST /path as 5 bytes: hello`, and what else is remarkable.
async fn described(head: &str, stream: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<String> {
    let mut lines = head.trim_end_matches("\r\n").split("\r\n");
    let first = lines.next().unwrap_or_default();
    let headers: Vec<(String, &str)> = lines
        .map(|line| line.split_once(": ").unwrap_or((line, "")))
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    let all = |name: &str| headers.iter().filter(|(own, _)| own == name).map(|(_, value)| *value).collect::<Vec<_>>();
    let (lengths, encodings) = (all("content-length"), all("transfer-encoding"));
    let body = match (lengths.as_slice(), encodings.as_slice()) {
        ([], []) => "without a body".to_owned(),
        ([length], []) => {
            let mut body = vec![0; length.parse().expect("a number")];
            stream.read_exact(&mut body).await?;
            format!("as {length} bytes: {}", String::from_utf8_lossy(&body).escape_debug())
        }
        ([], ["chunked"]) => format!("in chunks: {}", unchunked(stream).await?.escape_debug()),
        other => format!("ambiguous: {other:?}"),
    };
    let odd = [
        "te",
        "trailer",
        "keep-alive",
        "upgrade",
        "connection",
        "proxy-authorization",
        "secret",
        "x-remote-user",
        "x-remote-extra-scope",
        "x-remote-group",
    ];
    let odd: Vec<String> =
        odd.into_iter().flat_map(|name| all(name).into_iter().map(move |value| format!(" {name}={value}"))).collect();
    Ok(format!("{} {body}{}", first.trim_end_matches(" HTTP/1.1"), odd.concat()))
}

async fn unchunked(stream: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let length = usize::from_str_radix(line.trim_end_matches("\r\n"), 16).map_err(std::io::Error::other)?;
        let mut chunk = vec![0; length + 2];
        stream.read_exact(&mut chunk).await?;
        text.push_str(&String::from_utf8_lossy(&chunk[..length]));
        if length == 0 {
            return Ok(text);
        }
    }
}

/// Writes past the API server what it would not take: an endpoint on loopback, where the strict reader is.
async fn misled(cluster: &Cluster, port: u16) {
    const HARMLESS: &str = "10.0.0.1";
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let slice = json!({"metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "endpoints": [{"addresses": [HARMLESS]}], "ports": [{"name": "p", "port": port}]});
    cluster.tree(&format!("POST {slices}\n\n{slice}")).await;
    let all = cluster.store.range(&KeyRange::prefix("/registry/"), None, 0).await.expect("a store that answers").items;
    let stored = all.into_iter().find(|pair| pair.key.ends_with(b"endpointslices/default/s-1")).expect("the slice");
    let text = String::from_utf8(stored.value.to_vec()).expect("JSON").replace(HARMLESS, "127.0.0.1");
    let transaction = Transaction {
        compares: vec![Compare { key: stored.key.clone(), mod_revision: stored.mod_revision }],
        changes: vec![Change::Put { key: stored.key, value: text.into() }],
        durability: Durability::Durable,
    };
    cluster.store.commit(transaction).await.expect("a store that answers");
    while cluster.tree(&format!("GET {slices}/s-1?resourceVersion=0")).await["endpoints"][0]["addresses"][0] == HARMLESS
    {
        tokio::task::yield_now().await;
    }
}

/// A cluster with a Pod, a node, a Service and an API server of others, all of which are the strict reader.
async fn behind() -> (Cluster, Seen, [(&'static str, String); 4]) {
    let cluster = Cluster::with(|config| config.loopback_proxies = true).await;
    let seen = Seen::default();
    let authority = Authority::new();
    let (chain, key) = authority.issue("extension", "x");
    let tls = rustls::ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let tls = tls.expect("versions").with_no_client_auth().with_single_cert(chain, key).expect("a certificate");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0"));
    let [plain, secure] = listeners;
    let (plain, secure) = (plain.await.expect("a port"), secure.await.expect("a port"));
    let port = plain.local_addr().expect("an address").port();
    let secure_port = secure.local_addr().expect("an address").port();
    let (of_plain, of_secure) = (seen.clone(), seen.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = plain.accept().await {
            tokio::spawn(strict(stream, of_plain.clone()));
        }
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = secure.accept().await {
            let (acceptor, seen) = (acceptor.clone(), of_secure.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    strict(stream, seen).await;
                }
            });
        }
    });
    let namespace = "/api/v1/namespaces/default";
    let merge = "Content-Type: application/merge-patch+json";
    cluster.tree(&format!("POST {namespace}/serviceaccounts\n\n{}", json!({"metadata": {"name": "default"}}))).await;
    let container = json!({"name": "c", "image": "i", "ports": [{"containerPort": port}]});
    let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [container]}});
    cluster.tree(&format!("POST {namespace}/pods\n\n{pod}")).await;
    let status = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
    cluster.tree(&format!("PATCH {namespace}/pods/a/status\n{merge}\n\n{status}")).await;
    cluster.tree(&format!("POST /api/v1/nodes\n\n{}", json!({"metadata": {"name": "n"}}))).await;
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}});
    cluster.tree(&format!("PATCH /api/v1/nodes/n/status\n{merge}\n\n{status}")).await;
    let ports = json!([{"name": "p", "port": 80}]);
    let spec = json!({"metadata": {"name": "s"}, "spec": {"ports": ports}});
    cluster.tree(&format!("POST {namespace}/services\n\n{spec}")).await;
    misled(&cluster, port).await;
    cluster.tree(&service()).await;
    let bundle = base64::engine::general_purpose::STANDARD.encode(pem("CERTIFICATE", &authority.certificate));
    cluster.tree(&registration(secure_port, json!({"caBundle": bundle}))).await;
    reason(&cluster, "v1alpha1.wardle.example.com", "Passed").await;
    let ways = [
        ("pod", format!("{namespace}/pods/a/proxy")),
        ("node", format!("/api/v1/nodes/n:{port}/proxy")),
        ("service", format!("{namespace}/services/s:p/proxy")),
        ("aggregated", "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders".to_owned()),
    ];
    (cluster, seen, ways)
}

#[tokio::test]
async fn nothing_is_smuggled_to_what_stands_behind_a_proxy() {
    let (cluster, seen, ways) = behind().await;
    let chunked = format!("0\r\n\r\n{SMUGGLED}");
    let framed = |head: &str, body: &str| format!("content-length: {}\r\n{head}\r\n{body}", body.len());
    let mut shown = String::new();
    for (what, method, rest) in [
        ("a body", "POST", framed("", "hello")),
        ("no body", "DELETE", "\r\n".to_owned()),
        ("a request as a body", "GET", framed("", SMUGGLED)),
        (
            "chunks with extensions and trailers",
            "POST",
            "transfer-encoding: chunked\r\ntrailer: x\r\n\r\n5;a=b\r\nhello\r\n0\r\nx: y\r\n\r\n".into(),
        ),
        ("a length and chunks", "POST", format!("content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n{chunked}")),
        ("chunks and a length", "POST", format!("transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n{chunked}")),
        (
            "chunks where none are expected",
            "GET",
            format!("transfer-encoding: chunked\r\n\r\n24\r\n{SMUGGLED}\r\n0\r\n\r\n"),
        ),
        ("a length that is the connection's", "POST", framed("connection: content-length\r\n", "hello")),
        (
            "what is the connection's",
            "POST",
            framed(
                "connection: secret\r\nsecret: x\r\nkeep-alive: 1\r\nte: gzip\r\nproxy-authorization: x\r\n",
                "hello",
            ),
        ),
        (
            "another protocol",
            "GET",
            "upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\nconnection: upgrade, http2-settings\r\n\r\n".into(),
        ),
    ] {
        for (way, path) in &ways {
            let mut stream = connected(&cluster, Some(("admin", "system:masters"))).await;
            let said = format!("{method} {path}/{way} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{rest}");
            stream.write_all(said.as_bytes()).await.expect("taken");
            stream.flush().await.expect("taken");
            let told = String::from_utf8_lossy(&until_end(&mut stream).await).into_owned();
            assert_eq!(told.matches("HTTP/1.1 ").count(), 1, "{told}");
            let (head, body) = told.split_once("\r\n\r\n").expect("a head and a body");
            shown.push_str(&format!("{what}: {} {}\n", head.get(9..12).unwrap_or(""), body.trim_end()));
        }
    }
    expect![[r#"
        a body: 200 POST /pod as 5 bytes: hello
        a body: 200 POST /node as 5 bytes: hello
        a body: 200 POST /service as 5 bytes: hello
        a body: 200 POST /apis/wardle.example.com/v1alpha1/namespaces/default/flunders/aggregated as 5 bytes: hello x-remote-user=admin x-remote-group=system:masters x-remote-group=system:authenticated
        no body: 200 DELETE /pod without a body
        no body: 200 DELETE /node without a body
        no body: 200 DELETE /service without a body
        no body: 200 DELETE /apis/wardle.example.com/v1alpha1/namespaces/default/flunders/aggregated without a body x-remote-user=admin x-remote-group=system:masters x-remote-group=system:authenticated
        a request as a body: 200 GET /pod as 35 bytes: GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n
        a request as a body: 200 GET /node as 35 bytes: GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n
        a request as a body: 200 GET /service as 35 bytes: GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n
        a request as a body: 200 GET /apis/wardle.example.com/v1alpha1/namespaces/default/flunders/aggregated as 35 bytes: GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n x-remote-user=admin x-remote-group=system:masters x-remote-group=system:authenticated
        chunks with extensions and trailers: 200 POST /pod in chunks: hello
        chunks with extensions and trailers: 200 POST /node in chunks: hello
        chunks with extensions and trailers: 200 POST /service in chunks: hello
        chunks with extensions and trailers: 200 POST /apis/wardle.example.com/v1alpha1/namespaces/default/flunders/aggregated in chunks: hello x-remote-user=admin x-remote-group=system:masters x-remote-group=system:authenticated
        a length and chunks: 200 POST /pod in chunks:
        a length and chunks: 200 POST /node in chunks:
        a length and chunks: 200 POST /service in chunks:
        a length and chunks: 200 POST /apis/wardle.example.com/v1alpha1/namespaces/default/flunders/aggregated in chunks:  x-remote-user=admin x-remote-group=system:masters x-remote-group=system:authenticated
        chunks and a length: 200 POST /pod in chunks:
        chunks and a length: 200 POST /node in chunks:
        chunks and a length: 200 POST /service in chunks:
        chunks and a length: 200 POST /apis/wardle.example.com/v1alpha1/namespaces/default/flunders/aggregated in chunks:  x-remote-user=admin x-remote-group=system:masters x-remote-group=system:authenticated
        chunks where none are expected: 200 GET /pod without a body
        chunks where none are expected: 200 GET /node without a body
        chunks where none are expected: 200 GET /service without a body
        chunks where none are expected: 200 GET /apis/wardle.example.com/v1alpha1/namespaces/default/flunders/aggregated without a body x-remote-user=admin x-remote-group=system:masters x-remote-group=system:authenticated
        a length that is the connection's: 200 POST /pod as 5 bytes: hello
        a length that is the connection's: 200 POST /node as 5 bytes: hello
        a length that is the connection's: 200 POST /service as 5 bytes: hello
        a length that is the connection's: 200 POST /apis/wardle.example.com/v1alpha1/namespaces/default/flunders/aggregated as 5 bytes: hello x-remote-user=admin x-remote-group=system:masters x-remote-group=system:authenticated
        what is the connection's: 200 POST /pod as 5 bytes: hello
        what is the connection's: 200 POST /node as 5 bytes: hello
        what is the connection's: 200 POST /service as 5 bytes: hello
        what is the connection's: 200 POST /apis/wardle.example.com/v1alpha1/namespaces/default/flunders/aggregated as 5 bytes: hello x-remote-user=admin x-remote-group=system:masters x-remote-group=system:authenticated
        another protocol: 200 GET /pod without a body
        another protocol: 200 GET /node without a body
        another protocol: 200 GET /service without a body
        another protocol: 200 GET /apis/wardle.example.com/v1alpha1/namespaces/default/flunders/aggregated without a body x-remote-user=admin x-remote-group=system:masters x-remote-group=system:authenticated
    "#]].assert_eq(&shown);
    let seen = seen.lock();
    let smuggled: Vec<&String> = seen.iter().filter(|told| told.contains(" /smuggled")).collect();
    assert!(smuggled.iter().all(|told| !told.starts_with("GET /smuggled")), "{smuggled:?}");
}

#[tokio::test]
async fn who_asks_is_told_by_nobody_but_the_server() {
    let (cluster, seen, ways) = behind().await;
    for (_, path) in &ways {
        let mut stream = connected(&cluster, Some(("admin", "system:masters"))).await;
        let said = format!(
            "GET {path}/x HTTP/1.1\r\nhost: x\r\nconnection: close, x-remote-user\r\nx-remote-user: root\r\nx-remote-extra-scope: all\r\nX-Remote-Group: system:masters\r\n\r\n"
        );
        stream.write_all(said.as_bytes()).await.expect("taken");
        stream.flush().await.expect("taken");
        until_end(&mut stream).await;
    }
    let told: Vec<String> = seen.lock().iter().filter(|told| told.contains("/x ")).cloned().collect();
    let expected = [
        "GET /x without a body",
        "GET /x without a body",
        "GET /x without a body",
        "GET /apis/wardle.example.com/v1alpha1/namespaces/default/flunders/x without a body x-remote-user=admin x-remote-group=system:masters x-remote-group=system:authenticated",
    ];
    assert_eq!(told, expected);
}
