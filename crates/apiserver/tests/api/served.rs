//! The API served over TLS on loopback: identities from certificates, tunnels to what stands behind a Pod.

use std::sync::Arc;

use crate::support::Cluster;
use base64::Engine as _;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use skiff_apiserver::authn::proxy;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A certificate authority with what it has issued.
pub struct Authority {
    pub certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    pub fn issue(&self, name: &str, group: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let mut params =
            CertificateParams::new(vec!["localhost".into(), "flunders.default.svc".into()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (vec![certificate.der().clone()], key.serialize_der().try_into().expect("a key"))
    }

    pub fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a certificate");
        Arc::new(roots)
    }
}

pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A certificate and its key.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Serves the cluster on loopback and connects to it as `identity`.
pub async fn connect(cluster: &Cluster, identity: Option<(&str, &str)>) -> SendRequest<Empty<Bytes>> {
    speak(connected(cluster, identity).await).await
}

/// Speaks HTTP on a connection.
async fn speak(stream: TlsStream<TcpStream>) -> SendRequest<Empty<Bytes>> {
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection.with_upgrades());
    sender
}

pub async fn connected(cluster: &Cluster, identity: Option<(&str, &str)>) -> TlsStream<TcpStream> {
    let authority = Authority::new();
    let identity = identity.map(|(name, group)| authority.issue(name, group));
    connect_with(cluster, &authority, authority.roots(), identity).await
}

/// The same with a certificate of one of the authorities that clients may have.
async fn connect_with(
    cluster: &Cluster,
    authority: &Authority,
    clients: Arc<RootCertStore>,
    identity: Option<Identity>,
) -> TlsStream<TcpStream> {
    let (server, client) = ends(authority, clients, identity, None);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(cluster.server.clone().serve(listener, server, std::future::pending()));
    let stream = TcpStream::connect(address).await.expect("the server listens");
    client.connect(localhost(), stream).await.expect("TLS")
}

pub fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}

/// What both ends of a connection go by.
fn ends(
    authority: &Authority,
    clients: Arc<RootCertStore>,
    identity: Option<Identity>,
    protocol: Option<&str>,
) -> (Arc<rustls::ServerConfig>, TlsConnector) {
    let (chain, key) = authority.issue("kube-apiserver", "x");
    let verifier = WebPkiClientVerifier::builder_with_provider(clients, provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.allow_unauthenticated().build().expect("a verifier"))
        .with_single_cert(chain, key)
        .expect("a certificate");
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let client = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(authority.roots());
    let mut client = match identity {
        Some((chain, key)) => client.with_client_auth_cert(chain, key).expect("a certificate"),
        None => client.with_no_client_auth(),
    };
    client.alpn_protocols = protocol.map(|protocol| protocol.as_bytes().to_vec()).into_iter().collect();
    (Arc::new(server), TlsConnector::from(Arc::new(client)))
}

/// How much a connection in memory holds that nobody has read.
const LINE_BYTES: usize = 64 * 1024;

/// A connection in memory, as an administrator, in a protocol: where time stands still, all of it takes none.
pub async fn line(cluster: &Cluster, protocol: &str) -> TlsStream<DuplexStream> {
    let authority = Authority::new();
    let identity = authority.issue("admin", "system:masters");
    let (server, client) = ends(&authority, authority.roots(), Some(identity), Some(protocol));
    let (near, far) = tokio::io::duplex(LINE_BYTES);
    tokio::spawn(cluster.server.clone().serve_stream(far, server));
    client.connect(localhost(), near).await.expect("TLS")
}

/// A connection in memory on which nothing was said yet.
pub fn silent_line(cluster: &Cluster) -> DuplexStream {
    let authority = Authority::new();
    let (server, _) = ends(&authority, authority.roots(), None, None);
    let (near, far) = tokio::io::duplex(LINE_BYTES);
    tokio::spawn(cluster.server.clone().serve_stream(far, server));
    near
}

/// Everything that is said until the other side ends the connection.
pub async fn until_end(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    if let Err(error) = stream.read_to_end(&mut all).await {
        // Whoever is cut off is not told that nothing more comes.
        let kinds = [std::io::ErrorKind::UnexpectedEof, std::io::ErrorKind::ConnectionReset];
        assert!(kinds.contains(&error.kind()), "{error}");
    }
    all
}

