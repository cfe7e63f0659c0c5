//! TLS towards etcd: whom to trust, and the certificate to show.

use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Certificates for an etcd that is reached by https, all in PEM.
#[derive(Debug, Clone, Default)]
pub struct EtcdTls {
    /// The authorities that may have signed etcd's certificates.
    pub authorities: Vec<u8>,
    /// The certificate to show, with its chain; empty for none.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
}

impl EtcdTls {
    pub(super) fn config(&self) -> Result<rustls::ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(&self.authorities, "the authorities' certificates")? {
            roots.add(authority).map_err(|error| format!("the authorities' certificates: {error}"))?;
        }
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let mut config = if self.certificate.is_empty() {
            builder.with_no_client_auth()
        } else {
            let chain = certificates(&self.certificate, "the client certificate")?;
            let key = PrivateKeyDer::from_pem_slice(&self.key)
                .map_err(|error| format!("the client certificate's key: {error}"))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| format!("the client certificate: {error}"))?
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| format!("{what}: {error}"))?;
    if found.is_empty() { Err(format!("{what}: there are none in the file")) } else { Ok(found) }
}
