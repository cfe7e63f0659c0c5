//! A proxy in front of the server that has authenticated the caller and tells in headers who it is. It is believed by
//! its certificate, which is of an authority of its own: whoever has one may speak in anybody's name.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#authenticating-proxy>.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use rustls::server::danger::ClientCertVerifier;
use skiff_base::clock::SharedClock;

use crate::authn::{PeerCertificates, from_certificate};
use crate::authorities::ClientAuthorities;
use crate::call::UserInfo;
use crate::http::query::decode;
use crate::trust;

/// By these headers such proxies tell who asks, unless their settings name others; so does this server, where it passes
/// requests on. Whoever asks must not be able to set them.
pub const USER: HeaderName = HeaderName::from_static("x-remote-user");
/// That of the UID.
pub const UID: HeaderName = HeaderName::from_static("x-remote-uid");
/// That of a group.
pub const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
/// What the headers of further facts begin with.
pub const EXTRA: &str = "x-remote-extra-";

/// Whether a header tells who asks.
pub fn tells_who(name: &HeaderName) -> bool {
    [USER, UID, GROUP].contains(name) || name.as_str().starts_with(EXTRA)
}

/// What the server is told of such proxies.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The authorities of their certificates, in PEM.
    pub authority: String,
    /// The authorities of all other clients' certificates, in PEM, where they do not change.
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

/// Those who vouch for other clients.
enum Others {
    Fixed(Arc<dyn ClientCertVerifier>),
    Changing(Arc<ClientAuthorities>),
}

/// Tells proxies from other clients.
pub struct Proxies {
    settings: Settings,
    own: Arc<dyn ClientCertVerifier>,
    others: Others,
    clock: SharedClock,
}

impl Proxies {
    /// Reads the authorities.
    ///
    /// # Errors
    /// There is none in them.
    pub fn new(
        mut settings: Settings,
        clients: Option<Arc<ClientAuthorities>>,
        clock: SharedClock,
    ) -> Result<Self, String> {
        let lists = [&mut settings.username_headers, &mut settings.uid_headers, &mut settings.group_headers];
        for header in lists.into_iter().chain([&mut settings.extra_prefixes]).flatten() {
            *header = header.trim().to_ascii_lowercase();
        }
        let others = match clients {
            Some(authorities) => Others::Changing(authorities),
            None => Others::Fixed(trust::clients(settings.client_authority.as_bytes())?),
        };
        Ok(Self { own: trust::clients(settings.authority.as_bytes())?, others, settings, clock })
    }

    /// Whether a client is such a proxy.
    pub fn includes(&self, certificates: &PeerCertificates) -> bool {
        let names = &self.settings.allowed_names;
        let named = || from_certificate(certificates).is_ok_and(|user| names.contains(&user.name));
        self.verifies(self.own.as_ref(), certificates) && (names.is_empty() || named())
    }

    /// Whether a certificate is one of an ordinary client.
    pub fn is_client(&self, certificates: &PeerCertificates) -> bool {
        match &self.others {
            Others::Fixed(verifier) => self.verifies(verifier.as_ref(), certificates),
            Others::Changing(authorities) => authorities.believes(&certificates.0, true, trust::time(&self.clock)),
        }
    }

    fn verifies(&self, verifier: &dyn ClientCertVerifier, certificates: &PeerCertificates) -> bool {
        let Some((first, rest)) = certificates.0.split_first() else { return false };
        verifier.verify_client_cert(first, rest, trust::time(&self.clock)).is_ok()
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