pub async fn text(sender: &mut SendRequest<Empty<Bytes>>, path: &str) -> (StatusCode, String) {
    let request = Request::get(path).header("host", "localhost").body(Empty::new()).expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    let status = answer.status();
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn a_certificate_tells_who_asks() {
    let cluster = Cluster::new().await;
    let mut admin = connect(&cluster, Some(("admin", "system:masters"))).await;
    assert_eq!(text(&mut admin, "/api/v1/namespaces/default").await.0, 200);
    let mut nobody = connect(&cluster, None).await;
    let (status, body) = text(&mut nobody, "/api/v1/namespaces/default").await;
    assert_eq!(status, 403);
    assert!(body.contains(r#"User \"system:anonymous\" cannot get resource"#), "{body}");
    assert_eq!(text(&mut nobody, "/readyz").await, (StatusCode::OK, "ok".to_owned()));
}

pub fn pem(authority: &Authority) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(&authority.certificate);
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}

#[tokio::test]
async fn a_proxy_is_believed_by_its_own_authority_alone() {
    let (clients, proxies) = (Authority::new(), Authority::new());
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let settings = proxy::Settings {
        authority: pem(&proxies),
        client_authority: pem(&clients),
        allowed_names: list(&["front"]),
        username_headers: list(&["X-Remote-User"]),
        uid_headers: list(&["X-Remote-Uid"]),
        group_headers: list(&["X-Remote-Group"]),
        extra_prefixes: list(&["X-Remote-Extra-"]),
    };
    let cluster = Cluster::with(|config| config.access.authentication.proxy = Some(settings)).await;
    let mut both = RootCertStore::empty();
    both.add(clients.certificate.clone()).expect("a certificate");
    both.add(proxies.certificate.clone()).expect("a certificate");
    let both = Arc::new(both);
    let ask = async |identity: Option<Identity>, user: &str| {
        let mut sender = speak(connect_with(&cluster, &clients, both.clone(), identity).await).await;
        let mut request = Request::get("/api/v1/namespaces/default").header("host", "localhost");
        if !user.is_empty() {
            request = request.header("x-remote-user", user).header("x-remote-group", "system:masters");
        }
        let answer = sender.send_request(request.body(Empty::new()).expect("a request")).await.expect("an answer");
        let status = answer.status();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        format!("{} {}", status.as_u16(), body["message"].as_str().unwrap_or(""))
    };
    let refused = |user: &str| {
        format!(
            "403 namespaces \"default\" is forbidden: User {user:?} cannot get resource \"namespaces\" in API group \"\" in the namespace \"default\""
        )
    };
    assert_eq!(ask(Some(proxies.issue("front", "x")), "jane").await, "200 ");
    // Who has no such certificate is who it is, whatever it says.
    assert_eq!(ask(Some(clients.issue("front", "x")), "jane").await, refused("front"));
    assert_eq!(ask(None, "jane").await, refused("system:anonymous"));
    // A proxy's certificate is no identity of its own, and another name of its authority is no proxy.
    assert_eq!(ask(Some(proxies.issue("front", "system:masters")), "").await, "401 Unauthorized");
    assert_eq!(ask(Some(proxies.issue("back", "system:masters")), "jane").await, "401 Unauthorized");
}

#[tokio::test]
async fn a_certificate_s_time_is_told() {
    let cluster = Cluster::new().await;
    let mut admin = connect(&cluster, Some(("admin", "system:masters"))).await;
    let (_, figures) = text(&mut admin, "/metrics").await;
    let expected = "apiserver_client_certificate_expiration_seconds_count 1\n";
    assert!(figures.contains(expected), "{figures}");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    /// As much as the server reads of a head.
    const HEAD_BYTES: usize = 1024 * 1024;
    let cluster = Cluster::new().await;
    let mut stream = connected(&cluster, None).await;
    let mut head = b"GET /readyz HTTP/1.1\r\nx: ".to_vec();
    // No more than it reads: what it left unread would take back its answer.
    head.resize(HEAD_BYTES, b'x');
    stream.write_all(&head).await.expect("the head is taken");
    stream.flush().await.expect("the head is taken");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 431");
}

/// Answers one plain request with what it was asked, and turns one upgrade into an echo.
async fn backend(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a request's head"));
        }
        let head = String::from_utf8(head).expect("text");
        if !head.to_ascii_lowercase().contains("upgrade: echo") {
            let line = head.lines().next().expect("a request line");
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line}", line.len());
            stream.write_all(answer.as_bytes()).await.expect("written");
            continue;
        }
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n")
            .await
            .expect("written");
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.expect("copied");
    }
}

