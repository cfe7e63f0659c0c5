//! A proxy in front of the server that has authenticated the caller and tells in headers who it is. It is believed by
//! its certificate, which is of an authority of its own: whoever has one may speak in anybody's name.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#authenticating-proxy>.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::UnixTime;
use skiff_base::clock::SharedClock;

use crate::authn::{PeerCertificates, from_certificate};
use crate::call::UserInfo;
use crate::http::query::decode;
use crate::trust;

/// What the server is told of such proxies.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The authorities of their certificates, in PEM.
    pub authority: String,
    /// The authorities of all other clients' certificates, in PEM.
    pub client_authority: String,
    /// Their names; any where empty.
    pub allowed_names: Vec<String>,
    /// The headers of the user's name; the first that is there counts.
    pub username_headers: Vec<String>,
    /// Those of the UID.
    pub uid_headers: Vec<String>,
    /// Those of the groups; all count.
    pub group_headers: Vec<String>,
    /// What the headers of further facts begin with.
    pub extra_prefixes: Vec<String>,
}

/// That a connection is such a proxy's, as a request extension.
#[derive(Debug, Clone, Copy)]
pub struct Trusted;

/// Tells proxies from other clients.
pub struct Proxies {
    settings: Settings,
    own: Arc<dyn ClientCertVerifier>,
    others: Arc<dyn ClientCertVerifier>,
    clock: SharedClock,
}

impl Proxies {
    /// Reads the authorities.
    ///
    /// # Errors
    /// There is none in them.
    pub fn new(mut settings: Settings, clock: SharedClock) -> Result<Self, String> {
        let lists = [&mut settings.username_headers, &mut settings.uid_headers, &mut settings.group_headers];
        for header in lists.into_iter().chain([&mut settings.extra_prefixes]).flatten() {
            *header = header.trim().to_ascii_lowercase();
        }
        let (own, others) = (&settings.authority, &settings.client_authority);
        Ok(Self { own: trust::clients(own.as_bytes())?, others: trust::clients(others.as_bytes())?, settings, clock })
    }

    /// Whether a client is such a proxy.
    pub fn includes(&self, certificates: &PeerCertificates) -> bool {
        let names = &self.settings.allowed_names;
        let named = || from_certificate(certificates).is_ok_and(|user| names.contains(&user.name));
        self.verifies(self.own.as_ref(), certificates) && (names.is_empty() || named())
    }

    /// Whether a certificate is one of an ordinary client.
    pub fn is_client(&self, certificates: &PeerCertificates) -> bool {
        self.verifies(self.others.as_ref(), certificates)
    }

    fn verifies(&self, verifier: &dyn ClientCertVerifier, certificates: &PeerCertificates) -> bool {
        let Some((first, rest)) = certificates.0.split_first() else { return false };
        let seconds = u64::try_from(self.clock.now().as_second()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        verifier.verify_client_cert(first, rest, now).is_ok()
    }

    /// Who the headers say it is; nobody where they have no name. The headers are taken out.
    pub fn user(&self, headers: &mut HeaderMap) -> Option<UserInfo> {
        let Settings { username_headers, uid_headers, group_headers, extra_prefixes, .. } = &self.settings;
        let all = |name: &String| -> Vec<String> {
            let values = headers.get_all(name.as_str()).iter();
            values.filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
        };
        let first = |names: &[String]| names.iter().flat_map(all).find(|value| !value.is_empty());
        let mut user = UserInfo { name: first(username_headers)?, ..UserInfo::default() };
        user.uid = first(uid_headers).unwrap_or_default();
        user.groups = group_headers.iter().flat_map(all).collect();
        let mut spent: Vec<HeaderName> = Vec::new();
        for name in headers.keys() {
            let text = name.as_str();
            if let Some(key) = extra_prefixes.iter().find_map(|prefix| text.strip_prefix(prefix.as_str())) {
                user.extra.entry(decode(key, false)).or_default().extend(all(&text.to_owned()));
                spent.push(name.clone());
            }
        }
        let named = username_headers.iter().chain(uid_headers).chain(group_headers);
        spent.extend(named.filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()));
        for name in spent {
            headers.remove(name);
        }
        user.authenticated();
        Some(user)
    }
}
