//! Whom the server believes where it is a client: an authority that came with a configuration, the system's own
//! authorities where none did, or whoever answers.

use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CipherSuite, ClientConfig, ConfigBuilder, ProtocolVersion, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use skiff_base::clock::SharedClock;

/// Where distributions keep the authorities that they trust; the first file that is there counts, as for Go programs.
const SYSTEM_BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Names another file with the system's authorities.
const SYSTEM_BUNDLE_VARIABLE: &str = "SSL_CERT_FILE";

/// The cryptography of all TLS here. Of AES it prefers keys of 128 bits, as upstream does: they cost less than longer ones.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites.sort_by_key(|suite| {
            let is_preferred = matches!(
                suite.suite(),
                CipherSuite::TLS13_AES_128_GCM_SHA256
                    | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                    | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
            );
            (suite.version().version != ProtocolVersion::TLSv1_3, !is_preferred)
        });
        Arc::new(provider)
    });
    PROVIDER.clone()
}

/// What every verifier of certificates has to say of signatures too: they are checked by [`provider`]'s algorithms.
macro_rules! signatures_by_provider {
    () => {
        signatures_by_provider!(verify_tls12_signature, verify_tls13_signature);

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            $crate::trust::provider().signature_verification_algorithms.supported_schemes()
        }
    };
    ($($verify:ident),+) => {
        $(fn $verify(
            &self,
            message: &[u8],
            certificate: &rustls_pki_types::CertificateDer<'_>,
            signature: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            let algorithms = &$crate::trust::provider().signature_verification_algorithms;
            rustls::crypto::$verify(message, certificate, signature, algorithms)
        })+
    };
}
pub(crate) use signatures_by_provider;

/// A certificate that the server shows as a client.
#[derive(Clone)]
pub struct Identity(Shown);

#[derive(Clone)]
enum Shown {
    Always(Arc<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>),
    Now(Arc<dyn ResolvesClientCert>),
}

impl Identity {
    /// A chain of certificates and the key of the first.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Self {
        Self(Shown::Always(Arc::new((chain, key))))
    }

    /// One that is exchanged while it is in use.
    pub fn changing(resolver: Arc<dyn ResolvesClientCert>) -> Self {
        Self(Shown::Now(resolver))
    }
}

/// TLS that trusts the authorities of a bundle in PEM, or those of the system where it is empty.
pub fn verified(bundle: &[u8], own: Option<&Identity>) -> Result<ClientConfig, String> {
    let roots = if bundle.is_empty() { system_roots().clone() } else { Arc::new(roots_of(bundle)?) };
    finish(builder()?.with_root_certificates(roots), own)
}

/// Who believes clients whose certificates are of the authorities of a bundle in PEM.
pub fn clients(bundle: &[u8]) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots_of(bundle)?), provider());
    verifier.build().map_err(|error| error.to_string())
}

/// What time it is, as the TLS stack has it.
pub(crate) fn time(clock: &SharedClock) -> UnixTime {
    let seconds = u64::try_from(clock.now().as_second()).unwrap_or_default();
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// TLS with whoever answers.
pub fn unverified(own: Option<&Identity>) -> Result<ClientConfig, String> {
    let verifier = Arc::new(AnyCertificate);
    finish(builder()?.dangerous().with_custom_certificate_verifier(verifier), own)
}

type Stage<S> = ConfigBuilder<ClientConfig, S>;

fn builder() -> Result<Stage<rustls::WantsVerifier>, String> {
    ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(|e| e.to_string())
}

fn finish(stage: Stage<rustls::client::WantsClientCert>, own: Option<&Identity>) -> Result<ClientConfig, String> {
    match own {
        None => Ok(stage.with_no_client_auth()),
        Some(Identity(Shown::Now(resolver))) => Ok(stage.with_client_cert_resolver(resolver.clone())),
        Some(Identity(Shown::Always(own))) => {
            stage.with_client_auth_cert(own.0.clone(), own.1.clone_key()).map_err(|error| error.to_string())
        }
    }
}

pub(crate) fn roots_of(bundle: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        let certificate = certificate.map_err(|error| format!("unable to load root certificates: {error}"))?;
        roots.add(certificate).map_err(|error| format!("unable to load root certificates: {error}"))?;
    }
    if roots.is_empty() {
        return Err("unable to load root certificates: no PEM certificate was found".to_owned());
    }
    Ok(roots)
}

/// Read once: a system's authorities change with its packages, and the server starts anew with those.
fn system_roots() -> &'static Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let named = std::env::var(SYSTEM_BUNDLE_VARIABLE).ok();
        let places = named.iter().map(String::as_str).chain(SYSTEM_BUNDLES);
        let bundle = places.into_iter().find_map(|place| std::fs::read(place).ok()).unwrap_or_default();
        let mut roots = RootCertStore::empty();
        // One certificate that is odd is no reason to trust none of the others.
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bundle).filter_map(Result::ok));
        if roots.is_empty() {
            tracing::warn!("the system has no authorities: servers without a caBundle cannot be trusted");
        }
        Arc::new(roots)
    })
}

/// Takes whatever certificate is shown.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    signatures_by_provider!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_must_hold_certificates_and_none_means_the_systems() {
        assert!(verified(b"", None).is_ok());
        assert!(unverified(None).is_ok());
        let empty = verified(b"no certificate", None).expect_err("nothing is in it");
        assert!(empty.starts_with("unable to load root certificates"), "{empty}");
    }
}
