//! Which certificate is shown to whom: by the name that the client asks for, from the Secrets that Ingresses and
//! Gateways name.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use parking_lot::RwLock;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use skiff_client::ObjectKey;

use super::hosts::{Hosts, bare_host};

/// A certificate with its key, as Secrets of type `kubernetes.io/tls` hold it, or why it is none.
pub fn parse_certificate(secret: &Secret) -> Result<Arc<CertifiedKey>, String> {
    let find = |key: &str| {
        let data = secret.data.as_ref().and_then(|data| data.get(key));
        data.map(|value| value.0.as_slice()).ok_or_else(|| format!("has no {key}"))
    };
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(find("tls.crt")?).collect();
    let chain = chain.map_err(|error| format!("tls.crt cannot be read: {error}"))?;
    if chain.is_empty() {
        return Err("tls.crt holds no certificate".into());
    }
    let key =
        PrivateKeyDer::from_pem_slice(find("tls.key")?).map_err(|error| format!("tls.key cannot be read: {error}"))?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|error| format!("tls.key: {error}"))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(Arc::new(certified)),
        Err(_) => Err("tls.crt is not the certificate of tls.key".into()),
    }
}

/// Which Secret has the certificate for a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The host; all of them, if it is empty.
    pub host: String,
    /// The Secret.
    pub secret: ObjectKey,
    /// Whether a wildcard stands for one label only, as in certificates themselves.
    pub one_label: bool,
}

/// The certificates in use at a port; who shakes hands is shown what is here at that moment.
pub struct Certificates {
    default: Arc<dyn ResolvesServerCert>,
    shown: RwLock<Shown>,
}

#[derive(Default)]
struct Shown {
    by_host: Hosts<(Arc<CertifiedKey>, bool)>,
    /// Whether those who ask for nothing that is known are shown the default one.
    has_default: bool,
}

impl Certificates {
    /// The one for those who ask for nothing that is known.
    pub fn new(default: Arc<dyn ResolvesServerCert>) -> Self {
        Self { default, shown: RwLock::default() }
    }

    /// Shows these from now on; the first one for a host counts. Says which Secrets are no good, with the reason.
    pub fn replace(
        &self,
        wanted: &[Wanted],
        has_default: bool,
        secret: impl Fn(&ObjectKey) -> Option<Arc<Secret>>,
    ) -> Vec<(ObjectKey, String)> {
        let mut read: HashMap<ObjectKey, Option<Arc<CertifiedKey>>> = HashMap::new();
        let mut faults = Vec::new();
        let mut by_host = Hosts::default();
        for Wanted { host, secret: key, one_label } in wanted {
            let certificate = read.entry(key.clone()).or_insert_with(|| {
                let found = secret(key).ok_or_else(|| "is not there, or not of type kubernetes.io/tls".to_owned());
                let parsed = found.and_then(|secret| parse_certificate(&secret));
                parsed.map_err(|reason| faults.push((key.clone(), reason))).ok()
            });
            if let Some(certificate) = certificate {
                by_host.entry(host, || (certificate.clone(), *one_label));
            }
        }
        *self.shown.write() = Shown { by_host, has_default };
        faults
    }

    /// The certificate for a name: its own, that of the wildcard above it, or that of all names.
    pub fn find(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let shown = self.shown.read();
        let name = bare_host(name.unwrap_or_default());
        let mut found = shown.by_host.of(&name).filter(|(labels, (_, one_label))| *labels <= 1 || !one_label);
        found.next().map(|(_, (certificate, _))| certificate.clone())
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("hosts", &self.shown.read().by_host.len()).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let has_default = self.shown.read().has_default;
        self.find(hello.server_name()).or_else(|| self.default.resolve(hello).filter(|_| has_default))
    }
}
