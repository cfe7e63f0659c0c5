//! The keys of an issuer: fetched when the first token comes, and again when one comes that none of them has signed.
//! See <https://openid.net/specs/openid-connect-discovery-1_0.html>.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::Full;
use parking_lot::Mutex;
use serde_json::Value;
use skiff_base::clock::SharedClock;
use skiff_object::meta::Meta;

use crate::authn::jose::{KeySet, Token};
use crate::authn::structured::Issuer;
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
pub const FETCH_PAUSE: Duration = Duration::from_secs(1);

/// Why a token is not believed.
pub enum Fault {
    /// The keys of its issuer could not be fetched yet.
    NotReady,
    /// In upstream's words.
    Refused(String),
}

/// Whose keys they are, and what is known of them.
pub struct Keys {
    url: String,
    /// Where its discovery document is, if not below the URL.
    discovery_url: String,
    clock: SharedClock,
    known: Mutex<Option<Arc<Known>>>,
    /// Held while the issuer is asked; when it was asked last, and what went wrong.
    asking: tokio::sync::Mutex<Option<(Duration, Option<String>)>>,
}

struct Known {
    set: KeySet,
    fetched: Duration,
}

impl Keys {
    /// Nothing is fetched yet.
    pub fn new(url: &str, discovery_url: &str, clock: SharedClock) -> Self {
        let (url, discovery_url) = (url.to_owned(), discovery_url.to_owned());
        Self { url, discovery_url, clock, known: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    /// What tokens say that they come from.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether a token is signed by one of the keys, and meant for this server, as a configuration has it, and now.
    pub async fn verify(&self, token: &Token<'_>, issuer: &Issuer) -> Result<(), Fault> {
        // What is out of date or for others is refused without asking anybody.
        issuer.check(&token.claims, self.clock.now()).map_err(Fault::Refused)?;
        if !issuer.algorithms.contains(&token.algorithm) {
            let known: Vec<String> = issuer.algorithms.iter().map(|own| format!("{own:?}")).collect();
            let known = known.join(" ");
            let got = &token.algorithm;
            let why = format!("oidc: id token signed with unsupported algorithm, expected [{known}] got {got:?}");
            return Err(Fault::Refused(why));
        }
        let known = self.known.lock().clone();
        let signed = known.as_ref().is_some_and(|keys| keys.set.signed(token));
        let fresh = |keys: &Arc<Known>| self.clock.monotonic() < keys.fetched + KEYS_LIFETIME;
        if signed && known.as_ref().is_some_and(fresh) {
            return Ok(());
        }
        match self.renewed(known.as_ref(), issuer).await {
            Ok(keys) if keys.set.signed(token) => Ok(()),
            // Where the issuer is away, what it said last holds.
            Err(_) if signed => Ok(()),
            Ok(_) => {
                let why = "failed to verify signature: failed to verify id token signature";
                Err(Fault::Refused(why.to_owned()))
            }
            Err(_) if known.is_none() => Err(Fault::NotReady),
            Err(why) => Err(Fault::Refused(format!("failed to verify signature: fetching keys {why}"))),
        }
    }

    /// The keys of the issuer, other than those that were known if it has others.
    async fn renewed(&self, known: Option<&Arc<Known>>, issuer: &Issuer) -> Result<Arc<Known>, String> {
        let mut asked = self.asking.lock().await;
        let current = self.known.lock().clone();
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
        let fetched = self.fetch(issuer).await;
        *asked = Some((now, fetched.as_ref().err().cloned()));
        match fetched {
            Ok(set) => {
                let keys = Arc::new(Known { set, fetched: now });
                *self.known.lock() = Some(keys.clone());
                Ok(keys)
            }
            Err(why) => {
                tracing::warn!(issuer = self.url, why, "the keys of an issuer of tokens cannot be fetched");
                Err(why)
            }
        }
    }

    async fn fetch(&self, issuer: &Issuer) -> Result<KeySet, String> {
        let place = match self.discovery_url.as_str() {
            "" => format!("{}{WELL_KNOWN}", self.url.trim_end_matches('/')),
            other => other.to_owned(),
        };
        let document = document(&place, issuer).await?;
        let named = document.str_at(&["issuer"]);
        if named != self.url {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {:?} got {named:?}",
                self.url
            ));
        }
        Ok(KeySet::read(&self::document(document.str_at(&["jwks_uri"]), issuer).await?))
    }
}

async fn document(url: &str, issuer: &Issuer) -> Result<Value, String> {
    let (status, bytes) = get(url, issuer, "").await?;
    let fault = |why: String| format!("Get {url:?}: {why}");
    if !status.is_success() {
        return Err(fault(format!("{status}: {}", String::from_utf8_lossy(&bytes).trim())));
    }
    serde_json::from_slice(&bytes).map_err(|error| fault(format!("failed to decode the document: {error}")))
}

/// Fetches what stands at a URL, over TLS alone, from whom the authorities of an issuer's configuration vouch for; with
/// a bearer token where there is one.
///
/// # Errors
/// Nobody answers in time, or too much, or somebody who is not believed.
pub async fn get(url: &str, issuer: &Issuer, bearer: &str) -> Result<(StatusCode, Bytes), String> {
    let fault = |why: String| format!("Get {url:?}: {why}");
    match tokio::time::timeout(FETCH_TIMEOUT, exchange(url, issuer, bearer)).await {
        Ok(read) => read.map_err(fault),
        Err(_) => Err(fault("context deadline exceeded".to_owned())),
    }
}

async fn exchange(url: &str, issuer: &Issuer, bearer: &str) -> Result<(StatusCode, Bytes), String> {
    let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("https")).ok_or("it is no https URL")?;
    let (name, port) = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(HTTPS_PORT));
    let tls = Arc::new(trust::verified(issuer.authority.as_bytes(), None)?);
    let sender = client::connect(name, port, Some((name, tls))).await?;
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let authority = uri.authority().map_or(host, |authority| authority.as_str());
    let mut request = Request::get(target)
        .header(HOST, authority)
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, "kube-apiserver")
        .body(Full::new(Bytes::new()))
        .map_err(|error| error.to_string())?;
    if !bearer.is_empty() {
        let mut shown = HeaderValue::from_str(&format!("Bearer {bearer}")).map_err(|error| error.to_string())?;
        shown.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, shown);
    }
    let (status, bytes, _) = client::exchange(sender, request, DOCUMENT_LIMIT_BYTES).await?;
    Ok((status, bytes))
}
