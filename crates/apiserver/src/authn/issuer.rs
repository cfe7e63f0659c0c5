//! Issuers of tokens: their keys, which are fetched when the first token comes, and again when one comes that none of
//! them has signed.
//! See <https://openid.net/specs/openid-connect-discovery-1_0.html>.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{Request, Uri};
use http_body_util::Full;
use parking_lot::Mutex;
use serde_json::Value;
use skiff_base::clock::SharedClock;
use skiff_object::meta::Meta;

use crate::authn::jose::{KeySet, Token};
use crate::authn::structured::Issuer;
use crate::call::UserInfo;
use crate::http::client;
use crate::trust;

const HTTPS_PORT: u16 = 443;
const WELL_KNOWN: &str = "/.well-known/openid-configuration";
/// The most that a document of an issuer may have.
const DOCUMENT_LIMIT_BYTES: usize = 1024 * 1024;
/// How long fetching one document may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long keys are believed without looking for others; a key that was withdrawn is of no use after that.
const KEYS_LIFETIME: Duration = Duration::from_secs(3600);
/// An issuer is asked so often at most, however many tokens come that it seems not to have signed.
const FETCH_PAUSE: Duration = Duration::from_secs(1);
/// What one large identity provider says in place of its URL.
const SHORT_NAMES: [(&str, &str); 1] = [("accounts.google.com", "https://accounts.google.com")];

/// An issuer, and what is known of it.
pub struct Verifier {
    issuer: Issuer,
    clock: SharedClock,
    keys: Mutex<Option<Arc<Keys>>>,
    /// Held while the issuer is asked; when it was asked last, and what went wrong.
    asking: tokio::sync::Mutex<Option<(Duration, Option<String>)>>,
}

struct Keys {
    set: KeySet,
    fetched: Duration,
}

impl Verifier {
    /// Nothing is fetched yet.
    pub fn new(issuer: Issuer, clock: SharedClock) -> Self {
        Self { issuer, clock, keys: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    /// Whether a token says that it is from this issuer.
    pub fn is_named(&self, token: &Token<'_>) -> bool {
        let named = token.claims.str_at(&["iss"]);
        let long = SHORT_NAMES.iter().find(|(short, _)| *short == named).map_or(named, |(_, long)| long);
        long == self.issuer.url
    }

    /// Whom a token stands for.
    ///
    /// # Errors
    /// It is not valid, or the issuer cannot be asked; in upstream's words.
    pub async fn user(&self, token: &Token<'_>) -> Result<UserInfo, String> {
        self.verify(token).await.map_err(|why| match why.as_str() {
            NOT_READY => why,
            _ => format!("oidc: verify token: {why}"),
        })?;
        self.issuer.user(&token.claims)
    }

    async fn verify(&self, token: &Token<'_>) -> Result<(), String> {
        // What is out of date or for others is refused without asking anybody.
        self.issuer.check(&token.claims, self.clock.now())?;
        if !self.issuer.algorithms.contains(&token.algorithm) {
            let known: Vec<String> = self.issuer.algorithms.iter().map(|own| format!("{own:?}")).collect();
            let known = known.join(" ");
            let got = &token.algorithm;
            return Err(format!("oidc: id token signed with unsupported algorithm, expected [{known}] got {got:?}"));
        }
        let known = self.keys.lock().clone();
        let signed = known.as_ref().is_some_and(|keys| keys.set.signed(token));
        let fresh = |keys: &Arc<Keys>| self.clock.monotonic() < keys.fetched + KEYS_LIFETIME;
        if signed && known.as_ref().is_some_and(fresh) {
            return Ok(());
        }
        match self.renewed(known.as_ref()).await {
            Ok(keys) if keys.set.signed(token) => Ok(()),
            // Where the issuer is away, what it said last holds.
            Err(_) if signed => Ok(()),
            Ok(_) => Err("failed to verify signature: failed to verify id token signature".to_owned()),
            Err(_) if known.is_none() => Err(NOT_READY.to_owned()),
            Err(why) => Err(format!("failed to verify signature: fetching keys {why}")),
        }
    }

    /// The keys of the issuer, other than those that were known if it has others.
    async fn renewed(&self, known: Option<&Arc<Keys>>) -> Result<Arc<Keys>, String> {
        let mut asked = self.asking.lock().await;
        let current = self.keys.lock().clone();
        let newer = current.as_ref().filter(|current| known.is_none_or(|known| !Arc::ptr_eq(known, current)));
        if let Some(newer) = newer {
            return Ok(newer.clone());
        }
        let now = self.clock.monotonic();
        if let Some((last, outcome)) = asked.as_ref()
            && now < *last + FETCH_PAUSE
        {
            return match (outcome, current) {
                (None, Some(current)) => Ok(current),
                (outcome, _) => Err(outcome.clone().unwrap_or_default()),
            };
        }
        let fetched = self.fetch().await;
        *asked = Some((now, fetched.as_ref().err().cloned()));
        match fetched {
            Ok(set) => {
                let keys = Arc::new(Keys { set, fetched: now });
                *self.keys.lock() = Some(keys.clone());
                Ok(keys)
            }
            Err(why) => {
                tracing::warn!(issuer = self.issuer.url, why, "the keys of an issuer of tokens cannot be fetched");
                Err(why)
            }
        }
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let issuer = &self.issuer;
        let tls = Arc::new(trust::verified(issuer.authority.as_bytes(), None)?);
        let place = match issuer.discovery_url.as_str() {
            "" => format!("{}{WELL_KNOWN}", issuer.url.trim_end_matches('/')),
            other => other.to_owned(),
        };
        let document = get(&place, tls.clone()).await?;
        let named = document.str_at(&["issuer"]);
        if named != issuer.url {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {:?} got {named:?}",
                issuer.url
            ));
        }
        Ok(KeySet::read(&get(document.str_at(&["jwks_uri"]), tls).await?))
    }
}

const NOT_READY: &str = "oidc: authenticator not initialized";

async fn get(url: &str, tls: Arc<rustls::ClientConfig>) -> Result<Value, String> {
    let fault = |why: String| format!("Get {url:?}: {why}");
    match tokio::time::timeout(FETCH_TIMEOUT, read(url, tls)).await {
        Ok(read) => read.map_err(fault),
        Err(_) => Err(fault("context deadline exceeded".to_owned())),
    }
}

async fn read(url: &str, tls: Arc<rustls::ClientConfig>) -> Result<Value, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("https")).ok_or("it is no https URL")?;
    let (name, port) = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(HTTPS_PORT));
    let sender = client::connect(name, port, Some((name, tls))).await?;
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let authority = uri.authority().map_or(host, |authority| authority.as_str());
    let request = Request::get(target)
        .header(HOST, authority)
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, "kube-apiserver")
        .body(Full::new(Bytes::new()))
        .map_err(|error| error.to_string())?;
    let (status, bytes, _) = client::exchange(sender, request, DOCUMENT_LIMIT_BYTES).await?;
    if !status.is_success() {
        return Err(format!("{status}: {}", String::from_utf8_lossy(&bytes).trim()));
    }
    serde_json::from_slice(&bytes).map_err(|error| format!("failed to decode the document: {error}"))
}
