//! Issuers of tokens: whom a token of theirs stands for.

use skiff_base::clock::SharedClock;
use skiff_object::meta::Meta;

use crate::authn::distributed::Resolver;
use crate::authn::jose::Token;
use crate::authn::keys::{Fault, Keys};
use crate::authn::structured::Issuer;
use crate::call::UserInfo;

/// What one large identity provider says in place of its URL.
const SHORT_NAMES: [(&str, &str); 1] = [("accounts.google.com", "https://accounts.google.com")];

/// An issuer, and what is known of it.
pub struct Verifier {
    issuer: Issuer,
    keys: Keys,
    resolver: Resolver,
}

impl Verifier {
    /// Nothing is fetched yet.
    pub fn new(issuer: Issuer, clock: SharedClock) -> Self {
        let keys = Keys::new(&issuer.url, &issuer.discovery_url, clock.clone());
        Self { issuer, keys, resolver: Resolver::new(clock) }
    }

    /// Whether a token says that it is from this issuer.
    pub fn is_named(&self, token: &Token<'_>) -> bool {
        named(token) == self.issuer.url
    }

    /// Whom a token stands for.
    ///
    /// # Errors
    /// It is not valid, or the issuer cannot be asked; in upstream's words.
    pub async fn user(&self, token: &Token<'_>) -> Result<UserInfo, String> {
        self.keys.verify(token, &self.issuer).await.map_err(|fault| match fault {
            Fault::NotReady => "oidc: authenticator not initialized".to_owned(),
            Fault::Refused(why) => format!("oidc: verify token: {why}"),
        })?;
        let fault = |why: String| format!("oidc: could not expand distributed claims: {why}");
        let Some(source) = self.issuer.elsewhere(&token.claims).map_err(fault)? else {
            return self.issuer.user(&token.claims);
        };
        let value = self.resolver.value(&source, &self.issuer, &self.keys).await.map_err(fault)?;
        let mut claims = token.claims.clone();
        claims[source.claim] = value;
        self.issuer.user(&claims)
    }
}

/// The issuer that a token names.
pub fn named<'t>(token: &'t Token<'_>) -> &'t str {
    let named = token.claims.str_at(&["iss"]);
    SHORT_NAMES.iter().find(|(short, _)| *short == named).map_or(named, |(_, long)| long)
}
