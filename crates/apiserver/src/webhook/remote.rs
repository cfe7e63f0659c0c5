//! A program that is asked as a kubeconfig says: its URL, whom to believe there, and who asks. Webhooks of the server's
//! own, such as those for records, are told of in this way.
//! See <https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/#webhook-backend>.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, Response, Uri};
use http_body_util::Full;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use skiff_base::cidr::bracketed;
use skiff_object::meta::Meta;
use tokio::sync::Mutex;

use crate::http::client::{self, Sender};
use crate::trust::{self, Identity};

/// The most that an answer may have.
const ANSWER_LIMIT_BYTES: usize = 3 * 1024 * 1024;
/// How often a program is asked before it counts as away, and how the pauses grow; as upstream has it.
const TRIES: u32 = 5;
const PAUSE_FACTOR: f64 = 1.5;

/// Where the program is, and how it is spoken to.
#[derive(Clone)]
pub struct Settings {
    url: Uri,
    host: String,
    port: u16,
    /// `None` for plain HTTP.
    tls: Option<Arc<rustls::ClientConfig>>,
    authorization: Option<String>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What authorizes is nobody's business.
        f.debug_struct("Settings").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads the current context of a kubeconfig, in which files have been replaced by what is in them
    /// (`certificate-authority` by `certificate-authority-data`, and so on).
    ///
    /// # Errors
    /// It names no server, or its certificates or keys cannot be used.
    pub fn read(config: &Value) -> Result<Self, String> {
        let named = |list: &str, name: &str, what: &str| {
            let found = config.list_at(&[list]).iter().find(|entry| entry.str_at(&["name"]) == name);
            found.and_then(|entry| entry.get(what)).cloned().unwrap_or_default()
        };
        let context = named("contexts", config.str_at(&["current-context"]), "context");
        let cluster = named("clusters", context.str_at(&["cluster"]), "cluster");
        let user = named("users", context.str_at(&["user"]), "user");
        let server = cluster.str_at(&["server"]);
        let url: Uri = server.parse().map_err(|error| format!("server {server:?}: {error}"))?;
        let host = url.host().ok_or_else(|| format!("server {server:?} names no host"))?;
        let (tls, usual) = match url.scheme_str() {
            Some("https") => (Some(Arc::new(tls_of(&cluster, &user)?)), 443),
            Some("http") => (None, 80),
            _ => return Err(format!("server {server:?} must begin with https:// or http://")),
        };
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port_u16().unwrap_or(usual),
            tls,
            authorization: authorization_of(&user),
            url,
        })
    }
}

fn authorization_of(user: &Value) -> Option<String> {
    let (token, name) = (user.str_at(&["token"]), user.str_at(&["username"]));
    if !token.is_empty() {
        return Some(format!("Bearer {token}"));
    }
    let password = user.str_at(&["password"]);
    (!name.is_empty()).then(|| format!("Basic {}", STANDARD.encode(format!("{name}:{password}"))))
}

fn tls_of(cluster: &Value, user: &Value) -> Result<rustls::ClientConfig, String> {
    let data = |object: &Value, field: &str| {
        let decoded = STANDARD.decode(object.str_at(&[field]));
        decoded.map_err(|error| format!("{field}: {error}"))
    };
    let certificates = data(user, "client-certificate-data")?;
    let own = if certificates.is_empty() {
        None
    } else {
        let chain = CertificateDer::pem_slice_iter(&certificates).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| format!("client-certificate-data: {error}"))?;
        let key = PrivateKeyDer::from_pem_slice(&data(user, "client-key-data")?);
        Some(Identity::new(chain, key.map_err(|error| format!("client-key-data: {error}"))?))
    };
    if cluster.bool_at(&["insecure-skip-tls-verify"]) {
        return trust::unverified(own.as_ref());
    }
    trust::verified(&data(cluster, "certificate-authority-data")?, own.as_ref())
}

/// A program with a connection that is kept for the next question.
pub struct Remote {
    settings: Settings,
    idle: Mutex<Option<Sender>>,
}

