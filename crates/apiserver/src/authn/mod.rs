//! Who makes a request: by construction, by client certificate, by token; or nobody.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/authentication/>.

use std::sync::Arc;

use http::request::Parts;
use rustls_pki_types::CertificateDer;
use skiff_object::Status;

use crate::call::UserInfo;
use crate::config::Config;
use crate::failure::Result;
use crate::server::ApiServer;

/// The client's certificates, verified by the TLS stack, as a request extension.
#[derive(Clone)]
pub struct PeerCertificates(pub Arc<[CertificateDer<'static>]>);

/// What identities are checked against.
pub struct Authenticator {}

impl Authenticator {
    /// Reads the keys.
    pub fn new(_config: &Config) -> Result<Self> {
        Ok(Self {})
    }
}

/// Finds out who makes a request; 401 where a shown identity is not valid.
pub async fn authenticate(_server: &ApiServer, parts: &mut Parts) -> Result<UserInfo> {
    if let Some(user) = parts.extensions.remove::<UserInfo>() {
        return Ok(user);
    }
    if let Some(certificates) = parts.extensions.get::<PeerCertificates>() {
        return from_certificate(certificates);
    }
    Ok(UserInfo::anonymous())
}

/// The common name is the user, organizations are the groups.
fn from_certificate(certificates: &PeerCertificates) -> Result<UserInfo> {
    let der = certificates.0.first().ok_or_else(Status::unauthorized)?;
    let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(|_| Status::unauthorized())?;
    let subject = certificate.subject();
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
    let name = subject.iter_common_name().find_map(text).unwrap_or_default();
    let groups = subject.iter_organization().filter_map(text).collect();
    let mut user = UserInfo { name, groups, ..UserInfo::default() };
    user.authenticated();
    Ok(user)
}
