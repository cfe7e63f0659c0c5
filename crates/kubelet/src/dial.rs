//! Connecting to containers for probes and hooks: TCP, and one HTTP request whose failures read as Go's do, because people
//! know those texts from events.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// The most that is read of an answer; only its status counts.
const MAX_BODY_BYTES: usize = 10 << 10;

/// An answer, as far as it matters.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub code: u16,
}

/// The number of a port that may be given by the name it has in the container.
///
/// # Errors
/// There is no port of that name.
pub fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            match named.map(|port| port.container_port).or_else(|| name.parse().ok()) {
                Some(number) => number,
                None => return Err(format!("couldn't find port: \"{name}\" in container {:?}", container.name)),
            }
        }
    };
    u16::try_from(number).ok().filter(|number| *number > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

/// `host:port`, with brackets where the host is an IPv6 address.
pub fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Opens a connection.
///
/// # Errors
/// In Go's words.
pub async fn connect(host: &str, port: u16, limit: Duration) -> Result<TcpStream, String> {
    let address = join(host, port);
    match tokio::time::timeout(limit, TcpStream::connect(&address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(format!("dial tcp {address}: {}", go_text(&error))),
        Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
    }
}

fn go_text(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::ConnectionReset => "read: connection reset by peer".to_owned(),
        std::io::ErrorKind::BrokenPipe => "write: broken pipe".to_owned(),
        std::io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        std::io::ErrorKind::TimedOut => "connect: connection timed out".to_owned(),
        _ => error.to_string(),
    }
}

/// Sends the request of an `httpGet` action and gives the answer's status.
///
/// # Errors
/// In Go's words, with the address.
pub async fn http_get(
    container: &Container,
    action: &HTTPGetAction,
    default_host: &str,
    agent: &str,
    limit: Duration,
) -> Result<Answer, String> {
    let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(default_host);
    let port = port(container, &action.port)?;
    let secure = action.scheme.as_deref() == Some("HTTPS");
    let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let path = format!("{slash}{path}");
    let scheme = if secure { "https" } else { "http" };
    let url = format!("{scheme}://{}{path}", join(host, port));
    let failed = |why: String| format!("Get {url:?}: {why}");
    let exchange = async {
        let stream = connect(host, port, limit).await?;
        let mut request = Request::get(&path);
        let (mut has_host, mut has_agent, mut has_accept) = (false, false, false);
        for header in action.http_headers.iter().flatten() {
            has_host |= header.name.eq_ignore_ascii_case("host");
            has_agent |= header.name.eq_ignore_ascii_case("user-agent");
            has_accept |= header.name.eq_ignore_ascii_case("accept");
            request = request.header(&header.name, &header.value);
        }
        if !has_host {
            request = request.header(http::header::HOST, join(host, port));
        }
        if !has_agent {
            request = request.header(http::header::USER_AGENT, agent);
        }
        if !has_accept {
            request = request.header(http::header::ACCEPT, "*/*");
        }
        let request = request.header(http::header::CONNECTION, "close").body(Full::new(Bytes::new()));
        let request = request.map_err(|error| error.to_string())?;
        if secure { exchange(tls(stream, host).await?, request).await } else { exchange(stream, request).await }
    };
    match tokio::time::timeout(limit, exchange).await {
        Ok(answer) => answer.map_err(failed),
        Err(_) => Err(failed("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned())),
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| hyper_text(&error))?;
    let answer = async move {
        let response = sender.send_request(request).await.map_err(|error| hyper_text(&error))?;
        let code = response.status().as_u16();
        // What follows the head is read only so that the other side can finish.
        if let Err(error) = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await {
            tracing::trace!(%error, "the body of a probe's answer broke off");
        }
        Ok(Answer { code })
    };
    tokio::pin!(answer);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        answered = &mut answer => answered,
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(hyper_text(&error)),
        },
    }
}

/// A broken exchange in Go's words.
fn hyper_text(error: &hyper::Error) -> String {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            return go_text(error);
        }
        source = cause.source();
    }
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        "EOF".to_owned()
    } else {
        error.to_string()
    }
}

async fn tls(stream: TcpStream, host: &str) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let name = rustls_pki_types::ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let config = unverified::config()?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.map_err(|error| error.to_string())
}

/// HTTPS probes do not check certificates, as the documentation says: they ask whether the container answers, no more.
mod unverified {
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::{CryptoProvider, ring};
    use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    pub(super) fn config() -> Result<ClientConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
        let verifier = Arc::new(Anyone(provider));
        Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
    }

    #[derive(Debug)]
    struct Anyone(Arc<CryptoProvider>);

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.0.signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.0.signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    async fn listen() -> (TcpListener, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port of this machine");
        let port = listener.local_addr().expect("it is bound").port();
        (listener, port)
    }

    fn action(port: u16) -> HTTPGetAction {
        HTTPGetAction {
            path: Some("healthz?full=1".into()),
            port: IntOrString::Int(i32::from(port)),
            ..HTTPGetAction::default()
        }
    }

    async fn get(port: u16) -> Result<u16, String> {
        let answer = http_get(&Container::default(), &action(port), "127.0.0.1", "kube-probe/1.36", LIMIT).await;
        answer.map(|answer| answer.code).map_err(|error| error.replace(&port.to_string(), "PORT"))
    }

    #[tokio::test]
    async fn an_answer_is_told_by_its_status() {
        let (listener, port) = listen().await;
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = vec![0; 1024];
            let length = stream.read(&mut head).await.expect("a request");
            stream.write_all(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").await.expect("an answer");
            String::from_utf8_lossy(&head[..length]).into_owned()
        });
        assert_eq!(get(port).await, Ok(503));
        let head = server.await.expect("the server ends well");
        assert!(head.starts_with("GET /healthz?full=1 HTTP/1.1") && head.contains("kube-probe/1.36"), "{head}");
    }

    #[tokio::test]
    async fn failures_read_as_gos() {
        let (listener, port) = listen().await;
        drop(listener);
        let refused =
            "Get \"http://127.0.0.1:PORT/healthz?full=1\": dial tcp 127.0.0.1:PORT: connect: connection refused";
        assert_eq!(get(port).await, Err(refused.to_owned()));
        let (listener, port) = listen().await;
        let server = tokio::spawn(async move { drop(listener.accept().await.expect("a connection")) });
        let error = get(port).await.expect_err("nothing is answered");
        assert!(error.ends_with(": EOF") || error.contains("connection reset"), "{error}");
        server.await.expect("the server ends well");
    }

    #[test]
    fn ports_have_numbers_or_names() {
        let container: Container =
            serde_saphyr::from_str("{name: c, ports: [{name: http, containerPort: 80}]}").expect("valid YAML");
        assert_eq!(port(&container, &IntOrString::String("http".into())), Ok(80));
        assert!(port(&container, &IntOrString::String("gone".into())).is_err());
        assert!(port(&container, &IntOrString::Int(70000)).is_err());
        assert_eq!(join("fd00::1", 80), "[fd00::1]:80");
    }
}