impl Remote {
    /// Nothing is connected before the first question.
    pub fn new(settings: Settings) -> Self {
        Self { settings, idle: Mutex::default() }
    }

    /// Posts a JSON document and gives what is answered with 200 or its like.
    ///
    /// # Errors
    /// The program cannot be reached, is not believed, answers with an error, or takes longer than `timeout`.
    pub async fn post(&self, body: Bytes, timeout: Duration) -> Result<Bytes, String> {
        let answered = tokio::time::timeout(timeout, self.ask(body)).await;
        answered.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
    }

    /// The same, tried again with growing pauses before the program counts as away.
    ///
    /// # Errors
    /// That of the last try.
    pub async fn insist(&self, body: Bytes, timeout: Duration, first_pause: Duration) -> Result<Bytes, String> {
        let mut pause = first_pause;
        for _ in 1..TRIES {
            match self.post(body.clone(), timeout).await {
                Ok(answer) => return Ok(answer),
                Err(error) => tracing::debug!(error, url = %self.settings.url, "asking a program of the user's"),
            }
            tokio::time::sleep(pause).await;
            pause = pause.mul_f64(PAUSE_FACTOR);
        }
        self.post(body, timeout).await
    }

    async fn ask(&self, body: Bytes) -> Result<Bytes, String> {
        let kept = self.idle.lock().await.take().filter(|sender| !sender.is_closed());
        // A kept connection may have been closed meanwhile: then a new one is made.
        let answered = match kept {
            Some(sender) => self.exchange(sender, body.clone()).await.ok(),
            None => None,
        };
        let (answer, sender) = match answered {
            Some(answered) => answered,
            None => self.exchange(self.connect().await?, body).await?,
        };
        *self.idle.lock().await = Some(sender);
        let status = answer.status();
        if status.is_success() {
            return Ok(answer.into_body());
        }
        Err(format!("the server answered {status}: {}", String::from_utf8_lossy(answer.body()).trim()))
    }

    async fn exchange(&self, sender: Sender, body: Bytes) -> Result<(Response<Bytes>, Sender), String> {
        let Settings { url, host, port, authorization, .. } = &self.settings;
        let target = url.path_and_query().map_or("/", |target| target.as_str());
        let mut request = Request::post(target)
            .header(HOST, format!("{}:{port}", bracketed(host)))
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, "kube-apiserver");
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        client::exchange(sender, request, ANSWER_LIMIT_BYTES).await
    }

    async fn connect(&self) -> Result<Sender, String> {
        let Settings { host, port, tls, .. } = &self.settings;
        client::connect(host, *port, tls.clone().map(|tls| (host.as_str(), tls))).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(server: &str, user: Value) -> Value {
        json!({"kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {"server": server}}], "users": [{"name": "u", "user": user}]})
    }

    #[test]
    fn the_current_context_says_where_and_who() {
        let settings = Settings::read(&config("http://[::1]:99/x?y=z", json!({"token": "t"}))).expect("read");
        assert_eq!((settings.host.as_str(), settings.port), ("::1", 99));
        assert_eq!(settings.authorization.as_deref(), Some("Bearer t"));
        assert!(!format!("{settings:?}").contains("Bearer"));
        let settings = Settings::read(&config("https://a", json!({"username": "u", "password": "p"}))).expect("read");
        assert_eq!((settings.port, settings.tls.is_some()), (443, true));
        assert_eq!(settings.authorization.as_deref(), Some("Basic dTpw"));
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let fault = |server: &str, user: Value| Settings::read(&config(server, user)).expect_err("a fault");
        assert_eq!(fault("ftp://a", json!({})), "server \"ftp://a\" must begin with https:// or http://");
        assert!(fault("", json!({})).starts_with("server \"\""));
        let bad = json!({"client-certificate-data": STANDARD.encode("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")});
        assert!(fault("https://a", bad).starts_with("client-key-data"));
    }
}
