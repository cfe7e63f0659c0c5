//! The way to scheduler extenders: each request on a connection of its own, over plain HTTP or TLS.

use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Full;
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use skiff_apiserver::http::client;
use skiff_apiserver::trust::{Identity, unverified, verified};
use skiff_scheduler::{Answer, Config, ExtenderTls, Post};

/// The largest answer that is read: an extender may give back every node as a whole.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// Reads PEM from a file, or else from base64.
///
/// # Errors
/// It cannot be read.
pub fn read_pem(file: &str, data: &str) -> Result<Vec<u8>, String> {
    if !data.is_empty() {
        return STANDARD.decode(data).map_err(|error| error.to_string());
    }
    if file.is_empty() {
        return Ok(Vec::new());
    }
    std::fs::read(Path::new(file)).map_err(|error| error.to_string())
}

/// Gives each extender of a configuration a way to it.
///
/// # Errors
/// A certificate or a key makes no sense.
pub fn connect(config: &mut Config) -> Result<(), String> {
    for extender in &mut config.extenders {
        let named = |error: String| format!("extender {}: {error}", extender.url_prefix);
        let uri: Uri = extender.url_prefix.parse().map_err(|error| named(format!("{error}")))?;
        let secure = uri.scheme_str() == Some("https");
        let tls = if secure { Some(Arc::new(tls_of(&extender.tls).map_err(named)?)) } else { None };
        extender.post = Some(way(tls, extender.tls.server_name.clone()));
    }
    Ok(())
}

fn tls_of(told: &ExtenderTls) -> Result<ClientConfig, String> {
    let own = match (told.certificate.is_empty(), told.key.is_empty()) {
        (true, true) => None,
        _ => {
            let chain = CertificateDer::pem_slice_iter(&told.certificate).collect::<Result<Vec<_>, _>>();
            let key = PrivateKeyDer::from_pem_slice(&told.key).map_err(|error| format!("key: {error}"))?;
            Some(Identity::new(chain.map_err(|error| format!("certificate: {error}"))?, key))
        }
    };
    if told.insecure { unverified(own.as_ref()) } else { verified(&told.ca, own.as_ref()) }
}

fn way(tls: Option<Arc<ClientConfig>>, server_name: String) -> Post {
    Arc::new(move |url, body| {
        let (tls, server_name) = (tls.clone(), server_name.clone());
        Box::pin(async move { post(&url, body, tls, &server_name).await })
    })
}

async fn post(url: &str, body: Vec<u8>, tls: Option<Arc<ClientConfig>>, server_name: &str) -> Answer {
    let asked = async {
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
        let host = uri.host().ok_or("no Host in request URL")?.trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let name = if server_name.is_empty() { host } else { server_name };
        let sender = client::connect(host, port, tls.map(|tls| (name, tls))).await?;
        let request = Request::post(uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(http::header::HOST, uri.authority().map_or("", |authority| authority.as_str()))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let (answer, _) = client::exchange(sender, request, MAX_ANSWER_BYTES).await?;
        Ok::<_, String>((answer.status().as_u16(), answer.into_body().to_vec()))
    };
    asked.await.map_err(|error| format!("Post {url:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::Response;
    use http_body_util::BodyExt;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_request_goes_to_its_path_and_the_answer_comes_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                    let text = format!("{path} {}", String::from_utf8_lossy(&body));
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
                });
                drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            }
        });
        let text = format!(
            "{{apiVersion: kubescheduler.config.k8s.io/v1, kind: KubeSchedulerConfiguration, extenders: [{{urlPrefix: 'http://{address}/s/', filterVerb: filter}}]}}"
        );
        let mut config = Config::parse(text.as_bytes(), read_pem).expect("it is valid");
        connect(&mut config).expect("there is a way");
        let post = config.extenders[0].post.clone().expect("it was given");
        let (code, answer) = post(format!("http://{address}/s/filter"), b"hello".to_vec()).await.expect("an answer");
        assert_eq!((code, String::from_utf8_lossy(&answer).as_ref()), (200, "/s/filter hello"));
    }
}
