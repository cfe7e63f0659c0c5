//! The keys of an issuer: fetched when the first token comes, and again when one comes that none of them has signed.
//! See <https://openid.net/specs/openid-connect-discovery-1_0.html>.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, LOCATION, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use parking_lot::Mutex;
use serde_json::Value;
use skiff_base::clock::SharedClock;
use skiff_object::meta::Meta;
use url::{Host, Position, Url};

use crate::authn::jose::{KeySet, Token};
use crate::authn::structured::Issuer;
use crate::http::client;
use crate::trust;

const HTTPS_PORT: u16 = 443;
const WELL_KNOWN: &str = "/.well-known/openid-configuration";
/// The most that a document of an issuer may have.
const DOCUMENT_LIMIT_BYTES: usize = 1024 * 1024;
/// How often a document may be said to be somewhere else.
const MAX_REDIRECTS: usize = 10;
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
/// a bearer token where there is one. Where that is said to be somewhere else it is fetched from there, as Go does it.
///
/// # Errors
/// Nobody answers in time, or too much, or somebody who is not believed.
pub async fn get(url: &str, issuer: &Issuer, bearer: &str) -> Result<(StatusCode, Bytes), String> {
    let mut place = url.to_owned();
    match tokio::time::timeout(FETCH_TIMEOUT, follow(&mut place, issuer, bearer)).await {
        Ok(Ok(answer)) => Ok((answer.status(), answer.into_body())),
        Ok(Err(why)) => Err(format!("Get {place:?}: {why}")),
        Err(_) => Err(format!("Get {place:?}: context deadline exceeded")),
    }
}

/// Fetches what is at a place, or wherever that leads to; `place` is where it came to.
async fn follow(place: &mut String, issuer: &Issuer, bearer: &str) -> Result<Response<Bytes>, String> {
    let first: Url = place.parse().map_err(|error| format!("{error}"))?;
    let (mut at, mut shown) = (first.clone(), bearer);
    for _ in 0..=MAX_REDIRECTS {
        let answer = exchange(&at, issuer, shown).await?;
        let Some(next) = elsewhere(&answer) else { return Ok(answer) };
        let parsed = at.join(next).map_err(|error| format!("failed to parse Location header {next:?}: {error}"))?;
        place.replace_range(.., parsed.as_str());
        // What was meant for one host is shown to no other, not even after a way back.
        shown = if is_within(&first, &parsed) { shown } else { "" };
        at = parsed;
    }
    Err(format!("stopped after {MAX_REDIRECTS} redirects"))
}

/// Where an answer says that the document is.
fn elsewhere(answer: &Response<Bytes>) -> Option<&str> {
    let leads_on = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let place = answer.headers().get(LOCATION).filter(|_| leads_on)?;
    place.to_str().ok().filter(|place| !place.is_empty())
}

/// Whether a URL is on the host of the other one, or on one below its name.
fn is_within(first: &Url, other: &Url) -> bool {
    match (first.host(), other.host()) {
        (Some(Host::Domain(first)), Some(Host::Domain(other))) => {
            other.strip_suffix(first).is_some_and(|above| above.is_empty() || above.ends_with('.'))
        }
        (first, other) => first == other,
    }
}

async fn exchange(url: &Url, issuer: &Issuer, bearer: &str) -> Result<Response<Bytes>, String> {
    let host = url.host_str().filter(|_| url.scheme() == "https").ok_or("it is no https URL")?;
    let (name, port) = (host.trim_matches(['[', ']']), url.port().unwrap_or(HTTPS_PORT));
    let tls = Arc::new(trust::verified(issuer.authority.as_bytes(), None)?);
    let sender = client::connect(name, port, Some((name, tls))).await?;
    let mut request = Request::get(&url[Position::BeforePath..Position::AfterQuery])
        .header(HOST, &url[Position::BeforeHost..Position::AfterPort])
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, "kube-apiserver")
        .body(Full::new(Bytes::new()))
        .map_err(|error| error.to_string())?;
    if !bearer.is_empty() {
        let mut shown = HeaderValue::from_str(&format!("Bearer {bearer}")).map_err(|error| error.to_string())?;
        shown.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, shown);
    }
    let (answer, _) = client::exchange(sender, request, DOCUMENT_LIMIT_BYTES).await?;
    Ok(answer)
}
