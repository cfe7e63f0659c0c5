//! Who makes a request: by construction, by a trusted proxy's word, by client certificate, by token; or nobody.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/authentication/>.

pub mod bootstrap;
mod claims;
mod distributed;
pub mod impersonate;
mod issuer;
pub mod jose;
pub mod jwt;
mod keys;
pub mod proxy;
pub mod structured;
pub mod token_file;
pub mod webhook;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::request::Parts;
use http::{Extensions, HeaderMap};
use parking_lot::RwLock;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use skiff_base::clock::SharedClock;
use skiff_object::Status;
use skiff_object::meta::Meta;

use self::issuer::Verifier;
use self::jose::Token;
use self::structured::{Anonymous, Configuration, SHAPE};
use crate::call::UserInfo;
use crate::config::{Config, ServiceAccountKeys};
use crate::failure::{Result, plain};
use crate::files::Watched;
use crate::server::ApiServer;
use crate::storage::catalogue::Catalogue;

/// In this a WebSocket client that cannot set headers has its token.
const WEBSOCKET_TOKEN: &str = "base64url.bearer.authorization.k8s.io.";

/// The client's certificates, verified by the TLS stack, as a request extension.
#[derive(Clone)]
pub struct PeerCertificates(pub Arc<[CertificateDer<'static>]>);

/// What the server is told of those who may come, beside what every server knows.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// An AuthenticationConfiguration; it is read again when it changes.
    pub file: Option<PathBuf>,
    /// An issuer that flags tell of, as an AuthenticationConfiguration, and what its tokens may be signed with.
    pub flags: Option<(Value, Vec<String>)>,
    /// Whether requests may come without any identity, where it is not said in the file.
    pub anonymous: Option<bool>,
    /// The program that knows tokens.
    pub webhook: Option<webhook::Settings>,
    /// Proxies that tell who asks.
    pub proxy: Option<proxy::Settings>,
}

/// A user, and for which of the audiences asked for.
pub type Found = (UserInfo, Vec<String>);
/// What stands for a secret where it is remembered.
pub type Digest = [u8; 32];

/// What may be replaced while the server runs.
struct Known {
    issuers: Vec<Verifier>,
    anonymous: Anonymous,
}

/// What identities are checked against.
pub struct Authenticator {
    /// Signs and checks service-account tokens.
    signer: RwLock<Option<Arc<jwt::Signer>>>,
    tokens: HashMap<Digest, UserInfo>,
    known: RwLock<Arc<Known>>,
    webhook: Option<webhook::Asker>,
    proxies: Option<proxy::Proxies>,
    file: Option<Watched>,
    anonymous: Option<bool>,
    catalogue: Arc<Catalogue>,
    clock: SharedClock,
}

impl Authenticator {
    /// Reads keys, authorities and the configuration.
    ///
    /// # Errors
    /// The signing key is no ECDSA P-256 key, or the configuration has a fault.
    pub fn new(config: &Config, catalogue: Arc<Catalogue>) -> Result<Self> {
        Self::build(config, catalogue).map_err(|error| plain(500, error))
    }

    fn build(config: &Config, catalogue: Arc<Catalogue>) -> Result<Self, String> {
        let (settings, clock) = (&config.access.authentication, config.clock.clone());
        let opened = settings.file.clone().map(Watched::open).transpose()?;
        let clients = config.client_authorities.as_ref();
        let proxies = settings.proxy.clone().map(|own| proxy::Proxies::new(own, clients.cloned(), clock.clone()));
        let proxies = proxies.transpose()?;
        let own = Self {
            signer: RwLock::new(config.service_accounts.as_ref().map(signer).transpose()?),
            tokens: config.tokens.iter().map(|(token, user)| (digest(token), user.clone())).collect(),
            known: RwLock::new(Arc::new(Known { issuers: Vec::new(), anonymous: Anonymous::Allowed })),
            webhook: settings.webhook.clone().map(|webhook| webhook::Asker::new(webhook, clock.clone())),
            proxies,
            anonymous: settings.anonymous,
            file: None,
            catalogue,
            clock,
        };
        match (opened, &settings.flags) {
            (Some((file, text)), _) => {
                own.configure(&text).map_err(|error| format!("{}: {error}", file.shown()))?;
                Ok(Self { file: Some(file), ..own })
            }
            (None, Some((tree, algorithms))) => {
                own.hold(Configuration::of(tree, own.issuer().as_deref(), algorithms)?)?;
                Ok(own)
            }
            (None, None) => {
                own.hold(Configuration { issuers: Vec::new(), anonymous: None })?;
                Ok(own)
            }
        }
    }

    /// The file of the configuration.
    pub(crate) fn file(&self) -> Option<&Watched> {
        self.file.as_ref()
    }

    /// Takes over an AuthenticationConfiguration.
    ///
    /// # Errors
    /// It has a fault; what was before still holds.
    pub(crate) fn configure(&self, text: &[u8]) -> Result<(), String> {
        self.hold(Configuration::of(&SHAPE.read(text)?, self.issuer().as_deref(), &Configuration::every_algorithm())?)
    }

    fn hold(&self, configuration: Configuration) -> Result<(), String> {
        let anonymous = match (configuration.anonymous, self.anonymous) {
            (Some(_), Some(_)) => {
                return Err("--anonymous-auth flag cannot be set when anonymous field is configured in authentication configuration file".to_owned());
            }
            (Some(anonymous), None) => anonymous,
            (None, Some(false)) => Anonymous::Refused,
            (None, _) => Anonymous::Allowed,
        };
        let issuers = configuration.issuers.into_iter().map(|issuer| Verifier::new(issuer, self.clock.clone()));
        *self.known.write() = Arc::new(Known { issuers: issuers.collect(), anonymous });
        Ok(())
    }

    /// What signs and checks service-account tokens at the moment.
    pub fn signer(&self) -> Option<Arc<jwt::Signer>> {
        self.signer.read().clone()
    }

    /// Signs and checks service-account tokens by other keys from now on.
    ///
    /// # Errors
    /// One is no ECDSA P-256 key; then nothing is changed.
    pub(crate) fn hold_keys(&self, keys: &ServiceAccountKeys) -> Result<(), String> {
        let signer = signer(keys)?;
        *self.signer.write() = Some(signer);
        Ok(())
    }

    fn issuer(&self) -> Option<String> {
        self.signer.read().as_ref().map(|signer| signer.issuer.clone())
    }

    /// Whom a bearer token stands for, with the audiences of those asked for that it is meant for; who asks for none
    /// asks for the server's own. `fresh` is waited for where the token's account or pod may be younger than what the
    /// caches show.
    ///
    /// # Errors
    /// Nobody knows the token, or why it is refused.
    pub async fn token<T>(
        &self,
        token: &str,
        asked: &[String],
        fresh: impl Future<Output = Result<T>>,
    ) -> Result<Found, String> {
        let own: Vec<String> = self.issuer().into_iter().collect();
        let asked = if asked.is_empty() { own.as_slice() } else { asked };
        let parsed = Token::read(token);
        let mut first = self.local(token, parsed.as_ref(), asked);
        if first.is_err() {
            fresh.await.map_err(|failure| failure.0.message)?;
            first = self.local(token, parsed.as_ref(), asked);
        }
        let mut faults = match first {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => Vec::new(),
            Err(why) => vec![why],
        };
        let known = self.known.read().clone();
        let named =
            parsed.as_ref().and_then(|token| Some((known.issuers.iter().find(|own| own.is_named(token))?, token)));
        if let Some((issuer, token)) = named {
            match (issuer.user(token).await, self.meant(asked)) {
                (Ok(user), Some(meant)) => return Ok((user, meant)),
                (Ok(_), None) => {}
                (Err(why), _) => faults.push(why),
            }
        }
        if let Some(webhook) = &self.webhook {
            match webhook.user(token, asked).await {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(why) => faults.push(why),
            }
        }
        Err(faults.join(", "))
    }

    /// The audiences asked for that are the server's own, where a token says nothing of audiences that this server
    /// knows: it is valid here and nowhere else.
    fn meant(&self, asked: &[String]) -> Option<Vec<String>> {
        let own = self.issuer();
        let meant: Vec<String> = asked.iter().filter(|audience| own.as_ref() == Some(*audience)).cloned().collect();
        (asked.is_empty() || !meant.is_empty()).then_some(meant)
    }

    /// What the server knows by itself; `None` where the token is of another sort.
    fn local(&self, token: &str, parsed: Option<&Token<'_>>, asked: &[String]) -> Result<Option<Found>, String> {
        let known = || self.tokens.get(&digest(token));
        if let Some(user) = (!self.tokens.is_empty()).then(known).flatten() {
            let mut user = user.clone();
            user.authenticated();
            return Ok(self.meant(asked).map(|meant| (user, meant)));
        }
        if let Some((id, secret)) = bootstrap::parse(token) {
            let user = self.bootstrapper(id, secret)?;
            return Ok(self.meant(asked).map(|meant| (user, meant)));
        }
        let Some(signer) = self.signer() else { return Ok(None) };
        if parsed.is_none_or(|parsed| parsed.claims["iss"] != signer.issuer.as_str()) {
            return Ok(None);
        }
        let claims = signer.verify(token, self.clock.now(), asked)?;
        let user = self.bound_user(&claims)?;
        Ok(Some((user, signer.audiences_of(&claims, asked))))
    }

    /// Whoever has a bootstrap token.
    fn bootstrapper(&self, id: &str, secret: &str) -> Result<UserInfo, String> {
        let cache = self.catalogue.cache("", "secrets").ok_or("the kind is not served")?;
        let object = cache.object(bootstrap::NAMESPACE, &bootstrap::secret_name(id));
        let object = object.map_err(|failure| failure.0.message)?.ok_or("there is no such bootstrap token")?;
        bootstrap::user(&object, id, secret, self.clock.now())
    }

    /// The service account that the claims name, if it and what the token is bound to are still there.
    fn bound_user(&self, claims: &Value) -> Result<UserInfo, String> {
        let namespace = claims.str_at(&["kubernetes.io", "namespace"]);
        let name = claims.str_at(&["kubernetes.io", "serviceaccount", "name"]);
        let uid = claims.str_at(&["kubernetes.io", "serviceaccount", "uid"]);
        if claims.str_at(&["sub"]) != service_account_name(namespace, name) {
            return Err("Token has an invalid subject".into());
        }
        self.must_be("serviceaccounts", namespace, name, uid, "service account")?;
        let mut user = service_account(namespace, name, uid);
        for (claim, resource, what) in
            [("pod", "pods", "pod"), ("secret", "secrets", "secret"), ("node", "nodes", "node")]
        {
            let Some(bound) = claims.at(&["kubernetes.io", claim]) else { continue };
            let home = if claim == "node" { "" } else { namespace };
            // A pod's token names the pod's node too, which may be gone before the pod is.
            if claim != "node" || claims.at(&["kubernetes.io", "pod"]).is_none() {
                self.must_be(resource, home, bound.str_at(&["name"]), bound.str_at(&["uid"]), what)?;
            }
            for fact in ["name", "uid"] {
                let key = format!("authentication.kubernetes.io/{claim}-{fact}");
                user.extra.insert(key, vec![bound.str_at(&[fact]).to_owned()]);
            }
        }
        if let Some(id) = claims.get("jti").and_then(Value::as_str) {
            user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![format!("JTI={id}")]);
        }
        Ok(user)
    }

    fn must_be(&self, resource: &str, namespace: &str, name: &str, uid: &str, what: &str) -> Result<(), String> {
        let cache = self.catalogue.cache("", resource).ok_or("the kind is not served")?;
        let object = cache.object(namespace, name).map_err(|failure| failure.0.message)?;
        let object = object.ok_or_else(|| format!("{what} {namespace}/{name} has been deleted"))?;
        if object.uid() != uid {
            return Err(format!("{what} {namespace}/{name} has a different UID"));
        }
        Ok(())
    }

    /// The discovery document of the issuer.
    pub fn configuration(&self) -> Option<Value> {
        let issuer = self.issuer()?;
        Some(json!({"issuer": issuer, "jwks_uri": format!("{issuer}/openid/v1/jwks"),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"]}))
    }

    /// The issuer's keys.
    pub fn key_set(&self) -> Option<Value> {
        Some(self.signer()?.key_set())
    }
}

fn signer(keys: &ServiceAccountKeys) -> Result<Arc<jwt::Signer>, String> {
    jwt::Signer::new(keys).map(Arc::new)
}

/// What stands for a secret where it is remembered and compared: looking it up tells nothing by the time it takes.
fn digest(secret: &str) -> Digest {
    let digest = ring::digest::digest(&ring::digest::SHA256, secret.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// `system:serviceaccount:NAMESPACE:NAME`.
pub fn service_account_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// The identity of a service account.
pub fn service_account(namespace: &str, name: &str, uid: &str) -> UserInfo {
    let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    let mut user = UserInfo {
        name: service_account_name(namespace, name),
        uid: uid.to_owned(),
        groups: groups.into(),
        ..UserInfo::default()
    };
    user.authenticated();
    user
}

/// Notes with a request what its connection tells of who makes it.
pub(crate) fn introduce(server: &ApiServer, certificates: &PeerCertificates, extensions: &mut Extensions) {
    let proxies = server.authenticator.proxies.as_ref();
    if proxies.is_some_and(|proxies| proxies.includes(certificates)) {
        extensions.insert(proxy::Trusted);
    }
    if proxies.is_none_or(|proxies| proxies.is_client(certificates))
        && let Ok(identity) = from_certificate(certificates)
    {
        extensions.insert(identity);
    }
    extensions.insert(certificates.clone());
}

/// Finds out who makes a request; 401 where a shown identity is not valid, or none is shown and one is needed.
pub async fn authenticate(server: &ApiServer, parts: &mut Parts) -> Result<UserInfo> {
    let user = shown(server, parts).await?;
    // Whatever stands behind a proxy must not see the caller's credentials, nor what only a trusted proxy may say.
    parts.headers.remove(AUTHORIZATION);
    let telling: Vec<HeaderName> = parts.headers.keys().filter(|name| proxy::tells_who(name)).cloned().collect();
    for name in &telling {
        parts.headers.remove(name);
    }
    Ok(user)
}

async fn shown(server: &ApiServer, parts: &mut Parts) -> Result<UserInfo> {
    let authenticator = &server.authenticator;
    let is_trusted = parts.extensions.remove::<proxy::Trusted>().is_some();
    if let Some(proxies) = authenticator.proxies.as_ref().filter(|_| is_trusted)
        && let Some(user) = proxies.user(&mut parts.headers)
    {
        return Ok(user);
    }
    if let Some(user) = parts.extensions.remove::<UserInfo>() {
        return Ok(user);
    }
    if let Some(token) = bearer(&parts.headers).or_else(|| websocket_token(&parts.headers)) {
        let found = authenticator.token(&token, &[], server.hub.fresh()).await;
        return match found {
            Ok((user, _)) => {
                forget_websocket_token(&mut parts.headers);
                Ok(user)
            }
            Err(error) => {
                tracing::debug!(%error, "a token was refused");
                Err(Status::unauthorized().into())
            }
        };
    }
    // A certificate that names nobody is no identity, and not nothing either.
    let is_nobody = parts.extensions.get::<PeerCertificates>().is_some();
    if is_nobody || !authenticator.known.read().anonymous.allows(parts.uri.path()) {
        return Err(Status::unauthorized().into());
    }
    Ok(UserInfo::anonymous())
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())?;
    (!token.is_empty()).then(|| token.to_owned())
}

/// The protocols that a WebSocket client offers.
fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let offers = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    offers.flat_map(|value| value.split(',')).map(str::trim)
}

fn websocket_token(headers: &HeaderMap) -> Option<String> {
    let upgrade = headers.get(UPGRADE)?.to_str().ok()?;
    if !upgrade.eq_ignore_ascii_case("websocket") {
        return None;
    }
    let encoded = protocols(headers).find_map(|protocol| protocol.strip_prefix(WEBSOCKET_TOKEN))?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

/// The token was for this server alone: neither the answer nor whoever stands behind it is to have it.
fn forget_websocket_token(headers: &mut HeaderMap) {
    if !protocols(headers).any(|protocol| protocol.starts_with(WEBSOCKET_TOKEN)) {
        return;
    }
    let others: Vec<&str> = protocols(headers).filter(|protocol| !protocol.starts_with(WEBSOCKET_TOKEN)).collect();
    let others = HeaderValue::from_str(&others.join(", "));
    let name: HeaderName = SEC_WEBSOCKET_PROTOCOL;
    headers.remove(&name);
    if let Ok(others) = others
        && !others.is_empty()
    {
        headers.insert(name, others);
    }
}

/// The common name is the user, organizations are the groups.
pub(crate) fn from_certificate(certificates: &PeerCertificates) -> Result<UserInfo> {
    let der = certificates.0.first().ok_or_else(Status::unauthorized)?;
    let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(|_| Status::unauthorized())?;
    let subject = certificate.subject();
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
    let name: String = subject.iter_common_name().find_map(text).unwrap_or_default();
    if name.is_empty() {
        return Err(Status::unauthorized().into());
    }
    let groups = subject.iter_organization().filter_map(text).collect();
    let mut user = UserInfo { name, groups, ..UserInfo::default() };
    user.authenticated();
    Ok(user)
}
