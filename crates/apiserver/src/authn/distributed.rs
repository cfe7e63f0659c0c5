//! Claims that a token does not have itself, but names the place of: fetched as a token of whoever keeps them.
//! Upstream does so for the groups alone.
//! See <https://openid.net/specs/openid-connect-core-1_0.html#AggregatedDistributedClaims>.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use skiff_base::clock::SharedClock;
use skiff_base::remembered::Remembered;
use tokio::sync::Semaphore;

use crate::authn::jose::Token;
use crate::authn::keys::{self, FETCH_PAUSE, Fault, Keys};
use crate::authn::structured::Issuer;
use crate::authn::{Digest, digest, issuer};

/// How long a claim that was fetched holds: as long as upstream believes a token without looking again.
const LIFETIME: Duration = Duration::from_secs(10);
/// How many claims are remembered.
const REMEMBERED: usize = 4096;
/// How many claims of an issuer's tokens are fetched at a time, and how long others wait for that.
const FETCHES_AT_ONCE: usize = 32;
const WAIT: Duration = Duration::from_secs(10);
/// Of how many other issuers keys are kept: who is asked decides whose they are.
const MAX_ISSUERS: usize = 16;

/// Where a claim is.
#[derive(Debug, PartialEq, Eq)]
pub struct Source<'a> {
    /// Its name.
    pub claim: &'a str,
    /// The URL of a token that has it.
    pub endpoint: &'a str,
    /// Who may fetch it; empty where anybody may.
    pub access_token: &'a str,
}

/// Fetches claims for the tokens of one issuer.
pub struct Resolver {
    clock: SharedClock,
    fetching: Semaphore,
    known: Remembered<Digest, Result<Value, String>>,
    /// The keys of other issuers, those that were used last at the end.
    others: Mutex<Vec<Arc<Keys>>>,
}

impl Resolver {
    /// Nothing is fetched yet.
    pub fn new(clock: SharedClock) -> Self {
        let fetching = Semaphore::new(FETCHES_AT_ONCE);
        Self { clock, fetching, known: Remembered::new(REMEMBERED), others: Mutex::default() }
    }

    /// The value of a claim that a token of `issuer`, whose keys are `own`, names the place of.
    ///
    /// # Errors
    /// It cannot be fetched, or what was fetched is not to be believed; in upstream's words.
    pub async fn value(&self, source: &Source<'_>, issuer: &Issuer, own: &Keys) -> Result<Value, String> {
        let key = digest(&format!("{}\0{}", source.endpoint, source.access_token));
        let known = || self.known.get(&key, self.clock.monotonic());
        if let Some(known) = known() {
            return known;
        }
        let busy = || format!("while getting distributed claim {:?}: context deadline exceeded", source.claim);
        let turn = tokio::time::timeout(WAIT, self.fetching.acquire()).await;
        let _turn = turn.map_err(|_| busy())?.map_err(|_| busy())?;
        // Another request with the same token may have fetched it meanwhile.
        if let Some(known) = known() {
            return known;
        }
        let fetched = self.fetch(source, issuer, own).await;
        let holds = if fetched.is_ok() { LIFETIME } else { FETCH_PAUSE };
        self.known.put(key, fetched.clone(), self.clock.monotonic(), holds);
        fetched
    }

    async fn fetch(&self, source: &Source<'_>, issuer: &Issuer, own: &Keys) -> Result<Value, String> {
        let Source { claim, endpoint, access_token } = source;
        let fault = |why: String| format!("while getting distributed claim {claim:?}: {why}");
        let (status, body) = keys::get(endpoint, issuer, access_token).await.map_err(fault)?;
        if !status.is_success() {
            return Err(fault(format!("error while getting distributed claim JWT: {status}")));
        }
        let text = String::from_utf8_lossy(&body);
        let token = token(text.trim()).map_err(|why| {
            format!("getting untrusted issuer from endpoint {endpoint} failed for claim {claim:?}: {why}")
        })?;
        let named = issuer::named(&token);
        let other = (named != own.url()).then(|| self.other(named));
        let keys = other.as_deref().unwrap_or(own);
        keys.verify(&token, issuer).await.map_err(|fault| match fault {
            Fault::NotReady => {
                format!("verifying untrusted issuer {named} failed: verifier not initialized for issuer: {named:?}")
            }
            Fault::Refused(why) => format!("verify distributed claim token: {why}"),
        })?;
        token.claims.get(claim).cloned().ok_or_else(|| {
            format!("jwt returned by distributed claim endpoint {endpoint:?} did not contain claim: {claim}")
        })
    }

    /// The keys of another issuer.
    fn other(&self, url: &str) -> Arc<Keys> {
        let mut others = self.others.lock();
        let place = others.iter().position(|keys| keys.url() == url);
        let keys = match place {
            Some(place) => others.remove(place),
            None => Arc::new(Keys::new(url, "", self.clock.clone())),
        };
        if others.len() >= MAX_ISSUERS {
            others.remove(0);
        }
        others.push(keys.clone());
        keys
    }
}

fn token(text: &str) -> Result<Token<'_>, String> {
    if text.starts_with('{') {
        return Err("token is not compact JWT".to_owned());
    }
    Token::read(text).ok_or_else(|| match text.split('.').count() {
        3 => "error decoding token".to_owned(),
        _ => "malformed token".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use skiff_base::Timestamp;
    use skiff_base::clock::ManualClock;

    use super::*;

    #[test]
    fn what_is_no_token_is_told() {
        let fault = |text| token(text).expect_err("no token");
        assert_eq!(fault(r#" {"payload": ""}"#.trim()), "token is not compact JWT");
        assert_eq!(fault("a.b"), "malformed token");
        assert_eq!(fault("a.b.c"), "error decoding token");
    }

    #[test]
    fn keys_are_kept_of_so_many_issuers_at_most() {
        let resolver = Resolver::new(Arc::new(ManualClock::at(Timestamp::UNIX_EPOCH)));
        let first = resolver.other("https://0");
        for index in 1..MAX_ISSUERS {
            resolver.other(&format!("https://{index}"));
        }
        assert!(Arc::ptr_eq(&first, &resolver.other("https://0")));
        resolver.other("https://more");
        assert_eq!(resolver.others.lock().len(), MAX_ISSUERS);
        // Those that were not used for longest went.
        assert!(Arc::ptr_eq(&first, &resolver.other("https://0")));
        assert!(!resolver.others.lock().iter().any(|keys| keys.url() == "https://1"));
    }
}
