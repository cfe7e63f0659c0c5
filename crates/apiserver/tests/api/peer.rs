//! A real TLS server on loopback, for what the API server asks of others: webhooks, issuers of tokens.

use std::sync::Arc;

use http::request::Parts;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// For a request and its body (null where it is empty) it gives the answer: 404 where that is null, a text as it is,
/// a redirect where it has nothing but a `location`, and none at all where there is `None`.
type Answer = Arc<dyn Fn(&Parts, Value) -> Option<Value> + Send + Sync>;

/// A TLS server.
pub struct Peer {
    /// `https://localhost:PORT`; `127.0.0.1` is another name of the host.
    pub url: String,
    /// Who signed its certificate, in PEM.
    pub authority: String,
}

impl Peer {
    /// One that answers by the path and the body.
    pub async fn start(answer: impl Fn(&str, Value) -> Option<Value> + Send + Sync + 'static) -> Self {
        Self::seeing(move |head, body| answer(head.uri.path(), body)).await
    }

    /// One that sees the whole head of a request.
    pub async fn seeing(answer: impl Fn(&Parts, Value) -> Option<Value> + Send + Sync + 'static) -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params =
            rcgen::CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("parameters");
        let certificate = params.self_signed(&key).expect("a certificate");
        let authority = certificate.pem();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
            )
            .expect("a certificate and its key");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let answer: Answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer) = (acceptor.clone(), answer.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| serve(request, answer.clone()));
                    let served = hyper::server::conn::http1::Builder::new();
                    if let Err(error) = served.serve_connection(TokioIo::new(stream), service).await {
                        tracing::debug!(%error, "a connection of the test's server ended");
                    }
                });
            }
        });
        Self { url: format!("https://localhost:{port}"), authority }
    }

    /// A kubeconfig that leads here.
    pub fn kubeconfig(&self, path: &str) -> Value {
        use base64::Engine as _;
        let bundle = base64::engine::general_purpose::STANDARD.encode(&self.authority);
        let cluster = json!({"server": format!("{}{path}", self.url), "certificate-authority-data": bundle});
        json!({"kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k"}}],
            "clusters": [{"name": "k", "cluster": cluster}]})
    }
}

async fn serve(request: Request<Incoming>, answer: Answer) -> Result<Response<Full<bytes::Bytes>>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).expect("JSON") };
    match answer(&head, body) {
        None => std::future::pending().await,
        Some(Value::Null) => {
            let mut missing = Response::new(Full::new("404 page not found".into()));
            *missing.status_mut() = http::StatusCode::NOT_FOUND;
            Ok(missing)
        }
        Some(Value::String(text)) => Ok(Response::new(Full::new(text.into()))),
        Some(Value::Object(fields)) if fields.len() == 1 && fields.contains_key("location") => {
            let mut redirect = Response::new(Full::new("Found".into()));
            *redirect.status_mut() = http::StatusCode::FOUND;
            let place = fields["location"].as_str().and_then(|place| place.parse().ok()).expect("a header's value");
            redirect.headers_mut().insert(http::header::LOCATION, place);
            Ok(redirect)
        }
        Some(whole) => Ok(Response::new(Full::new(whole.to_string().into()))),
    }
}