#[tokio::test]
async fn a_proxy_passes_requests_on_and_joins_upgraded_connections() {
    let cluster = Cluster::with(|config| config.loopback_proxies = true).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(backend(listener));
    cluster.tree("POST /api/v1/namespaces/default/serviceaccounts\n\n{\"metadata\":{\"name\":\"default\"}}").await;
    let pod = format!(
        r#"{{"metadata":{{"name":"a"}},"spec":{{"nodeName":"n","containers":[{{"name":"c","image":"i","ports":[{{"name":"web","containerPort":{port}}}]}}]}}}}"#
    );
    cluster.tree(&format!("POST /api/v1/namespaces/default/pods\n\n{pod}")).await;
    let status = r#"{"status":{"podIP":"127.0.0.1","podIPs":[{"ip":"127.0.0.1"}]}}"#;
    let merge = "Content-Type: application/merge-patch+json";
    cluster.tree(&format!("PATCH /api/v1/namespaces/default/pods/a/status\n{merge}\n\n{status}")).await;
    let mut admin = connect(&cluster, Some(("admin", "system:masters"))).await;
    for name in ["a", "a:web", &format!("http:a:{port}")] {
        let path = format!("/api/v1/namespaces/default/pods/{name}/proxy/x/y%20z?q=1");
        let (status, body) = text(&mut admin, &path).await;
        assert_eq!((status.as_u16(), body.as_str()), (200, "GET /x/y%20z?q=1 HTTP/1.1"));
    }
    let without_path = "/api/v1/namespaces/default/pods/a/proxy";
    for (method, code) in
        [("GET", 301), ("HEAD", 301), ("POST", 200), ("DELETE", 200), ("PATCH", 200), ("OPTIONS", 200)]
    {
        let request = Request::builder().method(method).uri(without_path).header("host", "localhost");
        let answer = admin.send_request(request.body(Empty::new()).expect("a request")).await.expect("an answer");
        assert_eq!(answer.status(), code, "{method}");
        if code == 301 {
            assert_eq!(answer.headers()["location"], format!("{without_path}/"));
        }
        answer.into_body().collect().await.expect("a body");
    }
    let request = Request::get("/api/v1/namespaces/default/pods/a/proxy/")
        .header("host", "localhost")
        .header("connection", "Upgrade")
        .header("upgrade", "echo")
        .body(Empty::new())
        .expect("a request");
    let answer = admin.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), 101);
    let mut joined = TokioIo::new(hyper::upgrade::on(answer).await.expect("an upgraded connection"));
    joined.write_all(b"hello").await.expect("written");
    let mut echoed = [0; 5];
    joined.read_exact(&mut echoed).await.expect("echoed");
    assert_eq!(&echoed, b"hello");
}

#[tokio::test]
async fn a_watch_goes_over_a_websocket() {
    use futures_util::StreamExt;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    let cluster = Cluster::new().await;
    let mut admin = connect(&cluster, Some(("admin", "system:masters"))).await;
    let request = Request::get("/api/v1/namespaces?watch=1&fieldSelector=metadata.name=default")
        .header("host", "localhost")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(Empty::new())
        .expect("a request");
    let answer = admin.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let upgraded = TokioIo::new(hyper::upgrade::on(answer).await.expect("an upgraded connection"));
    let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
    let first = socket.next().await.expect("a message").expect("whole").into_text().expect("a text");
    let event: serde_json::Value = serde_json::from_str(&first).expect("JSON");
    assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&"ADDED".into(), &"default".into()));
    cluster.server.drain();
    let end = socket.next().await.expect("a message").expect("whole");
    assert!(end.is_close(), "{end:?}");
}

#[tokio::test]
async fn logs_say_which_container_is_missing() {
    let cluster = Cluster::new().await;
    cluster.tree("POST /api/v1/namespaces/default/serviceaccounts\n\n{\"metadata\":{\"name\":\"default\"}}").await;
    let pod = r#"{"metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i"},{"name":"d","image":"i"}]}}"#;
    cluster.tree(&format!("POST /api/v1/namespaces/default/pods\n\n{pod}")).await;
    let logs = "GET /api/v1/namespaces/default/pods/a/log";
    assert_eq!(cluster.outcome(logs).await, "400 a container name must be specified for pod a, choose one of: [c d]");
    assert_eq!(cluster.outcome(&format!("{logs}?container=x")).await, "400 container x is not valid for pod a");
    assert_eq!(cluster.outcome(&format!("{logs}?container=c")).await, "200");
    assert_eq!(
        cluster.outcome(&format!("{logs}?container=c&tailLines=-1")).await,
        r#"422 PodLogOptions "a" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0"#
    );
}
