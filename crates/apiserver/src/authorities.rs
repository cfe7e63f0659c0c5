//! Authorities of certificates that are exchanged while servers run: those of clients, and those of the servers that this
//! program asks. Whoever is connected stays, unless by a certificate that nobody vouches for any more.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ResolvesServerCert, ServerSessionMemoryCache, StoresServerSessions};
use rustls::{ClientConfig, DistinguishedName, Error, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::sync::watch;

use crate::trust::{self, signatures_by_provider};

/// How many sessions a server remembers, as the TLS stack's own memory does.
const SESSIONS: usize = 256;

/// The authorities of clients' certificates.
pub struct ClientAuthorities {
    /// Authorities that are believed whatever the others are, in PEM: those of trusted proxies.
    further: String,
    now: RwLock<Believed>,
    /// Whom clients are told that they may come from; it is only a hint, and names stay the same.
    hints: Vec<DistinguishedName>,
    sessions: Arc<Sessions>,
    changed: watch::Sender<()>,
}

struct Believed {
    own_pem: String,
    own: Arc<dyn ClientCertVerifier>,
    all: Arc<dyn ClientCertVerifier>,
}

impl Believed {
    fn new(own_pem: &str, further: &str) -> Result<Self, String> {
        let own = trust::clients(own_pem.as_bytes())?;
        let all =
            if further.is_empty() { own.clone() } else { trust::clients(format!("{own_pem}\n{further}").as_bytes())? };
        Ok(Self { own_pem: own_pem.to_owned(), own, all })
    }
}

impl ClientAuthorities {
    /// Believes the authorities in two texts in PEM; of those in the second one it is no matter of exchange.
    ///
    /// # Errors
    /// There is none in the first, or one cannot be read.
    pub fn new(own_pem: &str, further: &str) -> Result<Arc<Self>, String> {
        let now = Believed::new(own_pem, further)?;
        Ok(Arc::new(Self {
            further: further.to_owned(),
            hints: now.all.root_hint_subjects().to_vec(),
            now: RwLock::new(now),
            sessions: Arc::new(Sessions::default()),
            changed: watch::Sender::new(()),
        }))
    }

    /// Believes others from now on.
    ///
    /// # Errors
    /// There is none, or one cannot be read; then nothing is changed.
    pub fn replace(&self, own_pem: &str) -> Result<(), String> {
        let next = Believed::new(own_pem, &self.further)?;
        *self.now.write() = next;
        // Who takes up a session again is not asked for a certificate.
        self.sessions.forget();
        self.changed.send_replace(());
        Ok(())
    }

    /// The authorities in PEM, without those of proxies.
    pub fn own_pem(&self) -> String {
        self.now.read().own_pem.clone()
    }

    /// Tells of every exchange from now on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether a chain of certificates is a client's; with `own` not a proxy's.
    pub fn believes(&self, chain: &[CertificateDer<'_>], own: bool, now: UnixTime) -> bool {
        let Some((first, rest)) = chain.split_first() else { return false };
        let verifier = { if own { self.now.read().own.clone() } else { self.now.read().all.clone() } };
        verifier.verify_client_cert(first, rest, now).is_ok()
    }

    /// TLS of a server to which certificates of clients are welcome, but not required.
    pub fn server_tls(self: &Arc<Self>, shown: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, String> {
        let builder = ServerConfig::builder_with_provider(trust::provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?;
        let mut tls = builder.with_client_cert_verifier(self.clone()).with_cert_resolver(shown);
        tls.session_storage = self.sessions.clone();
        // What the client prefers counts for little, as upstream: it has one order, made for whoever it may talk to.
        tls.ignore_client_order = true;
        Ok(tls)
    }

    fn all(&self) -> Arc<dyn ClientCertVerifier> {
        self.now.read().all.clone()
    }
}

impl fmt::Debug for ClientAuthorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuthorities").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for ClientAuthorities {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        first: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.all().verify_client_cert(first, rest, now)
    }

    signatures_by_provider!();
}

/// What a server remembers of clients that may come back.
struct Sessions(RwLock<Arc<ServerSessionMemoryCache>>);

impl Default for Sessions {
    fn default() -> Self {
        Self(RwLock::new(ServerSessionMemoryCache::new(SESSIONS)))
    }
}

impl Sessions {
    fn forget(&self) {
        *self.0.write() = ServerSessionMemoryCache::new(SESSIONS);
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sessions")
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.0.read().put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.read().get(key)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.read().take(key)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

/// The authorities of servers that are asked.
#[derive(Debug)]
pub struct ServerAuthorities(RwLock<Arc<WebPkiServerVerifier>>);

impl ServerAuthorities {
    /// Believes the authorities in a text in PEM.
    ///
    /// # Errors
    /// There is none, or one cannot be read.
    pub fn new(pem: &str) -> Result<Arc<Self>, String> {
        Ok(Arc::new(Self(RwLock::new(Self::verifier(pem)?))))
    }

    /// Believes others from the next connection on.
    ///
    /// # Errors
    /// There is none, or one cannot be read; then nothing is changed.
    pub fn replace(&self, pem: &str) -> Result<(), String> {
        let next = Self::verifier(pem)?;
        *self.0.write() = next;
        Ok(())
    }

    /// TLS of a client that goes by them.
    pub fn client_tls(
        self: &Arc<Self>,
        shown: Arc<dyn rustls::client::ResolvesClientCert>,
    ) -> Result<ClientConfig, String> {
        let builder = ClientConfig::builder_with_provider(trust::provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?;
        let builder = builder.dangerous().with_custom_certificate_verifier(self.clone());
        let mut tls = builder.with_client_cert_resolver(shown);
        // In a session that is taken up again nobody shows a certificate.
        tls.resumption = Resumption::disabled();
        Ok(tls)
    }

    fn verifier(pem: &str) -> Result<Arc<WebPkiServerVerifier>, String> {
        let roots = Arc::new(trust::roots_of(pem.as_bytes())?);
        WebPkiServerVerifier::builder_with_provider(roots, trust::provider()).build().map_err(|error| error.to_string())
    }

    fn now(&self) -> Arc<WebPkiServerVerifier> {
        self.0.read().clone()
    }
}

impl ServerCertVerifier for ServerAuthorities {
    fn verify_server_cert(
        &self,
        first: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.now().verify_server_cert(first, rest, name, ocsp, now)
    }

    signatures_by_provider!();
}
