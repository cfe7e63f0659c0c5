//! Who makes a request: by construction, by client certificate, by token; or nobody.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/authentication/>.

pub mod bootstrap;
pub mod impersonate;
pub mod jwt;

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use skiff_base::clock::SharedClock;
use skiff_object::Status;
use skiff_object::meta::Meta;

use crate::call::UserInfo;
use crate::config::Config;
use crate::failure::{Result, plain};
use crate::server::ApiServer;
use crate::storage::catalogue::Catalogue;

/// The client's certificates, verified by the TLS stack, as a request extension.
#[derive(Clone)]
pub struct PeerCertificates(pub Arc<[CertificateDer<'static>]>);

/// What identities are checked against.
pub struct Authenticator {
    /// Signs and checks service-account tokens.
    pub signer: Option<jwt::Signer>,
    tokens: Vec<(String, UserInfo)>,
    catalogue: Arc<Catalogue>,
    clock: SharedClock,
}

impl Authenticator {
    /// Reads the keys.
    ///
    /// # Errors
    /// The signing key is no ECDSA P-256 key.
    pub fn new(config: &Config, catalogue: Arc<Catalogue>) -> Result<Self> {
        let signer = match &config.service_accounts {
            Some(keys) => Some(jwt::Signer::new(keys).map_err(|error| plain(500, error))?),
            None => None,
        };
        Ok(Self { signer, tokens: config.tokens.clone(), catalogue, clock: config.clock.clone() })
    }

    /// The user that a bearer token stands for, with the audiences of those asked for that it is meant for.
    pub fn token(&self, token: &str, audiences: &[String]) -> Result<(UserInfo, Vec<String>), String> {
        let known = self.tokens.iter().find(|(own, _)| ring_equal(own, token));
        if let Some((_, user)) = known {
            let mut user = user.clone();
            user.authenticated();
            return Ok((user, audiences.to_vec()));
        }
        if let Some((id, secret)) = bootstrap::parse(token) {
            return Ok((self.bootstrapper(id, secret)?, audiences.to_vec()));
        }
        let signer = self.signer.as_ref().ok_or("service account tokens are not accepted")?;
        let claims = signer.verify(token, self.clock.now(), audiences)?;
        let user = self.bound_user(&claims)?;
        Ok((user, signer.audiences_of(&claims, audiences)))
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
        let issuer = &self.signer.as_ref()?.issuer;
        Some(json!({"issuer": issuer, "jwks_uri": format!("{issuer}/openid/v1/jwks"),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"]}))
    }

    /// The issuer's keys.
    pub fn key_set(&self) -> Option<Value> {
        Some(self.signer.as_ref()?.key_set())
    }
}

/// Compares secrets without telling by the time it takes where they differ.
fn ring_equal(a: &str, b: &str) -> bool {
    let digest = |text: &str| ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest(a).as_ref() == digest(b).as_ref()
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

/// Finds out who makes a request; 401 where a shown identity is not valid.
pub async fn authenticate(server: &ApiServer, parts: &mut Parts) -> Result<UserInfo> {
    let user = shown(server, parts).await?;
    // Whatever stands behind a proxy must not see the caller's credentials.
    parts.headers.remove(AUTHORIZATION);
    Ok(user)
}

async fn shown(server: &ApiServer, parts: &mut Parts) -> Result<UserInfo> {
    if let Some(user) = parts.extensions.remove::<UserInfo>() {
        return Ok(user);
    }
    if let Some(certificates) = parts.extensions.get::<PeerCertificates>() {
        return from_certificate(certificates);
    }
    let Some(token) = bearer(&parts.headers) else { return Ok(UserInfo::anonymous()) };
    let token = token.to_owned();
    if let Ok((user, _)) = server.authenticator.token(&token, &[]) {
        return Ok(user);
    }
    // The token's account or pod may be younger than what the caches show.
    server.hub.fresh().await?;
    server.authenticator.token(&token, &[]).map(|(user, _)| user).map_err(|error| {
        tracing::debug!(%error, "a token was refused");
        Status::unauthorized().into()
    })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()).filter(|token| !token.is_empty())
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
